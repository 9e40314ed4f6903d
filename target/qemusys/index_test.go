package qemusys

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dbgsh/pt"
)

func TestPhysIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) pt.Row {
			pages := func(name string, lo, hi uint64) uint64 { return guestPage * rapid.Uint64Range(lo, hi).Draw(t, name) }
			r := pt.Row{Start: pages("start", 0, 40), Size: pages("size", 1, 12), Phys: pages("phys", 0, 40)}
			if rapid.Bool().Draw(t, "high") { // up to the last address of all
				r.Phys = -r.Size - r.Phys%(3*guestPage)
			}
			return r
		}), 0, 20).Draw(t, "rows")
		x := newPhysIndex(rows)
		limit := rapid.IntRange(0, 8).Draw(t, "limit")
		for pa := ^uint64(20*guestPage - 1); pa != 60*guestPage; pa += guestPage / 2 {
			var want []uint64
			for _, r := range rows {
				if pa-r.Phys < r.Size {
					want = append(want, r.Start+pa-r.Phys)
				}
			}
			slices.Sort(want)
			at, all := x.mappedAt(pa, limit)
			if all != len(want) || len(at) != min(limit, all) || limit >= all && !slices.Equal(at, want) {
				t.Fatalf("%#x is mapped at %x (%d), not at %x", pa, at, all, want)
			}
			for _, va := range at {
				if !slices.Contains(want, va) {
					t.Fatalf("%#x is not mapped at %x", pa, va)
				}
			}
		}
	})
}
