package search

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"dbgsh/vm"
)

// finderMemory is simMemory that searches itself, at most step bytes at once
// and only as far as it can be read.
type finderMemory struct {
	*simMemory
	step uint64
	asks int
	// before, if not nil, is called before every hit is told.
	before func() error
}

func (m *finderMemory) FindBytes(_ context.Context, r vm.Range, needle []byte, found func(uint64) (uint64, bool)) (uint64, error) {
	m.asks++
	n := uint64(len(needle))
	size := uint64(0)
	for size < min(r.Size, m.step+n-1) && m.page(r.Start+size) != pageHole && m.page(r.Start+size) != pageGuard && (m.page(r.Start+size) != pageSwapped || !m.leave) {
		size++
	}
	last := size // of the places that can be told of
	if size < r.Size {
		last = size - min(size, n-1)
	}
	for off := uint64(0); off < last; off++ {
		if size-off < n || !bytes.HasPrefix(m.data[r.Start+off-m.base:], needle) {
			continue
		}
		if m.before != nil {
			if err := m.before(); err != nil {
				return off, err
			}
		}
		next, more := found(r.Start + off)
		if !more {
			return off + 1, nil
		}
		off = next - r.Start - 1
	}
	return last, nil
}

func TestScanFinderAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMemory(t)
		text := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 'A', 'b'}), 1, 3)
		if rapid.IntRange(0, 3).Draw(t, "long") == 0 {
			text = rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0, 0, 'a'}), 1, 40)
		}
		needle := text.Draw(t, "text")
		o := Options{
			Align:     rapid.SampledFrom([]uint64{1, 1, 2, 3, 8, 48, 1 << 40}).Draw(t, "align"),
			Skip:      rapid.SampledFrom([]uint64{0, 1, 2, 5, 100, math.MaxUint64}).Draw(t, "skip"),
			SkipMatch: rapid.Bool().Draw(t, "skipMatch"),
			Limit:     rapid.SampledFrom([]uint64{0, 0, 1, 3, 20}).Draw(t, "limit"),
			CountOnly: rapid.IntRange(0, 4).Draw(t, "countOnly") == 0,
			Chunk:     rapid.IntRange(minChunk, 200).Draw(t, "chunk"),
			PageSize:  testPage,
			Workers:   rapid.IntRange(1, 2).Draw(t, "workers"),
		}
		var err error
		if o.Matcher, err = NewBytes(needle); err != nil {
			t.Fatal(err)
		}
		done := uint64(0)
		o.Progress = func(d, total uint64) {
			if d < done || d > total {
				t.Errorf("progress from %d to %d of %d", done, d, total)
			}
			done = d
		}
		f := &finderMemory{simMemory: m, step: rapid.Uint64Range(1, 400).Draw(t, "step")}
		got, err := Scan(t.Context(), f, m.ms, o)
		if err != nil {
			t.Fatal(err)
		}
		want := m.oracle(o, func(s []byte, i int) int {
			if bytes.HasPrefix(s[i:], needle) {
				return len(needle)
			}
			return 0
		})
		if o.Skip > 1 || o.SkipMatch || o.Align > 1 {
			// What was passed over was not asked for, so not known to be readable.
			got.Unread, want.Unread = nil, nil
			got.SearchedBytes, got.SearchedMappings = want.SearchedBytes, want.SearchedMappings
		}
		compare(t, "finder", got, want)
		// As many are kept as from a search that reads.
		o.MaxHits, o.Progress = rapid.IntRange(1, 5).Draw(t, "maxHits"), nil
		capped, err := Scan(t.Context(), f, m.ms, o)
		if err != nil {
			t.Fatal(err)
		}
		local, err := Scan(t.Context(), m, m.ms, o)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(list(&local.Hits), list(&capped.Hits), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("at most %d hits (-want +got):\n%s", o.MaxHits, d)
		}
		if capped.CapReached != local.CapReached || capped.LimitReached != local.LimitReached || capped.Count != local.Count {
			t.Fatalf("at most %d hits: %+v, want %+v", o.MaxHits, capped, local)
		}
	})
}

// sameLetters is a mapping full of one letter, that searches itself.
func sameLetters(t *testing.T, pages int) *finderMemory {
	m := &simMemory{t: t, base: 0x1000, data: bytes.Repeat([]byte("A"), pages*testPage), pages: make([]simPage, pages)}
	m.ms = []vm.Mapping{{Range: vm.Range{Start: m.base, Size: uint64(len(m.data))}}}
	return &finderMemory{simMemory: m, step: 1 << 20}
}

func TestScanFinderStops(t *testing.T) {
	needle, _ := NewBytes([]byte("AAAA"))
	told := 0
	m := sameLetters(t, 1<<10)
	m.before = func() error { told++; return nil }
	got, err := Scan(t.Context(), m, m.ms, Options{Matcher: needle, Limit: 3})
	if err != nil || !got.LimitReached || got.Count != 3 || told != 3 {
		t.Errorf("told of %d hits: %+v, %v", told, got, err)
	}
	// With a step only as many as are wanted, at a stub's price for each.
	told = 0
	got, err = Scan(t.Context(), m, m.ms, Options{Matcher: needle, Skip: testPage})
	if err != nil || got.Count != 1<<10 || told != 1<<10 {
		t.Errorf("told of %d hits: %+v, %v", told, got, err)
	}
}

func TestScanFinderInterrupted(t *testing.T) {
	needle, _ := NewBytes([]byte("AAAA"))
	ctx, cancel := context.WithCancelCause(t.Context())
	m, told := sameLetters(t, 1<<10), 0
	m.before = func() error {
		if told++; told > 100 {
			cancel(errors.New("interrupted"))
			return ctx.Err()
		}
		return nil
	}
	var steps []uint64
	o := Options{Matcher: needle, Progress: func(done, _ uint64) { steps = append(steps, done) }}
	got, err := Scan(ctx, m, m.ms, o)
	if err != nil || got.Partial == nil || got.Hits.Len() != 100 || got.SearchedBytes != 100 {
		t.Errorf("%d hits in %d bytes, %v, %v", got.Hits.Len(), got.SearchedBytes, got.Partial, err)
	}
	if len(steps) < 100 {
		t.Error("progress within a mapping is not told: " + fmt.Sprint(steps))
	}
}
