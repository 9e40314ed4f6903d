package qemuuser

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"slices"
	"time"

	"dbgsh/target/gdb"
	"dbgsh/vm"
	"dbgsh/vm/image"
)

const (
	// guessTime bounds the guessing; what is under way then is still awaited.
	guessTime = 1500 * time.Millisecond
	// quietPages is how many pages in a row that cannot be read end a search
	// for further memory; gaps of up to smallGap pages are looked through.
	quietPages = 256
	smallGap   = 4096
	// maxData bounds the bytes that are searched for pointers, and maxPointers
	// how many of these are followed.
	maxData     = 1 << 20
	maxPointers = 512
	// userSpace bounds where a pointer may lead: programs have 2^47 bytes, or
	// 2^48 (Documentation/arch/arm64/memory.rst in the kernel).
	userSpace = 1 << 48
)

// errTimeUp says that guessing has taken as long as it may.
var errTimeUp = errors.New("the time for it is up")

// guesser finds out by reading through the stub what a guest has mapped.
type guesser struct {
	g     *guest
	ctx   context.Context
	until time.Time
	page  uint64          // bytes
	pages map[uint64]bool // whether the page at an address can be read
	rows  []vm.Mapping    // sorted and disjoint
	cut   bool            // the time was up
}

// ReadMemory reads through the stub as long as there is time.
func (s *guesser) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	if s.late() {
		return 0, errTimeUp
	}
	return s.g.stub.ReadMemory(ctx, p, addr)
}

func (s *guesser) late() bool {
	s.cut = s.cut || time.Now().After(s.until)
	return s.cut
}

// guessMap is what the auxiliary vector, ELF headers in memory, the dynamic
// linker's list and trying out addresses near what these name lead to.
func (g *guest) guessMap(ctx context.Context) (*vm.Map, error) {
	phdr, ok := g.aux.Get(image.AuxPhdr)
	num, _ := g.aux.Get(image.AuxPhnum)
	if !ok {
		return nil, errors.New("the stub hands over no auxiliary vector to start from")
	}
	s := &guesser{g: g, ctx: ctx, until: time.Now().Add(guessTime), page: g.aux.PageSize(), pages: map[uint64]bool{}}
	exe, err := image.ReadImagePhdrs(ctx, s, g.class, g.order, phdr, num)
	if err != nil {
		return nil, err
	}
	for _, step := range []func() error{
		func() error { return s.images(exe) },
		func() error { return s.stacks(exe) },
		s.pointers,
		s.gaps,
	} {
		if err := step(); err != nil && !errors.Is(err, errTimeUp) {
			return nil, err
		}
	}
	s.nameHeap(exe)
	if head, err := image.ReadImage(ctx, s.g.stub, g.guestPage(phdr)); err == nil && head.Machine == elf.EM_X86_64 && g.addressBits() == 64 {
		s.add(vsyscall())
	}
	m := &vm.Map{
		Mappings: s.rows, AddressBits: g.addressBits(),
		From:    vm.Origin{Source: vm.SourceExplored, Place: "a guess by ELF headers in memory and addresses tried out near them"},
		Partial: []vm.Lack{{Of: vm.LackMappings, Why: "more may be mapped than was guessed; memory without read access is not seen"}},
	}
	if s.cut {
		m.Partial = append(m.Partial, vm.Lack{Of: vm.LackMappings, Why: "not everything was tried for want of time"})
	}
	return m, nil
}

// add adds a mapping, as far as nothing is known to be there.
func (s *guesser) add(m vm.Mapping) {
	for _, row := range s.rows {
		if !row.Overlaps(m.Range) {
			continue
		}
		if m.Start < row.Start {
			s.add(m.Clip(vm.Range{Start: m.Start, Size: row.Start - m.Start}))
		}
		if m.Last() > row.Last() {
			s.add(m.Clip(vm.Range{Start: row.Last() + 1, Size: m.Last() - row.Last()}))
		}
		return
	}
	at, _ := slices.BinarySearchFunc(s.rows, m.Start, func(r vm.Mapping, a uint64) int { return cmp.Compare(r.Start, a) })
	s.rows = slices.Insert(s.rows, at, m)
}

// known reports whether a mapping is known to hold addr.
func (s *guesser) known(addr uint64) bool {
	return slices.ContainsFunc(s.rows, func(m vm.Mapping) bool { return m.Contains(addr) })
}

// ask finds out which of the pages at addrs can be read, as far as that is not
// known.
func (s *guesser) ask(addrs ...uint64) error {
	addrs = slices.DeleteFunc(addrs, func(a uint64) bool {
		_, known := s.pages[a]
		return known
	})
	if len(addrs) == 0 {
		return nil
	}
	if s.late() {
		return errTimeUp
	}
	answers, err := s.g.readable(s.ctx, addrs...)
	for i := range answers {
		s.pages[addrs[i]] = answers[i]
	}
	return err
}

// reach is how many pages from the one at addr on can be read without a gap,
// at most limit. down goes to lower addresses.
func (s *guesser) reach(addr, limit uint64, down bool) (n uint64, err error) {
	page := func(n uint64) uint64 {
		if down {
			return addr - n*s.page
		}
		return addr + n*s.page
	}
	ahead := uint64(16) // more, once that did not do
	for ; n < limit; n++ {
		readable, known := s.pages[page(n)]
		if !known {
			// Those behind it are of interest sooner or later.
			var addrs []uint64
			for i := range min(limit-n, ahead) {
				addrs = append(addrs, page(n+i))
			}
			if err := s.ask(addrs...); err != nil {
				return n, err
			}
			ahead = probesAtOnce
			readable = s.pages[page(n)]
		}
		if !readable {
			break
		}
	}
	return n, nil
}

// images adds the program, its interpreter, the vDSO and what the dynamic
// linker lists.
func (s *guesser) images(exe *image.Image) error {
	if err := s.image(exe, s.g.exec); err != nil {
		return err
	}
	at := func(base uint64, name string) error {
		if base == 0 || s.known(base) {
			return nil
		}
		img, err := image.ReadImage(s.ctx, s, base)
		switch {
		case errors.Is(err, errTimeUp) || s.ctx.Err() != nil:
			return err
		case err != nil || img.Class != s.g.class:
			return nil
		}
		return s.image(img, name)
	}
	if base, ok := s.g.aux.Get(image.AuxBase); ok {
		if err := at(base, exe.Interp(s.ctx)); err != nil {
			return err
		}
	}
	if base, ok := s.g.aux.Get(image.AuxSysinfoEhdr); ok {
		if err := at(base, "[vdso]"); err != nil {
			return err
		}
	}
	// What could be read of the list counts.
	links, _ := exe.LinkMap(s.ctx)
	for _, l := range links {
		if l.Name == "" {
			continue
		}
		if err := at(l.Bias, l.Name); err != nil {
			return err
		}
	}
	return nil
}

// image adds the segments of an image that can be read.
func (s *guesser) image(img *image.Image, name string) error {
	parts, err := img.Mappings(image.Loaded{Bias: img.Bias, Page: s.page, Name: name})
	if err != nil {
		return nil // the program has mapped it in its own way
	}
	// After relocation the dynamic linker makes this read-only, or did not yet.
	var relro vm.Range
	if p, ok := img.Segment(elf.PT_GNU_RELRO); ok && p.Memsz > 0 {
		start := (p.Vaddr + img.Bias) & s.g.last()
		if last := start + (p.Memsz - 1); last >= start && last|(s.page-1) <= s.g.last() {
			start &^= s.page - 1
			relro = vm.Range{Start: start, Size: (last | (s.page - 1)) - start + 1}
		}
	}
	for _, p := range parts {
		first, last := p.Start, p.Last()&^(s.page-1)
		if err := s.ask(first, last); err != nil {
			return err
		}
		if !s.pages[first] {
			continue
		}
		if !s.pages[last] { // it was cut off
			n, err := s.reach(p.Start, p.Size/s.page, false)
			if err != nil {
				return err
			}
			p.Size = n * s.page
		}
		p.Perm |= vm.Read | vm.KnownRead
		if !p.Overlaps(relro) {
			s.add(p)
			continue
		}
		maybe := p.Clip(relro)
		maybe.Perm &^= vm.Write | vm.KnownWrite
		s.add(maybe)
		s.add(p)
	}
	return nil
}

// stacks adds the stack, and what the stack pointer points into.
func (s *guesser) stacks(exe *image.Image) error {
	if at, ok := s.g.aux.Get(image.AuxRandom); ok {
		run, err := s.around(at)
		if err != nil {
			return err
		}
		if run.Size > 0 {
			m := vm.Mapping{Range: s.g.stackIn(run), Perm: vm.Read | vm.KnownRead, Name: "[stack]", Source: vm.SourceExplored}
			if perm, ok := exe.StackPerm(); ok {
				m.Perm |= perm
			}
			s.add(m)
			s.add(vm.Mapping{Range: run, Perm: vm.Read | vm.KnownRead, Source: vm.SourceExplored})
		}
	}
	sp, _, err := s.g.g.Evaluate(s.ctx, "$sp")
	if err != nil {
		var unknown *gdb.ValueError
		if errors.As(err, &unknown) {
			return nil
		}
		return err
	}
	run, err := s.around(sp & s.g.last())
	if err == nil && run.Size > 0 {
		s.add(vm.Mapping{Range: run, Perm: vm.Read | vm.KnownRead, Source: vm.SourceExplored})
	}
	return err
}

// pointers adds what pointers in the data of the program and its libraries lead
// to, such as the heaps that their allocators keep.
func (s *guesser) pointers() error {
	var pages []uint64
	left := uint64(maxData)
	size := s.g.addressBits() / 8
	for _, m := range s.rows {
		if m.Source != vm.SourceELF || m.Perm.IsNot(vm.Write) || left == 0 {
			continue
		}
		b := make([]byte, min(m.Size, left))
		left -= uint64(len(b))
		n, err := s.ReadMemory(s.ctx, b, m.Start)
		if err != nil {
			return err
		}
		for b = b[:n]; len(b) >= size; b = b[size:] {
			var v uint64
			if size == 4 {
				v = uint64(s.g.order.Uint32(b))
			} else {
				v = s.g.order.Uint64(b)
			}
			if page := v &^ (s.page - 1); page != 0 && v < userSpace && !s.known(v) {
				pages = append(pages, page)
			}
		}
	}
	slices.Sort(pages)
	pages = slices.Compact(pages)
	pages = pages[:min(len(pages), maxPointers)]
	if err := s.ask(slices.Clone(pages)...); err != nil {
		return err
	}
	for _, page := range pages {
		if !s.pages[page] {
			continue
		}
		run, err := s.around(page)
		if err != nil {
			return err
		}
		if run.Size > 0 {
			s.add(vm.Mapping{Range: run, Perm: vm.Read | vm.KnownRead, Source: vm.SourceExplored})
		}
	}
	return nil
}

// around is the run of readable pages, not known before, that holds addr.
func (s *guesser) around(addr uint64) (vm.Range, error) {
	if s.known(addr) {
		return vm.Range{}, nil
	}
	start := addr &^ (s.page - 1)
	low, high := uint64(0), s.g.last()&^(s.page-1) // first pages that it may go to
	for _, m := range s.rows {
		if m.Last() < start {
			low = m.Last() + 1
		} else {
			high = m.Start - s.page
			break
		}
	}
	up, err := s.reach(start, (high-start)/s.page+1, false)
	if err != nil || up == 0 {
		return vm.Range{}, err
	}
	down := uint64(0)
	if start > low {
		// What was found before the time is up counts.
		if down, err = s.reach(start-s.page, (start-low)/s.page, true); err != nil && !errors.Is(err, errTimeUp) {
			return vm.Range{}, err
		}
	}
	return vm.Range{Start: start - down*s.page, Size: (up + down) * s.page}, nil
}

// gap is what lies between two known mappings: the addresses of its first and
// last page.
type gap struct {
	first, last uint64
	below       bool // nothing is known below it
	above       bool // nothing is known above it
}

// gaps looks for memory between and beside what is known, the small gaps first.
func (s *guesser) gaps() error {
	if len(s.rows) == 0 {
		return nil
	}
	var gs []gap
	next := uint64(0) // the first address behind what was seen
	for i, m := range s.rows {
		if m.Start > next {
			gs = append(gs, gap{first: next, last: m.Start - s.page, below: i == 0})
		}
		next = m.Last() + 1
	}
	if top := s.g.last() &^ (s.page - 1); next != 0 && next <= top {
		gs = append(gs, gap{first: next, last: top, above: true})
	}
	slices.SortStableFunc(gs, func(a, b gap) int { return cmp.Compare(a.last-a.first, b.last-b.first) })
	for _, g := range gs {
		quiet := uint64(quietPages)
		if (g.last-g.first)/s.page < smallGap && !g.below && !g.above {
			quiet = smallGap
		}
		if !g.below {
			end, err := s.sweep(g.first, g.last, quiet)
			if err != nil {
				return err
			}
			if end > g.last || end == 0 {
				continue
			}
			g.first = end
		}
		if !g.above {
			if err := s.sweepDown(g.first, g.last, quiet); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep looks for memory from the page at first to the one at last, until
// quiet pages in a row cannot be read, and returns the page where it ended; 0
// is the end of the address space.
func (s *guesser) sweep(first, last, quiet uint64) (end uint64, err error) {
	for silent := uint64(0); silent < quiet; {
		n, err := s.reach(first, (last-first)/s.page+1, false)
		if n > 0 {
			s.add(vm.Mapping{Range: vm.Range{Start: first, Size: n * s.page}, Perm: vm.Read | vm.KnownRead, Source: vm.SourceExplored})
			silent = 0
		}
		if err != nil {
			return first, err
		}
		// The page behind what could be read cannot be.
		if first > last-n*s.page || n > (last-first)/s.page {
			return last + s.page, nil
		}
		first += n * s.page
		silent++
		if first == last {
			return last + s.page, nil
		}
		first += s.page
	}
	return first, nil
}

// sweepDown is sweep towards lower addresses.
func (s *guesser) sweepDown(first, last, quiet uint64) error {
	for silent := uint64(0); silent < quiet; {
		limit := (last-first)/s.page + 1
		n, err := s.reach(last, limit, true)
		if n > 0 {
			start := last - (n-1)*s.page
			s.add(vm.Mapping{Range: vm.Range{Start: start, Size: n * s.page}, Perm: vm.Read | vm.KnownRead, Source: vm.SourceExplored})
			silent = 0
		}
		if err != nil || n+1 >= limit {
			return err
		}
		last -= (n + 1) * s.page
		silent++
	}
	return nil
}

// nameHeap names the memory right behind the program.
func (s *guesser) nameHeap(exe *image.Image) {
	span := exe.Span(s.page)
	end := (span.Start + exe.Bias + span.Size) & s.g.last()
	for i := range s.rows {
		if m := &s.rows[i]; m.Start == end && m.Name == "" {
			m.Name, m.Derived = "[heap]", true
		}
	}
}
