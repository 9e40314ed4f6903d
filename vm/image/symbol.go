package image

import (
	"bytes"
	"debug/elf"
	"io"
	"slices"
)

// Bounds of what is looked through for a symbol: the largest programs have some
// hundred thousand symbols, with some ten MiB of names.
const (
	maxTables  = 4 // a file has two at most
	maxSymbols = 8 << 20
	maxNames   = 256 << 20 // bytes
	maxEnds    = 1 << 16   // names that end with the one that is looked for
	// symbolPiece is how much of a table is read at once, in bytes; a multiple of
	// both sizes of symbols.
	symbolPiece = 3 << 15
)

// Sizes of symbols in bytes (elf(5)).
const symSize32, symSize64 = 16, 24

// section is a section header as far as it matters here.
type section struct {
	typ       elf.SectionType
	off, size uint64
	link      uint32
}

// section reads the header of section i; ok is false where there is none.
func (e *ELF) section(r io.ReaderAt, i int) (s section, ok bool) {
	b := make([]byte, shdrSize64)
	if e.is32() {
		b = b[:shdrSize32]
	}
	if n, _ := readAt(r, b, e.shoff+uint64(i*len(b))); e.shoff == 0 || n < len(b) {
		return s, false
	}
	s.typ = elf.SectionType(e.Order.Uint32(b[4:]))
	if e.is32() {
		s.off, s.size, s.link = e.word(b[16:]), e.word(b[20:]), e.Order.Uint32(b[24:])
	} else {
		s.off, s.size, s.link = e.word(b[24:]), e.word(b[32:]), e.Order.Uint32(b[40:])
	}
	return s, true
}

// symbol is the value of the symbol of a name that the file r defines, as its
// tables of symbols have it, those that strip(1) takes away too.
func (e *ELF) symbol(r io.ReaderAt, name string) (value uint64, ok bool) {
	tables := maxTables
	for i := range int(e.shnum) {
		table, ok := e.section(r, i)
		if !ok {
			break
		}
		if table.typ != elf.SHT_DYNSYM && table.typ != elf.SHT_SYMTAB || table.link >= uint32(e.shnum) {
			continue
		}
		if tables--; tables < 0 {
			break
		}
		names, ok := e.section(r, int(table.link))
		if !ok || names.typ != elf.SHT_STRTAB {
			continue
		}
		if at := stringAt(r, names, name); len(at) > 0 {
			if value, ok := e.symbolNamed(r, table, at); ok {
				return value, true
			}
		}
	}
	return 0, false
}

// stringAt is where a string stands in a table of them, ascending: more than once
// where it is the end of others too.
func stringAt(r io.ReaderAt, names section, s string) (at []uint32) {
	want := append([]byte(s), 0)
	b := make([]byte, symbolPiece)
	size := min(names.size, maxNames)
	for off := uint64(0); off < size; {
		n, _ := readAt(r, b[:min(uint64(len(b)), size-off)], names.off+off)
		for i := 0; ; i++ {
			k := bytes.Index(b[i:n], want)
			if k < 0 || len(at) == maxEnds {
				break
			}
			i += k
			at = append(at, uint32(off)+uint32(i))
		}
		if n <= len(want) {
			break
		}
		off += uint64(n - (len(want) - 1)) // one that the end cuts is whole in the next piece
	}
	return at
}

// symbolNamed is the value of the first symbol in a table whose name is at one of
// these places, and that the file defines.
func (e *ELF) symbolNamed(r io.ReaderAt, table section, at []uint32) (value uint64, ok bool) {
	size := symSize64
	if e.is32() {
		size = symSize32
	}
	b := make([]byte, symbolPiece)
	end := min(table.size, maxSymbols*uint64(size))
	for off := uint64(0); off < end; off += symbolPiece {
		n, _ := readAt(r, b[:min(symbolPiece, end-off)], table.off+off)
		for sym := b[:n]; len(sym) >= size; sym = sym[size:] {
			if _, found := slices.BinarySearch(at, e.Order.Uint32(sym)); !found {
				continue
			}
			// st_shndx and st_value have changed places between the classes.
			shndx, value := e.Order.Uint16(sym[6:]), sym[8:]
			if e.is32() {
				shndx, value = e.Order.Uint16(sym[14:]), sym[4:]
			}
			if elf.SectionIndex(shndx) != elf.SHN_UNDEF {
				return e.word(value), true
			}
		}
		if n < symbolPiece {
			break
		}
	}
	return 0, false
}
