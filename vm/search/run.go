package search

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"time"

	"dbgsh/vm"
)

// grace is how long a cancelled search waits for its workers to come back from
// the reader, before it leaves them behind.
const grace = 20 * time.Millisecond

// dense is the number of hits, and denseBytes of bytes in them, after which a
// cancellation is looked for.
const (
	dense      = 4 << 10
	denseBytes = 16 << 20
)

// stoppable is a Matcher that may take long from one match to the next, and does
// not look at all of a match that is long itself.
type stoppable interface {
	// findUntil is Find that comes back early where stop says so. It tells longer of
	// so many more places where there may be a longer match than it follows: of
	// those without a shorter one, and of those with one before found is told.
	findUntil(stop func() bool, longer func(places uint64), data []byte, from, to int, align uint64, found func(at, length int) (next int))
}

// scan is one search under way. Workers take jobs from the planner, read and
// match them side by side, and add what they found in the order of the jobs.
type scan struct {
	ctx     context.Context
	reader  vm.Reader
	mapping vm.MappingReader // nil where the reader is not
	ms      []vm.Mapping
	o       Options
	total   uint64 // bytes to search
	behind  uint64 // bytes before a start that the matcher sees, 0 or 1
	zeros   int    // length of a match in zeros, 0 for none
	zeroSum uint64 // sumOf that match
	zeroOn  bool   // in zeros there may be a longer match everywhere

	planning sync.Mutex // guards plan
	plan     planner

	// Belongs to the worker whose turn it is.
	resume  uint64 // the lowest address at which the next hit may start
	closed  bool   // there is no such address
	failing uint64 // bytes just before the next job that all failed to be read

	merging  sync.Mutex // guards what follows
	turnOver sync.Cond
	turn     uint64 // seq of the job to be merged next
	ended    bool   // nothing is to be added to result any more
	result   Result
	seen     []bool // mappings of which a byte was searched
	done     uint64 // of total
}

// newScan is a search of the pieces, which are parts of the mappings.
func newScan(ctx context.Context, r vm.Reader, ms []vm.Mapping, ps []piece, o Options) *scan {
	s := &scan{ctx: ctx, reader: r, ms: ms, o: o, seen: make([]bool, len(ms))}
	s.turnOver.L = &s.merging
	s.mapping, _ = r.(vm.MappingReader)
	if l, ok := o.Matcher.(Lookbehind); ok && l.LooksBehind() {
		s.behind = 1
	}
	s.zeros, s.zeroOn = zeroMatch(o.Matcher)
	s.zeroSum = sumOf(make([]byte, s.zeros))
	s.plan = planner{
		ms: ms, page: o.PageSize, chunk: uint64(o.Chunk), behind: s.behind,
		tail:   uint64(max(o.Matcher.Span(), PreviewSize)) - 1,
		pieces: ps, into: make([]vm.Extent, populatedBatch), swapped: o.Swapped,
	}
	s.plan.sparse, _ = r.(vm.Sparse)
	for _, p := range ps {
		sum, carry := bits.Add64(s.total, p.Size, 0)
		s.total = sum | -carry
	}
	return s
}

func (s *scan) run() *Result {
	var workers sync.WaitGroup
	for range s.o.Workers {
		workers.Go(func() {
			w := worker{scan: s}
			w.run()
		})
	}
	all := make(chan struct{})
	go func() { workers.Wait(); close(all) }()
	select {
	case <-all:
	case <-s.ctx.Done():
		select {
		case <-all:
		case <-time.After(grace):
		}
	}
	s.merging.Lock()
	defer s.merging.Unlock()
	s.end(s.ctx.Err())
	return s.finish()
}

// reached is the first address that was not searched; ok is false if there is none.
func (s *scan) reached() (addr uint64, ok bool) {
	s.merging.Lock()
	defer s.merging.Unlock()
	left := s.done
	for _, p := range s.plan.pieces {
		if left < p.Size {
			return p.Start + left, true
		}
		left -= p.Size
	}
	return 0, false
}

// finish is the result as it is now. The caller holds merging, or nobody else
// has the scan.
func (s *scan) finish() *Result {
	r := s.result
	for _, seen := range s.seen {
		if seen {
			r.SearchedMappings++
		}
	}
	return &r
}

// end ends the search, once; where something is left to do, err is why. The
// caller holds merging.
func (s *scan) end(err error) {
	if s.ended {
		return
	}
	s.ended = true
	if s.done < s.total {
		s.result.Partial = err
	}
	s.turnOver.Broadcast()
}

// find is a match in a worker's buffer.
type find struct {
	at, size int
	sum      uint64 // sumOf a match that is to be kept
	longer   uint64 // see Result, of the job up to here
}

// hole is a part of a worker's buffer that could not be read.
type hole struct {
	at, size int
	kind     kind // kindHole or kindSwap
}

// worker does jobs. All it has is reused from job to job.
type worker struct {
	*scan
	job    job
	buf    []byte   // the bytes of job.segs
	holes  []hole   // in buf, ascending
	finds  []find   // in buf, ascending
	longer uint64   // see Result, of the job
	skip   vm.Range // addresses that the reader said cannot be read
	why    kind     // what these are, kindHole or kindSwap
}

func (w *worker) run() {
	for {
		w.planning.Lock()
		more, err := w.plan.next(w.ctx, &w.job)
		w.planning.Unlock()
		if !more && err == nil {
			return
		}
		if err == nil && w.job.kind == kindData {
			if err = w.read(); err == nil {
				err = w.match(0)
			}
		}
		if !w.takeTurn() {
			return
		}
		if err == nil {
			err = w.merge()
		}
		w.merging.Lock()
		if err != nil {
			w.end(err)
		}
		w.turn++
		w.turnOver.Broadcast()
		ended := w.ended
		w.merging.Unlock()
		if ended {
			return
		}
	}
}

// takeTurn waits until all earlier jobs are merged; false means that the
// search has ended.
func (w *worker) takeTurn() bool {
	w.merging.Lock()
	defer w.merging.Unlock()
	for !w.ended && w.turn != w.job.seq {
		w.turnOver.Wait()
	}
	return !w.ended
}

// read fills the buffer with what the job is to see and notes the holes.
func (w *worker) read() error {
	segs := w.job.segs
	first := segs[0].off
	size := int(segs[len(segs)-1].end() - first)
	if cap(w.buf) < size {
		w.buf = make([]byte, size, max(size, int(1+w.plan.chunk+w.plan.tail)))
	}
	w.buf, w.holes, w.skip = w.buf[:size], w.holes[:0], vm.Range{}
	for _, e := range segs {
		at := int(e.off - first)
		if e.kind == kindZero {
			clear(w.buf[at : at+int(e.size)])
		} else if err := w.readSegment(at, at+int(e.size), w.job.base+first, e.mapping); err != nil {
			return err
		}
	}
	return nil
}

// readSegment reads buf[at:end], which lies in one mapping, page by page behind
// what cannot be read. Base is the address of buf.
func (w *worker) readSegment(at, end int, base uint64, mapping int) error {
	for at < end {
		addr := base + uint64(at)
		bad := vm.Range{Start: addr, Size: w.o.PageSize - addr%w.o.PageSize}
		k := kindHole
		if w.skip.Contains(addr) {
			k, bad.Size = w.why, w.skip.Last()-addr+1
		} else {
			n, err := w.readMemory(w.ms[mapping], w.buf[at:end], addr)
			if at += max(0, min(n, end-at)); at == end {
				return nil
			}
			if w.ctx.Err() != nil {
				return w.ctx.Err()
			}
			if errors.Is(err, vm.ErrProcessGone) {
				return err
			}
			addr = base + uint64(at)
			bad = vm.Range{Start: addr, Size: w.o.PageSize - addr%w.o.PageSize}
			if errors.Is(err, vm.ErrSwapped) {
				k = kindSwap
			}
			var u *vm.UnreadableError
			if errors.As(err, &u) && u.Range.Valid() && u.Range.Contains(addr) {
				w.skip, w.why = u.Range, k
				bad.Size = u.Range.Last() - addr + 1
			}
		}
		size := int(min(uint64(end-at), bad.Size))
		if n := len(w.holes); n > 0 && w.holes[n-1].kind == k && w.holes[n-1].at+w.holes[n-1].size == at {
			w.holes[n-1].size += size
		} else {
			w.holes = append(w.holes, hole{at, size, k})
		}
		at += size
	}
	return nil
}

func (s *scan) readMemory(m vm.Mapping, p []byte, addr uint64) (int, error) {
	if s.mapping != nil {
		return s.mapping.ReadMapping(s.ctx, m, p, addr)
	}
	return s.reader.ReadMemory(s.ctx, p, addr)
}

// match finds the hits of the job that start at address resume or above.
func (w *worker) match(resume uint64) error {
	w.finds, w.longer = w.finds[:0], 0
	first := w.job.segs[0].off
	base := w.job.base + first
	lo, hi := int(w.job.lo-first), int(w.job.hi-first)
	if resume > base {
		if resume-base >= uint64(hi) {
			return nil
		}
		lo = max(lo, int(resume-base))
	}
	start := 0
	for i := 0; i <= len(w.holes); i++ {
		end := hole{at: len(w.buf)}
		if i < len(w.holes) {
			end = w.holes[i]
		}
		from, to := max(lo, start), min(hi, end.at)
		next, err := w.matchStretch(base, start, from, to, end.at)
		if err != nil || w.full(uint64(len(w.finds))) {
			return err
		}
		lo = max(lo, next)
		start = end.at + end.size
	}
	return nil
}

// matchStretch finds the hits that start in buf[from:to] and see what is in
// buf[start:end]. It returns where the next may start.
func (w *worker) matchStretch(base uint64, start, from, to, end int) (int, error) {
	if from >= to {
		return from, nil
	}
	if rest := (base + uint64(from)) % w.o.Align; rest != 0 {
		gap := w.o.Align - rest
		if gap >= uint64(to-from) {
			return from, nil
		}
		from += int(gap)
	}
	next, matched, err := start, 0, error(nil)
	found := func(at, length int) int {
		at += start
		f := find{at: at, size: length, longer: w.longer}
		if !w.o.CountOnly {
			f.sum = sumOf(w.buf[at : at+length])
		}
		w.finds = append(w.finds, f)
		if w.full(uint64(len(w.finds))) {
			return end
		}
		if matched += length; len(w.finds)%dense == 0 || matched >= denseBytes {
			matched = 0
			if err = w.ctx.Err(); err != nil {
				return end
			}
		}
		next = len(w.buf)
		if step := w.step(length); step < uint64(next-at) {
			next = at + int(step)
		}
		return next - start
	}
	m, ok := w.o.Matcher.(stoppable)
	if !ok {
		w.o.Matcher.Find(w.buf[start:end], from-start, to-start, w.o.Align, found)
		return next, err
	}
	stop := func() bool {
		if err == nil {
			err = w.ctx.Err()
		}
		return err != nil
	}
	longer := func(places uint64) { w.longer += places }
	m.findUntil(stop, longer, w.buf[start:end], from-start, to-start, w.o.Align, found)
	return next, err
}

// step is how far behind the start of a hit the next may start.
func (s *scan) step(length int) uint64 {
	if s.o.SkipMatch {
		return max(s.o.Skip, uint64(length))
	}
	return s.o.Skip
}

// full reports whether n hits are all that may be found.
func (s *scan) full(n uint64) bool {
	return s.o.Limit > 0 && n >= s.o.Limit || !s.o.CountOnly && n >= uint64(s.o.MaxHits)
}

// merge adds what the job found to the result. It is the worker's turn.
func (w *worker) merge() error {
	var (
		err error
		hi  = w.job.hi // how far the job was searched
	)
	switch w.job.kind {
	case kindData:
		if hi, err = w.mergeFinds(); err == nil {
			err = w.afterHoles()
		}
	case kindZero:
		hi, err = w.mergeZeros()
		w.failing = 0
	default:
		w.failing, w.longer = 0, 0
	}
	if err != nil {
		return err
	}
	w.merging.Lock()
	defer w.merging.Unlock()
	if w.ended {
		return nil
	}
	for _, reason := range w.job.reasons {
		w.result.Notes = append(w.result.Notes, noteUntouched(reason))
	}
	w.account(hi)
	w.result.Longer += w.longer
	w.done += w.job.hi - w.job.lo
	if w.o.Progress != nil {
		w.o.Progress(min(w.done, w.total), w.total)
	}
	switch n := w.result.Count; {
	case w.o.Limit > 0 && n >= w.o.Limit:
		w.result.LimitReached = true
		w.end(nil)
	case w.full(n):
		w.result.CapReached = true
		w.end(nil)
	}
	return nil
}

// account adds the job's range from lo to hi to what was searched and what
// could not be read. The caller holds merging.
func (w *worker) account(hi uint64) {
	first := w.job.segs[0].off
	holes := w.holes
	if w.job.kind != kindData {
		holes = nil
	}
	for _, e := range w.job.segs {
		at, end := max(e.off, w.job.lo), min(e.end(), hi)
		if at >= end {
			continue
		}
		if e.kind.hole() {
			w.unread(vm.Range{Start: w.job.base + at, Size: end - at}, e.mapping, e.kind == kindSwap)
			continue
		}
		for _, h := range holes {
			from, to := max(at, first+uint64(h.at)), min(end, first+uint64(h.at+h.size))
			if from < to {
				w.searched(from-at, e.mapping)
				w.unread(vm.Range{Start: w.job.base + from, Size: to - from}, e.mapping, h.kind == kindSwap)
				at = to
			}
		}
		w.searched(end-at, e.mapping)
	}
}

func (s *scan) searched(size uint64, mapping int) {
	if size > 0 {
		s.result.SearchedBytes += size
		s.seen[mapping] = true
	}
}

func (s *scan) unread(r vm.Range, mapping int, swapped bool) {
	s.result.Unread = appendUnread(s.result.Unread, Unread{r, mapping, swapped})
}

// appendUnread adds what lies behind all of us, merged with the last one.
func appendUnread(us []Unread, u Unread) []Unread {
	if n := len(us); n > 0 {
		last := &us[n-1]
		if last.Mapping == u.Mapping && last.Swapped == u.Swapped && last.Last()+1 == u.Start {
			last.Size += u.Size
			return us
		}
	}
	return append(us, u)
}

// mergeFinds adds the hits of a job that was read, and returns the end of what
// was searched for them.
func (w *worker) mergeFinds() (hi uint64, err error) {
	first := w.job.segs[0].off
	base := w.job.base + first
	if w.closed {
		w.finds, w.longer = w.finds[:0], 0
	}
	if len(w.finds) > 0 && base+uint64(w.finds[0].at) < w.resume || w.longer > 0 && base < w.resume {
		if err := w.match(w.resume); err != nil {
			return 0, err
		}
	}
	seg, hole := 0, 0
	for finds := w.finds; len(finds) > 0; {
		batch := finds[:min(len(finds), dense)]
		finds = finds[len(batch):]
		w.merging.Lock()
		for _, f := range batch {
			if w.ended {
				break
			}
			for w.job.segs[seg].end() <= first+uint64(f.at) {
				seg++
			}
			for hole < len(w.holes) && w.holes[hole].at < f.at {
				hole++
			}
			end := len(w.buf)
			if hole < len(w.holes) {
				end = w.holes[hole].at
			}
			w.add(base+uint64(f.at), f.size, w.job.segs[seg].mapping, w.buf[f.at:min(end, f.at+PreviewSize)], f.sum)
			if w.full(w.result.Count) {
				w.merging.Unlock()
				w.longer = f.longer
				return min(w.job.hi, first+uint64(f.at+f.size)), nil
			}
		}
		w.merging.Unlock()
	}
	return w.job.hi, nil
}

// add adds a hit. The caller holds merging.
func (s *scan) add(addr uint64, length, mapping int, preview []byte, sum uint64) {
	s.result.Count++
	if !s.o.CountOnly {
		s.result.Hits.add(addr, length, mapping, preview, sum)
	}
	s.proceed(addr, s.step(length))
}

// proceed lets the next hit start step bytes behind addr.
func (s *scan) proceed(addr, step uint64) {
	next, carry := bits.Add64(addr, step, 0)
	s.resume, s.closed = next, carry != 0
}

// mergeZeros adds the hits in a job of zeros, and returns the end of what was
// searched for them.
func (w *worker) mergeZeros() (hi uint64, err error) {
	if w.longer = 0; w.zeros == 0 && !w.zeroOn || w.closed {
		return w.job.hi, nil
	}
	var zeros [PreviewSize]byte
	at, last := w.job.base+w.job.lo, w.job.base+w.job.hi-1
	if w.resume > at {
		if at = w.resume; at > last {
			return w.job.hi, nil
		}
	}
	if rest := at % w.o.Align; rest != 0 {
		if w.o.Align-rest > last-at {
			return w.job.hi, nil
		}
		at += w.o.Align - rest
	}
	if w.zeros == 0 {
		w.longer = (last-at)/w.o.Align + 1
		return w.job.hi, nil
	}
	if w.zeroOn {
		before := w.result.Count
		defer func() { w.longer = w.result.Count - before }() // nobody else adds to it
	}
	// A multiple of Align that is not less than what is asked for.
	step := w.step(w.zeros)
	if rest := step % w.o.Align; rest != 0 {
		var carry uint64
		if step, carry = bits.Add64(step, w.o.Align-rest, 0); carry != 0 {
			step = math.MaxUint64
		}
	}
	if w.o.CountOnly {
		n := (last-at)/step + 1
		w.merging.Lock()
		defer w.merging.Unlock()
		if w.ended {
			return 0, nil
		}
		if left := w.o.Limit - w.result.Count; w.o.Limit > 0 {
			n = min(n, left)
		}
		w.result.Count += n
		at += (n - 1) * step
		w.proceed(at, w.step(w.zeros))
		if w.full(w.result.Count) {
			return min(w.job.hi, at-w.job.base+uint64(w.zeros)), nil
		}
		return w.job.hi, nil
	}
	for {
		w.merging.Lock()
		for range dense {
			if w.ended {
				break
			}
			w.add(at, w.zeros, w.job.segs[0].mapping, zeros[:], w.zeroSum)
			full := w.full(w.result.Count)
			if full || step > last-at {
				w.merging.Unlock()
				if full {
					return min(w.job.hi, at-w.job.base+uint64(w.zeros)), nil
				}
				return w.job.hi, nil
			}
			at += step
		}
		ended := w.ended
		w.merging.Unlock()
		if ended || w.ctx.Err() != nil {
			return 0, w.ctx.Err()
		}
	}
}

// afterHoles counts the bytes that failed to be read in a row, and where that
// is too many pages, looks from afar for where reading works again.
func (w *worker) afterHoles() error {
	if w.skip.Size > 0 {
		w.planning.Lock()
		w.plan.skip, w.plan.skipped = w.skip, w.why
		w.planning.Unlock()
	}
	first := w.job.segs[0].off
	lo, hi := int(w.job.lo-first), int(w.job.hi-first)
	trailing := 0
	for _, h := range w.holes {
		// What is in swap is no failure: the next byte behind it may be read.
		if h.at < hi && h.at+h.size >= hi && h.kind == kindHole {
			trailing = hi - max(h.at, lo)
		}
	}
	if trailing < hi-lo {
		w.failing = 0
	}
	w.failing += uint64(trailing)
	if w.failing/w.o.PageSize < uint64(w.o.Probes) || w.job.ahead == 0 {
		return nil
	}
	return w.probe()
}

// probe looks for the next readable page in the extent behind the job by
// trying at most Probes of its pages, and gives up what lies before.
func (w *worker) probe() error {
	page := w.o.PageSize
	stride := w.job.ahead / page / uint64(w.o.Probes)
	if stride <= 1 {
		return nil
	}
	addr := w.job.base + w.job.hi
	var mapping int
	for _, e := range w.job.segs {
		if e.off < w.job.hi {
			mapping = e.mapping
		}
	}
	// Offsets from addr; all but the start of the first are page boundaries.
	bad := -addr % page
	last := (addr+w.job.ahead-1)&^(page-1) - addr
	for good := bad; ; good = min(good+stride*page, last) {
		ok, err := w.readable(addr+good, mapping)
		if err != nil {
			return err
		}
		if ok {
			for good-bad > page {
				mid := bad + (good-bad)/page/2*page
				if ok, err = w.readable(addr+mid, mapping); err != nil {
					return err
				}
				if ok {
					good = mid
				} else {
					bad = mid
				}
			}
			w.giveUp(vm.Range{Start: addr, Size: good}, stride)
			return nil
		}
		if bad = good; good == last {
			w.giveUp(vm.Range{Start: addr, Size: w.job.ahead}, stride)
			return nil
		}
	}
}

func (s *scan) readable(addr uint64, mapping int) (bool, error) {
	var b [1]byte
	n, err := s.readMemory(s.ms[mapping], b[:], addr)
	switch {
	case s.ctx.Err() != nil:
		return false, s.ctx.Err()
	case errors.Is(err, vm.ErrProcessGone):
		return false, err
	}
	return n == 1, nil
}

func (w *worker) giveUp(r vm.Range, stride uint64) {
	if r.Size == 0 {
		return
	}
	w.failing = 0
	w.planning.Lock()
	w.plan.skip, w.plan.skipped = r, kindHole
	w.planning.Unlock()
	w.merging.Lock()
	defer w.merging.Unlock()
	if !w.ended {
		w.result.Notes = append(w.result.Notes,
			fmt.Sprintf("unread memory at %v: only one page in %d was tried there", r, stride))
	}
}
