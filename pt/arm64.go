package pt

import (
	"fmt"
	"math/bits"
)

// ARM64 is the set-up of the EL1&0 translation regime's stage 1 of an AArch64
// CPU, or of the EL2&0 regime, which is like it. What is named below stands in
// the Arm Architecture Reference Manual (DDI 0487), chapter D8 "The AArch64
// Virtual Memory System Architecture", and in the descriptions of the registers.
// 128-bit descriptors and indirect permissions (TCR2_EL1.D128, PIE) are not
// covered.
type ARM64 struct {
	// EL is the exception level whose registers the others are: 2 with the
	// EL2&0 regime, which HCR_EL2.E2H chooses, else 1; 0 stands for 1. At any
	// other level nothing can be said but that SCTLR_ELx.M is 0.
	EL                       int
	TTBR0, TTBR1, TCR, SCTLR uint64

	// PhysBits is the width of physical addresses that
	// ID_AA64MMFR0_EL1.PARange stands for, in bits. 0 when it is not known:
	// then TCR_ELx.IPS alone bounds them.
	PhysBits int

	// PAN is PSTATE.PAN, false where it is not known.
	PAN bool

	roots [2]otherRoot // for TTBR0 and TTBR1
}

// WithRoot is the same set-up with another root table for the lower addresses
// (TTBR0) or the upper ones (TTBR1). Where the register could not hold pa, walks fail.
func (c ARM64) WithRoot(pa uint64, upper bool) ARM64 {
	if upper {
		c.roots[1] = rootAt(pa)
	} else {
		c.roots[0] = rootAt(pa)
	}
	return c
}

// Bits of TCR_EL1 and SCTLR_EL1, and of TCR_EL2 and SCTLR_EL2 where HCR_EL2.E2H is 1.
const (
	tcrIPSShift = 32 // bits 34:32
	tcrTBI0     = 1 << 37
	tcrTBI1     = 1 << 38
	tcrHA       = 1 << 39
	tcrHD       = 1 << 40
	tcrDS       = 1 << 59

	sctlrM   = 1 << 0
	sctlrWXN = 1 << 19
	sctlrEE  = 1 << 25

	sctlrSPAN = 1 << 23 // set where there is no PAN
)

// tcrHalf says where TCR_ELx has what concerns one half of the addresses.
type tcrHalf struct {
	tsz, epd, tg, hpd, e0pd int
	grain                   [4]uint8 // by the value of TG; 0 is reserved
}

// Bits of descriptors (D8.3 "Translation table descriptor formats").
const (
	armValid = 1 << 0
	armTable = 1 << 1 // at the last level: page
	armNS    = 1 << 5
	armAP1   = 1 << 6 // EL0 may access
	armAP2   = 1 << 7 // read-only
	armAF    = 1 << 10
	armNG    = 1 << 11
	armGP    = 1 << 50
	armDBM   = 1 << 51
	armCont  = 1 << 52
	armPXN   = 1 << 53
	armUXN   = 1 << 54

	armPXNTable = 1 << 59
	armUXNTable = 1 << 60
	armAPTable0 = 1 << 61 // no access from EL0
	armAPTable1 = 1 << 62 // read-only
	armNSTable  = 1 << 63

	armTableShift = 59 // bits 62:59 are handed down
)

// What the levels above say: bits 62:59 of a table descriptor.
const (
	armInPXN inherited = 1 << iota
	armInUXN
	armInNoUser
	armInReadOnly
)

// armFormat is comparable, so that two halves of equal format can be told.
type armFormat struct {
	grain  uint8
	ds     bool  // descriptors hold 52-bit addresses in the form of FEAT_LPA2
	lpa    bool  // 64 KiB granule: bits 15:12 are address bits 51:48
	oa     int   // width of output addresses in bits
	blocks uint8 // bit n: descriptors of level n may be blocks
	hpd    bool  // hierarchical permissions are disabled
	dbm    bool  // the hardware manages dirty state
	wxn    bool
	e0pd   bool
}

func (c ARM64) regime() (*regime, error) {
	c.EL = max(c.EL, 1)
	switch {
	case c.SCTLR&sctlrM == 0:
		return nil, fmt.Errorf("SCTLR_EL%d.M is 0: %w", c.EL, ErrPagingOff)
	case c.EL > 2:
		return nil, fmt.Errorf("EL%d has no regime of two halves", c.EL)
	}
	r := &regime{bits: 64}
	lower, err := c.part(tcrHalf{tsz: 0, epd: 7, tg: 14, hpd: 41, e0pd: 55, grain: [4]uint8{12, 16, 14, 0}}, c.TTBR0, 0)
	if err != nil {
		return nil, err
	}
	upper, err := c.part(tcrHalf{tsz: 16, epd: 23, tg: 30, hpd: 42, e0pd: 56, grain: [4]uint8{0, 14, 12, 16}}, c.TTBR1, 1)
	if err != nil {
		return nil, err
	}
	if lower.format == upper.format {
		upper.id = 0
	}
	r.mode = fmt.Sprintf("arm64, TTBR0_EL%d %s, TTBR1_EL%[1]d %[3]s", c.EL, lower.mode(), upper.mode())
	r.parts = []part{lower, upper}
	tag0, tag1 := c.TCR&tcrTBI0 != 0, c.TCR&tcrTBI1 != 0
	if tag0 {
		r.notes = append(r.notes, fmt.Sprintf("TCR_EL%d.TBI0 is 1: bits 63:56 of lower addresses are ignored", c.EL))
	}
	if tag1 {
		r.notes = append(r.notes, fmt.Sprintf("TCR_EL%d.TBI1 is 1: bits 63:56 of upper addresses are ignored", c.EL))
	}
	// D8.4 "Memory access control", "Privileged access never": with SPAN 0 every
	// exception sets it.
	if c.PAN || c.SCTLR&sctlrSPAN == 0 {
		r.notes = append(r.notes, fmt.Sprintf(alsoDecide+"PSTATE.PAN (while it is 1 EL%d neither reads nor writes pages that EL0 may access)", c.EL))
	}
	// D8.8 "Address tagging": bit 55 tells which half it is.
	r.strip = func(va uint64) uint64 {
		switch upper := va>>55&1 != 0; {
		case upper && tag1:
			return va | bitRange(63, 56)
		case !upper && tag0:
			return va &^ bitRange(63, 56)
		}
		return va
	}
	return r, nil
}

// part is what TCR_ELx says about one half, with the root that ttbr holds, or
// the one that is asked for.
func (c ARM64) part(h tcrHalf, ttbr uint64, n uint64) (part, error) {
	bit := func(n int) bool { return c.TCR>>n&1 != 0 }
	p := part{id: n}
	tsz := int(c.TCR >> h.tsz & 63)
	p.size = 1
	if tsz > 0 {
		p.size <<= 64 - tsz
	}
	p.hi = p.size - 1
	if n == 1 {
		p.base = -p.size
	}
	f := armFormat{
		grain: h.grain[c.TCR>>h.tg&3],
		hpd:   bit(h.hpd), // RES0 without FEAT_HPDS
		e0pd:  bit(h.e0pd),
		dbm:   c.TCR&tcrHA != 0 && c.TCR&tcrHD != 0,
		wxn:   c.SCTLR&sctlrWXN != 0,
	}
	p.format = f
	if bit(h.epd) {
		p.off = fmt.Sprintf("TCR_EL%d.EPD%d is 1: nothing is translated through TTBR%[2]d_EL%[1]d", c.EL, n)
		return p, nil
	}
	if f.grain == 0 {
		p.off = fmt.Sprintf("TCR_EL%d.TG%d has the reserved value %d: nothing is listed for TTBR%[2]d_EL%[1]d", c.EL, n, c.TCR>>h.tg&3)
		return p, nil
	}
	f.ds = c.TCR&tcrDS != 0 && f.grain != 16
	// Table "Implemented input address sizes": 52 bits need LPA2, or LVA with
	// the 64 KiB granule; TxSZ beyond 39 needs FEAT_TTST.
	least, most := 16, 48
	if f.ds || f.grain == 16 {
		least = 12
	}
	if f.grain == 16 {
		most = 47
	}
	if tsz < least || tsz > most {
		p.off = fmt.Sprintf("TCR_EL%d.T%dSZ is %d, outside %d to %d: nothing is listed for TTBR%[2]d_EL%[1]d", c.EL, n, tsz, least, most)
		return p, nil
	}

	// TCR_ELx.IPS, "Intermediate Physical Address Size".
	ips := [8]int{32, 36, 40, 42, 44, 48, 52, 52}[c.TCR>>tcrIPSShift&7]
	f.oa = ips
	if !f.ds && f.grain != 16 {
		f.oa = min(f.oa, 48)
	}
	if c.PhysBits > 0 {
		f.oa = min(f.oa, c.PhysBits)
	}
	f.lpa = f.grain == 16 && (ips == 52 || c.PhysBits >= 52)

	// Levels of the manual: 3 is the last one, so that 3-n is ours.
	f.blocks = 1 << 1
	switch f.grain {
	case 12:
		f.blocks |= 1 << 2
		if f.ds {
			f.blocks |= 1 << 3
		}
	case 14:
		if f.ds {
			f.blocks |= 1 << 2
		}
	case 16:
		if f.lpa {
			f.blocks |= 1 << 2
		}
	}
	stride := f.grain - 3
	p.geometry = geometry{grain: f.grain, stride: stride, swap: c.SCTLR&sctlrEE != 0}
	p.format = f
	p.top = (64-tsz-int(f.grain)+int(stride)-1)/int(stride) - 1

	// TTBR0_ELx.BADDR: aligned to the root table's size, to 64 bytes at least
	// where bits 5:2 hold address bits 51:48.
	align := p.size >> p.shift(p.top) * 8
	p.root = ttbr & bitRange(47, 1)
	if f.ds || f.lpa && ips == 52 {
		align = max(align, 64)
		p.root |= ttbr >> 2 & 15 << 48
	}
	p.root &^= align - 1
	if err := c.roots[n].replace(&p.root, bitRange(f.oa-1, 0)&^(align-1)); err != nil {
		return part{}, err
	}
	if bits.Len64(p.root) > f.oa {
		p.off = fmt.Sprintf("TTBR%d_EL%d points to %#x, beyond the %d bits of physical addresses", n, c.EL, p.root, f.oa)
	}
	return p, nil
}

// mode describes the half, such as "4 KiB granule, 48 bits".
func (p *part) mode() string {
	if p.off != "" {
		return "off"
	}
	return fmt.Sprintf("%s granule, %d bits", sizeName(1<<p.grain), bits.Len64(p.size)-1)
}

// address is the output address of a descriptor, as far as shift says, and the
// bits of the descriptor that it is made of.
func (f armFormat) address(e uint64, shift int) (pa, field uint64) {
	top := 47
	if f.ds {
		top = 49
	}
	field = bitRange(top, shift)
	pa = e & field
	switch {
	case f.ds: // bits 9:8 are address bits 51:50
		pa |= e >> 8 & 3 << 50
		field |= bitRange(9, 8)
	case f.lpa:
		pa |= e >> 12 & 15 << 48
		field |= bitRange(15, 12)
	}
	return pa, field
}

func (f armFormat) decode(level, _ int, e uint64, in inherited) entry {
	if e&armValid == 0 {
		return entry{same: armValid}
	}
	grain := int(f.grain)
	if level > 0 && e&armTable != 0 {
		pa, field := f.address(e, grain)
		if bits.Len64(pa) > f.oa {
			return f.tooFar(pa, field)
		}
		if !f.hpd {
			in |= inherited(e >> armTableShift & 15)
		}
		return entry{kind: table, pa: pa, in: in}
	}
	if level == 0 && e&armTable == 0 {
		return entry{kind: reserved, same: armValid | armTable, why: "a block at the last level", bad: e & 3}
	}
	if level > 0 && f.blocks>>level&1 == 0 {
		return entry{kind: reserved, same: armValid | armTable, why: "a block where the granule has none", bad: e & 3}
	}

	shift := grain + (grain-3)*level
	pa, field := f.address(e, shift)
	if bits.Len64(pa) > f.oa {
		return f.tooFar(pa, field)
	}
	d := entry{kind: leaf, pa: pa, access: f.access(e, in), flags: f.flags(e),
		same: armValid | armTable | armAP1 | armAP2 | armDBM | armPXN | armUXN,
		addr: bitRange(min(f.oa, 48)-1, shift), step: 1 << shift}
	if f.oa < 52 { // some addresses are too far
		d.same |= field &^ d.addr
	}
	return d
}

// tooFar is a descriptor that leads beyond the output address size, which is
// an address size fault.
func (f armFormat) tooFar(pa, field uint64) entry {
	return entry{kind: reserved, same: armValid | armTable | field,
		why: "its address is beyond the width of physical addresses", bad: pa}
}

// access follows D8.4 "Memory access control", for a regime of two privilege
// levels.
func (f armFormat) access(e uint64, in inherited) Access {
	// Where the hardware keeps the dirty state, read-only with DBM means
	// writable and clean (D8.5 "Hardware updates to the translation tables").
	write := e&armAP2 == 0 || f.dbm && e&armDBM != 0
	write = write && in&armInReadOnly == 0
	user := e&armAP1 != 0 && in&armInNoUser == 0

	a := KernelRead
	if write {
		a |= KernelWrite
	}
	if user {
		a |= a << userShift
	}
	userWrite := a&UserWrite != 0
	if e&armPXN == 0 && in&armInPXN == 0 && !userWrite && !(f.wxn && write) {
		a |= KernelExec
	}
	if e&armUXN == 0 && in&armInUXN == 0 && !(f.wxn && userWrite) {
		a |= UserExec
	}
	if f.e0pd { // EL0 faults on the whole half
		a &^= userAll
	}
	return a
}

func (f armFormat) flags(e uint64) Flags {
	fl := hasAttrIndex | Flags(e>>2&7)<<attrShift
	if e&armNG == 0 {
		fl |= Global
	}
	for _, b := range [...]struct {
		bit  uint64
		flag Flags
	}{{armAF, Accessed}, {armCont, Contiguous}, {armDBM, DBM}, {armGP, Guarded}, {armNS, NonSecure}} {
		if e&b.bit != 0 {
			fl |= b.flag
		}
	}
	if !f.ds { // with DS, TCR_ELx says what SH is
		fl |= Flags(e>>8&3) << shareShift
	}
	return fl
}

// name is the level as the manual counts it: 3 is the last, -1 the first of five.
func (f armFormat) name(level int) string { return fmt.Sprintf("level %d", 3-level) }

func (f armFormat) describe(level int, e uint64) string {
	if e&armValid == 0 {
		return "not valid"
	}
	var w words
	if level > 0 && e&armTable != 0 {
		w.add(true, "table")
		w.add(e&armNSTable != 0, "NSTable")
		w.num(e>>61&3 != 0, "APTable", e>>61&3)
		w.add(e&armUXNTable != 0, "UXNTable")
		w.add(e&armPXNTable != 0, "PXNTable")
		return w.String()
	}
	switch {
	case level > 0:
		w.add(true, "block")
	case e&armTable != 0:
		w.add(true, "page")
	}
	w.add(e&armUXN != 0, "UXN")
	w.add(e&armPXN != 0, "PXN")
	w.add(e&armCont != 0, "CONT")
	w.add(e&armDBM != 0, "DBM")
	// GP lies within the address field of no format.
	w.add(e&armGP != 0, "GP")
	w.add(e&armNG != 0, "nG")
	w.add(e&armAF != 0, "AF")
	if !f.ds {
		w.num(true, "SH", e>>8&3)
	}
	w.num(true, "AP", e>>6&3)
	w.add(e&armNS != 0, "NS")
	w.num(true, "ATTR", e>>2&7)
	return w.String()
}
