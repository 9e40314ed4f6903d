package vm

import (
	"context"
)

// Finder is a Reader of memory that is searched better where it is than by
// reading it, as behind a stub that knows how.
type Finder interface {
	// FindBytes returns the addresses at which the needle stands whole within
	// r, ascending, overlapping ones too, at most limit of them. ok is false
	// where it cannot tell, because the needle is not of a kind that it can look
	// for or because not all of r can be read. The error is the context's, or
	// says that there is nothing to ask any more.
	FindBytes(ctx context.Context, r Range, needle []byte, limit int) (at []uint64, ok bool, err error)
}

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

// whole is the range of the run.
func (r run) whole() Range {
	first, last := r[0], r[len(r)-1]
	return Range{first.Start, last.Last() - first.Start + 1}
}

// scanFinder is Scan for a needle that f looks for. What f cannot tell of is read.
func scanFinder(ctx context.Context, f Finder, r Reader, needle []byte, ms []Mapping, o ScanOptions) *ScanResult {
	res := &ScanResult{}
	all := pieces(ms)
	searched := make(map[int]bool)
	var total, done uint64
	for _, p := range all {
		total += p.Size
	}
	for _, run := range runs(all) {
		if ctx.Err() != nil {
			res.Partial = context.Cause(ctx)
			break
		}
		whole := run.whole()
		var at []uint64
		ok, err := false, error(nil)
		if whole.Size > 0 { // the whole address space is no Range
			at, ok, err = f.FindBytes(ctx, whole, needle, o.MaxHits+1)
		}
		if err != nil {
			res.Partial = err
			break
		}
		if ok {
			for _, p := range run {
				searched[p.mapping] = true
				res.SearchedBytes += p.Size
			}
			w := window{reader: r, runs: []Range{whole}}
			err = res.addFound(ctx, at, len(needle), run, &w, o)
		} else {
			err = res.addScan(ctx, r, run, ms, searched, o)
		}
		if err != nil {
			res.Partial = err
		}
		if err != nil || res.LimitReached || res.CapReached {
			break
		}
		if done += whole.Size; o.Progress != nil {
			o.Progress(done, total)
		}
	}
	res.SearchedMappings = len(searched)
	return res
}

// addFound adds hits of the needle in a run.
func (res *ScanResult) addFound(ctx context.Context, at []uint64, length int, run run, w *window, o ScanOptions) error {
	next, i := run[0].Start, 0
	for _, addr := range at {
		if addr < next || addr%o.Align != 0 {
			continue
		}
		if !o.CountOnly && res.Hits.Len() >= o.MaxHits {
			res.CapReached = true
			return nil
		}
		for !run[i].Contains(addr) {
			i++
		}
		res.Count++
		if !o.CountOnly {
			preview, err := w.at(ctx, addr, PreviewSize)
			if err != nil {
				return err
			}
			res.Hits.add(addr, length, run[i].mapping, preview)
		}
		if o.Limit > 0 && res.Count >= o.Limit {
			res.LimitReached = true
			return nil
		}
		step := o.Skip
		if o.SkipMatch {
			step = max(step, uint64(length))
		}
		if next = addr + step; next < addr {
			return nil
		}
	}
	return nil
}

// addScan searches a run by reading it, and adds what that finds.
func (res *ScanResult) addScan(ctx context.Context, r Reader, run run, ms []Mapping, searched map[int]bool, o ScanOptions) error {
	parts := make([]Mapping, len(run))
	for i, p := range run {
		parts[i] = ms[p.mapping].Clip(p.Range)
	}
	if o.Limit > 0 {
		o.Limit -= res.Count
	}
	o.MaxHits = max(1, o.MaxHits-res.Hits.Len())
	o.Progress = nil
	part := newScan(ctx, r, parts, o).run()
	for _, h := range part.Hits.All() {
		res.Hits.add(h.Address, h.Len, run[h.Mapping].mapping, h.Preview)
	}
	whole := make(map[int]bool)
	for _, u := range part.UnreadMappings(parts) {
		whole[u.Mapping] = u.Whole
	}
	for i, p := range run {
		searched[p.mapping] = searched[p.mapping] || !whole[i]
	}
	for _, u := range part.Unread {
		res.Unread = append(res.Unread, Unread{u.Range, run[u.Mapping].mapping})
	}
	res.Count += part.Count
	res.SearchedBytes += part.SearchedBytes
	res.LimitReached, res.CapReached = part.LimitReached, part.CapReached
	res.Notes = append(res.Notes, part.Notes...)
	return part.Partial
}
