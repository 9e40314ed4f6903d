package commands

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/shlex"
	"pgregory.net/rapid"

	"dbgsh/internal/testkit"
	"dbgsh/pt"
	"dbgsh/target"
	"dbgsh/vm"
)

// fakeDebuggee is a debuggee of made-up memory.
type fakeDebuggee struct {
	m       *vm.Map
	err     error // of Map
	values  map[string]uint64
	bytes   map[uint64][]byte // by start of mapping
	program string
	order   binary.ByteOrder
	gone    bool // GDB does not answer

	explored []vm.Mapping
}

func (d *fakeDebuggee) Changed()             {}
func (d *fakeDebuggee) Found(uint64, uint64) {}

// Map is another one at each call, as of a debuggee that changes all the time.
func (d *fakeDebuggee) Map(context.Context) (*vm.Map, error) {
	if d.err != nil {
		return nil, d.err
	}
	m := d.m.Like(slices.Concat(d.m.Mappings, d.explored))
	vm.Sort(m.Mappings)
	return m, nil
}

func (d *fakeDebuggee) Evaluate(_ context.Context, expr string) (uint64, bool, error) {
	if d.gone {
		return 0, false, &target.LostError{What: "GDB", Reason: "killed"}
	}
	if v, ok := d.values[expr]; ok {
		return v, int64(v) < 0 && strings.HasPrefix(expr, "neg"), nil
	}
	if v, err := strconv.ParseUint(expr, 0, 64); err == nil {
		return v, false, nil
	}
	if v, err := strconv.ParseInt(expr, 0, 64); err == nil {
		return uint64(v), true, nil
	}
	return 0, false, &target.ValueError{Expr: expr, Kind: target.ValueNoExpression, Why: "No symbol \"" + expr + "\" in current context."}
}

func (d *fakeDebuggee) Memory(context.Context) (vm.Memory, error) { return d, nil }
func (d *fakeDebuggee) Close() error                              { return nil }

func (d *fakeDebuggee) ReadMemory(_ context.Context, p []byte, addr uint64) (int, error) {
	for start, b := range d.bytes {
		if off := addr - start; off < uint64(len(b)) {
			return copy(p, b[off:]), nil
		}
	}
	return 0, nil
}

func (d *fakeDebuggee) Arch(context.Context) (int, binary.ByteOrder, error) { return 8, d.order, nil }
func (d *fakeDebuggee) Program(context.Context) (string, error)             { return d.program, nil }
func (d *fakeDebuggee) Explore(_ context.Context, addr, limit uint64) (vm.Mapping, bool, error) {
	for start, b := range d.bytes {
		if r := (vm.Range{Start: start, Size: uint64(len(b))}); r.Contains(addr) {
			m := vm.Mapping{Range: vm.Range{Start: start, Size: min(r.Size, limit)}, Perm: vm.KnownRead | vm.Read, Name: "<explored>"}
			d.explored = append(d.explored, m)
			return m, r.Size > limit, nil
		}
	}
	return vm.Mapping{}, false, nil
}
func (d *fakeDebuggee) Registers(context.Context) ([]uint64, error) {
	return []uint64{0x7ffffffde010, 0, 0x600123, 0x600456}, nil
}
func (d *fakeDebuggee) Status(context.Context) (target.Status, error) {
	return target.Status{Kind: target.KindNative, PID: 7, GDB: "13.1", Map: d.m, MapFrom: "/proc/7/maps"}, nil
}
func (d *fakeDebuggee) PageTables(_ context.Context, o target.TableOptions) (*vm.Map, error) {
	m := &vm.Map{AddressBits: 64, Mappings: []vm.Mapping{{
		Range: vm.Range{Start: 0xffff888000000000, Size: 0x200000}, Perm: vm.KnownAccess | vm.Read | vm.Write, Source: vm.SourcePageTables,
		Paged: &vm.Paged{Kernel: "rw-", User: "---", Phys: 0x1000, Region: "direct map"},
	}, {
		Range: vm.Range{Start: 0xffffffffff600000, Size: 0x1000}, Perm: vm.KnownAccess | vm.Read | vm.Exec, Source: vm.SourcePageTables,
		Paged: &vm.Paged{Kernel: "r--", User: "r-x", Phys: 0x2000},
	}}}
	if o.PTE {
		m.Mappings[0].Paged.PageSize, m.Mappings[0].Paged.Flags = 0x1000, "A D"
	}
	if o.Root != nil {
		m.Mappings = m.Mappings[:1]
		m.Mappings[0].Paged.Phys = *o.Root
	}
	return m, nil
}
func (d *fakeDebuggee) PageWalk(_ context.Context, addr uint64, root *uint64) (*pt.Path, error) {
	table := uint64(0x1000)
	if root != nil {
		table = *root
	}
	p := &pt.Path{Mode: "x86-64, 4 levels", VA: addr, Why: "the PML4E entry is not present", End: pt.NotPresent}
	p.Steps = []pt.Step{{Name: "PML4E", Table: table, Index: 3, Addr: table + 24, Value: 0x2060, Flags: "not present"}}
	if addr == 0x123 {
		p.Steps[0].Flags, p.End, p.Phys, p.PageSize = "P W", pt.Mapped, 0x5123, 0x1000
		p.Why, p.Access = "the PTE entry maps a page of 4 KiB", pt.KernelRead|pt.KernelWrite
		p.Notes = []string{"CR0.WP is 0"}
	}
	return p, nil
}

// Physical is two pages of RAM, of which the second one is mapped at many places.
func (d *fakeDebuggee) Physical(context.Context) (*target.Physical, error) {
	if _, ok := d.bytes[0x100000]; !ok {
		d.bytes[0x100000] = make([]byte, 0x2000)
	}
	return &target.Physical{
		Memory: d,
		Map: &vm.Map{AddressBits: 64, Notes: []string{"a note"}, Mappings: []vm.Mapping{{
			Range: vm.Range{Start: 0x100000, Size: 0x2000}, Perm: vm.KnownRead | vm.Read | vm.KnownWrite | vm.Write, Name: "[pc.ram]", Source: vm.SourceMachine,
		}}},
		MappedAt: func(pa uint64, limit int) (at []uint64, all int) {
			if pa < 0x101000 {
				return nil, 0
			}
			for all = range 6 {
				if all < limit {
					at = append(at, uint64(all)<<32+pa&0xfff)
				}
			}
			return at, 6
		},
	}, nil
}
func (d *fakeDebuggee) Help(_ context.Context, topic string) (string, error) {
	if topic == "nosuch" {
		return "", errors.New(`Undefined command: "nosuch".  Try "help".`)
	}
	return "GDB on " + topic + "\n", nil
}

const (
	rx = vm.KnownAll | vm.Read | vm.Exec
	rw = vm.KnownAll | vm.Read | vm.Write
)

// newSession is a session on a small process.
func newSession(t testing.TB) (*Session, *fakeDebuggee) {
	t.Helper()
	d := &fakeDebuggee{
		m: &vm.Map{AddressBits: 64, Mappings: []vm.Mapping{
			{Range: vm.Range{Start: 0x400000, Size: 0x1000}, Perm: rx, Name: "/bin/prog", Inode: 7, Source: vm.SourceProcfs},
			{Range: vm.Range{Start: 0x600000, Size: 0x1000}, Perm: rw, Name: "[heap]", Source: vm.SourceProcfs},
			{Range: vm.Range{Start: 0x601000, Size: 0x1000}, Perm: rw, Source: vm.SourceProcfs},
			{Range: vm.Range{Start: 0x7ffff7000000, Size: 0x2000}, Perm: rx, Offset: 0x26000, Inode: 9, Name: "/lib/libc\x1b[31m.so", Source: vm.SourceProcfs},
			{Range: vm.Range{Start: 0x7ffffffde000, Size: 0x21000}, Perm: rw, Name: "[stack]", Source: vm.SourceProcfs},
		}},
		values: map[string]uint64{"main": 0x400123, "$sp": 0x7ffffffde010, "$sp-0x100": 0x7ffffffddf10, "neg": 1<<64 - 2, "'f.c'::x": 0x600010},
		bytes:  map[uint64][]byte{},
		order:  binary.LittleEndian,
	}
	for _, m := range d.m.Mappings {
		d.bytes[m.Start] = make([]byte, m.Size)
	}
	r, err := NewRegistry(All()...)
	if err != nil {
		t.Fatal(err)
	}
	return NewSession(d, r, NewSettings()), d
}

// run runs a line of stages separated by " | " and returns its text.
func run(t testing.TB, s *Session, line string) (string, error) {
	t.Helper()
	out, err := execute(s, line)
	if out.Result == nil {
		return "", err
	}
	var b bytes.Buffer
	text := NewText(&b, nil)
	out.Result.WriteText(text)
	if err := text.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.String(), err
}

func execute(s *Session, line string) (out Output, err error) {
	for stage := range strings.SplitSeq(line, " | ") {
		name, tail, _ := strings.Cut(stage, " ")
		c := s.Registry.Lookup(name)
		if c == nil {
			return out, fmt.Errorf("no command %q", name)
		}
		if out, err = c.Execute(context.Background(), s, tail, out.Result); err != nil {
			return out, err
		}
	}
	return out, nil
}

func TestVmmapText(t *testing.T) {
	s, _ := newSession(t)
	for line, want := range map[string]string{
		"vmmap": `
             Start                End Perm     Size Offset File
          0x400000           0x401000 r-xp     1000      0 /bin/prog
          0x600000           0x601000 rw-p     1000      0 [heap]
          0x601000           0x602000 rw-p     1000      0 [anon_0x601]
    0x7ffff7000000     0x7ffff7002000 r-xp     2000  26000 /lib/libc\x1b[31m.so
    0x7ffffffde000     0x7ffffffff000 rw-p    21000      0 [stack]
`,
		"vmmap $sp": `
             Start                End Perm     Size Offset File
    0x7ffff7000000     0x7ffff7002000 r-xp     2000  26000 /lib/libc\x1b[31m.so
►   0x7ffffffde000     0x7ffffffff000 rw-p    21000      0 [stack] +0x10
`,
		"vmmap -A0 -B 0 anon_601 prog": `
             Start                End Perm     Size Offset File
►         0x400000           0x401000 r-xp     1000      0 /bin/prog
►         0x601000           0x602000 rw-p     1000      0 [anon_0x601]
`,
		"vmmap nosuch": `
no mapping has a name that contains "nosuch" (5 mappings; "vmmap" lists them)
`,
		"vmmap --name main": `
no mapping has a name that contains "main" (5 mappings; "vmmap" lists them)
`,
		"vmmap 2": `
no mapping holds 0x2 (2) (5 mappings; "vmmap" lists them)
`,
		"vmmap -w --perm --x": `
no mapping has permissions like -wx? (5 mappings; "vmmap" lists them)
`,
		"vmmap -A0 -B0 'f.c'::x": `
             Start                End Perm     Size Offset File
►         0x600000           0x601000 rw-p     1000      0 [heap] +0x10
`,
		"vmmap -w | vmmap heap": `
             Start                End Perm     Size Offset File
►         0x600000           0x601000 rw-p     1000      0 [heap]
          0x601000           0x602000 rw-p     1000      0 [anon_0x601]
`,
	} {
		got, err := run(t, s, line)
		if err != nil || got != want[1:] {
			t.Errorf("%s: %v\n%s\nwant\n%s", line, err, got, want[1:])
		}
	}
}

func TestVmmapWideRows(t *testing.T) {
	s, d := newSession(t)
	d.m = &vm.Map{AddressBits: 64, Mappings: []vm.Mapping{
		{Range: vm.Range{Start: 0x1000, Size: 0x1000}, Perm: rw, Name: "low"},
		{Range: vm.Range{Start: 0xffffffffff600000, Size: 0xa00000}, Name: "top"},
	}}
	got, err := run(t, s, "vmmap top")
	want := `              Start                 End Perm     Size Offset File
             0x1000              0x2000 rw-p     1000      0 low
►0xffffffffff600000 0x10000000000000000 ????   a00000      0 top
`
	if err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	d.m.AddressBits, d.m.Mappings = 32, d.m.Mappings[:1]
	got, err = run(t, s, "vmmap")
	if want := "     Start        End Perm     Size Offset File\n    0x1000     0x2000 rw-p     1000      0 low\n"; err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

// TestVmmapColumns compares the table with what fmt makes of the same rows.
func TestVmmapColumns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &vm.Map{AddressBits: rapid.SampledFrom([]int{32, 64}).Draw(t, "bits")}
		number := rapid.Map(rapid.Uint64(), func(v uint64) uint64 { return v >> (v % 64) })
		width, sizes, offsets := map[int]int{32: 10, 64: 18}[m.AddressBits], 8, 6
		for range rapid.IntRange(1, 5).Draw(t, "rows") {
			start := number.Draw(t, "start")
			size := 1 + min(number.Draw(t, "size"), -start-1) // up to 2^64
			mp := vm.Mapping{
				Range: vm.Range{Start: start, Size: size}, Perm: vm.Perm(rapid.Byte().Draw(t, "perm")),
				Offset: number.Draw(t, "offset"), Name: rapid.SampledFrom([]string{"", "/lib/é\x1b"}).Draw(t, "name"),
			}
			m.Mappings = append(m.Mappings, mp)
			width = max(width, len("0x"+mp.EndHex()))
			sizes, offsets = max(sizes, len(fmt.Sprintf("%x", size))), max(offsets, len(fmt.Sprintf("%x", mp.Offset)))
		}
		want := fmt.Sprintf("%*s %*s Perm %*s %*s File\n", width, "Start", width, "End", sizes, "Size", offsets, "Offset")
		for i := range m.Mappings {
			mp := &m.Mappings[i]
			want += fmt.Sprintf("%*s %*s %v %*x %*x %s\n", width, fmt.Sprintf("%#x", mp.Start), width, "0x"+mp.EndHex(),
				mp.Perm, sizes, mp.Size, offsets, mp.Offset, mp.Title())
		}
		sel := (&vm.Filter{}).Select(m)
		for _, paint := range []func(Style, string) string{nil, func(_ Style, text string) string { return text }} {
			var got bytes.Buffer
			text := NewText(&got, paint)
			(&mapResult{of: m, rows: sel.Rows}).writeTable(text)
			if err := text.Flush(); err != nil || got.String() != want {
				t.Fatalf("%v\n%s\nwant\n%s", err, got.String(), want)
			}
		}
	})
}

func TestErrors(t *testing.T) {
	s, d := newSession(t)
	elf := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(elf, []byte("no ELF"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ line, want string }{
		{"vmmap -A -1", "negative"},
		{"vmmap -B 65", "more than 64"},
		{"vmmap -A x", `"x" for --lines-after`},
		{"vmmap --perm q", "permission pattern"},
		{"vmmap --addr --name libc", "exclude"},
		{"vmmap --addr libc", "No symbol"},
		{"vmmap --nosuch", "unknown flag"},
		{"vmmap /(/", "regular expression"},
		{"vmmap 0x2000-0x1000", "not above the start"},
		{"vmmap 'libc", "not closed"},
		{"vmmap @last", "searched for yet"},
		{"vmmap_clear now", "takes no arguments"},
		{"vmmap_add 0x1000", "START SIZE"},
		{"vmmap_add 0x1000 0", "size is 0"},
		{"vmmap_add 0x1000 -- -1", "SIZE is negative"},
		{"vmmap_add 0x1000 0x1000 rq", "rwx"},
		{"vmmap_add nosuch 0x1000", "START: nosuch: No symbol"},
		{"vmmap_add 0xfffffffffffff000 0x1001", "beyond the end"},
		{"vmmap_load", "no program"},
		{"vmmap_load /nosuch", "no such file"},
		{"vmmap_load " + elf, "not an ELF file"},
		{"vmmap_load a b", "one FILE"},
		{"vmmap | search --phys x", "nothing is piped into it"},
		{"search", "takes a VALUE"},
		{"search ''", "empty"},
		{"search -4 0x123456789", "does not fit in 4 bytes (use -8)"},
		{"search -4 -8 1", "exclude"},
		{"search -t nosuch 1", "unknown type"},
		{"search -x zz", "VALUE"},
		{"search -x -4 11", "exclude"},
		{`search a\q`, "VALUE"},
		{"search --icase -4 1", "--icase is for text"},
		{"search --icase --regex a", "(?i)"},
		{"search --mask 1 text", "--mask is for integers"},
		{"search -4 1..2 --mask 1", "range"},
		{"search -4 2..1", "2..1"},
		{"search -x 1122 --mask ff", "1 byte"},
		{"search --regex '('", "VALUE"},
		{"search --into nosuch", "--into"},
		{"search --into heap -4", "--into finds pointers"},
		{"search --changed", "searched for yet"},
		{"search --next x", "searched for yet"},
		{"search --changed --unchanged", "exclude"},
		{"search --changed -4", "take no VALUE"},
		{"search --count --trunc-out 1 x", "--count"},
		{"search --trunc-out -2 x", "--trunc-out -2"},
		{"search --next --into heap", "search of its own"},
		{"search --fail-if-none nosuchtext", "no hits"},
		{"search -4 nosuch", "No symbol"},
		{"vmmap_explore", "one ADDR"},
		{"vmmap_explore 0x10", "nothing can be read there"},
		{"vmmap_explore $sp --max -1", "--max is -1"},
		{"help | vmmap", "hands over no mappings"},
		{"help nosuch", "Undefined command"},
	} {
		text, err := run(t, s, c.line)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %q, %v, want an error with %q", c.line, text, err, c.want)
		}
	}
	if m, err := s.Maps.Map(context.Background()); err != nil || len(m.Mappings) != 5 {
		t.Errorf("something was half-added: %d mappings, %v", len(m.Mappings), err)
	}
	d.err = vm.ErrNoProcess
	if _, err := run(t, s, "vmmap"); !errors.Is(err, vm.ErrNoProcess) {
		t.Errorf("without a process: %v", err)
	}
}

func TestAddedPages(t *testing.T) {
	s, d := newSession(t)
	for _, c := range []struct{ line, want string }{
		{"vmmap_add 0x20000000 0x8000 rw 0 sram", "added 0x20000000-0x20008000 rw-? sram\n"},
		{"vmmap_add main 0x10", "added 0x400123-0x400133 ???? [anon_0x400]\n0x400123-0x400133 overlaps 0x400000-0x401000 /bin/prog\n"},
		{"vmmap -A0 -B0 sram", "             Start                End Perm     Size Offset File\n►       0x20000000         0x20008000 rw-?     8000      0 sram\n"},
		{"vmmap -w -A0 -B0 sram [anon_0x400]", "             Start                End Perm     Size Offset File\n►       0x20000000         0x20008000 rw-?     8000      0 sram\n1 mapping left out: a permission that was asked for is unknown\n"},
	} {
		if got, err := run(t, s, c.line); err != nil || got != c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.line, err, got, c.want)
		}
	}
	d.m, d.err, d.gone = nil, vm.ErrNoProcess, true
	got, err := run(t, s, "vmmap sram")
	if err != nil || !strings.Contains(got, "►       0x20000000") || !strings.Contains(got, "no process") {
		t.Errorf("without a process: %v\n%s", err, got)
	}
	d.bytes[0x20000000] = bytes.Repeat([]byte("AB"), 0x4000)
	got, err = run(t, s, "search -l 2 ABA sram")
	if err != nil || !strings.Contains(got, "sram            0x20000002") || !strings.Contains(got, "2 hits (stopped there") {
		t.Errorf("%v\n%s", err, got)
	}
	if got, err := run(t, s, "vmmap_clear"); err != nil || got != "2 added mappings dropped\n" {
		t.Errorf("%v\n%s", err, got)
	}
	if _, err := run(t, s, "vmmap"); !errors.Is(err, vm.ErrNoProcess) {
		t.Errorf("after vmmap_clear: %v", err)
	}
}

func TestExplore(t *testing.T) {
	s, d := newSession(t)
	d.m.Mappings = nil
	got, err := run(t, s, "vmmap")
	if err != nil || !strings.Contains(got, "vmmap_explore $sp") {
		t.Errorf("%v\n%s", err, got)
	}
	if got, err = run(t, s, "vmmap_explore $sp --max 0x1000"); err != nil || got != "added 0x7ffffffde000-0x7ffffffdf000 r??? <explored>\nstopped after 4.0 KiB; --max goes on\n" {
		t.Errorf("%v\n%s", err, got)
	}
	d.explored = nil
	if _, err := run(t, s, "set auto-explore-pages yes"); err != nil {
		t.Fatal(err)
	}
	if got, err = run(t, s, "vmmap"); err != nil || strings.Count(got, "<explored>") != 2 {
		t.Errorf("%v\n%s", err, got)
	}
	d.explored = nil
	if _, err := run(t, s, "set auto-explore-pages no"); err != nil {
		t.Fatal(err)
	}
	if got, err = run(t, s, "vmmap"); err != nil || got != "" {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestLoad(t *testing.T) {
	s, d := newSession(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d.program = self
	out, err := execute(s, "vmmap_load")
	if err != nil {
		t.Fatal(err)
	}
	// readelf is the oracle.
	testkit.Need(t, "readelf")
	text, err := exec.Command("readelf", "-lW", self).Output()
	if err != nil {
		t.Fatal(err)
	}
	var starts []string
	for l := range strings.Lines(string(text)) {
		if f := strings.Fields(l); len(f) > 2 && f[0] == "LOAD" {
			v, err := strconv.ParseUint(f[2], 0, 64)
			if err != nil {
				t.Fatal(err)
			}
			starts = append(starts, fmt.Sprintf("%#x", v&^0xfff))
		}
	}
	var got []string
	for _, m := range out.Result.(Selector).Selected().Mappings {
		if m.Name == self {
			got = append(got, fmt.Sprintf("%#x", m.Start))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(starts) {
		t.Errorf("got %v, want %v", got, starts)
	}
}

func TestSearch(t *testing.T) {
	s, d := newSession(t)
	heap, anon := d.bytes[0x600000], d.bytes[0x601000]
	copy(heap[0x100:], "flag{one}\x00QZQZQZQZQZ")
	copy(heap[0xffd:], "cro")
	copy(anon, "ssing")
	copy(anon[0x10:], "f\x00l\x00A\x00g\x00")
	binary.LittleEndian.PutUint64(anon[0x20:], 0x400123)
	binary.LittleEndian.PutUint32(anon[0x40:], 0xfffffffe)
	binary.LittleEndian.PutUint32(anon[0x50:], 0x1337)
	for _, c := range []struct {
		line string
		want []uint64
	}{
		{"search flag{", []uint64{0x600100}},
		{`search -t string "one}"`, []uint64{0x600105}},
		{`search 'one}\0Q'`, []uint64{0x600105}},
		{"search QZQZ", []uint64{0x60010a, 0x60010c, 0x60010e, 0x600110}},
		{"search -s 4 QZQZ", []uint64{0x60010a, 0x60010e}},
		{"search -a 4 QZQZ", []uint64{0x60010c, 0x600110}},
		{"search -l 1 QZQZ", []uint64{0x60010a}},
		{"search crossing", []uint64{0x600ffd}},
		{"search crossing [heap]", nil},
		{"search crossing 0x600f00-0x601004", nil},
		{"search cros 0x600ffd-0x601001", []uint64{0x600ffd}},
		{"search -t utf16 flAg", []uint64{0x601010}},
		{"search --icase FLAG{", []uint64{0x600100}},
		{"search -p main", []uint64{0x601020}},
		{"search -8 0x400120..0x400130", []uint64{0x601020}},
		{"search -p main -e", nil},
		{"search -4 -- -2", []uint64{0x601040}},
		{"search -4 neg", []uint64{0x601040}},
		{"search -t short 0x1337", []uint64{0x601050}},
		{"search -4 0x1300 --mask 0xffffff00", []uint64{0x601050}},
		{"search -x '46 4c ?? 47'", nil},
		{"search -x '66 6c ?? 67'", []uint64{0x600100}},
		{"search -x 66..6167", []uint64{0x600100}},
		{`search --regex 'flag\{[a-z]+\}'`, []uint64{0x600100}},
		{"search --into prog", []uint64{0x601020}},
		{"vmmap -w anon_0x601 | search -p main", []uint64{0x601020}},
		{"vmmap heap | search -p main", nil},
	} {
		out, err := execute(s, c.line)
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		var got []uint64
		for _, h := range out.Result.(*searchResult).scan.Hits.All() {
			got = append(got, h.Address)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: got %#x, want %#x", c.line, got, c.want)
		}
	}
	if got, err := run(t, s, "search flag{"); err != nil || got != "[heap]          0x600100  66 6c 61 67 7b 6f 6e 65  7d 00 51 5a 51 5a 51 5a  flag{one}.QZQZQZ\n1 hit; searched 152.0 KiB in 5 mappings for text \"flag{\"\n" {
		t.Errorf("%v\n%s", err, got)
	}
	if got, err := run(t, s, "search flag{ | vmmap"); err != nil || strings.Count(got, "\n") != 2 || !strings.Contains(got, "[heap]") {
		t.Errorf("%v\n%s", err, got)
	}
	if got, err := run(t, s, "search QZ --count"); err != nil || got != "5\n" {
		t.Errorf("%v\n%s", err, got)
	}
	if got, err := run(t, s, "search QZ --trunc-out 2"); err != nil || !strings.Contains(got, "3 hits more not shown\n5 hits;") {
		t.Errorf("%v\n%s", err, got)
	}
	d.m.Live = true
	if got, err := run(t, s, "search flag{"); err != nil || !strings.Contains(got, "the debuggee runs while it is searched") {
		t.Errorf("%v\n%s", err, got)
	}
	d.m.Live = false
	d.bytes[0x600000] = heap[:0x800]
	got, err := run(t, s, "search flag{")
	if err != nil || !strings.HasSuffix(got, "; 1 could not be read (1 from 0x600800)\n") {
		t.Errorf("%v\n%s", err, got)
	}
}

// TestNotesTravel is that what is to be known of the map is said by every line
// that shows what was made from it.
func TestNotesTravel(t *testing.T) {
	s, d := newSession(t)
	d.m.Live, d.m.Partial = true, []vm.Lack{{Of: vm.LackMappings, Why: "more may be mapped"}}
	for _, runner := range []string{"", "process 7 (x), which has the same memory, runs"} {
		d.m.Runner = runner
		for _, line := range []string{
			"vmmap", "vmmap [heap]", "search flag{", "search nosuch", "search flag{ [heap] -w", "vmmap | search flag{", "vmmap -w | vmmap [heap] | search flag{",
			"search flag{ | vmmap", "search flag{ | search flag{", "search nosuch | search flag{", "vmmap nosuch | search flag{", "vmmap nosuch | vmmap",
		} {
			got, err := run(t, s, line)
			if err != nil || !strings.Contains(got, "more may be mapped\n") || !strings.Contains(got, "\n"+d.m.Runs()) && !strings.HasPrefix(got, d.m.Runs()) {
				t.Errorf("%s: %v\n%s", line, err, got)
			}
		}
		if got, err := run(t, s, "vmmap_add 0x1000 0x1000 | search x"); err != nil || !strings.Contains(got, d.m.Runs()) {
			t.Errorf("%v\n%s", err, got)
		}
	}
}

func TestRefine(t *testing.T) {
	s, d := newSession(t)
	heap := d.bytes[0x600000]
	for i := range 4 {
		binary.LittleEndian.PutUint32(heap[0x100*i:], 100)
	}
	hits := func(line string) string {
		t.Helper()
		out, err := execute(s, line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		var at []string
		for _, h := range out.Result.(*searchResult).scan.Hits.All() {
			at = append(at, fmt.Sprintf("%x", h.Address))
		}
		return strings.Join(at, " ")
	}
	step := func(line, want string) {
		t.Helper()
		if got := hits(line); got != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
	}
	step("search -4 100 [heap]", "600000 600100 600200 600300")
	binary.LittleEndian.PutUint32(heap[0x100:], 99)
	binary.LittleEndian.PutUint32(heap[0x200:], 98)
	step("search --changed", "600100 600200")
	step("search --unchanged", "600100 600200")
	step("search -4 --next 98..99", "600100 600200")
	heap[0x100] = 1
	step("search -4 --next --changed 1", "600100")
	if got, err := run(t, s, "vmmap -A0 -B0 @last"); err != nil || !strings.Contains(got, "[heap]") || strings.Count(got, "\n") != 2 {
		t.Errorf("%v\n%s", err, got)
	}
	step("search -4 100 @last", "600000 600300")
}

// TestExamples runs every example of every command.
func TestExamples(t *testing.T) {
	s, d := newSession(t)
	d.program, _ = os.Executable()
	t.Chdir(t.TempDir())
	for _, name := range []string{"firmware.elf", "module.so"} {
		if err := os.Symlink(d.program, name); err != nil {
			t.Fatal(err)
		}
	}
	copy(d.bytes[0x400000], "\x7fELF")
	d.bytes[0x20000000] = make([]byte, 0x2000)
	d.m.Mappings[3].Name = "/lib/libc.so"
	for _, c := range s.Registry.Commands() {
		if len(c.Examples) == 0 {
			t.Errorf("%s has no example", c.Name)
		}
		for _, e := range c.Examples {
			line, _, _ := strings.Cut(e.Line, " | !")
			if _, err := execute(s, line); err != nil && !errors.Is(err, ErrForGDB) {
				t.Errorf("%s: %v", e.Line, err)
			}
			if e.Does == "" {
				t.Errorf("%s: not explained", e.Line)
			}
		}
	}
}

// about is what documents say of the map that they were made from.
type about struct {
	From    struct{ Source, Place, Instead string }
	Partial []struct{ Of, Why string }
	Running bool
}

func TestJSON(t *testing.T) {
	s, d := newSession(t)
	copy(d.bytes[0x600000], "needle")
	decode := func(line string, into any) {
		t.Helper()
		out, err := execute(s, line)
		if err != nil {
			t.Fatal(err)
		}
		if !out.JSON {
			t.Errorf("%s: JSON was not asked for", line)
		}
		text, err := json.Marshal(out.Result)
		if err != nil {
			t.Fatal(err)
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(into); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, text)
		}
	}
	var m struct {
		Mappings []struct {
			Start, End, Perm, Name, Source string
			Size, Offset                   uint64
			Match                          bool
			NameBytes                      string `json:"name_bytes"`
		}
		Notes []string
		Map   about
	}
	d.m.From = vm.Origin{Source: vm.SourceQEMU, Place: "pid 9", Instead: "it is old"}
	d.m.Partial = []vm.Lack{{Of: vm.LackMappings, Why: "more may be mapped"}}
	d.m.Live = true
	same := func(line string, got about) {
		t.Helper()
		if got.From.Source != "qemu" || got.From.Place != "pid 9" || got.From.Instead != "it is old" || !got.Running ||
			len(got.Partial) != 1 || got.Partial[0].Of != "mappings" || got.Partial[0].Why != "more may be mapped" {
			t.Errorf("%s: %+v", line, got)
		}
	}
	decode("vmmap --json libc", &m)
	if len(m.Mappings) != 3 || len(m.Notes) != 3 {
		t.Fatalf("%+v", m)
	}
	same("vmmap", m.Map)
	if r := m.Mappings[1]; !r.Match || m.Mappings[0].Match || r.Start != "0x7ffff7000000" || r.End != "0x7ffff7002000" ||
		r.Size != 0x2000 || r.Offset != 0x26000 || r.Perm != "r-xp" || r.Source != "procfs" ||
		r.Name != `/lib/libc\x1b[31m.so` || r.NameBytes != "2f6c69622f6c6962631b5b33316d2e736f" {
		t.Errorf("%+v", r)
	}
	var h struct {
		Hits             []struct{ Address, Mapping, Preview string }
		Sought           string
		Count            uint64
		SearchedBytes    uint64                        `json:"searched_bytes"`
		SearchedMappings int                           `json:"searched_mappings"`
		Unread           []struct{ Start, End string } `json:"unread"`
		LimitReached     bool                          `json:"limit_reached"`
		Notes            []string
		Map              about
	}
	decode("search --json needle", &h)
	same("search", h.Map)
	if want := []string{"more may be mapped", "the debuggee runs while it is searched: what is mapped, unmapped or written meanwhile may be missed"}; !slices.Equal(h.Notes, want) {
		t.Errorf("got %q, want %q", h.Notes, want)
	}
	// What is handed on through a pipeline is of the same map.
	decode("search needle | vmmap --json", &m)
	same("search | vmmap", m.Map)
	if len(h.Hits) != 1 || h.Hits[0].Address != "0x600000" || h.Hits[0].Mapping != "[heap]" ||
		!strings.HasPrefix(h.Hits[0].Preview, "6e6565646c65") || h.SearchedMappings != 5 || h.Unread == nil {
		t.Errorf("%+v", h)
	}
}

func TestRegistry(t *testing.T) {
	run := func(context.Context, *Session, Input) (Result, error) { return nil, nil }
	r, err := NewRegistry(Command{Name: "one", Aliases: []string{"uno", "o"}, Run: run})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []Command{
		{Name: "one", Run: run}, {Name: "uno", Run: run}, {Name: "two", Aliases: []string{"o"}, Run: run},
		{Name: "two", Aliases: []string{"two"}, Run: run}, {Name: "two words", Run: run}, {Name: "a|b", Run: run},
		{Run: run}, {Name: "nothing"},
	} {
		if err := r.Register(bad); err == nil {
			t.Errorf("%q %q is registered", bad.Name, bad.Aliases)
		}
	}
	if len(r.Commands()) != 1 || r.Lookup("two") != nil || r.Lookup("o").Name != "one" {
		t.Error("a refused command left something behind")
	}
}

func TestWordsAgreeWithShlex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.StringOfN(rapid.SampledFrom([]rune(`ab'"\ #|é`)), 0, 12, -1).Draw(t, "line")
		words, err := Words(line)
		if err != nil {
			if strings.ContainsAny(line, `'"\`) {
				return
			}
			t.Fatalf("%q: %v", line, err)
		}
		var texts []string
		for _, w := range words {
			if line[w.Pos:w.Pos+len(w.Raw)] != w.Raw {
				t.Fatalf("%q: %+v is not where it says", line, w)
			}
			texts = append(texts, w.Text)
		}
		if strings.Contains(line, "#") { // which shlex takes for a comment
			return
		}
		want, err := shlex.Split(line)
		if err != nil {
			t.Fatalf("%q: shlex refuses it: %v", line, err)
		}
		if strings.Join(texts, "\x00") != strings.Join(want, "\x00") {
			t.Fatalf("%q: got %q, want %q", line, texts, want)
		}
	})
}

func TestLiteral(t *testing.T) {
	for raw, want := range map[string]string{
		`plain`: `plain`, `a\nb`: `a\nb`, `'a\nb'`: `a\nb`, `"a b"`: `a b`, `a\ b`: `a b`, `"a\"b"`: `a"b`,
		`'it"s'`: `it"s`, `a\\b`: `a\\b`, `\x41`: `\x41`, `"\|"`: `\|`, `\|`: `|`, `'\|'`: `\|`, `a'b'"c"`: `abc`,
	} {
		if got := (Word{Raw: raw}).Literal(); got != want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
}

func TestHelp(t *testing.T) {
	s, _ := newSession(t)
	for _, c := range s.Registry.Commands() {
		got, err := run(t, s, "help "+c.Name)
		if err != nil || !strings.HasPrefix(got, "usage: "+c.Name) {
			t.Errorf("help %s: %v\n%s", c.Name, err, got)
		}
		for i, l := range strings.Split(c.Long, "\n") {
			if len(l) > 83 {
				t.Errorf("%s: line %d of the help has %d characters", c.Name, i+1, len(l))
			}
		}
		if !c.Verbatim {
			if viaFlag, err := run(t, s, c.Name+" --help"); err != nil || viaFlag != got {
				t.Errorf("%s --help: %v\n%s", c.Name, err, viaFlag)
			}
		}
	}
	if got, err := run(t, s, "help info"); err != nil || got != "GDB on info\n" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := run(t, s, "help"); err != nil || !strings.Contains(got, "Memory\n  vmmap") {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestSettings(t *testing.T) {
	s, _ := newSession(t)
	if _, err := run(t, s, "set pager off"); err != nil || s.Settings.On("pager") {
		t.Errorf("%v", err)
	}
	if got, err := run(t, s, "show pager"); err != nil || !strings.HasPrefix(got, "pager is off") {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := run(t, s, "set pager maybe"); err == nil || !strings.Contains(err.Error(), "on or off") {
		t.Errorf("%v", err)
	}
	for _, line := range []string{"set width 80", "show width", "set", "show"} {
		if _, err := run(t, s, line); !errors.Is(err, ErrForGDB) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func FuzzExecute(f *testing.F) {
	for _, l := range []string{"-4 1", "-x 41 heap", "--regex 'a|b'", "-- -1", "'", "--perm -- -w", "-A\x00 1"} {
		f.Add(l)
	}
	s, _ := newSession(f)
	f.Fuzz(func(_ *testing.T, tail string) {
		for _, name := range []string{"vmmap", "search", "vmmap_add"} {
			// Neither a panic nor a hang; errors are for the user.
			_, _ = s.Registry.Lookup(name).Execute(context.Background(), s, tail, nil)
			s.Maps.ClearAdded()
		}
	})
}

// A name that was concluded is told from one that was read.
func TestDerivedNames(t *testing.T) {
	s, d := newSession(t)
	d.m.Mappings[1].Derived = true
	want := `
             Start                End Perm     Size Offset File
          0x600000           0x601000 rw-p     1000      0 [heap] (derived)
          0x601000           0x602000 rw-p     1000      0 [anon_0x601]
    0x7ffffffde000     0x7ffffffff000 rw-p    21000      0 [stack]
`[1:]
	if got, err := run(t, s, "vmmap -w"); err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	out, err := execute(s, "vmmap -w")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(out.Result)
	if err != nil || strings.Count(string(text), "derived") != 1 || !strings.Contains(string(text), `"name":"[heap]","name_derived":true`) {
		t.Errorf("%s, %v", text, err)
	}
}
