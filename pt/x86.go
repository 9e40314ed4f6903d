package pt

import (
	"fmt"
	"strings"
)

// X86 is the paging set-up of an x86 CPU: the control registers as they are.
// Tables and sections named below are those of the chapter "Paging" of the
// Intel SDM, volume 3A (chapter 4, in editions from 2024 on chapter 5); the
// AMD64 manual, volume 2, chapter 5 says the same.
type X86 struct {
	CR0, CR3, CR4, EFER uint64

	root otherRoot
}

// x86PhysBits is what MAXPHYADDR, the width of physical addresses in bits, can
// be at most (section 4.1.4). A CPU may have less, but only CPUID tells; so no
// address bit counts as reserved for its height.
const x86PhysBits = 52

// WithRoot is the same set-up with another root table. Where CR3 could not hold
// pa, walks fail.
func (c X86) WithRoot(pa uint64) X86 {
	c.root = rootAt(pa)
	return c
}

// Bits of the control registers (SDM 2.5 "Control Registers", and section 2.2.1
// for EFER).
const (
	cr0WP   = 1 << 16
	cr0PG   = 1 << 31
	cr4PSE  = 1 << 4
	cr4PAE  = 1 << 5
	cr4LA57 = 1 << 12
	cr4SMEP = 1 << 20
	cr4SMAP = 1 << 21
	cr4PKE  = 1 << 22
	cr4PKS  = 1 << 24
	eferLMA = 1 << 10
	eferNXE = 1 << 11
)

// Bits of entries (Tables 4-4 to 4-6 for 32-bit paging, 4-8 to 4-11 for PAE,
// 4-14 to 4-20 for 4 and 5 levels).
const (
	x86P        = 1 << 0
	x86W        = 1 << 1
	x86U        = 1 << 2
	x86PWT      = 1 << 3
	x86PCD      = 1 << 4
	x86A        = 1 << 5
	x86D        = 1 << 6
	x86PS       = 1 << 7 // PAT in a PTE
	x86G        = 1 << 8
	x86LargePAT = 1 << 12
	x86KeyShift = 59 // bits 62:59
	x86NX       = 1 << 63
)

// What the levels above forbid.
const (
	x86NoWrite inherited = 1 << iota
	x86NoUser
	x86NoExec
)

// x86Format is one of the three families of entries.
type x86Format struct {
	mode    uint8  // x86Long, x86PAE or x86Legacy
	large   uint8  // bit n: entries of level n may map pages
	nx      bool   // bit 63 forbids execution
	keys    uint64 // cr4PKE and cr4PKS
	address uint64 // bits that an entry holds an address in
	// High bits that must be 0 in every entry.
	reserved uint64
}

const (
	x86Long uint8 = iota
	x86PAE
	x86Legacy
)

func (c X86) regime() (*regime, error) {
	if c.CR0&cr0PG == 0 {
		return nil, fmt.Errorf("CR0.PG is 0: %w", ErrPagingOff)
	}
	r := &regime{bits: 32}
	f := x86Format{nx: c.EFER&eferNXE != 0, address: bitRange(x86PhysBits-1, 12)}
	if !f.nx {
		f.reserved = x86NX
	}
	var roots uint64 // the bits of CR3 that hold the root
	p := part{geometry: geometry{grain: 12, stride: 9}}
	switch {
	case c.CR4&cr4PAE == 0: // 32-bit paging, section 4.3
		r.mode = "32-bit paging"
		f = x86Format{mode: x86Legacy, address: bitRange(31, 12)}
		if c.CR4&cr4PSE != 0 {
			f.large = 1 << 1
			// Table 4-4: bits 20:13 of a 4 MiB page's PDE are address bits
			// 39:32; bit 21 is reserved.
			f.reserved = 1 << 21
		}
		p.geometry = geometry{grain: 12, stride: 10, half: true}
		p.top, p.size = 1, 1<<32
		roots = f.address // Table 4-3
	case c.EFER&eferLMA == 0: // PAE paging, section 4.4
		r.mode = "PAE paging"
		f.mode, f.large = x86PAE, 1<<1
		f.reserved |= bitRange(62, 52)
		p.top, p.size = 2, 1<<32
		roots = bitRange(31, 5) // Table 4-7
	default: // 4-level and 5-level paging, section 4.5
		r.bits = 64
		f.large = 1<<1 | 1<<2
		f.keys = c.CR4 & (cr4PKE | cr4PKS)
		p.top = 3
		if c.CR4&cr4LA57 != 0 {
			p.top = 4
		}
		r.mode = fmt.Sprintf("x86-64, %d levels", p.top+1)
		p.size = 1 << (p.shift(p.top) + uint(p.stride))
		roots = f.address // Tables 4-12 and 4-13: bits 11:0 are flags or PCID
	}
	p.root = c.CR3 & roots
	if err := c.root.replace(&p.root, roots); err != nil {
		return nil, err
	}
	p.format = &f
	p.hi = p.size - 1
	r.parts = []part{p}
	if f.mode == x86Long {
		// Only canonical addresses exist (volume 1, 3.3.7.1): the upper half
		// of the root's entries translates the top of the address space.
		r.parts = halves(p)
	}
	r.notes = c.notes(&f)
	return r, nil
}

// notes says what else decides about an access (section 4.6).
func (c X86) notes(f *x86Format) []string {
	var notes, switches []string
	if c.CR0&cr0WP == 0 {
		notes = append(notes, "CR0.WP is 0: the kernel can write to read-only pages, too")
	}
	add := func(on bool, what string) {
		if on {
			switches = append(switches, what)
		}
	}
	add(c.CR4&cr4SMEP != 0, "CR4.SMEP (the kernel cannot execute user pages)")
	add(c.CR4&cr4SMAP != 0, "CR4.SMAP (the kernel reads and writes user pages only while EFLAGS.AC is 1)")
	add(f.keys&cr4PKE != 0, "CR4.PKE (protection keys may forbid access to user pages)")
	add(f.keys&cr4PKS != 0, "CR4.PKS (protection keys may forbid access to kernel pages)")
	if len(switches) > 0 {
		notes = append(notes, alsoDecide+strings.Join(switches, ", "))
	}
	return notes
}

func (f *x86Format) decode(level, _ int, e uint64, in inherited) entry {
	if e&x86P == 0 {
		return entry{same: x86P}
	}
	if f.mode == x86PAE && level == 2 {
		return f.decodePDPTE(e)
	}
	large := level > 0 && f.large>>level&1 != 0 && e&x86PS != 0
	isLeaf := level == 0 || large

	must0 := f.reserved
	shift := 12 + 9*level
	switch {
	case f.mode == x86Legacy && !large:
		must0 = 0
	case f.mode == x86Legacy: // already right
	case large:
		must0 |= bitRange(shift-1, 13) // Tables 4-9, 4-16 and 4-18
	case level >= 3:
		must0 |= x86PS // Tables 4-14 and 4-15
	}
	// Which kind of entry it is, or whether it is reserved, hangs on these.
	form := x86P | must0
	if level > 0 {
		form |= x86PS
	}
	if bad := e & must0; bad != 0 {
		why := mustBe0
		if bad == x86NX {
			why = "bit 63 is set, but EFER.NXE is 0"
		}
		return entry{kind: reserved, same: form, why: why, bad: bad}
	}

	// Section 4.6: an access needs the right at every level.
	if e&x86W == 0 {
		in |= x86NoWrite
	}
	if e&x86U == 0 {
		in |= x86NoUser
	}
	if f.nx && e&x86NX != 0 {
		in |= x86NoExec
	}
	if !isLeaf {
		return entry{kind: table, pa: e & f.address, in: in}
	}
	d := entry{kind: leaf, same: form | x86W | x86U, step: 1 << shift}
	if f.nx {
		d.same |= x86NX
	}
	if f.mode == x86Legacy && large {
		d.addr = bitRange(31, 22)
		d.step = 1 << 22
		d.pa = e&d.addr | e&bitRange(20, 13)<<(32-13)
	} else {
		d.addr = f.address &^ (1<<shift - 1)
		d.pa = e & d.addr
	}
	d.access = KernelRead
	if in&x86NoWrite == 0 {
		d.access |= KernelWrite
	}
	if in&x86NoExec == 0 {
		d.access |= KernelExec
	}
	if in&x86NoUser == 0 {
		d.access |= d.access << userShift
	}
	d.flags = f.flags(e, large, in)
	return d
}

// decodePDPTE decodes a present entry of PAE's first level (Table 4-8). It
// holds no permissions. Bits 2:1 and 8:5 are reserved, but checked only when
// CR3 is loaded, so that no translation ever meets them.
func (f *x86Format) decodePDPTE(e uint64) entry {
	if bad := e & (f.reserved | x86NX); bad != 0 {
		return entry{kind: reserved, same: x86P | f.reserved | x86NX, why: mustBe0, bad: bad}
	}
	return entry{kind: table, pa: e & f.address}
}

func (f *x86Format) flags(e uint64, large bool, in inherited) Flags {
	var fl Flags
	for _, b := range [...]struct {
		bit  uint64
		flag Flags
	}{{x86G, Global}, {x86A, Accessed}, {x86D, Dirty}, {x86PWT, PWT}, {x86PCD, PCD}} {
		if e&b.bit != 0 {
			fl |= b.flag
		}
	}
	// Section 4.9.2: the PAT bit gives way to PS in a large page's entry.
	if large && e&x86LargePAT != 0 || !large && e&x86PS != 0 {
		fl |= PAT
	}
	// Section 4.6.2: PKE is for user pages, PKS for the others.
	if in&x86NoUser == 0 && f.keys&cr4PKE != 0 || in&x86NoUser != 0 && f.keys&cr4PKS != 0 {
		fl |= Flags(e>>x86KeyShift&15)<<keyShift | 1<<hasKeyShift
	}
	return fl
}

func (f *x86Format) name(level int) string {
	if f.mode == x86PAE && level == 2 {
		return "PDPTE"
	}
	return [...]string{"PTE", "PDE", "PDPTE", "PML4E", "PML5E"}[level]
}

func (f *x86Format) describe(level int, e uint64) string {
	var w words
	if e&x86P == 0 {
		return "not present"
	}
	large := level > 0 && f.large>>level&1 != 0 && e&x86PS != 0
	isLeaf := level == 0 || large
	w.add(true, "P")
	if !(f.mode == x86PAE && level == 2) {
		w.add(e&x86W != 0, "W")
		w.add(e&x86U != 0, "U")
		w.add(f.nx && e&x86NX != 0, "NX")
		w.add(e&x86A != 0, "A")
		w.add(isLeaf && e&x86D != 0, "D")
		w.add(isLeaf && e&x86G != 0, "G")
		w.add(level > 0 && e&x86PS != 0, "PS")
		w.add(level == 0 && e&x86PS != 0 || large && e&x86LargePAT != 0, "PAT")
	}
	w.add(e&x86PWT != 0, "PWT")
	w.add(e&x86PCD != 0, "PCD")
	if isLeaf && f.keys != 0 {
		w.num(true, "KEY", e>>x86KeyShift&15)
	}
	return w.String()
}
