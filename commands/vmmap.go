package commands

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"dbgsh/target"
	"dbgsh/vm"
)

func vmmap() Command {
	return Command{
		Name:  "vmmap",
		Group: Memory,
		Args:  "[REGION ...]",
		Short: "Show the memory map of the debuggee.",
		Long: `Without REGION all mappings are shown. A REGION is one of

  0xA-0xB    the mappings that have a byte in this range, its end exclusive
  EXPR       an expression that GDB knows as an integer or a pointer, such as
             $rsp+8, main or *ptr: the mapping that holds this address
  /REGEXP/   the mappings in whose name the regular expression finds a match
  TEXT       what is no expression to GDB: the mappings whose name contains it

Several are joined by "or". --addr and --name force the second and the last
reading. An expression is only looked at: one that would call, assign or write
in the debuggee is refused. A REGION with blanks in it wants quotes. A mapping
that has no name is shown as [anon_0xN], N being its start without the low 12
bits, and is found by that name with or without the 0x.

Where a REGION is given, the mappings that match begin with a mark, each goes
with its neighbours (see -A and -B), and a row that holds an address asked for
ends with the address's offset in it.

A name that no source gives, but that follows from what is known, is marked
(derived), as that of the heap in a core.

The map is read anew after every stop and after everything that GDB was told,
and only when it is asked for. What is not known is shown as ?.

Of a machine in QEMU it is what the page tables of the selected thread's CPU map,
mappings named [pt_0xN] like those without a name. The permissions are the user's
where the user may access the page at all, which the row then says, else the
kernel's. --pte keeps apart what lies apart in physical memory, pages of different
sizes and different flags, and shows them; --root PA walks the tables at this
physical address instead of the CPU's own.`,
		Examples: []Example{
			{"vmmap", "everything"},
			{"vmmap $sp", "the mapping that the stack pointer points into, and its neighbours"},
			{"vmmap -A0 -B0 libc /ld.*so/", "libc and the dynamic linker alone"},
			{"vmmap --perm rw?s", "what is readable, writable and shared"},
			{"vmmap -w libc | search -p main", "pointers to main in libc's writable memory"},
			{"vmmap --pte $pc", "in a machine: where the page of the code lies"},
			{"vmmap | !sort -k4 | head", "the text, through the shell"},
		},
		Complete: CompleteRegion,
		Setup: func(f *pflag.FlagSet) RunFunc {
			var o selection
			var filter vm.Filter
			var tables target.TableOptions
			var root string
			var whole bool
			o.flags(f, "x")
			f.BoolVar(&tables.PTE, "pte", false, "of page tables: keep physical addresses, page sizes and flags apart")
			f.StringVar(&root, "root", "", "walk the page tables at the physical address `PA`")
			f.BoolVarP(&whole, "verbose", "v", false, "do not shorten paths to the width of the terminal")
			f.IntVarP(&filter.After, "lines-after", "A", 1, "show `N` mappings after each match")
			f.IntVarP(&filter.Before, "lines-before", "B", 1, "show `N` mappings before each match")
			return func(ctx context.Context, s *Session, in Input) (Result, error) {
				if err := filter.Check(); err != nil {
					return nil, &UsageError{err}
				}
				chosen, err := o.filter(ctx, s, in.Args)
				if err != nil {
					return nil, err
				}
				chosen.Before, chosen.After = filter.Before, filter.After
				if !tables.PTE && root == "" {
					return runVmmap(ctx, s, chosen, whole, in.Pipe)
				}
				if in.Pipe != nil {
					return nil, usagef("--pte and --root read page tables, so they go with the first stage only")
				}
				if tables.Root, err = rootAt(ctx, s, root); err != nil {
					return nil, err
				}
				m, err := s.Machine.PageTables(ctx, tables)
				if err != nil {
					return nil, err
				}
				if tables.Root == nil {
					m = s.Maps.Over(m)
				}
				res := mapRows(m, chosen.Select(m), chosen)
				if n := s.Maps.Added(); n > 0 && tables.Root != nil {
					res.notes = append(res.notes, count(n, "added mapping")+" left out: --root shows another address space")
				}
				res.whole = whole
				return res, nil
			}
		},
	}
}

func runVmmap(ctx context.Context, s *Session, f vm.Filter, whole bool, pipe Result) (Result, error) {
	m, sel, err := choose(ctx, s, f, pipe)
	if err != nil {
		return nil, err
	}
	hint := ""
	if pipe == nil && len(m.Mappings) == 0 {
		var found bool
		if found, hint, err = autoExplore(ctx, s); err != nil {
			return nil, err
		}
		if found {
			if m, sel, err = choose(ctx, s, f, nil); err != nil {
				return nil, err
			}
		}
	}
	res := mapRows(m, sel, f)
	res.whole = whole
	if hint != "" {
		res.notes = append(res.notes, hint)
	}
	return res, nil
}

// mapRows is what a filter lets through of a map.
func mapRows(m *vm.Map, sel vm.Selection, f vm.Filter) *mapResult {
	res := &mapResult{of: m, rows: sel.Rows, marked: len(f.Regions) > 0, notes: m.About()}
	if len(f.Regions) == 0 { // of a part of the map they would say the same each time
		res.notes = append(res.notes, m.Rules...)
	}
	switch {
	case len(sel.Rows) > 0:
	case len(m.Mappings) > 0:
		res.none = noneNote(m, f, "vmmap")
		res.notes = append(res.notes, res.none)
	default:
		res.none = "there are no mappings"
	}
	if sel.Undecided > 0 {
		res.undecided = undecidedNote(sel.Undecided)
		res.notes = append(res.notes, res.undecided)
	}
	return res
}

// autoExplore does what the setting auto-explore-pages asks for where the map is
// empty: it explores what the registers point to, or says that one could.
func autoExplore(ctx context.Context, s *Session) (explored bool, hint string, err error) {
	switch s.Settings.Get("auto-explore-pages") {
	case "no":
		return false, "", nil
	case "warn":
		return false, "vmmap_explore $sp would look around the stack pointer; set auto-explore-pages yes does so for all registers", nil
	}
	values, err := s.Explorer.Registers(ctx)
	if err != nil {
		return false, "", err
	}
	slices.Sort(values)
	var last vm.Mapping
	for _, v := range values {
		if last.Contains(v) {
			continue
		}
		found, _, err := s.Explorer.Explore(ctx, v, defaultExplore)
		if err != nil {
			return false, "", err
		}
		if found.Size > 0 {
			explored, last = true, found
		}
	}
	return explored, "", nil
}

// mapResult is rows of a memory map.
type mapResult struct {
	of   *vm.Map // what the rows are of
	none string  // why there are no rows, "" where there are some
	// undecided says which mappings may have been meant as well, "" for none.
	undecided string
	rows      []vm.Row
	marked    bool // the rows that match are to be told from their neighbours
	whole     bool // paths are not shortened, however narrow the screen
	notes     []string
}

// Empty implements emptier.
func (r *mapResult) Empty() string { return r.none }

// Selected is the mappings that matched.
func (r *mapResult) Selected() *vm.Map {
	m := r.of.Like(partsOf(r.rows))
	if r.undecided != "" {
		m.Partial = append(slices.Clip(m.Partial), vm.Lack{Of: vm.LackMappings, Why: r.undecided})
	}
	return m
}

// styleOf is the kind of memory that a mapping is.
func styleOf(m *vm.Mapping) Style {
	w, x := m.Perm.Is(vm.Write), m.Perm.Is(vm.Exec)
	switch {
	case w && x:
		return RWX
	case strings.HasPrefix(m.Name, "[stack"):
		return Stack
	case strings.HasPrefix(m.Name, "[heap"):
		return Heap
	case x:
		return Code
	case w:
		return Data
	case m.Perm.Is(vm.Read):
		return ROData
	}
	return Plain
}

// legend is the styles of mappings with their names.
func legend() []struct {
	style Style
	name  string
} {
	return []struct {
		style Style
		name  string
	}{{Stack, "STACK"}, {Heap, "HEAP"}, {Code, "CODE"}, {Data, "DATA"}, {RWX, "WX"}, {ROData, "RODATA"}}
}

// mark stands before a row that matches.
const mark = "►"

// asciiMark is mark where only ASCII is sure to show.
const asciiMark = ">"

// shorten cuts the path at b[from:to] in the middle, so that b has room columns.
// The file's name is kept where that can be, else its end; b stays as it is where
// hardly anything of the path would be left.
func shorten(b []byte, from, to, room int) []byte {
	const gap, least, begin = "...", 12, 4
	path := []rune(string(b[from:to]))
	left := room - (utf8.RuneCount(b) - len(path)) // columns for the path
	if left >= len(path) || left < least {
		return b
	}
	name := len(path) - 1
	for name > 0 && path[name] != '/' {
		name--
	}
	head := left - len(gap) - (len(path) - name)
	if head < 1 {
		head = begin
	}
	tail := left - len(gap) - head
	short := string(path[:head]) + gap + string(path[len(path)-tail:])
	return slices.Replace(b, from, to, []byte(short)...)
}

// WriteText shows the rows as a table, then the notes.
func (r *mapResult) WriteText(t *Text) {
	if len(r.rows) > 0 {
		if t.Coloured() {
			t.Print(Faint, "LEGEND:")
			for _, l := range legend() {
				t.Print(Plain, " ")
				t.Print(l.style, l.name)
			}
			t.Print(Plain, "\n")
		}
		r.writeTable(t)
	}
	t.notes(r.notes)
}

func (r *mapResult) writeTable(t *Text) {
	width := 18 // 0x and 16 digits
	if r.of.AddressBits == 32 {
		width = 10
	}
	sizeWidth, offsetWidth := 8, 6
	indent := ""
	for i := range r.rows {
		row := &r.rows[i]
		if end, over := bits.Add64(row.Start, row.Size, 0); over != 0 {
			width = max(width, len("0x10000000000000000"))
		} else {
			width = max(width, hexDigits(end)+2)
		}
		sizeWidth = max(sizeWidth, hexDigits(row.Size))
		offsetWidth = max(offsetWidth, hexDigits(row.Offset))
		if r.marked && row.Match && hexDigits(row.Start)+2 >= width {
			indent = " " // no room for the mark in the column of the start
		}
	}
	t.Printf(Title, "%s%*s %*s Perm %*s %*s File\n", indent, width, "Start", width, "End", sizeWidth, "Size", offsetWidth, "Offset")
	mark := []byte(mark)
	if t.Screen().ASCII {
		mark = []byte(asciiMark)
	}
	// Maps can have tens of thousands of rows: no fmt, and nothing allocated for one.
	var b []byte
	for i := range r.rows {
		row := &r.rows[i]
		b = appendHex(append(b[:0], indent...), "0x", row.Start, width)
		b = append(b, ' ')
		if end, over := bits.Add64(row.Start, row.Size, 0); over != 0 {
			b = fmt.Appendf(b, "%*s", width, "0x"+row.EndHex())
		} else {
			b = appendHex(b, "0x", end, width)
		}
		b = row.Perm.Append(append(b, ' '))
		b = appendHex(append(b, ' '), "", row.Size, sizeWidth)
		b = appendHex(append(b, ' '), "", row.Offset, offsetWidth)
		b = append(b, ' ')
		name := len(b)
		b = row.AppendTitle(b)
		title := len(b)
		if row.Derived {
			b = append(b, " (derived)"...)
		}
		if remark := row.Paged.Remark(); remark != "" {
			b = append(append(append(b, " ("...), remark...), ')')
		}
		if absent := row.Kept.Absent(row.Size); absent == row.Size {
			b = append(b, " (not in the core)"...)
		} else if absent > 0 {
			b = fmt.Appendf(b, " (%#x bytes not in the core)", absent)
		}
		for _, a := range row.Addrs {
			b = fmt.Appendf(b, " +%#x", a-row.Start)
		}
		if room := t.Screen().Columns; room > 0 && !r.whole && len(b) > room && row.Name != "" && row.Name[0] == '/' {
			b = shorten(b, name, title, room)
		}
		b = append(b, '\n')
		if r.marked && row.Match {
			b = slices.Replace(b, 0, 1, mark...)
		}
		if t.Coloured() {
			t.Print(styleOf(row.Mapping), string(b))
		} else {
			t.Write(b)
		}
	}
}

// hexDigits is how many digits v has in hex.
func hexDigits(v uint64) int { return max(1, (bits.Len64(v)+3)/4) }

// appendHex appends v in hex behind a prefix, right in a column that has room for it.
func appendHex(b []byte, prefix string, v uint64, width int) []byte {
	b = append(b, "                    "[:width]...)
	at := len(b)
	for digits := hexDigits(v); digits > 0; digits-- {
		at--
		b[at] = "0123456789abcdef"[v&0xf]
		v >>= 4
	}
	copy(b[at-len(prefix):], prefix)
	return b
}

// jsonMapping is how JSON shows a mapping.
type jsonMapping struct {
	Start     hexNumber `json:"start"`
	End       string    `json:"end"` // exclusive; can be 2^64
	Size      uint64    `json:"size"`
	Perm      string    `json:"perm"`
	Offset    uint64    `json:"offset"`
	Name      string    `json:"name"`
	NameBytes string    `json:"name_bytes,omitempty"` // hex, where Name is escaped
	Derived   bool      `json:"name_derived,omitempty"`
	Source    vm.Source `json:"source"`
	Match     bool      `json:"match"`
	Bytes     *keptJSON `json:"bytes,omitempty"` // of a core: where they are
	Paged     *pageJSON `json:"page_table,omitempty"`
}

// pageJSON is how JSON shows what page tables say of a mapping.
type pageJSON struct {
	Kernel   string    `json:"kernel"`
	User     string    `json:"user"`
	Phys     hexNumber `json:"physical"` // of the first page
	PageSize uint64    `json:"page_size,omitempty"`
	Flags    string    `json:"flags,omitempty"`
	Region   string    `json:"derived_region,omitempty"`
}

// keptJSON is how JSON shows where the bytes of a mapping of a core are.
type keptJSON struct {
	InCore   uint64 `json:"in_core"`
	FromFile uint64 `json:"in_mapped_file"`
	Absent   uint64 `json:"absent"`
}

func jsonOf(m *vm.Mapping, match bool) jsonMapping {
	j := jsonMapping{
		Start: hexNumber(m.Start), End: "0x" + m.EndHex(), Size: m.Size, Perm: m.Perm.String(),
		Offset: m.Offset, Name: m.Title(), Derived: m.Derived, Source: m.Source, Match: match,
	}
	if m.Kept.Known {
		j.Bytes = &keptJSON{m.Kept.InCore, m.Kept.FromFile, m.Kept.Absent(m.Size)}
	}
	if p := m.Paged; p != nil {
		j.Paged = &pageJSON{p.Kernel, p.User, hexNumber(p.Phys), p.PageSize, p.Flags, p.Region}
	}
	if m.Name != "" && j.Name != m.Name {
		j.NameBytes = hex.EncodeToString([]byte(m.Name))
	}
	return j
}

// MarshalJSON is {"mappings":[...],"notes":[...]}, and where the map is from.
func (r *mapResult) MarshalJSON() ([]byte, error) {
	out := struct {
		Mappings []jsonMapping `json:"mappings"`
		Notes    []string      `json:"notes"`
		Map      jsonAbout     `json:"map"`
	}{make([]jsonMapping, len(r.rows)), append([]string{}, r.notes...), aboutOf(r.of)}
	for i := range r.rows {
		out.Mappings[i] = jsonOf(r.rows[i].Mapping, r.rows[i].Match)
	}
	return json.Marshal(out)
}
