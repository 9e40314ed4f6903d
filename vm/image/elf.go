// Package image reads ELF files, in files and in the memory of a process, what
// belongs to them there (the auxiliary vector, the dynamic linker's list), and
// core files, as a map and as memory.
package image

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"dbgsh/vm"
)

// ErrNotELF says that what was read does not begin as an ELF file does.
var ErrNotELF = errors.New("not an ELF file")

// ELFError says what is wrong with the headers of an ELF file, and where.
type ELFError struct {
	Offset uint64 // bytes from the start of the file or image
	Why    string
}

func (e *ELFError) Error() string {
	return fmt.Sprintf("ELF headers: offset %#x: %s", e.Offset, e.Why)
}

// ELF is what the headers of an ELF file, image or core say. It is not changed
// once made.
type ELF struct {
	Class   elf.Class        // ELFCLASS32 or ELFCLASS64
	Order   binary.ByteOrder // of the file, and of the machine it is for
	Type    elf.Type
	Machine elf.Machine
	Entry   uint64 // address before any bias
	// Progs are the program headers in the file's order, without PT_NULL.
	Progs []elf.ProgHeader
	// Cut counts the program headers that the file announces and, being cut
	// off, does not hold.
	Cut int

	ehsize   uint16 // of the file header, as it says
	shoff    uint64 // where the section headers are, 0 for nowhere
	shnum    uint16 // how many; 0 too where the number is in the first of them
	shstrndx uint16 // 0 where there is no table of section names
}

const (
	// maxProgs bounds the program headers that are read: 32 times as many as
	// Linux lets a process have mappings (vm.max_map_count, 65530).
	maxProgs = 1 << 21
	// maxLoadProgs bounds those of a program; the kernel loads none whose table
	// is larger than 64 KiB (fs/binfmt_elf.c, load_elf_phdrs).
	maxLoadProgs = 65536 / phdrSize32

	pnXNum = 0xffff // e_phnum where the number is in section 0's sh_info (elf(5))
)

// Sizes of headers in bytes (elf(5)).
const (
	ehdrSize32, ehdrSize64 = 52, 64
	phdrSize32, phdrSize64 = 32, 56
	shdrSize32, shdrSize64 = 40, 64
)

// AddressBits is the width of the machine's addresses: 32 or 64.
func (e *ELF) AddressBits() int {
	if e.Class == elf.ELFCLASS32 {
		return 32
	}
	return 64
}

// addressMask is the highest address there is.
func (e *ELF) addressMask() uint64 { return ^uint64(0) >> (64 - e.AddressBits()) }

func (e *ELF) is32() bool { return e.Class == elf.ELFCLASS32 }

// word reads an address-sized integer; b must hold it.
func (e *ELF) word(b []byte) uint64 {
	if e.is32() {
		return uint64(e.Order.Uint32(b))
	}
	return e.Order.Uint64(b)
}

func (e *ELF) wordSize() int { return e.AddressBits() / 8 }

func (e *ELF) phdrSize() int {
	if e.is32() {
		return phdrSize32
	}
	return phdrSize64
}

// ReadELF reads the file header and the program headers, and no section but
// the first one's header where the number of program headers is there. r may be
// a file or the memory of an image from its first byte. The error wraps
// ErrNotELF, or is an *ELFError, or is r's own. Memory stays below 56 bytes for
// each program header that r really holds.
func ReadELF(r io.ReaderAt) (*ELF, error) { return readELF(r, maxProgs) }

// readELF is ReadELF with up to limit program headers.
func readELF(r io.ReaderAt, limit uint64) (*ELF, error) {
	var b [ehdrSize64]byte
	n, err := r.ReadAt(b[:], 0)
	if n < elf.EI_NIDENT || string(b[:4]) != elf.ELFMAG {
		if err != nil && err != io.EOF && n < len(elf.ELFMAG) {
			return nil, fmt.Errorf("read ELF header: %w", err)
		}
		return nil, ErrNotELF
	}
	e := &ELF{Class: elf.Class(b[elf.EI_CLASS])}
	size := ehdrSize64
	switch e.Class {
	case elf.ELFCLASS32:
		size = ehdrSize32
	case elf.ELFCLASS64:
	default:
		return nil, &ELFError{elf.EI_CLASS, fmt.Sprintf("class %d is neither 32 nor 64 bits", b[elf.EI_CLASS])}
	}
	switch elf.Data(b[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
		e.Order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		e.Order = binary.BigEndian
	default:
		return nil, &ELFError{elf.EI_DATA, fmt.Sprintf("byte order %d is neither little nor big endian", b[elf.EI_DATA])}
	}
	if n < size {
		return nil, &ELFError{uint64(n), "the file header is cut off"}
	}
	e.Type = elf.Type(e.Order.Uint16(b[16:]))
	e.Machine = elf.Machine(e.Order.Uint16(b[18:]))
	var phoff, shoff uint64
	var counts []byte // from e_phentsize on
	if e.is32() {
		e.Entry, phoff, shoff, counts = e.word(b[24:]), e.word(b[28:]), e.word(b[32:]), b[42:]
	} else {
		e.Entry, phoff, shoff, counts = e.word(b[24:]), e.word(b[32:]), e.word(b[40:]), b[54:]
	}
	entsize, num := e.Order.Uint16(counts), uint64(e.Order.Uint16(counts[2:]))
	e.ehsize = e.Order.Uint16(b[size-12:])
	e.shoff, e.shnum, e.shstrndx = shoff, e.Order.Uint16(counts[6:]), e.Order.Uint16(counts[8:])
	if num == 0 {
		return e, nil
	}
	if int(entsize) != e.phdrSize() {
		return nil, &ELFError{phoff, fmt.Sprintf("program headers of %d bytes, not %d", entsize, e.phdrSize())}
	}
	if num == pnXNum {
		if num, err = e.extendedCount(r, shoff, phoff); err != nil {
			return nil, err
		}
	}
	if num > limit {
		return nil, &ELFError{phoff, fmt.Sprintf("%d program headers, more than %d", num, limit)}
	}
	if err := e.readProgs(r, phoff, num); err != nil {
		return nil, err
	}
	return e, nil
}

// extendedCount is the number of program headers where e_phnum cannot hold it:
// sh_info of the first section header (elf(5), PN_XNUM).
func (e *ELF) extendedCount(r io.ReaderAt, shoff, phoff uint64) (uint64, error) {
	size, info := shdrSize64, 44
	if e.is32() {
		size, info = shdrSize32, 28
	}
	b := make([]byte, size)
	if shoff != 0 {
		n, err := readAt(r, b, shoff)
		if err != nil {
			return 0, fmt.Errorf("read the first section header at offset %#x: %w", shoff, err)
		}
		if num := uint64(e.Order.Uint32(b[info:])); n == size && num >= pnXNum {
			return num, nil
		}
	}
	// The section header stands behind all memory, so it is the first thing
	// that a core cut short loses. Linux begins the first segment where the
	// program headers end (fs/binfmt_elf.c, elf_core_dump).
	b = make([]byte, e.phdrSize())
	if n, err := readAt(r, b, phoff); n < len(b) {
		return pnXNum, err
	}
	if end := e.prog(b).Off; end > phoff && (end-phoff)/uint64(len(b)) > pnXNum {
		return (end - phoff) / uint64(len(b)), nil
	}
	return pnXNum, nil
}

// readProgs reads num program headers, at most maxProgs, from off.
func (e *ELF) readProgs(r io.ReaderAt, off, num uint64) error {
	size := uint64(e.phdrSize())
	if off+num*size < off {
		return &ELFError{off, "the program headers go beyond the end of any file"}
	}
	buf := make([]byte, min(num, 1024)*size)
	for done := uint64(0); done < num; {
		want := buf[:min(uint64(len(buf)), (num-done)*size)]
		n, err := readAt(r, want, off+done*size)
		if err != nil {
			return fmt.Errorf("read program headers at offset %#x: %w", off, err)
		}
		whole := uint64(n) / size
		for i := range whole {
			if p := e.prog(want[i*size:]); p.Type != elf.PT_NULL {
				e.Progs = append(e.Progs, p)
			}
		}
		done += whole
		if n < len(want) {
			e.Cut = int(num - done)
			break
		}
	}
	return nil
}

// prog reads one program header (elf(5)); b must hold it.
func (e *ELF) prog(b []byte) elf.ProgHeader {
	p := elf.ProgHeader{Type: elf.ProgType(e.Order.Uint32(b))}
	if e.is32() {
		u := func(at int) uint64 { return e.word(b[at:]) }
		p.Off, p.Vaddr, p.Paddr, p.Filesz, p.Memsz = u(4), u(8), u(12), u(16), u(20)
		p.Flags, p.Align = elf.ProgFlag(u(24)), u(28)
		return p
	}
	u := func(at int) uint64 { return e.word(b[at:]) }
	p.Flags = elf.ProgFlag(e.Order.Uint32(b[4:]))
	p.Off, p.Vaddr, p.Paddr, p.Filesz, p.Memsz, p.Align = u(8), u(16), u(24), u(32), u(40), u(48)
	return p
}

// readAt reads up to len(b) bytes; the end of r is no error.
func readAt(r io.ReaderAt, b []byte, off uint64) (int, error) {
	if off > 1<<63-1 {
		return 0, nil
	}
	n, err := r.ReadAt(b, int64(off))
	if err == io.EOF || n == len(b) {
		err = nil
	}
	return n, err
}

// permOf is the permissions of a segment; whether it is shared is unknown.
func permOf(f elf.ProgFlag) vm.Perm {
	p := vm.KnownAccess
	if f&elf.PF_R != 0 {
		p |= vm.Read
	}
	if f&elf.PF_W != 0 {
		p |= vm.Write
	}
	if f&elf.PF_X != 0 {
		p |= vm.Exec
	}
	return p
}

// Span is the range from the first byte of the lowest PT_LOAD segment's page to
// the end of the highest one's page, without bias; page is a power of two. Its
// size is 0 where there is no such segment. Segments that go beyond the end of
// the address space are cut there.
func (e *ELF) Span(page uint64) vm.Range {
	lo, last, any := ^uint64(0), uint64(0), false
	for i := range e.Progs {
		p := &e.Progs[i]
		if p.Type != elf.PT_LOAD || p.Memsz == 0 {
			continue
		}
		end := p.Vaddr + (p.Memsz - 1)
		if end < p.Vaddr || end > e.addressMask() {
			end = e.addressMask()
		}
		lo, last, any = min(lo, p.Vaddr&^(page-1)), max(last, end|(page-1)), true
	}
	if !any || last-lo == ^uint64(0) || last < lo {
		return vm.Range{}
	}
	return vm.Range{Start: lo, Size: last - lo + 1}
}

// Bias is what must be added to every address of the file so that the page of
// its lowest segment comes to lie at base.
func (e *ELF) Bias(base, page uint64) uint64 { return (base - e.Span(page).Start) & e.addressMask() }

// Loaded says how an ELF file is laid into memory.
type Loaded struct {
	Bias uint64 // added to every address of the file, wrapping
	// Page is the page size in bytes, a power of two. 1 keeps the segments' own
	// bounds, as where nothing maps the file by pages.
	Page    uint64
	Name    string // of what comes from the file
	BSSName string // of what does not; Linux has none for it
}

// Mappings is the PT_LOAD segments as Linux maps them (fs/binfmt_elf.c,
// elf_load): from the start of the page in which a segment begins to the end of
// the one in which it ends, the whole pages beyond p_filesz as a mapping of
// their own with offset 0; of segments that share a page the later one has it.
// Permissions are p_flags; what the dynamic linker protects afterwards
// (PT_GNU_RELRO) is not in it. Where the offsets in the file do not allow pages
// of that size, as in firmware, the segments keep their own bounds. The
// mappings are sorted and do not overlap. An error wraps an *ELFError.
func (e *ELF) Mappings(l Loaded) ([]vm.Mapping, error) {
	var loads []elf.ProgHeader
	page := l.Page
	for _, p := range e.Progs {
		if p.Type != elf.PT_LOAD || p.Memsz == 0 {
			continue
		}
		if loads = append(loads, p); len(loads) > maxLoadProgs {
			return nil, &ELFError{0, "more segments than can be loaded"}
		}
		if p.Filesz > 0 && (p.Vaddr^p.Off)&(page-1) != 0 {
			page = 1
		}
	}
	switch {
	case e.Type == elf.ET_CORE:
		return nil, &ELFError{16, "a core file, not a program"}
	case len(loads) == 0:
		return nil, &ELFError{0, "no segment to load"}
	}
	var parts []part
	for _, p := range loads {
		last := p.Vaddr + (p.Memsz - 1)
		biased := (p.Vaddr + l.Bias) & e.addressMask()
		biasedLast := biased + (last - p.Vaddr)
		if last < p.Vaddr || last > e.addressMask() || biasedLast < biased ||
			biasedLast > e.addressMask() || (biased^p.Vaddr)&(page-1) != 0 {
			return nil, &ELFError{0, fmt.Sprintf("the segment at %#x, %#x bytes, cannot be loaded at %#x", p.Vaddr, p.Memsz, biased)}
		}
		head := biased & (page - 1)
		m := vm.Mapping{Perm: permOf(p.Flags), Source: vm.SourceELF}
		m.Range = vm.Range{Start: biased - head, Size: biasedLast | (page - 1) - (biased - head) + 1}
		if m.Size == 0 {
			return nil, &ELFError{0, "a segment as large as the address space"}
		}
		// The kernel refuses p_filesz above p_memsz.
		fromFile := uint64(0)
		if file := min(p.Filesz, p.Memsz); file > 0 {
			fromFile = m.Size
			if up := (head + file + page - 1) &^ (page - 1); up != 0 {
				fromFile = min(fromFile, up)
			}
		}
		if fromFile > 0 {
			f := part{m, true}
			f.Size, f.Offset, f.Name = fromFile, p.Off-head, l.Name
			parts = overlay(parts, f)
		}
		if fromFile < m.Size {
			z := part{m, false}
			z.Start, z.Size, z.Name = m.Start+fromFile, m.Size-fromFile, l.BSSName
			parts = overlay(parts, z)
		}
	}
	ms := make([]vm.Mapping, len(parts))
	for i := range parts {
		ms[i] = parts[i].Mapping
	}
	vm.Sort(ms)
	return ms, nil
}

// part is a piece of a segment; file says whether its bytes come from the file.
type part struct {
	vm.Mapping
	file bool
}

// overlay is ps with p mapped over it, as mmap(2) with MAP_FIXED does. The
// parts in ps do not overlap.
func overlay(ps []part, p part) []part {
	if !slices.ContainsFunc(ps, func(o part) bool { return o.Overlaps(p.Range) }) {
		return append(ps, p)
	}
	out := make([]part, 0, len(ps)+2)
	for _, o := range ps {
		if !o.Overlaps(p.Range) {
			out = append(out, o)
			continue
		}
		if p.Start > o.Start {
			head := o
			head.Size = p.Start - o.Start
			out = append(out, head)
		}
		if o.Last() > p.Last() {
			skip := p.Last() + 1 - o.Start
			o.Start, o.Size = o.Start+skip, o.Size-skip
			if o.file {
				o.Offset += skip
			}
			out = append(out, o)
		}
	}
	return append(out, p)
}

// FileMemory is the memory of the program as its file has it, before anything
// has run: r is the file, and the bytes stand where the headers place them,
// without a bias. What no PT_LOAD segment holds cannot be read.
func (e *ELF) FileMemory(r io.ReaderAt) vm.Reader {
	var es coreExtents
	for _, p := range e.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		file := vm.Range{Start: p.Vaddr, Size: min(p.Filesz, p.Memsz)}
		zeros := vm.Range{Start: p.Vaddr + file.Size, Size: p.Memsz - file.Size}
		if file.Size > 0 && file.Valid() {
			es = append(es, coreExtent{Range: file, r: r, off: p.Off})
		}
		if zeros.Size > 0 && zeros.Valid() {
			es = append(es, coreExtent{Range: zeros})
		}
	}
	slices.SortFunc(es, func(a, b coreExtent) int { return cmp.Compare(a.Start, b.Start) })
	// Segments do not overlap in a program that the kernel loads; where they do,
	// the first one counts.
	kept := es[:0]
	for _, x := range es {
		if n := len(kept); n > 0 && kept[n-1].Overlaps(x.Range) {
			continue
		}
		kept = append(kept, x)
	}
	return kept
}
