package pt

import (
	"encoding/binary"
	"testing"
)

// echo is memory that repeats data for ever.
type echo struct{ data []byte }

func (m echo) ReadPhys(p []byte, pa uint64) error {
	n := uint64(len(m.data))
	for i := range p {
		p[i] = m.data[(pa+uint64(i))%n]
	}
	return nil
}

// check walks data as tables: whatever they are, the walk ends within its
// bounds, and what it lists is what single translations say.
func check(t *testing.T, mmu MMU, data []byte, va uint64, pte bool) {
	if len(data) == 0 {
		data = []byte{0}
	}
	m := echo{data}
	opt := Options{PTE: pte, maxRows: 300, maxWork: 1 << 18, First: va &^ bitRange(40, 0)}
	if opt.First&1<<41 != 0 {
		opt.First = 0
	}
	if p, err := Translate(m, mmu, va); err == nil && (p.Why == "" || p.End.String() == "") {
		t.Fatalf("%+v: a path without a reason: %+v", mmu, p)
	}
	if _, err := mmu.regime(); err != nil {
		return
	}
	res := walk(t, m, mmu, opt)
	for i, r := range res.Rows {
		if i > 20 && i < len(res.Rows)-20 {
			continue
		}
		for _, off := range []uint64{0, r.Size - 1} {
			p, err := Translate(m, mmu, r.Start+off)
			if err != nil || p.End != Mapped || p.Access != r.Access ||
				(pte || off == 0) && p.Phys != r.Phys+off || pte && (p.PageSize != r.PageSize() || p.Flags != r.Flags) {
				t.Fatalf("%+v: row %+v, but at %#x %+v %v", mmu, r, off, p, err)
			}
		}
		if r.Start > opt.First {
			if l, ok := find(res.Rows, r.Start-1); !ok {
				if p, err := Translate(m, mmu, r.Start-1); err != nil || p.End == Mapped && p.VA == r.Start-1 {
					t.Fatalf("%+v: %#x is mapped, but in no row: %+v %v", mmu, r.Start-1, p, err)
				}
			} else if l.Start+l.Size != r.Start {
				t.Fatalf("row %+v overlaps %+v", l, r)
			}
		}
	}
	if p, err := Translate(m, mmu, va); err == nil && p.VA >= opt.First && (res.Cut == nil || p.VA < res.Cut.VA) {
		if _, ok := find(res.Rows, p.VA); ok != (p.End == Mapped) {
			t.Fatalf("%+v: %#x in a row: %v, but %+v", mmu, p.VA, ok, p)
		}
	}
}

// seed is memory with a word at each of its pages' beginnings.
func seed(words ...uint64) []byte {
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

func FuzzX86(f *testing.F) {
	f.Add(uint64(0x80050033), uint64(0x1000), uint64(0x20), uint64(0xd00), seed(0x67), uint64(0), true)
	f.Add(uint64(0x80050033), uint64(0x1000), uint64(0x1020), uint64(0xd00), seed(0x1067, 0x8000000000002067, 0xe7, 0), uint64(1)<<63, false)
	f.Add(uint64(0x80050033), uint64(0x1020), uint64(0x20), uint64(0x800), seed(0x1067, 0, 0x25), uint64(0xc0000000), true)
	f.Add(uint64(0x80050033), uint64(0), uint64(0x10), uint64(0), seed(0xe7000000e7, 0x1067), uint64(5), false)
	f.Add(uint64(0x80050033), uint64(0), uint64(0), uint64(0), seed(^uint64(0)), uint64(5), true)
	f.Fuzz(func(t *testing.T, cr0, cr3, cr4, efer uint64, data []byte, va uint64, pte bool) {
		check(t, X86{CR0: cr0, CR3: cr3, CR4: cr4, EFER: efer}, data, va, pte)
	})
}

func FuzzARM64(f *testing.F) {
	tcr := uint64(16 | 16<<16 | 2<<30 | 5<<32)
	f.Add(uint64(0x1000), uint64(0x2000), tcr, uint64(1), 0, seed(0x703), uint64(0), true)
	f.Add(uint64(0x1000), uint64(0x2000), tcr|1<<59|3<<37, uint64(1|1<<19), 52, seed(0x2003, 0x60000000000743, 0x701, 0), ^uint64(0), false)
	f.Add(uint64(0x4000), uint64(0x4000), uint64(20|25<<16|2<<14|1<<30|5<<32), uint64(1), 48, seed(0x4003, 0x743), ^uint64(5), true)
	f.Add(uint64(0x10000), uint64(0), uint64(12|1<<14|1<<23|6<<32), uint64(1|1<<25), 0, seed(^uint64(0)), uint64(77), true)
	f.Fuzz(func(t *testing.T, ttbr0, ttbr1, tcr, sctlr uint64, phys int, data []byte, va uint64, pte bool) {
		check(t, ARM64{TTBR0: ttbr0, TTBR1: ttbr1, TCR: tcr, SCTLR: sctlr, PhysBits: phys}, data, va, pte)
	})
}

func FuzzARM32(f *testing.F) {
	f.Add(uint64(0x4000), uint64(0x8000), uint32(0), uint32(1|1<<23), uint32(0x55555555), false, seed(0x40100c02), uint64(0), true)
	f.Add(uint64(0x4000), uint64(0x8000), uint32(1), uint32(1|1<<23|1<<29), uint32(0), true, seed(0x3300000401, 0x40c06), uint64(0xc0000000), true)
	f.Add(uint64(0x4000), uint64(0x8000), uint32(7), uint32(1|1<<19|1<<20|1<<23|1<<25), uint32(0), true, seed(^uint64(0)), uint64(5), false)
	f.Add(uint64(0x1000), uint64(0x2000), uint32(1<<31|1|2<<16), uint32(1), uint32(0), false, seed(0x1003, 0x703, 0x701), uint64(1<<31), true)
	f.Fuzz(func(t *testing.T, ttbr0, ttbr1 uint64, ttbcr, sctlr, dacr uint32, pxn bool, data []byte, va uint64, pte bool) {
		check(t, ARM32{TTBR0: ttbr0, TTBR1: ttbr1, TTBCR: ttbcr, SCTLR: sctlr, DACR: dacr, PXN: pxn}, data, va, pte)
	})
}

func FuzzRISCV(f *testing.F) {
	f.Add(uint64(8<<60|1), false, false, seed(0x401, 0xcf, 0, 0x80000000000020cf), uint64(0), true)
	f.Add(uint64(10<<60|1), false, true, seed(1, 0x21, 0xd7), ^uint64(0), false)
	f.Add(uint64(1<<31|1), true, false, seed(0xcf00000001, 0x21), uint64(0xffffffff), true)
	f.Fuzz(func(t *testing.T, satp uint64, narrow, noPBMT bool, data []byte, va uint64, pte bool) {
		mmu := RISCV{SATP: satp, XLEN: 64, NoSvpbmt: noPBMT}
		if narrow {
			mmu.XLEN = 32
		}
		check(t, mmu, data, va, pte)
	})
}
