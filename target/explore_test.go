package target

import (
	"context"
	"testing"

	"pgregory.net/rapid"
)

// pages is memory in which some pages can be read.
type pages map[uint64]bool

func (p pages) ReadMemory(_ context.Context, b []byte, addr uint64) (int, error) {
	if p[addr/0x1000] {
		return len(b), nil
	}
	return 0, nil
}

func TestExploreAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom([]uint64{0, 0x1000, 1<<32>>12 - 8, 1<<52 - 8}).Draw(t, "base")
		mem := pages{}
		for i := range uint64(8) {
			if rapid.IntRange(0, 3).Draw(t, "readable") > 0 {
				mem[base+i] = true
			}
		}
		last := uint64(1<<64 - 1)
		if base < 1<<20 {
			last = 1<<32 - 1
		}
		addr := (base+rapid.Uint64Range(0, 7).Draw(t, "page"))*0x1000 + rapid.Uint64Range(0, 0xfff).Draw(t, "offset")
		limit := rapid.Uint64Range(0, 9).Draw(t, "limit") * 0x1000
		got, err := explore(context.Background(), mem, addr, last, 0x1000, limit)
		if err != nil {
			t.Fatal(err)
		}
		at := addr / 0x1000
		if !mem[at] {
			if got.Size != 0 {
				t.Fatalf("found %v where nothing can be read", got)
			}
			return
		}
		lo, hi := at, at
		for hi < last/0x1000 && mem[hi+1] {
			hi++
		}
		for lo > 0 && mem[lo-1] {
			lo--
		}
		whole := (hi - lo + 1) * 0x1000
		// At the limit the pages beyond are not looked at, so they may be nothing.
		if want := min(whole, max(limit, 0x1000)); got.Size != want || whole > want && !got.cut || got.cut && got.Size < max(limit, 0x1000) {
			t.Fatalf("got %v (cut: %v), want %#x bytes of %#x-%#x", got.Range, got.cut, want, lo, hi)
		}
		if !got.Contains(addr) || got.Start/0x1000 < lo || got.Last()/0x1000 > hi {
			t.Fatalf("got %v of pages %#x-%#x", got.Range, lo, hi)
		}
	})
}
