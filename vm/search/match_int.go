package search

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"dbgsh/vm"
)

// rangeMatcher matches integers v with v-lo <= width, modulo 2^(8*size): the
// same test does for signed and for unsigned ones.
type rangeMatcher struct {
	load      func([]byte) uint64
	size      int
	lo, width uint64
	mask      uint64
}

// NewUintRange matches unsigned integers of size bytes (1, 2, 4 or 8) in the
// byte order that are at least lo and at most hi.
func NewUintRange(size int, order binary.ByteOrder, lo, hi uint64) (Matcher, error) {
	m, err := newRange(size, order, lo, hi)
	if err != nil {
		return nil, err
	}
	if hi > m.mask {
		return nil, fmt.Errorf("%#x does not fit in %d bytes", hi, size)
	}
	if lo > hi {
		return nil, fmt.Errorf("range %#x..%#x is empty; give the lower value first", lo, hi)
	}
	return m, nil
}

// NewIntRange matches signed integers of size bytes (1, 2, 4 or 8) in two's
// complement and the byte order that are at least lo and at most hi.
func NewIntRange(size int, order binary.ByteOrder, lo, hi int64) (Matcher, error) {
	m, err := newRange(size, order, uint64(lo), uint64(hi))
	if err != nil {
		return nil, err
	}
	for _, v := range [2]int64{lo, hi} {
		if shift := 64 - 8*size; v<<shift>>shift != v {
			return nil, fmt.Errorf("%d does not fit in %d bytes with its sign", v, size)
		}
	}
	if lo > hi {
		return nil, fmt.Errorf("range %d..%d is empty; give the lower value first", lo, hi)
	}
	return m, nil
}

func newRange(size int, order binary.ByteOrder, lo, hi uint64) (*rangeMatcher, error) {
	load, err := loader(size, order)
	if err != nil {
		return nil, err
	}
	mask := ^uint64(0) >> (64 - 8*size)
	return &rangeMatcher{load: load, size: size, lo: lo & mask, width: (hi - lo) & mask, mask: mask}, nil
}

// loader reads an integer of size bytes from the start of a slice.
func loader(size int, order binary.ByteOrder) (func([]byte) uint64, error) {
	// The two known orders are spelled out so that the loads can be inlined.
	little := order == binary.ByteOrder(binary.LittleEndian)
	switch {
	case order == nil:
		return nil, errors.New("no byte order")
	case size == 1:
		return func(b []byte) uint64 { return uint64(b[0]) }, nil
	case size == 2 && little:
		return func(b []byte) uint64 { return uint64(binary.LittleEndian.Uint16(b)) }, nil
	case size == 2:
		return func(b []byte) uint64 { return uint64(order.Uint16(b)) }, nil
	case size == 4 && little:
		return func(b []byte) uint64 { return uint64(binary.LittleEndian.Uint32(b)) }, nil
	case size == 4:
		return func(b []byte) uint64 { return uint64(order.Uint32(b)) }, nil
	case size == 8 && little:
		return func(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }, nil
	case size == 8:
		return func(b []byte) uint64 { return order.Uint64(b) }, nil
	}
	return nil, fmt.Errorf("integers of %d bytes; give 1, 2, 4 or 8", size)
}

func (m *rangeMatcher) Span() int { return m.size }

func (m *rangeMatcher) Find(data []byte, from, to int, align uint64, found func(at, length int) int) {
	to = min(to, len(data)-m.size+1)
	for at := from; at < to; {
		if (m.load(data[at:])-m.lo)&m.mask <= m.width {
			at = candidate(from, found(at, m.size), to, align)
		} else if align < uint64(to-at) {
			at += int(align)
		} else {
			return
		}
	}
}

type pointerMatcher struct {
	load      func([]byte) uint64
	size      int
	lo, width uint64 // of all ranges
	into      []vm.Range
}

// NewPointers matches unsigned integers of size bytes (4 or 8) in the byte
// order that are addresses in one of the ranges. Unless told otherwise a scan
// keeps those at multiples of size.
func NewPointers(size int, order binary.ByteOrder, into []vm.Range) (Matcher, error) {
	if size != 4 && size != 8 {
		return nil, fmt.Errorf("pointers of %d bytes; give 4 or 8", size)
	}
	load, err := loader(size, order)
	if err != nil {
		return nil, err
	}
	m := &pointerMatcher{load: load, size: size}
	sorted := slices.Clone(into)
	slices.SortFunc(sorted, func(a, b vm.Range) int { return cmp.Compare(a.Start, b.Start) })
	for _, r := range sorted {
		if !r.Valid() {
			return nil, fmt.Errorf("range %v ends above 2^64", r)
		}
		if r.Size == 0 {
			continue
		}
		last := len(m.into) - 1
		if last >= 0 && m.into[last].Last() >= r.Start {
			if r.Last() > m.into[last].Last() {
				m.into[last].Size = r.Last() - m.into[last].Start + 1
			}
			continue
		}
		m.into = append(m.into, r)
	}
	if len(m.into) == 0 {
		return nil, errors.New("no memory for pointers to point into")
	}
	m.lo = m.into[0].Start
	m.width = m.into[len(m.into)-1].Last() - m.lo
	if bits.Len64(m.lo) > 8*size {
		return nil, fmt.Errorf("no pointer of %d bytes reaches %#x", size, m.lo)
	}
	return m, nil
}

func (m *pointerMatcher) Span() int { return m.size }

// Align is the size of a pointer.
func (m *pointerMatcher) Align() uint64 { return uint64(m.size) }

func (m *pointerMatcher) Find(data []byte, from, to int, align uint64, found func(at, length int) int) {
	to = min(to, len(data)-m.size+1)
	for at := from; at < to; {
		if v := m.load(data[at:]); v-m.lo <= m.width && m.pointsIn(v) {
			at = candidate(from, found(at, m.size), to, align)
		} else if align < uint64(to-at) {
			at += int(align)
		} else {
			return
		}
	}
}

func (m *pointerMatcher) pointsIn(v uint64) bool {
	i, found := slices.BinarySearchFunc(m.into, v, func(r vm.Range, v uint64) int { return cmp.Compare(r.Start, v) })
	return found || i > 0 && m.into[i-1].Contains(v)
}
