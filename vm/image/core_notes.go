package image

import (
	"cmp"
	"context"
	"debug/elf"
	"fmt"
	"math"
	"slices"
	"strings"

	"dbgsh/vm"
)

const (
	// maxCoreNotes bounds the notes of a core; a thread has about ten.
	maxCoreNotes = 1 << 20
	// maxNTFile bounds NT_FILE in bytes; Linux's own bound is 16 MiB
	// (fs/coredump.c, CORE_FILE_NOTE_SIZE_MAX).
	maxNTFile = 32 << 20
	// maxNTAuxv bounds NT_AUXV in bytes; vectors have some two dozen entries.
	maxNTAuxv = 64 << 10
	// maxNTPRStatus bounds what is read of NT_PRSTATUS in bytes; the largest, on
	// MIPS64 and ppc64, take about 500.
	maxNTPRStatus = 1024
)

// readNotes reads the notes that say what the segments are.
func (c *Core) readNotes(ctx context.Context) error {
	left := maxCoreNotes
	var hasAuxv bool
	for _, p := range c.Progs {
		if p.Type != elf.PT_NOTE || p.Off >= c.size {
			continue
		}
		nr := noteReader{r: c.r, order: c.Order, align: noteAlign(p), off: p.Off, end: p.Off + min(p.Filesz, c.size-p.Off)}
		for n, ok := nr.next(); ok; n, ok = nr.next() {
			if left--; left < 0 {
				c.notef("only the first %d notes of the core are read", maxCoreNotes)
				return nil
			}
			if left%1024 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			c.byQEMU = c.byQEMU || n.name == "QEMU"
			// FreeBSD and others number their notes anew under their own name.
			if n.name != "CORE" {
				continue
			}
			switch {
			case n.typ == ntPRStatus:
				if t, ok := c.thread(nr.desc(n, maxNTPRStatus), n.size); ok {
					c.Threads = append(c.Threads, t)
				}
			case n.typ == ntAuxv && !hasAuxv:
				hasAuxv = true
				v, err := ParseAuxv(nr.desc(n, maxNTAuxv), c.wordSize(), c.Order)
				if c.Auxv = v; err != nil {
					c.notef("note NT_AUXV: %v", err)
				}
			case n.typ == ntFile && !c.hasFile:
				c.hasFile = true
				c.readNTFile(nr.desc(n, maxNTFile))
			}
		}
		if nr.err != nil {
			return fmt.Errorf("read the core's notes: %w", nr.err)
		}
	}
	if !hasAuxv {
		c.notef("the core has no auxiliary vector, by which stack, heap and program are told")
	}
	return nil
}

// readNTFile reads NT_FILE: the number of mappings, the unit of their offsets,
// start, end and offset of each, then the names, each with its NUL
// (fs/binfmt_elf.c, fill_files_note).
func (c *Core) readNTFile(b []byte) {
	w := c.wordSize()
	if len(b) < 2*w {
		c.notef("note NT_FILE is cut off: no file names")
		return
	}
	num, unit := c.word(b), c.word(b[w:])
	b = b[2*w:]
	if room := uint64(len(b) / (3 * w)); num > room {
		c.notef("note NT_FILE: %d mappings announced, room for %d", num, room)
		return
	}
	names := string(b[num*uint64(3*w):])
	rs := make([]fileRange, 0, num)
	bad := 0
	for ; num > 0; num, b = num-1, b[3*w:] {
		name, rest, whole := strings.Cut(names, "\x00")
		if !whole {
			c.notef("note NT_FILE: names missing: %d", num)
			break
		}
		names = rest
		start, end, off := c.word(b), c.word(b[w:]), c.word(b[2*w:])
		if end <= start || unit == 0 || off > math.MaxUint64/unit {
			bad++
			continue
		}
		rs = append(rs, fileRange{vm.Range{Start: start, Size: end - start}, off * unit, name, true})
	}
	var dropped int
	c.fileMap, dropped = disjoint(rs)
	if bad += dropped; bad > 0 {
		c.notef("note NT_FILE: entries left out because they overlap others or are no ranges: %d", bad)
	}
}

// disjoint sorts rs, of which it keeps no range that overlaps an earlier one.
func disjoint(rs []fileRange) (out []fileRange, dropped int) {
	slices.SortStableFunc(rs, func(a, b fileRange) int { return cmp.Compare(a.Start, b.Start) })
	out = rs[:0]
	for _, r := range rs {
		if n := len(out); n > 0 && out[n-1].Contains(r.Start) {
			dropped++
			continue
		}
		out = append(out, r)
	}
	return out, dropped
}

// thread reads struct elf_prstatus (linux/elfcore.h): siginfo and cursig in 16
// bytes, two words of signals, four ints of ids, eight words of times, then
// the general registers.
func (c *Core) thread(b []byte, size uint64) (t CoreThread, ok bool) {
	w := c.wordSize()
	pid, regs := 16+2*w, 16+2*w+16+8*w
	if len(b) < pid+4 {
		return t, false
	}
	t.ID = int(int32(c.Order.Uint32(b[pid:])))
	slot, width := c.stackRegister(size)
	if at := regs + slot*width; slot >= 0 && at+width <= len(b) {
		if width == 4 {
			t.SP = uint64(c.Order.Uint32(b[at:]))
		} else {
			t.SP = c.Order.Uint64(b[at:])
		}
		t.SP &= c.addressMask()
		t.HasSP = true
	}
	return t, true
}

// stackRegister is the place of the stack pointer among the general registers
// of a core's NT_PRSTATUS of size bytes, counted in registers of width bytes;
// -1 where it is not known. The orders are those of elf_gregset_t in Linux's
// arch/*/include/uapi/asm/ptrace.h, and on MIPS in asm/reg.h.
func (c *Core) stackRegister(size uint64) (slot, width int) {
	width = c.wordSize()
	switch c.Machine {
	case elf.EM_X86_64:
		if c.is32() {
			return -1, width // x32 has 64-bit registers behind times of its own
		}
		return 19, width
	case elf.EM_386:
		return 15, width
	case elf.EM_AARCH64:
		return 31, width
	case elf.EM_ARM:
		return 13, width
	case elf.EM_RISCV:
		return 2, width
	case elf.EM_LOONGARCH:
		return 3, width
	case elf.EM_PPC, elf.EM_PPC64:
		return 1, width
	case elf.EM_S390:
		return 17, width // behind the two words of the PSW
	case elf.EM_MIPS:
		if c.is32() && size < 72+45*8 {
			return 6 + 29, width // o32 has six unused words first
		}
		return 29, 8 // n64, and n32 with its 64-bit registers
	}
	return -1, width
}
