package qemuuser

import (
	"context"
	"debug/elf"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"dbgsh/target/proc"
	"dbgsh/vm"
)

// describedHost is a QEMU whose memory is described in lines: first page, pages,
// its permissions with n for nr and the inode; behind them what is the guest's: r
// where the guest can read, x where it can only execute, ? where that is not to be
// known, - where it has it without access, . where it is QEMU's; one letter for each
// page, or one for all. Where a + for each page that QEMU has, and a - for each
// other one, stand behind that, it is told which those are, else that nobody knows.
type describedHost struct {
	*qemuHost
	t       testing.TB
	letters map[uint64]byte // of each page
	pages   map[uint64]byte // + or -
	want    string          // the guest's pages with their letters
}

func newDescribedHost(t testing.TB, base uint64, class elf.Class, lines string) *describedHost {
	t.Helper()
	h := &describedHost{&qemuHost{g: &guest{class: class}, base: base}, t, map[uint64]byte{}, map[uint64]byte{}, ""}
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		var m proc.Smap
		var inode uint64
		var start, pages uint64
		if _, err := fmt.Sscanf(line, "%x %d %s %d", &start, &pages, &f[2], &inode); err != nil || len(f) != 5 && len(f) != 6 {
			t.Fatalf("%q: %v", line, err)
		}
		m.Range = vm.Range{Start: base + start*hostPage, Size: pages * hostPage}
		m.Perm, m.Inode = vm.KnownAll, inode
		for i, bit := range []vm.Perm{vm.Read, vm.Write, vm.Exec} {
			if f[2][i] != '-' {
				m.Perm |= bit
			}
		}
		if strings.HasSuffix(f[2], "n") {
			m.VMFlags = "mr nr"
		}
		h.smaps = append(h.smaps, m)
		for i := range pages {
			c := f[4][min(int(i), len(f[4])-1)]
			h.letters[start+i] = c
			if c != '.' {
				h.want += fmt.Sprintf("%x%c ", start+i, c)
			}
			if len(f) == 6 {
				h.pages[start+i] = f[5][min(int(i), len(f[5])-1)]
			}
		}
	}
	return h
}

// readable is what the stub answers. It may not be asked where QEMU has no page.
func (h *describedHost) readable(_ context.Context, addrs ...uint64) (answers []bool, err error) {
	for _, a := range addrs {
		if h.pages[a/hostPage] == '-' {
			h.t.Errorf("asked about page %#x, which QEMU does not have", a/hostPage)
		}
		answers = append(answers, h.letters[a/hostPage] == 'r')
	}
	return answers, nil
}

func (h *describedHost) ends(p *hostPiece) (first, last uint64, known bool) {
	first, last = 1, 0
	for a := p.Start; a-p.Start < p.Size; a += hostPage {
		if c := h.pages[a/hostPage]; c == 0 {
			return 0, 0, false
		} else if c == '+' {
			if last = a; first == 1 {
				first = a
			}
		}
	}
	return first, last, true
}

func TestWhoseMapping(t *testing.T) {
	for _, v := range []struct {
		name  string
		class elf.Class
		lines string
	}{
		{"QEMU's own files, heap and stack guard", elf.ELFCLASS64, `
			10 2 r--- 7 r
			12 1 rw-- 7 r
			100 2 r--- 9 .
			102 2 r-x- 9 .
			104 2 rw-- 9 .
			106 1 rw-- 0 .
			200 1 ---- 0 .
			201 8 rw-- 0 .
			300 2 rw-n 0 .
			302 9 ---n 0 .`},
		{"a guard below a stack, and an arena", elf.ELFCLASS64, `
			20 1 ---- 0 -
			21 8 rw-- 0 r
			40 2 rw-n 0 r
			42 9 ---n 0 -`},
		{"memory without access that touches nothing", elf.ELFCLASS64, `
			10 1 r--- 7 r
			20 4 ---- 0 -
			30 4 ---n 0 -`},
		{"only to be executed, only to be written", elf.ELFCLASS64, `
			10 1 ---- 0 -
			11 2 r--- 0 x
			13 2 -w-- 0 -
			15 1 rw-- 0 r`},
		{"what the kernel put together", elf.ELFCLASS64, `
			10 8 r--- 0 rrrxxxxx
			20 8 rw-- 0 .....rrr
			30 5 rw-- 0 rrrr.`},
		{"an address space that is filled", elf.ELFCLASS32, `
			0 16 ---n 0 .
			10 2 r--- 7 r
			12 1 ---n 0 .
			13 1 rw-- 7 r
			14 1 ---- 0 -
			15 1 r--- 0 x
			16 9 ---n 0 .`},
		{"behind a reserved part of the address space", elf.ELFCLASS64, `
			0 16 ---n 0 .
			10 2 r--- 7 r
			12 9 ---n 0 .
			1b 2 rw-- 0 .
			1d 1 ---- 0 .
			1e 2 rw-- 0 .`},
		{"only pages that are there are asked about", elf.ELFCLASS64, `
			10 4 r--- 7 r --+-
			20 8 rw-- 0 r --+-+---
			30 8 r--- 0 rrrxxxxx -+++++--
			100 4 rw-- 0 . -+--
			104 1 r-x- 9 . -`},
		{"what has no page", elf.ELFCLASS64, `
			10 4 r--- 7 ? -
			14 4 rw-- 7 r -
			20 4 rw-- 0 r +
			30 4 rw-- 0 r -
			40 4 r--- 0 ? -
			1000 4 rw-- 0 . -
			1010 4 r--- 0 . -
			1020 4 rw-- 0 . +
			2000 1 r-x- 9 . -
			2010 4 rw-- 0 . -`},
		{"what has no page in an address space that is filled", elf.ELFCLASS32, `
			0 16 ---n 0 .
			10 2 r--- 7 r +
			12 1 ---n 0 .
			13 1 rw-- 7 r -
			14 8 r--- 0 ? -
			1c 8 rw-- 0 r -
			24 9 ---n 0 .`},
		{"what is kept for -B", elf.ELFCLASS64, `
			0 16 ---n 0 .
			20 2 r--- 7 r`},
	} {
		t.Run(v.name, func(t *testing.T) {
			for _, base := range []uint64{0, 0x1000, 1 << 32} {
				h := newDescribedHost(t, base, v.class, v.lines)
				ps, err := h.whose(context.Background(), h.pieces(), h.readable, h.ends)
				if err != nil {
					t.Fatal(err)
				}
				r := &rebuilt{h: h.qemuHost}
				for _, p := range ps {
					if p.owner == ownerGuest {
						r.rows = append(r.rows, p)
					}
				}
				r.setPerms()
				got := ""
				for _, p := range r.rows {
					c := byte('-')
					switch {
					case p.Perm.Is(vm.Read):
						c = 'r'
					case p.Perm.Is(vm.Exec):
						c = 'x'
					case !p.Perm.Knows(vm.Read):
						c = '?'
					}
					for off := uint64(0); off < p.Size; off += hostPage {
						got += fmt.Sprintf("%x%c ", (p.Start+off)/hostPage, c)
					}
				}
				if got != h.want {
					t.Errorf("base %#x\ngot  %s\nwant %s", base, got, h.want)
				}
			}
		})
	}
}

// TestHostPieces holds the pieces within the guest's address space against a
// look at each page.
func TestHostPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const page = 1 << 28 // so that few fill a guest of 32 bits
		base := rapid.Uint64Range(0, 40).Draw(t, "base") * page
		h := &qemuHost{g: &guest{class: elf.ELFCLASS32}, base: base}
		if rapid.Bool().Draw(t, "64 bits") {
			h.g.class = elf.ELFCLASS64
		}
		at, host := uint64(0), map[uint64]uint64{}
		for i := range rapid.IntRange(0, 8).Draw(t, "mappings") {
			at += rapid.Uint64Range(0, 9).Draw(t, "gap")
			size := rapid.Uint64Range(1, 9).Draw(t, "size")
			m := vm.Mapping{Range: vm.Range{Start: at * page, Size: size * page}, Offset: uint64(i+1) << 40, Inode: 1}
			h.smaps = append(h.smaps, proc.Smap{Mapping: m})
			for k := range size {
				host[at+k] = m.Offset + k*page
			}
			at += size
		}
		got := map[uint64]uint64{}
		for _, p := range h.pieces() {
			if p.Source != vm.SourceQEMU || p.Size == 0 {
				t.Fatalf("%+v", p)
			}
			for off := uint64(0); off < p.Size; off += page {
				got[(p.Start+off)/page] = p.Offset + off
			}
		}
		for n := range at + 1 {
			guest, off := n-base/page, host[n]
			if n < base/page || guest*page > h.g.last() {
				continue
			}
			if got[guest] != off {
				t.Fatalf("page %#x: offset %#x, not %#x", guest, got[guest], off)
			}
			delete(got, guest)
		}
		for page, off := range got {
			if off != 0 {
				t.Fatalf("page %#x is extra", page)
			}
		}
	})
}

// TestQEMUMemoryBounds reads, through itself as QEMU, memory that has a hole.
func TestQEMUMemoryBounds(t *testing.T) {
	q := &guestMemory{base: 0x1000, ms: []guestPart{
		{Range: vm.Range{Start: 0x1000, Size: 0x1000}}, {Range: vm.Range{Start: 0x2000, Size: 0x2000}},
		{Range: vm.Range{Start: ^uint64(0xfff), Size: 0x1000}},
	}}
	for addr, want := range map[uint64]int{0: -1, 0xfff: -1, 0x1000: 0, 0x1fff: 0, 0x2000: 1, 0x3fff: 1, 0x4000: -1, ^uint64(0): 2, ^uint64(0xfff): 2} {
		if got := q.at(addr); got != want {
			t.Errorf("%#x is in %d, not %d", addr, got, want)
		}
	}
	if n, err := q.ReadMemory(context.Background(), make([]byte, 8), 0x4000); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// TestGuesserAdd holds add against pages: what was there first stays.
func TestGuesserAdd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &guesser{}
		want := map[uint64]uint64{}
		for i := range rapid.IntRange(1, 12).Draw(t, "mappings") {
			start, size := rapid.Uint64Range(0, 40).Draw(t, "start"), rapid.Uint64Range(1, 12).Draw(t, "size")
			s.add(vm.Mapping{Range: vm.Range{Start: start, Size: size}, Inode: uint64(i + 1)})
			for a := start; a < start+size; a++ {
				if want[a] == 0 {
					want[a] = uint64(i + 1)
				}
			}
		}
		pages := 0
		for i, m := range s.rows {
			if i > 0 && s.rows[i-1].Last() >= m.Start {
				t.Fatalf("%v and %v", s.rows[i-1].Range, m.Range)
			}
			for a := m.Start; a <= m.Last(); a++ {
				if pages++; want[a] != m.Inode {
					t.Fatalf("%d is of %d, not %d", a, m.Inode, want[a])
				}
			}
		}
		if pages != len(want) {
			t.Fatalf("%d, not %d", pages, len(want))
		}
	})
}

// BenchmarkWish reads the map of a dynamic program with two threads anew
// each time, connection and GDB being there.
func BenchmarkWish(b *testing.B) {
	programs := &guestPrograms{dir: b.TempDir()}
	m := machineOf("aarch64")
	p := programs.c(b, m, guestKinds[1].flags...)
	for _, v := range []struct {
		wish Wish
		qemu func() string
	}{
		{Host, func() string { return "qemu-" + m.arch }},
		{Stub, func() string { return newQEMU(b, m) }},
		{Guess, func() string { return "qemu-" + m.arch }},
	} {
		b.Run(string(v.wish), func(b *testing.B) {
			d := runGuest(b, v.qemu(), m, nil, p, "thread").attach(b, p, "ready")
			b.ResetTimer()
			for b.Loop() {
				d.source = nil
				d.mapFrom(b, v.wish)
			}
		})
	}
}
