package qemusys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dbgsh/pt"
)

// machineArch is the family of a machine's CPUs, by the names of their registers.
type machineArch uint8

const (
	archOther machineArch = iota
	archX86
	archARM64
	archARM32
	archRISCV
	archFlat // nothing is translated
)

// describeCPU asks GDB which registers the stub has described.
func (m *Machine) describeCPU(ctx context.Context) error {
	res, err := m.g.Send(ctx, "data-list-register-names")
	if err != nil {
		return err
	}
	m.registers = res.Strings("register-names")
	switch {
	case m.has("cr3") && m.has("efer"): // s390x has a cr3, too
		m.arch, m.wide = archX86, m.has("rax")
	case m.has("TCR_EL1"):
		m.arch, m.wide = archARM64, true
	case m.has("TTBCR") && m.has("SCTLR"):
		m.arch = archARM32
	case m.has("MPUIR"):
		m.arch, m.flat = archFlat, "the CPU has a memory protection unit, which translates nothing"
	case m.has("xpsr"):
		m.arch, m.flat = archFlat, "the CPU is one of ARM's M profile, which translates nothing"
	case m.has("satp"):
		size, err := m.registersOf(ctx, "sizeof($satp)")
		if err != nil {
			return err
		}
		m.arch, m.wide = archRISCV, size[0] == 8
	}
	return nil
}

// has reports whether the stub has described a register of that name.
func (m *Machine) has(name string) bool { return slices.Contains(m.registers, name) }

// cpu is the selected CPU of a machine.
type cpu struct {
	number int  // QEMU's cpu_index
	index  int  // the same, but 0 where all CPUs see the same memory
	smm    bool // it is in system management mode, which sees other memory
	pc     uint64
	mmu    pt.MMU
	root   uint64 // the register of the CPU's own (lower) root table
	notes  []string
}

// space is the name of the address space that the CPU sees.
func (c *cpu) space() string {
	if c.smm {
		return smmSpace(c.index)
	}
	return cpuSpace(c.index)
}

// cpuIndex is QEMU's cpu_index of the CPU that the selected thread stands for:
// threads are numbered from 1 (gdbstub.c, gdb_get_cpu_index).
func (s *Source) cpuIndex() int {
	if tid, err := strconv.Atoi(s.cfg.Thread); err == nil && tid > 0 {
		return tid - 1
	}
	return 0
}

// cpu reads the registers of the selected thread, which stands for a CPU.
func (s *Source) cpu(ctx context.Context, m *Machine, root *uint64) (*cpu, error) {
	c := &cpu{number: s.cpuIndex()}
	if !m.layout().uniform() {
		c.index = c.number
	}
	set, err := m.set()
	if err != nil {
		return nil, err
	}
	// GDB is not told when somebody else runs the machine.
	was, known, err := m.g.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	v, err := m.values(ctx, set)
	if err != nil {
		return nil, err
	}
	if c.pc = v[pcName]; known && was != c.pc {
		c.notes = append(c.notes, "the CPU was not where GDB had it: the machine ran or was reset without GDB being told (QEMU's stub pauses a machine that runs when GDB asks)")
	}
	var note string
	if c.mmu, c.root, note, err = set.mmu(v); err != nil {
		return nil, err
	}
	if note != "" {
		c.notes = append(c.notes, note)
	}
	if root != nil {
		c.mmu = withRoot(c.mmu, *root, 0)
	}
	return c, nil
}

// registerSet is what of a CPU's registers decides about translation, and its pc.
type registerSet struct {
	names, own []string // as the manual has them, and the stub
	// mmu is the set-up that values of the registers stand for, and what the
	// register of the (lower) root table holds, with a note where it is not the
	// one that the CPU is in.
	mmu func(v map[string]uint64) (m pt.MMU, root uint64, note string, err error)
}

// pcName is the pc's name in every set.
const pcName = "pc"

// add adds registers that have one name.
func (r *registerSet) add(names ...string) {
	r.names, r.own = append(r.names, names...), append(r.own, names...)
}

// addAs adds a register by the manual's name and the stub's.
func (r *registerSet) addAs(name, own string) {
	r.names, r.own = append(r.names, name), append(r.own, own)
}

// values reads the registers of a set, as numbers, whatever GDB's language.
func (m *Machine) values(ctx context.Context, set *registerSet) (map[string]uint64, error) {
	args := []string{"x"}
	numbers := map[string]string{} // the names, by GDB's numbers
	for i, own := range set.own {
		n := slices.Index(m.registers, own)
		if n < 0 {
			return nil, fmt.Errorf("the stub has not described the register %s", own)
		}
		number := strconv.Itoa(n)
		args, numbers[number] = append(args, number), set.names[i]
	}
	res, err := m.g.Send(ctx, "data-list-register-values", args...)
	if err != nil {
		return nil, fmt.Errorf("read the registers %s: %w", strings.Join(set.own, " "), err)
	}
	v := map[string]uint64{}
	for _, r := range res.Tuples("register-values") {
		name := numbers[r.Str("number")]
		n, ok := r.Uint("value")
		if !ok {
			return nil, fmt.Errorf("read the register %s: GDB says %q", name, r.Str("value"))
		}
		v[name] = n
	}
	if len(v) != len(set.names) {
		return nil, fmt.Errorf("read the registers %s: GDB says %d of them", strings.Join(set.own, " "), len(v))
	}
	return v, nil
}

// set is the set for the machine's CPUs, as far as the stub has described it.
func (m *Machine) set() (*registerSet, error) {
	r := &registerSet{}
	switch {
	case m.arch != archX86:
		r.add(pcName)
	case m.wide:
		r.addAs(pcName, "rip")
	default:
		r.addAs(pcName, "eip")
	}
	switch m.arch {
	case archX86:
		r.add("cr0", "cr3", "cr4", "efer")
		r.mmu = func(v map[string]uint64) (pt.MMU, uint64, string, error) {
			return pt.X86{CR0: v["cr0"], CR3: v["cr3"], CR4: v["cr4"], EFER: v["efer"]}, v["cr3"], "", nil
		}
	case archARM64:
		r.add("TTBR0_EL1", "TTBR1_EL1", "TCR_EL1", "cpsr")
		if m.has("SCTLR") { // in QEMU 7.2 as on ARMv7
			r.addAs("SCTLR_EL1", "SCTLR")
		} else {
			r.add("SCTLR_EL1")
		}
		for _, n := range []string{"ID_AA64MMFR0_EL1", "HCR_EL2", "TTBR0_EL2", "TTBR1_EL2", "TCR_EL2", "SCTLR_EL2", "SCTLR_EL3", "SCR_EL3"} {
			if m.has(n) {
				r.add(n)
			}
		}
		r.mmu = func(v map[string]uint64) (pt.MMU, uint64, string, error) {
			a, note, err := armRegime(v)
			return a, a.TTBR0, note, err
		}
	case archARM32:
		r.add("cpsr")
		for _, n := range []string{"TTBCR", "SCTLR", "DACR", "TTBR0_EL1", "TTBR1_EL1", "TTBR0", "TTBR1", "ID_MMFR0", "SCR", "HCR", "SCTLR_EL2"} {
			for _, name := range []string{n, n + secureBank} {
				if m.has(name) {
					r.add(name)
				}
			}
		}
		r.mmu = func(v map[string]uint64) (pt.MMU, uint64, string, error) {
			a, note, err := arm32Regime(v)
			return a, a.TTBR0, note, err
		}
	case archFlat:
		r.mmu = func(map[string]uint64) (pt.MMU, uint64, string, error) { return pt.Flat{Why: m.flat}, 0, "", nil }
	case archRISCV:
		r.add("satp", "priv")
		if m.has("menvcfg") {
			r.add("menvcfg")
		}
		r.mmu = func(v map[string]uint64) (_ pt.MMU, root uint64, note string, err error) {
			c := pt.RISCV{SATP: v["satp"], XLEN: 32}
			if m.wide {
				c.XLEN = 64
			}
			// menvcfg.PBMTE (Privileged Architecture, "Machine Environment
			// Configuration Register").
			menvcfg, known := v["menvcfg"]
			c.NoSvpbmt = known && menvcfg>>62&1 == 0
			if v["priv"] == 3 && c.SATP != 0 {
				note = "the hart is in M-mode, which translates nothing; shown are the tables of satp"
			}
			return c, c.SATP, note, nil
		}
	default:
		return nil, errors.New("page tables of this architecture are not known to dbgsh; it knows those of x86, aarch64, arm and riscv")
	}
	return r, nil
}

// armRegime is the translation regime that an aarch64 CPU is in, or the EL1&0
// regime, with a note, where that is below the one that it is in. The error
// says why its tables are none to be walked (Arm Architecture Reference Manual,
// DDI 0487, D8.1 "Address translation", and the descriptions of the registers).
func armRegime(v map[string]uint64) (a pt.ARM64, note string, err error) {
	const (
		hcrVM, hcrDC, hcrTGE, hcrE2H = 1 << 0, 1 << 12, 1 << 27, 1 << 34
		scrNS, scrEEL2               = 1 << 0, 1 << 18
		sctlrM                       = 1 << 0
	)
	if mmfr0, ok := v["ID_AA64MMFR0_EL1"]; ok {
		a.PhysBits = [16]int{32, 36, 40, 42, 44, 48, 52, 56}[mmfr0&15] // PARange
	}
	el, hcr := int(v["cpsr"]>>2&3), v["HCR_EL2"] // PSTATE.EL
	a.PAN = v["cpsr"]>>22&1 != 0
	if scr, ok := v["SCR_EL3"]; ok && scr&(scrNS|scrEEL2) == 0 {
		hcr = 0 // the secure state has no EL2
	}
	if hcr&hcrE2H != 0 && (el == 2 || el < 2 && hcr&hcrTGE != 0) {
		a.EL, a.TTBR0, a.TTBR1, a.TCR, a.SCTLR = 2, v["TTBR0_EL2"], v["TTBR1_EL2"], v["TCR_EL2"], v["SCTLR_EL2"]
		return a, "", nil
	}
	a.EL, a.TTBR0, a.TTBR1, a.TCR, a.SCTLR = 1, v["TTBR0_EL1"], v["TTBR1_EL1"], v["TCR_EL1"], v["SCTLR_EL1"]
	if el > 1 && a.SCTLR&sctlrM == 0 {
		if sctlr, ok := v[fmt.Sprintf("SCTLR_EL%d", el)]; !ok || sctlr&sctlrM != 0 {
			return a, "", fmt.Errorf("the CPU is at EL%d, whose tables dbgsh does not walk", el)
		}
		a.EL = el // nothing is translated there, either
		return a, "", nil
	}
	switch {
	case hcr&(hcrVM|hcrDC) != 0:
		return a, "", errors.New("stage 2 is on (HCR_EL2.VM or DC is 1), so that the tables of EL1 hold intermediate physical addresses; dbgsh does not walk stage 2")
	case el < 2 && hcr&hcrTGE != 0:
		return a, "", fmt.Errorf("HCR_EL2.TGE is 1, so that nothing is translated at EL%d", el)
	case el > 1:
		note = fmt.Sprintf("the CPU is at EL%d; shown are the tables of EL1 and EL0", el)
	}
	return a, note, nil
}

// secureBank ends the names of registers as the secure state has them (QEMU's
// target/arm/helper.c, add_cpreg_to_hashtable).
const secureBank = "_S"

// arm32Regime is the PL1&0 translation regime of a CPU of 32 bits, in the security
// state that it is in, with a note where the CPU is above. The error says why its
// tables are none to be walked (ARM Architecture Reference Manual, DDI 0406C, B3.1
// "About the VMSA", and the descriptions of the registers).
func arm32Regime(v map[string]uint64) (a pt.ARM32, note string, err error) {
	const (
		modeMonitor, modeHyp = 0x16, 0x1a
		hcrVM, hcrDC, hcrTGE = 1 << 0, 1 << 12, 1 << 27
		sctlrM               = 1 << 0
		ttbcrEAE             = 1 << 31
	)
	mode := v["cpsr"] & 31
	scr, secure := v["SCR"]
	secure = secure && (scr&1 == 0 || mode == modeMonitor) // NS
	get := func(name string) uint64 {
		if own, ok := v[name+secureBank]; ok && secure {
			return own
		}
		return v[name]
	}
	a.TTBCR, a.SCTLR, a.DACR = uint32(get("TTBCR")), uint32(get("SCTLR")), uint32(get("DACR"))
	a.TTBR0, a.TTBR1 = get("TTBR0_EL1"), get("TTBR1_EL1")
	if a.TTBCR&ttbcrEAE != 0 { // registers of 64 bits
		a.TTBR0, a.TTBR1 = get("TTBR0"), get("TTBR1")
	}
	a.PXN = get("ID_MMFR0")&15 >= 4 // VMSA support
	hcr := v["HCR"]
	if secure {
		hcr = 0
	}
	switch {
	case mode == modeHyp && a.SCTLR&sctlrM == 0:
		if sctlr, ok := v["SCTLR_EL2"]; !ok || sctlr&sctlrM != 0 {
			return a, "", errors.New("the CPU is in Hyp mode, whose tables dbgsh does not walk")
		}
	case hcr&(hcrVM|hcrDC) != 0:
		return a, "", errors.New("stage 2 is on (HCR.VM or DC is 1), so that the tables of PL1 hold intermediate physical addresses; dbgsh does not walk stage 2")
	case mode == modeHyp:
		note = "the CPU is in Hyp mode; shown are the tables of PL1 and PL0"
	case hcr&hcrTGE != 0:
		return a, "", errors.New("HCR.TGE is 1, so that nothing is translated at PL0")
	}
	return a, note, nil
}

// withRoot is the CPU's set-up with another root table for an address, or for all
// that go by the same one: on ARM upper addresses may have a root of their own.
func withRoot(mmu pt.MMU, root, va uint64) pt.MMU {
	switch c := mmu.(type) {
	case pt.X86:
		return c.WithRoot(root)
	case pt.ARM64:
		return c.WithRoot(root, va>>55&1 != 0) // also of tagged addresses
	case pt.ARM32:
		return c.WithRoot(root, c.Upper(va))
	case pt.RISCV:
		return c.WithRoot(root)
	}
	return mmu
}

// registersOf is the values of expressions that are numbers of up to 64 bits, at
// once. Flag registers are made numbers by the cast, which is C's.
func (m *Machine) registersOf(ctx context.Context, exprs ...string) ([]uint64, error) {
	var format, args strings.Builder
	for _, e := range exprs {
		format.WriteString("%llx ")
		args.WriteString(", (unsigned long long)" + e)
	}
	text, err := m.g.Query(ctx, `with language c -- printf "`+format.String()+`\n"`+args.String())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", strings.Join(exprs, " "), err)
	}
	fields := strings.Fields(text)
	if len(fields) != len(exprs) {
		return nil, fmt.Errorf("read %s: GDB says %q", strings.Join(exprs, " "), text)
	}
	values := make([]uint64, len(fields))
	for i, f := range fields {
		if values[i], err = strconv.ParseUint(f, 16, 64); err != nil {
			return nil, fmt.Errorf("read %s: GDB says %q", exprs[i], f)
		}
	}
	return values, nil
}
