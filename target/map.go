package target

import (
	"context"
	"errors"
	"os"
	"strings"

	"dbgsh/vm"
	"dbgsh/vm/image"
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
	case KindQEMUUser:
		m, err = t.qemuUserMap(ctx, &inf)
	case KindQEMUSystem:
		m, err = t.machineMap(ctx, &inf)
	default:
		m, err = t.stubMap(ctx, &inf)
	}
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	m.Live = m.Live || t.running || t.partly
	t.mu.Unlock()
	return m, nil
}

// Memory is memory of a debuggee that can be read until it is closed.
type Memory interface {
	vm.Reader
	Close() error
}

// processMemory is the memory of a process as it is, GDB's breakpoints included
// where they are in it.
type processMemory struct {
	*ProcMem
	breakpoints bool
}

// Notes says what else is to be known of what was read.
func (m *processMemory) Notes() []string {
	notes := m.ProcMem.Notes()
	if m.breakpoints {
		notes = append(notes, "GDB keeps its breakpoints inserted now, so their instructions stand in the code that was read")
	}
	return notes
}

// Memory is the memory of the selected inferior: read from the process itself
// where it is one on this machine, or QEMU's on it, else through GDB.
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
		mem, err := OpenProcMem(tid, ProcMemOptions{})
		if err != nil {
			return nil, err
		}
		text, err := t.query(ctx, "show breakpoint always-inserted")
		if err != nil {
			return nil, errors.Join(err, mem.Close())
		}
		running, _ := t.Running()
		return &processMemory{mem, running || strings.Contains(text, " is on")}, nil
	case KindCore:
		c, err := t.core(ctx, &inf)
		if err != nil {
			return nil, err
		}
		return coreMemory{c.core}, nil
	case KindNone:
		if mem, err := openFileMemory(inf.executable); err == nil {
			return mem, nil
		}
	case KindQEMUUser:
		return t.qemuUserMemory(ctx, &inf)
	case KindQEMUSystem:
		return t.machineMemory(ctx, &inf)
	}
	return newGDBMemory(t, inf.kind >= KindGDBServer), nil
}

// fileMemory is the memory of a program that does not run, as its file has it.
type fileMemory struct {
	vm.Reader
	file *os.File
}

func openFileMemory(program string) (Memory, error) {
	f, err := OpenRegular(program)
	if err != nil {
		return nil, err
	}
	elf, err := image.ReadELF(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return fileMemory{elf.FileMemory(f), f}, nil
}

func (m fileMemory) Close() error { return m.file.Close() }
