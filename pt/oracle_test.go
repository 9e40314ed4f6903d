package pt

import (
	"encoding/binary"
	"errors"
)

// ram is physical memory of size bytes from base on. It counts what is read.
type ram struct {
	base  uint64
	data  []byte
	reads map[uint64]int // table reads by address; nil: not counted
}

var errNoRAM = errors.New("no RAM there")

func newRAM(base uint64, size int) *ram { return &ram{base: base, data: make([]byte, size)} }

func (m *ram) ReadPhys(p []byte, pa uint64) error {
	if m.reads != nil {
		m.reads[pa]++
	}
	off := pa - m.base
	if off > uint64(len(m.data)) || uint64(len(m.data))-off < uint64(len(p)) {
		return errNoRAM
	}
	copy(p, m.data[off:])
	return nil
}

// put stores 8-byte entry number i of the table at pa.
func (m *ram) put(pa uint64, i int, e uint64) {
	binary.LittleEndian.PutUint64(m.data[pa-m.base+uint64(i)*8:], e)
}

// put4 stores 4-byte entry number i of the table at pa.
func (m *ram) put4(pa uint64, i int, e uint32) {
	binary.LittleEndian.PutUint32(m.data[pa-m.base+uint64(i)*4:], e)
}

func (m *ram) get8(pa uint64) (uint64, bool) {
	off := pa - m.base
	if off >= uint64(len(m.data)) {
		return 0, false
	}
	return binary.LittleEndian.Uint64(m.data[off:]), true
}

func (m *ram) get4(pa uint64) (uint64, bool) {
	off := pa - m.base
	if off >= uint64(len(m.data)) {
		return 0, false
	}
	return uint64(binary.LittleEndian.Uint32(m.data[off:])), true
}

// tr is one address's translation by an oracle.
type tr struct {
	ok     bool
	pa     uint64 // of the address itself
	shift  uint8
	access Access
	flags  Flags
}

// The oracles below translate one address each, straight from the manuals'
// pictures: every bit by its number, no table but the one at hand, nothing
// shared with the walkers but the names of the results.

func bit(v uint64, n int) bool { return v>>n&1 == 1 }

func field(v uint64, hi, lo int) uint64 { return v << (63 - hi) >> (63 - hi + lo) }

func access(kr, kw, kx, ur, uw, ux bool) Access {
	var a Access
	for i, set := range []bool{kr, kw, kx, ur, uw, ux} {
		if set {
			a |= 1 << i
		}
	}
	return a
}

func flagsOf(pairs ...any) Flags {
	var f Flags
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i].(bool) {
			f |= pairs[i+1].(Flags)
		}
	}
	return f
}

func oracleX86(c X86, m *ram, va uint64) tr {
	nxe := bit(c.EFER, 11)
	if !bit(c.CR4, 5) { // 32-bit
		if va>>32 != 0 {
			return tr{}
		}
		pde, ok := m.get4(c.CR3&0xfffff000 + field(va, 31, 22)*4)
		if !ok || !bit(pde, 0) {
			return tr{}
		}
		w, u, e := bit(pde, 1), bit(pde, 2), pde
		var t tr
		if bit(pde, 7) && bit(c.CR4, 4) {
			high := field(pde, 20, 13)
			if bit(pde, 21) {
				return tr{}
			}
			t = tr{pa: field(pde, 31, 22)<<22 | high<<32 | va&0x3fffff, shift: 22, flags: flagsOf(bit(pde, 12), PAT)}
		} else {
			pte, ok := m.get4(pde&0xfffff000 + field(va, 21, 12)*4)
			if !ok || !bit(pte, 0) {
				return tr{}
			}
			w, u, e = w && bit(pte, 1), u && bit(pte, 2), pte
			t = tr{pa: pte&0xfffff000 | va&0xfff, shift: 12, flags: flagsOf(bit(pte, 7), PAT)}
		}
		t.ok = true
		t.access = access(true, w, true, u, u && w, u)
		t.flags |= flagsOf(bit(e, 8), Global, bit(e, 5), Accessed, bit(e, 6), Dirty, bit(e, 3), PWT, bit(e, 4), PCD)
		return t
	}
	long := bit(c.EFER, 10)
	levels := 3
	table := c.CR3 & 0xffffffe0
	if long {
		levels = 4
		if bit(c.CR4, 12) {
			levels = 5
		}
		table = c.CR3 & 0x000ffffffffff000
		bits := 12 + 9*levels
		if uint64(int64(va<<(64-bits))>>(64-bits)) != va {
			return tr{}
		}
	} else if va>>32 != 0 {
		return tr{}
	}
	w, u, x := true, true, true
	for l := levels; l >= 1; l-- { // l = 1 is the page table
		shift := 12 + 9*(l-1)
		e, ok := m.get8(table + va>>shift&511*8)
		if !ok || !bit(e, 0) {
			return tr{}
		}
		if bit(e, 63) && !nxe {
			return tr{}
		}
		if !long && field(e, 62, 52) != 0 {
			return tr{}
		}
		if !long && l == 3 {
			if bit(e, 63) {
				return tr{}
			}
			table = e & 0x000ffffffffff000
			continue
		}
		if l >= 4 && bit(e, 7) {
			return tr{}
		}
		w, u, x = w && bit(e, 1), u && bit(e, 2), x && !bit(e, 63)
		large := (l == 2 || l == 3) && bit(e, 7)
		if large && field(e, shift-1, 13) != 0 {
			return tr{}
		}
		if l == 1 || large {
			page := uint64(1)<<shift - 1
			pat := bit(e, 7)
			if large {
				pat = bit(e, 12)
			}
			t := tr{ok: true, shift: uint8(shift), pa: e&0x000fffffffffffff&^page | va&page,
				access: access(true, w, x, u, u && w, u && x),
				flags: flagsOf(bit(e, 8), Global, bit(e, 5), Accessed, bit(e, 6), Dirty,
					bit(e, 3), PWT, bit(e, 4), PCD, pat, PAT)}
			if long && (u && bit(c.CR4, 22) || !u && bit(c.CR4, 24)) {
				t.flags |= Flags(field(e, 62, 59))<<20 | 1<<24
			}
			return t
		}
		table = e & 0x000ffffffffff000
	}
	panic("not reached")
}

func oracleRISCV(c RISCV, m *ram, va uint64) tr {
	levels, bits, psize := 2, 10, 4
	table := c.SATP & 0x3fffff << 12
	if c.XLEN != 32 {
		levels, bits, psize = int(c.SATP>>60)-5, 9, 8
		table = c.SATP & 0xfffffffffff << 12
		n := 12 + 9*levels
		if uint64(int64(va<<(64-n))>>(64-n)) != va {
			return tr{}
		}
	} else if va>>32 != 0 {
		return tr{}
	}
	global := false
	for i := levels - 1; i >= 0; i-- {
		shift := 12 + bits*i
		vpn := va >> shift & (1<<bits - 1)
		var e uint64
		var ok bool
		if psize == 4 {
			e, ok = m.get4(table + vpn*4)
		} else {
			e, ok = m.get8(table + vpn*8)
		}
		if !ok || !bit(e, 0) || !bit(e, 1) && bit(e, 2) {
			return tr{}
		}
		ppn := e >> 10
		var pbmt uint64
		n := false
		if psize == 8 {
			ppn = field(e, 53, 10)
			pbmt, n = field(e, 62, 61), bit(e, 63)
			if field(e, 60, 54) != 0 || pbmt != 0 && c.NoSvpbmt {
				return tr{}
			}
		}
		global = global || bit(e, 5)
		if !bit(e, 1) && !bit(e, 3) {
			if i == 0 || bit(e, 4) || bit(e, 6) || bit(e, 7) || pbmt != 0 || n {
				return tr{}
			}
			table = ppn << 12
			continue
		}
		if ppn&(1<<(bits*i)-1) != 0 || pbmt == 3 {
			return tr{}
		}
		if n {
			if i != 0 || ppn&15 != 8 {
				return tr{}
			}
			ppn = ppn - 8 + vpn&15
		}
		r, w, x, u := bit(e, 1), bit(e, 2), bit(e, 3), bit(e, 4)
		return tr{ok: true, shift: uint8(shift), pa: ppn<<12 | va&(1<<shift-1),
			access: access(r, w, x && !u, u && r, u && w, u && x),
			flags: flagsOf(global, Global, bit(e, 6), Accessed, bit(e, 7), Dirty, n, NAPOT) |
				Flags(pbmt)<<14}
	}
	return tr{}
}

func oracleARM64(c ARM64, m *ram, va uint64) tr {
	if bit(va, 55) && bit(c.TCR, 38) {
		va |= 0xff << 56
	} else if !bit(va, 55) && bit(c.TCR, 37) {
		va &^= 0xff << 56
	}
	upper := bit(va, 63)
	ttbr, tsz, epd, tg, hpd, e0pd := c.TTBR0, field(c.TCR, 5, 0), bit(c.TCR, 7), field(c.TCR, 15, 14), bit(c.TCR, 41), bit(c.TCR, 55)
	grain := [...]int{12, 16, 14, 0}[tg]
	if upper {
		ttbr, tsz, epd, tg, hpd, e0pd = c.TTBR1, field(c.TCR, 21, 16), bit(c.TCR, 23), field(c.TCR, 31, 30), bit(c.TCR, 42), bit(c.TCR, 56)
		grain = [...]int{0, 14, 12, 16}[tg]
	}
	if epd || grain == 0 {
		return tr{}
	}
	ds := bit(c.TCR, 59) && grain != 16
	least, most := uint64(16), uint64(48)
	if ds || grain == 16 {
		least = 12
	}
	if grain == 16 {
		most = 47
	}
	if tsz < least || tsz > most {
		return tr{}
	}
	vaBits := 64 - int(tsz)
	want := uint64(0)
	if upper {
		want = 1<<tsz - 1
	}
	if va>>vaBits != want {
		return tr{}
	}
	ips := [...]int{32, 36, 40, 42, 44, 48, 52, 52}[field(c.TCR, 34, 32)]
	oa := ips
	if oa > 48 && !ds && grain != 16 {
		oa = 48
	}
	if c.PhysBits != 0 && c.PhysBits < oa {
		oa = c.PhysBits
	}
	lpa := grain == 16 && (ips == 52 || c.PhysBits >= 52)
	stride := grain - 3
	level := 3
	for grain+stride*(4-level) < vaBits {
		level--
	}
	// The root table: as many entries as the address has bits left for.
	entries := uint64(1) << (vaBits - grain - stride*(3-level))
	size := entries * 8
	table := ttbr & 0x0000fffffffffffe
	if ds || lpa && ips == 52 {
		if size < 64 {
			size = 64
		}
		table = ttbr&0x0000ffffffffffc0 | field(ttbr, 5, 2)<<48
	}
	table -= table % size
	if table>>oa != 0 {
		return tr{}
	}
	noUser, readOnly, uxnT, pxnT := false, false, false, false
	for ; ; level++ {
		shift := grain + stride*(3-level)
		e, ok := m.get8(table + va>>shift%entries*8)
		entries = 1 << stride
		if !ok || !bit(e, 0) {
			return tr{}
		}
		isTable := level < 3 && bit(e, 1)
		low := shift
		if isTable {
			low = grain
		}
		var out uint64
		switch {
		case ds:
			out = e&0x0003ffffffffffff | field(e, 9, 8)<<50
		case lpa:
			out = e&0x0000ffffffffffff | field(e, 15, 12)<<48
		default:
			out = e & 0x0000ffffffffffff
		}
		out = out >> low << low
		if out>>oa != 0 && (isTable || level == 3 && bit(e, 1) || level < 3) {
			return tr{}
		}
		if isTable {
			if !hpd {
				readOnly = readOnly || bit(e, 62)
				noUser = noUser || bit(e, 61)
				uxnT = uxnT || bit(e, 60)
				pxnT = pxnT || bit(e, 59)
			}
			table = out
			continue
		}
		if level == 3 && !bit(e, 1) {
			return tr{}
		}
		if level < 3 {
			allowed := level == 2
			switch {
			case grain == 12 && level == 1:
				allowed = true
			case grain == 12 && level == 0, grain == 14 && level == 1:
				allowed = ds
			case grain == 16 && level == 1:
				allowed = lpa
			}
			if !allowed {
				return tr{}
			}
		}
		ap2 := bit(e, 7)
		if bit(c.TCR, 39) && bit(c.TCR, 40) && bit(e, 51) {
			ap2 = false
		}
		var pr, pw, ur, uw bool
		switch {
		case !ap2 && !bit(e, 6):
			pr, pw = true, true
		case !ap2:
			pr, pw, ur, uw = true, true, true, true
		case !bit(e, 6):
			pr = true
		default:
			pr, ur = true, true
		}
		if noUser {
			ur, uw = false, false
		}
		if readOnly {
			pw, uw = false, false
		}
		px := !bit(e, 53) && !pxnT && !uw
		ux := !bit(e, 54) && !uxnT
		if bit(c.SCTLR, 19) {
			px = px && !pw
			ux = ux && !uw
		}
		if e0pd {
			ur, uw, ux = false, false, false
		}
		t := tr{ok: true, shift: uint8(shift), pa: out | va&(1<<shift-1), access: access(pr, pw, px, ur, uw, ux),
			flags: flagsOf(!bit(e, 11), Global, bit(e, 10), Accessed, bit(e, 52), Contiguous, bit(e, 51), DBM,
				bit(e, 50), Guarded, bit(e, 5), NonSecure) | 1<<11 | Flags(field(e, 4, 2))<<16}
		if !ds {
			t.flags |= Flags(field(e, 9, 8)) << 12
		}
		return t
	}
}

// arm32Access is who may do what, from reading and writing on (B3.7.2).
func arm32Access(c ARM32, pr, pw, ur, uw, xn, pxn bool) Access {
	wxn, uwxn := bit(uint64(c.SCTLR), 19), bit(uint64(c.SCTLR), 20)
	px := pr && !(xn || pxn || wxn && pw || uwxn && uw)
	ux := ur && !(xn || wxn && uw)
	return access(pr, pw, px, ur, uw, ux)
}

func oracleARM32(c ARM32, m *ram, va uint64) tr {
	if va>>32 != 0 {
		return tr{}
	}
	ttbcr := uint64(c.TTBCR)
	if bit(ttbcr, 31) {
		return oracleLPAE(c, m, va)
	}
	n := int(field(ttbcr, 2, 0))
	table := c.TTBR0 & 0xffffffff >> (14 - n) << (14 - n)
	if n > 0 && field(va, 31, 32-n) != 0 {
		if bit(ttbcr, 5) {
			return tr{}
		}
		table = c.TTBR1 & 0xffffc000
	} else if bit(ttbcr, 4) {
		return tr{}
	}
	first, ok := m.get4(table + va>>20*4)
	if !ok {
		return tr{}
	}
	var t tr
	var ap, tex, cb uint64
	var xn, pxn, ng, s, ns, set bool
	domain := field(first, 8, 5)
	switch field(first, 1, 0) {
	case 0:
		return tr{}
	case 1:
		pxn = c.PXN && bit(first, 2)
		ns = bit(first, 3)
		second, ok := m.get4(first&0xfffffc00 + field(va, 19, 12)*4)
		if !ok || field(second, 1, 0) == 0 {
			return tr{}
		}
		t.shift = 12
		ap, cb = field(second, 9, 9)<<2|field(second, 5, 4), field(second, 3, 2)
		s, ng = bit(second, 10), bit(second, 11)
		if bit(second, 1) { // small
			t.pa = second&0xfffff000 | field(va, 11, 0)
			tex, xn = field(second, 8, 6), bit(second, 0)
		} else {
			t.pa = second&0xffff0000 | field(va, 15, 0)
			tex, xn, set = field(second, 14, 12), bit(second, 15), true
		}
	case 3:
		if !c.PXN {
			return tr{}
		}
		pxn = true
		fallthrough
	case 2:
		t.shift = 20
		ap, tex, cb = field(first, 15, 15)<<2|field(first, 11, 10), field(first, 14, 12), field(first, 3, 2)
		xn, s, ng, ns = bit(first, 4), bit(first, 16), bit(first, 17), bit(first, 19)
		if bit(first, 18) {
			t.pa = field(first, 8, 5)<<36 | field(first, 23, 20)<<32 | first&0xff000000 | field(va, 23, 0)
			domain, set = 0, true
		} else {
			t.pa = first&0xfff00000 | field(va, 19, 0)
		}
	}
	var pr, pw, ur, uw, af bool
	if bit(uint64(c.SCTLR), 29) { // AFE
		pr, pw, ur, uw = true, !bit(ap, 2), bit(ap, 1), bit(ap, 1) && !bit(ap, 2)
		af = bit(ap, 0)
	} else {
		pr = ap != 0 && ap != 4
		pw = ap == 1 || ap == 2 || ap == 3
		ur = ap == 2 || ap == 3 || ap == 6 || ap == 7
		uw = ap == 3
	}
	if !pr {
		return tr{}
	}
	t.ok, t.access = true, arm32Access(c, pr, pw, ur, uw, xn, pxn)
	t.flags = flagsOf(!ng, Global, af, Accessed, s, Flags(1<<12), ns, NonSecure, set, Contiguous) |
		1<<30 | Flags(domain)<<20 | Flags(tex<<2|cb)<<25
	return t
}

func oracleLPAE(c ARM32, m *ram, va uint64) tr {
	ttbcr := uint64(c.TTBCR)
	t0, t1 := int(field(ttbcr, 2, 0)), int(field(ttbcr, 18, 16))
	var in0, in1 bool
	switch { // table B3-2
	case t0 == 0 && t1 == 0:
		in0 = true
	case t1 == 0:
		in0 = va < 1<<(32-t0)
		in1 = !in0
	case t0 == 0:
		in0 = va < 1<<32-1<<(32-t1)
		in1 = !in0
	default:
		in0, in1 = va < 1<<(32-t0), va >= 1<<32-1<<(32-t1)
	}
	ttbr, size := c.TTBR0, 32-t0
	switch {
	case in0 && bit(ttbcr, 7), in1 && bit(ttbcr, 23), !in0 && !in1:
		return tr{}
	case in1:
		ttbr, size = c.TTBR1, 32-t1
	}
	level, x := 1, size-27 // 5-TxSZ
	if size <= 30 {
		level, x = 2, size-18 // 14-TxSZ
	}
	table := field(ttbr, 39, x) << x
	index := field(va, size-1, 39-9*level)
	readOnly, noUser, xnT, pxnT := false, false, false, false
	for ; ; level++ {
		low := 39 - 9*level
		e, ok := m.get8(table + index*8)
		if !ok || !bit(e, 0) || level == 3 && !bit(e, 1) {
			return tr{}
		}
		if level < 3 && bit(e, 1) {
			readOnly, noUser = readOnly || bit(e, 62), noUser || bit(e, 61)
			xnT, pxnT = xnT || bit(e, 60), pxnT || bit(e, 59)
			table, index = field(e, 39, 12)<<12, field(va, low-1, low-9)
			continue
		}
		w, u := !bit(e, 7) && !readOnly, bit(e, 6) && !noUser
		return tr{ok: true, shift: uint8(low), pa: field(e, 39, low)<<low | field(va, low-1, 0),
			access: arm32Access(c, true, w, u, u && w, bit(e, 54) || xnT, bit(e, 53) || pxnT),
			flags: flagsOf(!bit(e, 11), Global, bit(e, 10), Accessed, bit(e, 52), Contiguous, bit(e, 5), NonSecure) |
				1<<11 | Flags(field(e, 4, 2))<<16 | Flags(field(e, 9, 8))<<12}
	}
}

// oracle translates with the oracle for mmu.
func oracle(mmu MMU, m *ram, va uint64) tr {
	switch c := mmu.(type) {
	case X86:
		return oracleX86(c, m, va)
	case RISCV:
		return oracleRISCV(c, m, va)
	case ARM64:
		return oracleARM64(c, m, va)
	case ARM32:
		return oracleARM32(c, m, va)
	}
	panic("unknown MMU")
}

// enumerate lists the rows of n pages of 1<<shift bytes from start on, from the
// definition of a row and one translation for each page.
func enumerate(mmu MMU, m *ram, pte bool, start uint64, n int, shift uint8) []Row {
	var rows []Row
	for i := range n {
		va := start + uint64(i)<<shift
		t := oracle(mmu, m, va)
		if !t.ok {
			continue
		}
		if !pte {
			t.flags = 0
		}
		if k := len(rows); k > 0 {
			l := &rows[k-1]
			if l.Start+l.Size == va && l.Access == t.access &&
				(!pte || l.Phys+l.Size == t.pa && l.PageShift == t.shift && l.Flags == t.flags) {
				l.Size += 1 << shift
				if l.PageShift != t.shift {
					l.PageShift = 0
				}
				continue
			}
		}
		rows = append(rows, Row{Start: va, Size: 1 << shift, Phys: t.pa, Flags: t.flags, Access: t.access, PageShift: t.shift})
	}
	return rows
}
