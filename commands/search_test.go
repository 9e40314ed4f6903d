package commands

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"dbgsh/vm"
)

// dyingDebuggee exits when its memory has been read so many times.
type dyingDebuggee struct {
	*fakeDebuggee
	reads atomic.Int64 // that are left
}

func (d *dyingDebuggee) Memory(context.Context) (vm.Memory, error) { return d, nil }

func (d *dyingDebuggee) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	if d.reads.Add(-1) < 0 {
		return 0, vm.ErrProcessGone
	}
	return d.fakeDebuggee.ReadMemory(ctx, p, addr)
}

func TestRefineKeepsWhatWasNotLookedAt(t *testing.T) {
	s, d := newSession(t)
	anon := d.bytes[0x7ffffffde000]
	const n = 8
	for i := range n {
		binary.LittleEndian.PutUint32(anon[i*0x2000:], 100)
	}
	last := func() string {
		t.Helper()
		return fmt.Sprint(s.last.Len())
	}
	if _, err := run(t, s, "search -4 100 [stack]"); err != nil || last() != "8" {
		t.Fatal(last(), err)
	}
	// A limit: the rest stay.
	got, err := run(t, s, "search -4 --next -l 3 100")
	if err != nil || last() != "8" || !strings.Contains(got, "5 hits of the last search not looked at") {
		t.Errorf("%s hits, %v\n%s", last(), err, got)
	}
	// An end in the middle: all stay.
	dying := &dyingDebuggee{fakeDebuggee: d}
	dying.reads.Store(3)
	s.Memory = dying
	got, err = run(t, s, "search --unchanged")
	if !errors.Is(err, vm.ErrProcessGone) || last() != "8" || !strings.Contains(got, "all kept") {
		t.Errorf("%s hits, %v\n%s", last(), err, got)
	}
	s.Memory = d
	// What cannot be read for a time stays.
	d.bytes[0x7ffffffde000] = anon[:0x3000]
	got, err = run(t, s, "search --unchanged")
	if err != nil || last() != "8" || !strings.Contains(got, "6 hits of the last search not looked at") {
		t.Errorf("%s hits, %v\n%s", last(), err, got)
	}
	d.bytes[0x7ffffffde000] = anon
	anon[0] = 1
	if got, err = run(t, s, "search --unchanged"); err != nil || last() != "7" || strings.Contains(got, "not looked at") {
		t.Errorf("%s hits, %v\n%s", last(), err, got)
	}
	// Outside the region: dropped, and said.
	if got, err = run(t, s, "search --unchanged [heap]"); err != nil || last() != "0" || !strings.Contains(got, "7 hits of the last search dropped") {
		t.Errorf("%s hits, %v\n%s", last(), err, got)
	}
}

func TestSearchPhysical(t *testing.T) {
	s, d := newSession(t)
	if _, err := d.Physical(t.Context()); err != nil {
		t.Fatal(err)
	}
	ram := d.bytes[0x100000]
	copy(ram[0x10:], "needle")
	copy(ram[0x1020:], "needle")
	copy(d.bytes[0x600000], "needle")
	for _, c := range []struct {
		line string
		want []string // what the text holds; an error's message follows "!"
	}{
		{"search --phys needle", []string{
			"[pc.ram]        0x100010  6e 65", "  not mapped\n", "[pc.ram]        0x101020  ",
			"needle..........  at 0x20, 0x100000020, 0x200000020, 0x300000020 and at 2 more\n", "a note\n", "2 hits; searched 8.0 KiB in 1 mapping for text \"needle\"\n",
		}},
		{"search --phys --next needle 0x101000-0x102000", []string{"1 hit;"}},
		{"search --phys --unchanged @last", []string{"0x101020"}},
		{"search --phys needle pc.rom", []string{"no mapping", "0 hits"}},
		{"search --phys needle -w", []string{"2 hits;"}},
		{"search --phys needle | vmmap", []string{"!physical addresses"}},
		{"search --next needle", []string{"!which only search --phys takes"}},
		{"vmmap @last", []string{"!@last: the hits of the last search are physical"}},
		{"search needle", []string{"1 hit;"}},
		{"search --phys --changed", []string{"!--phys asks for physical"}},
	} {
		text, err := run(t, s, c.line)
		for _, want := range c.want {
			if msg, failure := strings.CutPrefix(want, "!"); failure {
				if err == nil || !strings.Contains(err.Error(), msg) {
					t.Errorf("%s: %v", c.line, err)
				}
			} else if err != nil || !strings.Contains(text, want) {
				t.Errorf("%s: %q is not in (%v)\n%s", c.line, want, err, text)
			}
		}
	}
	out, err := execute(s, "search --phys --json needle")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(out.Result)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Hits []struct {
			Mapped []string `json:"mapped_at"`
			Count  *int     `json:"mapped_count"`
		}
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Hits) != 2 || got.Hits[0].Mapped == nil || *got.Hits[0].Count != 0 || len(got.Hits[1].Mapped) != 6 || *got.Hits[1].Count != 6 || got.Hits[1].Mapped[1] != "0x100000020" {
		t.Errorf("%s", text)
	}
}

// A number alone is only said where it is the whole answer.
func TestCountThatIsNotAll(t *testing.T) {
	s, d := newSession(t)
	copy(d.bytes[0x600000], "needle")
	if text, err := run(t, s, "search --count needle"); err != nil || text != "1\n" {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := run(t, s, "search --count --next other"); err != nil || text != "0\n" {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := run(t, s, "search --count --unchanged"); err != nil || text != "0\n" {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := run(t, s, "search --count needle 0x1-0x2"); err != nil || !strings.Contains(text, "0 hits; searched 0 bytes") {
		t.Errorf("%q, %v", text, err)
	}
	s.lastCut = true // of ten million
	if text, err := run(t, s, "search --count --unchanged"); err != nil || !strings.Contains(text, "kept only its first 10000000 hits") {
		t.Errorf("%q, %v", text, err)
	}
	dying := &dyingDebuggee{fakeDebuggee: d}
	dying.reads.Store(2)
	s.Memory = dying
	if text, err := run(t, s, "search --count needle"); !errors.Is(err, vm.ErrProcessGone) || !strings.Contains(text, "; partial: ") {
		t.Errorf("%q, %v", text, err)
	}
}

// swappedDebuggee has a page in swap.
type swappedDebuggee struct {
	*fakeDebuggee
	page  vm.Range
	leave bool
}

func (d *swappedDebuggee) Memory(context.Context) (vm.Memory, error) { return d, nil }

func (d *swappedDebuggee) LeaveSwapped(leave bool) { d.leave = leave }

func (d *swappedDebuggee) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	if r := (vm.Range{Start: addr, Size: uint64(len(p))}); d.leave && r.Overlaps(d.page) {
		n := max(addr, d.page.Start) - addr
		n2, err := d.fakeDebuggee.ReadMemory(ctx, p[:n], addr)
		if err == nil {
			err = &vm.UnreadableError{Range: d.page, Err: vm.ErrSwapped}
		}
		return n2, err
	}
	return d.fakeDebuggee.ReadMemory(ctx, p, addr)
}

func TestSearchLeavesSwap(t *testing.T) {
	s, d := newSession(t)
	stack := d.bytes[0x7ffffffde000]
	copy(stack[0x10:], "needle")
	copy(stack[0x1020:], "needle")
	swapped := &swappedDebuggee{fakeDebuggee: d, page: vm.Range{Start: 0x7ffffffdf000, Size: 0x1000}}
	s.Memory = swapped
	const note = "4.0 KiB in swap, or held by userfaultfd, were not read; --swapped reads them\n"
	for _, c := range []struct{ line, want, not string }{
		{"search needle 0x7ffffffde000-0x7ffffffe0000", note + "1 hit; searched 4.0 KiB in 1 mapping for text \"needle\"\n", "could not be read"},
		{"search --count needle 0x7ffffffde000-0x7ffffffe0000", "1\n" + note, "could not be read"},
		{"search needle --swapped 0x7ffffffde000-0x7ffffffe0000", "2 hits; searched 8.0 KiB in 1 mapping for text \"needle\"\n", "swap"},
		{"search --unchanged", "6 bytes in swap, or held by userfaultfd, were not read; --swapped reads them\n1 hit;", ""},
		{"search --unchanged", "1 hit of the last search not looked at", ""},
		{"search --unchanged --swapped", "2 hits;", "swap"},
		{"search needle 0x7ffffffde000-0x7ffffffdf000", "1 hit; searched 4.0 KiB", "swap"},
	} {
		text, err := run(t, s, c.line)
		if err != nil || !strings.Contains(text, c.want) || c.not != "" && strings.Contains(text, c.not) {
			t.Errorf("%s: want %q and not %q, %v\n%s", c.line, c.want, c.not, err, text)
		}
	}
	out, err := execute(s, "search --json needle 0x7ffffffde000-0x7ffffffe1000")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(out.Result)
	if err != nil || !strings.Contains(string(text), `"unread":[{"start":"0x7ffffffdf000","end":"0x7ffffffe0000","swapped":true}]`) {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestSettingsAreExplained(t *testing.T) {
	s, _ := newSession(t)
	for _, line := range []string{"help kernel-vmmap", "help set kernel-vmmap", "help show kernel-vmmap"} {
		if text, err := run(t, s, line); err != nil || !strings.Contains(text, "kernel-vmmap is auto (of auto, page-tables, monitor, none): where the map") {
			t.Errorf("%s: %q, %v", line, text, err)
		}
	}
	text, err := run(t, s, "help set")
	for _, name := range s.Settings.Names() {
		if err != nil || !strings.Contains(text, "\n"+name+" ") {
			t.Errorf("%s is not in %q, %v", name, text, err)
		}
	}
}

// TestWhatIsSought: what was typed means what it says.
func TestWhatIsSought(t *testing.T) {
	s, d := newSession(t)
	d.values["&x"], d.values["$sp"] = 0x7ffffffde010, 0x7ffffffde010
	heap := d.bytes[0x600000]
	clear(heap)
	copy(heap[0x10:], "\xef\xbe\xad\xde")
	copy(heap[0x20:], "0xdeadbeef &x $HOME $sp 1234")
	copy(heap[0x40:], "\x10\xe0\xfd\xff\xff\x7f\x00\x00")
	copy(heap[0x50:], "\x89\x67\x45\x23\x01\x00\x00\x00")
	copy(heap[0x60:], "flag{|vmmap")
	for _, c := range []struct {
		line string
		at   uint64 // of the only hit, 0 for none
		want string
	}{
		{"search 0xdeadbeef", 0x600010, "for 4-byte 0xdeadbeef"},
		{"search 0XDEADBEEF", 0x600010, "for 4-byte 0XDEADBEEF"},
		{`search "0xdeadbeef"`, 0x600020, `for text "0xdeadbeef"`},
		{"search -t bytes 0xdeadbeef", 0x600020, `for text "0xdeadbeef"`},
		{"search 0x123456789", 0x600050, "for 8-byte 0x123456789"},
		{"search &x", 0x600040, "for 8-byte &x (0x7ffffffde010)"},
		{"search -t bytes &x", 0x60002b, `for text "&x"`},
		{"search $sp", 0x600040, "for 8-byte $sp (0x7ffffffde010)"},
		{"search $HOME", 0x60002e, `for text "$HOME"`},
		{"search 1234", 0x600038, `for text "1234"`},
		{`search '\x20\x31234'`, 0x600037, `for text " 1234"`},
		{"search -t string 1234", 0x600038, `for string text "1234"`},
		{"search -x 'ef be ?? de'", 0x600010, "for bytes ef be ?? de"},
		{"search --regex 'b[a-e]+f'", 0x600026, "for matches of /b[a-e]+f/"},
		{"search -4 0xdeadbe00 --mask 0xffffff00", 0x600010, "for 4-byte 0xdeadbe00 in the bits of 0xffffff00"},
		{"search -4 0xdeadbe00..0xdeadbeff", 0x600010, "for 4-byte 0xdeadbe00..0xdeadbeff"},
		{"search --into [stack] -w", 0x600040, "for pointers into [stack]"},
		{"search flag{|vmmap", 0x600060, "a | without blanks around it is part of the text; for a pipeline write \"flag{ | vmmap\""},
		{"search nosuch | vmmap", 0, "the stage before hands over nothing: 0 hits; searched"},
		{"vmmap nosuch | search foo", 0, `the stage before hands over nothing: no mapping has a name that contains "nosuch"`},
		{"vmmap nosuch | vmmap", 0, `hands over nothing: no mapping has a name that contains "nosuch"`},
	} {
		got, err := run(t, s, c.line)
		if err != nil || !strings.Contains(got, c.want) || c.at != 0 && (!strings.Contains(got, fmt.Sprintf("%#x ", c.at)) || !strings.Contains(got, "1 hit;")) {
			t.Errorf("%s: %v, %q is not in\n%s", c.line, err, c.want, got)
		}
		if c.at == 0 && strings.Contains(got, "permissions like") {
			t.Errorf("%s:\n%s", c.line, got)
		}
	}
	for line, want := range map[string]string{
		"search -2 -- -1 [stack] -l":     "-l stands behind --",
		"search -2 -- -1 [stack] --into": "--into stands behind --",
	} {
		var usage *UsageError
		if _, err := run(t, s, line); !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", line, err)
		}
	}
	if _, err := run(t, s, "search -2 -- -1 [stack] -x9"); err != nil { // no flag's name
		t.Error(err)
	}
}

// TestNarrowScreen: a row fits a screen where that can be.
func TestNarrowScreen(t *testing.T) {
	s, d := newSession(t)
	const path = "/usr/lib/x86_64-linux-gnu/a-rather-long-folder/ld-linux-x86-64.so.2"
	d.m.Mappings[1].Name = path
	copy(d.bytes[0x600000], "needle")
	show := func(line string, screen Screen) []string {
		t.Helper()
		out, err := execute(s, line)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		text := NewText(&b, nil).On(screen)
		out.Result.WriteText(text)
		if err := text.Flush(); err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	}
	for _, columns := range []int{80, 81, 90, 100, 140} {
		for _, line := range []string{"search needle", "vmmap"} {
			for _, row := range show(line, Screen{Columns: columns}) {
				if n := utf8.RuneCountInString(row); n > columns && !strings.HasPrefix(row, "1 hit;") {
					t.Errorf("%s on %d columns: %d in %q", line, columns, n, row)
				}
			}
		}
	}
	has := func(rows []string, want string) bool {
		return slices.ContainsFunc(rows, func(r string) bool { return strings.Contains(r, want) })
	}
	if rows := show("vmmap", Screen{Columns: 80}); !has(rows, "/usr...ux-x86-64.so.2") {
		t.Errorf("%q", rows)
	}
	if rows := show("vmmap", Screen{Columns: 100}); !has(rows, "/usr/lib/x86_64-l.../ld-linux-x86-64.so.2") {
		t.Errorf("%q", rows)
	}
	for line, screen := range map[string]Screen{"vmmap": {}, "vmmap -v": {Columns: 80}} {
		if rows := show(line, screen); !has(rows, path) {
			t.Errorf("%s: %q", line, rows)
		}
	}
	if rows := show("vmmap -A0 -B0 [stack]", Screen{ASCII: true}); rows[1][0] != '>' {
		t.Errorf("%q", rows)
	}
}

// A match of a regular expression that is too long to be found is not passed over
// in silence, nor does the bare number of hits pass for an answer.
func TestSearchLonger(t *testing.T) {
	s, d := newSession(t)
	stack := d.bytes[0x7ffffffde000]
	copy(stack[0x100:], "<"+strings.Repeat("a", 4094)+">")
	copy(stack[0x2100:], "<"+strings.Repeat("a", 4095)+">")
	const note = "matches are followed for 4096 bytes; places where one may be longer, which is not found or is cut: 1\n"
	got, err := run(t, s, "search --regex <[^>]+> [stack]")
	if err != nil || !strings.Contains(got, " 0x7ffffffde100 ") || strings.Contains(got, "0x7ffffffe0100") || !strings.Contains(got, "\n"+note+"1 hit; ") {
		t.Errorf("%v\n%s", err, got)
	}
	if got, err = run(t, s, "search --count --regex <[^>]+> [stack]"); err != nil || !strings.HasPrefix(got, "1\n"+note) {
		t.Errorf("%v\n%s", err, got)
	}
	if got, err = run(t, s, "search --count --regex <a> [stack]"); err != nil || got != "0\n" {
		t.Errorf("%v\n%s", err, got)
	}
	if _, err = run(t, s, "search < [stack]"); err != nil {
		t.Fatal(err)
	}
	out, err := execute(s, "search --next --regex <[^>]+> [stack]")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(out.Result)
	if err != nil || !strings.Contains(string(text), `"count":1,"longer_matches":1,`) || !strings.Contains(string(text), strings.TrimSpace(note)) {
		t.Errorf("%s, %v", text, err)
	}
}
