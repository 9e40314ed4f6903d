package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"dbgsh/internal/testkit"
)

// TestSymbols compares the values of symbols with what Go's debug/elf reads.
func TestSymbols(t *testing.T) {
	files, _ := filepath.Glob("/usr/*/lib/libc.so.6") // compilers for other machines have one
	files = append(files, buildC(t, "gcc"), buildC(t, "gcc", "-static"), buildC(t, "gcc", "-s"))
	if libs, _ := filepath.Glob("/lib/*/libc.so.6"); len(libs) > 0 {
		files = append(files, libs...)
	} else {
		testkit.Missing(t, "no libc.so.6")
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		e, err := ReadELF(f)
		if err != nil {
			t.Fatal(err)
		}
		truth, err := elf.NewFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all, _ := truth.Symbols()
		dynamic, _ := truth.DynamicSymbols()
		all = append(all, dynamic...)
		values := map[string]map[uint64]bool{} // a name may have several
		defined := 0
		for _, s := range all {
			if values[s.Name] == nil {
				values[s.Name] = map[uint64]bool{}
			}
			if s.Section != elf.SHN_UNDEF {
				values[s.Name][s.Value] = true
				defined++
			}
		}
		n := 0
		for name, want := range values {
			if n++; n%50 != 0 && name != "__curbrk" && name != "main" || name == "" {
				continue
			}
			if got, ok := e.symbol(f, name); ok != (len(want) > 0) || ok && !want[got] {
				t.Errorf("%s: %s is %#x, %t, not one of %v", path, name, got, ok, want)
			}
		}
		if got, ok := e.symbol(f, "no such symbol"); ok {
			t.Errorf("%s: a symbol that is not there is %#x", path, got)
		}
		if defined == 0 && path == files[0] {
			t.Errorf("%s: nothing to compare", path)
		}
	}
}

// withSymbol is a file that asks for a symbol, and defines it as 0x1234 under a
// name that is the end of another one.
func (f elfFile) withSymbol() []byte {
	f.typ = elf.ET_DYN
	strings := []byte("\x00x__curbrk\x00")
	symbol := func(shndx byte) []byte {
		rest := []byte{0x11, 0, 0, shndx}
		if f.order == byteOrder(binary.LittleEndian) {
			rest[2], rest[3] = shndx, 0
		}
		name := f.order.AppendUint32(nil, 2)
		if f.class == elf.ELFCLASS32 {
			return slices.Concat(name, f.words(0x1234, 4), rest)
		}
		return slices.Concat(name, rest, f.words(0x1234, 8))
	}
	symbols := slices.Concat(symbol(0), symbol(7))
	section := func(typ elf.SectionType, off uint64, size int, link uint32) []byte {
		h := f.order.AppendUint32(f.order.AppendUint32(nil, 0), uint32(typ))
		h = append(h, f.words(0, 0, off, uint64(size))...)
		h = f.order.AppendUint32(f.order.AppendUint32(h, link), 0)
		return append(h, f.words(1, 0)...)
	}
	at, from := f.add(strings), f.add(symbols)
	end := f.add(slices.Concat(section(elf.SHT_NULL, 0, 0, 0), section(elf.SHT_SYMTAB, from, len(symbols), 2), section(elf.SHT_STRTAB, at, len(strings), 0)))
	b := f.bytes()
	shoff, shnum := 40, 60
	if f.class == elf.ELFCLASS32 {
		shoff, shnum = 32, 48
	}
	copy(b[shoff:], f.words(end))
	f.order.PutUint16(b[shnum:], 3)
	return b
}

func TestSymbolKinds(t *testing.T) {
	for _, f := range kinds() {
		b := f.withSymbol()
		e, err := ReadELF(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := e.symbol(bytes.NewReader(b), "__curbrk"); v != 0x1234 || !ok {
			t.Errorf("%v %v: %#x, %t", f.class, f.order, v, ok)
		}
		if v, ok := e.symbol(bytes.NewReader(b), "curbr"); ok {
			t.Errorf("%v %v: a part of a name is %#x", f.class, f.order, v)
		}
	}
}

func FuzzSymbol(f *testing.F) {
	for _, k := range kinds() {
		f.Add(k.withSymbol())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ReadELF(bytes.NewReader(b))
		if err != nil {
			return
		}
		if v, ok := e.symbol(bytes.NewReader(b), "__curbrk"); ok && !bytes.Contains(b, []byte("__curbrk\x00")) {
			t.Errorf("%#x out of nothing", v)
		}
	})
}
