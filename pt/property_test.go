package pt

import (
	"context"
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// shape is what the generator of random tables has to know.
type shape struct {
	width  int // bytes of an entry
	page   int // bytes of a table
	pages  int // how many tables
	base   uint64
	tables []uint64 // typical entries that lead to a table, without the address
	leaves []uint64 // typical entries that map a page
	noise  []uint64 // bits that may come on top
	encode func(pa uint64) uint64
	steps  []uint64 // what the address of a leaf run goes up by
}

// random fills RAM with tables that lead to each other, to leaves, to nowhere.
func (s shape) random(seed uint64) *ram {
	rng := rand.New(rand.NewPCG(seed, 1))
	m := newRAM(s.base, s.pages*s.page)
	n := s.page / s.width
	store := func(page, i int, e uint64) {
		off := page*s.page + i*s.width
		if s.width == 4 {
			binary.LittleEndian.PutUint32(m.data[off:], uint32(e))
		} else {
			binary.LittleEndian.PutUint64(m.data[off:], e)
		}
	}
	form := func() uint64 {
		e := s.tables[rng.IntN(len(s.tables))]
		for rng.IntN(4) == 0 {
			e |= s.noise[rng.IntN(len(s.noise))]
		}
		return e
	}
	for page := range s.pages {
		for range 4 + rng.IntN(30) {
			at := rng.IntN(n)
			switch rng.IntN(4) { // roots may be small, and halves have borders
			case 0, 1:
				at = rng.IntN(4)
			case 2:
				at = (n + []int{-4, n/2 - 2}[rng.IntN(2)] + rng.IntN(4)) % n
			}
			switch rng.IntN(10) {
			case 0, 1, 2, 8, 9: // one entry to a table
				store(page, at, form()|s.encode(s.base+uint64(rng.IntN(s.pages)*s.page)))
			case 3, 4, 5: // a run of leaves, now and then with a gap in the addresses
				e := s.leaves[rng.IntN(len(s.leaves))]
				if rng.IntN(4) == 0 {
					e |= s.noise[rng.IntN(len(s.noise))]
				}
				pa := rng.Uint64() >> rng.IntN(64)
				step := s.steps[rng.IntN(len(s.steps))]
				pa &^= step - 1
				for i := range rng.IntN([]int{3, 3, n / 4}[rng.IntN(3)]) {
					if at+i < n {
						odd := uint64(0) // an entry that differs in one bit
						if rng.IntN(20) == 0 {
							odd = s.noise[rng.IntN(len(s.noise))]
						}
						store(page, at+i, (e|s.encode(pa))^odd)
					}
					if rng.IntN(100) != 0 {
						pa += step
					}
				}
			case 6: // the same entry over and over
				e := form() | s.encode(s.base+uint64(rng.IntN(s.pages)*s.page))
				for i := range rng.IntN(20) {
					if at+i < n {
						store(page, at+i, e)
					}
				}
			case 7: // rubbish
				e := rng.Uint64()
				for i := range 1 + rng.IntN(4) {
					if at+i < n {
						store(page, at+i, e)
					}
				}
			}
		}
	}
	return m
}

func single(hi, lo int) []uint64 {
	var list []uint64
	for n := lo; n <= hi; n++ {
		list = append(list, 1<<n)
	}
	return list
}

func x86Shape() shape {
	return shape{width: 8, page: 4096, pages: 10, base: 0x10000,
		tables: []uint64{0x7, 0x67, 0x67, 0x63, 0x5, 1<<63 | 0x67},
		leaves: []uint64{0x67, 0x63, 0x163, 0x25, 0xe3, 0xe7, 0x1e3, 1<<63 | 0x63, 1<<63 | 0xe7},
		noise:  append(single(12, 1), 1<<63, 1<<62, 1<<59, 1<<52, 1<<51, 1<<40, 1<<13),
		encode: func(pa uint64) uint64 { return pa & bitRange(51, 12) },
		steps:  []uint64{1 << 12, 1 << 12, 1 << 21, 1 << 30}}
}

func x86LegacyShape() shape {
	s := x86Shape()
	s.width, s.steps = 4, []uint64{1 << 12, 1 << 22}
	s.encode = func(pa uint64) uint64 { return pa & bitRange(31, 12) }
	s.noise = single(21, 1)
	return s
}

func rvShape() shape {
	return shape{width: 8, page: 4096, pages: 10, base: 0x10000,
		tables: []uint64{0x1, 0x1, 0x1, 0x21},
		leaves: []uint64{0xcf, 0xc7, 0xd7, 0xdb, 0x5f, 0x53, 1<<63 | 0x20cf, 1<<63 | 0x20d7, 1<<61 | 0xc7},
		noise:  append(single(9, 1), 1<<63, 1<<62, 1<<61, 1<<54, 1<<53, 1<<13),
		encode: func(pa uint64) uint64 { return pa >> 2 & bitRange(53, 10) },
		steps:  []uint64{1 << 12, 1 << 12, 1 << 16, 1 << 21, 1 << 30}}
}

func rv32Shape() shape {
	s := rvShape()
	s.width, s.steps, s.noise = 4, []uint64{1 << 12, 1 << 22}, single(14, 1)
	s.encode = func(pa uint64) uint64 { return pa >> 2 & bitRange(31, 10) }
	return s
}

func armShape(grain int) shape {
	return shape{width: 8, page: 1 << grain, pages: 8, base: 0x10000,
		tables: []uint64{0x3, 0x3, 0x3, 1<<60 | 3, 1<<61 | 3, 1<<59 | 3},
		leaves: []uint64{0x403, 0x403, 0x401, 0x401, 0x443, 0x4c3, 3<<53 | 0x401, 3<<53 | 0x443, 1<<51 | 0x483, 0x441},
		noise:  append(append(single(11, 1), single(15, 12)...), append(single(63, 47), 1<<40, 1<<36)...),
		encode: func(pa uint64) uint64 { return pa & bitRange(47, grain) },
		steps:  []uint64{1 << grain, 1 << grain, 1 << (grain + grain - 3), 1 << 30}}
}

// armShortShape has tables of 16 KiB, so that roots and pieces of them do as
// those of 1 KiB.
func armShortShape() shape {
	return shape{width: 4, page: 1 << 14, pages: 8, base: 0x10000,
		tables: []uint64{0x1, 0x1, 0x21, 0x5, 0x9},
		leaves: []uint64{0x402, 0xc02, 0x8c12, 0x30c0e, 0x12, 0x13, 0x32, 0x35, 0x233, 0x40c02, 0x40c06},
		noise:  append(single(19, 1), 1<<20, 1<<23),
		encode: func(pa uint64) uint64 { return pa & bitRange(31, 10) },
		steps:  []uint64{1 << 12, 1 << 12, 1 << 20, 1 << 20, 1 << 16}}
}

func armLongShape() shape {
	s := armShape(12)
	s.encode = func(pa uint64) uint64 { return pa & bitRange(39, 12) }
	return s
}

// drawARM32 has short descriptors, or long ones.
func drawARM32(t *rapid.T, long bool, s shape) ARM32 {
	root := func() uint64 {
		return s.base + uint64(rapid.IntRange(0, s.pages-1).Draw(t, "root")*s.page) | 1
	}
	c := ARM32{TTBR0: root(), TTBR1: root(), SCTLR: 1 | 1<<23, DACR: rapid.Uint32().Draw(t, "dacr"), PXN: rapid.Bool().Draw(t, "pxn")}
	for _, n := range []int{19, 20, 29} {
		if rapid.IntRange(0, 2).Draw(t, "sctlr") == 0 {
			c.SCTLR |= 1 << n
		}
	}
	size := func() uint32 { return uint32(rapid.SampledFrom([]int{0, 0, 1, 2, 3, 7}).Draw(t, "size")) }
	off := []int{4, 5}
	c.TTBCR = size()
	if long {
		c.TTBCR |= 1<<31 | size()<<16
		c.TTBR0 |= 0x42 << 48
		off = []int{7, 23}
	}
	for _, n := range off {
		if rapid.IntRange(0, 7).Draw(t, "off") == 0 {
			c.TTBCR |= 1 << n
		}
	}
	return c
}

// drawX86 is a set-up of 32-bit paging, of PAE, or of long mode.
func drawX86(t *rapid.T, legacy, pae bool, s shape) X86 {
	root := s.base + uint64(rapid.IntRange(0, s.pages-1).Draw(t, "root")*s.page)
	c := X86{CR0: 0x80050033, CR3: root | uint64(rapid.IntRange(0, 31).Draw(t, "pcid"))}
	if rapid.Bool().Draw(t, "nxe") {
		c.EFER |= 1 << 11
	}
	for _, n := range []int{4, 22, 24} {
		if rapid.Bool().Draw(t, "cr4") {
			c.CR4 |= 1 << n
		}
	}
	switch {
	case legacy:
	case pae:
		c.CR4 |= 1 << 5
	default:
		c.CR4 |= 1 << 5
		c.EFER |= 1 << 10
		c.CR3 |= uint64(rapid.IntRange(0, 4095).Draw(t, "pcid")) | 1<<63
		if rapid.Bool().Draw(t, "la57") {
			c.CR4 |= 1 << 12
		}
	}
	return c
}

func drawRISCV(t *rapid.T, xlen int, s shape) RISCV {
	root := s.base + uint64(rapid.IntRange(0, s.pages-1).Draw(t, "root")*s.page)
	c := RISCV{XLEN: xlen, SATP: 1<<31 | 5<<22 | root>>12}
	if xlen == 64 {
		mode := rapid.Uint64Range(8, 10).Draw(t, "mode")
		c.SATP = mode<<60 | 77<<44 | root>>12
	}
	c.NoSvpbmt = rapid.Bool().Draw(t, "nosvpbmt")
	return c
}

// drawARM64 has sizes of 1 << (64-tsz) bytes of addresses in both halves when
// tsz is not 0.
func drawARM64(t *rapid.T, grain, tsz int, s shape) ARM64 {
	root := func() uint64 {
		return s.base + uint64(rapid.IntRange(0, s.pages-1).Draw(t, "root")*s.page) | 0x42<<48 | 1
	}
	c := ARM64{TTBR0: root(), TTBR1: root(), SCTLR: 1,
		PhysBits: rapid.SampledFrom([]int{0, 0, 40, 48, 52}).Draw(t, "parange")}
	size := func() uint64 {
		if tsz != 0 {
			return uint64(tsz)
		}
		return uint64(rapid.IntRange(10, 50).Draw(t, "tsz"))
	}
	c.TCR = size() | size()<<16 | map[int]uint64{12: 2<<30 | 0<<14, 14: 1<<30 | 2<<14, 16: 3<<30 | 1<<14}[grain]
	c.TCR |= rapid.SampledFrom([]uint64{0, 2, 5, 6, 6, 6}).Draw(t, "ips") << 32
	for _, n := range []int{7, 23, 37, 38, 39, 40, 41, 42, 55, 56, 59} {
		p := 2
		if n == 7 || n == 23 || n == 55 || n == 56 {
			p = 8
		}
		if rapid.IntRange(1, p).Draw(t, "tcr") == 1 {
			c.TCR |= 1 << n
		}
	}
	if rapid.Bool().Draw(t, "wxn") {
		c.SCTLR |= 1 << 19
	}
	return c
}

// tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func walk(t tester, m Phys, mmu MMU, opt Options) *Result {
	t.Helper()
	res, err := Walk(context.Background(), m, mmu, opt)
	if err != nil {
		t.Fatalf("Walk(%+v): %v", mmu, err)
	}
	checkForm(t, mmu, res, opt)
	return res
}

// isBorder reports whether an address is where another root table takes over, which
// may be within a page.
func isBorder(mmu MMU, va uint64) bool {
	c, ok := mmu.(ARM32)
	t0, t1 := c.TTBCR&7, c.TTBCR>>16&7
	return ok && c.TTBCR>>31 == 1 && (t0 > 0 && va == 1<<(32-t0) || t1 > 0 && va == 1<<32-1<<(32-t1))
}

// checkForm checks what holds for rows whatever the tables say.
func checkForm(t tester, mmu MMU, res *Result, opt Options) {
	t.Helper()
	limit := opt.maxRows
	if limit == 0 {
		limit = defaultMaxRows
	}
	if len(res.Rows) > limit {
		t.Fatalf("%d rows, though %d are the limit", len(res.Rows), limit)
	}
	for i, r := range res.Rows {
		if r.Size == 0 || r.Start+(r.Size-1) < r.Start {
			t.Fatalf("row %d, %+v, is empty or wraps", i, r)
		}
		if r.Access == 0 {
			t.Fatalf("row %d, %+v, has no access at all", i, r)
		}
		page := uint64(1) << r.PageShift
		whole := func(va uint64) bool { return va%page == 0 || isBorder(mmu, va) }
		if opt.PTE && (r.PageShift == 0 || !whole(r.Start) || !whole(r.Start+r.Size) || (r.Phys-r.Start)%page != 0) {
			t.Fatalf("row %d, %+v, is not made of pages", i, r)
		}
		if i == 0 {
			continue
		}
		l := res.Rows[i-1]
		if l.Start+(l.Size-1) >= r.Start {
			t.Fatalf("rows %d and %d overlap or are out of order: %+v %+v", i-1, i, l, r)
		}
		if l.Start+l.Size == r.Start && l.Access == r.Access &&
			(!opt.PTE || l.Phys+l.Size == r.Phys && l.PageShift == r.PageShift && l.Flags == r.Flags) {
			t.Fatalf("rows %d and %d should be one: %+v %+v", i-1, i, l, r)
		}
	}
	if res.Cut != nil && len(res.Rows) > 0 {
		if l := res.Rows[len(res.Rows)-1]; l.Start+(l.Size-1) >= res.Cut.VA {
			t.Fatalf("cut at %#x, but the last row is %+v", res.Cut.VA, l)
		}
	}
}

// contains reports whether the byte at va is in the row.
func contains(r Row, va uint64) bool { return va-r.Start < r.Size }

// find is the row that holds va.
func find(rows []Row, va uint64) (Row, bool) {
	i := sort.Search(len(rows), func(i int) bool { return rows[i].Start+(rows[i].Size-1) >= va })
	if i < len(rows) && contains(rows[i], va) {
		return rows[i], true
	}
	return Row{}, false
}

// checkSamples compares rows with the oracle at the borders of rows, within
// them, and at random addresses.
func checkSamples(t *rapid.T, m *ram, mmu MMU, opt Options, res *Result, rng *rand.Rand) {
	t.Helper()
	var vas []uint64
	rows := res.Rows
	if len(rows) > 300 {
		rows = rows[rng.IntN(len(rows)-300):][:300]
	}
	for _, r := range rows {
		vas = append(vas, r.Start, r.Start-1, r.Start+r.Size, r.Start+(r.Size-1), r.Start+rng.Uint64N(r.Size))
	}
	for range 300 {
		// Sign-extended, of any width, with few bits set now and then.
		va := rng.Uint64() & rng.Uint64()
		vas = append(vas, uint64(int64(va)>>rng.IntN(40)))
	}
	for _, va := range vas {
		if va < opt.First || opt.Last != 0 && va > opt.Last || res.Cut != nil && va >= res.Cut.VA {
			continue
		}
		want := oracle(mmu, m, va)
		path, err := Translate(m, mmu, va)
		if err != nil {
			t.Fatal(err)
		}
		if path.Why == "" {
			t.Fatalf("the path of %#x does not say why it ends", va)
		}
		got := tr{ok: path.End == Mapped, pa: path.Phys, access: path.Access, flags: path.Flags}
		if got.ok {
			got.shift = uint8(bits.TrailingZeros64(path.PageSize))
		}
		if got != want {
			t.Fatalf("%+v\nTranslate %#x: got %+v, want %+v (%s)", mmu, va, got, want, path.Why)
		}
		if path.VA != va {
			continue // a tagged address: rows know none
		}
		r, ok := find(res.Rows, va)
		if ok != want.ok {
			t.Fatalf("%+v\n%#x: in a row: %v, mapped: %v (%s)", mmu, va, ok, want.ok, path.Why)
		}
		if !ok {
			continue
		}
		bad := r.Access != want.access || r.PageShift != want.shift && (opt.PTE || r.PageShift != 0)
		if opt.PTE {
			bad = bad || r.Flags != want.flags || r.Phys+(va-r.Start) != want.pa
		} else if va == r.Start {
			bad = bad || r.Phys != want.pa
		}
		if bad {
			t.Fatalf("%+v\n%#x: row %+v, want %+v", mmu, va, r, want)
		}
	}
}

// TestRandomTables compares walks of random tables with the oracles.
func TestRandomTables(t *testing.T) {
	tests := []struct {
		name  string
		shape shape
		mmu   func(*rapid.T, shape) MMU
	}{
		{"x86-64", x86Shape(), func(t *rapid.T, s shape) MMU { return drawX86(t, false, false, s) }},
		{"PAE", x86Shape(), func(t *rapid.T, s shape) MMU { return drawX86(t, false, true, s) }},
		{"32-bit", x86LegacyShape(), func(t *rapid.T, s shape) MMU { return drawX86(t, true, false, s) }},
		{"RV64", rvShape(), func(t *rapid.T, s shape) MMU { return drawRISCV(t, 64, s) }},
		{"RV32", rv32Shape(), func(t *rapid.T, s shape) MMU { return drawRISCV(t, 32, s) }},
		{"arm64 4K", armShape(12), func(t *rapid.T, s shape) MMU { return drawARM64(t, 12, 0, s) }},
		{"arm64 16K", armShape(14), func(t *rapid.T, s shape) MMU { return drawARM64(t, 14, 0, s) }},
		{"arm64 64K", armShape(16), func(t *rapid.T, s shape) MMU { return drawARM64(t, 16, 0, s) }},
		{"arm short", armShortShape(), func(t *rapid.T, s shape) MMU { return drawARM32(t, false, s) }},
		{"arm long", armLongShape(), func(t *rapid.T, s shape) MMU { return drawARM32(t, true, s) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rows := 0
			defer func() {
				t.Logf("%d rows compared", rows)
				if rows < 100 {
					t.Error("too few rows: the generator makes nothing of interest")
				}
			}()
			rapid.Check(t, func(t *rapid.T) {
				seed := rapid.Uint64().Draw(t, "seed")
				m := tt.shape.random(seed)
				mmu := tt.mmu(t, tt.shape)
				opt := Options{PTE: rapid.Bool().Draw(t, "pte"), maxRows: rapid.IntRange(1, 3000).Draw(t, "rows")}
				rng := rand.New(rand.NewPCG(seed, 2))
				res := walk(t, m, mmu, opt)
				checkSamples(t, m, mmu, opt, res, rng)
				rows += len(res.Rows)
				if len(res.Rows) > 0 { // a window
					r := res.Rows[rng.IntN(len(res.Rows))]
					opt.First, opt.Last = r.Start+rng.Uint64N(r.Size), r.Start+(r.Size-1)
					res := walk(t, m, mmu, opt)
					checkSamples(t, m, mmu, opt, res, rng)
				}
			})
		})
	}
}

// TestRandomTablesWhole compares all rows of whole small address spaces.
func TestRandomTablesWhole(t *testing.T) {
	tests := []struct {
		name  string
		shape shape
		shift uint8
		width int
		mmu   func(*rapid.T, shape) MMU
	}{
		{"PAE", x86Shape(), 12, 32, func(t *rapid.T, s shape) MMU { return drawX86(t, false, true, s) }},
		{"32-bit", x86LegacyShape(), 12, 32, func(t *rapid.T, s shape) MMU { return drawX86(t, true, false, s) }},
		{"RV32", rv32Shape(), 12, 32, func(t *rapid.T, s shape) MMU { return drawRISCV(t, 32, s) }},
		{"arm64 4K", armShape(12), 12, 31, func(t *rapid.T, s shape) MMU { return drawARM64(t, 12, 33, s) }},
		{"arm64 16K", armShape(14), 14, 31, func(t *rapid.T, s shape) MMU { return drawARM64(t, 14, 33, s) }},
		{"arm64 64K", armShape(16), 16, 33, func(t *rapid.T, s shape) MMU { return drawARM64(t, 16, 31, s) }},
		{"arm short", armShortShape(), 12, 32, func(t *rapid.T, s shape) MMU { return drawARM32(t, false, s) }},
		{"arm long", armLongShape(), 12, 32, func(t *rapid.T, s shape) MMU { return drawARM32(t, true, s) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rows := 0
			type input struct {
				m   *ram
				mmu MMU
				pte bool
			}
			inputs := rapid.Custom(func(t *rapid.T) input {
				return input{tt.shape.random(rapid.Uint64().Draw(t, "seed")), tt.mmu(t, tt.shape), rapid.Bool().Draw(t, "pte")}
			})
			n := 1 << (tt.width - int(tt.shift))
			for i := range 8 {
				in := inputs.Example(i)
				res := walk(t, in.m, in.mmu, Options{PTE: in.pte})
				want := enumerate(in.mmu, in.m, in.pte, 0, n, tt.shift)
				if _, ok := in.mmu.(ARM64); ok {
					want = append(want, enumerate(in.mmu, in.m, in.pte, -(uint64(1)<<tt.width), n, tt.shift)...)
				}
				rows += len(want)
				if !slices.Equal(res.Rows, want) {
					t.Fatalf("%d: %+v\n%s", i, in.mmu, cmp.Diff(want, res.Rows))
				}
			}
			if rows < 100 {
				t.Errorf("only %d rows: the generator makes nothing of interest", rows)
			}
		})
	}
}
