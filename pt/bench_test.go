package pt

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
)

// linear is RAM that holds x86-64 tables which map size bytes, a multiple of
// 1 GiB and at most 256 TiB, in pages of 4 KiB from address 0 on; leaf says
// what the entry for page n holds.
func linear(size uint64, leaf func(n uint64) uint64) (X86, *ram) {
	const base = 1 << 30
	pts, pds := size>>21, size>>30
	pdpts := (pds + 511) / 512
	m := newRAM(base, int(1+pdpts+pds+pts)*4096)
	next := uint64(base + 4096)
	fill := func(at, n uint64, entry func(i uint64) uint64) uint64 {
		b := m.data[at-base:]
		for i := range n {
			binary.LittleEndian.PutUint64(b[i*8:], entry(i))
		}
		return next
	}
	pdpt := next
	pd := pdpt + pdpts*4096
	pt := pd + pds*4096
	fill(base, pdpts, func(i uint64) uint64 { return pdpt + i*4096 | 0x67 })
	fill(pdpt, pds, func(i uint64) uint64 { return pd + i*4096 | 0x67 })
	fill(pd, pts, func(i uint64) uint64 { return pt + i*4096 | 0x67 })
	fill(pt, pts*512, leaf)
	return X86{CR0: 0x80050033, CR3: base, CR4: 0x20, EFER: 0xd00}, m
}

// BenchmarkWalkLinear walks tables of 4 KiB pages. 1 TiB of them takes 2 GiB of
// memory.
func BenchmarkWalkLinear(b *testing.B) {
	scattered := func(n uint64) uint64 { return n*0x9e3779b97f4a7c15>>20<<12&bitRange(45, 12) | 0x67 }
	contiguous := func(n uint64) uint64 { return n<<12 | 0x67 }
	striped := func(n uint64) uint64 { return n<<12 | 0x65 | n>>3&1<<1 } // 32 KiB writable, 32 KiB not
	for _, bb := range []struct {
		name string
		size uint64
		leaf func(uint64) uint64
		pte  bool
	}{
		{"16GiB/contiguous", 16 << 30, contiguous, false},
		{"16GiB/contiguous/pte", 16 << 30, contiguous, true},
		{"16GiB/scattered", 16 << 30, scattered, false},
		{"16GiB/striped", 16 << 30, striped, false},
		{"1GiB/scattered/pte", 1 << 30, scattered, true}, // a row for each page
		{"1TiB/scattered", 1 << 40, scattered, false},
		{"1TiB/contiguous/pte", 1 << 40, contiguous, true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			if testing.Short() && bb.size > 1<<36 {
				b.Skip("takes 2 GiB of memory")
			}
			mmu, mem := linear(bb.size, bb.leaf)
			b.ReportAllocs()
			rows := 0
			for b.Loop() {
				res, err := Walk(context.Background(), mem, mmu, Options{PTE: bb.pte})
				if err != nil || res.Cut != nil {
					b.Fatal(err, res.Cut)
				}
				rows = len(res.Rows)
			}
			b.ReportMetric(float64(bb.size>>12)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mentries/s")
			b.ReportMetric(float64(rows), "rows")
		})
	}
}

// guest is RAM with tables of the shape that a small x86-64 Linux guest has:
// about 128 tables and 10,000 leaves, most of them in kernel areas of their own
// permissions.
func guest() (X86, *ram) {
	const base = 1 << 20
	m := newRAM(base, 200*4096)
	next := uint64(base + 4096)
	newTable := func() uint64 {
		next += 4096
		return next - 4096
	}
	tables := map[string]uint64{}
	walk := func(va uint64, level int) uint64 { // the table of level that serves va
		at := uint64(base)
		for l := 3; l > level; l-- {
			i := int(va >> (12 + 9*l) & 511)
			key := fmt.Sprint(l, va>>(12+9*l))
			if tables[key] == 0 {
				tables[key] = newTable()
				m.put(at, i, tables[key]|0x67)
			}
			at = tables[key]
		}
		return at
	}
	page := func(va, e uint64, level int) {
		m.put(walk(va, level), int(va>>(12+9*level)&511), e)
	}
	for i := range uint64(256) { // the direct map
		page(0xffff888000000000+i<<21, i<<21|0x80000000000001e3, 1)
	}
	for area := range uint64(18) { // vmalloc and such: stretches with holes
		for i := range uint64(512) {
			if i%64 < 62 {
				page(0xffffc90000000000+area<<30+i<<12, i<<12|0x8000000000000163&^(i>>7&1<<1), 0)
			}
		}
	}
	for i := range uint64(30) { // processes
		for k := range uint64(40) {
			page(0x550000000000+i<<32+k<<12, i<<24|k<<16|0x8000000000000067&^(k>>3&1<<1), 0)
		}
	}
	return X86{CR0: 0x80050033, CR3: base, CR4: 0x3006f0 &^ 0x1000, EFER: 0xd01}, m
}

func BenchmarkWalkGuest(b *testing.B) {
	mmu, m := guest()
	for _, pte := range []bool{false, true} {
		b.Run(fmt.Sprintf("pte=%v", pte), func(b *testing.B) {
			var res *Result
			for b.Loop() {
				var err error
				if res, err = Walk(context.Background(), m, mmu, Options{PTE: pte}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(res.tables), "tables")
			b.ReportMetric(float64(len(res.Rows)), "rows")
		})
	}
}

func BenchmarkTranslate(b *testing.B) {
	mmu, m := guest()
	for b.Loop() {
		if p, err := Translate(m, mmu, 0xffffc90000001234); err != nil || p.End != Mapped {
			b.Fatal(err, p)
		}
	}
}

// hostile makes up tables without end that map nothing: the entries of a
// table of the last level are absent and reserved by turns, those of others
// lead to a table of their own each. The bits from 44 on say how many levels
// are above a table.
type hostile struct{}

func (hostile) ReadPhys(p []byte, pa uint64) error {
	depth := pa >> 44
	for i := 0; i+8 <= len(p); i += 8 {
		at := pa + uint64(i)
		e := mix(at)&bitRange(43, 12) | (depth+1)<<44 | 0x67
		if depth == 3 {
			e = at >> 3 & 1 * (1<<63 | 1)
		}
		binary.LittleEndian.PutUint64(p[i:], e)
	}
	return nil
}

// BenchmarkWalkHostile shows what the default bounds mean in time.
func BenchmarkWalkHostile(b *testing.B) {
	if testing.Short() {
		b.Skip("takes seconds")
	}
	mmu := long(0x1000)
	mmu.EFER &^= eferNXE // so that NX is reserved
	for b.Loop() {
		res, err := Walk(context.Background(), hostile{}, mmu, Options{})
		if err != nil || res.Cut == nil || len(res.Rows) != 0 {
			b.Fatal(err)
		}
		b.ReportMetric(float64(res.tables), "tables")
	}
}
