package search

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"dbgsh/vm"
)

// aliasMemory is simMemory, which the oracle knows, whose pages stand in other memory.
type aliasMemory struct {
	*simMemory
	behind *simMemory
	table  []int  // for each page the one behind, -1 for none
	gone   uint64 // the offset in the memory behind from which on the process is gone
}

func (m *aliasMemory) Backing(_ context.Context, addr uint64) (at, n uint64, ok bool, err error) {
	if addr-m.base >= uint64(len(m.data)) {
		m.t.Errorf("%#x is outside all mappings", addr)
	}
	i := int((addr - m.base) / testPage)
	n = testPage - addr%testPage
	if m.table[i] < 0 {
		return 0, n, false, nil
	}
	for j := i + 1; j < len(m.table) && m.table[j] == m.table[j-1]+1; j++ {
		n += testPage
	}
	return m.behind.base + uint64(m.table[i]*testPage) + addr%testPage, n, true, nil
}

// LeaveSwapped implements vm.Swapper.
func (m *aliasMemory) LeaveSwapped(leave bool) {
	m.simMemory.LeaveSwapped(leave)
	m.behind.LeaveSwapped(leave)
}

func (m *aliasMemory) Behind() vm.Reader {
	return readerFunc(func(ctx context.Context, p []byte, addr uint64) (int, error) {
		if addr-m.behind.base >= m.gone {
			return 0, vm.ErrProcessGone
		}
		return m.behind.ReadMemory(ctx, p, addr)
	})
}

// drawAliased is a layout of drawMemory, with other memory behind it.
func drawAliased(t *rapid.T) *aliasMemory {
	m := &aliasMemory{simMemory: drawMemory(t), behind: drawMemory(t)}
	m.behind.ms = []vm.Mapping{{Range: vm.Range{Start: m.behind.base, Size: uint64(len(m.behind.data))}}}
	m.gone = math.MaxUint64
	n := len(m.behind.pages)
	for len(m.table) < len(m.pages) {
		from := rapid.IntRange(0, n-1).Draw(t, "from")
		run := rapid.IntRange(1, 20).Draw(t, "run")
		kind := rapid.SampledFrom([]string{"none", "in line", "in line", "in line", "repeated", "repeated", "runs", "scattered", "apart"}).Draw(t, "kind")
		size := rapid.IntRange(1, 4).Draw(t, "size")
		for i := range run {
			switch page := from; kind {
			case "none":
				m.table = append(m.table, -1)
			case "in line":
				m.table = append(m.table, (page+i)%n)
			case "repeated":
				m.table = append(m.table, page)
			case "runs":
				m.table = append(m.table, (page+i%size)%n)
			case "scattered":
				m.table = append(m.table, rapid.IntRange(0, n-1).Draw(t, "page"))
			case "apart": // one page again and again, with gaps
				m.table = append(m.table, page, -1)
			}
		}
	}
	m.table = m.table[:len(m.pages)]
	for i, page := range m.table {
		to := m.data[i*testPage : (i+1)*testPage]
		switch {
		case page < 0:
			m.pages[i] = pageHole
		case m.behind.pages[page] == pageSwapped:
			m.pages[i] = pageSwapped
			copy(to, m.behind.data[page*testPage:])
		case m.behind.pages[page] >= pageHole:
			m.pages[i] = pageHole
		default:
			m.pages[i] = pageData
			copy(to, m.behind.data[page*testPage:])
		}
	}
	return m
}

func TestScanAliasedAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawAliased(t)
		n := drawNeedle(t)
		o := Options{
			Matcher:   n.Matcher,
			Align:     rapid.SampledFrom([]uint64{1, 1, 2, 3, 8, 48, 1 << 40}).Draw(t, "align"),
			Limit:     rapid.SampledFrom([]uint64{0, 0, 1, 3, 20}).Draw(t, "limit"),
			CountOnly: rapid.IntRange(0, 4).Draw(t, "countOnly") == 0,
			Swapped:   rapid.IntRange(0, 3).Draw(t, "swapped") == 0,
			Chunk:     rapid.IntRange(minChunk, 200).Draw(t, "chunk"),
			Workers:   rapid.IntRange(1, 2).Draw(t, "workers"),
			PageSize:  testPage,
		}
		var done, total uint64
		o.Progress = func(d, all uint64) {
			if d < done || d > all {
				t.Errorf("progress from %d to %d of %d", done, d, all)
			}
			done, total = d, all
		}
		want := m.oracle(o, n.match)
		// By the segments, be there less to read by that or not.
		completed := o
		leaveSwapped(m, !o.Swapped)
		if err := completed.complete(m); err != nil {
			t.Fatal(err)
		}
		if x := newAliasScan(newScan(t.Context(), m, m.ms, pieces(m.ms), completed), m); x != nil {
			if rapid.IntRange(0, 3).Draw(t, "keep") == 0 {
				x.edges.kept = nil
			}
			compare(t, "aliased", x.run(), want)
			if done != total {
				t.Errorf("done %d of %d bytes", done, total)
			}
			done = 0
		} else if slices.ContainsFunc(m.pages, func(p simPage) bool { return p != pageHole }) && want.SearchedBytes > 0 {
			t.Error("no alias scan")
		}
		got, err := Scan(t.Context(), m, m.ms, o)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, "as is cheaper", got, want)
		// As many are kept as from a search by address.
		o.MaxHits, done = rapid.IntRange(1, 30).Draw(t, "maxHits"), 0
		if got, err = Scan(t.Context(), m, m.ms, o); err != nil {
			t.Fatal(err)
		}
		o.Progress = nil
		if want, err = Scan(t.Context(), m.simMemory, m.ms, o); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(list(&want.Hits), list(&got.Hits), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("at most %d hits (-want +got):\n%s", o.MaxHits, d)
		}
		if got.CapReached != want.CapReached || got.LimitReached != want.LimitReached || got.Count != want.Count {
			t.Fatalf("at most %d hits: %+v, want %+v", o.MaxHits, got, want)
		}
		// An early end tells of nothing that is not there.
		completed.Limit, completed.CountOnly, completed.Progress = 0, false, nil
		want = m.oracle(completed, n.match)
		m.gone = rapid.Uint64Range(0, uint64(len(m.behind.data))).Draw(t, "gone")
		if x := newAliasScan(newScan(t.Context(), m, m.ms, pieces(m.ms), completed), m); x != nil {
			got := x.run()
			for i := range got.Hits.Len() {
				h := got.Hits.packed(i)
				if w := want.Hits.lower(h.addr); w == want.Hits.Len() || *want.Hits.packed(w) != *h {
					t.Errorf("%+v is no hit", got.Hits.At(i))
				}
			}
			if got.SearchedBytes > want.SearchedBytes || got.Partial == nil && got.Count != want.Count {
				t.Errorf("%+v, want %+v", got, want)
			}
		}
	})
}

// row is n bytes from va on, which are those from pa on.
type row struct{ va, pa, n uint64 }

// rowMemory is a memory behind rows, as page tables make them.
type rowMemory struct {
	rows  []row // ascending
	data  []byte
	reads atomic.Int64 // of the memory behind, by their own addresses
	calls atomic.Int64 // by the addresses in rows
	seen  []int        // reads of each byte behind, if not nil
	self  *os.File     // if not nil, the data is read through it, by its own address

	before func(addr uint64, size int) error // a read of the memory behind; may be nil
}

func (m *rowMemory) Backing(_ context.Context, addr uint64) (at, n uint64, ok bool, err error) {
	i := sort.Search(len(m.rows), func(i int) bool { return m.rows[i].va > addr }) - 1
	if i >= 0 {
		if r := m.rows[i]; addr-r.va < r.n {
			return r.pa + (addr - r.va), r.n - (addr - r.va), true, nil
		}
	}
	if i++; i < len(m.rows) {
		return 0, m.rows[i].va - addr, false, nil
	}
	return 0, -addr, false, nil
}

func (m *rowMemory) read(p []byte, pa uint64) int {
	if pa >= uint64(len(m.data)) {
		return 0
	}
	if m.self == nil {
		return copy(p, m.data[pa:])
	}
	p = p[:min(len(p), len(m.data)-int(pa))]
	n, _ := m.self.ReadAt(p, int64(uintptr(unsafe.Pointer(&m.data[pa])))) // the error is told by n
	return n
}

func (m *rowMemory) ReadMemory(ctx context.Context, p []byte, addr uint64) (n int, err error) {
	m.calls.Add(1)
	for n < len(p) {
		at, size, ok, _ := m.Backing(ctx, addr+uint64(n))
		if !ok {
			return n, errors.New("not mapped")
		}
		size = min(size, uint64(len(p)-n))
		got := m.read(p[n:n+int(size)], at)
		if n += got; got < int(size) {
			return n, errors.New("no memory")
		}
	}
	return n, nil
}

func (m *rowMemory) Behind() vm.Reader {
	return readerFunc(func(_ context.Context, p []byte, addr uint64) (int, error) {
		m.reads.Add(1)
		if m.before != nil {
			if err := m.before(addr, len(p)); err != nil {
				return 0, err
			}
		}
		n := m.read(p, addr)
		for i := range min(n, len(m.seen)) {
			m.seen[addr+uint64(i)]++
		}
		return n, nil
	})
}

// mappings are one for all rows without gaps.
func (m *rowMemory) mappings() []vm.Mapping {
	var rs []vm.Range
	for _, r := range m.rows {
		rs = append(rs, vm.Range{Start: r.va, Size: r.n})
	}
	var ms []vm.Mapping
	for _, r := range vm.Union(rs) {
		ms = append(ms, vm.Mapping{Range: r, Source: vm.SourcePageTables})
	}
	return ms
}

// backwards is pages of one letter each, mapped in order and once more backwards.
func backwards(pages int) *rowMemory {
	m := &rowMemory{data: make([]byte, pages<<12)}
	for i := range m.data {
		m.data[i] = byte('a' + i>>12)
	}
	for i := range pages {
		m.rows = append(m.rows, row{0x1000_0000 + uint64(i)<<12, uint64(pages-1-i) << 12, 4096})
	}
	m.rows = append(m.rows, row{0xffff_8880_0000_0000, 0, uint64(len(m.data))})
	return m
}

func TestScanAliasedReadsOnce(t *testing.T) {
	m := backwards(20)
	for i := range 100 {
		m.rows = append(m.rows, row{0xffff_c000_0000_0000 + uint64(i)<<13, 5 << 12, 4096})
	}
	m.rows = append(m.rows, row{0xffff_ffff_ffff_0000, 4 << 12, 16 << 12}) // to the end of all
	for _, matcher := range []Matcher{must(NewBytes([]byte("gggghhhh"))), must(NewRegexp(`g{4}\Bh{4}`, 0))} {
		m.seen = make([]int, len(m.data))
		got, err := Scan(t.Context(), m, m.mappings(), Options{Matcher: matcher, Chunk: 64 << 10})
		if err != nil || got.Count != 2 || got.SearchedBytes != 156<<12 {
			t.Fatalf("%+v, %v", got, err)
		}
		for i, n := range m.seen {
			// Chunks overlap by as much as a hit shows and sees.
			if n != 1 && !(n == 2 && i >= 64<<10-1 && i < 64<<10+PreviewSize) {
				t.Fatalf("byte %#x was read %d times", i, n)
			}
		}
		if n := m.calls.Load(); n > 0 {
			t.Errorf("%d reads by address", n)
		}
	}
}

func TestScanAliasedOnePage(t *testing.T) {
	const copies = 1 << 15
	memory := make([]byte, 2*4096) // the second page is all zeros
	copy(memory, "lo, hello")
	copy(memory[4093:], "hel")
	zeros := must(NewBytes(make([]byte, 8)))
	for _, c := range []struct {
		name   string
		stride uint64
		o      Options
		count  uint64
	}{
		{"apart", 16 << 12, Options{Matcher: must(NewBytes([]byte("hello")))}, copies},
		{"counted", 1 << 12, Options{Matcher: must(NewBytes([]byte("hello"))), CountOnly: true}, 2*copies - 1},
		{"across", 1 << 12, Options{Matcher: must(NewRegexp("h.*?lo", 0))}, 2*copies - 1},
		{"across many", 1 << 12, Options{Matcher: must(NewRegexp(`(?:hel[^A]*){5}`, 5*4096))}, 2*copies - 4},
		{"after one", 1 << 12, Options{Matcher: must(NewRegexp(`\Blo,`, 0))}, copies - 1},
		{"after none", 1 << 12, Options{Matcher: must(NewRegexp(`\blo,`, 0))}, 1},
		{"before none", 1 << 12, Options{Matcher: must(NewRegexp(`hel$`, 0))}, 1},
		{"none", 1 << 12, Options{Matcher: must(NewRegexp(`hel\b.*?o\b`, 20000))}, 0},
		{"capped", 1 << 12, Options{Matcher: zeros, MaxHits: 10_000}, 10_000},
		{"limited", 1 << 12, Options{Matcher: zeros, Limit: 10_000}, 10_000},
		{"aligned", 1 << 12, Options{Matcher: zeros, Align: 1 << 20}, 0},
	} {
		for _, lead := range []bool{false, true} { // with another page before all others
			m := &rowMemory{data: memory}
			if lead {
				m.rows = append(m.rows, row{1<<20 - 4096, 4096, 4096})
			}
			for i := range uint64(copies) {
				m.rows = append(m.rows, row{1<<20 + i*c.stride, 0, 4096})
			}
			got, err := Scan(t.Context(), m, m.mappings(), c.o)
			if err != nil || got.Partial != nil || got.Count != c.count || got.CapReached != (c.o.MaxHits > 0) || len(got.Unread) > 0 {
				t.Errorf("%s: %d hits, %v, %v", c.name, got.Count, got.Partial, err)
			}
			if c.o.Limit+uint64(c.o.MaxHits) == 0 && got.SearchedBytes != uint64(len(m.rows))<<12 {
				t.Errorf("%s: searched %d bytes", c.name, got.SearchedBytes)
			}
			if reads := m.reads.Load() + m.calls.Load(); reads > 20 {
				t.Errorf("%s: %d reads", c.name, reads)
			}
		}
	}
}

func TestScanAliasedByAddress(t *testing.T) {
	// What cannot be searched behind the addresses is searched by them.
	x := must(NewBytes([]byte("c")))
	for name, c := range map[string]struct {
		o    Options
		r    func(m *rowMemory) vm.Reader
		want uint64
	}{
		"a step":           {Options{Matcher: x, Skip: 4096}, nil, 2},
		"no overlaps":      {Options{Matcher: x, SkipMatch: true}, nil, 2 << 12},
		"nothing behind":   {Options{Matcher: x}, func(m *rowMemory) vm.Reader { return noneBehind{m} }, 2 << 12},
		"other pages":      {Options{Matcher: x, PageSize: 8192}, nil, 2 << 12},
		"no number":        {Options{Matcher: x}, func(m *rowMemory) vm.Reader { return noBacking{m} }, 2 << 12},
		"mapped only once": {Options{Matcher: x}, func(m *rowMemory) vm.Reader { m.rows = m.rows[:len(m.rows)-1]; return m }, 1 << 12},
		"too many hits":    {Options{Matcher: x, MaxHits: 100}, nil, 100},
		"counted":          {Options{Matcher: x, MaxHits: 100, CountOnly: true}, nil, 2 << 12},
	} {
		m := backwards(16)
		r := vm.Reader(m)
		if c.r != nil {
			r = c.r(m)
		}
		var last, total uint64
		c.o.Progress = func(done, all uint64) {
			if done < last || done > all {
				t.Errorf("%s: progress from %d to %d of %d", name, last, done, all)
			}
			last, total = done, all
		}
		got, err := Scan(t.Context(), r, m.mappings(), c.o)
		if err != nil || got.Partial != nil || got.Count != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if m.reads.Load() > 0 && c.o.MaxHits == 0 {
			t.Errorf("%s: the memory behind was read", name)
		}
		if !got.CapReached && last != total {
			t.Errorf("%s: progress ends at %d of %d", name, last, total)
		}
	}
}

type noneBehind struct{ *rowMemory }

func (noneBehind) Behind() vm.Reader { return nil }

// noBacking breaks the contract.
type noBacking struct{ *rowMemory }

func (noBacking) Backing(context.Context, uint64) (at, n uint64, ok bool, err error) {
	return 0, 0, true, nil
}

func TestScanAliasedEndsEarly(t *testing.T) {
	letters := must(NewRegexp("[a-z]", 1))
	o := Options{Matcher: letters, Chunk: 4096, Align: 4096}
	gone := func(m *rowMemory, pa uint64) {
		m.before = func(addr uint64, size int) error {
			if addr+uint64(size) > pa {
				return fmt.Errorf("the machine: %w", vm.ErrProcessGone)
			}
			return nil
		}
	}
	// What was searched behind the addresses is told for all of them.
	m := backwards(16)
	gone(m, 8<<12)
	got, err := Scan(t.Context(), m, m.mappings(), o)
	const tail = PreviewSize - 1
	if err != nil || !errors.Is(got.Partial, vm.ErrProcessGone) || got.Count != 14 || len(got.Unread) > 0 ||
		got.SearchedBytes != 7*4096+7*(4096-tail) || got.SearchedMappings != 2 || got.Hits.address(7) != 0xffff_8880_0000_0000 {
		t.Errorf("%+v, %v", got, err)
	}
	// Cancelled between the two parts.
	ctx, cancel := context.WithCancel(t.Context())
	m = backwards(16)
	o.Progress = func(done, _ uint64) {
		if done == 16<<12 {
			cancel()
		}
	}
	got, err = Scan(ctx, m, m.mappings(), o)
	if err != nil || !errors.Is(got.Partial, context.Canceled) || got.Count != 32 || got.SearchedBytes != 32*4096-17*tail {
		t.Errorf("%+v, %v", got, err)
	}
	o.Progress = nil
	// Cancelled, while the reader hangs too.
	for _, hang := range []bool{false, true} {
		ctx, cancel = context.WithCancel(t.Context())
		release := make(chan struct{})
		m = backwards(16)
		m.before = func(addr uint64, _ int) error {
			if addr >= 8<<12 {
				cancel()
				if hang {
					<-release
				}
			}
			return nil
		}
		got, err = Scan(ctx, m, m.mappings(), o)
		close(release)
		if err != nil || !errors.Is(got.Partial, context.Canceled) || got.Count < 16 || got.Count > 18 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	// Cancelled when all is read, and there are 2^28 hits to tell.
	ctx, cancel = context.WithCancel(t.Context())
	m = &rowMemory{data: make([]byte, 4096)}
	for i := range uint64(1 << 16) {
		m.rows = append(m.rows, row{i << 12, 0, 4096})
	}
	o = Options{Matcher: must(NewBytes([]byte{0})), CountOnly: true, Progress: func(done, total uint64) {
		if done == total {
			cancel()
		}
	}}
	got, err = Scan(ctx, m, m.mappings(), o)
	if err != nil || !errors.Is(got.Partial, context.Canceled) || got.Count == 0 || got.Count != got.SearchedBytes || got.Count == 1<<28 {
		t.Errorf("%+v, %v", got, err)
	}
}

func BenchmarkScanAliased(b *testing.B) {
	// All of it as a kernel maps it, and its pages once more in disorder, read
	// as the memory of another process is.
	self, err := os.Open("/proc/self/mem")
	if err != nil {
		b.Skip(err)
	}
	defer self.Close()
	m := &rowMemory{data: make([]byte, 256<<20), self: self}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(m.data); i += 8 {
		binary.LittleEndian.PutUint64(m.data[i:], rng.Uint64())
	}
	for i, page := range rng.Perm(len(m.data) >> 12) {
		m.rows = append(m.rows, row{0x7f0000000000 + uint64(i)<<12, uint64(page) << 12, 4096})
	}
	m.rows = append(m.rows, row{0xffff888000000000, 0, uint64(len(m.data))})
	ms := m.mappings()
	for _, c := range []struct {
		name string
		m    Matcher
	}{
		{"bytes", must(NewBytes([]byte("needle that is nowhere")))},
		{"range", must(NewUintRange(4, binary.LittleEndian, 5, 5))},
		{"regexp", must(NewRegexp(`needle-[0-9]{4,12}`, 0))},
	} {
		for _, workers := range []int{1, 2} {
			o := Options{Matcher: c.m, Workers: workers}
			b.Run(fmt.Sprintf("%s/workers=%d/aliased", c.name, workers), func(b *testing.B) { benchmarkScan(b, m, ms, o, len(m.data)) })
			b.Run(fmt.Sprintf("%s/workers=%d/by address", c.name, workers), func(b *testing.B) {
				benchmarkScan(b, struct{ vm.Reader }{m}, ms, o, len(m.data))
			})
		}
	}
}

func benchmarkScan(b *testing.B, r vm.Reader, ms []vm.Mapping, o Options, size int) {
	b.SetBytes(int64(2 * size))
	for b.Loop() {
		if got, err := Scan(b.Context(), r, ms, o); err != nil || got.SearchedBytes != uint64(2*size) {
			b.Fatalf("%+v, %v", got, err)
		}
	}
}

func must(m Matcher, err error) Matcher {
	if err != nil {
		panic(err)
	}
	return m
}
