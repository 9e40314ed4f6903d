package pt

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// Bits of short descriptors, for the tests.
const (
	shTable   = 1
	shSection = 2
	shLarge   = 1
	shSmall   = 2
	shSuper   = 1 << 18
)

// sec is a section's AP, pag a page's.
func sec(ap uint32) uint32 { return ap&3<<10 | ap>>2<<15 }
func pag(ap uint32) uint32 { return ap&3<<4 | ap>>2<<9 }

// kinds of short descriptors have these flags beside those that are set: TEX, C, B
// and the domain, and global.
func shortFlags(tex, domain uint32, more Flags) Flags {
	return hasTEX | Flags(tex)<<(texShift+2) | Flags(domain)<<keyShift | Global | more
}

func TestARM32Permissions(t *testing.T) {
	const (
		base = 0x40000000
		xn   = 1 << 4
		afe  = 1 << 29
		wxn  = 1 << 19
		uwxn = 1 << 20
	)
	for _, tt := range []struct {
		name    string
		section uint32
		sctlr   uint32
		noPXN   bool
		want    Access // 0: nobody
	}{
		{"AP 0", sec(0), 0, false, 0},
		{"AP 1", sec(1), 0, false, kRWX},
		{"AP 2", sec(2), 0, false, kRWX | uRX},
		{"AP 3", sec(3), 0, false, kRWX | uRWX},
		{"AP 4 is reserved", sec(4), 0, false, 0},
		{"AP 5", sec(5), 0, false, kRX},
		{"AP 6", sec(6), 0, false, kRX | uRX},
		{"AP 7", sec(7), 0, false, kRX | uRX},
		{"XN", sec(3) | xn, 0, false, kRW | uRW},
		{"PXN", sec(3) | 1, 0, false, kRW | uRWX},
		{"PXN that there is not", sec(3) | 1, 0, true, 0},
		{"AFE, AP 0: no access flag", sec(0), afe, false, kRWX},
		{"AFE, AP 2", sec(2), afe, false, kRWX | uRWX},
		{"AFE, AP 4", sec(4), afe, false, kRX},
		{"AFE, AP 7", sec(7), afe, false, kRX | uRX},
		{"WXN", sec(3), wxn, false, kRW | uRW},
		{"WXN, the kernel alone writes", sec(2), wxn, false, kRW | uRX},
		{"WXN, read-only", sec(7), wxn, false, kRX | uRX},
		{"UWXN", sec(3), uwxn, false, kRW | uRWX},
		{"UWXN, the kernel alone writes", sec(2), uwxn, false, kRWX | uRX},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newRAM(base, 4<<12)
			m.put4(base, 5, 0x12300000|shSection|3<<5|tt.section)
			mmu := ARM32{TTBR0: base | 0x4a, SCTLR: 1 | sctlrXP | tt.sctlr, DACR: 0x55555555, PXN: !tt.noPXN}
			if tt.want == 0 {
				wantRows(t, m, mmu, Options{PTE: true}, nil)
				end := NoAccess
				if tt.noPXN {
					end = Reserved
				}
				wantEnd(t, m, mmu, 5*mib, end, 1, "level 1")
				return
			}
			flags := shortFlags(0, 3, 0)
			if tt.sctlr&afe != 0 && tt.section>>10&1 == 1 {
				flags |= Accessed
			}
			wantRows(t, m, mmu, Options{PTE: true}, []Row{{Start: 5 * mib, Size: mib, Phys: 0x12300000, Flags: flags, Access: tt.want, PageShift: 20}})
		})
	}
}

// TestARM32Short: every form of a short descriptor, and both roots.
func TestARM32Short(t *testing.T) {
	const base, lower, upper, pages = 0x40000000, 0x40000000, 0x40004000, 0x40008400
	m := newRAM(base, 0x9000)
	m.put4(lower, 0, pages|shTable|2<<5|1<<2|1<<3)                             // PXN, NS
	m.put4(lower, 1, 0x12300000|shSection|sec(3)|5<<12|3<<2|1<<16|1<<17|15<<5) // TEX 5, C, B, S, nG
	for i := range 16 {
		m.put4(lower, 16+i, 0x45000000|shSection|shSuper|sec(1)|0x9<<20|0xa<<5|1<<4)
	}
	m.put4(lower, 511, 0x77700000|shSection|sec(1))
	m.put4(lower, 512, 0x66600000|shSection|sec(1)) // beyond what TTBR0 translates
	m.put4(pages, 0, 0x1000|shSmall|pag(3)|1|4<<6)  // XN, TEX 4
	m.put4(pages, 1, 0x2000|shSmall|pag(7)|1<<11)
	for i := range 16 {
		m.put4(pages, 16+i, 0x30000|shLarge|pag(3)|1<<15|2<<12)
	}
	m.put4(pages, 255, 0xff000|shSmall|pag(1))
	m.put4(pages, 254, 0xfe000|shSmall) // nobody
	m.put4(upper, 511, 0x10000000|shSection|sec(1))
	m.put4(upper, 512, 0x20000000|shSection|sec(1))
	m.put4(upper, 4095, 0x30000000|shSection|sec(7))
	mmu := ARM32{TTBR0: lower | 0x1b, TTBR1: upper | 0x1b, TTBCR: 3, SCTLR: 1 | sctlrXP, DACR: 1 | 3<<(2*15), PXN: true}
	page := func(start, size, phys uint64, flags Flags, a Access, shift uint8) Row {
		return Row{Start: start, Size: size, Phys: phys, Flags: flags, Access: a, PageShift: shift}
	}
	want := []Row{
		page(0, 4*kib, 0x1000, shortFlags(4, 2, NonSecure), kRW|uRW, 12),
		page(0x1000, 4*kib, 0x2000, shortFlags(0, 2, NonSecure)&^Global, kR|uRX, 12),
		page(0x10000, 64*kib, 0x30000, shortFlags(2, 2, NonSecure|Contiguous), kRW|uRW, 12),
		page(0xff000, 4*kib, 0xff000, shortFlags(0, 2, NonSecure), kRW, 12),
		page(mib, mib, 0x12300000, shortFlags(5, 15, 1<<shareShift|3<<texShift)&^Global, kRWX|uRWX, 20),
		page(16*mib, 16*mib, 0xa9_45000000, shortFlags(0, 0, Contiguous), kRW, 20),
		page(511*mib, mib, 0x77700000, shortFlags(0, 0, 0), kRWX, 20),
		page(512*mib, mib, 0x20000000, shortFlags(0, 0, 0), kRWX, 20),
		page(4095*mib, mib, 0x30000000, shortFlags(0, 0, 0), kRX|uRX, 20),
	}
	res := wantRows(t, m, mmu, Options{PTE: true}, want)
	if note := []string{alsoDecide + "DACR (domain 2 allows none now, domain 15 allows every access)"}; !slices.Equal(res.Notes, note) || res.Bits != 32 {
		t.Errorf("%d bits, notes %q, want %q", res.Bits, res.Notes, note)
	}
	if p := wantEnd(t, m, mmu, 16*mib+0x512345, Mapped, 1, "1 MiB"); p.Phys != 0xa9_45512345 || p.Steps[0].Flags != "supersection AP=1 TEX=0 XN" || len(p.Notes) != 0 {
		t.Errorf("%+v", p)
	}
	p := wantEnd(t, m, mmu, 0x15678, Mapped, 2, "4 KiB")
	if p.Phys != 0x35678 || p.Steps[0].Flags != "table NS PXN DOMAIN=2" || p.Steps[1].Flags != "large page AP=3 TEX=2 XN" || len(p.Notes) != 1 {
		t.Errorf("%+v", p)
	}
	if got := p.Flags.String(); got != "G CONT NS TEX=2 DOMAIN=2" {
		t.Errorf("flags %q", got)
	}
	if got := want[4].Flags.String(); got != "S TEX=5 C B DOMAIN=15" {
		t.Errorf("flags %q", got)
	}
	wantEnd(t, m, mmu, 0xfe000, NoAccess, 2, "the level 2 entry lets nobody access its page: AP is 0")
	wantEnd(t, m, mmu, 0x2000, NotPresent, 2, "level 2")
	wantEnd(t, m, mmu, 1<<32, OutsideRange, 0, "short")

	mmu.TTBCR |= ttbcrPD0
	if res := wantRows(t, m, mmu, Options{PTE: true}, want[7:]); len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "PD0") {
		t.Errorf("notes %q", res.Notes)
	}
	mmu.TTBCR ^= ttbcrPD0 | ttbcrPD1
	wantRows(t, m, mmu, Options{PTE: true}, want[:7])
	wantEnd(t, m, mmu, 512*mib, OutsideRange, 0, "PD1")

	// Big-endian tables.
	big := newRAM(base, 4<<12)
	big.put4(base, 0, 0x02040010) // 0x10000402
	wantRows(t, big, ARM32{TTBR0: base, SCTLR: 1 | sctlrXP | sctlrEE, DACR: 1}, Options{PTE: true},
		[]Row{page(0, mib, 0x10000000, shortFlags(0, 0, 0), kRWX, 20)})
}

// TestARM32Long: levels and roots by size, and what the levels above take away.
func TestARM32Long(t *testing.T) {
	const (
		base  = 0x40000000
		leaf  = 0x700 | 4<<2 // AF, inner shareable, AttrIndx 4
		user  = 1 << 6
		ro    = 1 << 7
		roT   = 1 << 62
		noU   = 1 << 61
		xnT   = 1 << 60
		pxnT  = 1 << 59
		xn    = 1 << 54
		pxn   = 1 << 53
		noise = 0xfff << 40 // means nothing
	)
	m := newRAM(base, 8<<12)
	m.put(base, 0, base+0x1000|3)
	m.put(base, 1, 0x80_40000000|leaf|1|noise>>4&^(0xf<<36)) // 1 GiB
	m.put(base, 2, base+0x1000|3|roT|pxnT)
	m.put(base, 3, base+0x1000|3|noU|xnT)
	m.put(base+0x1000, 0, base+0x2000|3)
	m.put(base+0x1000, 1, 0x200000|leaf|1|user|xn)
	m.put(base+0x2000, 0, 0x7000|leaf|3|user|1<<52|1<<11)
	m.put(base+0x2000, 1, 0x8000|leaf|3|ro|pxn)
	m.put(base+0x2000, 2, 0x9000|leaf|1) // reserved
	mmu := ARM32{TTBR0: base | 0x42<<48, TTBCR: ttbcrEAE, SCTLR: 1}
	flags := attr(4) | Accessed | 3<<12
	rows := func(va uint64, a, b, c Access) []Row {
		return []Row{
			{Start: va, Size: 4 * kib, Phys: 0x7000, Flags: flags | Contiguous, Access: a, PageShift: 12},
			{Start: va + 4*kib, Size: 4 * kib, Phys: 0x8000, Flags: flags | Global, Access: b, PageShift: 12},
			{Start: va + 2*mib, Size: 2 * mib, Phys: 0x200000, Flags: flags | Global, Access: c, PageShift: 21},
		}
	}
	want := rows(0, kRWX|uRWX, kR, kRW|uRW)
	want = append(want, Row{Start: gib, Size: gib, Phys: 0x80_40000000, Flags: flags | Global, Access: kRWX, PageShift: 30})
	want = append(want, rows(2*gib, kR|uRX, kR, kR|uR)...)
	want = append(want, rows(3*gib, kRW, kR, kRW)...)
	wantRows(t, m, mmu, Options{PTE: true}, want)
	wantEnd(t, m, mmu, 0x2000, Reserved, 3, "last level")
	if p := wantEnd(t, m, mmu, 3*gib+0x1004, Mapped, 3, "4 KiB"); p.Phys != 0x8004 || p.Mode != "arm, long descriptors" ||
		p.Steps[0].Flags != "table APTable=1 XNTable" || p.Steps[2].Flags != "page PXN AF SH=3 AP=2 ATTR=4" || p.Steps[2].Name != "level 3" {
		t.Errorf("%+v", p)
	}
	mmu.SCTLR |= sctlrWXN
	if p := wantEnd(t, m, mmu, gib, Mapped, 1, "1 GiB"); p.Access != kRW {
		t.Errorf("WXN: %v", p.Access)
	}
	mmu.SCTLR ^= sctlrWXN | sctlrUWXN
	if p := wantEnd(t, m, mmu, 0, Mapped, 3, ""); p.Access != kRW|uRWX {
		t.Errorf("UWXN: %v", p.Access)
	}

	// The border between the roots is within a block of 1 GiB: each has its part.
	block := func(pa uint64) uint64 { return pa | leaf | 1 }
	m = newRAM(base, 8<<12)
	m.put(base, 0, block(0x1_00000000))
	m.put(base, 3, block(0x2_00000000))
	m.put(base+0x1000, 0, block(0x3_00000000))
	m.put(base+0x1000, 1, block(0x3_40000000))
	m.put(base+0x2000, 15, 0x4_00000000|leaf|1) // the last of 16 entries of 2 MiB
	m.put(base+0x2000, 0, 0x5_00000000|leaf|1)
	row := func(start, size, phys uint64, shift uint8) Row {
		return Row{Start: start, Size: size, Phys: phys, Flags: flags | Global, Access: kRWX, PageShift: shift}
	}
	wantRows(t, m, ARM32{TTBR0: base + 0x2000, TTBR1: base + 0x1000, TTBCR: ttbcrEAE | 7, SCTLR: 1}, Options{PTE: true}, []Row{
		row(0, 2*mib, 0x5_00000000, 21), row(30*mib, 2*mib, 0x4_00000000, 21), row(32*mib, 2*gib-32*mib, 0x3_00000000+32*mib, 30)})
	wantRows(t, m, ARM32{TTBR0: base, TTBR1: base + 0x2000, TTBCR: ttbcrEAE | 7<<16, SCTLR: 1}, Options{PTE: true}, []Row{
		row(0, gib, 0x1_00000000, 30), row(3*gib, gib-32*mib, 0x2_00000000, 30),
		row(4*gib-32*mib, 2*mib, 0x5_00000000, 21), row(4*gib-2*mib, 2*mib, 0x4_00000000, 21)})
	both := ARM32{TTBR0: base + 0x2000, TTBR1: base + 0x2000, TTBCR: ttbcrEAE | 7 | 7<<16, SCTLR: 1}
	wantEnd(t, m, both, 2*gib, OutsideRange, 0, "long")
	both.TTBCR |= ttbcrEPD0 | ttbcrEPD1
	if res := wantRows(t, m, both, Options{}, nil); len(res.Notes) != 2 || !strings.Contains(res.Notes[0], "EPD0") || !strings.Contains(res.Notes[1], "EPD1") {
		t.Errorf("notes %q", res.Notes)
	}
}

// TestARM32Upper: which root an address goes to is what the walk makes of it.
func TestARM32Upper(t *testing.T) {
	m := &everywhere{word: func(uint64) uint64 { return 0 }}
	for _, ttbcr := range []uint32{0, 1, 2, 7, ttbcrEAE, ttbcrEAE | 1, ttbcrEAE | 7, ttbcrEAE | 1<<16, ttbcrEAE | 7<<16, ttbcrEAE | 1 | 1<<16} {
		mmu := ARM32{TTBR0: 0x10000, TTBR1: 0x20000, TTBCR: ttbcr, SCTLR: 1 | sctlrXP}
		for _, va := range []uint64{0, 0x1ffffff, 0x2000000, 0x7fffffff, 0x80000000, 0xfdffffff, 0xfe000000, 0xffffffff} {
			p, err := Translate(m, mmu, va)
			if err != nil || len(p.Steps) != 1 || mmu.Upper(va) != (p.Steps[0].Table == 0x20000) {
				t.Errorf("TTBCR %#x: %#x is upper: %v, but %+v, %v", ttbcr, va, mmu.Upper(va), p, err)
			}
			root := uint64(0x44000)
			if p, err := Translate(m, mmu.WithRoot(root, mmu.Upper(va)), va); err != nil || p.Steps[0].Table != root {
				t.Errorf("TTBCR %#x: %#x with another root: %+v, %v", ttbcr, va, p, err)
			}
		}
	}
}

func TestARM32Off(t *testing.T) {
	if _, err := Translate(nil, ARM32{SCTLR: sctlrXP}, 0); !errors.Is(err, ErrPagingOff) || !strings.Contains(err.Error(), "SCTLR.M is 0") {
		t.Error(err)
	}
	if _, err := Translate(nil, ARM32{SCTLR: 1}, 0); err == nil || errors.Is(err, ErrPagingOff) || !strings.Contains(err.Error(), "SCTLR.XP is 0") {
		t.Error(err)
	}
	if _, err := Translate(nil, Flat{"the CPU has none"}, 0); !errors.Is(err, ErrPagingOff) || !strings.HasPrefix(err.Error(), "the CPU has none: ") {
		t.Error(err)
	}
}
