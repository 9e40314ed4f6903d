package target

import (
	"context"
	"errors"
	"fmt"

	"dbgsh/target/gdb"
	"dbgsh/target/proc"
	"dbgsh/vm"
)

// server is a process behind gdbserver, or a stub that opens files like it.
type server struct{ v *View }

func openServer(v *View) source { return server{v} }

// Map is the maps of the process's thread, which gdbserver hands over as a file,
// in one go.
func (s server) Map(ctx context.Context) (*vm.Map, error) {
	path := s.path()
	text, err := s.v.t.RemoteFile(ctx, path)
	var said *gdb.Error
	if errors.As(err, &said) {
		return s.gdbMap(ctx, fmt.Sprintf("get %s: %v", path, err))
	}
	if err != nil {
		return nil, fmt.Errorf("get %s from the stub: %w", path, err)
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("%s is empty on the stub's side: the process has no memory any more", path)
	}
	ms, err := proc.ParseMaps(text)
	if err != nil {
		return nil, fmt.Errorf("%s on the stub's side: %w", path, err)
	}
	for i := range ms {
		ms[i].Source = vm.SourceRemote
	}
	return &vm.Map{
		Mappings: ms, AddressBits: s.v.addressBits(ctx),
		From: vm.Origin{Source: vm.SourceRemote, Place: path + " on the stub's side"},
	}, nil
}

// path is the file with the map, on the stub's side.
func (s server) path() string {
	if tid := s.v.Inferior.Thread; tid != "" {
		return "/proc/" + tid + "/maps"
	}
	return fmt.Sprintf("/proc/%d/maps", s.v.Inferior.PID)
}

// gdbMap is the map that GDB itself gets out of a stub which does not hand over
// the file with it, why being the reason; and what is declared where GDB gets none.
func (s server) gdbMap(ctx context.Context, why string) (*vm.Map, error) {
	ms, err := s.v.t.ProcMappings(ctx)
	if err != nil {
		return nil, err
	}
	if len(ms) == 0 {
		return declared(ctx, s.v)
	}
	return &vm.Map{
		Mappings: ms, AddressBits: s.v.addressBits(ctx),
		From: vm.Origin{Source: vm.SourceGDB, Place: "GDB's info proc mappings", Instead: why},
	}, nil
}

// Memory is read through GDB.
func (s server) Memory(context.Context) (vm.Memory, error) {
	return gdb.NewMemory(s.v.t.GDB, true), nil
}
