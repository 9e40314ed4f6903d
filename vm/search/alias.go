package search

import (
	"context"
	"math"
	"math/bits"
	"slices"
	"sort"
	"sync"
	"time"

	"dbgsh/vm"
)

// maxSegments bounds the memory that segments take, about 120 bytes each.
const maxSegments = 2 << 20

// maxEdges bounds the memory in bytes that edges take: edgeSize each, and their own.
const (
	maxEdges = 128 << 20
	edgeSize = 40
)

// segment is a range of addresses with one range of the memory behind them.
type segment struct {
	vm.Range
	at uint64 // where it is in the memory behind
	// repeat says that matches that start in it see the same bytes as those in
	// the segment before, also outside of it.
	repeat bool
}

// aliasScan is a search in two parts: of the memory behind, for the hits that
// see nothing but one segment, and by address, in windows around the ends of
// segments, for the others. The first keeps what the windows show, so that even
// they need not be read again.
type aliasScan struct {
	*scan  // the search by address that this replaces; only its result is used
	segs   []segment
	edges  *edges
	within *scan
	ends   *scan

	piece     int    // of the hit that was added last
	marked    int    // the piece that mark came to
	stop      uint64 // if stopped, the first address that was not searched
	stopped   bool
	steps     int
	cancelled time.Time // when that was noticed
}

// newAliasScan prepares a search in the place of s; it is nil where none will do.
func newAliasScan(s *scan, a vm.Aliased) *aliasScan {
	behind := a.Behind()
	// With a step between hits, each depends on the one before.
	if behind == nil || s.o.Skip > 1 || s.o.SkipMatch {
		return nil
	}
	x := &aliasScan{scan: s}
	if !x.cut(a) {
		return nil
	}
	x.findRepeats()
	ranges := make([]vm.Range, len(x.segs))
	for i, seg := range x.segs {
		ranges[i] = vm.Range{Start: seg.at, Size: seg.Size}
	}
	var parts []piece
	for _, r := range vm.Union(ranges) {
		parts = append(parts, piece{Range: r})
	}
	o := s.o
	o.Align = min(o.Align&-o.Align, o.PageSize) // all that addresses and those behind have in common
	o.Limit, o.CountOnly = 0, false
	x.edges = newEdges(behind, x)
	x.within = newScan(s.ctx, x.edges, make([]vm.Mapping, 1), parts, o)
	if len(x.edges.kept) > 0 {
		o.Workers = 1 // nothing is read, and windows are small
	}
	x.ends = newScan(s.ctx, s.reader, s.ms, x.windows(), o)
	x.ends.mapping = x
	return x
}

// cut makes the segments. It returns whether they will do.
func (x *aliasScan) cut(a vm.Aliased) bool {
	for _, p := range x.plan.pieces {
		for off := uint64(0); off < p.Size; {
			addr := p.Start + off
			at, n, ok, err := a.Backing(x.ctx, addr)
			n = min(n, p.Size-off)
			if off += n; err != nil || n == 0 || ok && ((addr-at)%x.o.PageSize != 0 || !(vm.Range{Start: at, Size: n}).Valid()) {
				return false
			}
			if !ok {
				continue
			}
			if k := len(x.segs); k > 0 {
				l := &x.segs[k-1]
				if l.Last()+1 == addr && l.at+l.Size == at && at != 0 && l.Size+n != 0 {
					l.Size += n
					continue
				}
			}
			if len(x.segs) == maxSegments {
				return false
			}
			x.segs = append(x.segs, segment{Range: vm.Range{Start: addr, Size: n}, at: at})
		}
	}
	return len(x.segs) > 0
}

// findRepeats marks repeats, so that a page that is mapped a million times does
// not make a million windows.
func (x *aliasScan) findRepeats() {
	segs := x.segs
	adjacent := func(i int) bool { return i > 0 && i < len(segs) && segs[i-1].Last()+1 == segs[i].Start }
	like := func(i int) bool { return i > 0 && segs[i].at == segs[i-1].at && segs[i].Size == segs[i-1].Size }
	same := uint64(0) // how many bytes after segment i are as those after the one before
	for i := len(segs) - 1; i > 0; i-- {
		switch {
		case adjacent(i) != adjacent(i+1):
			same = 0
		case !adjacent(i):
			same = math.MaxUint64 // a gap after both
		case like(i + 1):
			sum, carry := bits.Add64(same, segs[i+1].Size, 0)
			same = sum | -carry
		default:
			same = 0
		}
		before := x.behind == 0 || adjacent(i-1) == adjacent(i) && (!adjacent(i) || like(i-1))
		segs[i].repeat = like(i) && same >= x.plan.tail && before
	}
}

// inside is the offsets [lo, hi) at which matches see nothing but the segment.
func (x *aliasScan) inside(seg *segment) (lo, hi uint64) {
	if seg.Size <= x.behind+x.plan.tail {
		return 0, 0
	}
	return x.behind, seg.Size - x.plan.tail
}

// windows is what matches see at all other offsets, repeats left out.
func (x *aliasScan) windows() []piece {
	var (
		ws      []piece
		covered uint64 // the last address in ws
		k       int
	)
	ps := x.plan.pieces
	add := func(first, last uint64) {
		if len(ws) > 0 && first <= covered {
			if last <= covered {
				return
			}
			first = covered + 1
		}
		for k < len(ps) && ps[k].Last() < first {
			k++
		}
		for j := k; j < len(ps) && ps[j].Start <= last; j++ {
			from := max(first, ps[j].Start)
			covered = min(last, ps[j].Last())
			size := covered - from + 1
			if n := len(ws); n > 0 && ws[n-1].mapping == ps[j].mapping && ws[n-1].Last()+1 == from {
				ws[n-1].Size += size
			} else {
				ws = append(ws, piece{vm.Range{Start: from, Size: size}, ps[j].mapping})
			}
		}
	}
	for i := range x.segs {
		seg := &x.segs[i]
		if seg.repeat {
			continue
		}
		lo, hi := x.inside(seg)
		if lo > 0 {
			add(seg.Start-min(seg.Start, lo), seg.Start+x.plan.tail)
		}
		start, last := seg.Start+hi, seg.Last()
		add(start-min(start, x.behind), last+min(x.plan.tail, math.MaxUint64-last))
	}
	return ws
}

// saves reports whether there is less to read than by address, where a search
// with a limit may end early: then it has to be far less.
func (x *aliasScan) saves() bool {
	sum := uint64(0)
	for i := range x.segs {
		sum += x.segs[i].Size
	}
	if x.o.Limit > 0 {
		sum /= 4
	}
	return sum > x.within.total && x.ends.total < sum-x.within.total
}

// run searches. It is nil where there were more hits than may be kept on the
// way; then the search by address is still to be run.
func (x *aliasScan) run() *Result {
	if report := x.o.Progress; report != nil {
		told := uint64(0)
		all := x.within.total + x.ends.total
		x.within.o.Progress = func(done, _ uint64) { told = done; report(done, all) }
		x.ends.o.Progress = func(done, _ uint64) { told = x.within.total + done; report(told, all) }
		x.o.Progress = func(done, total uint64) {
			if done > told {
				report(done, total)
			}
		}
	}
	within, ends := x.within.run(), &Result{}
	if within.CapReached {
		return nil
	}
	if x.result.Partial = within.Partial; within.Partial == nil {
		x.edges.drop(within.Unread)
		if ends = x.ends.run(); ends.CapReached {
			return nil
		}
		x.result.Partial = ends.Partial
	}
	for _, n := range within.Notes {
		x.result.Notes = append(x.result.Notes, "in the memory behind the addresses: "+n)
	}
	x.result.Notes = append(x.result.Notes, ends.Notes...)
	// The ends may have some that are within too.
	x.result.Longer = max(within.Longer, ends.Longer)
	all := x.result.Partial == nil
	x.addHits(&within.Hits, &ends.Hits)
	x.account(within.Unread, all)
	return x.finish()
}

// addHits adds the hits of both parts at all their addresses, in order.
func (x *aliasScan) addHits(within, ends *Hits) {
	first := &x.segs[0] // the one that seg repeats, or seg
	for i := range x.segs {
		seg := &x.segs[i]
		if !seg.repeat {
			first = seg
		}
		lo, hi := x.inside(seg)
		if !x.project(ends, first.Start, 0, lo, seg) ||
			!x.project(within, seg.at, lo, hi, seg) ||
			!x.project(ends, first.Start, hi, seg.Size, seg) {
			return
		}
	}
}

// project adds the hits at offsets [lo, hi) from base as hits at these offsets
// in the segment. It returns whether more are wanted.
func (x *aliasScan) project(hits *Hits, base, lo, hi uint64, seg *segment) (more bool) {
	if lo == hi {
		return true
	}
	for i := hits.lower(base + lo); ; i++ {
		if x.steps++; x.steps%dense == 0 && x.late() {
			x.stop, x.stopped = seg.Start+lo, true
			return false
		}
		if i == hits.Len() || hits.address(i)-base >= hi {
			return true
		}
		p := hits.packed(i)
		off := p.addr - base
		addr := seg.Start + off
		lo = off + 1
		if addr%x.o.Align != 0 {
			continue
		}
		for x.plan.pieces[x.piece].Last() < addr {
			x.piece++
		}
		length := int(p.size >> 5)
		x.add(addr, length, x.plan.pieces[x.piece].mapping, p.preview[:p.size&31], p.sum)
		if x.full(x.result.Count) {
			x.result.LimitReached = x.o.Limit > 0 && x.result.Count >= x.o.Limit
			x.result.CapReached = !x.result.LimitReached
			x.stop = addr + uint64(length)
			x.stopped = x.stop != 0
			return false
		}
	}
}

// late reports whether the search was cancelled and has had its time to tell
// what was found.
func (x *aliasScan) late() bool {
	err := x.ctx.Err()
	switch {
	case err == nil:
		return false
	case x.cancelled.IsZero():
		x.cancelled = time.Now()
	case time.Since(x.cancelled) > grace:
		if x.result.Partial == nil {
			x.result.Partial = err
		}
		return true
	}
	return false
}

// account adds up what was searched and what could not be read, up to the stop;
// unread is what could not in the memory behind. Unless all was searched, only
// the inside of segments counts.
func (x *aliasScan) account(unread []Unread, all bool) {
	end, cut := x.within.reached()
	next := uint64(0)
	for i := range x.segs {
		seg := &x.segs[i]
		if seg.Start > next {
			x.mark(next, seg.Start-1, kindHole)
		}
		next = seg.Last() + 1
		lo, hi := uint64(0), seg.Size
		if !all {
			lo, hi = x.inside(seg)
			if cut {
				hi = min(hi, max(end, seg.at)-seg.at)
			}
		}
		if lo < hi {
			x.markPart(seg, lo, hi, unread)
		}
	}
	if next != 0 {
		x.mark(next, math.MaxUint64, kindHole)
	}
}

// markPart marks offsets [lo, hi) of the segment.
func (x *aliasScan) markPart(seg *segment, lo, hi uint64, unread []Unread) {
	r := vm.Range{Start: seg.at + lo, Size: hi - lo}
	delta := seg.Start - seg.at
	u := sort.Search(len(unread), func(i int) bool { return unread[i].Last() >= r.Start })
	for ; u < len(unread); u++ {
		bad := unread[u].Intersect(r)
		if bad.Size == 0 {
			break
		}
		if bad.Start > r.Start {
			x.mark(r.Start+delta, bad.Start-1+delta, kindData)
		}
		k := kindHole
		if unread[u].Swapped {
			k = kindSwap
		}
		x.mark(bad.Start+delta, bad.Last()+delta, k)
		if bad.Last() == r.Last() {
			return
		}
		r = vm.Range{Start: bad.Last() + 1, Size: r.Last() - bad.Last()}
	}
	x.mark(r.Start+delta, r.Last()+delta, kindData)
}

// mark adds what of the addresses first to last is in mappings to what was
// searched, or to what was not read, as k says. Calls go upwards.
func (x *aliasScan) mark(first, last uint64, k kind) {
	if x.stopped {
		if first >= x.stop {
			return
		}
		last = min(last, x.stop-1)
	}
	ps := x.plan.pieces
	for x.marked < len(ps) && ps[x.marked].Last() < first {
		x.marked++
	}
	for i := x.marked; i < len(ps) && ps[i].Start <= last; i++ {
		from := max(first, ps[i].Start)
		size := min(last, ps[i].Last()) - from + 1
		if k.hole() {
			x.unread(vm.Range{Start: from, Size: size}, ps[i].mapping, k == kindSwap)
		} else {
			x.searched(size, ps[i].mapping)
		}
	}
}

// edge is a part of the memory behind that shows in a window.
type edge struct {
	vm.Range
	bytes []byte
}

// edges is a Reader of the memory behind that keeps what it read of the edges.
type edges struct {
	vm.Reader
	mu   sync.Mutex // guards the bytes
	kept []edge     // ascending
}

// newEdges keeps all that shows in windows, or nothing if that is too much.
func newEdges(behind vm.Reader, x *aliasScan) *edges {
	e := &edges{Reader: behind}
	var rs []vm.Range
	for i := range x.segs {
		if seg := &x.segs[i]; !seg.repeat {
			n := min(seg.Size, x.behind+x.plan.tail)
			rs = append(rs, vm.Range{Start: seg.at, Size: n}, vm.Range{Start: seg.at + seg.Size - n, Size: n})
		}
	}
	rs = vm.Union(rs)
	total := uint64(0)
	for _, r := range rs {
		total += r.Size
	}
	if total+edgeSize*uint64(len(rs)) > maxEdges {
		return e
	}
	buf := make([]byte, total)
	e.kept = make([]edge, len(rs))
	for i, r := range rs {
		e.kept[i] = edge{r, buf[:r.Size]}
		buf = buf[r.Size:]
	}
	return e
}

// find is the index of the first edge that ends at or above addr.
func (e *edges) find(addr uint64) int {
	return sort.Search(len(e.kept), func(i int) bool { return e.kept[i].Last() >= addr })
}

// ReadMemory implements Reader.
func (e *edges) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	n, err := e.Reader.ReadMemory(ctx, p, addr)
	read := vm.Range{Start: addr, Size: uint64(max(0, min(n, len(p))))}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := e.find(addr); i < len(e.kept); i++ {
		k := e.kept[i]
		part := k.Intersect(read)
		if part.Size == 0 {
			break
		}
		copy(k.bytes[part.Start-k.Start:], p[part.Start-addr:][:part.Size])
	}
	return n, err
}

// get fills p with what was read at addr. It returns whether it was kept.
func (e *edges) get(p []byte, addr uint64) bool {
	i, r := e.find(addr), vm.Range{Start: addr, Size: uint64(len(p))}
	if i == len(e.kept) || e.kept[i].Intersect(r) != r {
		return false
	}
	copy(p, e.kept[i].bytes[addr-e.kept[i].Start:])
	return true
}

// drop forgets the edges of which a part could not be read.
func (e *edges) drop(unread []Unread) {
	e.kept = slices.DeleteFunc(e.kept, func(k edge) bool {
		u := sort.Search(len(unread), func(i int) bool { return unread[i].Last() >= k.Start })
		return u < len(unread) && unread[u].Overlaps(k.Range)
	})
}

// ReadMapping implements MappingReader for the windows: out of the edges, where
// they are kept.
func (x *aliasScan) ReadMapping(_ context.Context, m vm.Mapping, p []byte, addr uint64) (n int, err error) {
	for n < len(p) {
		at := addr + uint64(n)
		i := sort.Search(len(x.segs), func(i int) bool { return x.segs[i].Last() >= at })
		if i == len(x.segs) || !x.segs[i].Contains(at) {
			break
		}
		off := at - x.segs[i].Start
		end := n + int(min(x.segs[i].Size-off, uint64(len(p)-n)))
		if !x.edges.get(p[n:end], x.segs[i].at+off) {
			break
		}
		n = end
	}
	if n == len(p) {
		return n, nil
	}
	more, err := x.readMemory(m, p[n:], addr+uint64(n))
	return n + more, err
}
