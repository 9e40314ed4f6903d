package pt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// everywhere is memory whose 8-byte words are made up from their addresses. It
// has no end, and counts the tables read.
type everywhere struct {
	word  func(pa uint64) uint64
	reads int
	hook  func()
}

func (m *everywhere) ReadPhys(p []byte, pa uint64) error {
	m.reads++
	if m.hook != nil {
		m.hook()
	}
	var b [8]byte
	for n := 0; n < len(p); pa += 8 - pa&7 {
		binary.LittleEndian.PutUint64(b[:], m.word(pa&^7))
		n += copy(p[n:], b[pa&7:])
	}
	return nil
}

func mix(x uint64) uint64 { // the finalizer of SplitMix64
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// everyMMU is one set-up of each kind, with its root at 0x1000.
func everyMMU() map[string]MMU {
	la57 := long(0x1000)
	la57.CR4 |= 1 << 12
	return map[string]MMU{
		"4 levels":  long(0x1000),
		"5 levels":  la57,
		"PAE":       X86{CR0: 0x80050033, CR3: 0x1000, CR4: 0x20, EFER: 0x800},
		"32-bit":    X86{CR0: 0x80050033, CR3: 0x1000, CR4: 0x10},
		"no PSE":    X86{CR0: 0x80050033, CR3: 0x1000},
		"Sv32":      RISCV{XLEN: 32}.on(1 << 31),
		"Sv39":      RISCV{}.on(8 << 60),
		"Sv57":      RISCV{}.on(10 << 60),
		"arm64 4K":  ARM64{TTBR0: 0x1000, TTBR1: 0x1000, TCR: 16 | 16<<16 | 2<<30 | 5<<32, SCTLR: 1},
		"arm64 16K": ARM64{TTBR0: 0x4000, TTBR1: 0x4000, TCR: 12 | 12<<16 | 2<<14 | 1<<30 | 6<<32 | 1<<59, SCTLR: 1},
		"arm64 64K": ARM64{TTBR0: 0x10000, TTBR1: 0x10000, TCR: 12 | 12<<16 | 1<<14 | 3<<30 | 6<<32, SCTLR: 1},
		"arm short": ARM32{TTBR0: 0x4000, TTBR1: 0x8000, TTBCR: 1, SCTLR: 1 | 1<<23, PXN: true},
		"arm long":  ARM32{TTBR0: 0x1000, TTBR1: 0x1000, TTBCR: 1<<31 | 3, SCTLR: 1},
	}
}

func (c RISCV) on(mode uint64) RISCV {
	c.SATP = mode
	return c.WithRoot(0x1000)
}

// TestHostile walks memory that no kernel ever made. What counts is that the
// walks end, by their bounds if need be, and that what they list is sound.
func TestHostile(t *testing.T) {
	const work = 1 << 19
	memory := map[string]func(pa uint64) uint64{
		"all ones": func(uint64) uint64 { return math.MaxUint64 },
		"zeros":    func(uint64) uint64 { return 0 },
		// Every entry leads to a table whose entries lead to a table ...
		"x86 and arm64 endless": func(pa uint64) uint64 { return mix(pa)&bitRange(35, 16) | 0x67 },
		"riscv endless":         func(pa uint64) uint64 { return mix(pa)&bitRange(45, 14) | 1 },
		// ... or to one of two, which differ.
		"x86 and arm64 pair": func(pa uint64) uint64 { return pa<<9&0x1000 | 0x65 | pa>>3&1<<1 | 0x1000 },
		// All entries lead to the root.
		"x86 and arm64 self": func(uint64) uint64 { return 0x1067 },
		"riscv self":         func(uint64) uint64 { return rv(0x1000, pteV) },
		"random":             mix,
		"random, present":    func(pa uint64) uint64 { return mix(pa) | 3 },
		"random, low":        func(pa uint64) uint64 { return mix(pa)&bitRange(30, 1) | 1 },
		// Present and reserved or absent by turns: nothing to list, all to do.
		"reserved by turns": func(pa uint64) uint64 {
			if pa>>3&1 == 0 {
				return 0
			}
			return mix(pa)&bitRange(35, 16) | 0x67 | 1<<51
		},
	}
	for name, word := range memory {
		for mode, mmu := range everyMMU() {
			for _, pte := range []bool{false, true} {
				m := &everywhere{word: word}
				opt := Options{PTE: pte, maxRows: 10000, maxWork: work}
				res := walk(t, m, mmu, opt)
				if limit := work/512 + 2; m.reads > limit {
					t.Errorf("%s, %s: %d tables read, more than %d", name, mode, m.reads, limit)
				}
				if n := len(res.Rows); n > 0 {
					for _, r := range []Row{res.Rows[0], res.Rows[n/2], res.Rows[n-1]} {
						p, err := Translate(m, mmu, r.Start)
						if err != nil || p.End != Mapped || p.Access != r.Access || p.Phys != r.Phys {
							t.Errorf("%s, %s: row %+v, but %+v %v", name, mode, r, p, err)
						}
					}
				}
			}
		}
	}
}

// TestSelfTable: a root whose entries all lead to itself maps one page 2^36
// times. Merged, this is one row for each half of the addresses.
func TestSelfTable(t *testing.T) {
	const base = 0x100000
	m := newRAM(base, 4096)
	m.reads = map[uint64]int{}
	for i := range 512 {
		m.put(base, i, base|0x67)
	}
	wantRows(t, m, long(base), Options{}, []Row{
		{Start: 0, Size: 1 << 47, Phys: base, Access: kRWX | uRWX, PageShift: 12},
		{Start: 0xffff8 << 44, Size: 1 << 47, Phys: base, Access: kRWX | uRWX, PageShift: 12},
	})
	if m.reads[base] != 4 {
		t.Errorf("the table was read %d times", m.reads[base])
	}

	opt := Options{PTE: true, maxRows: 1000}
	res := walk(t, m, long(base), opt)
	if len(res.Rows) != 1000 || res.Cut == nil || !res.Cut.ByRows || res.Cut.VA != 1000<<12 || res.Cut.Limit != 1000 {
		t.Errorf("%d rows, cut %+v", len(res.Rows), res.Cut)
	}
	if s := res.Cut.String(); !strings.Contains(s, "0x3e8000") || !strings.Contains(s, "1000 rows") {
		t.Errorf("cut: %s", s)
	}
	// The rest can be had by asking for it.
	opt.First, opt.Last = res.Cut.VA, res.Cut.VA+5<<12-1
	res = walk(t, m, long(base), opt)
	if len(res.Rows) != 5 || res.Rows[0].Start != 1000<<12 || res.Cut != nil {
		t.Errorf("%d rows from %#x on, cut %v", len(res.Rows), opt.First, res.Cut)
	}
}

// TestWithRoot: another root is walked where the register could hold it.
func TestWithRoot(t *testing.T) {
	x86 := long(0x5000)
	pae := X86{CR0: 0x80050033, CR4: 0x20, CR3: 0x5000}
	legacy := X86{CR0: 0x80050033, CR3: 0x5000}
	arm := ARM64{TTBR0: 0x5000, TTBR1: 0x5000, TCR: 24 | 16<<16 | 2<<30 | 6<<32, SCTLR: 1, PhysBits: 44}
	lpa := ARM64{TCR: 12 | 1<<14 | 1<<23 | 6<<32, SCTLR: 1} // a root of 1024 entries
	rv64, rv32 := RISCV{SATP: 9<<60 | 5}, RISCV{XLEN: 32, SATP: 1<<31 | 5}
	short, lpae := ARM32{TTBCR: 3, SCTLR: 1 | 1<<23}, ARM32{TTBCR: 1 << 31, SCTLR: 1}
	for _, tt := range []struct {
		mmu   MMU
		va    uint64 // what to translate
		pa    uint64
		right string // what an address is, by the error; "" where pa is one
	}{
		{x86.WithRoot(0x100000), 0, 0x100000, ""},
		{x86.WithRoot(0xffffffffff000), 0, 0xffffffffff000, ""},
		{x86.WithRoot(0x10000000000000), 0, 0x10000000000000, "multiples of 4 KiB below 0x10000000000000"},
		{x86.WithRoot(0x100abc), 0, 0x100abc, "multiples of 4 KiB below 0x10000000000000"},
		{x86.WithRoot(math.MaxUint64), 0, math.MaxUint64, "multiples of 4 KiB below 0x10000000000000"},
		{pae.WithRoot(0xffffffe0), 0, 0xffffffe0, ""},
		{pae.WithRoot(0x100010), 0, 0x100010, "multiples of 32 bytes below 0x100000000"},
		{pae.WithRoot(1 << 32), 0, 1 << 32, "multiples of 32 bytes below 0x100000000"},
		{legacy.WithRoot(0xfffff000), 0, 0xfffff000, ""},
		{legacy.WithRoot(0x100020), 0, 0x100020, "multiples of 4 KiB below 0x100000000"},
		{legacy.WithRoot(1 << 32), 0, 1 << 32, "multiples of 4 KiB below 0x100000000"},
		{arm.WithRoot(0xffffffffff0, false), 0, 0xffffffffff0, ""}, // two entries
		{arm.WithRoot(0x1008, false), 0, 0x1008, "multiples of 16 bytes below 0x100000000000"},
		{arm.WithRoot(0x1010, true), 0, 0x1010, "multiples of 4 KiB below 0x100000000000"},
		{arm.WithRoot(1<<44, true), 0, 1 << 44, "multiples of 4 KiB below 0x100000000000"},
		{arm.WithRoot(0x7000, true), 0xffff << 48, 0x7000, ""},
		{arm.WithRoot(0x7000, true), 0, 0x5000, ""}, // the other half's
		{lpa.WithRoot(0xfffffffffe000, false), 0, 0xfffffffffe000, ""},
		{lpa.WithRoot(0x1000, false), 0, 0x1000, "multiples of 8 KiB below 0x10000000000000"},
		{rv64.WithRoot(0xfffffffffff000), 0, 0xfffffffffff000, ""},
		{rv64.WithRoot(1 << 56), 0, 1 << 56, "multiples of 4 KiB below 0x100000000000000"},
		{rv64.WithRoot(0x800), 0, 0x800, "multiples of 4 KiB below 0x100000000000000"},
		{rv32.WithRoot(0x3fffff000), 0, 0x3fffff000, ""},
		{rv32.WithRoot(1 << 34), 0, 1 << 34, "multiples of 4 KiB below 0x400000000"},
		{short.WithRoot(0xfffff800, false), 0, 0xfffff800, ""}, // of 128 KiB a root of 2 KiB
		{short.WithRoot(0x10400, false), 0, 0x10400, "multiples of 2 KiB below 0x100000000"},
		{short.WithRoot(0x2000, true), 0, 0x2000, "multiples of 16 KiB below 0x100000000"},
		{short.WithRoot(1<<32, true), 0, 1 << 32, "multiples of 16 KiB below 0x100000000"},
		{lpae.WithRoot(0xffffffffe0, false), 0, 0xffffffffe0, ""},
		{lpae.WithRoot(1<<40, false), 0, 1 << 40, "multiples of 32 bytes below 0x10000000000"},
	} {
		m := &everywhere{word: func(uint64) uint64 { return 0 }}
		p, err := Translate(m, tt.mmu, tt.va)
		if tt.right == "" {
			if err != nil || len(p.Steps) != 1 || p.Steps[0].Table != tt.pa {
				t.Errorf("%+v: %+v, %v, want the root at %#x", tt.mmu, p, err, tt.pa)
			}
			continue
		}
		want := fmt.Sprintf("%#x is no address of a root table: those are %s", tt.pa, tt.right)
		if err == nil || err.Error() != want {
			t.Errorf("%+v: %v, want %s", tt.mmu, err, want)
		}
		if _, err := Walk(context.Background(), m, tt.mmu, Options{}); err == nil || err.Error() != want {
			t.Errorf("%+v: %v, want %s", tt.mmu, err, want)
		}
	}
	if _, err := Translate(nil, X86{}.WithRoot(5), 0); !errors.Is(err, ErrPagingOff) {
		t.Errorf("paging off: %v", err)
	}
}

// TestWindow: First and Last choose leaves, and do not cut them.
func TestWindow(t *testing.T) {
	mmu, m := guest()
	all := walk(t, m, mmu, Options{PTE: true}).Rows
	if n := len(walk(t, m, mmu, Options{PTE: true, First: 0xffffffffffffffff}).Rows); n != 0 {
		t.Errorf("%d rows in the last byte of all", n)
	}
	r := all[len(all)-5]
	got := walk(t, m, mmu, Options{PTE: true, Last: r.Start + 1}).Rows
	if n := len(all) - 4; len(got) != n || got[n-1].Start != r.Start || got[n-1].Size != r.PageSize() {
		t.Errorf("%d rows up to %#x, want %d", len(got), r.Start+1, n)
	}
	got = walk(t, m, mmu, Options{PTE: true, First: r.Start + 5, Last: r.Start + 6}).Rows
	if len(got) != 1 || got[0].Start != r.Start || got[0].Size != r.PageSize() {
		t.Errorf("%+v, want the first page of %+v", got, r)
	}
	got = walk(t, m, mmu, Options{PTE: true, First: r.Start, Last: all[len(all)-4].Start}).Rows
	if len(got) != 2 || got[0] != r {
		t.Errorf("%+v, want %+v and the page after", got, r)
	}
}

func TestWorkBound(t *testing.T) {
	mmu, m := linear(4<<30, func(n uint64) uint64 { return n<<12 | 0x67 })
	res := walk(t, m, mmu, Options{maxWork: 1 << 19})
	if res.Cut == nil || res.Cut.ByRows || res.Cut.Limit != 1<<19 || !strings.Contains(res.Cut.String(), "524288 table entries") {
		t.Fatalf("cut %+v", res.Cut)
	}
	if len(res.Rows) != 1 || res.Rows[0].Size != res.Cut.VA {
		t.Errorf("rows %+v before the cut at %#x", res.Rows, res.Cut.VA)
	}
	if res = walk(t, m, mmu, Options{}); res.Cut != nil || res.Rows[0].Size != 4<<30 {
		t.Errorf("rows %+v, cut %v", res.Rows, res.Cut)
	}
}

// TestTakenOver: what a table maps is work again each time that it is taken
// over from where it was met first, even where it all ends up in one row.
func TestTakenOver(t *testing.T) {
	const base = 0x100000
	m := newRAM(base, 80*4096)
	m.put(base, 0, base+0x1000|7)
	for i := range 512 {
		m.put(base+0x1000, i, base+0x2000|7)
		m.put(base+0x2000, i, uint64(base+0x3000+i%64*0x1000)|7)
		for k := range 64 {
			m.put(uint64(base+0x3000+k*0x1000), i, 0x5000|7)
		}
	}
	one := []Row{{Size: 512 * gib, Phys: 0x5000, Access: kRWX | uRWX, PageShift: 12}}
	wantRows(t, m, long(base), Options{maxWork: 120000}, one)
	if res := walk(t, m, long(base), Options{maxWork: 70000}); res.Cut == nil || res.Cut.VA < gib {
		t.Errorf("cut: %v", res.Cut)
	}
}

// TestCancel: the context ends a walk, also from within a read.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	m := &everywhere{word: func(pa uint64) uint64 { return mix(pa)&bitRange(35, 16) | 0x67 }}
	m.hook = func() {
		if m.reads == 100 {
			cancel(nil)
		}
	}
	res, err := Walk(ctx, m, long(0x1000), Options{})
	if res != nil || !errors.Is(err, context.Canceled) || m.reads != 100 {
		t.Errorf("%v %v after %d reads", res, err, m.reads)
	}
}

// TestUnreadable: tables outside RAM are counted, and the first are named.
func TestUnreadable(t *testing.T) {
	const base = 0x100000
	m := newRAM(base, 2*4096)
	m.put(base, 0, base+0x1000|7)
	for i := range 100 {
		m.put(base+0x1000, i, 0x7f0000000|uint64(i)<<12|7)
		m.put(base+0x1000, i+100, 0x7f0000000|uint64(i)<<12|7)
	}
	m.put(base+0x1000, 300, 0xc0000000|0x87)
	res := wantRows(t, m, long(base), Options{}, []Row{{Start: 300 << 30, Size: gib, Phys: 3 * gib, Access: kRWX | uRWX, PageShift: 30}})
	if res.Unread != 100 || len(res.Unreadable) != maxUnreadable {
		t.Errorf("%d not readable, %d named", res.Unread, len(res.Unreadable))
	}
	if got := res.Unreadable[3].Error(); got != "read the table of PDE entries at 0x7f0003000, for address 0xc0000000 on: no RAM there" {
		t.Errorf("%s", got)
	}
	res = wantRows(t, m, long(0x5000), Options{}, nil) // no root
	if res.Unread != 1 || res.Unreadable[0].Entry != "PML4E" {
		t.Errorf("no root: %+v", res)
	}
}

// TestCarry: a run of ascending entries ends where the address goes on into
// bits that are none of it.
func TestCarry(t *testing.T) {
	const base = 0x100000
	tests := []struct {
		name  string
		mmu   MMU
		last  uint64 // the last entry that is sound
		step  uint64
		phys  uint64 // of the last page
		flags Flags
		a     Access
	}{
		{"x86", X86{CR0: 0x80050033, CR3: base, CR4: 0x20, EFER: 0x800}, 0xf_ffff_ffff_f003, 4096, 0xf_ffff_ffff_f000, 0, kRWX},
		{"arm64", ARM64{TTBR0: base, TCR: 34 | 1<<23 | 1<<32, SCTLR: 1}, 0xf_fffff403, 4096, 0xf_fffff000, attr(0) | Global | Accessed, kRWX | UserExec},
		{"riscv", RISCV{XLEN: 64, SATP: 8<<60 | base>>12}, 0x3f_ffff_ffff_fc0f, 1 << 10, 0xff_ffff_ffff_f000, 0, kRWX},
	}
	for _, tt := range tests {
		for n := range 12 { // how many are sound
			m := newRAM(base, 3*4096)
			link, pd, pt := uint64(1), uint64(base+0x1000), uint64(base+0x2000)
			switch tt.mmu.(type) {
			case ARM64:
				link, pd = 3, base // 30 bits: two levels
			case RISCV:
				m.put(base, 0, rv(pd, link))
			default:
				link = 3
				m.put(base, 0, pd|1)
			}
			if _, ok := tt.mmu.(RISCV); ok {
				m.put(pd, 0, rv(pt, link))
			} else {
				m.put(pd, 0, pt|link)
			}
			for i := range 12 {
				m.put(pt, i, tt.last-uint64(n-1)*tt.step+uint64(i)*tt.step)
			}
			var want []Row
			if n > 0 {
				want = []Row{{Size: uint64(n) * 4096, Phys: tt.phys - uint64(n-1)*4096, Flags: tt.flags, Access: tt.a, PageShift: 12}}
			}
			if got := walk(t, m, tt.mmu, Options{PTE: true}).Rows; !cmp.Equal(got, want) {
				t.Errorf("%s, %d sound entries: %v, want %v", tt.name, n, got, want)
			}
		}
	}
}
