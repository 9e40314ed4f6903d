package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"

	"dbgsh/vm"
)

func search() Command {
	return Command{
		Name:  "search",
		Group: Memory,
		Args:  "VALUE [REGION ...]",
		Short: "Find every place in memory that holds a value.",
		Long: `VALUE is text unless a type is given: -t bytes (text, the default), string (text
with its NUL), byte, short or word, dword, qword, pointer; -1, -2, -4, -8 and -p
are short for the last ones. Integers are GDB expressions and stand in the
debuggee's byte order; a negative one wants -- before it. In text \n \t \r \0
\\ and \xNN are understood. With -x VALUE is bytes in hex.

REGIONs, -e, -w and --perm choose mappings as for vmmap; of a range 0xA-0xB only
what lies in it is searched. Every hit is found, overlapping ones and those
across adjacent mappings too. The last line says what was searched and what
could not be read. Memory is read from outside: nothing in the debuggee changes
by it.`,
		Examples: []Example{
			{`search "session=" [heap]`, "a text in the heap"},
			{`search -t string 'a\tb'`, "a text with a tab in it, and its NUL"},
			{"search -p $sp", "pointers to where the stack pointer points"},
			{"search -4 0xdeadbeef -w", "a 32-bit integer in writable memory"},
			{"search -4 -- -1 libc", "a negative one"},
			{"search -x '48 8b 05' -e", "bytes of code"},
			{"vmmap -w libc | search -p main", "only in what vmmap selects"},
			{"search flag{ | vmmap", "the mappings that hold it"},
		},
		Complete: CompleteRegion,
		Setup: func(f *pflag.FlagSet) RunFunc {
			o := &searchOptions{}
			o.flags(f)
			return func(ctx context.Context, s *Session, in Input) (Result, error) {
				return runSearch(ctx, s, o, in)
			}
		},
	}
}

// searchOptions are the flags of search.
type searchOptions struct {
	value valueOptions
	where selection
	limit uint64
	align uint64
	skip  uint64
}

func (o *searchOptions) flags(f *pflag.FlagSet) {
	o.value.flags(f)
	o.where.flags(f, "e")
	f.Uint64VarP(&o.limit, "limit", "l", 0, "stop after `N` hits")
	f.Uint64VarP(&o.align, "aligned", "a", 0, "only addresses that are multiples of `N`")
	f.Uint64VarP(&o.skip, "step", "s", 0, "go on `N` bytes after each hit")
}

func runSearch(ctx context.Context, s *Session, o *searchOptions, in Input) (Result, error) {
	if len(in.Args) == 0 {
		return nil, usagef(`takes a VALUE; see "help search"`)
	}
	matcher, err := o.value.matcher(ctx, s, in.Args[0])
	if err != nil {
		return nil, err
	}
	filter, err := o.where.filter(ctx, s, in.Args[1:])
	if err != nil {
		return nil, err
	}
	m, sel, err := choose(ctx, s, filter, in.Pipe)
	if err != nil {
		return nil, err
	}
	res := &searchResult{mappings: partsOf(sel.Matches()), bits: m.AddressBits, notes: slices.Clone(m.Notes)}
	if len(res.mappings) == 0 {
		res.notes = append(res.notes, noneNote(m, filter))
	}
	if sel.Undecided > 0 {
		res.notes = append(res.notes, undecidedNote(sel.Undecided))
	}
	memory, err := s.Debuggee.Memory(ctx)
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	res.scan, err = vm.Scan(ctx, memory, res.mappings, vm.ScanOptions{
		Matcher: matcher, Limit: o.limit, Align: o.align, Skip: o.skip, Workers: scanWorkers(),
	})
	if err != nil {
		return nil, err
	}
	res.notes = append(res.notes, res.scan.Notes...)
	switch why := res.scan.Partial; {
	case why == nil:
		return res, nil
	case errors.Is(why, context.Canceled) && ctx.Err() != nil:
		return res, context.Cause(ctx)
	default:
		return res, fmt.Errorf("the search is not complete: %w", why)
	}
}

// partsOf is the parts that rows select, as mappings.
func partsOf(rows []vm.Row) []vm.Mapping {
	var ms []vm.Mapping
	for _, row := range rows {
		for _, part := range row.Parts {
			ms = append(ms, row.Mapping.Clip(part))
		}
	}
	return ms
}
