package target

import (
	"context"
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
	archRISCV
)

// describeCPU asks GDB which registers the stub has described.
func (t *Target) describeCPU(ctx context.Context, m *qemuMachine) error {
	res, err := t.send(ctx, "data-list-register-names")
	if err != nil {
		return err
	}
	m.registers = res.Strings("register-names")
	switch {
	case m.has("cr3"):
		m.arch, m.wide = archX86, m.has("rax")
	case m.has("TTBR0_EL1"):
		m.arch, m.wide = archARM64, true
	case m.has("satp"):
		m.arch = archRISCV
	}
	return nil
}

// has reports whether the stub has described a register of that name.
func (m *qemuMachine) has(name string) bool { return slices.Contains(m.registers, name) }

// cpu is the selected CPU of a machine.
type cpu struct {
	index int // QEMU's cpu_index, 0 where all CPUs see the same memory
	mmu   pt.MMU
	root  uint64 // physical address of the (lower) root table with what else the register holds
	notes []string
}

// cpuIndex is QEMU's cpu_index of the CPU that the selected thread stands for:
// threads are numbered from 1 (gdbstub.c, gdb_get_cpu_index).
func (t *Target) cpuIndex(ctx context.Context) int {
	if tid, err := strconv.Atoi(t.selectedTID(ctx)); err == nil && tid > 0 {
		return tid - 1
	}
	return 0
}

// cpu reads the registers of the selected thread, which stands for a CPU.
func (t *Target) cpu(ctx context.Context, m *qemuMachine, root *uint64) (*cpu, error) {
	c := &cpu{}
	if !m.uniform() {
		c.index = t.cpuIndex(ctx)
	}
	switch m.arch {
	case archX86:
		// GDB casts flag registers only to integers of their own size, which is
		// that of a long.
		v, err := t.registers(ctx, "(unsigned long)$cr0", "(unsigned long)$cr3", "(unsigned long)$cr4", "(unsigned long)$efer")
		if err != nil {
			return nil, err
		}
		x := pt.X86{CR0: v[0], CR3: v[1], CR4: v[2], EFER: v[3]}
		if root != nil {
			x = x.WithRoot(*root)
		}
		c.mmu, c.root = x, x.CR3
	case archARM64:
		// QEMU names registers by the manual, but SCTLR_EL1 as on ARMv7 (7.2).
		sctlr, mmfr0 := "$SCTLR", "$ID_AA64MMFR0_EL1"
		if !m.has(sctlr[1:]) {
			sctlr = "$SCTLR_EL1"
		}
		if !m.has(mmfr0[1:]) {
			mmfr0 = "15"
		}
		v, err := t.registers(ctx, "$TTBR0_EL1", "$TTBR1_EL1", "$TCR_EL1", sctlr, "$cpsr", mmfr0)
		if err != nil {
			return nil, err
		}
		a := pt.ARM64{TTBR0: v[0], TTBR1: v[1], TCR: v[2], SCTLR: v[3]}
		// ID_AA64MMFR0_EL1.PARange (DDI 0487); 0 stands for an unknown width.
		a.PhysBits = [16]int{32, 36, 40, 42, 44, 48, 52, 56}[v[5]&15]
		if root != nil {
			a = a.WithRoot(*root, false)
		}
		c.mmu, c.root = a, a.TTBR0
		if el := v[4] >> 2 & 3; el > 1 { // PSTATE.M
			c.notes = append(c.notes, fmt.Sprintf("the CPU is at EL%d; shown are the tables of EL1 and EL0", el))
		}
	case archRISCV:
		v, err := t.registers(ctx, "$satp", "sizeof($satp)", "$priv")
		if err != nil {
			return nil, err
		}
		r := pt.RISCV{SATP: v[0], XLEN: int(8 * v[1])}
		if root != nil {
			r = r.WithRoot(*root)
		}
		c.mmu, c.root = r, r.SATP
		if v[2] == 3 {
			c.notes = append(c.notes, "the hart is in M-mode, which translates nothing; shown are the tables of satp")
		}
	default:
		return nil, fmt.Errorf("page tables of this architecture are not known to dbgsh; it knows those of x86, aarch64 and riscv")
	}
	return c, nil
}

// withUpper is the CPU's set-up with another root for the addresses of the
// upper half, which on aarch64 have a root of their own.
func withUpper(mmu pt.MMU, root uint64) pt.MMU {
	if a, ok := mmu.(pt.ARM64); ok {
		return a.WithRoot(root, true)
	}
	return mmu
}

// registers is the values of expressions that are numbers of up to 64 bits, at
// once. Flag registers are made numbers by the cast, which is C's.
func (t *Target) registers(ctx context.Context, exprs ...string) ([]uint64, error) {
	var format, args strings.Builder
	for _, e := range exprs {
		format.WriteString("%llx ")
		args.WriteString(", (unsigned long long)" + e)
	}
	text, err := t.query(ctx, `with language c -- printf "`+format.String()+`\n"`+args.String())
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
