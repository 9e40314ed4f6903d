package repl

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dbgsh/vm"
)

func TestComplete(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "scripts"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "script.gdb"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sh := newTestShell(t, newFakeGDB(), NewOutput(io.Discard, io.Discard, false), func(c *Config) {
		c.Session.Maps = vm.NewOverlay(oneMapping{})
	})
	tests := []struct {
		left, head string
		want       []string
	}{
		{"up", "", []string{"upper"}},
		{"  up", "  ", []string{"upper"}},
		{"s", "", []string{"search", "set", "shell", "show", "source", "step"}},
		{"info ", "info ", []string{"breakpoints", "registers"}},
		{"info b", "info ", []string{"breakpoints"}},
		{"print coun", "print ", []string{"count", "counter"}},
		{"gdb info r", "gdb info ", []string{"registers"}},
		{"words --", "words ", []string{"--help", "--json"}},
		{"words a | up", "words a | ", []string{"upper"}},
		{"words a | info", "words a | ", nil},
		{"words a | nosuch x", "words a | ", nil},
		{"words 'a | up", "words ", nil},
		{"vmmap he", "vmmap ", nil},
		{"vmmap [", "vmmap ", []string{"[heap]"}},
		{"vmmap coun", "vmmap ", []string{"count", "counter"}},
		{`vmmap "a`, "vmmap ", []string{`"a b"`}},
		{`vmmap libc "a `, "vmmap libc ", []string{`"a b"`}},
		{"set p", "set ", []string{"pager"}},
		{"set pager ", "set pager ", []string{"off", "on"}},
		{"set con", "set ", []string{"confirm"}},
		{"source " + dir + "/scr", "source ", []string{dir + "/script.gdb", dir + "/scripts/"}},
		{"!cat " + dir + "/script.", "!cat ", []string{dir + "/script.gdb"}},
		{"words é | up", "words é | ", []string{"upper"}},
	}
	for _, tt := range tests {
		head, got := sh.complete(context.Background(), tt.left)
		if len(got) == 0 {
			got = nil
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || head != tt.head {
			t.Errorf("complete(%q): head %q, want %q; -want +got\n%s", tt.left, head, tt.head, diff)
		}
	}
	head, got, tail := sh.completeWord(context.Background())("words é | up x", 12)
	if head != "words é | " || !cmp.Equal(got, []string{"upper"}) || tail != " x" {
		t.Errorf("%q %q %q", head, got, tail)
	}
}

// manyGDB completes to a thousand words.
type manyGDB struct{ *fakeGDB }

func (manyGDB) Complete(context.Context, string) ([]string, error) {
	var all []string
	for i := range 1000 {
		all = append(all, fmt.Sprintf("print x%03d", i))
	}
	return append(all, "print \x1b[2J", "print x\xff"), nil
}

func TestCompleteIsCapped(t *testing.T) {
	sh := newTestShell(t, newFakeGDB(), NewOutput(io.Discard, io.Discard, false), func(c *Config) { c.Debugger = manyGDB{newFakeGDB()} })
	_, got := sh.complete(context.Background(), "print ")
	if len(got) != completionCap || got[0] != "x000" || got[len(got)-1] != "x999" {
		t.Errorf("%d: %q", len(got), got)
	}
	if strings.Contains(strings.Join(got, ""), "\x1b") {
		t.Error("a control character is offered")
	}
}
