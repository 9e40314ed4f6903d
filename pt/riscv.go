package pt

import "fmt"

// RISCV is the paging set-up of a RISC-V hart in S-mode or U-mode. What is
// named below stands in the RISC-V Privileged Architecture, chapter
// "Supervisor-Level ISA".
type RISCV struct {
	SATP uint64
	XLEN int // 32 or 64; 0 stands for 64

	// NoSvpbmt says that memory types are off (menvcfg.PBMTE is 0), so that
	// their bits in an entry are reserved.
	NoSvpbmt bool

	root otherRoot
}

// WithRoot is the same set-up with another root table. Where satp could not
// hold pa, walks fail.
func (c RISCV) WithRoot(pa uint64) RISCV {
	c.root = rootAt(pa)
	return c
}

// Bits of an entry (figures "Sv32 page table entry" and "Sv39 page table entry").
const (
	rvV = 1 << iota
	rvR
	rvW
	rvX
	rvU
	rvG
	rvA
	rvD

	rvPPNShift  = 10
	rvPBMTShift = 61 // bits 62:61, Svpbmt
	rvPBMT      = 3 << rvPBMTShift
	rvN         = 1 << 63 // Svnapot
)

// rvGlobal says that a level above had G set: everything below is global.
const rvGlobal inherited = 1

type rvFormat struct {
	stride   int
	ppn      uint64 // the bits of an entry's PPN
	reserved uint64 // bits that must be 0 in every entry
}

func (c RISCV) regime() (*regime, error) {
	p := part{geometry: geometry{grain: 12, stride: 9}}
	r := &regime{bits: 64}
	f := &rvFormat{stride: 9, ppn: bitRange(53, 10), reserved: bitRange(60, 54)}
	if c.NoSvpbmt {
		f.reserved |= rvPBMT
	}
	p.format = f
	// Section "Supervisor Address Translation and Protection (satp) Register".
	if c.XLEN == 32 {
		if c.SATP>>31&1 == 0 {
			return nil, fmt.Errorf("satp.MODE is Bare: %w", ErrPagingOff)
		}
		r.mode, r.bits = "Sv32", 32
		*f = rvFormat{stride: 10, ppn: bitRange(31, 10)}
		p.geometry = geometry{grain: 12, stride: 10, half: true}
		p.top, p.size = 1, 1<<32
		p.hi = p.size - 1
		p.root = c.SATP & bitRange(21, 0) << 12
		if err := c.root.replace(&p.root, bitRange(33, 12)); err != nil {
			return nil, err
		}
		r.parts = []part{p}
	} else {
		mode := c.SATP >> 60
		switch mode {
		case 0:
			return nil, fmt.Errorf("satp.MODE is Bare: %w", ErrPagingOff)
		case 8, 9, 10: // Sv39, Sv48, Sv57
			p.top = int(mode) - 6
		default:
			return nil, fmt.Errorf("satp.MODE %d is reserved", mode)
		}
		r.mode = fmt.Sprintf("Sv%d", 12+9*(p.top+1))
		p.size = 1 << (p.shift(p.top) + uint(p.stride))
		p.root = c.SATP & bitRange(43, 0) << 12
		if err := c.root.replace(&p.root, bitRange(55, 12)); err != nil {
			return nil, err
		}
		// Addresses are sign-extended, section "Sv39: ... Addressing and
		// Memory Protection".
		r.parts = halves(p)
	}
	r.notes = []string{alsoDecide + "sstatus.SUM (only while it is 1 the kernel reads and writes user pages), sstatus.MXR (while it is 1 executable pages can be read)"}
	return r, nil
}

// decode follows section "Virtual Address Translation Process" and Table
// "Encoding of PTE R/W/X fields".
func (f *rvFormat) decode(level, index int, e uint64, in inherited) entry {
	const form = rvV | rvR | rvW | rvX
	shift := 12 + f.stride*level
	fault := func(bits uint64, why string, bad uint64) entry {
		return entry{kind: reserved, same: form | bits, why: why, bad: bad}
	}
	switch {
	case e&rvV == 0:
		return entry{same: rvV}
	case e&f.reserved != 0:
		return fault(f.reserved, mustBe0, e&f.reserved)
	case e&(rvR|rvW) == rvW:
		return fault(f.reserved, "writable, but not readable", e&form)
	}
	if e&(rvR|rvW|rvX) == 0 {
		must0 := uint64(rvU | rvA | rvD)
		if f.stride == 9 {
			must0 |= rvPBMT | rvN
		}
		switch {
		case level == 0:
			return fault(f.reserved, "a pointer to a table at the last level", e&form)
		case e&must0 != 0:
			return fault(f.reserved|must0, "bits are set that must be 0 in a pointer to a table", e&must0)
		}
		if e&rvG != 0 {
			in |= rvGlobal
		}
		return entry{kind: table, pa: e & f.ppn << (12 - rvPPNShift), in: in}
	}

	d := entry{kind: leaf, same: form | rvU | f.reserved, addr: f.ppn, step: 1 << (shift - 12 + rvPPNShift)}
	ppn := e & f.ppn >> rvPPNShift
	// The PPN bits that a superpage must have clear, as bits of the entry.
	low := bitRange(shift-12+rvPPNShift-1, rvPPNShift)
	d.same |= low
	d.addr &^= low
	if e&low != 0 {
		return fault(f.reserved|low, "a misaligned superpage", e&low)
	}
	if f.stride == 9 {
		d.same |= rvPBMT | rvN
		if e&rvPBMT == rvPBMT { // Table "Encodings for PBMT field in PTEs"
			return fault(f.reserved|low|rvPBMT, "PBMT 3", e&rvPBMT)
		}
		if e&rvN != 0 {
			// Table "Page table entry encodings when pte.N=1": only 64 KiB at
			// the last level; the low four bits of the PPN give way to the
			// address's.
			d.same |= bitRange(13, 10)
			if level > 0 || ppn&15 != 8 {
				return fault(f.reserved|low|rvPBMT|rvN|bitRange(13, 10), "a NAPOT size other than 64 KiB", e&(rvN|bitRange(13, 10)))
			}
			d.addr, d.step = 0, 0
			d.flags |= NAPOT
			ppn = ppn&^15 | uint64(index)&15
		}
	}
	d.pa = ppn << 12

	for _, b := range [...]struct {
		bit    uint64
		access Access
	}{{rvR, KernelRead}, {rvW, KernelWrite}, {rvX, KernelExec}} {
		if e&b.bit != 0 {
			d.access |= b.access
		}
	}
	if e&rvU != 0 {
		// S-mode may not execute user pages whatever SUM says, section
		// "Supervisor Memory Privilege (SUM)".
		d.access = d.access&^KernelExec | d.access<<userShift
	}
	if e&rvG != 0 || in&rvGlobal != 0 {
		d.flags |= Global
	}
	if e&rvA != 0 {
		d.flags |= Accessed
	}
	if e&rvD != 0 {
		d.flags |= Dirty
	}
	if f.stride == 9 {
		d.flags |= Flags(e>>rvPBMTShift&3) << pbmtShift
	}
	return d
}

// name is the level as the manual counts it: 0 is the last.
func (f *rvFormat) name(level int) string { return fmt.Sprintf("level %d", level) }

func (f *rvFormat) describe(_ int, e uint64) string {
	if e&rvV == 0 {
		return "not valid"
	}
	var w words
	for i, name := range [...]string{"V", "R", "W", "X", "U", "G", "A", "D"} {
		w.add(e>>i&1 != 0, name)
	}
	w.num(e>>8&3 != 0, "RSW", e>>8&3)
	if f.stride == 9 {
		w.add(e&rvPBMT != 0, pbmtName(e>>rvPBMTShift&3))
		w.add(e&rvN != 0, "N")
	}
	return w.String()
}

// pbmtName is a page-based memory type other than 0 by its name (Table
// "Encodings for PBMT field in PTEs").
func pbmtName(t uint64) string { return [...]string{"PMA", "NC", "IO", "PBMT=3"}[t&3] }
