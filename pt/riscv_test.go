package pt

import (
	"slices"
	"strings"
	"testing"
)

const (
	pteV = 1 << iota
	pteR
	pteW
	pteX
	pteU
	pteG
	pteA
	pteD
)

// rv is an entry of RV64 or RV32.
func rv(pa, bits uint64) uint64 { return pa>>2 | bits }

func TestRISCVModes(t *testing.T) {
	const base = 0x80000000
	for mode, levels := range map[uint64]int{8: 3, 9: 4, 10: 5} {
		m := newRAM(base, 8*4096)
		for l := range levels - 1 {
			m.put(base+uint64(l)<<12, 0, rv(base+uint64(l+1)<<12, pteV))
			m.put(base+uint64(l)<<12, 511, rv(base+uint64(l+1)<<12, pteV))
		}
		pt := uint64(base + (levels-1)<<12)
		m.put(pt, 511, rv(0x88000000, pteV|pteR|pteX|pteA))
		mmu := RISCV{SATP: mode<<60 | 0x1234<<44 | base>>12}
		res := walk(t, m, mmu, Options{PTE: true})
		if len(res.Rows) != 1<<(levels-1) {
			t.Errorf("mode %d: %d rows", mode, len(res.Rows))
		}
		first, last := res.Rows[0], res.Rows[len(res.Rows)-1]
		want := Row{Start: 511 << 12, Size: 4096, Phys: 0x88000000, Flags: Accessed, Access: kRX, PageShift: 12}
		if first != want {
			t.Errorf("mode %d: first row %+v, want %+v", mode, first, want)
		}
		want.Start = 1<<64 - 4096
		if last != want {
			t.Errorf("mode %d: last row %+v, want %+v", mode, last, want)
		}
		wantEnd(t, m, mmu, 1<<(12+9*levels-1), OutsideRange, 0, "")
		p := wantEnd(t, m, mmu, ^uint64(0), Mapped, levels, "")
		if p.Phys != 0x88000fff || p.Steps[levels-1].Name != "level 0" || p.Steps[levels-1].Flags != "V R X A" {
			t.Errorf("mode %d: %+v", mode, p)
		}
	}
}

func TestRISCVEntries(t *testing.T) {
	const (
		base  = 0x80000000
		n     = 1 << 63
		valid = pteV | pteR | pteW | pteA | pteD
	)
	m := newRAM(base, 5*4096)
	pd, pt := uint64(base+0x1000), uint64(base+0x2000)
	m.put(base, 0, rv(pd, pteV))
	m.put(base, 1, rv(0x40000000, valid))          // 1 GiB
	m.put(base, 2, rv(0x40200000, valid))          // misaligned
	m.put(base, 3, rv(pd, pteV|pteG))              // everything below is global
	m.put(base, 4, rv(pd, pteV|pteU))              // reserved
	m.put(base, 5, rv(pd, pteV)|1<<61)             // reserved
	m.put(base, 6, rv(0x40000000, valid)|n)        // NAPOT is for the last level
	m.put(base, 7, rv(0x40000000, pteV|pteW|pteA)) // write only
	m.put(pd, 0, rv(pt, pteV))
	m.put(pd, 1, rv(0x200000, valid|pteX|pteU)) // 2 MiB
	for i := range 16 {
		m.put(pt, 16+i, rv(0x90000|8<<12, valid)|n)
	}
	m.put(pt, 40, rv(0x90000|4<<12, valid)|n)      // a NAPOT size that is none
	m.put(pt, 41, rv(0x7000, valid)|1<<61)         // NC
	m.put(pt, 42, rv(0x8000, valid)|1<<62)         // IO
	m.put(pt, 43, rv(0x9000, valid)|3<<61)         // reserved
	m.put(pt, 44, rv(0xa000, valid)|1<<54)         // reserved
	m.put(pt, 45, rv(0xb000, pteV|pteX|pteU))      // user execution only
	m.put(pt, 46, rv(0xc000, pteV))                // a pointer at the last level
	m.put(pt, 47, rv(0xd000, pteR|pteW|pteA|pteD)) // not valid
	mmu := RISCV{SATP: 8<<60 | base>>12}

	ad := Accessed | Dirty
	rows := func(va uint64, g Flags) []Row {
		return []Row{
			{Start: va + 64*kib, Size: 64 * kib, Phys: 0x90000, Flags: ad | NAPOT | g, Access: kRW, PageShift: 12},
			{Start: va + 41<<12, Size: 4096, Phys: 0x7000, Flags: ad | 1<<14 | g, Access: kRW, PageShift: 12},
			{Start: va + 42<<12, Size: 4096, Phys: 0x8000, Flags: ad | 2<<14 | g, Access: kRW, PageShift: 12},
			{Start: va + 45<<12, Size: 4096, Phys: 0xb000, Flags: g, Access: UserExec, PageShift: 12},
			{Start: va + 2*mib, Size: 2 * mib, Phys: 0x200000, Flags: ad | g, Access: kRW | uRWX, PageShift: 21},
		}
	}
	want := rows(0, 0)
	want = append(want, Row{Start: gib, Size: gib, Phys: 0x40000000, Flags: ad, Access: kRW, PageShift: 30})
	want = append(want, rows(3*gib, Global)...)
	res := wantRows(t, m, mmu, Options{PTE: true}, want)
	if n := len(res.Notes); n != 2 || !strings.Contains(res.Notes[1], "Svnapot") {
		t.Errorf("notes %q", res.Notes)
	}

	wantEnd(t, m, mmu, 2*gib, Reserved, 1, "misaligned")
	wantEnd(t, m, mmu, 4*gib, Reserved, 1, "pointer")
	wantEnd(t, m, mmu, 5*gib, Reserved, 1, "pointer")
	wantEnd(t, m, mmu, 6*gib, Reserved, 1, "NAPOT")
	wantEnd(t, m, mmu, 7*gib, Reserved, 1, "not readable")
	wantEnd(t, m, mmu, 40<<12, Reserved, 3, "NAPOT")
	wantEnd(t, m, mmu, 43<<12, Reserved, 3, "PBMT")
	wantEnd(t, m, mmu, 44<<12, Reserved, 3, "must be 0")
	wantEnd(t, m, mmu, 46<<12, Reserved, 3, "last level")
	if p := wantEnd(t, m, mmu, 47<<12, NotPresent, 3, ""); !slices.Equal(p.Notes, res.Notes[:1]) {
		t.Errorf("notes %q", p.Notes)
	}
	if p := wantEnd(t, m, mmu, 0x15678, Mapped, 3, ""); p.Phys != 0x95678 || p.Flags.String() != "A D NAPOT" || !slices.Equal(p.Notes, res.Notes) {
		t.Errorf("NAPOT: %+v", p)
	}

	mmu.NoSvpbmt = true
	wantEnd(t, m, mmu, 41<<12, Reserved, 3, "0x2000000000000000")
}

func TestRISCV32(t *testing.T) {
	const base = 0x80000000
	m := newRAM(base, 2*4096)
	m.put4(base, 0, uint32(rv(base+0x1000, pteV)))
	m.put4(base, 1, uint32(rv(0x3_00400000, pteV|pteR|pteX))) // 34-bit addresses
	m.put4(base, 2, uint32(rv(0x401000, pteV|pteR)))          // misaligned
	m.put4(base, 1023, uint32(rv(base+0x1000, pteV)))
	m.put4(base+0x1000, 1023, uint32(rv(0x3_fffff000, pteV|pteR|pteU|pteG)))
	mmu := RISCV{XLEN: 32, SATP: 1<<31 | 3<<22}.WithRoot(base)
	leaf := Row{Start: 0x3ff000, Size: 4096, Phys: 0x3_fffff000, Flags: Global, Access: kR | uR, PageShift: 12}
	high := leaf
	high.Start = 0xfffff000
	res := wantRows(t, m, mmu, Options{PTE: true}, []Row{
		leaf, {Start: 4 * mib, Size: 4 * mib, Phys: 0x3_00400000, Access: kRX, PageShift: 22}, high})
	if mode := modeOf(mmu); mode != "Sv32" || res.Bits != 32 {
		t.Errorf("mode %q, %d bits", mode, res.Bits)
	}
	wantEnd(t, m, mmu, 8*mib, Reserved, 1, "misaligned")
	wantEnd(t, m, mmu, 1<<32, OutsideRange, 0, "Sv32")
}
