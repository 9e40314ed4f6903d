package qemusys

import (
	"cmp"
	"slices"

	"dbgsh/pt"
)

// physIndex finds the rows that map a physical address. Rows may overlap there,
// so that it is an interval tree: an array sorted by first address, in which
// the middle of each part is the root of that part.
type physIndex struct {
	rows []pt.Row // by Phys; each contiguous there
	last []uint64 // the last physical address of any row in the part that the row is the root of

	// What was asked for last: all bytes of a page are mapped alike.
	page  uint64
	limit int
	at    []uint64 // of the page's first byte
	all   int
}

func newPhysIndex(rows []pt.Row) *physIndex {
	x := &physIndex{rows: slices.Clone(rows), last: make([]uint64, len(rows)), limit: -1}
	slices.SortFunc(x.rows, func(a, b pt.Row) int {
		return cmp.Or(cmp.Compare(a.Phys, b.Phys), cmp.Compare(a.Start, b.Start))
	})
	x.build(0, len(rows))
	return x
}

// build sets last for the part [lo, hi) and returns that of its root.
func (x *physIndex) build(lo, hi int) uint64 {
	if lo == hi {
		return 0
	}
	mid := (lo + hi) / 2
	own := x.rows[mid].Phys + (x.rows[mid].Size - 1)
	x.last[mid] = max(own, x.build(lo, mid), x.build(mid+1, hi))
	return x.last[mid]
}

// mappedAt is the virtual addresses at which pa is mapped, ascending: all, or
// where there are more than limit some of them, and how many there are. It is
// not for several goroutines at once.
func (x *physIndex) mappedAt(pa uint64, limit int) (at []uint64, all int) {
	page := pa &^ (guestPage - 1)
	if page != x.page || limit != x.limit {
		x.page, x.limit, x.at, x.all = page, limit, nil, 0
		x.each(0, len(x.rows), page, func(va uint64) {
			if x.all++; x.all <= limit {
				x.at = append(x.at, va)
			}
		})
		slices.Sort(x.at)
	}
	for _, va := range x.at {
		at = append(at, va+(pa-page))
	}
	return at, x.all
}

// each calls found with every virtual address at which rows of the part
// [lo, hi) map pa.
func (x *physIndex) each(lo, hi int, pa uint64, found func(va uint64)) {
	for lo < hi {
		mid := (lo + hi) / 2
		if x.last[mid] < pa {
			return
		}
		x.each(lo, mid, pa, found)
		r := &x.rows[mid]
		if r.Phys > pa {
			return
		}
		if pa-r.Phys < r.Size {
			found(r.Start + (pa - r.Phys))
		}
		lo = mid + 1
	}
}
