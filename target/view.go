package target

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"dbgsh/target/gdb"
	"dbgsh/vm"
	"dbgsh/vm/image"
)

// View is what is known of the selected inferior between two changes: a stop, a
// line given to GDB, a record of GDB's that something changed. What it holds is
// found out when it is first asked for, and dropped as a whole. Its methods may
// be called from several goroutines.
type View struct {
	Kind     Kind
	Inferior gdb.Inferior

	t      *Target
	stamp  gdb.Stamp
	source source

	mapTurn chan struct{} // holds one while the map is read
	mu      sync.Mutex    // guards what follows; not held while anybody is asked
	read    *vm.Map       // by the source, nil for not read yet
	whole   *vm.Map       // with what was explored
	grown   int           // how often the explored had grown then
	ptr     int           // pointer size in bytes, 0 for not known yet
	order   binary.ByteOrder
}

// Map is the memory map, read once unless the debuggee runs or others may have
// changed it, with what was explored in the process.
func (v *View) Map(ctx context.Context) (*vm.Map, error) {
	select {
	case v.mapTurn <- struct{}{}:
		defer func() { <-v.mapTurn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	explored, grown := v.t.kept.explored(v.key())
	v.mu.Lock()
	read, whole := v.read, v.whole
	fresh := v.grown == grown
	v.mu.Unlock()
	if whole != nil && v.outlived() {
		read, whole = nil, nil
	}
	if whole != nil && fresh {
		return whole, nil
	}
	keep := true
	if read == nil {
		var err error
		if read, err = v.readMap(ctx); err != nil {
			if len(explored) == 0 || ctx.Err() != nil || errors.As(err, new(*gdb.LostError)) {
				return nil, err
			}
			read, keep = v.onlyExplored(ctx, err), false
		}
	}
	whole = read
	if len(explored) > 0 {
		whole = read.Like(slices.Concat(read.Mappings, explored))
		vm.Sort(whole.Mappings)
	}
	if keep && !read.Live && !kinds()[v.Kind].shared {
		v.mu.Lock()
		v.read, v.whole, v.grown = read, whole, grown
		v.mu.Unlock()
	}
	return whole, nil
}

// outlived reports whether the map read before is of what is not there any more,
// of which nobody told.
func (v *View) outlived() bool {
	m, ok := v.source.(mortal)
	return ok && m.Ended()
}

// readMap is the source's map.
func (v *View) readMap(ctx context.Context) (*vm.Map, error) {
	m, err := v.source.Map(ctx)
	if err != nil {
		return nil, err
	}
	m = m.Like(m.Mappings)
	if v.Inferior.Running {
		m.Live, m.Runner = true, ""
		if v.Inferior.Stopped {
			m.Runner = "some threads of the debuggee run"
		}
	}
	return m, nil
}

// onlyExplored is an empty map for what was explored, where the source has none
// for a reason.
func (v *View) onlyExplored(ctx context.Context, why error) *vm.Map {
	return &vm.Map{
		AddressBits: v.addressBits(ctx), Live: v.Inferior.Running,
		From:    vm.Origin{Source: vm.SourceExplored, Place: "what was found by reading"},
		Partial: []vm.Lack{{Of: vm.LackMappings, Why: "only explored memory: " + why.Error()}},
	}
}

// key is what the view is of, as far as that cannot change.
func (v *View) key() processKey { return keyOf(&v.Inferior) }

// Arch is the size of pointers in bytes and the byte order: the process's, else
// the program's, else what GDB supposes.
func (v *View) Arch(ctx context.Context) (ptr int, order binary.ByteOrder, err error) {
	v.mu.Lock()
	ptr, order = v.ptr, v.order
	v.mu.Unlock()
	if ptr != 0 {
		return ptr, order, nil
	}
	if ptr, order, err = v.askArch(ctx); err != nil {
		return 0, nil, err
	}
	v.mu.Lock()
	v.ptr, v.order = ptr, order
	v.mu.Unlock()
	return ptr, order, nil
}

// askArch finds out what Arch keeps.
func (v *View) askArch(ctx context.Context) (ptr int, order binary.ByteOrder, err error) {
	path := v.Inferior.Program
	if e, ok := v.source.(executable); ok {
		path = e.Executable()
	}
	if ptr, order, err := image.ReadArch(path); err == nil {
		return ptr, order, nil
	}
	ptr, big, err := v.t.GDB.Arch(ctx)
	if err != nil {
		return 0, nil, err
	}
	if big {
		return ptr, binary.BigEndian, nil
	}
	return ptr, binary.LittleEndian, nil
}

// addressBits is the width of addresses, 64 where it is not known.
func (v *View) addressBits(ctx context.Context) int {
	if ptr, _, err := v.Arch(ctx); err == nil && ptr == 4 {
		return 32
	}
	return 64
}
