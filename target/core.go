package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"dbgsh/vm"
	"dbgsh/vm/image"
)

// openCore is a core file that has been read, with what tells it from another.
type openCore struct {
	path, exe string
	size      int64
	written   time.Time
	file      *os.File
	core      *image.Core
}

func (c *openCore) Close() error { return errors.Join(c.core.Close(), c.file.Close()) }

// coreLine is how "info files" names the core (gdb/exec.c, print_section_info).
var coreLine = regexp.MustCompile("(?m)^Local core dump file:\n\t`(.*)', file type ")

// core is the core file that GDB has open, parsed once.
func (t *Target) core(ctx context.Context, inf *inferior) (*openCore, error) {
	text, err := t.query(ctx, "info files")
	if err != nil {
		return nil, err
	}
	m := coreLine.FindStringSubmatch(text)
	if m == nil {
		return nil, errors.New("GDB does not say which core file it has open")
	}
	path := m[1]
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	t.coreMu.Lock()
	defer t.coreMu.Unlock()
	if c := t.opened; c != nil {
		if c.path == path && c.exe == inf.executable && c.size == st.Size() && c.written.Equal(st.ModTime()) {
			return c, nil
		}
		t.opened = nil
		if err := c.Close(); err != nil {
			return nil, err
		}
	}
	f, err := OpenRegular(path)
	if err != nil {
		return nil, err
	}
	core, err := image.OpenCore(ctx, f, st.Size(), image.CoreOptions{Open: openMappedFile, Exe: inf.executable})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	t.opened = &openCore{path: path, exe: inf.executable, size: st.Size(), written: st.ModTime(), file: f, core: core}
	return t.opened, nil
}

// openMappedFile opens a file that a core names, which may be anything by now.
func openMappedFile(path string) (image.CoreFile, error) { return OpenRegular(path) }

// OpenRegular opens a regular file for reading. Nothing else is opened, and no
// FIFO is waited for.
func OpenRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("open %s: not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// coreMap is the map of the process that left the core file.
func (t *Target) coreMap(ctx context.Context, inf *inferior) (*vm.Map, error) {
	c, err := t.core(ctx, inf)
	if err != nil {
		return nil, err
	}
	m, err := c.core.Map(ctx)
	if err != nil {
		return nil, err
	}
	whole := *m
	if notes := fileNotes(c.core.Files); len(notes) > 0 {
		whole.Notes = slices.Concat(m.Notes, notes)
	}
	return &whole, nil
}

// fileNotes says which mapped files stand in for what the core has not.
func fileNotes(files []image.CoreFileUse) []string {
	var notes []string
	used, refused := 0, 0
	var first image.CoreFileUse
	for _, f := range files {
		switch {
		case f.Err == nil:
			used++
		default:
			if refused++; refused == 1 {
				first = f
			}
		}
	}
	if used > 0 {
		notes = append(notes, fmt.Sprintf("what the core lacks of %d mapped files is read from them: their build-id is the same", used))
	}
	if refused > 0 {
		notes = append(notes, fmt.Sprintf("%d mapped files are not used; the first, %s: %v", refused, first.Path, first.Err))
	}
	return notes
}

// coreMemory reads a core that its Target keeps open.
type coreMemory struct{ *image.Core }

func (coreMemory) Close() error { return nil }
