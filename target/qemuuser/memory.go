package qemuuser

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"dbgsh/target/proc"
	"dbgsh/vm"
)

// guestMemory is the memory of a guest, read from QEMU's process, where it lies
// base bytes higher, as gently as that of any process: it is a vm.Sparse, and
// takes pages that QEMU does not have from the file behind them.
type guestMemory struct {
	*proc.Memory
	base uint64
	// ms are the guest's mappings, sorted and disjoint, as QEMU has them. Nothing
	// outside them is read.
	ms []guestPart
}

// guestPart is a range by the guest's addresses, in a mapping of QEMU's.
type guestPart struct {
	vm.Range
	host vm.Mapping // whole, by QEMU's addresses
}

// memory is the memory in the guest's mappings, which are sorted.
func (h *qemuHost) memory(ms []vm.Mapping) (*guestMemory, error) {
	p, err := proc.OpenMemory(h.tid, proc.Options{})
	if err != nil {
		return nil, err
	}
	q := &guestMemory{Memory: p, base: h.base}
	own := h.pieces()
	i := 0
	for _, m := range ms {
		for i > 0 && own[i-1].Last() >= m.Start {
			i--
		}
		for ; i < len(own) && own[i].Start <= m.Last(); i++ {
			if !own[i].Overlaps(m.Range) {
				continue
			}
			part := own[i].Intersect(m.Range)
			if n := len(q.ms); n > 0 && q.ms[n-1].Overlaps(part) {
				continue
			}
			q.ms = append(q.ms, guestPart{part, h.smaps[own[i].vma].Mapping})
		}
	}
	return q, nil
}

// at is the index of the mapping that holds addr, else -1.
func (q *guestMemory) at(addr uint64) int {
	i, found := slices.BinarySearchFunc(q.ms, addr, func(m guestPart, a uint64) int {
		switch {
		case m.Last() < a:
			return -1
		case m.Start > a:
			return 1
		}
		return 0
	})
	if !found {
		return -1
	}
	return i
}

// ReadMemory implements vm.Reader.
func (q *guestMemory) ReadMemory(ctx context.Context, b []byte, addr uint64) (int, error) {
	done := 0
	for done < len(b) {
		a := addr + uint64(done)
		i := q.at(a)
		if i < 0 || a < addr {
			return done, nil
		}
		m := &q.ms[i]
		want := min(uint64(len(b)-done), m.Size-(a-m.Start))
		n, err := q.Peek(ctx, m.host, b[done:done+int(want)], a+q.base)
		if done += n; uint64(n) < want {
			return done, q.unbased(err)
		}
	}
	return done, nil
}

// ReadMapping implements vm.MappingReader. What lies where is known better
// here than from the map, which may be the stub's.
func (q *guestMemory) ReadMapping(ctx context.Context, _ vm.Mapping, b []byte, addr uint64) (int, error) {
	return q.ReadMemory(ctx, b, addr)
}

// Populated implements vm.Sparse.
func (q *guestMemory) Populated(ctx context.Context, r vm.Range, into []vm.Extent) (int, uint64, error) {
	i := q.at(r.Start)
	if i < 0 || len(into) == 0 || r.Size == 0 {
		return 0, 0, fmt.Errorf("populated pages of %v: not the guest's", r)
	}
	r.Size = min(r.Size, q.ms[i].Size-(r.Start-q.ms[i].Start))
	if !q.ms[i].host.Anonymous() {
		into[0] = vm.Extent{Range: r} // to be read, which is done gently
		return 1, r.Size, nil
	}
	r.Start += q.base
	n, known, err := q.Memory.Populated(ctx, r, into)
	for i := range into[:n] {
		into[i].Start -= q.base
	}
	return n, known, err
}

// unbased is an error about QEMU's addresses told about the guest's.
func (q *guestMemory) unbased(err error) error {
	var un *vm.UnreadableError
	if errors.As(err, &un) {
		r := un.Range
		r.Start -= q.base
		return &vm.UnreadableError{Range: r, Err: un.Err}
	}
	return err
}
