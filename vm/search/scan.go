// Package search finds what a matcher looks for in the memory that mappings
// cover: the scanner, the matchers, the hits, and refining them. It reads through
// a vm.Reader and knows nothing of what stands behind that.
package search

import (
	"context"
	"errors"
	"fmt"

	"dbgsh/vm"
)

// The defaults and bounds of Options.
const (
	DefaultChunk    = 256 << 10
	DefaultPageSize = 4 << 10
	DefaultMaxHits  = 10_000_000
	DefaultProbes   = 64 << 10

	minChunk, maxChunk = 16, 64 << 20
	maxWorkers         = 16
)

// Options say what to look for and how. The zero value of every field but
// Matcher stands for its default.
type Options struct {
	Matcher Matcher

	// Align keeps hits whose address is a multiple of it; any value. The
	// default is what the matcher asks for (see Aligner), else 1.
	Align uint64
	// Skip is the number of bytes after the start of a hit at which the search
	// goes on. The default is 1, which finds overlapping hits too.
	Skip uint64
	// SkipMatch goes on at the end of a hit instead, where that is further.
	SkipMatch bool
	// Limit stops the search at that many hits; 0 is no limit.
	Limit uint64
	// CountOnly counts the hits and keeps none of them.
	CountOnly bool
	// MaxHits is the number of hits that are kept at most, in about 40 bytes
	// each; the search ends there, which is reported. Default DefaultMaxHits.
	MaxHits int

	// Workers read and match at the same time; 1 to 16, default 1. The Reader
	// must allow as many concurrent calls.
	Workers int
	// Chunk is the number of bytes read at once, 16 to 64 Mi, default DefaultChunk.
	Chunk int
	// PageSize of the debuggee in bytes, a power of two: where a byte cannot be
	// read the search goes on at the next page. Default DefaultPageSize.
	PageSize uint64
	// Probes is how many unreadable pages in a row are tried one by one. In
	// what follows them in the mapping as many are tried again, evenly spaced,
	// and everything between two that fail counts as unread. The default is
	// what a reader that is a Prober says, else DefaultProbes, which tries every
	// page of up to 512 MiB.
	Probes int

	// Swapped reads what is in swap too. Else a reader that is a Swapper leaves
	// it out, and Result.Unread says so.
	Swapped bool

	// Progress is told after every step how many bytes of how many are done.
	// Calls do not overlap; it must return at once.
	Progress func(done, total uint64)
}

// Result is what a search found and what it did.
type Result struct {
	// Hits in ascending order of address; empty with CountOnly.
	Hits Hits
	// Count is the number of hits.
	Count uint64
	// Longer is how many places have, or may have, a match that is longer than the
	// matcher follows it, which for a regular expression is DefaultRegexpLen: they
	// are no hits, or hits whose length is that of a shorter match. Of memory that
	// stands at several addresses they are counted once, limit and alignment aside,
	// and as if there were nothing around it.
	Longer uint64
	// SearchedBytes were looked at, with those known to be zero without reading.
	SearchedBytes uint64
	// SearchedMappings is how many mappings have at least one of those bytes.
	SearchedMappings int
	// Unread are the ranges that could not be read, ascending and merged, each
	// in one mapping.
	Unread []Unread
	// LimitReached says that the search ended at Options.Limit.
	LimitReached bool
	// CapReached says that the search ended at Options.MaxHits.
	CapReached bool
	// Partial, if not nil, is why the search ended early: the context's error,
	// or one that wraps ErrProcessGone.
	Partial error
	// Notes say what else is to be known about the answer, one sentence each.
	Notes []string
}

// Unread is a range of one mapping that could not be read.
type Unread struct {
	vm.Range
	Mapping int  // index into the mappings that were searched
	Swapped bool // it is in swap, and Options.Swapped was not set
}

// UnreadMapping says how much of a mapping could not be read.
type UnreadMapping struct {
	Mapping int    // index into the mappings that were searched
	Whole   bool   // no byte of it could be read
	First   uint64 // the first address that could not be read
	Bytes   uint64 // how many bytes could not be read
}

// SwappedBytes is how many bytes are in swap, and were left there.
func (r *Result) SwappedBytes() uint64 {
	sum := uint64(0)
	for _, u := range r.Unread {
		if u.Swapped {
			sum += u.Size
		}
	}
	return sum
}

// UnreadMappings sums up by mapping what could not be read: Unread but for what
// was left in swap. The mappings are those given to Scan.
func (r *Result) UnreadMappings(ms []vm.Mapping) []UnreadMapping {
	var sums []UnreadMapping
	at := map[int]int{}
	for _, u := range r.Unread {
		if u.Swapped {
			continue
		}
		i, ok := at[u.Mapping]
		if !ok {
			i = len(sums)
			at[u.Mapping] = i
			sums = append(sums, UnreadMapping{Mapping: u.Mapping, First: u.Start})
		}
		sums[i].Bytes += u.Size
		sums[i].Whole = sums[i].Bytes == ms[u.Mapping].Size
	}
	return sums
}

// Scan searches the memory in the mappings, which are sorted as in a Map, for
// what the matcher finds. Where mappings overlap a byte is searched once, for
// the first that was read of the debuggee, or else for the first that the user
// added, loaded or had explored; where they are adjacent a match may lie across
// them. No address outside them is read.
//
// Reader r may also be Sparse, which is asked about mappings that are
// Sparse: what is not populated there is searched without being read. And it
// may be a MappingReader, a Prober, and a Finder, which is asked where the
// matcher is one of NewBytes. The memory behind an Aliased one is searched once
// for all addresses at which it stands, where that is less to read and neither
// Skip nor SkipMatch is asked for; the answer is the same, but what was searched
// before an early end is not the lowest addresses. A Swapper is told what
// Options.Swapped says.
//
// A cancelled context ends the search at once, even while the reader hangs,
// with what was found so far; only invalid options make an error.
func Scan(ctx context.Context, r vm.Reader, ms []vm.Mapping, o Options) (*Result, error) {
	if err := o.complete(r); err != nil {
		return nil, err
	}
	leaveSwapped(r, !o.Swapped)
	if f, ok := r.(vm.Finder); ok {
		if exact, ok := o.Matcher.(bytesMatcher); ok {
			return scanFinder(ctx, f, r, exact.needle, ms, o), nil
		}
	}
	s := newScan(ctx, r, ms, pieces(ms), o)
	if a, ok := r.(vm.Aliased); ok {
		if x := newAliasScan(s, a); x != nil && x.saves() {
			if res := x.run(); res != nil {
				return res, nil
			}
		}
	}
	return s.run(), nil
}

// leaveSwapped tells a Swapper whether to leave out what is in swap.
func leaveSwapped(r vm.Reader, leave bool) {
	if s, ok := r.(vm.Swapper); ok {
		s.LeaveSwapped(leave)
	}
}

// complete fills in defaults and refuses what is out of range.
func (o *Options) complete(r vm.Reader) error {
	if o.Matcher == nil {
		return errors.New("scan: no matcher")
	}
	if a, ok := o.Matcher.(Aligner); ok && o.Align == 0 {
		o.Align = a.Align()
	}
	o.Align = max(o.Align, 1)
	o.Skip = max(o.Skip, 1)
	if o.MaxHits == 0 {
		o.MaxHits = DefaultMaxHits
	}
	if o.Workers == 0 {
		o.Workers = 1
	}
	if o.Chunk == 0 {
		o.Chunk = DefaultChunk
	}
	if o.PageSize == 0 {
		o.PageSize = DefaultPageSize
	}
	if p, ok := r.(vm.Prober); ok && o.Probes == 0 {
		o.Probes = p.Probes()
	}
	if o.Probes == 0 {
		o.Probes = DefaultProbes
	}
	switch {
	case o.MaxHits < 0:
		return fmt.Errorf("scan: at most %d hits", o.MaxHits)
	case o.Workers < 1 || o.Workers > maxWorkers:
		return fmt.Errorf("scan: %d workers; give 1 to %d", o.Workers, maxWorkers)
	case o.Chunk < minChunk || o.Chunk > maxChunk:
		return fmt.Errorf("scan: chunks of %d bytes; give %d to %d", o.Chunk, minChunk, maxChunk)
	case o.PageSize&(o.PageSize-1) != 0:
		return fmt.Errorf("scan: a page size of %d bytes is no power of two", o.PageSize)
	case o.Probes < 1:
		return fmt.Errorf("scan: %d probes", o.Probes)
	}
	return nil
}
