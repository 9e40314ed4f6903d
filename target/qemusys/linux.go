package qemusys

import (
	"dbgsh/vm"
)

// span is a part of an address space, both ends included.
type span struct {
	first, last uint64
	name        string
}

// linuxX86 is what of Linux's address space on x86-64 has one place in every
// kernel since 4.15 (Documentation/arch/x86/x86_64/mm.rst). Where modules begin
// hangs on KASLR being built in; from here on there is nothing else.
func linuxX86() []span {
	return []span{
		{0xffff880000000000, 0xffff887fffffffff, "LDT remap"},
		{0xfffffe0000000000, 0xfffffe7fffffffff, "cpu_entry_area"},
		{0xffffff0000000000, 0xffffff7fffffffff, "espfix"},
		{0xffffffef00000000, 0xfffffffeffffffff, "EFI"},
		{0xffffffffc0000000, 0xfffffffffeffffff, "modules"},
		{0xffffffffff000000, 0xffffffffff5fffff, "fixmap"},
		{0xffffffffff600000, 0xffffffffff600fff, "vsyscall"},
	}
}

// linuxFixed is what KASLR moves, where it does not (the same document): with 4
// levels, and with 5.
func linuxFixed() map[uint64][]span {
	return map[uint64][]span{
		0xffff888000000000: {{0xffffc90000000000, 0xffffe8ffffffffff, "vmalloc"}, {0xffffea0000000000, 0xffffeaffffffffff, "vmemmap"}},
		0xff11000000000000: {{0xffa0000000000000, 0xffd1ffffffffffff, "vmalloc"}, {0xffd4000000000000, 0xffd5ffffffffffff, "vmemmap"}},
	}
}

const (
	// linuxIDT is where Linux maps the IDT read-only, one page, before what else
	// is read-only (CPU_ENTRY_AREA_RO_IDT, arch/x86/include/asm/cpu_entry_area.h).
	linuxIDT = 0xfffffe0000000000
	// The kernel's image is mapped in this range, with one offset from
	// physical memory (__START_KERNEL_map and KERNEL_IMAGE_SIZE with KASLR,
	// arch/x86/include/asm/page_64_types.h).
	linuxImageFirst, linuxImageLast = 0xffffffff80000000, 0xffffffffbfffffff
	// linuxImageHome is where it lies when KASLR does not move it
	// (LOAD_PHYSICAL_ADDR's default).
	linuxImageHome = 0xffffffff81000000
)

// nameRegions tells which part of Linux's address space mappings are, where the
// tables look like Linux's and the layout leaves no doubt. blocks is the machine's memory.
func (a machineArch) nameRegions(ms []vm.Mapping, blocks []MemoryBlock) {
	var ram uint64
	for _, b := range blocks {
		if b.Kind == "ram" {
			ram += b.Size
		}
	}
	switch a {
	case archX86:
		nameLinuxX86(ms, ram)
	case archARM64:
		// The linear map is the lower half of what TTBR1 translates
		// (Documentation/arch/arm64/memory.rst, since 5.4). The rest moves
		// from version to version.
		if base, ok := directMap(ms, ram, 0xfff0000000000000, ^uint64(0)); ok {
			nameDirect(ms, base)
		}
	}
}

func nameLinuxX86(ms []vm.Mapping, ram uint64) {
	linux := false
	for i := range ms {
		m := &ms[i]
		linux = linux || m.Start == linuxIDT && m.Size <= 0x2000 && m.Paged.Kernel == "r--" && m.Paged.User == "---"
	}
	if !linux {
		return
	}
	inside := func(m *vm.Mapping, s span) bool { return m.Start >= s.first && m.Last() <= s.last }
	spans := linuxX86()
	// The first thing that is executable there is the kernel's text; the rest
	// of the image is as far from physical memory.
	var delta, text uint64
	image := span{linuxImageFirst, linuxImageLast, "kernel image"}
	for i := range ms {
		m := &ms[i]
		if inside(m, image) && m.Perm.Is(vm.Exec) {
			delta, text = m.Start-m.Paged.Phys, m.Start
			break
		}
	}
	base, direct := directMap(ms, ram, 0xff11000000000000, linuxIDT-1)
	if direct && text == linuxImageHome {
		spans = append(spans, linuxFixed()[base]...)
	}
	for i := range ms {
		m := &ms[i]
		for _, s := range spans {
			if inside(m, s) {
				m.Paged.Region = s.name
			}
		}
		if text != 0 && inside(m, image) && m.Start-m.Paged.Phys == delta {
			m.Paged.Region = image.name
			if m.Perm.Is(vm.Exec) {
				m.Paged.Region = "kernel text"
			}
		}
	}
	if direct {
		nameDirect(ms, base)
	}
}

// directMap finds the one place where a kernel has all of RAM mapped, between
// two addresses: more than half of it, as far from physical memory everywhere.
func directMap(ms []vm.Mapping, ram, first, last uint64) (base uint64, ok bool) {
	mapped := map[uint64]uint64{}
	for i := range ms {
		m := &ms[i]
		if m.Start >= first && m.Last() <= last && m.Paged.User == "---" && !m.Perm.Is(vm.Exec) {
			mapped[m.Start-m.Paged.Phys] += m.Size
		}
	}
	found := 0
	for b, size := range mapped {
		if ram > 0 && size > ram/2 {
			base = b
			found++
		}
	}
	return base, found == 1
}

func nameDirect(ms []vm.Mapping, base uint64) {
	for i := range ms {
		if m := &ms[i]; m.Start-m.Paged.Phys == base && m.Paged.Region == "" && m.Paged.User == "---" {
			m.Paged.Region = "direct map"
		}
	}
}
