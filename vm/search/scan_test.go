package search

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"dbgsh/vm"
)

// testPage is the page size of simulated memory in bytes.
const testPage = 16

// simMemory is the memory of a debuggee: pages of testPage bytes from base on.
type simMemory struct {
	base  uint64
	data  []byte
	pages []simPage
	ms    []vm.Mapping
	t     interface{ Errorf(string, ...any) }
	batch int  // pages that Populated answers for at once
	leave bool // what LeaveSwapped was told
}

type simPage int

const (
	pageData  simPage = iota
	pageEmpty         // reads as zeros, is not populated
	pageHole
	pageGuard // a hole that Populated tells
	pageSwapped
)

// LeaveSwapped implements vm.Swapper.
func (m *simMemory) LeaveSwapped(leave bool) { m.leave = leave }

func (m *simMemory) page(addr uint64) simPage { return m.pages[(addr-m.base)/testPage] }

// added reports whether the mapping is not one of the system's.
func added(m vm.Mapping) bool {
	return m.Source == vm.SourceUser || m.Source == vm.SourceELF || m.Source == vm.SourceExplored
}

// holder is the mapping a byte is searched for, -1 for none.
func (m *simMemory) holder(addr uint64) int {
	best := -1
	for i, x := range m.ms {
		if x.Contains(addr) && (best < 0 || added(m.ms[best]) && !added(x)) {
			best = i
		}
	}
	return best
}

func (m *simMemory) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	for i := range p {
		at := addr + uint64(i)
		if m.holder(at) < 0 {
			m.t.Errorf("read of %#x, which is outside all mappings", at)
		}
		switch k := m.page(at); {
		case k == pageHole || k == pageGuard:
			return i, errors.New("bad address")
		case k == pageSwapped && m.leave && (at-m.base)%2 == 0:
			return i, fmt.Errorf("byte %d: %w", i, vm.ErrSwapped)
		case k == pageSwapped && m.leave:
			rest := vm.Range{Start: at, Size: testPage - at%testPage}
			return i, &vm.UnreadableError{Range: rest, Err: vm.ErrSwapped}
		}
		p[i] = m.data[at-m.base]
	}
	return len(p), nil
}

// sparseMemory is simMemory that knows what is populated.
type sparseMemory struct{ *simMemory }

func (m sparseMemory) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	for i := range p {
		at := addr + uint64(i)
		if h := m.holder(at); h >= 0 && m.ms[h].Anonymous() && m.page(at) == pageEmpty {
			m.t.Errorf("read of %#x, which is not populated", at)
		}
	}
	return m.simMemory.ReadMemory(ctx, p, addr)
}

func (m sparseMemory) Populated(ctx context.Context, r vm.Range, into []vm.Extent) (n int, known uint64, err error) {
	for known < r.Size && known < uint64(m.batch*testPage) {
		at := r.Start + known
		size := min(testPage-at%testPage, r.Size-known)
		if k := m.page(at); k != pageEmpty {
			if n == min(len(into), m.batch) {
				break
			}
			into[n] = vm.Extent{Range: vm.Range{Start: at, Size: size}, Unreadable: k == pageGuard, Swapped: k == pageSwapped}
			n++
		}
		known += size
	}
	return n, known, nil
}

// oracle searches byte by byte. The length of the match at s[i:], 0 for none,
// is what match says, where s is all that can be read without a gap.
func (m *simMemory) oracle(o Options, match func(s []byte, i int) int) *Result {
	r := &Result{}
	seen := map[int]bool{}
	resume := 0
	skip, align := max(o.Skip, 1), max(o.Align, 1)
	for i := 0; i < len(m.data); i++ {
		h := m.holder(m.base + uint64(i))
		if h < 0 {
			continue
		}
		addr := m.base + uint64(i)
		swapped := m.page(addr) == pageSwapped && !o.Swapped
		if k := m.page(addr); k == pageHole || k == pageGuard || swapped {
			r.Unread = append(r.Unread, Unread{vm.Range{Start: addr, Size: 1}, h, swapped})
			continue
		}
		r.SearchedBytes++
		seen[h] = true
		if i < resume || addr%align != 0 {
			continue
		}
		from, to := m.stretch(i, o.Swapped)
		n := match(m.data[from:to], i-from)
		if n == 0 {
			continue
		}
		r.Count++
		if !o.CountOnly {
			r.Hits.add(addr, n, h, m.data[i:min(i+PreviewSize, to)], sumOf(m.data[i:i+n]))
		}
		resume = i + int(min(skip, 1<<30))
		if o.SkipMatch {
			resume = max(resume, i+n)
		}
		if o.Limit > 0 && r.Count == o.Limit {
			r.LimitReached = true
			break
		}
	}
	r.SearchedMappings = len(seen)
	return r
}

// stretch is what can be read without a gap around byte i; it is empty where i
// cannot be read.
func (m *simMemory) stretch(i int, swapped bool) (from, to int) {
	readable := func(j int) bool {
		at := m.base + uint64(j)
		return j >= 0 && j < len(m.data) && m.holder(at) >= 0 && m.page(at) != pageHole && m.page(at) != pageGuard && (m.page(at) != pageSwapped || swapped)
	}
	from, to = i, i
	for readable(to) {
		to++
	}
	for to > i && readable(from-1) {
		from--
	}
	return from, to
}

// bytewise cuts unread ranges into bytes.
func bytewise(us []Unread) []Unread {
	var all []Unread
	for _, u := range us {
		for i := range u.Size {
			all = append(all, Unread{vm.Range{Start: u.Start + i, Size: 1}, u.Mapping, u.Swapped})
		}
	}
	return all
}

func drawMemory(t *rapid.T) *simMemory {
	n := rapid.IntRange(1, 60).Draw(t, "pages")
	m := &simMemory{t: t, data: make([]byte, n*testPage), pages: make([]simPage, n)}
	m.base = rapid.SampledFrom([]uint64{0, 0x1000, 1 << 63, -uint64(n * testPage)}).Draw(t, "base")
	m.batch = rapid.IntRange(1, 8).Draw(t, "batch")
	kinds := rapid.SampledFrom([][]simPage{
		{pageData}, {pageData, pageEmpty}, {pageEmpty, pageEmpty, pageEmpty, pageData},
		{pageData, pageHole, pageEmpty, pageEmpty, pageGuard}, {pageData, pageData, pageData, pageHole},
		{pageData, pageSwapped, pageEmpty}, {pageSwapped, pageData, pageData, pageHole, pageGuard, pageSwapped},
	}).Draw(t, "kinds")
	alphabet := rapid.SampledFrom([][]byte{{0, 'a'}, {'a', 'A', 'b'}, {0, 0, 0, 'a', '\n', 0xff}}).Draw(t, "alphabet")
	for i := 0; i < n; {
		k := rapid.SampledFrom(kinds).Draw(t, "kind")
		for range rapid.IntRange(1, 12).Draw(t, "run") {
			if i == n {
				break
			}
			m.pages[i] = k
			if k == pageData || k == pageSwapped {
				for j := range testPage {
					m.data[i*testPage+j] = rapid.SampledFrom(alphabet).Draw(t, "byte")
				}
			}
			i++
		}
	}
	source := rapid.SampledFrom([]vm.Source{vm.SourceProcfs, vm.SourceProcfs, vm.SourceRemote, vm.SourceCore, vm.SourceStub}).Draw(t, "source")
	// Mappings as the kernel has them, page by page, with gaps or without.
	for at := 0; at < n; {
		size := rapid.IntRange(1, n-at).Draw(t, "size")
		x := vm.Mapping{Range: vm.Range{Start: m.base + uint64(at*testPage), Size: uint64(size * testPage)}, Perm: vm.KnownAll | vm.Read, Source: source}
		if rapid.IntRange(0, 3).Draw(t, "file") == 0 {
			x.Inode, x.Name = 1, "/f"
		}
		m.ms = append(m.ms, x)
		at += size + rapid.SampledFrom([]int{0, 0, 0, 1, 3}).Draw(t, "gap")
	}
	// Those of the user, at any byte.
	for range rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "added") {
		off := rapid.IntRange(0, len(m.data)-1).Draw(t, "off")
		size := rapid.IntRange(0, len(m.data)-off).Draw(t, "bytes")
		by := rapid.SampledFrom([]vm.Source{vm.SourceUser, vm.SourceELF, vm.SourceExplored}).Draw(t, "by")
		m.ms = append(m.ms, vm.Mapping{Range: vm.Range{Start: m.base + uint64(off), Size: uint64(size)}, Source: by})
	}
	vm.Sort(m.ms)
	return m
}

// needle is a matcher with another way to say what it matches.
type needle struct {
	Matcher
	match func(s []byte, i int) int
}

func drawNeedle(t *rapid.T) needle {
	alphabet := []byte{0, 'a', 'A', 'b', '\n', 0xff}
	must := func(m Matcher, err error) Matcher {
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	text := rapid.SliceOfN(rapid.SampledFrom(alphabet[:rapid.IntRange(1, len(alphabet)).Draw(t, "letters")]), 1, 40)
	if rapid.Bool().Draw(t, "short") {
		text = rapid.SliceOfN(rapid.SampledFrom(alphabet[:3]), 1, 3)
	}
	le := binary.LittleEndian
	switch rapid.SampledFrom([]string{"bytes", "masked", "fold", "range", "pointers", "regexp"}).Draw(t, "needle") {
	case "bytes":
		b := text.Draw(t, "text")
		return needle{must(NewBytes(b)), func(s []byte, i int) int {
			if bytes.HasPrefix(s[i:], b) {
				return len(b)
			}
			return 0
		}}
	case "masked":
		b := text.Draw(t, "text")
		mask := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0xf0, 0xff, 0xff}), len(b), len(b)).Draw(t, "mask")
		mask[rapid.IntRange(0, len(b)-1).Draw(t, "given")] = 0xff
		return needle{must(NewMasked(b, mask)), func(s []byte, i int) int {
			if len(s)-i < len(b) {
				return 0
			}
			for j := range b {
				if (s[i+j]^b[j])&mask[j] != 0 {
					return 0
				}
			}
			return len(b)
		}}
	case "fold":
		b := text.Draw(t, "text")
		return needle{must(NewFold(b)), func(s []byte, i int) int {
			if len(s)-i >= len(b) && strings.EqualFold(latin1(s[i:i+len(b)]), latin1(b)) {
				return len(b)
			}
			return 0
		}}
	case "range":
		lo := rapid.Uint16().Draw(t, "lo")
		hi := rapid.Uint16Range(lo, math.MaxUint16).Draw(t, "hi")
		return needle{must(NewUintRange(2, le, uint64(lo), uint64(hi))), func(s []byte, i int) int {
			if len(s)-i >= 2 && uint16(s[i])|uint16(s[i+1])<<8 >= lo && uint16(s[i])|uint16(s[i+1])<<8 <= hi {
				return 2
			}
			return 0
		}}
	case "pointers":
		into := []vm.Range{{Start: 0, Size: 0x100}, {Start: 0x61616100, Size: 0x100}, {Start: 0x61000000, Size: 1 << 20}}
		return needle{must(NewPointers(4, le, into)), func(s []byte, i int) int {
			if len(s)-i < 4 {
				return 0
			}
			v := uint64(le.Uint32(s[i:]))
			if v < 0x100 || v >= 0x61616100 && v < 0x61616200 || v >= 0x61000000 && v < 0x61100000 {
				return 4
			}
			return 0
		}}
	}
	expr := rapid.SampledFrom(regexps).Draw(t, "regexp")
	maxLen := rapid.IntRange(8, 40).Draw(t, "maxLen")
	return needle{must(NewRegexp(expr, maxLen)), func(s []byte, i int) int { return regexpAt(expr, maxLen, s, i) }}
}

// regexps match at most 8 bytes where they have assertions.
var regexps = []string{
	`a+`, `a+?b`, `(a|ab)(b|bA)?`, `\x00+a`, `\x00{3,9}`, `[^a]{2}`, `\xff.`, `(?i)ab`, `a.*b`, `.{5}a`,
	`(?:a|aa|A\x00+)`, `\ba{1,3}\b`, `^a?\x00b?`, `[ab]{1,3}$`, `\B\x00\B`, `(?i:A)\n`, `a(?-s:.)+`, `[\x7f-\xff]\W`,
}

// latin1 is a character for each byte.
func latin1(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

// regexpAt asks package regexp for the match at s[i:].
func regexpAt(expr string, maxLen int, s []byte, i int) int {
	before := ``
	from := i
	if i > 0 {
		before, from = `.`, i-1
	}
	re := regexp.MustCompile(`\A(?s:` + before + `)(?sm:(` + expr + `))`)
	end := len(s)
	if !strings.ContainsAny(expr, "^$") && !strings.Contains(strings.ToLower(expr), `\b`) || strings.Contains(expr, "[^") {
		end = min(end, i+maxLen)
	}
	text := latin1(s[from:end])
	at := re.FindStringSubmatchIndex(text)
	if at == nil {
		return 0
	}
	return len([]rune(text[at[2]:at[3]]))
}

func TestScanAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMemory(t)
		n := drawNeedle(t)
		o := Options{
			Matcher:   n.Matcher,
			Align:     rapid.SampledFrom([]uint64{1, 1, 2, 3, 8, 48, 1 << 40}).Draw(t, "align"),
			Skip:      rapid.SampledFrom([]uint64{0, 1, 2, 5, 100, math.MaxUint64}).Draw(t, "skip"),
			SkipMatch: rapid.Bool().Draw(t, "skipMatch"),
			Limit:     rapid.SampledFrom([]uint64{0, 0, 1, 3, 20}).Draw(t, "limit"),
			CountOnly: rapid.IntRange(0, 4).Draw(t, "countOnly") == 0,
			Chunk:     rapid.IntRange(minChunk, 200).Draw(t, "chunk"),
			PageSize:  testPage,
			Swapped:   rapid.IntRange(0, 3).Draw(t, "swapped") == 0,
		}
		want := m.oracle(o, n.match)
		for _, workers := range []int{1, 2, 3} {
			for _, r := range []vm.Reader{m, sparseMemory{m}} {
				o.Workers = workers
				done := uint64(0)
				o.Progress = func(d, total uint64) {
					if d < done || d > total {
						t.Errorf("progress from %d to %d of %d", done, d, total)
					}
					done = d
				}
				got, err := Scan(context.Background(), r, m.ms, o)
				if err != nil {
					t.Fatal(err)
				}
				compare(t, fmt.Sprintf("%T with %d workers", r, workers), got, want)
			}
		}
	})
}

// longRegexps have matches of any length, and say of s[i:], which has more than max
// bytes, whether all its first max+1 bytes may be of a match.
var longRegexps = []struct {
	expr string
	may  func(s []byte, i, max int) bool
}{
	{`a[^b]*b`, func(s []byte, i, max int) bool { return s[i] == 'a' && !bytes.Contains(s[i:i+max], []byte("b")) }},
	{`a.*b`, func(s []byte, i, _ int) bool { return s[i] == 'a' }},
	{`a.*?b`, func(s []byte, i, max int) bool { return s[i] == 'a' && !bytes.Contains(s[i:i+max], []byte("b")) }},
	{`\x00+`, func(s []byte, i, max int) bool { return len(bytes.Trim(s[i:i+max+1], "\x00")) == 0 }},
	{`\x00+a`, func(s []byte, i, max int) bool { return len(bytes.Trim(s[i:i+max], "\x00")) == 0 }},
	{`^a[^\n]+b`, func(s []byte, i, max int) bool {
		return (i == 0 || s[i-1] == '\n') && s[i] == 'a' && !bytes.Contains(s[i:i+max], []byte("\n"))
	}},
}

// TestLongerAgainstOracle counts the places where a match is longer than is
// looked at: all of those, and none where that is out of the question.
func TestLongerAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var aliased *aliasMemory
		var m *simMemory
		if rapid.IntRange(0, 2).Draw(t, "aliased") == 0 {
			aliased = drawAliased(t)
			m = aliased.simMemory
		} else {
			m = drawMemory(t)
		}
		long := rapid.SampledFrom(longRegexps).Draw(t, "regexp")
		maxLen := rapid.IntRange(3, 40).Draw(t, "maxLen")
		matcher, err := NewRegexp(long.expr, maxLen)
		if err != nil {
			t.Fatal(err)
		}
		o := Options{
			Matcher:  matcher,
			Align:    rapid.SampledFrom([]uint64{1, 1, 2, 3, 8}).Draw(t, "align"),
			Limit:    rapid.SampledFrom([]uint64{0, 0, 1, 5}).Draw(t, "limit"),
			Chunk:    rapid.IntRange(minChunk, 200).Draw(t, "chunk"),
			Workers:  rapid.IntRange(1, 3).Draw(t, "workers"),
			PageSize: testPage,
		}
		if aliased == nil {
			o.Skip = rapid.SampledFrom([]uint64{1, 1, 3, 100}).Draw(t, "skip")
		}
		var least, most, hits uint64
		resume := 0
		for i := range m.data {
			from, to := m.stretch(i, o.Swapped)
			if from == to || i < resume || (m.base+uint64(i))%o.Align != 0 {
				continue
			}
			s, i := m.data[from:to], i-from
			if regexpAt(long.expr, len(s), s, i) > maxLen {
				least++
			}
			if len(s)-i > maxLen && long.may(s, i, maxLen) {
				most++
			}
			if regexpAt(long.expr, maxLen, s, i) > 0 {
				resume = from + i + int(max(o.Skip, 1))
				if hits++; hits == o.Limit {
					break
				}
			}
		}
		readers := []vm.Reader{m, sparseMemory{m}}
		if aliased != nil {
			readers = []vm.Reader{aliased}
		}
		for _, r := range readers {
			got, err := Scan(t.Context(), r, m.ms, o)
			if err != nil {
				t.Fatal(err)
			}
			if aliased != nil { // what stands at several addresses is counted once
				least = min(least, 1)
				if o.Align > 1 || o.Limit > 0 || long.expr[0] == '^' { // at its edges
					most = math.MaxUint64
				}
				if o.Limit > 0 {
					least = 0
				}
			}
			if got.Longer < least || got.Longer > most || got.Count != hits {
				t.Errorf("%T: %d hits and %d places, not %d and %d to %d", r, got.Count, got.Longer, hits, least, most)
			}
		}
	})
}

// TestLonger is as a user meets it: a match of more than 4,096 bytes.
func TestLonger(t *testing.T) {
	for _, c := range []struct {
		length, at int
		longer     uint64
	}{{100, 0, 0}, {4090, 0, 0}, {4091, 0, 1}, {5000, 0, 1}, {5000, DefaultChunk - 2000, 1}, {300 << 10, DefaultChunk - 2000, 1}, {-1, 7000, 1}} {
		b := bytes.Repeat([]byte("-"), 1<<20)
		text := append([]byte("flag{"), bytes.Repeat([]byte("x"), max(c.length, 0))...)
		if c.length >= 0 {
			text = append(text, '}')
		}
		copy(b[c.at:], text)
		matcher, err := NewRegexp(`flag\{[^}]*\}`, 0)
		if err != nil {
			t.Fatal(err)
		}
		r := readerFunc(func(_ context.Context, p []byte, addr uint64) (int, error) { return copy(p, b[addr-0x1000:]), nil })
		ms := []vm.Mapping{{Range: vm.Range{Start: 0x1000, Size: uint64(len(b))}}}
		got, err := Scan(t.Context(), r, ms, Options{Matcher: matcher})
		if err != nil || got.Count+got.Longer != 1 || got.Longer != c.longer {
			t.Errorf("%d bytes at %#x: %d hits and %d places, %v", c.length, c.at, got.Count, got.Longer, err)
		}
		// And among the hits of a search before.
		before, _ := NewBytes([]byte("flag{"))
		if got, err = Scan(t.Context(), r, ms, Options{Matcher: before}); err != nil {
			t.Fatal(err)
		}
		again, err := Refine(t.Context(), r, ms, TakeSnapshot(got), RefineOptions{Matcher: matcher})
		if err != nil || again.Longer != c.longer || again.Count+again.Longer != 1 {
			t.Errorf("%d bytes again: %d hits and %d places, %v", c.length, again.Count, again.Longer, err)
		}
	}
}

func compare(t *rapid.T, what string, got, want *Result) {
	t.Helper()
	if d := cmp.Diff(list(&want.Hits), list(&got.Hits), cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("%s: hits (-want +got):\n%s", what, d)
	}
	if got.Count != want.Count || got.LimitReached != want.LimitReached || got.CapReached || got.Partial != nil || len(got.Notes) > 0 {
		t.Fatalf("%s: %+v, want %+v", what, got, want)
	}
	if want.LimitReached {
		return // how far the search got depends on the length of the last match
	}
	if d := cmp.Diff(bytewise(want.Unread), bytewise(got.Unread)); d != "" {
		t.Fatalf("%s: unread (-want +got):\n%s", what, d)
	}
	if got.SearchedBytes != want.SearchedBytes || got.SearchedMappings != want.SearchedMappings {
		t.Fatalf("%s: searched %d bytes in %d mappings, want %d in %d", what,
			got.SearchedBytes, got.SearchedMappings, want.SearchedBytes, want.SearchedMappings)
	}
	for i := 1; i < len(got.Unread); i++ {
		if a, b := got.Unread[i-1], got.Unread[i]; a.Mapping == b.Mapping && a.Swapped == b.Swapped && a.Last()+1 == b.Start {
			t.Fatalf("%s: unread ranges not merged: %v", what, got.Unread)
		}
	}
}

func list(h *Hits) []Hit {
	var all []Hit
	for _, x := range h.All() {
		all = append(all, x)
	}
	return all
}

// blockingReader never comes back, whatever its context says.
type blockingReader struct{ entered, release chan struct{} }

func (r blockingReader) ReadMemory(context.Context, []byte, uint64) (int, error) {
	select {
	case r.entered <- struct{}{}:
	default: // another worker has said so
	}
	<-r.release
	return 0, errors.New("released")
}

func TestScanCancelledWhileReaderHangs(t *testing.T) {
	for _, workers := range []int{1, 2} {
		r := blockingReader{make(chan struct{}, 1), make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-r.entered
			cancel()
		}()
		needle, _ := NewBytes([]byte("x"))
		got, err := Scan(ctx, r, []vm.Mapping{{Range: vm.Range{Start: 0, Size: 1 << 40}}}, Options{Matcher: needle, Workers: workers})
		close(r.release)
		if err != nil || !errors.Is(got.Partial, context.Canceled) || got.SearchedBytes != 0 {
			t.Errorf("%d workers: %+v, %v", workers, got, err)
		}
	}
}

// readerFunc is a Reader.
type readerFunc func(ctx context.Context, p []byte, addr uint64) (int, error)

func (f readerFunc) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	return f(ctx, p, addr)
}

func TestScanProcessGone(t *testing.T) {
	r := readerFunc(func(_ context.Context, p []byte, addr uint64) (int, error) {
		if addr >= 1<<20 {
			return 0, fmt.Errorf("thread 1: %w", vm.ErrProcessGone)
		}
		clear(p)
		p[0] = 'x'
		return len(p), nil
	})
	needle, _ := NewBytes([]byte("x"))
	for _, workers := range []int{1, 2} {
		got, err := Scan(t.Context(), r, []vm.Mapping{{Range: vm.Range{Start: 0, Size: 1 << 30}}}, Options{Matcher: needle, Workers: workers, Chunk: 64 << 10})
		if err != nil || !errors.Is(got.Partial, vm.ErrProcessGone) || got.Count != 16 || got.SearchedBytes != 1<<20 || len(got.Unread) != 0 {
			t.Errorf("%d workers: %+v, %v", workers, got, err)
		}
	}
}

func TestScanHugeUnreadable(t *testing.T) {
	// 1 TiB of which nothing can be read but the last 16 pages and a MiB in
	// the middle, which is larger than the distance of the probes.
	const size = 1 << 40
	island := vm.Range{Start: size / 2, Size: 64 << 20}
	calls := 0
	r := readerFunc(func(_ context.Context, p []byte, addr uint64) (int, error) {
		calls++
		for i := 0; i < len(p); i += 4096 - int((addr+uint64(i))%4096) {
			if at := addr + uint64(i); !island.Contains(at) && at < size-16<<12 {
				return i, errors.New("bad address")
			}
		}
		for i := range p {
			p[i] = 'x'
		}
		return len(p), nil
	})
	ms := []vm.Mapping{{Range: vm.Range{Start: 0, Size: size}}}
	needle, _ := NewBytes([]byte("x"))
	got, err := Scan(t.Context(), r, ms, Options{Matcher: needle, Skip: 4096, Probes: 1 << 16})
	if err != nil || got.Partial != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	if calls > 1<<20 {
		t.Errorf("%d reads", calls)
	}
	if want := island.Size>>12 + 16; got.Count != want || got.SearchedBytes != want<<12 {
		t.Errorf("%d hits in %d bytes, want %d", got.Count, got.SearchedBytes, want)
	}
	want := []Unread{{vm.Range{Start: 0, Size: island.Start}, 0, false}, {vm.Range{Start: island.Last() + 1, Size: size - 16<<12 - island.Last() - 1}, 0, false}}
	if d := cmp.Diff(want, got.Unread); d != "" {
		t.Error(d)
	}
	if len(got.Notes) == 0 {
		t.Error("no note")
	}
	if m := got.UnreadMappings(ms); len(m) != 1 || m[0].Whole || m[0].First != 0 {
		t.Errorf("%+v", m)
	}
}

// proberFunc is a readerFunc that asks for few probes.
type proberFunc struct{ readerFunc }

func (proberFunc) Probes() int { return 64 }

func TestScanProber(t *testing.T) {
	// Nothing can be read in 256 MiB, and every try is dear.
	const size = 256 << 20
	calls := 0
	r := proberFunc{func(context.Context, []byte, uint64) (int, error) {
		calls++
		return 0, nil
	}}
	needle, _ := NewBytes([]byte("zq"))
	got, err := Scan(t.Context(), r, []vm.Mapping{{Range: vm.Range{Start: 0x100000, Size: size}, Source: vm.SourceUser}}, Options{Matcher: needle})
	if err != nil || got.Partial != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	if calls > 256 {
		t.Errorf("%d reads", calls)
	}
	if want := []Unread{{vm.Range{Start: 0x100000, Size: size}, 0, false}}; !slices.Equal(got.Unread, want) || len(got.Notes) == 0 {
		t.Errorf("unread %v, notes %q", got.Unread, got.Notes)
	}
}

// watched is a regular expression that tells how often it was told to stop.
type watched struct {
	*regexpMatcher
	stopped chan int
}

func (m watched) findUntil(stop func() bool, longer func(uint64), data []byte, from, to int, align uint64, found func(int, int) int) {
	times := 0
	m.regexpMatcher.findUntil(func() bool {
		if stop() {
			times++
			return true
		}
		return false
	}, longer, data, from, to, align, found)
	m.stopped <- times
}

func TestScanCancelledInRegexp(t *testing.T) {
	// Every a is a start whose match turns out to be too long; each is given up
	// after as many bytes as a match may have.
	expr, err := newRegexp("a.*b", DefaultRegexpLen)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := readerFunc(func(_ context.Context, p []byte, _ uint64) (int, error) {
		for i := range p {
			p[i] = 'a'
		}
		p[len(p)-1] = 'b'
		cancel()
		return len(p), nil
	})
	m := watched{expr, make(chan int, 2)}
	got, err := Scan(ctx, r, []vm.Mapping{{Range: vm.Range{Start: 0x1000, Size: 4 << 20}}}, Options{Matcher: m, Chunk: 4 << 20})
	if err != nil || !errors.Is(got.Partial, context.Canceled) {
		t.Errorf("%+v, %v", got, err)
	}
	<-m.stopped // what it finds in zeros was asked first
	if times := <-m.stopped; times != 1 {
		t.Errorf("the worker was told to stop %d times", times)
	}
	// And in the second pass.
	calls := 0
	text := append(bytes.Repeat([]byte("a"), 64<<10), 'b')
	expr.findUntil(func() bool { calls++; return calls == 3 }, func(uint64) {}, text, 0, len(text), 1, func(at, _ int) int { return at + 1 })
	if calls != 3 {
		t.Errorf("stop was asked %d times", calls)
	}
}

func TestScanUnreadableError(t *testing.T) {
	// The reader knows that half of the mapping cannot be read.
	var calls atomic.Int64
	hole := vm.Range{Start: 1 << 20, Size: 1 << 44}
	r := readerFunc(func(_ context.Context, p []byte, addr uint64) (int, error) {
		calls.Add(1)
		for i := range p {
			if hole.Contains(addr + uint64(i)) {
				return i, &vm.UnreadableError{Range: hole, Err: errors.New("past the end of the file")}
			}
			p[i] = byte(addr + uint64(i))
		}
		return len(p), nil
	})
	needle, _ := NewBytes([]byte{255})
	got, err := Scan(t.Context(), r, []vm.Mapping{{Range: vm.Range{Start: 0, Size: 1<<44 + 2<<20}}}, Options{Matcher: needle, Workers: 2})
	if err != nil || got.Count != 2<<20>>8 || calls.Load() > 100 {
		t.Errorf("%+v, %v with %d reads", got, err, calls.Load())
	}
	if d := cmp.Diff([]Unread{{hole, 0, false}}, got.Unread); d != "" || len(got.Notes) != 0 {
		t.Error(d, got.Notes)
	}
}

// emptyMemory has no pages.
type emptyMemory struct{ vm.Reader }

func (emptyMemory) Populated(_ context.Context, r vm.Range, _ []vm.Extent) (int, uint64, error) {
	return 0, r.Size, nil
}

func TestScanHugeZeros(t *testing.T) {
	ms := []vm.Mapping{{Range: vm.Range{Start: 0, Size: 1 << 47}, Perm: vm.KnownAll, Source: vm.SourceProcfs}}
	r := emptyMemory{readerFunc(func(context.Context, []byte, uint64) (int, error) { return 0, errors.New("read") })}
	zeros, _ := NewBytes(make([]byte, 8))
	other, _ := NewBytes([]byte{0, 0, 1})
	for _, c := range []struct {
		o     Options
		count uint64
		hi    uint64 // address of the last hit
		cap   bool
	}{
		{Options{Matcher: other}, 0, 0, false},
		{Options{Matcher: zeros, Align: 1 << 30}, 1 << 17, 1<<47 - 1<<30, false},
		{Options{Matcher: zeros, Skip: 3 << 38}, 171, 170 * 3 << 38, false},
		{Options{Matcher: zeros, Limit: 5}, 5, 4, false},
		{Options{Matcher: zeros, MaxHits: 10000}, 10000, 9999, true},
		{Options{Matcher: zeros, CountOnly: true}, 1<<47 - 7, 0, false},
		{Options{Matcher: zeros, CountOnly: true, SkipMatch: true}, 1 << 44, 0, false},
		{Options{Matcher: zeros, CountOnly: true, Limit: 1 << 40}, 1 << 40, 0, false},
	} {
		got, err := Scan(t.Context(), r, ms, c.o)
		if err != nil || got.Count != c.count || got.CapReached != c.cap || got.Partial != nil || len(got.Unread) > 0 {
			t.Errorf("%+v: %+v, %v", c.o, got, err)
			continue
		}
		if n := got.Hits.Len(); n > 0 && got.Hits.At(n-1).Address != c.hi {
			t.Errorf("%+v: last hit %#x", c.o, got.Hits.At(n-1).Address)
		}
		if c.o.Limit == 0 && !c.cap && got.SearchedBytes != 1<<47 {
			t.Errorf("%+v: searched %d bytes", c.o, got.SearchedBytes)
		}
	}
}

func TestScanUnknownPopulation(t *testing.T) {
	m := &simMemory{t: t, data: make([]byte, 4*testPage), pages: []simPage{0, 1, 0, 1}}
	m.ms = []vm.Mapping{{Range: vm.Range{Start: 0, Size: 32}, Perm: vm.KnownAll, Source: vm.SourceProcfs}, {Range: vm.Range{Start: 32, Size: 32}, Perm: vm.KnownAll, Source: vm.SourceProcfs}}
	zeros, _ := NewBytes(make([]byte, 4))
	got, err := Scan(t.Context(), unknown{m}, m.ms, Options{Matcher: zeros, PageSize: testPage})
	if err != nil || got.Count != 61 || len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "no rights") {
		t.Errorf("%+v, %v", got, err)
	}
}

type unknown struct{ *simMemory }

func (unknown) Populated(context.Context, vm.Range, []vm.Extent) (int, uint64, error) {
	return 0, 0, errors.New("no rights")
}

func TestScanOptions(t *testing.T) {
	zeros, _ := NewBytes([]byte{0})
	for _, o := range []Options{
		{}, {Matcher: zeros, Workers: 17}, {Matcher: zeros, Workers: -1}, {Matcher: zeros, Chunk: 1},
		{Matcher: zeros, PageSize: 3000}, {Matcher: zeros, MaxHits: -1}, {Matcher: zeros, Probes: -1},
	} {
		if _, err := Scan(t.Context(), unknown{&simMemory{}}, nil, o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	got, err := Scan(t.Context(), unknown{&simMemory{}}, nil, Options{Matcher: zeros})
	if err != nil || got.Count != 0 || got.Partial != nil {
		t.Errorf("no mappings: %+v, %v", got, err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	got, err = Scan(cancelled, unknown{&simMemory{}}, []vm.Mapping{{Range: vm.Range{Start: 0, Size: 1}}}, Options{Matcher: zeros})
	if err != nil || !errors.Is(got.Partial, context.Canceled) {
		t.Errorf("cancelled before: %+v, %v", got, err)
	}
}

func TestPointersAlignByDefault(t *testing.T) {
	m := &simMemory{t: t, data: bytes.Repeat([]byte{1, 0, 0, 0}, 8), pages: make([]simPage, 2)}
	m.ms = []vm.Mapping{{Range: vm.Range{Start: 0, Size: 32}}}
	p, err := NewPointers(8, binary.LittleEndian, []vm.Range{{Start: 0x100000001, Size: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for align, want := range map[uint64]uint64{0: 4, 1: 7, 4: 7, 16: 2} {
		got, err := Scan(t.Context(), m, m.ms, Options{Matcher: p, Align: align, PageSize: testPage})
		if err != nil || got.Count != want {
			t.Errorf("align %d: %d hits, want %d", align, got.Count, want)
		}
	}
}

func TestPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMemory(t)
		var got []int
		for i := range m.data {
			at := m.base + uint64(i)
			n := -1
			for _, p := range pieces(m.ms) {
				if p.Contains(at) {
					if n >= 0 {
						t.Fatalf("%#x is in two pieces", at)
					}
					n = p.mapping
				}
			}
			got = append(got, n)
		}
		var want []int
		for i := range m.data {
			want = append(want, m.holder(m.base+uint64(i)))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("mappings of bytes %v, want %v", got, want)
		}
	})
}
