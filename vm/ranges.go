package vm

import (
	"cmp"
	"slices"
)

// Intersect is what both ranges have in common; its size is 0 where that is nothing.
func (r Range) Intersect(o Range) Range {
	if !r.Overlaps(o) {
		return Range{}
	}
	start := max(r.Start, o.Start)
	return Range{Start: start, Size: min(r.Last(), o.Last()) - start + 1}
}

// Union is the bytes of all ranges as the fewest ranges, in ascending order.
// It sorts rs and reuses its memory.
func Union(rs []Range) []Range {
	slices.SortFunc(rs, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	out := rs[:0]
	for _, r := range rs {
		if r.Size == 0 {
			continue
		}
		if n := len(out); n > 0 && r.Start-out[n-1].Start <= out[n-1].Size {
			// The whole address space, 2^64 bytes, is no Range: it stays in two.
			if size := max(out[n-1].Last(), r.Last()) - out[n-1].Start + 1; size != 0 {
				out[n-1].Size = size
				continue
			}
		}
		out = append(out, r)
	}
	return out
}
