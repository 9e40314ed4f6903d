package pt

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// attr is what flags a descriptor of this AttrIndx has, global and accessed.
func attr(index uint64) Flags { return hasAttrIndex | Flags(index)<<16 }

// TestARM64Permissions: those of a page, those that the levels above take away,
// and those that a control bit takes away.
func TestARM64Permissions(t *testing.T) {
	const (
		base = 0x40000000
		af   = 1 << 10
		ro   = 1 << 7
		el0  = 1 << 6
		dbm  = 1 << 51
		pxn  = 1 << 53
		uxn  = 1 << 54
		pxnT = 1 << 59
		uxnT = 1 << 60
		noU  = 1 << 61
		roT  = 1 << 62
	)
	tests := []struct {
		name       string
		table      uint64
		page       uint64
		tcr, sctlr uint64
		want       Access
	}{
		{"kernel only", 0, pxn | uxn, 0, 0, kRW},
		{"kernel only, both may execute", 0, 0, 0, 0, kRWX | UserExec},
		{"kernel only, read-only", 0, ro, 0, 0, kRX | UserExec},
		{"both write: the kernel cannot execute", 0, el0, 0, 0, kRW | uRWX},
		{"both read", 0, el0 | ro, 0, 0, kRX | uRX},
		{"both read, no execution", 0, el0 | ro | pxn | uxn, 0, 0, kR | uR},
		{"user execution only", 0, el0 | ro | pxn, 0, 0, kR | uRX},
		{"APTable 1", noU, el0, 0, 0, kRWX | UserExec},
		{"APTable 2", roT, el0, 0, 0, kRX | uRX},
		{"APTable 3", noU | roT, el0, 0, 0, kRX | UserExec},
		{"PXNTable", pxnT, ro, 0, 0, kR | UserExec},
		{"UXNTable", uxnT, el0 | ro, 0, 0, kRX | uR},
		{"HPD0", noU | roT | pxnT | uxnT, el0 | ro, 1 << 41, 0, kRX | uRX},
		{"HPD1 is for the other half", noU | roT | pxnT | uxnT, el0 | ro, 1 << 42, 0, kR},
		{"WXN", 0, 0, 0, 1 << 19, kRW | UserExec},
		{"WXN, user writes", 0, el0, 0, 1 << 19, kRW | uRW},
		{"WXN, read-only", 0, el0 | ro, 0, 1 << 19, kRX | uRX},
		{"DBM without hardware dirty state", 0, ro | dbm | el0, 1 << 39, 0, kRX | uRX},
		{"DBM with it", 0, ro | dbm | el0, 3 << 39, 0, kRW | uRWX},
		{"DBM with it, read-only above", roT, ro | dbm | el0, 3 << 39, 0, kRX | uRX},
		{"E0PD0", 0, el0 | ro, 1 << 55, 0, kRX},
		{"E0PD1 is for the other half", 0, el0 | ro, 1 << 56, 0, kRX | uRX},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newRAM(base, 3*4096)
			// 30 bits of addresses: the root is a table of level 2 with 512 entries.
			m.put(base, 0, base+0x1000|3|tt.table)
			m.put(base+0x1000, 5, 0x80000000|af|tt.page|3)
			mmu := ARM64{TTBR0: base, TCR: tt.tcr | 34 | 1<<23 | 2<<32, SCTLR: 1 | sctlrSPAN | tt.sctlr}
			flags := attr(0) | Global | Accessed
			if tt.page&dbm != 0 {
				flags |= DBM
			}
			wantRows(t, m, mmu, Options{PTE: true}, []Row{
				{Start: 0x5000, Size: 4096, Phys: 0x80000000, Flags: flags, Access: tt.want, PageShift: 12}})
		})
	}
}

// TestARM64Granules: levels, roots and block sizes of each granule, and the two
// halves side by side.
func TestARM64Granules(t *testing.T) {
	const (
		base = 0x100000000
		leaf = 0x700 | 4<<2 // AF, inner shareable, AttrIndx 4
		tcr  = 5 << 32      // 48-bit physical addresses
	)
	flags := attr(4) | Global | Accessed | 3<<12
	row := func(start, size, phys uint64, shift uint8) Row {
		return Row{Start: start, Size: size, Phys: phys, Flags: flags, Access: kRWX | UserExec, PageShift: shift}
	}

	t.Run("4 KiB, 48 bits", func(t *testing.T) {
		m := newRAM(base, 8*4096)
		m.put(base, 0, base+0x1000|3)
		m.put(base, 1, 0x8000000000|leaf|1) // no blocks at level 0 without DS
		m.put(base+0x1000, 1, 0x40000000|leaf|1)
		m.put(base+0x1000, 2, base+0x2000|3)
		m.put(base+0x2000, 0, 0x600000|leaf|1)
		m.put(base+0x2000, 1, base+0x3000|3)
		m.put(base+0x3000, 0, 0x700000|leaf|3)
		m.put(base+0x3000, 1, 0x701000|leaf|1) // reserved
		m.put(base+0x3000, 2, 0x702000|leaf|3)
		mmu := ARM64{TTBR0: base | 0x1234<<48 | 1, TTBR1: base, TCR: tcr | 16 | 16<<16 | 2<<30, SCTLR: 1 | sctlrSPAN}
		var want []Row
		for _, va := range []uint64{0, 0xffff << 48} {
			want = append(want, row(va+gib, gib, 0x40000000, 30), row(va+2*gib, 2*mib, 0x600000, 21),
				row(va+2*gib+2*mib, 4096, 0x700000, 12), row(va+2*gib+2*mib+0x2000, 4096, 0x702000, 12))
		}
		res := wantRows(t, m, mmu, Options{PTE: true}, want)
		if res.tables != 4 { // both halves have the same root
			t.Errorf("%d tables, want 4", res.tables)
		}
		if got := modeOf(mmu); got != "arm64, TTBR0_EL1 4 KiB granule, 48 bits, TTBR1_EL1 4 KiB granule, 48 bits" {
			t.Errorf("mode %q", got)
		}
		wantEnd(t, m, mmu, 2*gib+2*mib+0x1000, Reserved, 4, "level 3")
		wantEnd(t, m, mmu, 1<<39, Reserved, 1, "level 0")
		wantEnd(t, m, mmu, 1<<48, OutsideRange, 0, "")
		wantEnd(t, m, mmu, 0xffff<<48|2*gib+2*mib+0x2fff, Mapped, 4, "4 KiB")
		mmu.TCR |= 1 << 23
		res = wantRows(t, m, mmu, Options{PTE: true}, want[:4])
		if len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "EPD1") {
			t.Errorf("notes %q", res.Notes)
		}
		wantEnd(t, m, mmu, 0xffff<<48, OutsideRange, 0, "EPD1")
	})

	t.Run("16 and 64 KiB", func(t *testing.T) {
		m := newRAM(base, 1<<19)
		// 47 bits with 16 KiB: the root is at level 1, 2048 entries. 42 bits
		// with 64 KiB: at level 2, 8192 entries.
		m.put(base, 3, base+0x4000|3)
		m.put(base+0x4000, 2, 0x6000000|leaf|1)
		m.put(base+0x4000, 3, base+0x8000|3)
		m.put(base+0x8000, 2047, 0x704000|leaf|3)
		upper := uint64(base + 0x10000)
		m.put(upper, 8190, 0x20000000|leaf|1)
		m.put(upper, 8191, upper+0x10000|3)
		m.put(upper+0x10000, 8191, 0x90000|leaf|3)
		mmu := ARM64{TTBR0: base, TTBR1: upper, TCR: tcr | 17 | 2<<14 | 22<<16 | 3<<30, SCTLR: 1 | sctlrSPAN}
		wantRows(t, m, mmu, Options{PTE: true}, []Row{
			row(3<<36|2<<25, 32*mib, 0x6000000, 25),
			row(3<<36|3<<25|2047<<14, 16*kib, 0x704000, 14),
			row(1<<64-2<<29, 512*mib, 0x20000000, 29),
			row(1<<64-1<<16, 64*kib, 0x90000, 16),
		})
	})

	t.Run("small root", func(t *testing.T) {
		// 40 bits with 4 KiB: level 0 with 2 entries, aligned to 16 bytes.
		m := newRAM(base, 3*4096)
		m.put(base+0x30, 1, base+0x1000|3)
		m.put(base+0x1000, 7, 0x40000000|leaf|1)
		mmu := ARM64{TTBR0: base + 0x30, TCR: tcr | 24 | 1<<23, SCTLR: 1 | sctlrSPAN}
		wantRows(t, m, mmu, Options{PTE: true}, []Row{row(1<<39|7<<30, gib, 0x40000000, 30)})
	})

	t.Run("contiguous", func(t *testing.T) {
		m := newRAM(base, 2*4096)
		m.put(base, 0, base+0x1000|3)
		for i := range 32 {
			e := uint64(0x80000+i<<12) | leaf | 3
			if i < 16 {
				e |= 1 << 52
			}
			m.put(base+0x1000, i, e)
		}
		mmu := ARM64{TTBR0: base, TCR: tcr | 34 | 1<<23, SCTLR: 1 | sctlrSPAN}
		a, b := row(0, 64*kib, 0x80000, 12), row(64*kib, 64*kib, 0x90000, 12)
		a.Flags |= Contiguous
		wantRows(t, m, mmu, Options{PTE: true}, []Row{a, b})
		wantRows(t, m, mmu, Options{}, []Row{{Size: 128 * kib, Phys: 0x80000, Access: kRWX | UserExec, PageShift: 12}})
	})
}

// TestARM64Wide: 52-bit addresses, both forms.
func TestARM64Wide(t *testing.T) {
	const high = 0xabcd0 << 32 // needs all of bits 51:36
	t.Run("LPA", func(t *testing.T) {
		// 64 KiB: bits 15:12 of a descriptor are address bits 51:48.
		base := uint64(0xf000000100000)
		m := newRAM(base, 1<<18)
		enc := func(pa uint64) uint64 { return pa&bitRange(47, 16) | pa>>48<<12 }
		// 52 bits of addresses: the root is at level 1, 1024 entries.
		m.put(base, 1023, enc(base+0x10000)|3)
		m.put(base, 1, enc(0xc0000000000)|0x401) // 4 TiB
		m.put(base+0x10000, 0, enc(base+0x20000)|3)
		m.put(base+0x20000, 1, enc(high)|0x403)
		mmu := ARM64{TTBR0: base&bitRange(47, 0) | base>>48<<2, TCR: 12 | 1<<14 | 1<<23 | 6<<32, SCTLR: 1 | sctlrSPAN}
		rows := []Row{
			{Start: 1 << 42, Size: 4 << 40, Phys: 0xc0000000000, Flags: attr(0) | Global | Accessed, Access: kRWX | UserExec, PageShift: 42},
			{Start: 1023<<42 | 1<<16, Size: 64 * kib, Phys: high, Flags: attr(0) | Global | Accessed, Access: kRWX | UserExec, PageShift: 16},
		}
		wantRows(t, m, mmu, Options{PTE: true}, rows)
		mmu.TCR = 12 | 1<<14 | 1<<23 | 5<<32 // 48 bits: the root is elsewhere
		if res := walk(t, m, mmu, Options{}); res.Unread != 1 || len(res.Rows) != 0 {
			t.Errorf("%d not readable, rows %v", res.Unread, res.Rows)
		}
	})
	t.Run("LPA2", func(t *testing.T) {
		// 4 KiB with DS: bits 9:8 are address bits 51:50; five levels from -1.
		base := uint64(0xf000000100000)
		m := newRAM(base, 8*4096)
		enc := func(pa uint64) uint64 { return pa&bitRange(49, 12) | pa>>50<<8 }
		for l := range uint64(4) {
			m.put(base+l<<12, 1, enc(base+(l+1)<<12)|3)
		}
		m.put(base+0x1000, 2, enc(3<<39)|0x401) // 512 GiB
		m.put(base+0x4000, 1, enc(high)|0x403)
		mmu := ARM64{TCR: 12 | 12<<16 | 2<<30 | 6<<32 | 1<<59, SCTLR: 1 | sctlrSPAN}.WithRoot(base, false).WithRoot(base, true)
		flags := attr(0) | Global | Accessed
		var want []Row
		for _, va := range []uint64{0, 0xfff << 52} {
			want = append(want,
				Row{Start: va + 1<<48 + 1<<39 + 1<<30 + 1<<21 + 1<<12, Size: 4096, Phys: high, Flags: flags, Access: kRWX | UserExec, PageShift: 12},
				Row{Start: va + 1<<48 + 2<<39, Size: 512 * gib, Phys: 3 << 39, Flags: flags, Access: kRWX | UserExec, PageShift: 39})
		}
		wantRows(t, m, mmu, Options{PTE: true}, want)
		p := wantEnd(t, m, mmu, 0xfff<<52|1<<48|1<<39|1<<30|1<<21|1<<12, Mapped, 5, "")
		if p.Steps[0].Name != "level -1" {
			t.Errorf("first step %+v", p.Steps[0])
		}
		// A root of two entries is aligned to 64 bytes all the same.
		m.put(base+0x40, 1, 0x600000|0x401) // level 0: 512 GiB
		mmu = ARM64{TCR: 24 | 1<<23 | 6<<32 | 1<<59, SCTLR: 1 | sctlrSPAN}.WithRoot(base+0x40, false)
		wantRows(t, m, mmu, Options{}, []Row{{Start: 1 << 39, Size: 1 << 39, Access: kRWX | UserExec, PageShift: 39}})
		ttbr := base&bitRange(47, 0) | base>>48<<2
		mmu = ARM64{TTBR0: ttbr, TTBR1: ttbr, TCR: 12 | 12<<16 | 2<<30 | 6<<32 | 1<<59, SCTLR: 1 | sctlrSPAN, PhysBits: 48}
		if res := walk(t, m, mmu, Options{}); len(res.Notes) != 2 || !strings.Contains(res.Notes[0], "48 bits") {
			t.Errorf("a root beyond physical addresses: notes %q", res.Notes)
		}
	})
}

// TestARM64EL2: in the EL2&0 regime it is EL2's registers that messages name.
func TestARM64EL2(t *testing.T) {
	const base = 0x40000000
	m := newRAM(base, 4096)
	m.put(base, 511, 0x600000|0x701)
	mmu := ARM64{EL: 2, TTBR1: base, TCR: 34 | 34<<16 | 2<<30 | 1<<7 | 1<<38, SCTLR: 1 | sctlrSPAN}
	if got := modeOf(mmu); got != "arm64, TTBR0_EL2 off, TTBR1_EL2 4 KiB granule, 30 bits" {
		t.Errorf("mode %q", got)
	}
	wantRows(t, m, mmu, Options{}, []Row{{Start: 1<<64 - 2*mib, Size: 2 * mib, Phys: 0x600000, Access: kRWX | UserExec, PageShift: 21}})
	p := wantEnd(t, m, mmu, 0x1000, OutsideRange, 0, "TCR_EL2.EPD0 is 1: nothing is translated through TTBR0_EL2")
	if want := []string{"TCR_EL2.TBI1 is 1: bits 63:56 of upper addresses are ignored"}; !slices.Equal(p.Notes, want) {
		t.Errorf("notes %q, want %q", p.Notes, want)
	}
	for _, tt := range []struct {
		mmu  ARM64
		want string
	}{
		{ARM64{EL: 2, SCTLR: 1 | sctlrSPAN, TCR: 15 | 1<<23}, "TCR_EL2.T0SZ is 15, outside 16 to 48: nothing is listed for TTBR0_EL2"},
		{ARM64{EL: 2, SCTLR: 1 | sctlrSPAN, TCR: 16 | 3<<14 | 1<<23}, "TCR_EL2.TG0 has the reserved value 3: nothing is listed for TTBR0_EL2"},
		{ARM64{EL: 2, SCTLR: 1 | sctlrSPAN, TCR: 16 | 1<<23, TTBR0: 1 << 40}, "TTBR0_EL2 points to 0x10000000000, beyond the 32 bits of physical addresses"},
	} {
		if notes := walk(t, m, tt.mmu, Options{}).Notes; len(notes) != 2 || notes[0] != tt.want {
			t.Errorf("%+v: notes %q, want %q", tt.mmu, notes, tt.want)
		}
	}
	for el, want := range map[int]string{0: "SCTLR_EL1.M is 0: paging is off", 2: "SCTLR_EL2.M is 0: paging is off", 3: "SCTLR_EL3.M is 0: paging is off"} {
		if _, err := Translate(m, ARM64{EL: el}, 0); !errors.Is(err, ErrPagingOff) || err.Error() != want {
			t.Errorf("EL%d: %v, want %s", el, err, want)
		}
	}
}

func TestARM64Tags(t *testing.T) {
	const base = 0x40000000
	m := newRAM(base, 3*4096)
	m.put(base, 511, 0x600000|0x701)
	m.put(base, 0, 0x800000|0x701)
	mmu := ARM64{TTBR0: base, TTBR1: base, TCR: 34 | 34<<16 | 2<<30 | 1<<37, SCTLR: 1 | sctlrSPAN}
	for _, tt := range []struct {
		va   uint64
		tbi1 bool
		end  End
		at   uint64
	}{
		{0x1234, false, Mapped, 0x1234},
		{0xab<<56 | 0x1234, false, Mapped, 0x1234},
		{0xab<<56 | 1<<40 | 0x1234, false, OutsideRange, 1<<40 | 0x1234},
		{0xffffffffffffffff, false, Mapped, 0xffffffffffffffff},
		{0xabffffffffffffff, false, OutsideRange, 0xabffffffffffffff},
		{0xabffffffffffffff, true, Mapped, 0xffffffffffffffff},
	} {
		mmu.TCR &^= 1 << 38
		if tt.tbi1 {
			mmu.TCR |= 1 << 38
		}
		steps := 1
		if tt.end == OutsideRange {
			steps = 0
		}
		if p := wantEnd(t, m, mmu, tt.va, tt.end, steps, ""); p.VA != tt.at {
			t.Errorf("Translate %#x: address %#x, want %#x", tt.va, p.VA, tt.at)
		}
	}
}

func TestARM64BigEndian(t *testing.T) {
	const base = 0x40000000
	m := newRAM(base, 4096)
	copy(m.data[8:], []byte{0, 0, 0, 0, 0, 0x60, 0x07, 0x01})
	mmu := ARM64{TTBR0: base, TCR: 34 | 1<<23, SCTLR: 1 | sctlrSPAN | 1<<25}
	want := Row{Start: 2 * mib, Size: 2 * mib, Phys: 0x600000, Access: kRWX | UserExec, PageShift: 21}
	wantRows(t, m, mmu, Options{}, []Row{want})
	if p := wantEnd(t, m, mmu, 2*mib, Mapped, 1, "2 MiB"); p.Steps[0].Value != 0x600701 ||
		p.Steps[0].Flags != "block AF SH=3 AP=0 ATTR=0" {
		t.Errorf("step %+v", p.Steps[0])
	}
}

// TestARM64Sizes: values of TCR_EL1 that cannot be walked.
func TestARM64Sizes(t *testing.T) {
	m := newRAM(0x40000000, 4096)
	for _, tt := range []struct {
		tcr  uint64
		note string
	}{
		{15 | 1<<23, "T0SZ is 15"},
		{49 | 1<<23, "T0SZ is 49"},
		{0 | 1<<23, "T0SZ is 0"},
		{11 | 1<<23 | 1<<59, "T0SZ is 11"},
		{48 | 1<<23 | 1<<14, "T0SZ is 48"},
		{16 | 1<<23 | 3<<14, "TG0"},
		{16<<16 | 1<<7, "TG1"},
		{63<<16 | 1<<7 | 2<<30, "T1SZ is 63"},
	} {
		res := wantRows(t, m, ARM64{TTBR0: 0x40000000, TTBR1: 0x40000000, TCR: tt.tcr, SCTLR: 1 | sctlrSPAN}, Options{}, nil)
		if !strings.Contains(strings.Join(res.Notes, "\n"), tt.note) {
			t.Errorf("TCR %#x: notes %q, want one of %q", tt.tcr, res.Notes, tt.note)
		}
	}
}

// TestARM64UnreadableRoot: a table that could not be read below TTBR0 is not
// taken for another one when it is the root of TTBR1.
func TestARM64UnreadableRoot(t *testing.T) {
	const base = 0x40000000
	m := newRAM(base, 3*4096)
	m.put(base, 0, base+0x1000|3)
	m.put(base, 1, 0x90000000|3)
	m.put(base+0x1000, 0, 0x40000000|0x401)
	mmu := ARM64{TTBR0: base, TTBR1: 0x90000000, TCR: 16 | 25<<16 | 2<<30, SCTLR: 1 | sctlrSPAN}
	res := wantRows(t, m, mmu, Options{}, []Row{{Size: gib, Phys: gib, Access: kRWX | UserExec, PageShift: 30}})
	if res.Unread != 2 {
		t.Errorf("%d not readable, want 2", res.Unread)
	}
}

// TestARM64PAN: where there is PAN it is named, as it is flipped around accesses.
func TestARM64PAN(t *testing.T) {
	const base = 0x40000000
	m := newRAM(base, 4096)
	m.put(base, 5, 0x600000|0x741)
	for _, tt := range []struct {
		pan   bool
		sctlr uint64
		el    int
		named bool
	}{
		{false, sctlrSPAN, 1, false}, {true, sctlrSPAN, 1, true}, {false, 0, 1, true}, {true, 0, 2, true},
	} {
		mmu := ARM64{EL: tt.el, TTBR0: base, TCR: 34 | 1<<23, SCTLR: 1 | tt.sctlr, PAN: tt.pan}
		p := wantEnd(t, m, mmu, 10*mib, Mapped, 1, "2 MiB")
		named := slices.ContainsFunc(p.Notes, func(n string) bool { return strings.HasPrefix(n, alsoDecide+"PSTATE.PAN") })
		if named != tt.named || p.Access != kRW|uRWX {
			t.Errorf("%+v: %v, notes %q", tt, p.Access, p.Notes)
		}
	}
}
