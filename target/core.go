package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"dbgsh/vm"
)

// openCore is a core file that has been read, with what tells it from another.
type openCore struct {
	path, exe string
	size      int64
	written   time.Time
	file      *os.File
	core      *vm.Core
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
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.opened; c != nil {
		if c.path == path && c.exe == inf.executable && c.size == st.Size() && c.written.Equal(st.ModTime()) {
			return c, nil
		}
		t.opened = nil
		if err := c.Close(); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	core, err := vm.OpenCore(ctx, f, st.Size(), vm.CoreOptions{Open: openMappedFile, Exe: inf.executable})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	t.opened = &openCore{path: path, exe: inf.executable, size: st.Size(), written: st.ModTime(), file: f, core: core}
	return t.opened, nil
}

// openMappedFile opens a file that a core names. It may be anything by now:
// only a regular file is opened, and no FIFO is waited for.
func openMappedFile(path string) (vm.CoreFile, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
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
	return c.core.Map(ctx)
}

// coreMemory reads a core that its Target keeps open.
type coreMemory struct{ *vm.Core }

func (coreMemory) Close() error { return nil }
