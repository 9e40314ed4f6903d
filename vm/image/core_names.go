package image

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"path"
	"slices"
	"strings"

	"dbgsh/vm"
)

// object is an ELF file that is mapped in the core.
type object struct {
	name  string
	start uint64 // the address of its first byte
	bias  uint64
	dyn   uint64 // the address of its dynamic section; 0 where that is not known
	img   *Image // its headers; nil where they are not known
}

// maxCoreProgs bounds the program headers that are read out of a core's memory.
const maxCoreProgs = 1 << 17

// name gives the mappings their names and offsets, but for the heap. It is the
// image of the program, nil where that is not known.
func (c *Core) name(ctx context.Context, opt CoreOptions) *Image {
	exe := c.exeImage(ctx)
	if c.hasFile {
		c.layFiles(c.fileMap, true)
		c.fileMap = nil
		if phdr, ok := c.Auxv.Get(AuxPhdr); ok {
			if i := c.at(phdr); i >= 0 {
				c.exeName = c.Mappings[i].Name
			}
		}
		c.findImages(ctx)
		c.permFromImages()
	} else {
		exe = c.nameByLinker(ctx, exe, opt)
	}
	c.nameKernels()
	c.nameStack()
	return exe
}

// exeImage is the program's headers out of memory, or nil.
func (c *Core) exeImage(ctx context.Context) *Image {
	phdr, ok := c.Auxv.Get(AuxPhdr)
	num, _ := c.Auxv.Get(AuxPhnum)
	if !ok {
		return nil
	}
	img, err := ReadImagePhdrs(ctx, c.mem, c.Class, c.Order, phdr, num)
	if err != nil {
		return nil
	}
	return img
}

// findImages reads the ELF headers of the files that are mapped from their start.
func (c *Core) findImages(ctx context.Context) {
	left := maxCoreProgs
	for i := range c.Mappings {
		m := &c.Mappings[i]
		if !m.Backed || m.Offset != 0 || m.InCore == 0 || left <= 0 || ctx.Err() != nil {
			continue
		}
		left--
		if img, err := ReadImage(ctx, c.mem, m.Start); err == nil {
			left -= len(img.Progs)
			c.objects = append(c.objects, object{name: m.Name, start: m.Start, bias: img.Bias, img: img})
		}
	}
}

// permFromImages fills in the permissions that a core of GDB's lacks from the
// segments of the files' images: of mappings that GDB left out all of them,
// of the others the read permission.
func (c *Core) permFromImages() {
	if !c.byGDB {
		return
	}
	page := c.Auxv.PageSize()
	left := 1 << 22 // mappings to look at; images that overlap could make it endless
	for _, o := range c.objects {
		parts, err := o.img.Mappings(Loaded{Bias: o.bias, Page: page})
		if err != nil {
			continue
		}
		for _, p := range parts {
			i, _ := slices.BinarySearchFunc(c.Mappings, p.Start, func(m CoreMapping, a uint64) int { return cmp.Compare(m.Start, a) })
			for ; i < len(c.Mappings) && p.Contains(c.Mappings[i].Start) && left > 0; i++ {
				left--
				m := &c.Mappings[i]
				switch {
				case m.Name != o.name || m.Last() > p.Last():
				case !m.loaded:
					m.Perm = p.Perm
				default:
					m.Perm |= p.Perm & (vm.Read | vm.KnownRead)
				}
			}
		}
	}
}

// nameByLinker names the program and its libraries where the core has no
// NT_FILE, as QEMU's have not: from AT_EXECFN and the dynamic linker's list,
// and laid out by the ELF headers in memory. It is the image of the program.
func (c *Core) nameByLinker(ctx context.Context, exe *Image, opt CoreOptions) *Image {
	left := maxCoreProgs
	if at, ok := c.Auxv.Get(AuxExecFn); ok {
		c.exeName, _ = readString(ctx, c.mem, at)
	}
	links := c.links(ctx, exe)
	var guessed, byFile int
	var rs []fileRange
	for i, l := range c.linkObjects(links, exe) {
		if left <= 0 || ctx.Err() != nil {
			break
		}
		left--
		if i > 0 && l.name == "" {
			l.name = c.interp(ctx, exe)
		}
		if l.img == nil && i > 0 {
			if img, err := ReadImage(ctx, c.mem, l.start); err == nil && img.Bias == l.bias {
				l.img = img
			}
		}
		if l.img == nil && l.name != "" && opt.Open != nil {
			if l.img = c.imageOfFile(ctx, l, opt); l.img != nil {
				byFile++
			}
		}
		if i == 0 {
			exe = l.img
		}
		if l.img == nil {
			if l.name != "" {
				guessed++
				rs = append(rs, c.run(l)...)
			}
			continue
		}
		left -= len(l.img.Progs)
		parts, err := l.img.Mappings(Loaded{Bias: l.img.Bias, Page: c.Auxv.PageSize(), Name: l.name})
		if err != nil {
			continue
		}
		for _, p := range parts {
			rs = append(rs, fileRange{p.Range, p.Offset, p.Name, p.Name != ""})
		}
		l.start = parts[0].Start
		c.objects = append(c.objects, l)
	}
	slices.SortStableFunc(c.objects, func(a, b object) int { return cmp.Compare(a.start, b.start) })
	rs, _ = disjoint(rs)
	c.layFiles(rs, false)
	switch {
	case len(rs) == 0:
		c.notef("the core does not say which files were mapped")
	default:
		c.notef("the core has no list of mapped files; names come from its dynamic linker's list")
	}
	if byFile > 0 {
		c.notef("mapped files whose layout comes from the file, its headers fitting the core's addresses: %d", byFile)
	}
	if guessed > 0 {
		c.notef("mapped files whose headers are not in the core, so that their data may be unnamed and offsets behind their first mapping show as 0: %d", guessed)
	}
	return exe
}

// links is the dynamic linker's list, or nil.
func (c *Core) links(ctx context.Context, exe *Image) []LinkEntry {
	if exe != nil {
		if links, _ := exe.LinkMap(ctx); len(links) > 0 {
			return links
		}
	}
	return c.findLinks(ctx)
}

// linkObjects is the program, always first, and what the dynamic linker's list has.
func (c *Core) linkObjects(links []LinkEntry, exe *Image) []object {
	prog := object{name: c.exeName, img: exe}
	if exe != nil {
		prog.bias = exe.Bias
	}
	if phdr, ok := c.Auxv.Get(AuxPhdr); ok {
		prog.start = phdr
	}
	os := []object{prog}
	vdso, hasVDSO := c.Auxv.Get(AuxSysinfoEhdr)
	base, hasBase := c.Auxv.Get(AuxBase)
	for i, l := range links {
		switch {
		case i == 0 && (l.Name == "" || l.Name == c.exeName):
			os[0].bias, os[0].dyn = l.Bias, l.Dynamic
		case hasVDSO && l.Bias == vdso:
		case l.Name != "" || hasBase && l.Bias == base:
			// The linker's own name may lie in a segment that is not in the core.
			hasBase = hasBase && l.Bias != base
			os = append(os, object{name: l.Name, start: l.Bias, bias: l.Bias, dyn: l.Dynamic})
		}
	}
	if hasBase && base != 0 {
		os = append(os, object{start: base, bias: base})
	}
	return os
}

// interp is the name of the dynamic linker that the program asks for, out of
// memory or of the program's file, or "".
func (c *Core) interp(ctx context.Context, exe *Image) string {
	if exe == nil {
		return ""
	}
	if s := exe.Interp(ctx); s != "" {
		return s
	}
	f := c.opened[c.exeName]
	p, ok := exe.Segment(elf.PT_INTERP)
	if f == nil || !ok {
		return ""
	}
	b := make([]byte, min(p.Filesz, maxPath))
	n, _ := readAt(f, b, p.Off)
	name, _, _ := strings.Cut(string(b[:n]), "\x00")
	return name
}

// maxLinkerRun bounds, in bytes, the search for the dynamic linker's data.
const maxLinkerRun = 16 << 20

// findLinks finds struct r_debug in the data of the dynamic linker by its
// r_ldbase, which is AT_BASE, where the program's headers, which lead to it,
// are not in the core.
func (c *Core) findLinks(ctx context.Context) []LinkEntry {
	base, _ := c.Auxv.Get(AuxBase)
	i := c.at(base)
	if base == 0 || i < 0 {
		return nil
	}
	img := &Image{ELF: c.ELF, mem: c.mem}
	w := c.wordSize()
	want := make([]byte, w)
	if c.is32() {
		c.Order.PutUint32(want, uint32(base))
	} else {
		c.Order.PutUint64(want, base)
	}
	tries := 1024
	for end := c.Mappings[i].Start; i < len(c.Mappings) && c.Mappings[i].Start == end; i++ {
		m := &c.Mappings[i]
		if end = m.Start + m.Size; end-base > maxLinkerRun {
			return nil
		}
		if m.InCore == 0 {
			continue
		}
		b := make([]byte, min(m.InCore, maxLinkerRun))
		n, _ := c.mem.ReadMemory(ctx, b, m.Start)
		b = b[:n]
		for at := 0; ; at++ {
			k := bytes.Index(b[at:], want)
			if k < 0 {
				break
			}
			at += k
			// struct r_debug: r_version, r_map, r_brk, r_state, r_ldbase.
			from := at - 4*w
			if at%w != 0 || from < 0 {
				continue
			}
			version, state := c.Order.Uint32(b[from:]), c.Order.Uint32(b[from+3*w:])
			if version < 1 || version > 2 || state > 2 || c.word(b[from+2*w:])-base > maxLinkerRun {
				continue
			}
			if tries--; tries < 0 {
				return nil
			}
			if links, _ := img.links(ctx, m.Start+uint64(from)); len(links) > 0 && links[0].Dynamic != 0 {
				return links
			}
		}
	}
	return nil
}

// imageOfFile is the headers of the file that an object was mapped from, where
// they fit the object's addresses; else nil.
func (c *Core) imageOfFile(ctx context.Context, o object, opt CoreOptions) *Image {
	f, err := c.openOnce(o.name, opt)
	if err != nil {
		return nil
	}
	e, err := readELF(f, maxLoadProgs)
	if err != nil || e.Class != c.Class || e.Order != c.Order || e.Machine != c.Machine {
		return nil
	}
	img := &Image{ELF: e, Bias: o.bias, mem: c.mem}
	if o.name == c.exeName {
		entry, _ := c.Auxv.Get(AuxEntry)
		phdr, _ := c.Auxv.Get(AuxPhdr)
		img.Bias = (entry - e.Entry) & c.addressMask()
		if b, ok := e.phdrBias(phdr); !ok || b != img.Bias {
			return nil
		}
	}
	if p, ok := e.Segment(elf.PT_DYNAMIC); ok != (o.dyn != 0) && o.name != c.exeName ||
		ok && o.dyn != 0 && (p.Vaddr+img.Bias)&c.addressMask() != o.dyn {
		return nil
	}
	parts, err := e.Mappings(Loaded{Bias: img.Bias, Page: c.Auxv.PageSize()})
	if err != nil {
		return nil
	}
	for _, p := range parts {
		i := c.at(p.Start)
		if i < 0 || (p.Perm^c.Mappings[i].Perm)&vm.Exec != 0 {
			return nil
		}
	}
	return img
}

// maxRun bounds the mappings of one object; ELF files have about five.
const maxRun = 64

// run is the ranges that are certain to be an object's whose headers are not
// known: from its first byte to its dynamic section, for the program also to
// its entry point, as far as mappings follow each other without a gap. Linkers
// put nothing that is not of the file before that section.
func (c *Core) run(o object) []fileRange {
	first := c.at(o.start)
	if first < 0 || c.Mappings[first].Start&(c.Auxv.PageSize()-1) != 0 {
		return nil
	}
	last := first
	reach := func(addr uint64) {
		i := c.at(addr)
		if i-first > maxRun {
			return
		}
		for j := first; j < i; j++ {
			if c.Mappings[j].Last()+1 != c.Mappings[j+1].Start {
				return
			}
		}
		last = max(last, i)
	}
	if entry, ok := c.Auxv.Get(AuxEntry); ok && o.name == c.exeName {
		reach(entry)
	}
	if o.dyn != 0 {
		reach(o.dyn)
	}
	var rs []fileRange
	for i := first; i <= last; i++ {
		if m := &c.Mappings[i]; m.Perm&(vm.Read|vm.Write|vm.Exec) != 0 {
			rs = append(rs, fileRange{m.Range, 0, o.name, i == first})
		}
	}
	return rs
}

// unnamed reports whether nothing is known to be mapped at c.Mappings[i].
func (c *Core) unnamed(i int) bool { return c.Mappings[i].Name == "" && !c.Mappings[i].Backed }

// vsyscallPage is where x86-64 has the page of that name
// (arch/x86/include/uapi/asm/vsyscall.h).
const vsyscallPage = 0xffffffffff600000

// nameKernels names what the kernel itself maps.
func (c *Core) nameKernels() {
	if c.Machine == elf.EM_X86_64 {
		if i := c.at(vsyscallPage); i >= 0 && c.unnamed(i) {
			c.Mappings[i].Name = "[vsyscall]"
		}
	}
	at, ok := c.Auxv.Get(AuxSysinfoEhdr)
	i := c.at(at)
	if !ok || i < 0 || !c.unnamed(i) || c.Mappings[i].Start != at {
		return
	}
	c.Mappings[i].Name = "[vdso]"
	if !c.isVvar(i - 1) {
		return
	}
	// Since Linux 6.13 x86 has two: of 4 pages, and of 2 for the clocks of
	// hypervisors (arch/x86/include/asm/vdso/vsyscall.h).
	if x86 := c.Machine == elf.EM_X86_64 || c.Machine == elf.EM_386; x86 &&
		c.Mappings[i-1].Size == 2*4096 && c.isVvar(i-2) && c.Mappings[i-2].Size == 4*4096 {
		c.Mappings[i-2].Name, c.Mappings[i-2].Derived = "[vvar]", true
		c.Mappings[i-1].Name, c.Mappings[i-1].Derived = "[vvar_vclock]", true
		return
	}
	c.Mappings[i-1].Name, c.Mappings[i-1].Derived = "[vvar]", true
}

// isVvar reports whether c.Mappings[i] is without a name, r-- and ends where
// the next one begins.
func (c *Core) isVvar(i int) bool {
	if i < 0 || !c.unnamed(i) {
		return false
	}
	m := &c.Mappings[i]
	return m.Last()+1 == c.Mappings[i+1].Start && !m.Perm.IsNot(vm.Read) && m.Perm.IsNot(vm.Write) && m.Perm.IsNot(vm.Exec)
}

// nameStack names the main thread's stack: it holds the bytes of AT_RANDOM;
// without an auxiliary vector, the stack pointer of the only thread.
func (c *Core) nameStack() {
	at, ok := c.Auxv.Get(AuxRandom)
	if !ok {
		at, ok = c.Auxv.Get(AuxExecFn)
	}
	derived := !ok
	if !ok && len(c.Threads) == 1 {
		at, ok = c.Threads[0].SP, c.Threads[0].HasSP
	}
	if i := c.at(at); ok && i >= 0 && c.unnamed(i) {
		m := &c.Mappings[i]
		if m.Name, m.Derived = "[stack]", derived; m.Perm.Is(vm.Write) {
			m.Perm |= vm.Read | vm.KnownRead
		}
	}
}

// Linux begins the heap up to so many bytes behind the program's bss
// (arch_randomize_brk in mm/util.c and arch/*/kernel/process.c).
const (
	maxHeapGap32 = 32 << 20
	maxHeapGap64 = 1 << 30
)

// loaderHeap is where Linux begins the heap of a static position-independent
// program at start: such a program goes where mmap(2) puts mappings, its heap to
// ELF_ET_DYN_BASE, two thirds of the address space (fs/binfmt_elf.c,
// load_elf_binary). ok is false where the heap is behind the program, as that of
// others is, or where it is not known.
func (c *Core) loaderHeap(start uint64) (heap uint64, ok bool) {
	const (
		dynBase = (1<<47 - 4096) / 3 * 2 &^ 4095
		// Other programs go so far above it (2^32 pages, vm.mmap_rnd_bits).
		random = 1 << 44
	)
	base, _ := c.Auxv.Get(AuxBase)
	if c.Machine != elf.EM_X86_64 || base != 0 || start < dynBase+random {
		return 0, false
	}
	return dynBase, true
}

// nameHeap names the heap, which a core does not tell. Linux puts it behind the
// program's bss, at a distance, and the C library knows where it ends. Where that
// is not to be had, a heap is concluded from there being only one place for it.
func (c *Core) nameHeap(ctx context.Context, exe *Image, fs *mappedFiles) {
	first, end, ok := c.behindBSS(exe)
	if !ok {
		return
	}
	lo, hi := -1, -1 // the mappings that the heap is in
	if brk, ok := c.libcBreak(ctx, fs); ok {
		if brk <= end {
			return // it has no pages
		}
		if hi = c.at(brk - 1); hi < first || !c.mayBeHeap(hi) {
			return
		}
		for lo = hi; lo > first && c.goesOn(lo-1); lo-- {
		}
	} else {
		gap := uint64(maxHeapGap64)
		switch {
		case !c.hasFile: // QEMU leaves no gap (linux-user/syscall.c, target_set_brk)
			gap = 0
		case c.is32():
			gap = maxHeapGap32
		}
		for i := first; i < len(c.Mappings) && (c.Mappings[i].Start <= end || c.Mappings[i].Start-end <= gap); i++ {
			if !c.mayBeHeap(i) {
				continue
			}
			if lo < 0 {
				lo = i
			}
			for j := max(hi, lo); j < i; j++ {
				if !c.goesOn(j) {
					return // it may be here or there
				}
			}
			hi = i
		}
		if lo < 0 {
			return
		}
	}
	for i := lo; i <= hi; i++ {
		m := &c.Mappings[i]
		if m.Name, m.Derived = "[heap]", true; m.Perm.Is(vm.Write) {
			m.Perm |= vm.Read | vm.KnownRead
		}
	}
}

// goesOn reports whether c.Mappings[i] may be part of the same memory as the next
// one, with other permissions: the kernel keeps apart what is not, and only that.
func (c *Core) goesOn(i int) bool {
	m, next := &c.Mappings[i], &c.Mappings[i+1]
	return c.unnamed(i) && c.unnamed(i+1) && m.Last()+1 == next.Start && m.Perm != next.Perm
}

// mayBeHeap reports whether c.Mappings[i] is as all of the heap is that nobody
// protected.
func (c *Core) mayBeHeap(i int) bool {
	return c.unnamed(i) && c.Mappings[i].Perm.Is(vm.Write) && !c.Mappings[i].Perm.IsNot(vm.Read)
}

// behindBSS is the first mapping that ends behind the program's bss, and the end
// of that, as far as they are known.
func (c *Core) behindBSS(exe *Image) (first int, end uint64, ok bool) {
	switch phdr, hasPhdr := c.Auxv.Get(AuxPhdr); {
	case exe != nil:
		span := exe.Span(c.Auxv.PageSize())
		start := (span.Start + exe.Bias) & c.addressMask()
		if end = start + span.Size; span.Size == 0 || end < start {
			return 0, 0, false
		}
		if heap, ok := c.loaderHeap(start); ok {
			end = heap
		}
	case hasPhdr && c.hasFile && c.exeName != "":
		i := c.at(phdr)
		for ; i >= 0 && i+1 < len(c.Mappings) && (c.Mappings[i+1].Name == c.exeName || i+2 < len(c.Mappings) && c.Mappings[i+2].Name == c.exeName); i++ {
		}
		if i < 0 {
			return 0, 0, false
		}
		if heap, ok := c.loaderHeap(phdr); ok {
			end = heap
			break
		}
		end = c.Mappings[i].Last() + 1
		// Without the headers, what follows without a gap counts as bss.
		if first = i + 1; first < len(c.Mappings) && c.Mappings[first].Start == end {
			end = c.Mappings[first].Last() + 1
		}
	default:
		return 0, 0, false
	}
	first, _ = slices.BinarySearchFunc(c.Mappings, end, func(m CoreMapping, a uint64) int {
		if m.Last() < a {
			return -1
		}
		return 1
	})
	return first, end, true
}

// libcBreak is the end of the heap as the C library has it: glibc, uClibc and
// others keep what brk(2) said last in __curbrk, 0 before the first call. ok is
// false where the library's file, which says where that is, is not at hand.
func (c *Core) libcBreak(ctx context.Context, fs *mappedFiles) (brk uint64, ok bool) {
	if fs == nil {
		return 0, false
	}
	for _, o := range c.objects {
		_, file := path.Split(o.name)
		_, dynamic := o.img.Segment(elf.PT_INTERP)
		if !(strings.HasPrefix(file, "libc.so") || strings.HasPrefix(file, "libc-") || strings.HasPrefix(file, "libuClibc") ||
			o.name == c.exeName && !dynamic) {
			continue
		}
		f, err := fs.get(ctx, o.name, o.img)
		if err != nil {
			continue
		}
		at, found := f.symbol(f.r, "__curbrk")
		if !found {
			continue
		}
		// Namespaces (dlmopen(3)) have a library each.
		if v, err := o.img.readWord(ctx, at+o.img.Bias); err == nil {
			brk, ok = max(brk, v), true
		}
	}
	return brk, ok
}
