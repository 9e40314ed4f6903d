package target

import (
	"context"
	"debug/elf"
	"fmt"
	"strings"

	"dbgsh/target/gdb"
	"dbgsh/vm"
	"dbgsh/vm/image"
)

// stub is something behind a remote stub of which nothing more is known.
type stub struct{ v *View }

func openStub(v *View) source { return stub{v} }

func (s stub) Map(ctx context.Context) (*vm.Map, error) { return declared(ctx, s.v) }

// Memory is read through GDB.
func (s stub) Memory(context.Context) (vm.Memory, error) {
	return gdb.NewMemory(s.v.t.GDB, true), nil
}

// declared is what is declared of the memory behind a stub that has no map: the
// regions that the stub itself declares and the segments of the program.
// Nothing is read for it.
func declared(ctx context.Context, v *View) (*vm.Map, error) {
	ptr, _, err := v.Arch(ctx)
	if err != nil {
		return nil, err
	}
	m := &vm.Map{AddressBits: 8 * ptr, From: vm.Origin{Source: vm.SourceStub, Place: "what the stub and the program's file declare"}}
	regions, err := v.t.DeclaredRegions(ctx)
	if err != nil {
		return nil, err
	}
	m.Mappings = append(m.Mappings, regions...)
	if program := v.Inferior.Program; program != "" && !strings.HasPrefix(program, onTarget) {
		segments, err := programSegments(program)
		if err != nil {
			m.Notes = append(m.Notes, err.Error())
		}
		m.Mappings = append(m.Mappings, segments...)
	}
	vm.Sort(m.Mappings)
	m.Partial = []vm.Lack{{
		Of:  vm.LackMappings,
		Why: fmt.Sprintf("only what is declared: %v tells of no memory map; vmmap_add, vmmap_load and vmmap_explore add to it", v.Kind),
	}}
	return m, nil
}

// onTarget begins the path of a program that is on the stub's side (GDB's
// manual, set sysroot).
const onTarget = "target:"

// programSegments is the segments of a program where it was linked, with the
// bounds that the file gives them.
func programSegments(path string) ([]vm.Mapping, error) {
	f, err := image.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	file, err := image.ReadELF(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if file.Type == elf.ET_DYN {
		return nil, fmt.Errorf("%s can be loaded anywhere, so its segments are left out; vmmap_load --base ADDR adds them", path)
	}
	ms, err := file.Mappings(image.Loaded{Page: 1, Name: path, BSSName: path})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ms, nil
}
