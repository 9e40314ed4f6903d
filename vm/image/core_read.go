package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"dbgsh/vm"
)

// ErrNotInCore says that the core does not hold the byte at an address, nor
// does a mapped file that is known to be the right one.
var ErrNotInCore = errors.New("not in the core file")

// coreExtent is a range of memory whose bytes are at off of r; r is nil for zeros.
type coreExtent struct {
	vm.Range
	r   io.ReaderAt
	off uint64
}

// coreExtents is a Reader over sorted and disjoint extents.
type coreExtents []coreExtent

// from is the index of the first extent that ends at addr or behind it.
func (es coreExtents) from(addr uint64) int {
	i, _ := slices.BinarySearchFunc(es, addr, func(e coreExtent, a uint64) int {
		if e.Size == 0 || e.Last() < a {
			return -1
		}
		return 1
	})
	return i
}

// gap is what no extent holds from addr on, where extent i is the next one.
func (es coreExtents) gap(i int, addr uint64) vm.Range {
	last := ^uint64(0)
	if i < len(es) {
		last = es[i].Start - 1
	}
	return vm.Range{Start: addr, Size: max(last-addr+1, last-addr)} // of all 2^64 bytes, all but one
}

// ReadMemory is Reader. A byte that no extent holds ends the read with an
// *vm.UnreadableError that wraps ErrNotInCore.
func (es coreExtents) ReadMemory(ctx context.Context, p []byte, addr uint64) (n int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	for i := es.from(addr); n < len(p); i++ {
		at := addr + uint64(n)
		switch {
		case n > 0 && at == 0:
			return n, fmt.Errorf("read beyond 2^64: %w", ErrNotInCore)
		case i >= len(es) || !es[i].Contains(at):
			return n, &vm.UnreadableError{Range: es.gap(i, at), Err: ErrNotInCore}
		}
		e := &es[i]
		skip := at - e.Start
		part := p[n:][:min(uint64(len(p)-n), e.Size-skip)]
		got := len(part)
		if e.r == nil {
			clear(part)
		} else if got, err = readAt(e.r, part, e.off+skip); got < len(part) {
			n += got
			if err == nil {
				err = ErrNotInCore // the file has become shorter
			}
			return n, fmt.Errorf("read %#x: %w", addr+uint64(n), err)
		}
		n += got
	}
	return n, nil
}

// populated is vm.Sparse's: what no extent holds is unreadable, and holes of the
// files are zeros.
func (es coreExtents) populated(ctx context.Context, r vm.Range, into []vm.Extent) (n int, known uint64, err error) {
	if len(into) == 0 || r.Size == 0 || !r.Valid() {
		return 0, 0, fmt.Errorf("what is in %v: nothing asked for", r)
	}
	for i := es.from(r.Start); known < r.Size && n < len(into); {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		at, rest := r.Start+known, r.Size-known
		if i >= len(es) || !es[i].Contains(at) {
			gap := min(es.gap(i, at).Size, rest)
			into[n] = vm.Extent{Range: vm.Range{Start: at, Size: gap}, Unreadable: true}
			n, known = n+1, known+gap
			continue
		}
		e := &es[i]
		size := min(rest, e.Size-(at-e.Start))
		zeros, data := size, uint64(0)
		if e.r != nil {
			zeros, data = dataAt(e.r, e.off+(at-e.Start), size)
		}
		if data > 0 {
			into[n] = vm.Extent{Range: vm.Range{Start: at + zeros, Size: data}}
			n++
		}
		if known += zeros + data; known < r.Size && !e.Contains(r.Start+known) {
			i++
		}
	}
	return n, known, nil
}

// minHole is what is read without asking for holes in it, in bytes: a search
// reads as much at once.
const minHole = 256 << 10

// dataAt says how many of the size bytes at off are zeros that a file does not
// keep, and how many bytes that it keeps follow; then more of both may follow.
// A file that cannot tell keeps everything.
func dataAt(r io.ReaderAt, off, size uint64) (zeros, data uint64) {
	// The position that Seek moves is nobody's: all reading is by offset.
	f, ok := r.(io.Seeker)
	if !ok || size < minHole || off > math.MaxInt64 || size > math.MaxInt64-off {
		return 0, size
	}
	// lseek(2): ENXIO says that there is no data before the end of the file, or
	// that off is behind it.
	start, err := f.Seek(int64(off), unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		if start, err = f.Seek(0, io.SeekEnd); err != nil || uint64(start) <= off {
			return 0, size
		}
		return min(uint64(start)-off, size), 0
	}
	switch {
	case err != nil || uint64(start) < off:
		return 0, size
	case uint64(start) >= off+size:
		return size, 0
	}
	end, err := f.Seek(start, unix.SEEK_HOLE)
	if err != nil || end <= start {
		end = int64(off + size)
	}
	return uint64(start) - off, min(uint64(end), off+size) - uint64(start)
}

// ReadMemory is Reader, over the core file and the mapped files in use. What
// they do not hold ends the read with an error that wraps ErrNotInCore.
func (c *Core) ReadMemory(ctx context.Context, p []byte, addr uint64) (n int, err error) {
	return c.mem.ReadMemory(ctx, p, addr)
}

// Populated implements vm.Sparse: what neither the core nor a mapped file in use
// holds is unreadable, and what these files do not keep, being sparse, is zeros.
func (c *Core) Populated(ctx context.Context, r vm.Range, into []vm.Extent) (n int, known uint64, err error) {
	return c.mem.populated(ctx, r, into)
}

// ownExtents is what the core file itself holds.
func (c *Core) ownExtents() coreExtents {
	es := make(coreExtents, 0, len(c.Mappings))
	for i := range c.Mappings {
		es = c.appendExtent(es, &c.Mappings[i])
	}
	return es
}

func (c *Core) appendExtent(es coreExtents, m *CoreMapping) coreExtents {
	if m.InCore == 0 {
		return es
	}
	return append(es, coreExtent{vm.Range{Start: m.Start, Size: m.InCore}, c.r, m.off})
}

// maxCoreFiles bounds the files that are opened for one core.
const maxCoreFiles = 1024

// mappedFile is a file that is known to be the one which was mapped: its build-id
// is that of the core's image of it, and what the core has of its pages that
// nobody writes to is the same.
type mappedFile struct {
	*ELF
	r    CoreFile
	size uint64
	// parts are those of the image that the program cannot have written to.
	parts []vm.Mapping
}

// mappedFiles is the files that were mapped, as far as they were asked for, or why
// they are not to be used.
type mappedFiles struct {
	c       *Core
	opt     CoreOptions
	known   map[*Image]checkedFile
	compare uint64 // bytes still to be compared at most
}

type checkedFile struct {
	f   *mappedFile
	err error
}

// maxCompared bounds the bytes of all files that are compared with the core's,
// which the core may have many times; behind it, it is a page of each mapping.
const maxCompared = 1 << 30

func (c *Core) newFiles(opt CoreOptions) *mappedFiles {
	return &mappedFiles{c: c, opt: opt, known: map[*Image]checkedFile{}, compare: maxCompared}
}

// get is the file at path, of which the core has an image.
func (fs *mappedFiles) get(ctx context.Context, path string, img *Image) (*mappedFile, error) {
	if img == nil {
		return nil, errors.New("the core has no copy of its ELF header")
	}
	known, ok := fs.known[img]
	if !ok {
		known.f, known.err = fs.open(ctx, path, img)
		fs.known[img] = known
	}
	return known.f, known.err
}

// useFiles finds the mapped files that can supply what the core has not.
func (fs *mappedFiles) useFiles(ctx context.Context) {
	c := fs.c
	page := c.Auxv.PageSize()
	said := map[string]bool{}
	es := make(coreExtents, 0, len(c.Mappings))
	images := map[string]*Image{} // the last one of each file
	next := 0                     // in c.objects
	for i := range c.Mappings {
		m := &c.Mappings[i]
		es = c.appendExtent(es, m)
		for ; next < len(c.objects) && c.objects[next].start <= m.Start; next++ {
			if o := &c.objects[next]; o.img != nil {
				images[o.name] = o.img
			}
		}
		if !m.Backed || m.InCore == m.Size || m.Name == "" || ctx.Err() != nil {
			continue
		}
		f, err := fs.get(ctx, m.Name, images[m.Name])
		if !said[m.Name] && len(said) < maxCoreFiles {
			said[m.Name] = true
			c.Files = append(c.Files, CoreFileUse{m.Name, err})
		}
		if f == nil {
			continue
		}
		start, from := m.Start+m.InCore, m.Offset+m.InCore
		m.FromFile = min(m.Size-m.InCore, f.unwritten(start, from, page))
		if m.FromFile == 0 {
			continue
		}
		// The rest of a file's last page reads as zeros (mmap(2)).
		whole := min(m.FromFile, f.size-min(f.size, from))
		if whole > 0 {
			es = append(es, coreExtent{vm.Range{Start: start, Size: whole}, f.r, from})
		}
		if whole < m.FromFile {
			es = append(es, coreExtent{vm.Range{Start: start + whole, Size: m.FromFile - whole}, nil, 0})
		}
	}
	c.mem = es
}

// open opens the file at path where it is the one whose image is in the core.
func (fs *mappedFiles) open(ctx context.Context, path string, img *Image) (*mappedFile, error) {
	c := fs.c
	id := img.BuildID(ctx)
	if id == nil {
		return nil, errors.New("the core has no build-id of it")
	}
	f, err := c.openOnce(path, fs.opt)
	if err != nil {
		return nil, err
	}
	e, err := readELF(f, maxImageProgs)
	if err != nil {
		return nil, err
	}
	if have := e.BuildID(f); !bytes.Equal(have, id) {
		return nil, fmt.Errorf("its build-id is %x, the core's %x", have, id)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	mf := &mappedFile{ELF: e, r: f, size: uint64(info.Size())}
	if e.textRelocations(f) {
		return nil, errors.New("the dynamic linker writes into its text (DT_TEXTREL)")
	}
	parts, err := e.Mappings(Loaded{Bias: img.Bias, Page: c.Auxv.PageSize(), Name: path})
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if p.Name != "" && p.Perm.IsNot(vm.Write) {
			mf.parts = append(mf.parts, p)
		}
	}
	if err := fs.same(ctx, mf); err != nil {
		return nil, err
	}
	return mf, nil
}

// same compares what the core has of the file's unwritten parts with the file,
// which may have been patched and kept its build-id.
func (fs *mappedFiles) same(ctx context.Context, f *mappedFile) error {
	c := fs.c
	page := c.Auxv.PageSize()
	var core, file [64 << 10]byte
	for _, p := range f.parts {
		i, _ := slices.BinarySearchFunc(c.Mappings, p.Start, func(m CoreMapping, a uint64) int {
			if m.Last() < a {
				return -1
			}
			return 1
		})
		for ; i < len(c.Mappings) && p.Contains(c.Mappings[i].Start); i++ {
			m := &c.Mappings[i]
			if !m.Backed || m.Name != p.Name || m.Offset != p.Offset+(m.Start-p.Start) || m.Perm.Is(vm.Write) {
				continue
			}
			size := min(m.InCore, max(fs.compare, page))
			fs.compare -= min(fs.compare, size)
			for done := uint64(0); done < size; {
				n := min(size-done, uint64(len(core)))
				if k, err := c.mem.ReadMemory(ctx, core[:n], m.Start+done); uint64(k) < n {
					return fmt.Errorf("compare it with the core: %w", err)
				}
				k, err := readAt(f.r, file[:n], m.Offset+done)
				if err != nil {
					return fmt.Errorf("compare it with the core: %w", err)
				}
				clear(file[k:n]) // as behind the end of a file (mmap(2))
				if m.Offset+done == 0 {
					c.dropSections(core[:n])
					c.dropSections(file[:n])
				}
				if k := difference(core[:n], file[:n]); k >= 0 {
					return fmt.Errorf("its build-id is the core's, but the byte at offset %#x is %#x, not %#x as the core has it at %#x",
						m.Offset+done+uint64(k), file[k], core[k], m.Start+done+uint64(k))
				}
				done += n
			}
		}
	}
	return nil
}

// difference is the first place where bytes differ, -1 for none.
func difference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	return i
}

// dropSections makes nothing of what an ELF header says of sections, which are not
// mapped and which strip(1) takes away: e_shoff, e_shentsize, e_shnum, e_shstrndx.
func (e *ELF) dropSections(b []byte) {
	off, counts := 40, 58
	if e.is32() {
		off, counts = 32, 46
	}
	if len(b) >= counts+6 {
		clear(b[off : off+e.wordSize()])
		clear(b[counts : counts+6])
	}
}

// textRelocations reports whether the dynamic linker may have written into
// segments of the file r that are not writable.
func (e *ELF) textRelocations(r io.ReaderAt) bool {
	p, ok := e.Segment(elf.PT_DYNAMIC)
	if !ok {
		return false
	}
	b := make([]byte, min(p.Filesz, maxDynamic))
	n, _ := readAt(r, b, p.Off)
	return slices.ContainsFunc(e.dynamic(b[:n], 0), func(d Dyn) bool {
		return d.Tag == elf.DT_TEXTREL || d.Tag == elf.DT_FLAGS && d.Value&uint64(elf.DF_TEXTREL) != 0
	})
}

// openOnce opens the regular file that the core names path.
func (c *Core) openOnce(path string, opt CoreOptions) (CoreFile, error) {
	if f := c.opened[path]; f != nil {
		return f, nil
	}
	if len(c.opened) >= maxCoreFiles {
		return nil, fmt.Errorf("more than %d files", maxCoreFiles)
	}
	name := path
	if opt.Exe != "" && path == c.exeName {
		name = opt.Exe
	}
	f, err := opt.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	c.opened[path] = f
	return f, nil
}

// unwritten is how many bytes from addr on, where off of the file is mapped, the
// program cannot have written to.
func (f *mappedFile) unwritten(addr, off, page uint64) uint64 {
	for _, p := range f.parts {
		if skip := addr - p.Start; p.Contains(addr) && p.Offset+skip == off {
			// Beyond the page with the end of the file there is nothing to read.
			end := (f.size + page - 1) &^ (page - 1)
			return min(p.Size-skip, end-min(end, off))
		}
	}
	return 0
}
