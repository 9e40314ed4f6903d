package repl

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-delve/liner"
	"golang.org/x/sys/unix"
)

const (
	// historyLine bounds an entry, in bytes: longer ones are pasted data.
	historyLine = 16 << 10
	// historySize bounds what is read of the file, in bytes: HistoryLimit
	// entries of ordinary length many times over.
	historySize = 4 << 20
)

// HistoryPath is the history file in the user's state folder (XDG Base
// Directory Specification), "" where the user has no home.
func HistoryPath() string {
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) { // the specification: others are to be ignored
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "dbgsh", "history")
}

// history is what was typed in earlier sessions and in this one. A file that
// cannot be read or written is no reason to stop: there is less history then.
type history struct {
	path string
	old  []string // entries of the file
	own  []string // entries of this session
}

func openHistory(path string) *history {
	h := &history{path: path}
	if path != "" {
		h.old = readHistory(path)
	}
	return h
}

func (h *history) add(line string) {
	if len(line) > historyLine {
		return
	}
	h.own = append(h.own, line)
	if len(h.own) > 2*liner.HistoryLimit {
		h.own = trimHistory(h.own)
	}
}

// readHistory is the entries of the file at path; what is no entry is left out.
func readHistory(path string) []string {
	// Without O_NONBLOCK a FIFO of that name would be waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil
	}
	if st.Size() > historySize {
		if _, err := f.Seek(-historySize, io.SeekEnd); err != nil {
			return nil
		}
	}
	text, _ := io.ReadAll(io.LimitReader(f, historySize))
	var lines []string
	for l := range bytes.Lines(text) {
		l = bytes.TrimRight(l, "\r\n")
		odd := bytes.ContainsFunc(l, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
		if len(bytes.TrimSpace(l)) > 0 && len(l) <= historyLine && utf8.Valid(l) && !odd {
			lines = append(lines, string(l))
		}
	}
	return trimHistory(lines)
}

// trimHistory is the last entries that liner keeps, without an entry that
// follows itself.
func trimHistory(lines []string) []string {
	lines = slices.Compact(lines)
	return lines[max(0, len(lines)-liner.HistoryLimit):]
}

// save adds the entries of this session to what the file holds by now, which
// another session may have changed.
func (h *history) save() error {
	if h.path == "" || len(h.own) == 0 {
		return nil
	}
	dir := filepath.Dir(h.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := h.path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path, dir = real, filepath.Dir(real)
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return nil // /dev/null, say: it is meant so
	}
	unlock := lockDir(dir)
	defer unlock()
	lines := trimHistory(append(readHistory(path), h.own...))
	f, err := os.CreateTemp(dir, "history-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(lines, "\n") + "\n")
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	h.own = nil
	return nil
}

// lockDir keeps other shells from writing in dir. A lock that cannot be had
// within a second is done without: the worst is a lost entry.
func lockDir(dir string) (unlock func()) {
	d, err := os.Open(dir)
	if err != nil {
		return func() {}
	}
	locked := make(chan struct{})
	go func() {
		defer close(locked)
		for unix.Flock(int(d.Fd()), unix.LOCK_EX) == unix.EINTR {
		}
	}()
	select {
	case <-locked:
		return func() { d.Close() }
	case <-time.After(time.Second):
		return func() {} // the goroutine still uses d
	}
}
