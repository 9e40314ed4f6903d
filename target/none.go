package target

import (
	"context"
	"errors"
	"os"

	"dbgsh/target/gdb"
	"dbgsh/vm"
	"dbgsh/vm/image"
)

// none is where there is no process: the program's file at the most.
type none struct{ v *View }

func openNone(v *View) source { return none{v} }

func (n none) Map(context.Context) (*vm.Map, error) { return nil, n.v.t.noProcess() }

// Memory is what the program's file has, else what GDB can read.
func (n none) Memory(context.Context) (vm.Memory, error) {
	if mem, err := openFileMemory(n.v.Inferior.Program); err == nil {
		return mem, nil
	}
	return gdb.NewMemory(n.v.t.GDB, false), nil
}

// Notes says whose memory it is not.
func (m fileMemory) Notes() []string {
	return []string{"read from the program's file " + m.file.Name() + ", since there is no process"}
}

// fileMemory is the memory of a program that does not run, as its file has it.
type fileMemory struct {
	vm.Reader
	file *os.File
}

func openFileMemory(program string) (vm.Memory, error) {
	f, err := image.OpenRegular(program)
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
