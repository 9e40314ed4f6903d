package target

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"dbgsh/pt"
	"dbgsh/vm"
)

// kernelMemory is the memory that a CPU of a machine in QEMU sees, by its page
// tables. Only RAM and ROM are read: a device may take being read for an order.
type kernelMemory struct {
	rows []pt.Row // what is mapped where; sorted
	flat bool     // nothing is translated: addresses are physical
	ram  *hostRAM // nil where QEMU's process cannot be read
	stub gdbMemory
	lay  *layout

	found physFound
}

// machineMemory is the memory of a machine, out of QEMU's process where that can
// be read, else through the stub.
func (t *Target) machineMemory(ctx context.Context, inf *inferior) (Memory, error) {
	stub := newGDBMemory(t, true)
	if t.kernelWish() == KernelMapNone {
		return stub, nil
	}
	// What lies below 1 MiB may be RAM now and ROM a moment ago.
	if err := t.forgetMachine(); err != nil {
		return nil, err
	}
	m, c, res, err := t.walk(ctx, inf, PageTableOptions{PTE: true})
	k := &kernelMemory{stub: stub}
	switch {
	case err == nil:
		k.rows = res.Rows
	case errors.Is(err, pt.ErrPagingOff):
		k.flat = true
	case final(ctx, err):
		return nil, err
	default:
		return stub, nil
	}
	if !t.physicalOnly {
		if k.ram, err = t.hostRAM(ctx, m, c.index); err == nil {
			k.lay = &k.ram.layout
			return k, nil
		}
		if final(ctx, err) {
			return nil, err
		}
	}
	l, err := m.layout(c.index, func(line string) (string, error) { return t.query(ctx, line) })
	if err != nil {
		return nil, err
	}
	k.lay = &l
	return k, nil
}

// rowOf finds the row that holds a virtual address.
func rowOf(rows []pt.Row, va uint64) (i int, found bool) {
	return slices.BinarySearchFunc(rows, va, func(r pt.Row, a uint64) int {
		switch {
		case r.Contains(a):
			return 0
		case r.Start > a:
			return 1
		}
		return -1
	})
}

// Close implements Memory; QEMU's process stays open for the connection.
func (k *kernelMemory) Close() error { return nil }

// segment is where addr leads: a physical address, and for how many bytes from
// there on both go on together; 0 for nowhere.
func (k *kernelMemory) segment(addr uint64) (pa, n uint64) {
	if k.flat {
		return addr, -addr - 1
	}
	i, found := rowOf(k.rows, addr)
	if !found {
		return 0, 0
	}
	off := addr - k.rows[i].Start
	return k.rows[i].Phys + off, k.rows[i].Size - off
}

// ReadMemory implements vm.Reader.
func (k *kernelMemory) ReadMemory(ctx context.Context, p []byte, addr uint64) (n int, err error) {
	for n < len(p) {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		pa, size := k.segment(addr + uint64(n))
		if size == 0 {
			return n, nil
		}
		_, there, err := k.lay.locate(pa)
		if err != nil {
			var gone *LostError
			if errors.As(err, &gone) {
				return n, err
			}
			return n, nil
		}
		piece := p[n : n+int(min(uint64(len(p)-n), size, there))]
		if k.ram != nil {
			if err := k.ram.ReadPhys(piece, pa); err != nil {
				return n, err
			}
			n += len(piece)
			continue
		}
		got, err := k.stub.ReadMemory(ctx, piece, addr+uint64(n))
		n += got
		if err != nil || got < len(piece) {
			return n, err
		}
	}
	return n, nil
}

// physFound is where a needle stands in physical memory, as far as that was read.
type physFound struct {
	needle []byte
	done   []vm.Range // where it does or does not begin is known; ascending
	at     []uint64   // where it begins; ascending
}

// FindBytes implements vm.Finder. Kernels map all RAM at one place and parts of
// it at others; every physical page is read once, however often it is mapped.
func (k *kernelMemory) FindBytes(ctx context.Context, r vm.Range, needle []byte, limit int) (at []uint64, ok bool, err error) {
	if k.ram == nil || len(needle) == 0 {
		return nil, false, nil
	}
	if !bytes.Equal(k.found.needle, needle) {
		k.found = physFound{needle: slices.Clone(needle)}
	}
	last := uint64(len(needle) - 1)
	for off := uint64(0); off < r.Size; {
		va := r.Start + off
		pa, n := k.segment(va)
		if n == 0 {
			return nil, false, nil
		}
		n = min(n, r.Size-off)
		// What lies across the start of the segment, if it begins in the one before.
		if off > 0 && last > 0 {
			before := min(last, k.before(va, off))
			window := make([]byte, min(before+last, before+r.Size-off))
			if got, err := k.ReadMemory(ctx, window, va-before); err != nil || got < len(window) {
				return nil, false, err
			}
			for i := 0; ; i++ {
				j := bytes.Index(window[i:], needle)
				if i += j; j < 0 || uint64(i) >= before {
					break
				}
				at = append(at, va-before+uint64(i))
			}
		}
		if err := k.findPhys(ctx, vm.Range{Start: pa, Size: n}, limit); err != nil {
			if ctx.Err() != nil {
				return nil, false, context.Cause(ctx)
			}
			return nil, false, nil // not all of it is memory
		}
		i, _ := slices.BinarySearch(k.found.at, pa)
		for ; i < len(k.found.at) && k.found.at[i]-pa < n && n-(k.found.at[i]-pa) > last; i++ {
			at = append(at, va+(k.found.at[i]-pa))
		}
		if len(at) > limit || len(k.found.at) > limit {
			return nil, false, nil // too many to keep
		}
		off += n
	}
	return at, true, nil
}

// before is how many of the off bytes before va belong to the segment that ends there.
func (k *kernelMemory) before(va, off uint64) uint64 {
	if k.flat {
		return off
	}
	i, found := rowOf(k.rows, va-1)
	if !found {
		return 0
	}
	return min(off, va-k.rows[i].Start)
}

// findChunk is how many bytes of physical memory are read at once.
const findChunk = 256 << 10

// findPhys looks where the needle begins in a range of physical memory, in what
// of it is not known yet. It gives up at more than limit places.
func (k *kernelMemory) findPhys(ctx context.Context, r vm.Range, limit int) error {
	f := &k.found
	buf := make([]byte, findChunk+len(f.needle)-1)
	for off := uint64(0); off < r.Size && len(f.at) <= limit; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pa := r.Start + off
		n := min(r.Size-off, findChunk)
		i, inside := slices.BinarySearchFunc(f.done, pa, func(d vm.Range, a uint64) int {
			switch {
			case d.Contains(a):
				return 0
			case d.Start > a:
				return 1
			}
			return -1
		})
		if inside {
			off += min(f.done[i].Size-(pa-f.done[i].Start), r.Size-off)
			continue
		}
		if i < len(f.done) {
			n = min(n, f.done[i].Start-pa)
		}
		if err := k.ram.ReadPhys(buf[:n], pa); err != nil {
			return err
		}
		// What begins here may end behind, as far as memory goes on.
		whole := n
		for end := n + uint64(len(f.needle)) - 1; whole < end; {
			_, more, err := k.ram.locate(pa + whole)
			if err != nil {
				break
			}
			more = min(more, end-whole)
			if k.ram.ReadPhys(buf[whole:whole+more], pa+whole) != nil {
				break
			}
			whole += more
		}
		var fresh []uint64
		for i := 0; len(f.at)+len(fresh) <= limit; i++ {
			j := bytes.Index(buf[i:whole], f.needle)
			if i += j; j < 0 || uint64(i) >= n {
				break
			}
			fresh = append(fresh, pa+uint64(i))
		}
		at, _ := slices.BinarySearch(f.at, pa)
		f.at = slices.Insert(f.at, at, fresh...)
		f.done = vm.Union(append(f.done, vm.Range{Start: pa, Size: n}))
		off += n
	}
	return nil
}
