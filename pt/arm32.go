package pt

import (
	"fmt"
	"math/bits"
	"strings"
)

// ARM32 is the set-up of the PL1&0 translation regime's stage 1 of an ARMv7-A
// CPU, or of one of ARMv6 in its form: with short descriptors, or with long ones
// (LPAE). What is named below stands in the ARM Architecture Reference Manual,
// ARMv7-A and ARMv7-R edition (DDI 0406C), chapter B3 "Virtual Memory System
// Architecture", and in the descriptions of the registers.
type ARM32 struct {
	TTBR0, TTBR1       uint64 // 32 bits count with short descriptors
	TTBCR, SCTLR, DACR uint32

	// PXN says that short descriptors have the bit (ID_MMFR0.VMSA is 4 or more);
	// long ones always have.
	PXN bool

	roots [2]otherRoot // for TTBR0 and TTBR1
}

// WithRoot is the same set-up with another root table in TTBR0, or in TTBR1.
// Where the register could not hold pa, walks fail.
func (c ARM32) WithRoot(pa uint64, upper bool) ARM32 {
	if upper {
		c.roots[1] = rootAt(pa)
	} else {
		c.roots[0] = rootAt(pa)
	}
	return c
}

// Upper reports whether an address is translated through TTBR1.
func (c ARM32) Upper(va uint64) bool {
	n, t0, t1 := c.TTBCR&7, c.TTBCR&7, c.TTBCR>>16&7
	switch {
	case c.TTBCR&ttbcrEAE == 0:
		return n > 0 && va>>(32-n) != 0
	case t1 > 0: // B3.6.4 "Selecting between TTBR0 and TTBR1, Long-descriptor ..."
		return va >= 1<<32-1<<(32-t1)
	}
	return t0 > 0 && va>>(32-t0) != 0
}

// Bits of TTBCR and SCTLR.
const (
	ttbcrPD0  = 1 << 4 // short descriptors
	ttbcrPD1  = 1 << 5
	ttbcrEPD0 = 1 << 7 // long descriptors
	ttbcrEPD1 = 1 << 23
	ttbcrEAE  = 1 << 31

	sctlrUWXN = 1 << 20
	sctlrXP   = 1 << 23 // ARMv6; reads as 1 since
	sctlrAFE  = 1 << 29
)

func (c ARM32) regime() (*regime, error) {
	switch {
	case c.SCTLR&sctlrM == 0:
		return nil, fmt.Errorf("SCTLR.M is 0: %w", ErrPagingOff)
	case c.TTBCR&ttbcrEAE != 0:
		return c.long()
	case c.SCTLR&sctlrXP == 0:
		return nil, fmt.Errorf("SCTLR.XP is 0: the tables have the form with subpages of ARMv5, which is not known here")
	}
	return c.short()
}

// short is the regime with short descriptors (B3.5 "Short-descriptor translation
// table format").
func (c ARM32) short() (*regime, error) {
	n := int(c.TTBCR & 7)
	f := arm32Short{afe: c.SCTLR&sctlrAFE != 0, pxn: c.PXN, wxn: c.SCTLR&sctlrWXN != 0, uwxn: c.SCTLR&sctlrUWXN != 0}
	p := part{format: f, geometry: geometry{grain: 12, stride: 8, half: true, swap: c.SCTLR&sctlrEE != 0}, top: 1}
	r := &regime{bits: 32, mode: "arm, short descriptors", domains: c.domains}

	// B3.5.4 "Selecting between TTBR0 and TTBR1, Short-descriptor ...": TTBR0
	// takes the addresses whose n upper bits are 0.
	lower := p
	lower.size = 1 << (32 - n)
	lower.hi = lower.size - 1
	lower.root = c.TTBR0 & bitRange(31, 14-n)
	if err := c.roots[0].replace(&lower.root, bitRange(31, 14-n)); err != nil {
		return nil, err
	}
	if c.TTBCR&ttbcrPD0 != 0 {
		lower.off = "TTBCR.PD0 is 1: nothing is translated through TTBR0"
	}
	r.parts = []part{lower}
	if n == 0 {
		return r, nil
	}
	upper := p
	upper.size = 1 << 32
	upper.lo, upper.hi = lower.size, upper.size-1
	upper.root = c.TTBR1 & bitRange(31, 14)
	if err := c.roots[1].replace(&upper.root, bitRange(31, 14)); err != nil {
		return nil, err
	}
	if c.TTBCR&ttbcrPD1 != 0 {
		upper.off = "TTBCR.PD1 is 1: nothing is translated through TTBR1"
	}
	r.parts = append(r.parts, upper)
	return r, nil
}

// domains says what DACR has for those of the domains met, one bit for each, that
// are not "client", whose permissions are those of the tables (B3.7.3 "Domains,
// Short-descriptor format only"). Linux closes the user's while its kernel runs.
func (c ARM32) domains(met uint16) []string {
	var unlike []string
	for d := range 16 {
		if met>>d&1 == 0 {
			continue
		}
		switch c.DACR >> (2 * d) & 3 {
		case 1:
		case 3:
			unlike = append(unlike, fmt.Sprintf("domain %d allows every access", d))
		default:
			unlike = append(unlike, fmt.Sprintf("domain %d allows none now", d))
		}
	}
	if len(unlike) == 0 {
		return nil
	}
	return []string{alsoDecide + "DACR (" + strings.Join(unlike, ", ") + ")"}
}

// long is the regime with long descriptors (B3.6 "Long-descriptor translation
// table format").
func (c ARM32) long() (*regime, error) {
	t0, t1 := int(c.TTBCR&7), int(c.TTBCR>>16&7)
	f := arm32Long{wxn: c.SCTLR&sctlrWXN != 0, uwxn: c.SCTLR&sctlrUWXN != 0}
	half := func(ttbr uint64, tsz, n int) (part, error) {
		p := part{format: f, geometry: geometry{grain: 12, stride: 9, swap: c.SCTLR&sctlrEE != 0}, size: 1 << (32 - tsz)}
		p.hi = p.size - 1
		// The walk begins at level 2 where addresses have 30 bits or less.
		if p.top = 2; tsz >= 2 {
			p.top = 1
		}
		align := int(bits.Len64(p.size>>p.shift(p.top)*8)) - 1 // log2 of the root table's size
		p.root = ttbr & bitRange(39, align)
		return p, c.roots[n].replace(&p.root, bitRange(39, align))
	}
	lower, err := half(c.TTBR0, t0, 0)
	if err != nil {
		return nil, err
	}
	if c.TTBCR&ttbcrEPD0 != 0 {
		lower.off = "TTBCR.EPD0 is 1: nothing is translated through TTBR0"
	}
	r := &regime{bits: 32, mode: "arm, long descriptors", parts: []part{lower}}
	if t0 == 0 && t1 == 0 {
		return r, nil
	}
	upper, err := half(c.TTBR1, t1, 1)
	if err != nil {
		return nil, err
	}
	if c.TTBCR&ttbcrEPD1 != 0 {
		upper.off = "TTBCR.EPD1 is 1: nothing is translated through TTBR1"
	}
	// B3.6.4 "Selecting between TTBR0 and TTBR1, Long-descriptor ...": of the two
	// a size of 0 stands for what the other one leaves.
	upper.base = 1<<32 - upper.size
	r.parts[0].cut, upper.cut = true, true // the border is within a block of 1 GiB, perhaps
	switch {
	case t1 == 0:
		upper.lo = lower.size
	case t0 == 0:
		r.parts[0].hi = upper.base - 1
	}
	r.parts = append(r.parts, upper)
	return r, nil
}

// Bits of short descriptors (figures B3-4 and B3-5). At the first level bits 1:0
// are 1 for a table and 2 for a section, at the second 1 for a large page; bit 1
// alone makes a small page.
const (
	a32B = 1 << 2
	a32C = 1 << 3

	a32SectionPXN = 1 << 0
	a32SectionXN  = 1 << 4
	a32SectionS   = 1 << 16
	a32SectionNG  = 1 << 17
	a32Super      = 1 << 18
	a32SectionNS  = 1 << 19

	a32SmallXN = 1 << 0
	a32LargeXN = 1 << 15
	a32PageS   = 1 << 10
	a32PageNG  = 1 << 11
)

// What a table's first-level descriptor says to the pages: the domain, and two
// bits.
const (
	a32InDomain inherited = 15
	a32InPXN    inherited = 1 << 4
	a32InNS     inherited = 1 << 5
)

// arm32Short is short descriptors; comparable.
type arm32Short struct {
	afe       bool // AP[0] is the access flag
	pxn       bool // there is such a bit
	wxn, uwxn bool
}

// a32Leaf is a descriptor that maps memory, field by field.
type a32Leaf struct {
	ap, tex, domain uint32
	xn, pxn         bool
	s, ng, ns       bool
	set             bool // one of 16 alike, of a supersection or a large page
	pa              uint64
}

func (f arm32Short) decode(level, index int, e uint64, in inherited) entry {
	bit := func(b uint64) bool { return e&b != 0 }
	const form = 3 // bits 1:0
	set := uint64(index & 15)
	var l a32Leaf
	d := entry{kind: leaf, same: form}
	switch {
	case e&form == 0:
		return entry{same: form}
	case level == 1 && e&form == 1:
		in := inherited(e >> 5 & 15)
		if f.pxn && bit(1<<2) {
			in |= a32InPXN
		}
		if bit(1 << 3) {
			in |= a32InNS
		}
		return entry{kind: table, pa: e & bitRange(31, 10), in: in}
	case level == 1 && e&form == 3 && !f.pxn:
		return entry{kind: reserved, same: form, why: "bit 0 of a section is set, but the CPU has no PXN", bad: e & form}
	case level == 1:
		l = a32Leaf{
			ap: uint32(e>>10&3 | e>>15&1<<2), tex: uint32(e >> 12 & 7), xn: bit(a32SectionXN), pxn: bit(a32SectionPXN),
			s: bit(a32SectionS), ng: bit(a32SectionNG), ns: bit(a32SectionNS),
		}
		d.same |= 3<<10 | 1<<15 | a32SectionXN | a32Super
		if l.set = bit(a32Super); l.set {
			// The extended base address: bits 35:32 and 39:36.
			l.pa = e&bitRange(31, 24) | e>>20&15<<32 | e>>5&15<<36 | set<<20
		} else {
			l.pa, l.domain = e&bitRange(31, 20), uint32(e>>5&15)
			d.same |= 15 << 5 // which domains there are is told
			d.addr, d.step = bitRange(31, 20), 1<<20
		}
	default:
		l = a32Leaf{
			ap: uint32(e>>4&3 | e>>9&1<<2), domain: uint32(in & a32InDomain), pxn: in&a32InPXN != 0,
			s: bit(a32PageS), ng: bit(a32PageNG), ns: in&a32InNS != 0,
		}
		d.same |= 3<<4 | 1<<9
		if l.set = e&form == 1; l.set {
			l.tex, l.xn, l.pa = uint32(e>>12&7), bit(a32LargeXN), e&bitRange(31, 16)|set<<12
			d.same |= a32LargeXN
		} else {
			l.tex, l.xn, l.pa = uint32(e>>6&7), bit(a32SmallXN), e&bitRange(31, 12)
			d.addr, d.step = bitRange(31, 12), 1<<12
		}
	}
	d.pa, d.access, d.flags = l.pa, f.access(l), f.flags(l, e)
	if d.access == 0 {
		return entry{kind: denied, same: d.same, why: fmt.Sprintf("AP is %d", l.ap)}
	}
	return d
}

// access follows B3.7.1 "Access permissions" and B3.7.2 "Execute-never
// restrictions on instruction fetching".
func (f arm32Short) access(l a32Leaf) Access {
	var a Access
	ap := l.ap
	if f.afe { // table B3-6, "VMSAv7 AP[2:1] access permissions model"
		ap |= 1
	}
	switch ap { // table B3-8, "VMSAv7 MMU access permissions"
	case 1:
		a = KernelRead | KernelWrite
	case 2:
		a = KernelRead | KernelWrite | UserRead
	case 3:
		a = KernelRead | KernelWrite | UserRead | UserWrite
	case 5:
		a = KernelRead
	case 6, 7: // 6 is deprecated
		a = KernelRead | UserRead
	}
	return arm32Exec(a, l.xn, l.pxn, f.wxn, f.uwxn)
}

// arm32Exec adds who may execute, for which he has to be able to read.
func arm32Exec(a Access, xn, pxn, wxn, uwxn bool) Access {
	may := a
	if may&KernelRead != 0 && !xn && !pxn && !(wxn && a&KernelWrite != 0) && !(uwxn && a&UserWrite != 0) {
		may |= KernelExec
	}
	if may&UserRead != 0 && !xn && !(wxn && a&UserWrite != 0) {
		may |= UserExec
	}
	return may
}

func (f arm32Short) flags(l a32Leaf, e uint64) Flags {
	fl := hasTEX | Flags(l.tex)<<(texShift+2) | Flags(e>>2&3)<<texShift | Flags(l.domain)<<keyShift
	for _, b := range [...]struct {
		set  bool
		flag Flags
	}{{!l.ng, Global}, {f.afe && l.ap&1 != 0, Accessed}, {l.s, 1 << shareShift}, {l.ns, NonSecure}, {l.set, Contiguous}} {
		if b.set {
			fl |= b.flag
		}
	}
	return fl
}

// name is the level as the manual counts it: 2 is the last.
func (f arm32Short) name(level int) string { return fmt.Sprintf("level %d", 2-level) }

func (f arm32Short) describe(level int, e uint64) string {
	var w words
	on := func(b uint64, word string) { w.add(e&b != 0, word) }
	switch {
	case e&3 == 0:
		return "not valid"
	case level == 1 && e&3 == 1:
		w.add(true, "table")
		on(1<<3, "NS")
		w.add(f.pxn && e>>2&1 != 0, "PXN")
		w.num(true, "DOMAIN", e>>5&15)
		return w.String()
	case level == 1:
		w.add(e&a32Super == 0, "section")
		w.add(e&a32Super != 0, "supersection")
		on(a32SectionNS, "NS")
		on(a32SectionNG, "nG")
		on(a32SectionS, "S")
		w.num(true, "AP", e>>10&3|e>>15&1<<2)
		w.num(true, "TEX", e>>12&7)
		on(a32C, "C")
		on(a32B, "B")
		on(a32SectionXN, "XN")
		on(a32SectionPXN, "PXN")
		if e&a32Super == 0 {
			w.num(true, "DOMAIN", e>>5&15)
		}
		return w.String()
	}
	large := e&3 == 1
	w.add(large, "large page")
	w.add(!large, "small page")
	on(a32PageNG, "nG")
	on(a32PageS, "S")
	w.num(true, "AP", e>>4&3|e>>9&1<<2)
	tex, xn := e>>6&7, uint64(a32SmallXN)
	if large {
		tex, xn = e>>12&7, a32LargeXN
	}
	w.num(true, "TEX", tex)
	on(a32C, "C")
	on(a32B, "B")
	on(xn, "XN")
	return w.String()
}

// arm32Long is long descriptors, whose bits are those of AArch64 but for what
// execution hangs on: UXN is XN, for everybody. Comparable.
type arm32Long struct{ wxn, uwxn bool }

// arm32PA is the bits of a long descriptor that hold an address (B3.6.1; bits
// 51:40 mean nothing).
func arm32PA(shift int) uint64 { return bitRange(39, shift) }

func (f arm32Long) decode(level, _ int, e uint64, in inherited) entry {
	switch {
	case e&armValid == 0:
		return entry{same: armValid}
	case level > 0 && e&armTable != 0:
		return entry{kind: table, pa: e & arm32PA(12), in: in | inherited(e>>armTableShift&15)}
	case level == 0 && e&armTable == 0:
		return entry{kind: reserved, same: armValid | armTable, why: "a block at the last level", bad: e & 3}
	}
	shift := 12 + 9*level
	user := e&armAP1 != 0 && in&armInNoUser == 0
	a := KernelRead
	if e&armAP2 == 0 && in&armInReadOnly == 0 {
		a |= KernelWrite
	}
	if user {
		a |= a << userShift
	}
	xn := e&armUXN != 0 || in&armInUXN != 0
	pxn := e&armPXN != 0 || in&armInPXN != 0
	return entry{
		kind: leaf, pa: e & arm32PA(shift), access: arm32Exec(a, xn, pxn, f.wxn, f.uwxn), flags: f.flags(e),
		same: armValid | armTable | armAP1 | armAP2 | armPXN | armUXN,
		addr: arm32PA(shift), step: 1 << shift,
	}
}

func (f arm32Long) flags(e uint64) Flags {
	fl := hasAttrIndex | Flags(e>>2&7)<<attrShift | Flags(e>>8&3)<<shareShift
	if e&armNG == 0 {
		fl |= Global
	}
	for _, b := range [...]struct {
		bit  uint64
		flag Flags
	}{{armAF, Accessed}, {armCont, Contiguous}, {armNS, NonSecure}} {
		if e&b.bit != 0 {
			fl |= b.flag
		}
	}
	return fl
}

// name is the level as the manual counts it: 3 is the last.
func (f arm32Long) name(level int) string { return fmt.Sprintf("level %d", 3-level) }

func (f arm32Long) describe(level int, e uint64) string {
	if e&armValid == 0 {
		return "not valid"
	}
	var w words
	if level > 0 && e&armTable != 0 {
		w.add(true, "table")
		w.add(e&armNSTable != 0, "NSTable")
		w.num(e>>61&3 != 0, "APTable", e>>61&3)
		w.add(e&armUXNTable != 0, "XNTable")
		w.add(e&armPXNTable != 0, "PXNTable")
		return w.String()
	}
	w.add(level > 0, "block")
	w.add(level == 0 && e&armTable != 0, "page")
	w.add(e&armUXN != 0, "XN")
	w.add(e&armPXN != 0, "PXN")
	w.add(e&armCont != 0, "CONT")
	w.add(e&armNG != 0, "nG")
	w.add(e&armAF != 0, "AF")
	w.num(true, "SH", e>>8&3)
	w.num(true, "AP", e>>6&3)
	w.add(e&armNS != 0, "NS")
	w.num(true, "ATTR", e>>2&7)
	return w.String()
}
