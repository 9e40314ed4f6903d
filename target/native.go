package target

import (
	"context"
	"fmt"

	"dbgsh/target/proc"
	"dbgsh/vm"
)

// native is a process on this machine, under this GDB.
type native struct{ v *View }

func openNative(v *View) source { return native{v} }

// Map is the maps of a thread that lives.
func (n native) Map(ctx context.Context) (*vm.Map, error) {
	text, path, err := proc.ReadMaps(n.v.Inferior.PID)
	if err != nil {
		return nil, err
	}
	ms, err := proc.ParseMaps(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	m := &vm.Map{
		Mappings: ms, AddressBits: n.v.addressBits(ctx),
		From: vm.Origin{Source: vm.SourceProcfs, Place: path},
	}
	sharer, err := n.sharer()
	if err != nil {
		return nil, err
	}
	if sharer != 0 {
		m.Live, m.Runner = true, fmt.Sprintf("process %d (%s), which has the same memory, runs", sharer, proc.Name(sharer))
	}
	return m, nil
}

// Memory is read from the process itself.
func (n native) Memory(ctx context.Context) (vm.Memory, error) {
	tid, err := proc.LiveThread(n.v.Inferior.PID)
	if err != nil {
		return nil, err
	}
	inserted := n.v.Inferior.Running
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

// sharer is another process that runs in the same memory, 0 for none.
func (n native) sharer() (pid int, err error) {
	tid, err := proc.LiveThread(n.v.Inferior.PID)
	if err != nil {
		return 0, err
	}
	return proc.Sharer(tid)
}

// Ended implements mortal: whoever kills a stopped process does not tell GDB, which
// notices when it next lets it run.
func (n native) Ended() bool {
	_, err := proc.LiveThread(n.v.Inferior.PID)
	return err != nil
}

// Executable implements executable.
func (n native) Executable() string { return proc.Path(n.v.Inferior.PID, "exe") }
