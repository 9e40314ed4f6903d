package vm

import (
	"context"
	"errors"
	"hash/maphash"
	"sort"
)

// Snapshot is the hits of a search with what stood there then, for Refine. It
// is not changed once taken.
type Snapshot struct {
	hits Hits
	// sums are of the matches that are longer than a preview; nil if none is.
	sums map[int]uint64
	seed maphash.Seed
}

// TakeSnapshot keeps the hits of a search that has just been made with the
// same reader over the same mappings. Matches longer than a preview are read again.
func TakeSnapshot(ctx context.Context, r Reader, ms []Mapping, res *ScanResult) *Snapshot {
	s := &Snapshot{hits: res.Hits, seed: maphash.MakeSeed()}
	w := window{reader: r, runs: runsOf(ms)}
	for i, h := range res.Hits.All() {
		if h.Len <= PreviewSize {
			continue
		}
		if s.sums == nil {
			s.sums = make(map[int]uint64)
		}
		if b, err := w.at(ctx, h.Address, h.Len); err == nil && len(b) == h.Len {
			s.sums[i] = maphash.Bytes(s.seed, b)
		}
	}
	return s
}

// Len is the number of hits.
func (s *Snapshot) Len() int { return s.hits.Len() }

// Region selects the mappings that hold hits.
func (s *Snapshot) Region(given string) Region {
	return Region{kind: regionHits, hits: &s.hits, given: given}
}

// lower is the index of the first hit at or above addr.
func (h *Hits) lower(addr uint64) int {
	return sort.Search(h.Len(), func(i int) bool { return h.address(i) >= addr })
}

func (h *Hits) address(i int) uint64 { return h.blocks[i/hitBlock][i%hitBlock].addr }

// Change is what Refine asks of a place besides what the matcher does.
type Change uint8

// The changes that Refine knows.
const (
	AnyChange Change = iota
	Changed          // other bytes stand there than in the snapshot
	Unchanged        // the same bytes stand there
)

// RefineOptions say which hits of a snapshot are kept.
type RefineOptions struct {
	Matcher Matcher // what must stand there now; nil is anything
	Change  Change
	Align   uint64 // only addresses that are multiples of it; 0 is any
	Skip    uint64 // places less than this many bytes above a hit are passed over; 0 is none
	Limit   uint64 // stop after so many hits; 0 is never
}

// Refine looks again at the places where an earlier search had its hits, and
// nowhere else. The mappings are sorted as in a Map; places that are in none of
// them are not read, and Unmapped counts them. A match keeps the length it had
// where there is no matcher. The error is one of the options; else see Scan.
func Refine(ctx context.Context, r Reader, ms []Mapping, s *Snapshot, o RefineOptions) (res *ScanResult, unmapped int, err error) {
	if o.Matcher == nil && o.Change == AnyChange {
		return nil, 0, errors.New("refine: neither a value nor a change is asked for")
	}
	res = &ScanResult{}
	w := window{reader: r, runs: runsOf(ms)}
	seen := make(map[int]bool)
	next := uint64(0) // the lowest place that is not passed over
	started := false
	for i, h := range s.hits.All() {
		if ctx.Err() != nil {
			res.Partial = context.Cause(ctx)
			break
		}
		if o.Align > 1 && h.Address%o.Align != 0 || started && h.Address < next {
			continue
		}
		m := sort.Search(len(ms), func(i int) bool { return ms[i].Start > h.Address }) - 1
		for m >= 0 && !ms[m].Contains(h.Address) {
			m--
		}
		if m < 0 {
			unmapped++
			continue
		}
		length, ok, err := w.check(ctx, s, i, h, o)
		if err != nil {
			res.Partial = err
			break
		}
		if length < 0 {
			res.Unread = append(res.Unread, Unread{Range{Start: h.Address, Size: min(uint64(h.Len)-1, ms[m].Last()-h.Address) + 1}, m})
			continue
		}
		res.SearchedBytes += uint64(length)
		if !seen[m] {
			seen[m] = true
			res.SearchedMappings++
		}
		if !ok {
			continue
		}
		preview, err := w.at(ctx, h.Address, PreviewSize)
		if err != nil {
			res.Partial = err
			break
		}
		res.Hits.add(h.Address, length, m, preview)
		res.Count++
		if o.Limit > 0 && res.Count == o.Limit {
			res.LimitReached = true
			break
		}
		if o.Skip > 0 {
			next, started = h.Address+o.Skip, true
			if next < h.Address {
				break
			}
		}
	}
	return res, unmapped, nil
}

// check reports whether hit i of the snapshot is kept, and how long the match
// is now; length is negative where it cannot be read.
func (w *window) check(ctx context.Context, s *Snapshot, i int, h Hit, o RefineOptions) (length int, ok bool, err error) {
	length = h.Len
	if o.Change != AnyChange {
		b, err := w.at(ctx, h.Address, h.Len)
		if err != nil {
			return 0, false, err
		}
		if len(b) < h.Len {
			return -1, false, nil
		}
		same := string(b) == string(h.Preview[:min(h.Len, len(h.Preview))])
		if h.Len > PreviewSize {
			sum, known := s.sums[i]
			if !known {
				return -1, false, nil
			}
			same = sum == maphash.Bytes(s.seed, b)
		}
		if same != (o.Change == Unchanged) {
			return length, false, nil
		}
	}
	if o.Matcher == nil {
		return length, true, nil
	}
	before := 0
	if l, looks := o.Matcher.(Lookbehind); looks && l.LooksBehind() && h.Address > 0 && w.run(h.Address-1).Size > 0 {
		before = 1
	}
	b, err := w.at(ctx, h.Address-uint64(before), o.Matcher.Span()+before)
	if err != nil {
		return 0, false, err
	}
	if len(b) <= before {
		return -1, false, nil
	}
	o.Matcher.Find(b, before, before+1, 1, func(_, n int) int {
		length, ok = n, true
		return before + 1
	})
	return length, ok, nil
}

// window is the part of memory that was read last.
type window struct {
	reader Reader
	runs   []Range // what may be read
	start  uint64
	buf    []byte
	whole  bool // a read of buf was not cut short
}

func runsOf(ms []Mapping) []Range {
	rs := make([]Range, len(ms))
	for i := range ms {
		rs[i] = ms[i].Range
	}
	return Union(rs)
}

// run is the run of mappings that holds addr, empty if none does.
func (w *window) run(addr uint64) Range {
	i := sort.Search(len(w.runs), func(i int) bool { return w.runs[i].Start > addr }) - 1
	if i < 0 || !w.runs[i].Contains(addr) {
		return Range{}
	}
	return w.runs[i]
}

// at is up to n bytes at addr, fewer where the run ends or where memory cannot
// be read. It is valid until the next call.
func (w *window) at(ctx context.Context, addr uint64, n int) ([]byte, error) {
	run := w.run(addr)
	if run.Size == 0 {
		return nil, nil
	}
	n = int(min(uint64(n), run.Last()-addr+1))
	if off := addr - w.start; off < uint64(len(w.buf)) && (off+uint64(n) <= uint64(len(w.buf)) || !w.whole) {
		return w.buf[off:min(off+uint64(n), uint64(len(w.buf)))], nil
	}
	// To the end of the last page, which the read touches anyway.
	last := addr + uint64(n) - 1
	last |= DefaultPageSize - 1
	size := int(min(last, run.Last()) - addr + 1)
	if cap(w.buf) < size {
		w.buf = make([]byte, size)
	}
	got, err := w.reader.ReadMemory(ctx, w.buf[:size], addr)
	w.start, w.buf, w.whole = addr, w.buf[:got], got == size
	if err != nil && (ctx.Err() != nil || errors.Is(err, ErrProcessGone)) {
		return nil, err
	}
	return w.buf[:min(n, got)], nil
}
