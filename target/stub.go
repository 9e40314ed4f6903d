package target

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"dbgsh/target/gdb"
	"dbgsh/target/mi"
	"dbgsh/vm"
	"dbgsh/vm/image"
)

// stubMap is what is declared of the memory behind a stub that has no map: the
// regions that the stub itself declares and the segments of the program.
// Nothing is read for it.
func (t *Target) stubMap(ctx context.Context, inf *inferior) (*vm.Map, error) {
	ptr, _, err := t.archOf(ctx, inf)
	if err != nil {
		return nil, err
	}
	m := &vm.Map{AddressBits: 8 * ptr}
	text, err := t.query(ctx, "info mem")
	if err != nil {
		return nil, err
	}
	regions, err := gdb.ParseInfoMem(text)
	if err != nil {
		return nil, fmt.Errorf("info mem: %w", err)
	}
	m.Mappings = append(m.Mappings, regions...)
	if inf.executable != "" && !strings.HasPrefix(inf.executable, onTarget) {
		segments, err := programSegments(inf.executable)
		if err != nil {
			m.Notes = append(m.Notes, err.Error())
		}
		m.Mappings = append(m.Mappings, segments...)
	}
	vm.Sort(m.Mappings)
	m.Notes = append(m.Notes, fmt.Sprintf("only what is declared: %v tells of no memory map; vmmap_add, vmmap_load and vmmap_explore add to it", inf.kind))
	return m, nil
}

// onTarget begins the path of a program that is on the stub's side (GDB's
// manual, set sysroot).
const onTarget = "target:"

// programSegments is the segments of a program where it was linked, with the
// bounds that the file gives them.
func programSegments(path string) ([]vm.Mapping, error) {
	f, err := OpenRegular(path)
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

// explorePage is the step in bytes in which memory is explored: the smallest
// page of the architectures that GDB knows.
const explorePage = 4096

// ErrMapKnown says that there is nothing to explore, since the map is known.
var ErrMapKnown = errors.New("the memory map of this kind of target is known; vmmap shows it")

// Explore finds the bounds of the readable memory around addr by reading a byte
// of each page, at most limit bytes far. The mapping is empty where nothing can
// be read at addr.
func (t *Target) Explore(ctx context.Context, addr, limit uint64) (m vm.Mapping, cut bool, err error) {
	inf, err := t.inferior(ctx)
	if err != nil {
		return m, false, err
	}
	switch inf.kind {
	case KindNone:
		return m, false, vm.ErrNoProcess
	case KindNative, KindCore, KindGDBServer:
		return m, false, ErrMapKnown
	}
	ptr, _, err := t.archOf(ctx, &inf)
	if err != nil {
		return m, false, err
	}
	last := uint64(math.MaxUint64)
	if ptr == 4 {
		last = math.MaxUint32
	}
	found, err := Explore(ctx, newGDBMemory(t, false), addr, last, explorePage, limit)
	return vm.Mapping{
		Range: found.Range, Perm: vm.KnownRead | vm.Read, Name: "<explored>", Source: vm.SourceExplored,
	}, found.Cut, err
}

// Registers is the values of the selected thread's registers that are numbers
// the size of a pointer or less.
func (t *Target) Registers(ctx context.Context) ([]uint64, error) {
	res, err := t.send(ctx, "data-list-register-values", "--skip-unavailable", "x")
	var said *mi.Error
	if errors.As(err, &said) && strings.Contains(said.Msg, "No registers") {
		return nil, vm.ErrNoProcess
	}
	if err != nil {
		return nil, err
	}
	var values []uint64
	for _, r := range res.Tuples("register-values") {
		if v, err := strconv.ParseUint(r.Str("value"), 0, 64); err == nil {
			values = append(values, v)
		}
	}
	return values, nil
}
