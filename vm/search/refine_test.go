package search

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"dbgsh/vm"
)

// patchy is memory of pages, some of which cannot be read. Reading outside its
// mappings fails the test.
type patchy struct {
	t     interface{ Fatalf(string, ...any) }
	ms    []vm.Mapping
	bytes map[uint64]byte
	holes map[uint64]bool // pages
}

func (p *patchy) mapped(a uint64) bool {
	for i := range p.ms {
		if p.ms[i].Contains(a) {
			return true
		}
	}
	return false
}

func (p *patchy) ReadMemory(_ context.Context, b []byte, addr uint64) (int, error) {
	for i := range b {
		a := addr + uint64(i)
		if !p.mapped(a) {
			p.t.Fatalf("read outside the mappings at %#x", a)
		}
		if p.holes[a/DefaultPageSize] {
			return i, nil
		}
		b[i] = p.bytes[a]
	}
	return len(b), nil
}

func TestRefineAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		const page = DefaultPageSize
		mem := &patchy{t: t, bytes: map[uint64]byte{}, holes: map[uint64]bool{}}
		for i := range rapid.IntRange(1, 4).Draw(t, "mappings") {
			start := uint64(0x10000 + i*3*page)
			if i == 3 {
				start = 1<<64 - 2*page // ends at 2^64
			}
			mem.ms = append(mem.ms, vm.Mapping{Range: vm.Range{Start: start, Size: uint64(rapid.IntRange(1, 2).Draw(t, "pages")) * page}})
			if i == 3 {
				mem.ms[3].Size = 2 * page
			}
		}
		places := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) uint64 {
			m := mem.ms[rapid.IntRange(0, len(mem.ms)-1).Draw(t, "mapping")]
			// Around the ends of pages, where it matters.
			off := rapid.OneOf(rapid.Uint64Range(0, 40), rapid.Uint64Range(page-40, page+40), rapid.Uint64Range(m.Size-40, m.Size-1)).Draw(t, "offset")
			return m.Start + off%m.Size
		}), 1, 20).Draw(t, "places")
		for _, a := range places {
			for i := range uint64(rapid.IntRange(1, 20).Draw(t, "run")) {
				mem.bytes[a+i] = byte(rapid.IntRange(0, 1).Draw(t, "byte")) + 'A'
			}
		}
		needle := []byte(rapid.StringMatching(`[AB]{1,20}`).Draw(t, "needle"))
		matcher, err := NewBytes(needle)
		if err != nil {
			t.Fatal(err)
		}
		first, err := Scan(ctx, mem, mem.ms, Options{Matcher: matcher})
		if err != nil {
			t.Fatal(err)
		}
		snap := TakeSnapshot(first)
		then := map[uint64]byte{}
		for a, b := range mem.bytes {
			then[a] = b
		}
		for a := range mem.bytes {
			if rapid.IntRange(0, 9).Draw(t, "flip") == 0 {
				mem.bytes[a] ^= 'A' ^ 'B'
			}
		}
		if rapid.Bool().Draw(t, "hole") {
			mem.holes[(mem.ms[0].Start)/page] = true
		}
		gone := rapid.Bool().Draw(t, "unmapped") && len(mem.ms) > 1
		if gone {
			mem.ms = mem.ms[1:]
		}
		o := RefineOptions{
			Change: Change(rapid.IntRange(0, 2).Draw(t, "change")),
			Align:  uint64(rapid.IntRange(0, 4).Draw(t, "align")),
		}
		now := needle
		if o.Change == AnyChange || rapid.Bool().Draw(t, "with value") {
			now = []byte(rapid.StringMatching(`[AB]{1,3}`).Draw(t, "new needle"))
			if o.Matcher, err = NewBytes(now); err != nil {
				t.Fatal(err)
			}
		}
		res, err := Refine(ctx, mem, mem.ms, snap, o)
		if err != nil {
			t.Fatal(err)
		}
		readable := func(a uint64) bool { return mem.mapped(a) && !mem.holes[a/page] }
		var want []uint64
		wantUnmapped, wantUnread := 0, 0
		for _, h := range first.Hits.All() {
			if o.Align > 1 && h.Address%o.Align != 0 {
				continue
			}
			if !mem.mapped(h.Address) {
				wantUnmapped++
				continue
			}
			keep, can := true, true
			if o.Change != AnyChange {
				same := true
				for i := range uint64(len(needle)) {
					can = can && readable(h.Address+i)
					same = same && mem.bytes[h.Address+i] == then[h.Address+i]
				}
				keep = same == (o.Change == Unchanged)
			}
			if o.Matcher != nil && can && keep {
				can = readable(h.Address)
				for i := range uint64(len(now)) {
					keep = keep && readable(h.Address+i) && mem.bytes[h.Address+i] == now[i]
				}
			}
			switch {
			case !can:
				wantUnread++
			case keep:
				want = append(want, h.Address)
			}
		}
		var got []uint64
		for _, h := range res.Hits.All() {
			got = append(got, h.Address)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || res.Unmapped != wantUnmapped || len(res.Unread) != wantUnread {
			t.Fatalf("got %#x, %d unmapped, %d unread; want %#x, %d, %d", got, res.Unmapped, len(res.Unread), want, wantUnmapped, wantUnread)
		}
	})
}

func TestSnapshotRegion(t *testing.T) {
	mem := &patchy{t: t, bytes: map[uint64]byte{}, holes: map[uint64]bool{}}
	mem.ms = []vm.Mapping{{Range: vm.Range{Start: 0x1000, Size: 0x1000}}, {Range: vm.Range{Start: 0x3000, Size: 0x1000}}, {Range: vm.Range{Start: 0x5000, Size: 0x1000}}}
	for i, c := range bytes.Repeat([]byte("needle"), 2) {
		mem.bytes[0x1ffa+uint64(i%6)] = c
		mem.bytes[0x5000+uint64(i)] = c
	}
	matcher, err := NewBytes([]byte("needle"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := Scan(context.Background(), mem, mem.ms, Options{Matcher: matcher})
	if err != nil || res.Count != 3 {
		t.Fatalf("%d hits, %v", res.Count, err)
	}
	snap := TakeSnapshot(res)
	f := vm.Filter{Regions: []vm.Region{vm.SetRegion(snap, "@last")}}
	var got []uint64
	for _, r := range f.Select(&vm.Map{Mappings: mem.ms}).Rows {
		got = append(got, r.Start)
	}
	if want := []uint64{0x1000, 0x5000}; !slices.Equal(got, want) {
		t.Errorf("got %#x, want %#x", got, want)
	}
	if _, err := Refine(context.Background(), mem, mem.ms, snap, RefineOptions{}); err == nil {
		t.Error("a refinement that asks for nothing passes")
	}
}

// gentleMemory is sparseMemory that is to be told the mapping, as those of
// files are read through the process otherwise.
type gentleMemory struct{ sparseMemory }

func (m gentleMemory) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	m.t.Errorf("read of %#x without its mapping", addr)
	return m.sparseMemory.ReadMemory(ctx, p, addr)
}

func (m gentleMemory) ReadMapping(ctx context.Context, x vm.Mapping, p []byte, addr uint64) (int, error) {
	if last := addr + uint64(len(p)) - 1; !x.Contains(addr) || !x.Contains(last) || m.ms[m.holder(addr)] != x || m.ms[m.holder(last)] != x {
		m.t.Errorf("read of %d bytes at %#x for %v", len(p), addr, x.Range)
	}
	return m.sparseMemory.ReadMemory(ctx, p, addr)
}

func TestRefineReadsGently(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := drawMemory(t)
		r := gentleMemory{sparseMemory{mem}}
		n := drawNeedle(t)
		first, err := Scan(t.Context(), r, mem.ms, Options{Matcher: n.Matcher, PageSize: testPage, Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		then := bytes.Clone(mem.data)
		for range rapid.IntRange(0, 4).Draw(t, "writes") {
			i := rapid.IntRange(0, len(mem.data)-1).Draw(t, "written")
			if k := mem.pages[i/testPage]; k == pageData || k == pageEmpty {
				mem.pages[i/testPage] = pageData
				mem.data[i] ^= rapid.SampledFrom([]byte{0, 1, 'a', 'a' ^ 'A'}).Draw(t, "flip")
			}
		}
		o := rapid.SampledFrom([]RefineOptions{
			{Change: Unchanged}, {Change: Changed}, {Matcher: n.Matcher}, {Matcher: n.Matcher, Change: Changed},
		}).Draw(t, "options")
		again, err := Scan(t.Context(), r, mem.ms, Options{Matcher: n.Matcher, PageSize: testPage})
		if err != nil {
			t.Fatal(err)
		}
		now := map[uint64]Hit{}
		for _, h := range again.Hits.All() {
			now[h.Address] = h
		}
		var want []Hit
		for _, h := range first.Hits.All() {
			i := int(h.Address - mem.base)
			same := bytes.Equal(then[i:i+h.Len], mem.data[i:i+h.Len])
			if o.Change == Unchanged && !same || o.Change == Changed && same {
				continue
			}
			if o.Matcher != nil {
				x, found := now[h.Address]
				if !found {
					continue
				}
				h = x
			}
			// As many bytes can be read as then.
			copy(h.Preview, mem.data[i:])
			want = append(want, h)
		}
		got, err := Refine(t.Context(), r, mem.ms, TakeSnapshot(first), o)
		if err != nil || got.Partial != nil || got.Undecided > 0 || got.Unmapped > 0 || len(got.Notes) > 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		if d := cmp.Diff(want, list(&got.Hits), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%+v: (-want +got)\n%s", o, d)
		}
		// What stands there now is what the next one compares with.
		same, err := Refine(t.Context(), r, mem.ms, got.Snapshot, RefineOptions{Change: Unchanged})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, list(&same.Hits), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%+v, nothing changed since: (-want +got)\n%s", o, d)
		}
	})
}

func TestRefineKeepsUndecided(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := drawMemory(t)
		n := drawNeedle(t)
		first, err := Scan(t.Context(), mem, mem.ms, Options{Matcher: n.Matcher, PageSize: testPage})
		if err != nil {
			t.Fatal(err)
		}
		snap := TakeSnapshot(first)
		// In steps, while some pages cannot be read for a time.
		pages := mem.pages
		for range 3 {
			mem.pages = slices.Clone(pages)
			for i := range mem.pages {
				if rapid.IntRange(0, 3).Draw(t, "hole") == 0 {
					mem.pages[i] = pageHole
				}
			}
			limit := rapid.Uint64Range(1, 5).Draw(t, "limit")
			res, err := Refine(t.Context(), mem, mem.ms, snap, RefineOptions{Change: Unchanged, Limit: limit})
			if err != nil || res.Partial != nil {
				t.Fatalf("%+v, %v", res, err)
			}
			if res.Count > limit || res.Snapshot.Len() != int(res.Count)+res.Undecided {
				t.Fatalf("%d hits, %d undecided, %d kept", res.Count, res.Undecided, res.Snapshot.Len())
			}
			snap = res.Snapshot
		}
		mem.pages = pages
		all, err := Refine(t.Context(), mem, mem.ms, snap, RefineOptions{Change: Unchanged})
		if err != nil {
			t.Fatal(err)
		}
		var want, got []string // the previews may have been cut short
		for _, h := range first.Hits.All() {
			want = append(want, fmt.Sprintf("%#x+%d", h.Address, h.Len))
		}
		for _, h := range all.Hits.All() {
			got = append(got, fmt.Sprintf("%#x+%d", h.Address, h.Len))
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("(-want +got)\n%s", d)
		}
	})
}

func TestRefineInterruptedKeepsAll(t *testing.T) {
	needle, _ := NewBytes([]byte("AAAA"))
	m := sameLetters(t, 1<<10)
	res, err := Scan(t.Context(), m, m.ms, Options{Matcher: needle, Skip: 4 << 10})
	if err != nil || res.Count < 4 {
		t.Fatal(res.Count, err)
	}
	snap := TakeSnapshot(res)
	ctx, cancel := context.WithCancel(t.Context())
	reads := 0
	r := readerFunc(func(ctx context.Context, p []byte, addr uint64) (int, error) {
		if reads++; reads == 3 {
			cancel()
		}
		return m.ReadMemory(ctx, p, addr)
	})
	got, err := Refine(ctx, r, m.ms, snap, RefineOptions{Matcher: needle})
	if err != nil || got.Partial == nil || got.Count != 2 || got.Snapshot != snap {
		t.Errorf("%+v, %v", got, err)
	}
}

// BenchmarkRefineUnmapped looks again at hits whose mappings are gone.
func BenchmarkRefineUnmapped(b *testing.B) {
	snap := &Snapshot{}
	var ms []vm.Mapping
	for i := range uint64(10_000) {
		ms = append(ms, vm.Mapping{Range: vm.Range{Start: i << 20, Size: 4096}})
		snap.hits.add(i<<20+8192, 1, 0, []byte{0}, 0)
	}
	r := readerFunc(func(context.Context, []byte, uint64) (int, error) { return 0, nil })
	for b.Loop() {
		if got, err := Refine(b.Context(), r, ms, snap, RefineOptions{Change: Changed}); err != nil || got.Unmapped != snap.Len() {
			b.Fatal(got, err)
		}
	}
}
