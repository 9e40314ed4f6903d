package search

import (
	"context"
	"math/bits"

	"dbgsh/vm"
)

// run is memory without gaps: adjacent pieces.
type run []piece

func runs(ps []piece) []run {
	var rs []run
	for i, p := range ps {
		if i > 0 && ps[i-1].Last()+1 == p.Start && p.Start != 0 {
			rs[len(rs)-1] = append(rs[len(rs)-1], p)
		} else {
			rs = append(rs, run{p})
		}
	}
	return rs
}

// whole is the range of the run; the whole address space is no Range, and empty.
func (r run) whole() vm.Range {
	first, last := r[0], r[len(r)-1]
	return vm.Range{Start: first.Start, Size: last.Last() - first.Start + 1}
}

// finderScan is a search that a Finder makes, one answer after the other.
type finderScan struct {
	ctx      context.Context
	finder   vm.Finder
	reader   vm.Reader
	needle   []byte
	sum      uint64 // sumOf the needle
	ms       []vm.Mapping
	o        Options
	window   *window // reads previews
	res      Result
	searched map[int]bool
	resume   uint64 // the lowest address at which the next hit may start
	closed   bool   // there is no such address
	done     uint64 // of total
	total    uint64 // bytes to search
}

// scanFinder is Scan for a needle that f looks for. What f cannot tell of is read.
func scanFinder(ctx context.Context, f vm.Finder, r vm.Reader, needle []byte, ms []vm.Mapping, o Options) *Result {
	s := &finderScan{
		ctx: ctx, finder: f, reader: r, needle: needle, sum: sumOf(needle), ms: ms, o: o,
		window: newWindow(r, ms), searched: make(map[int]bool),
	}
	for _, p := range s.window.pieces {
		sum, carry := bits.Add64(s.total, p.Size, 0)
		s.total = sum | -carry
	}
	for _, run := range runs(s.window.pieces) {
		err := s.run(run)
		if s.full() {
			s.res.LimitReached = o.Limit > 0 && s.res.Count >= o.Limit
			s.res.CapReached = !s.res.LimitReached
			break
		}
		if err != nil {
			s.res.Partial = err
			break
		}
	}
	s.res.SearchedMappings = len(s.searched)
	return &s.res
}

// full reports whether all hits that may be found have been.
func (s *finderScan) full() bool {
	return s.o.Limit > 0 && s.res.Count >= s.o.Limit || !s.o.CountOnly && s.res.Hits.Len() >= s.o.MaxHits
}

// run searches a run.
func (s *finderScan) run(run run) error {
	whole := run.whole()
	for off := uint64(0); off < whole.Size; {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		rest := vm.Range{Start: whole.Start + off, Size: whole.Size - off}
		known, err := s.find(rest)
		if err == nil && known == 0 {
			return s.read(run, off)
		}
		if s.full() { // the last hit has been looked at to its end
			known = min(known+uint64(len(s.needle))-1, rest.Size)
		}
		s.account(run, vm.Range{Start: rest.Start, Size: known})
		if err != nil || s.full() {
			return err
		}
		off += known
	}
	if whole.Size == 0 {
		return s.read(run, 0)
	}
	return nil
}

// find asks for the needle in r and returns for how many bytes of r it got an answer.
func (s *finderScan) find(r vm.Range) (uint64, error) {
	if s.closed || s.resume > r.Last() {
		return r.Size, nil // all of it is passed over
	}
	start := max(r.Start, s.resume)
	asked := vm.Range{Start: start, Size: r.Last() - start + 1}
	passed := start - r.Start
	known, err := s.finder.FindBytes(s.ctx, asked, s.needle, func(addr uint64) (uint64, bool) {
		if addr < s.resume || !asked.Contains(addr) {
			return s.resume, false // it breaks its contract
		}
		if rest := addr % s.o.Align; rest != 0 {
			next, carry := bits.Add64(addr, s.o.Align-rest, 0)
			s.closed = carry != 0
			return next, !s.closed
		}
		s.add(addr)
		step := s.o.Skip
		if s.o.SkipMatch {
			step = max(step, uint64(len(s.needle)))
		}
		next, carry := bits.Add64(addr, step, 0)
		s.resume, s.closed = next, carry != 0
		s.progress(addr - r.Start)
		return next, !s.closed && !s.full()
	})
	return passed + min(known, asked.Size), err
}

// add adds a hit.
func (s *finderScan) add(addr uint64) {
	s.res.Count++
	if s.o.CountOnly {
		return
	}
	preview := s.needle[:min(len(s.needle), PreviewSize)]
	if len(preview) < PreviewSize {
		// Where what follows cannot be read, the needle is what is known.
		if b, err := s.window.at(s.ctx, addr, PreviewSize); err == nil && len(b) > len(preview) {
			preview = b
		}
	}
	i, _ := s.window.piece(addr)
	s.res.Hits.add(addr, len(s.needle), s.window.pieces[i].mapping, preview, s.sum)
}

// progress says that `more` bytes than done are done.
func (s *finderScan) progress(more uint64) {
	if s.o.Progress != nil {
		s.o.Progress(min(s.done+more, s.total), s.total)
	}
}

// account adds a range of a run to what was searched.
func (s *finderScan) account(run run, r vm.Range) {
	for _, p := range run {
		if part := p.Intersect(r); part.Size > 0 {
			s.searched[p.mapping] = true
			s.res.SearchedBytes += part.Size
		}
	}
	s.done += r.Size
	s.progress(0)
}

// read searches a run from the offset on by reading it.
func (s *finderScan) read(run run, off uint64) error {
	from := run[0].Start + off
	var (
		parts    []vm.Mapping
		mappings []int // for each part
	)
	for _, p := range run {
		if p.Last() >= from {
			start := max(p.Start, from)
			parts = append(parts, s.ms[p.mapping].Clip(vm.Range{Start: start, Size: p.Last() - start + 1}))
			mappings = append(mappings, p.mapping)
		}
	}
	o := s.o
	if o.Limit > 0 {
		o.Limit -= s.res.Count
	}
	o.MaxHits -= s.res.Hits.Len()
	o.Progress = func(done, _ uint64) { s.progress(done) }
	scan := newScan(s.ctx, s.reader, parts, pieces(parts), o)
	scan.resume, scan.closed = s.resume, s.closed
	part := scan.run()
	for i := range part.Hits.Len() {
		h := *part.Hits.packed(i)
		h.mapping = uint32(mappings[h.mapping])
		s.res.Hits.addPacked(h)
	}
	for _, u := range part.Unread {
		u.Mapping = mappings[u.Mapping]
		s.res.Unread = appendUnread(s.res.Unread, u)
	}
	s.res.Count += part.Count
	s.res.SearchedBytes += part.SearchedBytes
	s.res.Notes = append(s.res.Notes, part.Notes...)
	for _, p := range parts {
		s.done += p.Size
	}
	// A worker that was left behind may still be at it.
	scan.merging.Lock()
	defer scan.merging.Unlock()
	s.resume, s.closed = scan.resume, scan.closed
	for i, m := range mappings {
		if scan.seen[i] {
			s.searched[m] = true
		}
	}
	return part.Partial
}
