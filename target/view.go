package target

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"dbgsh/target/gdb"
	"dbgsh/vm"
)

// View is what is known of the selected inferior between two changes: a stop, a
// line given to GDB, a record of GDB's that something changed. What it holds is
// found out when it is first asked for, and dropped as a whole. Its methods may
// be called from several goroutines.
type View struct {
	Kind     Kind
	Inferior gdb.Inferior

	t       *Target
	stamp   gdb.Stamp
	process uint64 // tells the process from others of this inferior
	source  source

	mapTurn chan struct{} // holds one while the map is read
	mu      sync.Mutex    // guards what follows; not held while anybody is asked
	read    *vm.Map       // by the source, nil for not read yet
	whole   *vm.Map       // with what was explored
	grown   int           // how often the explored had grown then
	ptr     int           // pointer size in bytes, 0 for not known yet
	order   binary.ByteOrder
}

// Map is the memory map, read once unless the debuggee runs, with what was
// explored in the process.
func (v *View) Map(ctx context.Context) (*vm.Map, error) {
	select {
	case v.mapTurn <- struct{}{}:
		defer func() { <-v.mapTurn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	explored, grown := v.t.kept.explored(keyOf(&v.Inferior), v.process)
	v.mu.Lock()
	read, whole := v.read, v.whole
	fresh := v.grown == grown
	v.mu.Unlock()
	if whole != nil && fresh {
		return whole, nil
	}
	if read == nil {
		m, err := v.source.Map(ctx)
		if err != nil {
			return nil, err
		}
		c := *m
		c.Live = c.Live || v.t.Live()
		read = &c
	}
	whole = read
	if len(explored) > 0 {
		whole = read.Like(slices.Concat(read.Mappings, explored))
		vm.Sort(whole.Mappings)
	}
	if !read.Live {
		v.mu.Lock()
		v.read, v.whole, v.grown = read, whole, grown
		v.mu.Unlock()
	}
	return whole, nil
}

// Arch is the size of pointers in bytes and the byte order: the process's, else
// the program's, else what GDB supposes.
func (v *View) Arch(ctx context.Context) (ptr int, order binary.ByteOrder, err error) {
	v.mu.Lock()
	ptr, order = v.ptr, v.order
	v.mu.Unlock()
	if ptr != 0 {
		return ptr, order, nil
	}
	if ptr, order, err = archOf(ctx, v.t.GDB, &v.Inferior); err != nil {
		return 0, nil, err
	}
	v.mu.Lock()
	v.ptr, v.order = ptr, order
	v.mu.Unlock()
	return ptr, order, nil
}

// addressBits is the width of addresses, 64 where it is not known.
func (v *View) addressBits(ctx context.Context) int {
	if ptr, _, err := v.Arch(ctx); err == nil && ptr == 4 {
		return 32
	}
	return 64
}

// machine is the source of a machine in QEMU. The error wraps ErrNoPageTables
// where the debuggee is none.
func (t *Target) machine(ctx context.Context) (machine, error) {
	v, err := t.View(ctx)
	if err != nil {
		return nil, err
	}
	m, ok := v.source.(machine)
	if !ok {
		return nil, fmt.Errorf("the debuggee is %v: %w", v.Kind, ErrNoPageTables)
	}
	return m, nil
}
