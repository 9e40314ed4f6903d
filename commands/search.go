package commands

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"dbgsh/target"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

func searchCommand() Command {
	return Command{
		Name:  "search",
		Group: Memory,
		Args:  "[VALUE] [REGION ...]",
		Short: "Find every place in memory that holds a value.",
		Long: `VALUE is text unless a type is given: -t bytes (text, the default), string
(text with its NUL), utf16, byte, short or word, dword, qword, pointer; -1, -2,
-4, -8 and -p are short for the last ones. Without a type a number in hex like
0xdeadbeef is one of 4 bytes, or of 8 where it needs them, and what begins with &
or $ and is a number to GDB is a pointer; -t bytes, or quotes, make them text. The
last line says what was looked for. GDB's lines find the number of hits in
$numfound and the address of the last in $_. Integers are GDB expressions and stand
in the debuggee's byte order; a negative one wants -- before it, and LO..HI is any
from LO to HI. In text \n \t \r \0 \\ and \xNN are understood. With -x VALUE is
bytes in hex, where ?? or .. is any byte and ? any digit. --mask M compares only
the bits that are set in M, an integer, or hex after -x. --regex reads VALUE as a
regular expression over bytes, whose matches have up to 4096 bytes; where there
may be a longer one, a note says so. --icase takes upper and lower case as equal.
--into REGION takes no VALUE: it finds aligned pointers into what REGION selects.

REGIONs, -e, -w and --perm choose mappings as for vmmap; of a range 0xA-0xB only
what lies in it is searched. Every hit is found, overlapping ones and those
across adjacent mappings too. The last line says what was searched and what
could not be read. A process on this machine is read from outside: nothing in it
changes by that. Pages of a file that it has mapped and not touched are read from
the file, if that is certain to be the same one and is on this machine; else they
are left out, which is said. What is in swap is read with --swapped alone.

For a machine in QEMU --phys searches its RAM and ROM by physical address, mapped
or not, and lists behind each hit the virtual addresses at which the selected
CPU's page tables map it. REGIONs are physical then, but for that of --into.
Physical hits are no input for --next or @last without --phys, or for a pipeline.

The hits, the first 10 million, are kept until the next search. --next looks for
VALUE at their places alone; --changed and --unchanged, which need no VALUE, keep
those where other bytes stand now, or the same ones. @last is a REGION: the
mappings that hold them.`,
		Examples: []Example{
			{`search "session=" [heap]`, "a text in the heap"},
			{`search -t string 'a\tb'`, "a text with a tab in it, and its NUL"},
			{"search -t utf16 password", "text as Windows, Java and JavaScript keep it"},
			{"search --icase content-length", "in upper or lower case"},
			{"search -p $sp", "pointers to where the stack pointer points"},
			{"search -4 0xdeadbeef -w", "a 32-bit integer in writable memory"},
			{"search -4 -- -1 libc", "a negative one"},
			{"search -8 0x1000..0x1fff [stack]", "any in this range"},
			{"search -4 0x1300 --mask 0xff00", "any whose second byte is 0x13"},
			{"search -x '48 8b ?? c3' -e", "bytes of code, one of them any"},
			{`search --regex 'flag\{[^}]*\}'`, "what a regular expression matches"},
			{"search --into libc -w --count", "how many pointers into libc stand in writable memory"},
			{"search -4 100 -w", "first the places that hold 100 ..."},
			{"search -4 --next 99", "... then, later, those of them that hold 99"},
			{"search --changed", "those that have changed since"},
			{"vmmap -w libc | search -p main", "only in what vmmap selects"},
			{"search session= --swapped", "also where the process has been swapped out"},
			{"search --phys 'Linux version'", "in a machine's RAM, mapped or not"},
			{"search flag{ | vmmap", "the mappings that hold it"},
			{"search -l 1 --fail-if-none ELF", "in a script: an error where there is none"},
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
	value     valueOptions
	where     selection
	limit     uint64
	align     uint64
	skip      uint64
	next      bool
	changed   bool
	unchanged bool
	count     bool
	shown     int
	mustFind  bool
	swapped   bool
}

func (o *searchOptions) flags(f *pflag.FlagSet) {
	o.value.flags(f)
	o.where.flags(f, "e")
	f.Uint64VarP(&o.limit, "limit", "l", 0, "stop after `N` hits")
	f.Uint64VarP(&o.align, "aligned", "a", 0, "only addresses that are multiples of `N`")
	f.Uint64VarP(&o.skip, "step", "s", 0, "go on `N` bytes after each hit")
	f.BoolVar(&o.where.physical, "phys", false, "search a machine's physical memory, and list where each hit is mapped")
	f.BoolVar(&o.next, "next", false, "only at the hits of the last search")
	f.BoolVar(&o.changed, "changed", false, "keep the hits of the last search where other bytes stand now")
	f.BoolVar(&o.unchanged, "unchanged", false, "keep the hits of the last search where the same bytes stand")
	f.BoolVar(&o.swapped, "swapped", false, "read what is in swap too, which brings it back into RAM")
	f.BoolVar(&o.count, "count", false, "print the number of hits alone")
	f.IntVar(&o.shown, "trunc-out", -1, "show the first `N` hits; all are kept")
	f.BoolVar(&o.mustFind, "fail-if-none", false, "no hit is a failure")
}

// check refuses flags that do not go together.
func (o *searchOptions) check() error {
	switch {
	case o.changed && o.unchanged:
		return usagef("--changed and --unchanged exclude each other; give one")
	case o.count && o.shown >= 0:
		return usagef("--count shows no hits, so --trunc-out has nothing to cut; give one")
	case o.shown < -1:
		return usagef("--trunc-out %d: give 0 or more", o.shown)
	case o.value.into != "" && o.refines():
		return usagef("--into is a search of its own; it does not go with --next, --changed or --unchanged")
	}
	return o.value.check(o.takesValue())
}

// pipeSlip says that a VALUE holds a bar that was surely meant to end it.
func pipeSlip(r *Registry, w Word) []string {
	if w.Quoted() {
		return nil
	}
	before, after, found := strings.Cut(w.Raw, "|")
	name := strings.TrimLeft(after, "|")
	if !found || before == "" || name == "" || r.Lookup(name) == nil && name[0] != '!' {
		return nil
	}
	return []string{fmt.Sprintf("a | without blanks around it is part of the text; for a pipeline write %q", before+" | "+name)}
}

// flagSlip refuses a REGION that is the name of a flag, which stands behind --.
func (o *searchOptions) flagSlip(words []Word) error {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	(&searchOptions{}).flags(f)
	for _, w := range words {
		name, isLong := strings.CutPrefix(w.Raw, "--")
		switch {
		case isLong && f.Lookup(name) != nil:
		case len(w.Raw) == 2 && w.Raw[0] == '-' && f.ShorthandLookup(w.Raw[1:]) != nil:
		default:
			continue
		}
		return usagef("%s stands behind --, where it is a REGION and no flag; write it before -- (in quotes it is a name)", w.Raw)
	}
	return nil
}

// refines reports whether the search is among the hits of the last one.
func (o *searchOptions) refines() bool { return o.next || o.changed || o.unchanged }

// takesValue reports whether the first word is VALUE.
func (o *searchOptions) takesValue() bool {
	return o.value.into == "" && (o.next || !o.changed && !o.unchanged)
}

// FoundKeeper lets GDB's own lines know what a search found, as GDB's find does.
type FoundKeeper interface {
	// Found keeps the number of hits and the address of the last of them, which
	// counts only where there are some.
	Found(last, count uint64)
}

// MemoryOpener has memory.
type MemoryOpener interface {
	// Memory reads the debuggee's memory; close it after use.
	Memory(ctx context.Context) (vm.Memory, error)
}

// shownOfInterrupted is how many hits of an interrupted search are shown.
const shownOfInterrupted = 1000

// errNoHits is the failure that --fail-if-none asks for.
var errNoHits = errors.New("no hits")

func runSearch(ctx context.Context, s *Session, o *searchOptions, in Input) (Result, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.refines() {
		if err := s.checkLast(o.where.physical); err != nil {
			return nil, err
		}
	}
	words := in.Args
	var slips []string
	var looked sought
	var err error
	if o.takesValue() {
		if len(words) == 0 {
			return nil, usagef(`takes a VALUE; see "help search"`)
		}
		looked, err = o.value.matcher(ctx, s, words[0])
		slips = append(slips, pipeSlip(s.Registry, words[0])...)
		words = words[1:]
	} else if o.value.into != "" {
		looked, err = o.value.pointers(ctx, s)
	}
	if err != nil {
		return nil, err
	}
	if err := o.flagSlip(words); err != nil {
		return nil, err
	}
	filter, err := o.where.filter(ctx, s, words)
	if err != nil {
		return nil, err
	}
	m, sel, memory, err := o.open(ctx, s, filter, in.Pipe)
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	res := &searchResult{
		of: m, mappings: partsOf(sel.Rows), onlyCount: o.count, shown: o.shown,
	}
	if physical, ok := memory.(*target.Physical); ok {
		res.physical = physical
		res.notes = append(res.notes, m.Notes...)
	}
	res.notes = append(res.notes, m.Unlisted()...)
	switch {
	case len(m.Mappings) == 0 && in.Pipe != nil:
		res.notes = append(res.notes, m.Notes...)
	case len(res.mappings) == 0:
		lister := "vmmap"
		if o.where.physical {
			lister = "monitor info mtree -f"
		}
		res.notes = append(res.notes, noneNote(m, filter, lister))
	}
	if sel.Undecided > 0 {
		res.notes = append(res.notes, undecidedNote(sel.Undecided))
	}
	if who := m.Runs(); who != "" {
		res.notes = append(res.notes, who+" while it is searched: what is mapped, unmapped or written meanwhile may be missed")
	}
	res.sought, res.notes = looked.as, append(slips, res.notes...)
	if err := o.find(ctx, s, memory, looked.Matcher, res); err != nil {
		return nil, err
	}
	if n := res.scan.Hits.Len(); n == 0 {
		s.Found.Found(0, 0)
	} else if !o.where.physical { // a line of GDB's takes virtual addresses
		s.Found.Found(res.scan.Hits.At(n-1).Address, res.scan.Count)
	}
	if n := res.scan.Longer; n > 0 {
		res.notes = append(res.notes, fmt.Sprintf("matches are followed for %d bytes; places where one may be longer, which is not found or is cut: %d", search.DefaultRegexpLen, n))
		res.qualified = true
	}
	res.qualified = res.qualified || res.scan.Partial != nil || res.scan.SearchedBytes == 0 && !o.refines()
	switch why := res.scan.Partial; {
	case why == nil && o.mustFind && res.scan.Count == 0:
		return res, errNoHits
	case why == nil:
		return res, nil
	case ctx.Err() != nil:
		if res.shown < 0 { // who stops a search does not want to wait for millions of rows
			res.shown = shownOfInterrupted
		}
		return res, context.Cause(ctx)
	default:
		return res, fmt.Errorf("the search is not complete: %w", why)
	}
}

// open chooses what to search, and opens the memory that is to be searched: the
// debuggee's, or a machine's physical one.
func (o *searchOptions) open(ctx context.Context, s *Session, f vm.Filter, pipe Result) (*vm.Map, vm.Selection, vm.Memory, error) {
	if o.where.physical {
		if pipe != nil {
			return nil, vm.Selection{}, nil, usagef("--phys searches all physical memory, so nothing is piped into it; REGIONs choose from it")
		}
		physical, err := s.Machine.Physical(ctx)
		if err != nil {
			return nil, vm.Selection{}, nil, err
		}
		return physical.Map, f.Select(physical.Map), physical, nil
	}
	m, sel, err := choose(ctx, s, f, pipe)
	if err != nil {
		return nil, sel, nil, err
	}
	memory, err := s.Memory.Memory(ctx)
	return m, sel, memory, err
}

// find searches res.mappings, and keeps the hits for the next search.
func (o *searchOptions) find(ctx context.Context, s *Session, memory vm.Memory, matcher search.Matcher, res *searchResult) (err error) {
	if o.refines() {
		change := search.AnyChange
		switch {
		case o.changed:
			change = search.Changed
		case o.unchanged:
			change = search.Unchanged
		}
		refined, err := search.Refine(ctx, memory, res.mappings, s.last, search.RefineOptions{
			Matcher: matcher, Change: change, Align: o.align, Skip: o.skip, Limit: o.limit, Swapped: o.swapped,
		})
		if err != nil {
			return err
		}
		res.scan = &refined.Result
		res.notes = append(res.notes, refinedNotes(refined)...)
		if s.lastCut {
			res.notes = append(res.notes, fmt.Sprintf("the search before kept only its first %d hits; the others were not looked at", search.DefaultMaxHits))
			res.qualified = true
		}
		s.last = refined.Snapshot
	} else {
		options := search.Options{
			Matcher: matcher, Limit: o.limit, Align: o.align, Skip: o.skip,
			Workers: min(2, runtime.GOMAXPROCS(0)), Swapped: o.swapped,
		}
		if s.Progress != nil {
			update, finish := s.Progress("search")
			defer finish()
			options.Progress = update
		}
		res.scan, err = search.Scan(ctx, memory, res.mappings, options)
		cut := err == nil && res.scan.CapReached
		if cut && o.count {
			// More hits than are kept can still be counted.
			kept := res.scan.Hits
			options.CountOnly = true
			if res.scan, err = search.Scan(ctx, memory, res.mappings, options); err == nil {
				res.scan.Hits = kept
			}
		}
		if err != nil {
			return err
		}
		s.last = search.TakeSnapshot(res.scan)
		s.lastCut = cut
	}
	s.lastPhysical = o.where.physical
	if n := res.scan.SwappedBytes(); n > 0 {
		res.notes = append(res.notes, byteSize(n)+" in swap, or held by userfaultfd, were not read; --swapped reads them")
		res.qualified = true
	}
	res.notes = append(res.notes, res.scan.Notes...)
	if n, ok := memory.(vm.Noter); ok {
		for _, note := range n.Notes() {
			if !slices.Contains(res.notes, note) { // the map may lack the same
				res.notes = append(res.notes, note)
			}
		}
	}
	return nil
}

// refinedNotes say what became of the hits of the last search that were not
// looked at.
func refinedNotes(r *search.Refined) []string {
	var notes []string
	if r.Partial != nil {
		return append(notes, "the hits of the last search are all kept, for another try")
	}
	if r.Unmapped > 0 {
		notes = append(notes, fmt.Sprintf("%s of the last search dropped: outside the mappings that are searched", count(r.Unmapped, "hit")))
	}
	if r.Undecided > 0 {
		notes = append(notes, fmt.Sprintf("%s of the last search not looked at, and kept for the next --next, --changed or --unchanged", count(r.Undecided, "hit")))
	}
	return notes
}

// partsOf is the parts that rows select, as mappings.
func partsOf(rows []vm.Row) []vm.Mapping {
	var ms []vm.Mapping
	for _, row := range rows {
		for _, part := range row.Parts {
			ms = append(ms, row.Clip(part))
		}
	}
	vm.Sort(ms)
	return ms
}
