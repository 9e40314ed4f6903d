package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dbgsh/vm"
)

// openBytes opens a core that lies in memory.
func openBytes(t testing.TB, b []byte, opt CoreOptions) (*Core, error) {
	t.Helper()
	c, err := OpenCore(context.Background(), bytes.NewReader(b), int64(len(b)), opt)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// core makes a core of program headers whose bytes are in bodies, and of notes.
func (f elfFile) core(progs []elf.ProgHeader, bodies [][]byte, notes ...[]byte) []byte {
	f.typ = elf.ET_CORE
	f.progs = append([]elf.ProgHeader{{Type: elf.PT_NOTE}}, progs...)
	all := slices.Concat(notes...)
	f.progs[0].Off, f.progs[0].Filesz = f.add(all), uint64(len(all))
	for i, b := range bodies {
		f.progs[i+1].Off = f.add(b)
		f.progs[i+1].Filesz = uint64(len(b))
	}
	return f.bytes()
}

// ntFile is NT_FILE of mappings given as start, end, offset in pages.
func (f *elfFile) ntFile(count, page uint64, ranges []uint64, names ...string) []byte {
	desc := append(f.words(count, page), f.words(ranges...)...)
	for _, n := range names {
		desc = append(append(desc, n...), 0)
	}
	return f.note("CORE", ntFile, desc)
}

func load(flags elf.ProgFlag, addr, size uint64) elf.ProgHeader {
	return elf.ProgHeader{Type: elf.PT_LOAD, Flags: flags, Vaddr: addr, Memsz: size}
}

func TestCoreKinds(t *testing.T) {
	const r, w, x = elf.PF_R, elf.PF_W, elf.PF_X
	text := []byte("\x7fELF is only the beginning of this")
	for _, f := range kinds() {
		f := f
		b := f.core([]elf.ProgHeader{load(r|x, 0x10000, 0x2000), load(r|w, 0x12000, 0x1000), load(r|w, 0x13000, 0x1000), load(0, 0x14000, 0x1000), load(r|w, 0x7f000000, 0x3000)},
			[][]byte{text, bytes.Repeat([]byte{7}, 0x1000), nil, nil, bytes.Repeat([]byte{8}, 0x3000)},
			f.note("CORE", ntAuxv, f.words(uint64(AuxPageSize), 4096, uint64(AuxRandom), 0x7f001234, uint64(AuxPhdr), 0x10034, 0, 0)),
			f.note("LINUX", ntFile, []byte("somebody else's note")),
			f.ntFile(2, 0x1000, []uint64{0x10000, 0x12000, 5, 0x12000, 0x13000, 7}, "/bin/a b\n", "/bin/a b\n"))
		c, err := openBytes(t, b, CoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			`0x10000-0x12000 r-x 0x5000 "/bin/a b\n"`, `0x12000-0x13000 rw- 0x7000 "/bin/a b\n"`, `0x13000-0x14000 rw- 0x0 ""`,
			`0x14000-0x15000 --- 0x0 ""`, `0x7f000000-0x7f003000 rw- 0x0 "[stack]"`}
		// Without the program's headers, what follows its data is bss, and the
		// next writable mapping within reach the heap; here there is none.
		if diff := cmp.Diff(want, coreLines(c.plain(t))); diff != "" {
			t.Errorf("%v %v: %s", f.class, f.order, diff)
		}
		m := c.Mappings[0]
		if m.InCore != uint64(len(text)) || m.Absent() != m.Size-m.InCore || !m.Backed || m.Perm.Knows(vm.Shared) {
			t.Errorf("%+v", m)
		}
		got := make([]byte, 0x3000)
		n, err := c.ReadMemory(t.Context(), got, 0x10002)
		if string(got[:n]) != string(text[2:]) || !errors.Is(err, ErrNotInCore) || !strings.Contains(err.Error(), "0x10022") {
			t.Errorf("read %q, %v", got[:n], err)
		}
		if n, err := c.ReadMemory(t.Context(), got, 0x14000); n != 0 || !errors.Is(err, ErrNotInCore) {
			t.Errorf("read %d, %v", n, err)
		}
	}
}

// TestCoreThreads puts a stack pointer where each machine has it.
func TestCoreThreads(t *testing.T) {
	le, be := kinds()[0].order, kinds()[1].order
	for _, tc := range []struct {
		machine elf.Machine
		class   elf.Class
		order   byteOrder
		at, len int // of the stack pointer, of the note (glibc's sys/procfs.h on each)
	}{
		{elf.EM_X86_64, elf.ELFCLASS64, le, 112 + 19*8, 336},
		{elf.EM_386, elf.ELFCLASS32, le, 72 + 15*4, 144},
		{elf.EM_AARCH64, elf.ELFCLASS64, le, 112 + 31*8, 392},
		{elf.EM_ARM, elf.ELFCLASS32, le, 72 + 13*4, 148},
		{elf.EM_RISCV, elf.ELFCLASS64, le, 112 + 2*8, 376},
		{elf.EM_MIPS, elf.ELFCLASS32, be, 72 + 35*4, 256},
		{elf.EM_MIPS, elf.ELFCLASS32, be, 72 + 29*8, 440},
		{elf.EM_MIPS, elf.ELFCLASS64, le, 112 + 29*8, 480},
		{elf.EM_PPC64, elf.ELFCLASS64, be, 112 + 8, 504},
		{elf.EM_S390, elf.ELFCLASS64, be, 112 + 16 + 15*8, 336},
		{elf.EM_ALPHA, elf.ELFCLASS64, le, -1, 400},
	} {
		f := elfFile{class: tc.class, order: tc.order, machine: tc.machine}
		desc := make([]byte, tc.len)
		pid := 32
		if tc.class == elf.ELFCLASS32 {
			pid = 24
		}
		tc.order.PutUint32(desc[pid:], 4711)
		switch {
		case tc.at < 0:
		case tc.machine == elf.EM_MIPS && tc.len == 440:
			tc.order.PutUint64(desc[tc.at:], 0x7fff1230)
		default:
			copy(desc[tc.at:], f.words(0x7fff1230))
		}
		c, err := openBytes(t, f.core([]elf.ProgHeader{load(elf.PF_R|elf.PF_W, 0x7fff0000, 0x2000)}, nil, f.note("CORE", ntPRStatus, desc)), CoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := []CoreThread{{4711, 0x7fff1230, true}}
		name := "[stack]"
		if tc.at < 0 {
			want, name = []CoreThread{{ID: 4711}}, ""
		}
		if !slices.Equal(c.Threads, want) || c.Mappings[0].Name != name {
			t.Errorf("%v %v: %v, %q", tc.machine, tc.class, c.Threads, c.Mappings[0].Name)
		}
	}
}

// TestCoreOracle compares with a core that is read byte by byte.
func TestCoreOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := kinds()[rapid.IntRange(0, 3).Draw(t, "kind")]
		type byteAt struct {
			perm vm.Perm
			b    int // -1: absent
			off  uint64
			name string
		}
		want := map[uint64]byteAt{}
		var progs []elf.ProgHeader
		var bodies [][]byte
		var ranges []uint64
		var names []string
		at := uint64(0)
		for range rapid.IntRange(0, 6).Draw(t, "segments") {
			at += rapid.Uint64Range(0, 20).Draw(t, "gap")
			p := load(elf.ProgFlag(rapid.IntRange(0, 7).Draw(t, "flags")), at, rapid.Uint64Range(1, 40).Draw(t, "size"))
			body := rapid.SliceOfN(rapid.Byte(), 0, int(p.Memsz)).Draw(t, "body")
			for i := range p.Memsz {
				w := byteAt{perm: permOf(p.Flags), b: -1}
				if i < uint64(len(body)) {
					w.b = int(body[i])
				}
				want[at+i] = w
			}
			progs, bodies, at = append(progs, p), append(bodies, body), at+p.Memsz
		}
		// Files lie anywhere, within mappings and without.
		for file, n := uint64(0), rapid.IntRange(0, 4).Draw(t, "files"); n > 0; n-- {
			file += rapid.Uint64Range(0, 30).Draw(t, "file gap")
			size, off := rapid.Uint64Range(1, 60).Draw(t, "file size"), rapid.Uint64Range(0, 99).Draw(t, "offset")
			name := fmt.Sprintf("/f%d", n)
			ranges, names = append(ranges, file, file+size, off), append(names, name)
			for i := range size {
				w, ok := want[file+i]
				if !ok {
					w.b = -1
				}
				w.name, w.off = name, off+i
				want[file+i] = w
			}
			file += size
		}
		b := f.core(progs, bodies, f.ntFile(uint64(len(names)), 1, ranges, names...))
		c, err := OpenCore(context.Background(), bytes.NewReader(b), int64(len(b)), CoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := map[uint64]byteAt{}
		for i, m := range c.Mappings {
			if i > 0 && c.Mappings[i-1].Last() >= m.Start {
				t.Fatalf("%v is not behind %v", m.Range, c.Mappings[i-1].Range)
			}
			mem := make([]byte, m.Size)
			n, err := c.ReadMemory(context.Background(), mem, m.Start)
			if uint64(n) != m.InCore || (err == nil) != (m.InCore == m.Size) {
				t.Fatalf("%v: %d bytes, %v; %d in the core", m.Range, n, err, m.InCore)
			}
			for i := range m.Size {
				g := byteAt{m.Perm, -1, 0, m.Name}
				if i < m.InCore {
					g.b = int(mem[i])
				}
				if m.Backed {
					g.off = m.Offset + i
				}
				got[m.Start+i] = g
			}
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(byteAt{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

// brokenCores is what a hostile hand may write.
func brokenCores() map[string][]byte {
	f := kinds()[0]
	rw := elf.PF_R | elf.PF_W
	one := []elf.ProgHeader{load(rw, 0x10000, 0x1000)}
	at := func(p elf.ProgHeader, off, filesz uint64) elf.ProgHeader {
		p.Off, p.Filesz = off, filesz
		return p
	}
	repeat := func(n int, v ...uint64) []uint64 { return slices.Repeat(v, n) }
	aux := func(vs ...uint64) []byte { return f.note("CORE", ntAuxv, f.words(append(vs, 0, 0)...)) }
	cores := map[string][]byte{
		"no segments":                    f.core(nil, nil),
		"the whole address space":        f.core([]elf.ProgHeader{load(rw, 0, math.MaxUint64)}, nil),
		"an end of 2^64":                 f.core([]elf.ProgHeader{load(rw, 1<<64-4096, 4096)}, nil, aux(uint64(AuxRandom), 1<<64-1, uint64(AuxPhdr), 1<<64-8, uint64(AuxPhnum), 9)),
		"beyond 2^64":                    f.core([]elf.ProgHeader{load(rw, 1<<64-4096, 4097)}, nil),
		"bytes beyond 2^64":              f.core([]elf.ProgHeader{at(load(rw, 0x1000, 0x1000), 1<<64-8, 0x1000)}, nil),
		"more bytes than memory":         f.core([]elf.ProgHeader{at(load(rw, 0x1000, 0x10), 0, 1<<64-1)}, nil),
		"all segments the same":          f.core(slices.Repeat(one, 1000), nil),
		"segments inside each other":     f.core([]elf.ProgHeader{load(rw, 0, 1<<40), load(rw, 1, 3), load(rw, 2, 1<<41), load(rw, 1<<39, 1<<63)}, nil),
		"segments backwards":             f.core([]elf.ProgHeader{load(rw, 3<<12, 1<<12), load(rw, 2<<12, 1<<12), load(rw, 1<<12, 1<<12)}, nil),
		"NT_FILE announces 2^64 files":   f.core(one, nil, f.ntFile(math.MaxUint64, 4096, []uint64{1, 2, 3}, "x")),
		"NT_FILE with few names":         f.core(one, nil, f.ntFile(3, 4096, repeat(3, 0x10000, 0x11000, 0), "x")),
		"NT_FILE backwards":              f.core(one, nil, f.ntFile(2, 4096, []uint64{0x11000, 0x10000, 0, 5, 5, 5}, "x", "y")),
		"NT_FILE with the same 1000":     f.core(one, nil, f.ntFile(1000, 4096, repeat(1000, 0x10000, 0x11000, 0), slices.Repeat([]string{"x"}, 1000)...)),
		"NT_FILE offsets beyond 2^64":    f.core(one, nil, f.ntFile(1, 1<<63, []uint64{0x10000, 0x11000, 4}, "x")),
		"NT_FILE with pages of 0 bytes":  f.core(one, nil, f.ntFile(1, 0, []uint64{0x10000, 0x11000, 4}, "x")),
		"NT_FILE of everything":          f.core(one, nil, f.ntFile(1, 4096, []uint64{0, math.MaxUint64, 0}, "x")),
		"NT_FILE of 3 bytes":             f.core(one, nil, f.note("CORE", ntFile, []byte("abc"))),
		"NT_AUXV without end":            f.core(one, nil, f.note("CORE", ntAuxv, f.words(3, 0x10000, 5))),
		"NT_AUXV leads nowhere":          f.core(one, nil, aux(3, 0x666, 5, 1<<60, 7, 0x10000, 25, 3, 31, 0x10fff, 33, 0x10800, 9, 4)),
		"NT_PRSTATUS of 40 bytes":        f.core(one, nil, f.note("CORE", ntPRStatus, make([]byte, 40)), f.note("CORE", ntPRStatus, nil)),
		"a note that is larger than all": f.core(one, nil, slices.Concat(f.order.AppendUint32(nil, 5), f.order.AppendUint32(nil, math.MaxUint32), f.order.AppendUint32(nil, ntFile), []byte("CORE\x00\x00\x00\x00"), f.words(1, 1))),
		"a name that is larger than all": f.core(one, nil, slices.Concat(f.order.AppendUint32(nil, math.MaxUint32), f.order.AppendUint32(nil, 8), f.order.AppendUint32(nil, ntFile), []byte("CORE"))),
		"notes of no bytes":              f.core(one, nil, make([]byte, 1<<20)),
	}
	// 100 note segments over the same notes.
	many := f
	many.typ = elf.ET_CORE
	notes := bytes.Repeat(f.note("CORE", ntPRStatus, make([]byte, 336)), 3000)
	many.progs = make([]elf.ProgHeader, 100)
	off := many.add(notes)
	for i := range many.progs {
		many.progs[i] = elf.ProgHeader{Type: elf.PT_NOTE, Off: off, Filesz: uint64(len(notes))}
	}
	cores["100 times the same notes"] = many.bytes()
	// Images that share one page of bytes and announce all they can.
	image := elfFile{class: f.class, order: f.order, typ: elf.ET_DYN, machine: f.machine, progs: slices.Repeat([]elf.ProgHeader{load(rw, 0, 1<<40)}, maxImageProgs)}
	body := image.bytes()
	hall := f
	hall.typ, hall.gdb = elf.ET_CORE, true
	const images = 20000
	hall.progs = make([]elf.ProgHeader, images+1)
	page := hall.add(body)
	var ranges []uint64
	for i := range uint64(images) {
		hall.progs[i+1] = at(load(rw, i<<20, 0x10000), page, uint64(len(body)))
		ranges = append(ranges, i<<20, i<<20+0x10000, 0)
	}
	list := hall.ntFile(images, 4096, ranges, slices.Repeat([]string{"/f"}, images)...)
	hall.progs[0] = elf.ProgHeader{Type: elf.PT_NOTE, Off: hall.add(list), Filesz: uint64(len(list))}
	cores["20000 images in one page"] = hall.bytes()
	// A linker's list that leads round in a circle, and says that everything is everywhere.
	_, base := linkImage(f, elf.DT_DEBUG, 0, 0)
	mem, _ := linkImage(f, elf.DT_DEBUG, 100, base+0x4000)
	ring := make([]byte, mem[0].Size)
	_, _ = mem.ReadMemory(context.Background(), ring, base)
	cores["a ring of objects"] = f.core([]elf.ProgHeader{load(rw, base, uint64(len(ring)))}, [][]byte{ring},
		aux(uint64(AuxPhdr), base+64, uint64(AuxPhnum), 2, uint64(AuxExecFn), base+0x4040, uint64(AuxBase), base))
	return cores
}

// checkCore fails where a core contradicts itself.
func checkCore(t *testing.T, c *Core) {
	t.Helper()
	checkDisjoint(t, c.plain(t), c.addressMask())
	for i := range c.Mappings {
		m := &c.Mappings[i]
		if m.InCore > m.Size || m.FromFile > m.Size-m.InCore {
			t.Fatalf("%v: %d bytes in the core, %d in the file", m.Range, m.InCore, m.FromFile)
		}
		if i < 100 {
			b := make([]byte, min(m.Size, 5000))
			n, err := c.ReadMemory(context.Background(), b, m.Start)
			if uint64(n) != min(uint64(len(b)), m.InCore+m.FromFile) && m.InCore+m.FromFile == 0 {
				t.Fatalf("%v: %d bytes, %v", m.Range, n, err)
			}
			_, _ = c.ReadMemory(context.Background(), b, m.Last())
		}
	}
	if len(c.Notes) > 20 {
		t.Fatalf("%d notes", len(c.Notes))
	}
}

func TestBrokenCores(t *testing.T) {
	for name, b := range brokenCores() {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c, err := openBytes(t, b, CoreOptions{Open: func(path string) (CoreFile, error) { return nil, fs.ErrNotExist }})
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Fatal(err)
			}
			// What is allocated in all is more than what is ever held.
			if got := after.TotalAlloc - before.TotalAlloc; got > 256<<20 {
				t.Errorf("%d MiB allocated", got>>20)
			}
			checkCore(t, c)
		})
	}
}

// TestBrokenCoresSay names what the user is told.
func TestBrokenCoresSay(t *testing.T) {
	cores := brokenCores()
	for name, want := range map[string]string{
		"beyond 2^64":                  "end of the address space: 1",
		"all segments the same":        "shown in their place: 999",
		"NT_FILE announces 2^64 files": "18446744073709551615 mappings announced",
		"NT_FILE with few names":       "names missing: 2",
		"NT_FILE backwards":            "overlap others or are no ranges: 2",
		"NT_FILE of 3 bytes":           "NT_FILE is cut off",
		"NT_AUXV without end":          "NT_AUXV: auxiliary vector: cut off after 1 entries",
		"bytes beyond 2^64":            "bytes of memory missing: 4096",
		"no segments":                  "no auxiliary vector",
	} {
		c, err := openBytes(t, cores[name], CoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Map(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if about := m.About(); !strings.Contains(strings.Join(about, "\n"), want) {
			t.Errorf("%s: %q, not %q", name, about, want)
		}
	}
}

func TestOpenCoreErrors(t *testing.T) {
	f := kinds()[0]
	f.typ = elf.ET_EXEC
	if _, err := openBytes(t, f.bytes(), CoreOptions{}); !errors.Is(err, ErrNotCore) {
		t.Errorf("a program: %v", err)
	}
	if _, err := openBytes(t, []byte("text"), CoreOptions{}); !errors.Is(err, ErrNotELF) {
		t.Errorf("text: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := f.core(nil, nil)
	if _, err := OpenCore(ctx, bytes.NewReader(b), int64(len(b)), CoreOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestMappedFileOpens shows which files are opened, and that none is read from but
// a regular one with the core's build-id and the bytes that the core has of it.
func TestMappedFileOpens(t *testing.T) {
	f := kinds()[0]
	// A program of a page of headers, one of text, one of data.
	note := f.note("GNU", ntGNUBuildID, []byte("this build"))
	prog := elfFile{class: f.class, order: f.order, typ: elf.ET_DYN, machine: f.machine, progs: make([]elf.ProgHeader, 4)}
	prog.progs[0] = elf.ProgHeader{Type: elf.PT_LOAD, Flags: elf.PF_R, Filesz: 0x1000, Memsz: 0x1000}
	prog.progs[1] = elf.ProgHeader{Type: elf.PT_LOAD, Flags: elf.PF_R | elf.PF_X, Off: 0x1000, Vaddr: 0x1000, Filesz: 0x234, Memsz: 0x234}
	prog.progs[2] = elf.ProgHeader{Type: elf.PT_LOAD, Flags: elf.PF_R | elf.PF_W, Off: 0x1234, Vaddr: 0x3234, Filesz: 0x100, Memsz: 0x100}
	prog.progs[3] = elf.ProgHeader{Type: elf.PT_NOTE, Off: prog.bodyAt(), Vaddr: prog.bodyAt(), Filesz: uint64(len(note)), Memsz: uint64(len(note))}
	prog.add(note)
	prog.add(make([]byte, 0x1000-len(note)-int(prog.bodyAt())))
	prog.add(bytes.Repeat([]byte("text"), 0x234/4))
	prog.add(bytes.Repeat([]byte("data"), 0x100/4))
	good := prog.bytes()
	other := bytes.Replace(good, []byte("this build"), []byte("that build"), 1)
	b := f.core([]elf.ProgHeader{load(elf.PF_R, 0x10000, 0x1000), load(elf.PF_R|elf.PF_X, 0x11000, 0x1000), load(elf.PF_R|elf.PF_W, 0x13000, 0x1000), load(elf.PF_R, 0x20000, 0x1000)},
		[][]byte{good[:0x1000], good[0x1000:0x1100]},
		f.ntFile(4, 0x1000, []uint64{0x10000, 0x11000, 0, 0x11000, 0x12000, 1, 0x13000, 0x14000, 1, 0x20000, 0x21000, 0}, "/prog", "/prog", "/prog", "/data"))
	patched := func(places ...int) []byte { // offset and size of each
		b := slices.Clone(good)
		for ; len(places) > 0; places = places[2:] {
			for i := range places[1] {
				b[places[0]+i] ^= 0xff
			}
		}
		return b
	}
	dir := t.TempDir()
	for _, tc := range []struct {
		name string
		file []byte
		err  string
		text uint64
	}{
		{"the right file", good, "", 0xf00},
		{"without sections", patched(40, 8, 58, 6), "", 0xf00},
		{"patched in its headers", patched(0x345, 1), "byte at offset 0x345 is 0xff, not 0x0 as the core has it at 0x10345", 0},
		{"with another entry point", patched(24, 2), "byte at offset 0x18 is", 0},
		{"patched in its text", patched(0x1002, 1), "byte at offset 0x1002 is 0x87, not 0x78 as the core has it at 0x11002", 0},
		{"patched where nobody can tell", patched(0x1100, 1), "", 0xf00},
		{"cut in its text", good[:0x1080], "byte at offset 0x1080 is 0x0, not 0x74", 0},
		{"another build", other, "build-id", 0},
		{"no ELF file", []byte("text"), "not an ELF file", 0},
		{"a directory", nil, "not a regular file", 0},
	} {
		path := dir
		if tc.file != nil {
			path = dir + "/prog"
			if err := os.WriteFile(path, tc.file, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var opened []string
		c, err := openBytes(t, b, CoreOptions{Open: func(name string) (CoreFile, error) {
			opened = append(opened, name)
			return os.Open(path)
		}})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(opened, []string{"/prog"}) {
			t.Errorf("%s: opened %q", tc.name, opened)
		}
		if len(c.Files) != 2 || c.Files[0].Path != "/prog" || c.Files[1].Err == nil || (tc.err == "") != (c.Files[0].Err == nil) ||
			tc.err != "" && !strings.Contains(c.Files[0].Err.Error(), tc.err) {
			t.Errorf("%s: %v", tc.name, c.Files)
		}
		if m := c.Mappings[1]; m.FromFile != tc.text || m.Absent() != 0xf00-tc.text {
			t.Errorf("%s: text %+v", tc.name, m)
		}
		if m := c.Mappings[2]; m.FromFile != 0 {
			t.Errorf("%s: data %+v", tc.name, m)
		}
		// The page is the core's as far as that goes, the file's up to its end, then zeros.
		page := make([]byte, 0x1001)
		n, _ := c.ReadMemory(t.Context(), page, 0x11000)
		want := slices.Clone(good[0x1000:0x1100])
		if tc.text > 0 {
			want = append(append(want, tc.file[0x1100:]...), make([]byte, 0x1000)...)[:0x1000]
		}
		if !bytes.Equal(page[:n], want) {
			t.Errorf("%s: read %d bytes", tc.name, n)
		}
		checkCore(t, c)
	}
}

func FuzzCore(f *testing.F) {
	for _, b := range brokenCores() {
		if len(b) < 64<<10 {
			f.Add(b)
		}
	}
	for _, k := range kinds() {
		f.Add(k.core([]elf.ProgHeader{load(elf.PF_R, 0x10000, 0x1000), load(elf.PF_R|elf.PF_W, 0x12000, 0x1000)}, [][]byte{k.bytes(), k.bytes()},
			k.note("CORE", ntAuxv, k.words(3, 0x10034, 5, 2, 6, 4096, 7, 0x10000, 9, 0x10100, 25, 0x12100, 31, 0x12001, 33, 0x12000, 0, 0)),
			k.note("CORE", ntPRStatus, make([]byte, 336)),
			k.ntFile(1, 4096, []uint64{0x10000, 0x11000, 0}, "/f")))
	}
	path := f.TempDir() + "/file"
	prog := kinds()[0]
	if err := os.WriteFile(path, prog.bytes(), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := OpenCore(t.Context(), bytes.NewReader(b), int64(len(b)), CoreOptions{Open: func(string) (CoreFile, error) { return os.Open(path) }})
		if err != nil {
			var bad *ELFError
			if !errors.Is(err, ErrNotELF) && !errors.Is(err, ErrNotCore) && !errors.As(err, &bad) {
				t.Fatal(err)
			}
			return
		}
		checkCore(t, c)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// largeCore has as many segments as Linux lets a process have mappings by default.
func largeCore() []byte {
	f := kinds()[0]
	f.xnum = true
	var progs []elf.ProgHeader
	var ranges []uint64
	for i := range uint64(65530) {
		progs = append(progs, load(elf.PF_R|elf.PF_W, 0x7f0000000000+i<<13, 4096))
		if i%8 == 0 {
			ranges = append(ranges, 0x7f0000000000+i<<13, 0x7f0000001000+i<<13, i)
		}
	}
	n := len(ranges) / 3
	return f.core(progs, [][]byte{make([]byte, 1<<20)}, f.ntFile(uint64(n), 4096, ranges, slices.Repeat([]string{"/usr/lib/libexample.so.1"}, n)...))
}

func BenchmarkOpenCore(b *testing.B) {
	core := largeCore()
	b.ReportAllocs()
	for b.Loop() {
		c, err := openBytes(b, core, CoreOptions{})
		if err != nil || len(c.Mappings) != 65530 {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadCore(b *testing.B) {
	f := kinds()[0]
	const size = 64 << 20
	path := b.TempDir() + "/core"
	if err := os.WriteFile(path, f.core([]elf.ProgHeader{load(elf.PF_R, 0x1000, size)}, [][]byte{make([]byte, size)}), 0o600); err != nil {
		b.Fatal(err)
	}
	c := openCore(b, path, -1, CoreOptions{})
	buf := make([]byte, 256<<10)
	b.SetBytes(size)
	for b.Loop() {
		for at := uint64(0); at < size; at += uint64(len(buf)) {
			if n, err := c.ReadMemory(context.Background(), buf, 0x1000+at); n != len(buf) {
				b.Fatal(err)
			}
		}
	}
}

// TestCoreExtentsEnd reads at the very end of the address space.
func TestCoreExtentsEnd(t *testing.T) {
	es := coreExtents{{vm.Range{Start: 0, Size: 4}, bytes.NewReader([]byte("zero")), 0}, {vm.Range{Start: 1<<64 - 4, Size: 4}, bytes.NewReader([]byte("last")), 0}}
	b := make([]byte, 8)
	if n, err := es.ReadMemory(t.Context(), b, 1<<64-3); n != 3 || err == nil || string(b[:n]) != "ast" {
		t.Errorf("%d, %v, %q", n, err, b[:n])
	}
	if n, err := es.ReadMemory(t.Context(), b[:3], 1<<64-3); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := es.ReadMemory(t.Context(), nil, 77); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	short := coreExtents{{vm.Range{Start: 0x1000, Size: 10}, bytes.NewReader([]byte("five!")), 0}}
	if n, err := short.ReadMemory(t.Context(), b, 0x1002); n != 3 || !errors.Is(err, ErrNotInCore) {
		t.Errorf("a file that became shorter: %d, %v", n, err)
	}
}
