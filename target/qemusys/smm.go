package qemusys

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"dbgsh/pt"
	"dbgsh/vm"
)

// An x86 CPU in system management mode sees other memory than else: SMRAM, where
// its code lies, in place of the devices or the nothing that the system sees
// there (Intel SDM, chapter "System Management Mode"). QEMU has an address space
// for it. No register that the stub tells shows the mode, and to ask the monitor
// takes as long as a short map; so that is done where something points to it:
// paging that is off, tables that cannot be read, and tables or code in memory
// that looks different in that mode.

// smmFlag is the mode among the registers that the monitor shows (QEMU's
// target/i386/cpu-dump.c).
var smmFlag = regexp.MustCompile(`\bSMM=([01])\b`)

// inSMM asks, once a look, whether the CPU is in system management mode, where
// suspect or what was met gives a reason to. From then on the look is that of the
// mode; entered says that this begins now.
func (l *look) inSMM(ctx context.Context, suspect bool) (entered bool, err error) {
	if l.askedSMM || l.m.arch != archX86 || !suspect && !l.special.Load() {
		return false, nil
	}
	if lay := l.m.layout(); lay.views != nil && lay.otherInSMM(l.c.index) == nil {
		return false, nil // the machine has no such mode, or nothing to see in it
	}
	l.askedSMM = true
	text, err := l.m.monitorOf(ctx, l.c.number, "info registers")
	if err != nil {
		return false, err
	}
	if m := smmFlag.FindStringSubmatch(text); m == nil || m[1] == "0" {
		return false, nil
	}
	l.c.smm = true
	l.c.notes = append(l.c.notes, "the CPU is in system management mode (SMM); shown is what it sees there")
	return true, nil
}

// meetCode looks where the CPU's code lies, by its tables.
func (l *look) meetCode(mem pt.Phys) {
	if other := l.m.layout().otherInSMM(l.c.index); l.c.smm || other == nil {
		return
	} else if path, err := pt.Translate(mem, l.c.mmu, l.c.pc); err == nil && path.End == pt.Mapped {
		l.meet(path.Phys, other)
	}
}

// meet notes that memory at pa was met.
func (l *look) meet(pa uint64, other []vm.Range) {
	if slices.ContainsFunc(other, func(r vm.Range) bool { return r.Contains(pa) }) {
		l.special.Store(true)
	}
}

// smmSpace is the name of the address space that a CPU sees in system management
// mode (QEMU's target/i386/tcg/sysemu/tcg-cpu.c and kvm/kvm.c).
func smmSpace(cpu int) string { return fmt.Sprintf("cpu-smm-%d", cpu) }

// otherInSMM is the memory that a CPU sees otherwise in system management mode,
// nil where there is none or none is known.
func (l *layout) otherInSMM(cpu int) []vm.Range {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, known := l.smm[cpu]; known {
		return other
	}
	var other []vm.Range
	if blocks := l.space(smmSpace(cpu)); blocks != nil {
		other = differing(blocks, l.view(cpuSpace(cpu)))
	}
	l.smm[cpu] = other
	return other
}

// differing is where two views have other memory.
func differing(a, b []MemoryBlock) []vm.Range {
	var cuts []uint64
	for _, blocks := range [][]MemoryBlock{a, b} {
		for _, m := range blocks {
			cuts = append(cuts, m.Start)
			if end := m.Last() + 1; end != 0 {
				cuts = append(cuts, end)
			}
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var other []vm.Range
	for i, at := range cuts {
		last := ^uint64(0)
		if i+1 < len(cuts) {
			last = cuts[i+1] - 1
		}
		x, inA := blockAt(a, at)
		y, inB := blockAt(b, at)
		if inA != inB || inA && (x.Name != y.Name || x.Offset+(at-x.Start) != y.Offset+(at-y.Start)) {
			other = append(other, vm.Range{Start: at, Size: last - at + 1})
		}
	}
	return other
}

// elsewhere is a block of the system's view out of which a block that only system
// management mode sees is made: by the name of its memory, and the biggest.
func elsewhere(plain []MemoryBlock, b MemoryBlock) (best MemoryBlock, ok bool) {
	for _, p := range plain {
		if p.Name == b.Name && p.Size > best.Size {
			best, ok = p, true
		}
	}
	return best, ok
}

// hiddenError says that memory is seen in system management mode alone.
type hiddenError struct{ pa uint64 }

func (e *hiddenError) Error() string {
	return fmt.Sprintf("the memory at physical address %#x is seen only in system management mode, which the stub's physical mode is not in", e.pa)
}
