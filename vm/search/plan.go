package search

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"dbgsh/vm"
)

// kind is what is known of a stretch of memory before it is read.
type kind uint8

const (
	kindData kind = iota // to be read
	kindZero             // reads as zeros
	kindHole             // cannot be read
	kindSwap             // is in swap, and is left there
)

// hole reports whether nothing of it is seen.
func (k kind) hole() bool { return k >= kindHole }

// piece is a range that is searched for one mapping.
type piece struct {
	vm.Range
	mapping int
}

// pieces cuts the mappings so that every byte is in one piece: that of the
// mapping of the highest rank which holds it, the first of them.
func pieces(ms []vm.Mapping) []piece {
	var (
		all    []piece
		active []int
		next   int
		pos    uint64
	)
	for {
		active = slices.DeleteFunc(active, func(i int) bool { return ms[i].Last() < pos })
		if len(active) == 0 && next < len(ms) {
			pos = max(pos, ms[next].Start)
		}
		for ; next < len(ms) && ms[next].Start <= pos; next++ {
			if ms[next].Size > 0 && ms[next].Valid() && ms[next].Last() >= pos {
				active = append(active, next)
			}
		}
		if len(active) == 0 {
			if next == len(ms) {
				return all
			}
			continue
		}
		best, last := active[0], uint64(math.MaxUint64)
		for _, i := range active {
			if ms[i].Source.Rank() > ms[best].Source.Rank() {
				best = i
			}
			last = min(last, ms[i].Last())
		}
		if next < len(ms) {
			last = min(last, ms[next].Start-1)
		}
		if n := len(all); n > 0 && all[n-1].mapping == best && all[n-1].Last()+1 == pos {
			all[n-1].Size += last - pos + 1
		} else {
			all = append(all, piece{vm.Range{Start: pos, Size: last - pos + 1}, best})
		}
		if last == math.MaxUint64 {
			return all
		}
		pos = last + 1
	}
}

// extent is a stretch of one kind within a run, which is memory without gaps.
// Offsets are from the start of the run, so that they cannot overflow.
type extent struct {
	off, size uint64
	kind      kind
	mapping   int
}

func (e extent) end() uint64 { return e.off + e.size }

// job is a step of the search: the matches that start in [lo, hi) of a run.
type job struct {
	seq    uint64
	kind   kind
	base   uint64 // the address of the run
	lo, hi uint64 // offsets in the run
	// ahead is how far the extent that ends the job goes on behind hi.
	ahead uint64
	// segs cover what is to be seen for a job of kindData, without gaps and
	// without holes: from the byte before lo, where one is needed and can be
	// had, to tail bytes after hi or less. Other jobs have one, their own.
	segs []extent
	// reasons that Sparse gave, not told before, for not being able to tell.
	reasons []string
}

// planner makes the jobs of a search one after the other in the order of their
// addresses. Its memory is bounded by the extents that fit into a chunk. It is
// not safe for concurrent use.
type planner struct {
	sparse  vm.Sparse // nil where the reader is not
	swapped bool      // what is in swap is read
	ms      []vm.Mapping
	page    uint64
	chunk   uint64
	tail    uint64 // bytes to see after the last start
	behind  uint64 // bytes to see before the first start, 0 or 1

	pieces []piece
	piece  int    // the next to be expanded into extents
	off    uint64 // how much of it has been expanded

	base  uint64   // address of the current run
	queue []extent // of the current run, without gaps
	pos   uint64   // where the next job starts, an offset in the run
	seq   uint64

	skip    vm.Range // addresses known to be unreadable
	skipped kind     // what they are, kindHole or kindSwap
	into    []vm.Extent
	reasons []string // why sparse could not tell
	told    int      // how many of them went into a job
}

// populatedBatch is how many extents are asked for at once.
const populatedBatch = 512

// end is the end of the queue.
func (p *planner) end() uint64 {
	if len(p.queue) == 0 {
		return p.pos
	}
	return p.queue[len(p.queue)-1].end()
}

// atRunEnd reports whether the next piece does not continue the run.
func (p *planner) atRunEnd() bool {
	if p.piece == len(p.pieces) {
		return true
	}
	if p.off > 0 {
		return false
	}
	next, end := p.pieces[p.piece], p.end()
	return next.Start-p.base != end || end == 0 || end+next.Size < end
}

// next stores the next job in j and reports whether there is one. Its errors
// are the context's and ErrProcessGone; then nothing but seq is set.
func (p *planner) next(ctx context.Context, j *job) (bool, error) {
	*j = job{seq: p.seq, segs: j.segs[:0]}
	p.seq++
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if p.pos == p.end() && p.atRunEnd() {
		if p.piece == len(p.pieces) {
			return false, nil
		}
		p.base, p.pos, p.queue = p.pieces[p.piece].Start, 0, p.queue[:0]
		if err := p.expand(ctx); err != nil {
			return false, err
		}
	}
	for p.end()-p.pos < p.chunk+p.tail && !p.atRunEnd() {
		if err := p.expand(ctx); err != nil {
			return false, err
		}
	}
	seen := 0
	for p.queue[seen].end() <= p.pos-min(p.pos, p.behind) {
		seen++
	}
	p.queue = slices.Delete(p.queue, 0, seen)
	head := 0
	for p.queue[head].end() <= p.pos {
		head++
	}

	j.base, j.lo = p.base, p.pos
	j.reasons, p.told = p.reasons[p.told:len(p.reasons):len(p.reasons)], len(p.reasons)
	e := p.queue[head]
	addr := p.base + p.pos
	lo, hi := p.interior(e)
	switch {
	case e.kind.hole():
		j.kind, j.hi = e.kind, e.end()
	case e.kind == kindData && p.skip.Contains(addr):
		j.kind, j.hi = p.skipped, p.pos+min(e.end()-p.pos, p.skip.Last()-addr+1)
	case e.kind == kindZero && lo <= p.pos && p.pos < hi:
		j.kind, j.hi = kindZero, hi
	default:
		p.window(head, j)
		p.pos = j.hi
		return true, nil
	}
	j.segs = append(j.segs, extent{j.lo, j.hi - j.lo, j.kind, e.mapping})
	p.pos = j.hi
	return true, nil
}

// interior is the part [lo, hi) of an extent of zeros in which only zeros are
// seen from every place: a job of its own, if there is enough of it.
func (p *planner) interior(e extent) (lo, hi uint64) {
	if e.kind != kindZero || e.size <= p.behind+p.tail+4*p.page {
		return 0, 0
	}
	return e.off + p.behind, e.end() - p.tail
}

// window makes j a job of kindData that starts in extent head of the queue.
func (p *planner) window(head int, j *job) {
	limit := p.pos + min(p.chunk, p.end()-p.pos)
	j.kind = kindData
	j.hi = limit
	for i := head; i < len(p.queue) && p.queue[i].off < limit; i++ {
		e := p.queue[i]
		if e.kind.hole() {
			j.hi = e.off
			break
		}
		if lo, hi := p.interior(e); lo < hi && p.pos < hi && lo < limit {
			j.hi = lo
			break
		}
	}
	from := p.pos
	if p.behind > 0 && (p.queue[head].off < p.pos || head > 0 && !p.queue[head-1].kind.hole()) {
		from--
	}
	to := j.hi + min(p.tail, p.end()-j.hi)
	for _, e := range p.queue {
		if e.end() <= from {
			continue
		}
		if e.off >= to || e.kind.hole() {
			break
		}
		if e.off < j.hi && j.hi <= e.end() {
			j.ahead = e.end() - j.hi
		}
		start := max(e.off, from)
		j.segs = append(j.segs, extent{start, min(e.end(), to) - start, e.kind, e.mapping})
	}
}

// expand appends the next extents of the current run to the queue.
func (p *planner) expand(ctx context.Context) error {
	at := p.pieces[p.piece]
	rest := vm.Range{Start: at.Start + p.off, Size: at.Size - p.off}
	if p.sparse == nil || !p.ms[at.mapping].Sparse() {
		p.push(rest, kindData)
		return nil
	}
	n, known, err := p.sparse.Populated(ctx, rest, p.into)
	switch {
	case err != nil && (ctx.Err() != nil || errors.Is(err, vm.ErrProcessGone)):
		return err
	case err == nil:
		err = answers(rest, known, p.into, n)
	}
	if err != nil {
		if reason := err.Error(); !slices.Contains(p.reasons, reason) {
			p.reasons = append(p.reasons, reason)
		}
		p.push(rest, kindData)
		return nil
	}
	done := uint64(0) // of rest
	for _, e := range p.into[:n] {
		p.push(vm.Range{Start: rest.Start + done, Size: e.Start - rest.Start - done}, kindZero)
		k := kindData
		switch {
		case e.Unreadable:
			k = kindHole
		case e.Swapped && !p.swapped:
			k = kindSwap
		}
		p.push(e.Range, k)
		done = e.Start - rest.Start + e.Size
	}
	p.push(vm.Range{Start: rest.Start + done, Size: known - done}, kindZero)
	return nil
}

// answers says how a Sparse broke its contract, if it did.
func answers(r vm.Range, known uint64, into []vm.Extent, n int) error {
	ok := known > 0 && known <= r.Size && n >= 0 && n <= len(into)
	done := uint64(0)
	for i := 0; ok && i < n; i++ {
		off := into[i].Start - r.Start
		ok = off >= done && off < known && into[i].Size <= known-off
		done = off + into[i].Size
	}
	if !ok {
		return fmt.Errorf("the answer for %v makes no sense", r)
	}
	return nil
}

// noteUntouched is what is to be known where a Sparse could not tell.
func noteUntouched(reason string) string {
	return "pages that were never touched are read too: " + reason
}

// push appends a range, which continues the queue in the current piece.
func (p *planner) push(r vm.Range, k kind) {
	if r.Size == 0 {
		return
	}
	at := p.pieces[p.piece]
	e := extent{r.Start - p.base, r.Size, k, at.mapping}
	if n := len(p.queue); n > 0 && p.queue[n-1].kind == k && p.queue[n-1].mapping == e.mapping {
		p.queue[n-1].size += e.size
	} else {
		p.queue = append(p.queue, e)
	}
	if p.off += r.Size; p.off == at.Size {
		p.piece, p.off = p.piece+1, 0
	}
}
