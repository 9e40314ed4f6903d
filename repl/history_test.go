package repl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "dbgsh", "history")
	content := func() string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	// Two shells at once: neither takes the other's lines away.
	a, b := openHistory(path), openHistory(path)
	for _, l := range []string{"a1", "a1", "a2"} {
		a.add(l)
	}
	b.add("a2")
	b.add("b1")
	for _, h := range []*history{a, b} {
		if err := h.save(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff("a1\na2\nb1\n", content()); diff != "" {
		t.Error(diff)
	}
	// A session that types nothing changes nothing, and saving twice neither.
	c := openHistory(path)
	for range 2 {
		if err := c.save(); err != nil {
			t.Fatal(err)
		}
	}
	if content() != "a1\na2\nb1\n" {
		t.Errorf("it grew: %q", content())
	}
	// At most 1,000 entries.
	for i := range 5000 {
		c.add(fmt.Sprint("c", i))
	}
	c.add(strings.Repeat("x", historyLine+1))
	if err := c.save(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(content(), "\n"), "\n")
	if len(lines) != 1000 || lines[0] != "c4000" || lines[999] != "c4999" {
		t.Errorf("%d lines, %s to %s", len(lines), lines[0], lines[len(lines)-1])
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Dir(path)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

func TestBrokenHistory(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "history")
	text := "good\n\xff\xfe\n\x1b[2J\n" + strings.Repeat("l", 1<<20) + "\n\n  \nwindows\r\nno end"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"good", "windows", "no end"}, openHistory(path).old); diff != "" {
		t.Error(diff)
	}
	// No file, a folder, a FIFO that nobody writes to: no history.
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{filepath.Join(dir, "none"), dir, fifo, ""} {
		h := openHistory(p)
		h.add("x")
		if h.old != nil {
			t.Errorf("%s: %q", p, h.old)
		}
		if err := h.save(); err != nil && p == "" {
			t.Error(err)
		}
	}
	if st, err := os.Stat(fifo); err != nil || st.Mode().IsRegular() {
		t.Error("the FIFO was replaced")
	}
	// A link to a file stays a link.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	h := openHistory(link)
	h.add("linked")
	if err := h.save(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	if got := readHistory(path); got[len(got)-1] != "linked" {
		t.Errorf("%q", got)
	}
}

func TestHistoryPath(t *testing.T) {
	t.Setenv("HOME", "/h")
	for state, want := range map[string]string{"/s": "/s/dbgsh/history", "": "/h/.local/state/dbgsh/history", "rel": "/h/.local/state/dbgsh/history"} {
		t.Setenv("XDG_STATE_HOME", state)
		if got := HistoryPath(); got != want {
			t.Errorf("%q: %s", state, got)
		}
	}
}
