// Package qemusys is what is particular to a machine in QEMU: its RAM in QEMU's
// process or behind the stub, the registers of its CPUs, its layout, its monitor,
// and what is documented of Linux's address space.
package qemusys

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dbgsh/vm"
)

// FlatView is an address space of a machine in QEMU as its monitor lists it:
// what a CPU or a device meets at each physical address.
type FlatView struct {
	Spaces []string // the names of the address spaces that look like this
	Blocks []MemoryBlock
}

// MemoryBlock is one piece of a FlatView that is memory, not a device.
type MemoryBlock struct {
	vm.Range        // physical addresses
	Kind     string // ram, rom, romd or nv-ram (QEMU, softmmu/memory.c, memory_region_type)
	Name     string
	Offset   uint64 // of the first byte in what Name names
}

// ParseMtree reads what "info mtree -f" of QEMU's monitor prints: views such as
//
//	FlatView #3
//	 AS "cpu-memory-0", root: system
//	 Root memory region: system
//	  0000000000100000-00000000bfffffff (prio 0, ram): pc.ram @0000000000100000
//
// Device memory is left out, and what has no form that is known. The blocks are
// sorted and do not overlap. The error is a *vm.ParseError.
func ParseMtree(text string) ([]FlatView, error) {
	var views []FlatView
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "FlatView #") {
			views = append(views, FlatView{})
			continue
		}
		if len(views) == 0 {
			continue
		}
		v := &views[len(views)-1]
		if rest, found := strings.CutPrefix(line, ` AS "`); found {
			// A name may hold quotes itself; what follows it may not.
			if i := strings.LastIndex(rest, `", root: `); i >= 0 {
				v.Spaces = append(v.Spaces, rest[:i])
			}
			continue
		}
		rest, found := strings.CutPrefix(line, "  ")
		if !found {
			continue
		}
		b, ok := parseBlock(rest)
		if !ok {
			continue
		}
		if i := len(v.Blocks); i > 0 && (v.Blocks[i-1].Last() >= b.Start) {
			return nil, &vm.ParseError{Line: n, Text: line, Why: "overlaps the line before"}
		}
		v.Blocks = append(v.Blocks, b)
	}
	return views, nil
}

// parseBlock reads START-END (prio N, KIND): NAME @OFFSET, where END is the last
// byte, OFFSET is missing for 0, and the name of an accelerator may follow.
func parseBlock(s string) (b MemoryBlock, ok bool) {
	bounds, rest, ok := strings.Cut(s, " (prio ")
	if !ok {
		return b, false
	}
	lo, hi, ok := strings.Cut(bounds, "-")
	start, err1 := strconv.ParseUint(lo, 16, 64)
	last, err2 := strconv.ParseUint(hi, 16, 64)
	// The whole of 2^64 bytes is no Range, and no memory either.
	if !ok || err1 != nil || err2 != nil || last < start || last-start == ^uint64(0) {
		return b, false
	}
	attrs, name, ok := strings.Cut(rest, "): ")
	if !ok {
		return b, false
	}
	_, b.Kind, ok = strings.Cut(attrs, ", ")
	if !ok || !slices.Contains([]string{"ram", "rom", "romd", "nv-ram"}, b.Kind) {
		return b, false
	}
	b.Start, b.Size, b.Name = start, last-start+1, name
	if i := strings.LastIndex(name, " @"); i >= 0 {
		hex, _, _ := strings.Cut(name[i+2:], " ")
		if off, err := strconv.ParseUint(hex, 16, 64); err == nil && len(hex) == 16 {
			b.Name, b.Offset = name[:i], off
		}
	} else {
		b.Name = strings.TrimSuffix(name, " KVM")
	}
	return b, true
}

// HostAddress reads the answer of QEMU's monitor to gpa2hva: the name of the
// memory that the guest has at physical address pa, and where that is in QEMU's
// own memory. ok is false where there is no memory.
func HostAddress(text string, pa uint64) (name string, host uint64, ok bool) {
	rest, found := strings.CutPrefix(strings.TrimSpace(text), fmt.Sprintf("Host virtual address for %#x (", pa))
	i := strings.LastIndex(rest, ") is 0x")
	if !found || i < 0 {
		return "", 0, false
	}
	host, err := strconv.ParseUint(rest[i+len(") is 0x"):], 16, 64)
	return rest[:i], host, err == nil
}

// ParseMonitorMem reads what "info mem" of QEMU's monitor prints of the page
// tables. Rows of x86 show user, read and write, and leave execution open:
//
//	ffff888000000000-ffff888000099000 0000000000099000 -rw
//
// rows of RISC-V show virtual address, physical address, size and rwxugad:
//
//	ffffffff80000000 0000000080200000 0000000000200000 r-x--ad
//
// ok is false where nothing in the text is of either form. The mappings are
// sorted. The error is a *vm.ParseError.
func ParseMonitorMem(text string) (ms []vm.Mapping, ok bool, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		f := strings.Fields(line)
		lo, hi, isRange := strings.Cut(strings.Join(f[:min(1, len(f))], ""), "-")
		var m vm.Mapping
		var err1, err2, err3, err4 error
		switch {
		case len(f) == 3 && isRange && len(f[2]) == 3:
			// The size tells the end, which is shown as 0 where it is 2^64.
			m.Start, err1 = strconv.ParseUint(lo, 16, 64)
			_, err2 = strconv.ParseUint(hi, 16, 64)
			m.Size, err3 = strconv.ParseUint(f[1], 16, 64)
			m.Perm, err4 = vm.ParseAccess(f[2][1:])
			m.Perm &^= vm.KnownExec
			m.Paged = &vm.Paged{Kernel: f[2][1:] + "?", User: "---"}
			if f[2][0] == 'u' {
				m.Paged.User = m.Paged.Kernel
			}
		case len(f) == 4 && !isRange && len(f[3]) == 7:
			var phys uint64
			m.Start, err1 = strconv.ParseUint(f[0], 16, 64)
			phys, err2 = strconv.ParseUint(f[1], 16, 64)
			m.Size, err3 = strconv.ParseUint(f[2], 16, 64)
			m.Perm, err4 = vm.ParseAccess(f[3][:3])
			m.Paged = &vm.Paged{Kernel: f[3][:3], User: "---", Phys: phys}
			if f[3][3] == 'u' {
				m.Paged.Kernel, m.Paged.User = strings.Replace(f[3][:3], "x", "-", 1), f[3][:3]
			}
		default:
			continue
		}
		if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
			continue // the heading, or a sentence
		}
		ok = true
		if m.Size == 0 || !m.Valid() {
			return nil, false, &vm.ParseError{Line: n, Text: strings.TrimRight(line, "\r\n"), Why: "no range of addresses"}
		}
		m.Source = vm.SourceMonitor
		ms = append(ms, m)
	}
	slices.SortFunc(ms, func(a, b vm.Mapping) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Size, b.Size))
	})
	return ms, ok, nil
}
