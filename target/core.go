package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"dbgsh/vm"
	"dbgsh/vm/image"
)

// core is a core file that GDB has open.
type core struct{ v *View }

func openCore(v *View) source { return core{v} }

// Map is the map of the process that left the core file.
func (c core) Map(ctx context.Context) (*vm.Map, error) {
	file, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	m, err := file.core.Map(ctx)
	if err != nil {
		return nil, err
	}
	whole := m.Like(m.Mappings)
	whole.From.Place = file.path
	if file.core.Physical {
		whole.From.Place += ", a dump of a machine's physical memory"
	}
	whole.Notes = slices.Concat(m.Notes, fileNotes(file.core.Files))
	return whole, nil
}

// Memory is what the core has, and what the files have that it names.
func (c core) Memory(ctx context.Context) (vm.Memory, error) {
	file, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	return coreMemory{file.core}, nil
}

// coreMemory reads a core that stays open.
type coreMemory struct{ *image.Core }

func (coreMemory) Close() error { return nil }

// coreOwner is whose core file it is: one inferior has one and the same until it
// has another process.
type coreOwner struct {
	inferior  int
	processes uint64 // see gdb.Stamp
}

// openedCore is a core file that has been read, with what tells it from another.
type openedCore struct {
	owner         coreOwner
	path, program string
	size          int64
	written       time.Time
	file          *os.File
	core          *image.Core
}

func (c *openedCore) Close() error { return errors.Join(c.core.Close(), c.file.Close()) }

// open is the core file that GDB has open, read once for each. GDB says which it
// is with a line for each of its segments, so that it is asked only once too.
func (c core) open(ctx context.Context) (*openedCore, error) {
	v := c.v
	owner := coreOwner{v.Inferior.ID, v.stamp.Processes}
	path, known := v.t.kept.corePath(owner)
	if !known {
		var err error
		if path, err = v.t.CoreFile(ctx); err != nil {
			return nil, err
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return v.t.kept.openCore(ctx, owner, path, v.Inferior.Program, st)
}

// corePath is the path of the owner's core file, where it was the last one read.
func (k *kept) corePath(owner coreOwner) (path string, known bool) {
	k.coreMu.Lock()
	defer k.coreMu.Unlock()
	if k.core == nil || k.core.owner != owner {
		return "", false
	}
	return k.core.path, true
}

// openCore is the owner's core file at a path, read once as long as it stays the same.
func (k *kept) openCore(ctx context.Context, owner coreOwner, path, program string, st os.FileInfo) (*openedCore, error) {
	k.coreMu.Lock()
	defer k.coreMu.Unlock()
	if c := k.core; c != nil {
		if c.path == path && c.program == program && c.size == st.Size() && c.written.Equal(st.ModTime()) {
			c.owner = owner
			return c, nil
		}
		k.core = nil
		if err := c.Close(); err != nil {
			return nil, err
		}
	}
	f, err := image.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	core, err := image.OpenCore(ctx, f, st.Size(), image.CoreOptions{Open: openMappedFile, Exe: program})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	k.core = &openedCore{owner: owner, path: path, program: program, size: st.Size(), written: st.ModTime(), file: f, core: core}
	return k.core, nil
}

// openMappedFile opens a file that a core names, which may be anything by now.
func openMappedFile(path string) (image.CoreFile, error) { return image.OpenRegular(path) }

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
		notes = append(notes, fmt.Sprintf("what the core lacks of %d mapped files is read from them: their build-id is the same, and so is what the core has of them", used))
	}
	if refused > 0 {
		notes = append(notes, fmt.Sprintf("%d mapped files are not used; the first, %s: %v", refused, first.Path, first.Err))
	}
	return notes
}
