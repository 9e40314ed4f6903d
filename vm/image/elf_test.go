package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dbgsh/vm"
)

type byteOrder interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

// elfFile writes ELF files for tests.
type elfFile struct {
	class   elf.Class
	order   byteOrder
	typ     elf.Type
	machine elf.Machine
	entry   uint64
	progs   []elf.ProgHeader
	xnum    bool // the number of program headers goes into a section header
	gdb     bool // a table of section names, as GDB writes
	body    []byte
}

// bodyAt is where the program headers end and body begins.
func (f *elfFile) bodyAt() uint64 {
	if f.class == elf.ELFCLASS32 {
		return uint64(ehdrSize32 + len(f.progs)*phdrSize32)
	}
	return uint64(ehdrSize64 + len(f.progs)*phdrSize64)
}

// add puts b at the end of the body and is its offset in the file.
func (f *elfFile) add(b []byte) uint64 {
	f.body = append(f.body, b...)
	return f.bodyAt() + uint64(len(f.body)-len(b))
}

func (f *elfFile) bytes() []byte {
	var b bytes.Buffer
	w := func(v any) {
		if err := binary.Write(&b, f.order, v); err != nil {
			panic(err)
		}
	}
	ident := [16]byte{0x7f, 'E', 'L', 'F', byte(f.class), 1, 1}
	if f.order == byteOrder(binary.BigEndian) {
		ident[elf.EI_DATA] = 2
	}
	num, shoff, shnum, strndx := uint16(len(f.progs)), uint64(0), uint16(0), uint16(0)
	if f.xnum {
		num, shoff, shnum = pnXNum, f.bodyAt()+uint64(len(f.body)), 1
	}
	if f.gdb {
		strndx = 1
	}
	if f.class == elf.ELFCLASS32 {
		w(elf.Header32{Ident: ident, Type: uint16(f.typ), Machine: uint16(f.machine), Version: 1, Entry: uint32(f.entry),
			Phoff: ehdrSize32, Shoff: uint32(shoff), Ehsize: ehdrSize32, Phentsize: phdrSize32, Phnum: num, Shentsize: shdrSize32, Shnum: shnum, Shstrndx: strndx})
		for _, p := range f.progs {
			w(elf.Prog32{Type: uint32(p.Type), Off: uint32(p.Off), Vaddr: uint32(p.Vaddr), Paddr: uint32(p.Paddr),
				Filesz: uint32(p.Filesz), Memsz: uint32(p.Memsz), Flags: uint32(p.Flags), Align: uint32(p.Align)})
		}
	} else {
		w(elf.Header64{Ident: ident, Type: uint16(f.typ), Machine: uint16(f.machine), Version: 1, Entry: f.entry,
			Phoff: ehdrSize64, Shoff: shoff, Ehsize: ehdrSize64, Phentsize: phdrSize64, Phnum: num, Shentsize: shdrSize64, Shnum: shnum, Shstrndx: strndx})
		for _, p := range f.progs {
			w(elf.Prog64{Type: uint32(p.Type), Flags: uint32(p.Flags), Off: p.Off, Vaddr: p.Vaddr, Paddr: p.Paddr,
				Filesz: p.Filesz, Memsz: p.Memsz, Align: p.Align})
		}
	}
	b.Write(f.body)
	if f.xnum {
		if f.class == elf.ELFCLASS32 {
			w(elf.Section32{Info: uint32(len(f.progs))})
		} else {
			w(elf.Section64{Info: uint32(len(f.progs))})
		}
	}
	return b.Bytes()
}

// words is addresses in the file's byte order.
func (f *elfFile) words(vs ...uint64) []byte {
	var b []byte
	for _, v := range vs {
		if f.class == elf.ELFCLASS32 {
			b = f.order.AppendUint32(b, uint32(v))
		} else {
			b = f.order.AppendUint64(b, v)
		}
	}
	return b
}

// note is one note.
func (f *elfFile) note(name string, typ uint32, desc []byte) []byte {
	pad := func(b []byte) []byte {
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		return b
	}
	b := f.order.AppendUint32(nil, uint32(len(name)+1))
	b = f.order.AppendUint32(b, uint32(len(desc)))
	b = f.order.AppendUint32(b, typ)
	b = pad(append(append(b, name...), 0))
	return pad(append(b, desc...))
}

// kinds are the classes and byte orders that there are.
func kinds() []elfFile {
	return []elfFile{
		{class: elf.ELFCLASS64, order: binary.LittleEndian, machine: elf.EM_X86_64},
		{class: elf.ELFCLASS64, order: binary.BigEndian, machine: elf.EM_S390},
		{class: elf.ELFCLASS32, order: binary.LittleEndian, machine: elf.EM_386},
		{class: elf.ELFCLASS32, order: binary.BigEndian, machine: elf.EM_MIPS},
	}
}

func TestReadELFKinds(t *testing.T) {
	for _, f := range kinds() {
		f.typ, f.entry = elf.ET_DYN, 0x1234
		f.progs = []elf.ProgHeader{
			{Type: elf.PT_LOAD, Flags: elf.PF_R | elf.PF_X, Off: 0, Vaddr: 0x10000, Paddr: 3, Filesz: 0x100, Memsz: 0x200, Align: 0x1000},
			{Type: elf.PT_GNU_STACK, Flags: elf.PF_R | elf.PF_W, Align: 16},
		}
		e, err := ReadELF(bytes.NewReader(f.bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if e.Class != f.class || e.Order != binary.ByteOrder(f.order) || e.Type != f.typ || e.Machine != f.machine || e.Entry != f.entry || e.Cut != 0 {
			t.Errorf("header of %v %v: %+v", f.class, f.order, e)
		}
		if diff := cmp.Diff(f.progs, e.Progs); diff != "" {
			t.Error(diff)
		}
		if p, ok := e.StackPerm(); !ok || p.String() != "rw-?" {
			t.Errorf("stack %v %v", p, ok)
		}
	}
}

// TestReadELFAgrees compares with package debug/elf on the programs of this machine.
func TestReadELFAgrees(t *testing.T) {
	agreed := 0
	for _, path := range []string{"/proc/self/exe", "/bin/sh", "/usr/bin/gdb", "/usr/bin/python3", "/usr/bin/env", "/etc/passwd", "/lib64/ld-linux-x86-64.so.2"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		e, err := ReadELF(f)
		want, wantErr := elf.NewFile(f)
		if (err == nil) != (wantErr == nil) {
			t.Errorf("%s: %v, debug/elf: %v", path, err, wantErr)
		}
		if err == nil {
			var progs []elf.ProgHeader
			for _, p := range want.Progs {
				if p.Type != elf.PT_NULL {
					progs = append(progs, p.ProgHeader)
				}
			}
			if diff := cmp.Diff(progs, e.Progs); diff != "" {
				t.Errorf("%s: %s", path, diff)
			}
			var id []byte
			if s := want.Section(".note.gnu.build-id"); s != nil {
				b, _ := s.Data()
				id = b[16:]
			}
			if s := want.Section(".note.go.buildid"); s != nil {
				b, _ := s.Data()
				id = bytes.TrimRight(b[16:], "\x00")
			}
			if got := e.BuildID(f); !bytes.Equal(got, id) {
				t.Errorf("%s: build-id %x, want %x", path, got, id)
			}
			agreed++
		} else if !errors.Is(err, ErrNotELF) {
			t.Errorf("%s: %v", path, err)
		}
		_ = f.Close()
	}
	if agreed == 0 {
		t.Skip("no ELF file here")
	}
}

func TestReadELFBroken(t *testing.T) {
	good := elfFile{class: elf.ELFCLASS64, order: binary.LittleEndian, typ: elf.ET_EXEC, progs: make([]elf.ProgHeader, 3)}
	for i := range good.progs {
		good.progs[i].Type = elf.PT_LOAD
	}
	edit := func(at int, with ...byte) []byte {
		b := good.bytes()
		copy(b[at:], with)
		return b
	}
	for _, tc := range []struct {
		name   string
		b      []byte
		notELF bool
		cut    int
	}{
		{name: "empty", b: nil, notELF: true},
		{name: "text", b: []byte("#!/bin/sh\necho hello, this is a script\n"), notELF: true},
		{name: "magic only", b: []byte("\x7fELF"), notELF: true},
		{name: "header cut", b: good.bytes()[:40]},
		{name: "class 3", b: edit(4, 3)},
		{name: "byte order 0", b: edit(5, 0)},
		{name: "header size", b: edit(54, 55)},
		{name: "table at the end of the address space", b: edit(32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
		{name: "table beyond the file", b: edit(32, 0, 0, 0, 0, 0, 0, 0, 0x7f), cut: 3},
		{name: "table cut", b: good.bytes()[:ehdrSize64+phdrSize64+9], cut: 2},
		{name: "65535 headers, section header cut", b: edit(56, 0xff, 0xff), cut: 65532},
	} {
		e, err := ReadELF(bytes.NewReader(tc.b))
		var bad *ELFError
		switch {
		case tc.notELF && !errors.Is(err, ErrNotELF),
			!tc.notELF && tc.cut == 0 && !errors.As(err, &bad):
			t.Errorf("%s: %v", tc.name, err)
		case tc.cut > 0 && (err != nil || e.Cut != tc.cut):
			t.Errorf("%s: %v, %+v", tc.name, err, e)
		}
	}
	if _, err := ReadELF(failing{}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("the reader's error: %v", err)
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, os.ErrPermission }

func TestReadELFManySegments(t *testing.T) {
	for _, f := range kinds() {
		f.typ, f.xnum = elf.ET_CORE, true
		for i := range 70000 {
			f.progs = append(f.progs, elf.ProgHeader{Type: elf.PT_LOAD, Vaddr: uint64(i) << 13, Memsz: 4096, Off: f.bodyAt()})
		}
		f.progs[0] = elf.ProgHeader{Type: elf.PT_NOTE, Off: f.bodyAt()}
		f.add([]byte("bytes of memory"))
		whole := f.bytes()
		for _, b := range [][]byte{whole, whole[:len(whole)-1]} {
			e, err := ReadELF(bytes.NewReader(b))
			if err != nil || len(e.Progs) != len(f.progs) || e.Cut != 0 {
				t.Errorf("%v %v, %d bytes: %v, %d program headers, %d cut", f.class, f.order, len(b), err, len(e.Progs), e.Cut)
			}
		}
	}
}

func TestMappings(t *testing.T) {
	const r, w, x = elf.PF_R, elf.PF_W, elf.PF_X
	load := func(flags elf.ProgFlag, off, vaddr, filesz, memsz uint64) elf.ProgHeader {
		return elf.ProgHeader{Type: elf.PT_LOAD, Flags: flags, Off: off, Vaddr: vaddr, Filesz: filesz, Memsz: memsz}
	}
	type row struct {
		rng, perm string
		off       uint64
		name      string
	}
	for _, tc := range []struct {
		name  string
		progs []elf.ProgHeader
		load  Loaded
		class elf.Class
		typ   elf.Type
		want  []row // nil: an error
	}{
		{name: "text and data with bss", load: Loaded{Bias: 0x10000, Page: 4096, Name: "f"},
			progs: []elf.ProgHeader{load(r|x, 0, 0, 0x1234, 0x1234), load(r|w, 0x1e00, 0x2e00, 0x300, 0x3000)},
			want: []row{{"0x10000-0x12000", "r-x?", 0, "f"}, {"0x12000-0x14000", "rw-?", 0x1000, "f"},
				{"0x14000-0x16000", "rw-?", 0, ""}}},
		{name: "bss in the last page of the file", load: Loaded{Page: 4096, Name: "f"},
			progs: []elf.ProgHeader{load(r|w, 0x10, 0x10, 0x20, 0x1000-0x10)},
			want:  []row{{"0x0-0x1000", "rw-?", 0, "f"}}},
		{name: "bss only", load: Loaded{Page: 4096, Name: "f", BSSName: "b"},
			progs: []elf.ProgHeader{load(r|w, 0x333, 0x2000, 0, 1)},
			want:  []row{{"0x2000-0x3000", "rw-?", 0, "b"}}},
		{name: "the later segment has a shared page", load: Loaded{Page: 0x10000, Name: "f"},
			progs: []elf.ProgHeader{load(r|x, 0, 0x10000, 0x20010, 0x20010), load(r|w, 0x20010, 0x30010, 8, 8)},
			want:  []row{{"0x10000-0x30000", "r-x?", 0, "f"}, {"0x30000-0x40000", "rw-?", 0x20000, "f"}}},
		{name: "one inside another", load: Loaded{Page: 4096, Name: "f"},
			progs: []elf.ProgHeader{load(r, 0x5000, 0x1000, 0x5000, 0x5000), load(r|x, 0x3000, 0x3000, 0x1000, 0x1000)},
			want: []row{{"0x1000-0x3000", "r--?", 0x5000, "f"}, {"0x3000-0x4000", "r-x?", 0x3000, "f"},
				{"0x4000-0x6000", "r--?", 0x8000, "f"}}},
		{name: "firmware keeps its bounds", load: Loaded{Page: 4096, Name: "f", BSSName: "f"},
			progs: []elf.ProgHeader{load(r|x, 0x74, 0x8000000, 0x13, 0x13), load(r|w, 0x87, 0x20000000, 4, 0x10)},
			want: []row{{"0x8000000-0x8000013", "r-x?", 0x74, "f"}, {"0x20000000-0x20000004", "rw-?", 0x87, "f"},
				{"0x20000004-0x20000010", "rw-?", 0, "f"}}},
		{name: "up to 2^64", load: Loaded{Page: 4096, Name: "f"},
			progs: []elf.ProgHeader{load(x, 0, 0xffffffffffffe000, 0x1800, 0x1800)},
			want:  []row{{"0xffffffffffffe000-0x10000000000000000", "--x?", 0, "f"}}},
		{name: "up to 2^32", load: Loaded{Page: 4096, Bias: 0x1000, Name: "f"}, class: elf.ELFCLASS32,
			progs: []elf.ProgHeader{load(x, 0, 0xffffe000, 0x1000, 0x1000)},
			want:  []row{{"0xfffff000-0x100000000", "--x?", 0, "f"}}},
		{name: "beyond 2^32", load: Loaded{Page: 4096, Bias: 0x1000}, class: elf.ELFCLASS32,
			progs: []elf.ProgHeader{load(x, 0, 0xffffe000, 0x1800, 0x1801)}},
		{name: "beyond 2^64", load: Loaded{Page: 4096}, progs: []elf.ProgHeader{load(x, 0, 0xffffffffffffe000, 0, 0x2001)}},
		{name: "all of 2^64", load: Loaded{Page: 4096}, progs: []elf.ProgHeader{load(x, 0, 1, 0, 1<<64-2)}},
		{name: "bias of part of a page", load: Loaded{Page: 4096, Bias: 8}, progs: []elf.ProgHeader{load(x, 0, 0, 1, 1)}},
		{name: "nothing to load", load: Loaded{Page: 4096}, progs: []elf.ProgHeader{{Type: elf.PT_NOTE, Memsz: 3}}},
		{name: "a core", load: Loaded{Page: 4096}, typ: elf.ET_CORE, progs: []elf.ProgHeader{load(x, 0, 0, 1, 1)}},
		{name: "too many", load: Loaded{Page: 4096}, progs: slices.Repeat([]elf.ProgHeader{load(x, 0, 0, 1, 1)}, maxLoadProgs+1)},
	} {
		e := &ELF{Class: elf.ELFCLASS64, Type: tc.typ, Progs: tc.progs}
		if tc.class != 0 {
			e.Class = tc.class
		}
		ms, err := e.Mappings(tc.load)
		var bad *ELFError
		if tc.want == nil {
			if !errors.As(err, &bad) || ms != nil {
				t.Errorf("%s: %v, %v", tc.name, ms, err)
			}
			continue
		}
		var got []row
		for _, m := range ms {
			got = append(got, row{m.Range.String(), m.Perm.String(), m.Offset, m.Name})
		}
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(row{})); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", tc.name, err, diff)
		}
	}
}

// TestMappingsOracle maps random segments page by page, as mmap would.
func TestMappingsOracle(t *testing.T) {
	type page struct {
		perm vm.Perm
		off  uint64
		file bool
	}
	rapid.Check(t, func(t *rapid.T) {
		const pageSize = 16
		e := &ELF{Class: elf.ELFCLASS64}
		want := map[uint64]page{}
		for range rapid.IntRange(1, 6).Draw(t, "segments") {
			p := elf.ProgHeader{Type: elf.PT_LOAD, Flags: elf.ProgFlag(rapid.IntRange(0, 7).Draw(t, "flags")),
				Vaddr: rapid.Uint64Range(0, 300).Draw(t, "vaddr"), Memsz: rapid.Uint64Range(1, 100).Draw(t, "memsz")}
			p.Filesz = rapid.Uint64Range(0, p.Memsz).Draw(t, "filesz")
			p.Off = p.Vaddr%pageSize + pageSize*rapid.Uint64Range(0, 20).Draw(t, "off")
			e.Progs = append(e.Progs, p)
			for a := p.Vaddr &^ (pageSize - 1); a < p.Vaddr+p.Memsz; a += pageSize {
				pg := page{perm: permOf(p.Flags)}
				if p.Filesz > 0 && a < p.Vaddr+p.Filesz {
					pg.file, pg.off = true, p.Off&^(pageSize-1)+a-p.Vaddr&^(pageSize-1)
				}
				want[a] = pg
			}
		}
		ms, err := e.Mappings(Loaded{Page: pageSize, Name: "f", Bias: 0x1000})
		if err != nil {
			t.Fatal(err)
		}
		got := map[uint64]page{}
		for i, m := range ms {
			if i > 0 && ms[i-1].Last() >= m.Start {
				t.Fatalf("%v is not behind %v", m.Range, ms[i-1].Range)
			}
			for a := m.Start; a <= m.Last(); a += pageSize {
				pg := page{perm: m.Perm}
				if m.Name != "" {
					pg.file, pg.off = true, m.Offset+a-m.Start
				}
				got[a-0x1000] = pg
			}
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(page{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestSpanAndBias(t *testing.T) {
	e := &ELF{Class: elf.ELFCLASS64, Progs: []elf.ProgHeader{
		{Type: elf.PT_LOAD, Vaddr: 0x402345, Memsz: 0x2000}, {Type: elf.PT_LOAD, Vaddr: 0x400123, Memsz: 1}, {Type: elf.PT_NOTE, Memsz: 1}}}
	if got := e.Span(4096); got != (vm.Range{Start: 0x400000, Size: 0x5000}) {
		t.Errorf("span %v", got)
	}
	if got := e.Bias(0x500000, 4096); got != 0x100000 {
		t.Errorf("bias %#x", got)
	}
	if got := (&ELF{Class: elf.ELFCLASS64}).Span(4096); got.Size != 0 {
		t.Errorf("span of nothing %v", got)
	}
}

func FuzzELF(f *testing.F) {
	for _, k := range kinds() {
		k.typ = elf.ET_DYN
		k.progs = []elf.ProgHeader{
			{Type: elf.PT_LOAD, Filesz: 0x1000, Memsz: 0x1000}, {Type: elf.PT_LOAD, Off: 0x1800, Vaddr: 0x2800, Filesz: 0x10, Memsz: 0x9000},
			{Type: elf.PT_NOTE, Off: ehdrSize64, Filesz: 200, Memsz: 200}, {Type: elf.PT_DYNAMIC, Vaddr: 64, Memsz: 99}, {Type: elf.PT_INTERP, Vaddr: 1},
		}
		f.Add(k.bytes(), uint64(0x10000))
	}
	f.Fuzz(func(t *testing.T, b []byte, bias uint64) {
		e, err := ReadELF(bytes.NewReader(b))
		if err != nil {
			if err == io.EOF || e != nil {
				t.Fatal(e, err)
			}
			return
		}
		e.BuildID(bytes.NewReader(b))
		for _, page := range []uint64{1, 4096, 1 << 16} {
			if s := e.Span(page); !s.Valid() {
				t.Fatal(s)
			}
			ms, err := e.Mappings(Loaded{Bias: bias &^ (page - 1), Page: page, Name: "f"})
			if err != nil {
				continue
			}
			checkDisjoint(t, ms, e.addressMask())
		}
		// The same bytes as memory.
		mem := coreExtents{{vm.Range{Start: bias, Size: uint64(len(b))}, bytes.NewReader(b), 0}}
		if len(b) == 0 || !mem[0].Valid() {
			return
		}
		ctx := t.Context()
		if img, err := ReadImage(ctx, mem, bias); err == nil {
			img.BuildID(ctx)
			img.Interp(ctx)
			_, _ = img.LinkMap(ctx)
		}
		_, _ = ReadImagePhdrs(ctx, mem, e.Class, e.Order, bias+64, 3)
	})
}

// checkDisjoint fails where mappings are empty, unsorted, overlap or end beyond mask.
func checkDisjoint(t *testing.T, ms []vm.Mapping, mask uint64) {
	t.Helper()
	for i, m := range ms {
		if m.Size == 0 || !m.Valid() || m.Last() > mask || i > 0 && ms[i-1].Last() >= m.Start {
			t.Fatalf("mapping %d of %d: %v", i, len(ms), m.Range)
		}
	}
}
