package target

import (
	"context"
	"encoding/binary"
	"fmt"

	"dbgsh/target/gdb"
	"dbgsh/target/proc"
	"dbgsh/vm"
	"dbgsh/vm/image"
)

// native is a process on this machine, under this GDB.
type native struct{ v *View }

func openNative(v *View) source { return native{v} }

// Map is /proc/TID/maps of a thread that lives.
func (n native) Map(ctx context.Context) (*vm.Map, error) {
	pid := n.v.Inferior.PID
	_, text, err := proc.LiveThread(pid)
	if err != nil {
		return nil, err
	}
	ms, err := proc.ParseMaps(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", proc.Path(pid, "maps"), err)
	}
	return &vm.Map{
		Mappings: ms, AddressBits: n.v.addressBits(ctx),
		From: vm.Origin{Source: vm.SourceProcfs, Place: proc.Path(pid, "maps")},
	}, nil
}

// Memory is read from the process itself.
func (n native) Memory(ctx context.Context) (vm.Memory, error) {
	tid, _, err := proc.LiveThread(n.v.Inferior.PID)
	if err != nil {
		return nil, err
	}
	inserted, _ := n.v.t.Running()
	if !inserted {
		if inserted, err = n.v.t.BreakpointsStay(ctx); err != nil {
			return nil, err
		}
	}
	mem, err := proc.OpenMemory(tid, proc.Options{})
	if err != nil {
		return nil, err
	}
	return &processMemory{mem, inserted}, nil
}

func (n native) Describe(context.Context) (pid int, from string) {
	return 0, proc.Path(n.v.Inferior.PID, "maps")
}

// processMemory is the memory of a process as it is, GDB's breakpoints included
// where they are in it.
type processMemory struct {
	*proc.Memory
	breakpoints bool
}

// Notes says what else is to be known of what was read.
func (m *processMemory) Notes() []string {
	notes := m.Memory.Notes()
	if m.breakpoints {
		notes = append(notes, "GDB keeps its breakpoints inserted now, so their instructions stand in the code that was read")
	}
	return notes
}

// archOf is the size of pointers in bytes and the byte order: the process's, else
// the program's, else what GDB supposes.
func archOf(ctx context.Context, g *gdb.GDB, inf *gdb.Inferior) (ptr int, order binary.ByteOrder, err error) {
	path := inf.Program
	if inf.Has("native") && inf.PID != 0 {
		path = proc.Path(inf.PID, "exe")
	}
	if ptr, order, err := image.ReadArch(path); err == nil {
		return ptr, order, nil
	}
	ptr, big, err := g.Arch(ctx)
	if err != nil {
		return 0, nil, err
	}
	if big {
		return ptr, binary.BigEndian, nil
	}
	return ptr, binary.LittleEndian, nil
}
