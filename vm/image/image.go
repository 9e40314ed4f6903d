package image

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"dbgsh/vm"
)

// Image is an ELF file as it lies in memory.
type Image struct {
	*ELF
	// Bias is added to every address of the file, wrapping at the machine's width.
	Bias uint64
	mem  vm.Reader
}

const (
	// maxNotes bounds the bytes of one note segment of a program; linkers'
	// notes take some hundred.
	maxNotes = 16 << 10
	// maxDynamic bounds the bytes of a dynamic section; it holds some dozen entries.
	maxDynamic = 64 << 10
	// maxImageProgs bounds the program headers of an image; linkers write about a dozen.
	maxImageProgs = 512
	// maxPath is Linux's PATH_MAX in bytes, with the NUL.
	maxPath = 4096
	// maxLinks bounds the objects of one process in all its namespaces.
	maxLinks = 1 << 16
)

// memFile is memory as a file; offsets are added to base, wrapping at mask.
type memFile struct {
	ctx        context.Context
	mem        vm.Reader
	base, mask uint64
}

// ReadAt reads len(p) bytes at base+off; what cannot be read is as an end of file.
func (f memFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.mem.ReadMemory(f.ctx, p, (f.base+uint64(off))&f.mask)
	switch {
	case n == len(p):
		return n, nil
	case f.ctx.Err() != nil:
		return n, f.ctx.Err()
	case err == nil || n > 0:
		return n, io.EOF
	}
	return n, err
}

// ReadImage reads the headers of the ELF image whose first byte is at base. It
// fails as ReadELF does, and where memory does not hold all program headers.
func ReadImage(ctx context.Context, mem vm.Reader, base uint64) (*Image, error) {
	e, err := readELF(memFile{ctx, mem, base, ^uint64(0)}, maxImageProgs)
	if err != nil {
		return nil, fmt.Errorf("ELF image at %#x: %w", base, err)
	}
	if e.Cut > 0 {
		return nil, fmt.Errorf("ELF image at %#x: %w", base, &ELFError{0, fmt.Sprintf("%d program headers cannot be read", e.Cut)})
	}
	img := &Image{ELF: e, mem: mem}
	for _, p := range e.Progs {
		if p.Type == elf.PT_LOAD && p.Memsz > 0 {
			// Offset 0 of the file lies at base.
			img.Bias = (base - (p.Vaddr - p.Off)) & e.addressMask()
			return img, nil
		}
	}
	return nil, fmt.Errorf("ELF image at %#x: %w", base, &ELFError{0, "no segment to load"})
}

// ReadImagePhdrs reads num program headers at phdr, as AT_PHDR and AT_PHNUM of
// the auxiliary vector say. Type and Entry of the image are unknown; Machine too.
func ReadImagePhdrs(ctx context.Context, mem vm.Reader, class elf.Class, order binary.ByteOrder, phdr, num uint64) (*Image, error) {
	e := &ELF{Class: class, Order: order}
	img := &Image{ELF: e, mem: mem}
	if num > maxImageProgs {
		return nil, fmt.Errorf("program headers at %#x: %w", phdr, &ELFError{0, fmt.Sprintf("%d program headers, more than %d", num, maxImageProgs)})
	}
	err := e.readProgs(memFile{ctx, mem, phdr, e.addressMask()}, 0, num)
	if err == nil && e.Cut > 0 {
		err = &ELFError{0, "cannot be read"}
	}
	if err != nil {
		return nil, fmt.Errorf("program headers at %#x: %w", phdr, err)
	}
	bias, ok := e.phdrBias(phdr)
	if !ok {
		return nil, fmt.Errorf("program headers at %#x: %w", phdr, &ELFError{0, "no segment to load"})
	}
	img.Bias = bias
	return img, nil
}

// phdrBias is the bias of a file whose program headers lie at phdr.
func (e *ELF) phdrBias(phdr uint64) (uint64, bool) {
	if p, ok := e.Segment(elf.PT_PHDR); ok {
		return (phdr - p.Vaddr) & e.addressMask(), true
	}
	// Static programs have no PT_PHDR. Linkers put the table behind the file
	// header, in the first segment.
	ehdr := uint64(ehdrSize64)
	if e.is32() {
		ehdr = ehdrSize32
	}
	p, ok := e.Segment(elf.PT_LOAD)
	return (phdr - ehdr - (p.Vaddr - p.Off)) & e.addressMask(), ok
}

// Segment is the first program header of a type.
func (e *ELF) Segment(t elf.ProgType) (elf.ProgHeader, bool) {
	for _, p := range e.Progs {
		if p.Type == t {
			return p, true
		}
	}
	return elf.ProgHeader{}, false
}

// StackPerm is what PT_GNU_STACK asks of the stack; ok is false where the file
// does not have it, so that the architecture decides.
func (e *ELF) StackPerm() (p vm.Perm, ok bool) {
	s, ok := e.Segment(elf.PT_GNU_STACK)
	return permOf(s.Flags), ok
}

// BuildID is the build-id in the note segments of the file r: GNU's, else that
// of Go, whose linker leaves GNU's note out of the segments; nil without both.
func (e *ELF) BuildID(r io.ReaderAt) []byte {
	return e.buildID(func(b []byte, p elf.ProgHeader) (int, error) { return readAt(r, b, p.Off) })
}

// BuildID is the build-id in the note segments in memory, as for a file.
func (img *Image) BuildID(ctx context.Context) []byte {
	return img.buildID(func(b []byte, p elf.ProgHeader) (int, error) {
		return img.mem.ReadMemory(ctx, b, (p.Vaddr+img.Bias)&img.addressMask())
	})
}

func (e *ELF) buildID(read func([]byte, elf.ProgHeader) (int, error)) []byte {
	var ofGo []byte
	tries := 4 // note segments; programs have up to three
	for _, p := range e.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		if tries--; tries < 0 {
			break
		}
		b := make([]byte, min(p.Filesz, maxNotes))
		n, _ := read(b, p)
		notes := noteReader{r: bytes.NewReader(b[:n]), order: e.Order, align: noteAlign(p), end: uint64(n)}
		for note, ok := notes.next(); ok; note, ok = notes.next() {
			switch {
			case note.size == 0:
			case note.name == "GNU" && note.typ == ntGNUBuildID:
				return notes.desc(note, note.size)
			case note.name == "Go" && note.typ == ntGoBuildID:
				ofGo = notes.desc(note, note.size)
			}
		}
	}
	return ofGo
}

// Dyn is an entry of a dynamic section.
type Dyn struct {
	Tag   elf.DynTag
	Value uint64
	Addr  uint64 // of the entry, without bias
}

// Dynamic reads the image's dynamic section, up to DT_NULL or to where memory
// cannot be read; nil where the image has none.
func (img *Image) Dynamic(ctx context.Context) []Dyn {
	p, ok := img.Segment(elf.PT_DYNAMIC)
	if !ok {
		return nil
	}
	b := make([]byte, min(p.Memsz, maxDynamic))
	n, _ := img.mem.ReadMemory(ctx, b, (p.Vaddr+img.Bias)&img.addressMask())
	return img.dynamic(b[:n], p.Vaddr)
}

// dynamic reads the bytes of a dynamic section at addr.
func (e *ELF) dynamic(b []byte, addr uint64) []Dyn {
	w := e.wordSize()
	var ds []Dyn
	for i := 0; i+2*w <= len(b); i += 2 * w {
		d := Dyn{elf.DynTag(e.word(b[i:])), e.word(b[i+w:]), addr + uint64(i)}
		if d.Tag == elf.DT_NULL {
			break
		}
		ds = append(ds, d)
	}
	return ds
}

// Interp is the name in PT_INTERP, read from memory, or "".
func (img *Image) Interp(ctx context.Context) string {
	p, ok := img.Segment(elf.PT_INTERP)
	if !ok {
		return ""
	}
	s, _ := img.cString(ctx, p.Vaddr+img.Bias)
	return s
}

// cString reads the string at addr of up to maxPath bytes with its NUL.
func (img *Image) cString(ctx context.Context, addr uint64) (string, bool) {
	return readString(ctx, img.mem, addr&img.addressMask())
}

// readString reads the string at addr of up to maxPath bytes with its NUL.
func readString(ctx context.Context, mem vm.Reader, addr uint64) (string, bool) {
	var b [256]byte
	var s []byte
	for len(s) < maxPath {
		n, _ := mem.ReadMemory(ctx, b[:], addr+uint64(len(s)))
		for i, c := range b[:n] {
			if c == 0 {
				return string(append(s, b[:i]...)), true
			}
		}
		s = append(s, b[:n]...)
		if n < len(b) {
			break
		}
	}
	return "", false
}

// LinkEntry is an object that the dynamic linker loaded (struct link_map, link.h).
type LinkEntry struct {
	Bias    uint64 // l_addr
	Name    string // l_name; "" for the program itself
	Dynamic uint64 // l_ld, the address of its dynamic section
}

// ErrNoLinkMap says that the image leads to no link map: it is static, or its
// dynamic linker has not run yet.
var ErrNoLinkMap = errors.New("no link map")

// LinkMap walks the dynamic linker's list from the program's image, through
// DT_DEBUG or its MIPS variants, and those of further namespaces (dlmopen(3)).
// Each object comes once, however the list is linked. Where the list leads to
// memory that cannot be read, what was found before comes with the error.
func (img *Image) LinkMap(ctx context.Context) ([]LinkEntry, error) {
	debug, err := img.rDebug(ctx)
	if err != nil {
		return nil, err
	}
	return img.links(ctx, debug)
}

// links walks the lists from the struct r_debug at debug.
func (img *Image) links(ctx context.Context, debug uint64) ([]LinkEntry, error) {
	w := uint64(img.wordSize())
	var links []LinkEntry
	seen := map[uint64]bool{}
	for debug != 0 && !seen[debug] && len(seen) < maxLinks {
		seen[debug] = true
		// struct r_debug_extended: r_version, r_map, r_brk, r_state, r_ldbase, r_next.
		version, err := img.readInt(ctx, debug)
		if err != nil {
			return links, err
		}
		link, err := img.readWord(ctx, debug+w)
		if err != nil {
			return links, err
		}
		for link != 0 && !seen[link] && len(seen) < maxLinks {
			seen[link] = true
			// struct link_map: l_addr, l_name, l_ld, l_next, l_prev.
			var b [4 * 8]byte
			if err := img.read(ctx, b[:4*w], link); err != nil {
				return links, err
			}
			name, _ := img.cString(ctx, img.word(b[w:]))
			links = append(links, LinkEntry{Bias: img.word(b[:]), Name: name, Dynamic: img.word(b[2*w:])})
			link = img.word(b[3*w:])
		}
		if debug = 0; version >= 2 {
			if debug, err = img.readWord(ctx, debug+5*w); err != nil {
				return links, err
			}
		}
	}
	return links, nil
}

// Tags that lead to struct r_debug on MIPS, where DT_DEBUG's section is
// read-only (MIPS ABI supplement; binutils include/elf/mips.h).
const (
	dtMIPSRldMap    = 0x70000016 // address of the pointer to it
	dtMIPSRldMapRel = 0x70000035 // the same, relative to the entry
)

// rDebug is the address of struct r_debug.
func (img *Image) rDebug(ctx context.Context) (uint64, error) {
	for _, d := range img.Dynamic(ctx) {
		switch at := d.Value; d.Tag {
		case elf.DT_DEBUG:
			if at != 0 {
				return at, nil
			}
		case dtMIPSRldMapRel:
			at += d.Addr + img.Bias
			fallthrough
		case dtMIPSRldMap:
			if a, err := img.readWord(ctx, at); err == nil && a != 0 {
				return a, nil
			}
		}
	}
	return 0, ErrNoLinkMap
}

// read fills b from addr.
func (img *Image) read(ctx context.Context, b []byte, addr uint64) error {
	addr &= img.addressMask()
	n, err := img.mem.ReadMemory(ctx, b, addr)
	switch {
	case n == len(b):
		return nil
	case err == nil:
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %#x: %w", addr, err)
}

// readWord reads an address at addr.
func (img *Image) readWord(ctx context.Context, addr uint64) (uint64, error) {
	var b [8]byte
	err := img.read(ctx, b[:img.wordSize()], addr)
	return img.word(b[:]), err
}

// readInt reads a C int at addr.
func (img *Image) readInt(ctx context.Context, addr uint64) (uint32, error) {
	var b [4]byte
	err := img.read(ctx, b[:], addr)
	return img.Order.Uint32(b[:]), err
}
