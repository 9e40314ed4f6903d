package target

import (
	"context"

	"dbgsh/vm"
)

// Map is the memory map of the selected inferior as it is now. The error wraps
// vm.ErrNoProcess where there is nothing that could have a map.
func (t *Target) Map(ctx context.Context) (*vm.Map, error) {
	inf, err := t.inferior(ctx)
	if err != nil {
		return nil, err
	}
	var m *vm.Map
	switch inf.kind {
	case KindNone:
		return nil, vm.ErrNoProcess
	case KindNative:
		m, err = nativeMap(&inf)
	case KindCore:
		m, err = t.coreMap(ctx, &inf)
	case KindGDBServer:
		m, err = t.serverMap(ctx, &inf)
	default:
		m, err = t.stubMap(ctx, &inf)
	}
	if err != nil {
		return nil, err
	}
	running, _ := t.Running()
	m.Live = m.Live || running
	return m, nil
}

// Memory is memory of a debuggee that can be read until it is closed.
type Memory interface {
	vm.Reader
	Close() error
}

// Memory is the memory of the selected inferior: read from the process itself
// where it is one on this machine, else through GDB.
func (t *Target) Memory(ctx context.Context) (Memory, error) {
	inf, err := t.inferior(ctx)
	if err != nil {
		return nil, err
	}
	switch inf.kind {
	case KindNative:
		tid, _, err := liveThread(inf.pid)
		if err != nil {
			return nil, err
		}
		return OpenProcMem(tid, ProcMemOptions{})
	case KindCore:
		c, err := t.core(ctx, &inf)
		if err != nil {
			return nil, err
		}
		return coreMemory{c.core}, nil
	}
	return gdbMemory{t: t, remote: inf.kind >= KindGDBServer}, nil
}
