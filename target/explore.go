package target

import (
	"context"

	"dbgsh/vm"
)

// explored is the readable memory around an address.
type explored struct {
	vm.Range
	// cut says that the limit was reached: what lies beyond was not read.
	cut bool
}

// explore reads one byte of each page of size page (a power of two), from the
// one that holds addr upwards and then downwards, until one cannot be read or
// limit bytes have been seen. The range is empty where addr itself cannot be
// read. It never goes beyond the address last, nor wraps. A reader that says why
// it cannot read ends it with that error.
func explore(ctx context.Context, r vm.Reader, addr, last, page, limit uint64) (explored, error) {
	limit = max(limit, page)
	var b [1]byte
	readable := func(at uint64) (bool, error) {
		n, err := r.ReadMemory(ctx, b[:], at)
		return n == 1, err
	}
	first := addr &^ (page - 1)
	ok, err := readable(first)
	if err != nil || !ok {
		return explored{}, err
	}
	found := explored{Range: vm.Range{Start: first, Size: page}}
	for up := true; ; {
		next := found.Start - page
		atEnd := found.Start == 0
		if up {
			next = found.Last() + 1
			atEnd = found.Last() >= last
		}
		ok := false
		if !atEnd {
			if found.Size+page > limit {
				found.cut = true // not even looked at: it is beyond what was allowed
				return found, nil
			}
			if ok, err = readable(next); err != nil {
				return explored{}, err
			}
		}
		switch {
		case ok && up:
			found.Size += page
		case ok:
			found.Start, found.Size = next, found.Size+page
		case up:
			up = false
		default:
			return found, nil
		}
	}
}
