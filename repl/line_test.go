package repl

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dbgsh/commands"
)

// lookupTest knows three kinds of commands.
func lookupTest(word string) *commands.Command {
	for _, c := range []*commands.Command{
		{Name: "vmmap"}, {Name: "search"}, {Name: "gdb", Verbatim: true},
		{Name: "shell", Aliases: []string{"!"}, Verbatim: true, WholeLine: true},
	} {
		if c.Name == word || len(c.Aliases) > 0 && c.Aliases[0] == word {
			return c
		}
	}
	return nil
}

func TestParse(t *testing.T) {
	tests := []struct {
		line string
		want []string // name and tail of each stage, or GDB's line after "gdb:"
		err  string
	}{
		{"", nil, ""},
		{"  \t\r", nil, ""},
		{"# vmmap | search", nil, ""},
		{"print 1 | 2", []string{"gdb:", "print 1 | 2"}, ""},
		{"  info line # x ", []string{"gdb:", "info line # x"}, ""},
		{"vmmap", []string{"vmmap", ""}, ""},
		{"vmmap -w libc\r", []string{"vmmap", " -w libc"}, ""},
		{"vmmap -w libc | search -p $rsp", []string{"vmmap", " -w libc", "search", " -p $rsp"}, ""},
		{"vmmap|search", []string{"gdb:", "vmmap|search"}, ""},
		{"vmmap a|b", []string{"vmmap", " a|b"}, ""},
		{`search "a | b" | vmmap`, []string{"search", ` "a | b"`, "vmmap", ""}, ""},
		{`search 'a | !b'`, []string{"search", ` 'a | !b'`}, ""},
		{`search a\ | vmmap`, []string{"search", ` a\ | vmmap`}, ""},
		{"vmmap | !sort -k4 | head", []string{"vmmap", "", "shell", "sort -k4 | head"}, ""},
		{"vmmap | ! sort", []string{"vmmap", "", "shell", " sort"}, ""},
		{`vmmap | !grep "it's`, []string{"vmmap", "", "shell", `grep "it's`}, ""},
		{"vmmap | shell sort | head", []string{"vmmap", "", "shell", " sort | head"}, ""},
		{"!ls | wc", []string{"shell", "ls | wc"}, ""},
		{"shell ls | wc", []string{"shell", " ls | wc"}, ""},
		{"gdb print a | b", []string{"gdb", " print a | b"}, ""},
		{"gdb print a | b | !cat", []string{"gdb", " print a | b", "shell", "cat"}, ""},
		{"gdb print 'x | !cat", []string{"gdb", " print 'x | !cat"}, ""},
		{"gdb info line | vmmap", []string{"gdb", " info line", "vmmap", ""}, ""},
		{"vmmap | head", nil, "head: no dbgsh command; for the shell's write | !head"},
		{"vmmap | search x | head -1", nil, "head: no dbgsh command; for the shell's write | !head"},
		{"vmmap |", nil, "vmmap: nothing stands after the last |"},
		{"vmmap | | search", nil, "vmmap: nothing stands between | and |"},
		{`search "x`, nil, `search: the quote " is not closed; write \" for one that is meant`},
		{`vmmap | search "x`, nil, `search: the quote " is not closed; write \" for one that is meant`},
	}
	for _, tt := range tests {
		p, err := parse(tt.line, lookupTest)
		var got []string
		if p.gdb != "" {
			got = []string{"gdb:", p.gdb}
		}
		for _, s := range p.stages {
			got = append(got, s.command.Name, s.tail)
		}
		text := ""
		var bad *lineError
		if errors.As(err, &bad) {
			text = bad.word + ": " + bad.Error()
		}
		if diff := cmp.Diff(tt.want, got); diff != "" && err == nil || text != tt.err {
			t.Errorf("parse(%q): error %q, want %q; -want +got\n%s", tt.line, text, tt.err, diff)
		}
	}
}

// FuzzParse checks that a line is cut nowhere but at bars: its stages, put
// together again, are the line.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"vmmap a | search 'b|' | !c | d", "gdb x | y | !z", "!a", `search "|" \| | vmmap`, "vmmap | # | !", "vmmap '\n' | vmmap"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p, err := parse(line, lookupTest)
		if err != nil {
			return
		}
		if len(p.stages) == 0 {
			if p.gdb != "" && p.gdb != strings.Trim(line, blanks) {
				t.Fatalf("GDB gets %q for %q", p.gdb, line)
			}
			return
		}
		rest := strings.Trim(line, blanks)
		for i, s := range p.stages {
			if i > 0 {
				var ok bool
				if rest, ok = strings.CutPrefix(strings.TrimLeft(rest, blanks), "|"); !ok {
					t.Fatalf("stage %d of %q begins at no bar: %q", i, line, rest)
				}
				rest = strings.TrimLeft(rest, blanks)
			}
			word, after := cutWord(rest)
			if lookupTest(word) == nil || lookupTest(word).Name != s.command.Name {
				t.Fatalf("stage %d of %q is %q, not %q", i, line, word, s.command.Name)
			}
			var ok bool
			if rest, ok = strings.CutPrefix(after, s.tail); !ok {
				t.Fatalf("stage %d of %q has %q, not %q", i, line, s.tail, after)
			}
		}
		if strings.Trim(rest, blanks) != "" {
			t.Fatalf("%q was lost of %q", rest, line)
		}
	})
}

func TestContinues(t *testing.T) {
	for line, want := range map[string]bool{"": false, "a": false, `a\`: true, `a\\`: false, `\\\`: true, `a\ `: false} {
		if got := continues(line); got != want {
			t.Errorf("continues(%q) = %v", line, got)
		}
	}
}
