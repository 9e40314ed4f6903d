package target

import (
	"context"
	"fmt"
)

// Status is what is known of a target.
type Status struct {
	Kind    Kind
	PID     int    // of the debuggee, 0 where there is none
	Running bool   // else stopped
	Program string // the file that is debugged, "" for none
	GDB     string // GDB's version
	GDBPID  int
	Map     string // where its memory map is read from
}

// Status asks GDB what there is.
func (t *Target) Status(ctx context.Context) (Status, error) {
	inf, err := t.inferior(ctx)
	if err != nil {
		return Status{}, err
	}
	c, err := t.gdb()
	if err != nil {
		return Status{}, err
	}
	s := Status{Kind: inf.kind, PID: inf.pid, Program: inf.executable, GDBPID: c.PID()}
	if s.GDB, err = t.Version(ctx); err != nil {
		return Status{}, err
	}
	s.Running, _ = t.Running()
	switch inf.kind {
	case KindNone:
		s.Map = "nothing: there is no process"
	case KindNative:
		s.Map = procPath(inf.pid, "maps")
	case KindCore:
		if c, err := t.core(ctx, &inf); err == nil {
			s.Map = c.path
		} else {
			s.Map = "nothing: " + err.Error()
		}
	case KindGDBServer:
		s.Map = fmt.Sprintf("/proc/%d/maps on gdbserver's side", inf.pid)
	case KindQEMUUser:
		s.PID, s.Map = t.qemuUserStatus(ctx)
	case KindQEMUSystem:
		s.Map = t.machineSource(ctx, &inf)
	default:
		s.Map = "what the stub and the program's file declare"
	}
	return s, nil
}
