package search

import (
	"context"
	"errors"
	"slices"
	"sort"
	"time"

	"dbgsh/vm"
)

// Snapshot is the hits of a search with what stood there then, for Refine. It
// is not changed once taken.
type Snapshot struct {
	hits Hits
}

// TakeSnapshot keeps the hits of a search. Nothing is read for it: the search
// itself has seen what stands there.
func TakeSnapshot(res *Result) *Snapshot { return &Snapshot{hits: res.Hits} }

// Len is the number of hits.
func (s *Snapshot) Len() int { return s.hits.Len() }

// AnyIn implements vm.AddressSet by the addresses of the hits.
func (s *Snapshot) AnyIn(r vm.Range) bool {
	i := s.hits.lower(r.Start)
	return i < s.hits.Len() && r.Contains(s.hits.address(i))
}

// lower is the index of the first hit at or above addr.
func (h *Hits) lower(addr uint64) int {
	return sort.Search(h.Len(), func(i int) bool { return h.address(i) >= addr })
}

func (h *Hits) address(i int) uint64 { return h.packed(i).addr }

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
	Swapped bool   // as in Options
}

// Refined is what a refinement found.
type Refined struct {
	Result
	// Unmapped is how many hits of the snapshot lie in none of the mappings.
	// They are dropped.
	Unmapped int
	// Undecided is how many hits could not be read or come behind the limit.
	Undecided int
	// Snapshot is for the next refinement: the hits found, as they are now, and
	// the undecided ones as they were. After a refinement that ended early it
	// is the old one.
	Snapshot *Snapshot
}

// Refine looks again at the places where an earlier search had its hits, and
// nowhere else. The mappings are sorted as in a Map; places that are in none of
// them are not read. A match keeps the length it had where there is no matcher.
// The reader is used as in Scan, and left behind as there. The error is one of
// the options.
func Refine(ctx context.Context, r vm.Reader, ms []vm.Mapping, s *Snapshot, o RefineOptions) (*Refined, error) {
	if o.Matcher == nil && o.Change == AnyChange {
		return nil, errors.New("refine: neither a value nor a change is asked for")
	}
	leaveSwapped(r, !o.Swapped)
	done := make(chan *Refined, 1)
	go func() { done <- refineAll(ctx, r, ms, s, o) }()
	select {
	case res := <-done:
		return res, nil
	case <-ctx.Done():
	}
	select {
	case res := <-done:
		return res, nil
	case <-time.After(grace):
		res := &Refined{Snapshot: s}
		res.Partial = context.Cause(ctx)
		return res, nil
	}
}

func refineAll(ctx context.Context, r vm.Reader, ms []vm.Mapping, s *Snapshot, o RefineOptions) *Refined {
	res := &Refined{}
	w := newWindow(r, ms)
	w.swapped = o.Swapped
	undecided, rest := refine(ctx, w, s, o, res)
	for _, reason := range w.reasons {
		res.Notes = append(res.Notes, noteUntouched(reason))
	}
	if res.Partial != nil {
		res.Snapshot = s
		return res
	}
	for ; rest < s.Len(); rest++ {
		undecided = append(undecided, rest)
	}
	res.Undecided = len(undecided)
	res.Snapshot = s.after(&res.Hits, undecided)
	return res
}

// after is the found hits and, of the snapshot, those that are undecided.
func (s *Snapshot) after(found *Hits, undecided []int) *Snapshot {
	if len(undecided) == 0 {
		return &Snapshot{hits: *found}
	}
	next := &Snapshot{}
	i := 0
	for _, u := range undecided {
		old := s.hits.packed(u)
		for ; i < found.Len() && found.address(i) < old.addr; i++ {
			next.hits.addPacked(*found.packed(i))
		}
		next.hits.addPacked(*old)
	}
	for ; i < found.Len(); i++ {
		next.hits.addPacked(*found.packed(i))
	}
	return next
}

// refine fills in res but for its snapshot. It returns the hits that could not
// be read, and the first that was not looked at.
func refine(ctx context.Context, w *window, s *Snapshot, o RefineOptions, res *Refined) (undecided []int, rest int) {
	seen := make(map[int]bool)
	next := uint64(0) // the lowest place that is not passed over
	started := false
	for i, h := range s.hits.All() {
		if ctx.Err() != nil {
			res.Partial = context.Cause(ctx)
			return nil, i
		}
		if o.Align > 1 && h.Address%o.Align != 0 || started && h.Address < next {
			continue
		}
		p, mapped := w.piece(h.Address)
		if !mapped {
			res.Unmapped++
			continue
		}
		m := w.pieces[p].mapping
		now, err := w.check(ctx, s, i, h, o)
		if err != nil {
			res.Partial = err
			return nil, i
		}
		if now.unread {
			undecided = append(undecided, i)
			whole := vm.Range{Start: h.Address, Size: min(uint64(h.Len)-1, w.ms[m].Last()-h.Address) + 1}
			res.Unread = append(res.Unread, Unread{whole, m, errors.Is(w.why, vm.ErrSwapped)})
			continue
		}
		if now.longer {
			res.Longer++
		}
		res.SearchedBytes += uint64(now.size)
		if !seen[m] {
			seen[m] = true
			res.SearchedMappings++
		}
		if !now.kept {
			continue
		}
		preview, err := w.at(ctx, h.Address, PreviewSize)
		if err != nil {
			res.Partial = err
			return nil, i
		}
		res.Hits.add(h.Address, now.size, m, preview, now.sum)
		res.Count++
		if o.Limit > 0 && res.Count == o.Limit {
			res.LimitReached = true
			return undecided, i + 1
		}
		if o.Skip > 0 {
			next, started = h.Address+o.Skip, true
			if next < h.Address {
				break
			}
		}
	}
	return undecided, s.Len()
}

// checked is what check found out about a hit.
type checked struct {
	kept, unread bool
	longer       bool   // see Result
	size         int    // of the match now, in bytes
	sum          uint64 // of the match
}

// check looks again at hit i of the snapshot.
func (w *window) check(ctx context.Context, s *Snapshot, i int, h Hit, o RefineOptions) (now checked, err error) {
	now.size = h.Len
	if o.Change != AnyChange {
		b, err := w.at(ctx, h.Address, h.Len)
		if err != nil {
			return now, err
		}
		if len(b) < h.Len {
			return checked{unread: true}, nil
		}
		now.sum = sumOf(b)
		known := min(h.Len, len(h.Preview))
		same := string(b[:known]) == string(h.Preview[:known]) && now.sum == s.hits.packed(i).sum
		if same != (o.Change == Unchanged) {
			return now, nil
		}
	}
	if o.Matcher == nil {
		now.kept = true
		return now, nil
	}
	before := 0
	if l, looks := o.Matcher.(Lookbehind); looks && l.LooksBehind() && h.Address > 0 && w.run(h.Address-1).Contains(h.Address) {
		before = 1
	}
	b, err := w.at(ctx, h.Address-uint64(before), o.Matcher.Span()+before)
	if err == nil && before > 0 && len(b) == 0 { // the byte before cannot be read
		before = 0
		b, err = w.at(ctx, h.Address, o.Matcher.Span())
	}
	if err != nil {
		return now, err
	}
	if len(b) <= before {
		return checked{unread: true}, nil
	}
	n, longer := matchAt(o.Matcher, b, before)
	if now.longer = longer; n > 0 {
		now.kept, now.size, now.sum = true, n, sumOf(b[before:before+n])
	}
	return now, nil
}

// window is the part of memory that was read last. It reads as gently as the
// reader can, see Scan.
type window struct {
	reader  vm.Reader
	mapping vm.MappingReader // nil where the reader is not
	sparse  vm.Sparse        // nil where the reader is not
	swapped bool             // what is in swap is read
	reasons []string         // why sparse could not tell
	ms      []vm.Mapping
	pieces  []piece
	runs    []vm.Range // what may be read
	start   uint64
	buf     []byte
	whole   bool  // a read of buf was not cut short
	why     error // why it was, where that is known
}

func newWindow(r vm.Reader, ms []vm.Mapping) *window {
	w := &window{reader: r, ms: ms, pieces: pieces(ms)}
	w.mapping, _ = r.(vm.MappingReader)
	w.sparse, _ = r.(vm.Sparse)
	for _, p := range w.pieces {
		w.runs = append(w.runs, p.Range)
	}
	w.runs = vm.Union(w.runs)
	return w
}

// piece is the index of the piece that holds addr.
func (w *window) piece(addr uint64) (i int, ok bool) {
	i = sort.Search(len(w.pieces), func(i int) bool { return w.pieces[i].Start > addr }) - 1
	return i, i >= 0 && w.pieces[i].Contains(addr)
}

// run is the run of mappings that holds addr, empty if none does.
func (w *window) run(addr uint64) vm.Range {
	i := sort.Search(len(w.runs), func(i int) bool { return w.runs[i].Start > addr }) - 1
	if i < 0 || !w.runs[i].Contains(addr) {
		return vm.Range{}
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
	n = int(min(uint64(n)-1, run.Last()-addr)) + 1
	if off := addr - w.start; off < uint64(len(w.buf)) && (off+uint64(n) <= uint64(len(w.buf)) || !w.whole) {
		return w.buf[off:min(off+uint64(n), uint64(len(w.buf)))], nil
	}
	// To the end of the last page, which the read touches anyway.
	last := addr + uint64(n) - 1
	last |= DefaultPageSize - 1
	size := int(min(last, run.Last())-addr) + 1
	if cap(w.buf) < size {
		w.buf = make([]byte, size)
	}
	got, err := w.read(ctx, w.buf[:size], addr)
	w.start, w.buf, w.whole, w.why = addr, w.buf[:got], got == size, err
	if err != nil && (ctx.Err() != nil || errors.Is(err, vm.ErrProcessGone)) {
		return nil, err
	}
	return w.buf[:min(n, got)], nil
}

// read fills b, all of which lies in one run, mapping by mapping.
func (w *window) read(ctx context.Context, b []byte, addr uint64) (n int, err error) {
	for i, _ := w.piece(addr); n < len(b); i++ {
		at, p := addr+uint64(n), w.pieces[i]
		end := n + int(min(uint64(len(b)-n)-1, p.Last()-at)) + 1
		k, err := w.readPiece(ctx, w.ms[p.mapping], b[n:end], at)
		if n += k; n < end {
			return n, err
		}
	}
	return n, nil
}

// readPiece fills b, all of which lies in the mapping, without making pages
// exist that the debuggee has not touched.
func (w *window) readPiece(ctx context.Context, m vm.Mapping, b []byte, addr uint64) (n int, err error) {
	if w.sparse == nil || !m.Sparse() {
		return w.readMemory(ctx, m, b, addr)
	}
	var into [16]vm.Extent
	for n < len(b) {
		rest := vm.Range{Start: addr + uint64(n), Size: uint64(len(b) - n)}
		k, known, err := w.sparse.Populated(ctx, rest, into[:])
		switch {
		case err != nil && (ctx.Err() != nil || errors.Is(err, vm.ErrProcessGone)):
			return n, err
		case err == nil:
			err = answers(rest, known, into[:], k)
		}
		if err != nil {
			if reason := err.Error(); !slices.Contains(w.reasons, reason) {
				w.reasons = append(w.reasons, reason)
			}
			k, err := w.readMemory(ctx, m, b[n:], rest.Start)
			return n + k, err
		}
		end := n + int(known)
		for _, e := range into[:k] {
			from := int(e.Start - addr)
			clear(b[n:from])
			switch n = from; {
			case e.Unreadable:
				return n, nil
			case e.Swapped && !w.swapped:
				return n, vm.ErrSwapped
			}
			got, err := w.readMemory(ctx, m, b[n:n+int(e.Size)], e.Start)
			if n += got; got < int(e.Size) {
				return n, err
			}
		}
		clear(b[n:end])
		n = end
	}
	return n, nil
}

func (w *window) readMemory(ctx context.Context, m vm.Mapping, b []byte, addr uint64) (int, error) {
	if w.mapping != nil {
		return w.mapping.ReadMapping(ctx, m, b, addr)
	}
	return w.reader.ReadMemory(ctx, b, addr)
}
