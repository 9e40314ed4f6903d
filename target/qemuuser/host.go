package qemuuser

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dbgsh/target/proc"
	"dbgsh/vm"
	"dbgsh/vm/image"
)

// qemuHost is a QEMU in user mode on this machine, with a guest in its memory.
type qemuHost struct {
	g     *guest
	tid   int
	base  uint64 // guest_base: what lies at an address of the guest's lies so much higher in QEMU
	smaps []proc.Smap
}

// openHost finds QEMU's process by the thread that the stub names, and what
// lies where in it. That it is the right one is known by the 16 random bytes
// at AT_RANDOM (getauxval(3)), which are the same through the stub.
func (g *guest) openHost(ctx context.Context) (*qemuHost, error) {
	tid, err := strconv.Atoi(g.tid)
	if err != nil {
		return nil, errors.New("the stub does not name QEMU's thread")
	}
	exe, err := os.Readlink(proc.Path(tid, "exe"))
	if err != nil {
		return nil, fmt.Errorf("thread %d, as the stub names it: %w", tid, err)
	}
	if !strings.HasPrefix(filepath.Base(exe), "qemu-") {
		return nil, fmt.Errorf("thread %d on this machine is %s, not QEMU", tid, exe)
	}
	text, err := os.ReadFile(proc.Path(tid, "smaps"))
	if err != nil {
		return nil, err
	}
	h := &qemuHost{g: g, tid: tid}
	if h.smaps, err = proc.ParseSmaps(text); err != nil {
		return nil, fmt.Errorf("%s: %w", proc.Path(tid, "smaps"), err)
	}
	random, ok := g.aux.Get(image.AuxRandom)
	if !ok {
		return nil, errors.New("the stub does not say where AT_RANDOM is")
	}
	want := make([]byte, 16)
	if n, err := g.stub.Read(ctx, want, random); n < len(want) {
		return nil, fmt.Errorf("read AT_RANDOM at %#x: %w", random, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	mem, err := proc.OpenMemory(tid, proc.Options{})
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	got := make([]byte, len(want))
	for _, base := range h.bases() {
		at := random + base
		if at < base {
			continue
		}
		// A page that QEMU does not have is not it, and must not come to be.
		if own, err := mem.Owned(at, len(got)); err == nil && slices.Contains(own, false) {
			continue
		}
		if n, err := mem.ReadMemory(ctx, got, at); err == nil && n == len(got) && bytes.Equal(got, want) {
			h.base = base
			return h, nil
		}
	}
	return nil, fmt.Errorf("pid %d on this machine does not hold the guest's memory", tid)
}

// bases are what guest_base may be: 0, or what leads from the page of the
// program's headers to a file mapped from its start.
func (h *qemuHost) bases() []uint64 {
	bases := []uint64{0}
	phdr, ok := h.g.aux.Get(image.AuxPhdr)
	if !ok {
		return bases
	}
	page := h.g.guestPage(phdr)
	for _, m := range h.smaps {
		if m.Inode != 0 && m.Offset == 0 && m.Start > page && !slices.Contains(bases, m.Start-page) {
			bases = append(bases, m.Start-page)
		}
	}
	return bases
}

// owner is whose a mapping of QEMU's process is.
type owner uint8

const (
	ownerUnknown owner = iota
	ownerGuest
	ownerQEMU
)

// hostPiece is a mapping of QEMU's, or a part of one, by the guest's addresses.
type hostPiece struct {
	vm.Mapping
	vma     int  // the mapping of QEMU's that it is of
	lazy    bool // the kernel shows nr: mapped with MAP_NORESERVE
	refused bool // QEMU may read it, the guest may not
	empty   bool // QEMU may read it, but has no page of it
	owner   owner
}

// pieces are QEMU's mappings within the guest's address space.
func (h *qemuHost) pieces() []hostPiece {
	var ps []hostPiece
	for i, m := range h.smaps {
		if m.Last() < h.base {
			continue
		}
		if m.Start < h.base {
			m.Mapping = m.Clip(vm.Range{Start: h.base, Size: m.Last() - h.base + 1})
		}
		if m.Start -= h.base; m.Start > h.g.last() {
			break
		}
		if over := h.g.last() - m.Start; m.Size-1 > over {
			m.Size = over + 1
		}
		p := hostPiece{Mapping: m.Mapping, vma: i, lazy: m.HasFlag("nr")}
		// QEMU never maps memory of the guest executable, since it translates
		// code, and what the kernel names is QEMU's heap, stack or vDSO.
		if m.Perm.Is(vm.Exec) || strings.HasPrefix(m.Name, "[") {
			p.owner = ownerQEMU
		}
		p.Source = vm.SourceQEMU
		ps = append(ps, p)
	}
	return ps
}

// guestMap is the guest's map out of QEMU's.
func (h *qemuHost) guestMap(ctx context.Context) (*vm.Map, error) {
	pages, err := proc.OpenMemory(h.tid, proc.Options{})
	if err != nil {
		return nil, err
	}
	defer pages.Close()
	ps, err := h.whose(ctx, h.pieces(), h.g.readable, func(p *hostPiece) (first, last uint64, known bool) {
		return h.ends(ctx, pages, p)
	})
	if err != nil {
		return nil, err
	}
	r := &rebuilt{h: h, ctx: ctx}
	empty := 0
	for _, p := range ps {
		if p.owner == ownerGuest {
			r.rows = append(r.rows, p)
			if p.empty {
				empty++
			}
		} else {
			r.rest = append(r.rest, p)
		}
	}
	if err := r.findImages(); err != nil {
		return nil, err
	}
	whole := h.filled(ps)
	r.addImageHoles(whole)
	r.setPerms()
	r.setExec()
	r.name()
	m := &vm.Map{
		Mappings: r.mappings(), AddressBits: h.g.addressBits(),
		From:    vm.Origin{Source: vm.SourceQEMU, Place: fmt.Sprintf("QEMU's own memory map (pid %d)", h.tid)},
		Partial: []vm.Lack{{Of: vm.LackPermissions, Why: "x of anonymous memory is not visible there"}},
	}
	if empty > 0 {
		m.Notes = append(m.Notes, fmt.Sprintf(
			"mappings of which QEMU has no page: %d; QEMU, which would get one, is not asked about them, so that they are the guest's is concluded from where they lie", empty))
	}
	if whole > 0 {
		m.Partial = append(m.Partial, vm.Lack{
			Of: vm.LackMappings, Why: "what the guest keeps without access and reserve (MAP_NORESERVE) is not visible there",
		})
	}
	return m, nil
}

// touch reports whether a piece ends where the next one begins.
func touch(ps []hostPiece, i int) bool {
	return i >= 0 && i+1 < len(ps) && ps[i].Last()+1 == ps[i+1].Start
}

// lowest is where the kernel lets a process's memory begin, unless it was told
// otherwise (vm.mmap_min_addr).
const lowest = 1 << 16

// filled is how many of the first pieces follow each other without a gap from
// the guest's lowest address on, up to memory of the guest's: where QEMU keeps the
// guest's whole address space reserved, nothing in it is QEMU's own, and what
// the guest does not use is filled with memory without access. It is 0 where
// QEMU does not.
func (h *qemuHost) filled(ps []hostPiece) int {
	if len(ps) == 0 || ps[0].Start != 0 && ps[0].Start+h.base > lowest {
		return 0
	}
	n, used := 0, false
	for ; n < len(ps) && (n == 0 || touch(ps, n-1)); n++ {
		if ps[n].owner == ownerQEMU && !filler(ps[n]) || ps[n].refused && ps[n].Perm.Is(vm.Write) {
			break // behind what is reserved
		}
		used = used || ps[n].owner == ownerGuest
	}
	if !used {
		return 0
	}
	return n
}

// filler reports whether a piece may be what fills a reserved address space.
func filler(p hostPiece) bool {
	return p.lazy && p.Inode == 0 && p.Perm.IsNot(vm.Read) && p.Perm.IsNot(vm.Write)
}

// hostPage is the smallest page in bytes that a host of QEMU's has.
const hostPage = 4096

// scansForEnds bounds how often a mapping is looked at for its ends; what is not
// found then is none, or many GiB away from the mapping's own.
const scansForEnds = 64

// ends is where the first and the last page are, by the guest's addresses, that
// QEMU has in a piece; first is above last where it has none. Known is false where
// that cannot be told.
func (h *qemuHost) ends(ctx context.Context, pages *proc.Memory, p *hostPiece) (first, last uint64, known bool) {
	if h.smaps[p.vma].Rss == 0 {
		return 1, 0, true
	}
	var into [64]vm.Extent
	scans := scansForEnds
	// in is the first and the last page in the first part of r that has some, and
	// how far it looked for that; ok is false where it can be told no more.
	in := func(r vm.Range) (first, last, looked uint64, some, ok bool) {
		for looked < r.Size && !some {
			if scans--; scans < 0 {
				return 0, 0, 0, false, false
			}
			n, known, err := pages.Populated(ctx, vm.Range{Start: r.Start + h.base + looked, Size: r.Size - looked}, into[:])
			if err != nil {
				return 0, 0, 0, false, false
			}
			if looked += known; n > 0 {
				first, last, some = into[0].Start-h.base, into[n-1].Last()-h.base, true
			}
		}
		return first, last, looked, some, true
	}
	first, last, _, some, ok := in(p.Range)
	if !ok || !some {
		return 1, 0, ok
	}
	// Backwards from the end, as there may be any number of pages.
	for near, size := last, uint64(2<<20); ; size *= 2 {
		behind := p.Last() - near
		rest := vm.Range{Size: min(size, behind)}
		rest.Start = p.Last() - rest.Size + 1
		for rest.Size > 0 {
			_, l, looked, some, ok := in(rest)
			if !ok {
				return 0, 0, false
			}
			if some {
				last = l
			}
			rest.Start, rest.Size = rest.Start+looked, rest.Size-looked
		}
		if last != near || size >= behind {
			return first, last, true
		}
	}
}

// whose tells the guest's mappings from QEMU's own, by asking the stub for one
// byte of each that can be read. Where the kernel may have put memory of both
// together it asks at both ends, and between them where the answers differ,
// which splits it. It asks for pages that QEMU has, so that it gets no more: ends
// says which those are.
func (h *qemuHost) whose(ctx context.Context, in []hostPiece, readable func(context.Context, ...uint64) ([]bool, error),
	ends func(*hostPiece) (first, last uint64, known bool),
) ([]hostPiece, error) {
	ownFiles(in)
	type question struct {
		piece, n    int // n addresses are asked
		first, last uint64
	}
	var asked []question
	var addrs []uint64
	for i := range in {
		p := &in[i]
		if p.owner != ownerUnknown || !p.Perm.Is(vm.Read) {
			continue
		}
		q := question{i, 1, p.Start, p.Last()}
		if first, last, known := ends(p); known {
			if p.empty = first > last; p.empty {
				continue
			}
			q.first, q.last = first, last
		}
		addrs = append(addrs, q.first)
		if p.Inode == 0 && q.first/hostPage != q.last/hostPage {
			q.n, addrs = 2, append(addrs, q.last)
		}
		asked = append(asked, q)
	}
	answers, err := readable(ctx, addrs...)
	if err != nil {
		return nil, err
	}
	ps := make([]hostPiece, 0, len(in))
	for i, p := range in {
		if len(asked) == 0 || asked[0].piece != i {
			if p.owner == ownerUnknown && p.Perm.Is(vm.Write) && !p.Perm.Is(vm.Read) { // nothing of QEMU's is so
				p.owner = ownerGuest
			}
			ps = append(ps, p)
			continue
		}
		q := asked[0]
		first, last := answers[0], answers[q.n-1]
		asked, answers = asked[1:], answers[q.n:]
		if first != last {
			// lo is as the first page, hi as the last.
			lo, hi := (q.first-p.Start)/hostPage, (q.last-p.Start)/hostPage
			for hi-lo > 1 {
				mid := lo + (hi-lo)/2
				answer, err := readable(ctx, p.Start+mid*hostPage)
				if err != nil {
					return nil, err
				}
				if answer[0] == first {
					lo = mid
				} else {
					hi = mid
				}
			}
			ps = append(ps, answered(p.clip(vm.Range{Start: p.Start, Size: hi * hostPage}), first))
			p = p.clip(vm.Range{Start: p.Start + hi*hostPage, Size: p.Size - hi*hostPage})
		}
		ps = append(ps, answered(p, last))
	}
	likeNearest(ps)
	decide(ps, h.filled(ps))
	return ps, nil
}

// likeNearest takes what has no page to be whose the nearest memory is that is
// known: QEMU's own and the guest's lie far apart. A file is the guest's, for what
// QEMU maps it reads.
func likeNearest(ps []hostPiece) {
	known := make([]owner, len(ps))
	for i := range ps {
		switch p := &ps[i]; {
		case p.empty && p.owner == ownerUnknown && p.Inode != 0:
			p.owner = ownerGuest
		case p.owner == ownerUnknown && p.refused && p.Perm.Is(vm.Write):
			known[i] = ownerQEMU // the guest could read what it can write
			continue
		}
		known[i] = ps[i].owner
	}
	// How far the nearest one below is.
	away := make([]uint64, len(ps))
	for i, last := 0, -1; i < len(ps); i++ {
		switch {
		case known[i] != ownerUnknown:
			last = i
		case ps[i].empty && last >= 0:
			ps[i].owner, away[i] = known[last], ps[i].Start-ps[last].Last()
		}
	}
	for i, last := len(ps)-1, -1; i >= 0; i-- {
		switch {
		case known[i] != ownerUnknown:
			last = i
		case ps[i].empty && last >= 0 && (ps[i].owner == ownerUnknown || ps[last].Start-ps[i].Last() < away[i]):
			ps[i].owner = known[last]
		}
	}
}

// answered is a piece that the guest can read, or cannot.
func answered(p hostPiece, readable bool) hostPiece {
	if p.refused = !readable; readable {
		p.owner = ownerGuest
	}
	return p
}

// ownFiles marks the mappings of files that QEMU itself runs: those in a row
// of one file's of which one is executable.
func ownFiles(ps []hostPiece) {
	for i := 0; i < len(ps); {
		end, own := i+1, ps[i].owner == ownerQEMU
		for ; end < len(ps) && touch(ps, end-1) && ps[end].Inode != 0 && ps[end].Inode == ps[i].Inode; end++ {
			own = own || ps[end].owner == ownerQEMU
		}
		for ; i < end; i++ {
			if own {
				ps[i].owner = ownerQEMU
			}
		}
	}
}

// decide settles whose the mappings are that the stub's answers leave open;
// the first whole of them are as filled says.
func decide(ps []hostPiece, whole int) {
	for i := range ps[:whole] {
		p := &ps[i]
		switch {
		case p.owner != ownerUnknown:
		case filler(*p):
			p.owner = ownerQEMU
		default:
			p.owner = ownerGuest
		}
	}
	// Elsewhere QEMU's own memory and the guest's lie apart, so what touches
	// one of them is of the same.
	before, behind := neighbours(ps)
	for i := whole; i < len(ps); i++ {
		p := &ps[i]
		if p.owner != ownerUnknown || !p.refused {
			continue
		}
		// The guest's, if it may only execute it, which QEMU maps to be read.
		p.owner = ownerQEMU
		if p.Inode == 0 && p.Perm.IsNot(vm.Write) &&
			before[i] != ownerQEMU && behind[i] != ownerQEMU && max(before[i], behind[i]) == ownerGuest {
			p.owner = ownerGuest
		}
	}
	before, behind = neighbours(ps)
	for i := whole; i < len(ps); i++ {
		p := &ps[i]
		if p.owner != ownerUnknown {
			continue
		}
		if p.Start == 0 && filler(*p) {
			p.owner = ownerQEMU // kept for -B, and nothing can be mapped at 0
			continue
		}
		// What was reserved is used from its start on; a guard page stands
		// before the stack that it guards.
		if p.lazy {
			p.owner = cmp.Or(before[i], behind[i], ownerGuest)
		} else {
			p.owner = cmp.Or(behind[i], before[i], ownerGuest)
		}
	}
}

// neighbours are for each piece the known owners of the nearest pieces that it
// follows, and that follow it, without a gap.
func neighbours(ps []hostPiece) (before, behind []owner) {
	before, behind = make([]owner, len(ps)), make([]owner, len(ps))
	for i := 1; i < len(ps); i++ {
		if touch(ps, i-1) {
			before[i] = cmp.Or(ps[i-1].owner, before[i-1])
		}
	}
	for i := len(ps) - 2; i >= 0; i-- {
		if touch(ps, i) {
			behind[i] = cmp.Or(ps[i+1].owner, behind[i+1])
		}
	}
	return before, behind
}

// rebuilt is a guest's map in the making.
type rebuilt struct {
	h      *qemuHost
	ctx    context.Context
	rows   []hostPiece // the guest's, sorted
	rest   []hostPiece // QEMU's
	images []loadedImage
	exe    *loadedImage // nil where it is not known
}

// loadedImage is an ELF file that is laid out in the guest's memory.
type loadedImage struct {
	*image.Image
	byQEMU bool // loaded by QEMU, as the kernel does; else by the guest
	name   string
	inode  uint64
	parts  []vm.Mapping // by its headers; what is not of the file has no name
}

// findImages reads the headers of the ELF files in the guest's memory.
func (r *rebuilt) findImages() error {
	ms := make([]vm.Mapping, len(r.rows))
	for i := range r.rows {
		ms[i] = r.rows[i].Mapping
	}
	mem, err := r.h.memory(ms)
	if err != nil {
		return err
	}
	defer mem.Close()
	aux := r.h.g.aux
	byQEMU := map[uint64]string{} // address of the file's first byte: name to give
	entry, hasEntry := aux.Get(image.AuxEntry)
	if phdr, ok := aux.Get(image.AuxPhdr); ok {
		byQEMU[r.h.g.guestPage(phdr)] = ""
	}
	if base, ok := aux.Get(image.AuxBase); ok && base != 0 {
		byQEMU[base] = ""
	}
	if vdso, ok := aux.Get(image.AuxSysinfoEhdr); ok && vdso != 0 {
		byQEMU[vdso] = "[vdso]"
	}
	for _, row := range r.rows {
		name, loader := byQEMU[row.Start]
		if !loader && (row.Inode == 0 || row.Offset != 0) || row.Perm.IsNot(vm.Read) {
			continue
		}
		img, err := image.ReadImage(r.ctx, mem, row.Start)
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		if err != nil || img.Class != r.h.g.class {
			continue
		}
		l := loadedImage{Image: img, byQEMU: loader, name: name, inode: row.Inode}
		if l.parts, err = img.Mappings(image.Loaded{Bias: img.Bias, Page: aux.PageSize(), Name: "file"}); err != nil {
			continue
		}
		if loader || r.laidOut(&l) {
			r.images = append(r.images, l)
			if hasEntry && (img.Entry+img.Bias)&r.h.g.last() == entry {
				r.exe = &l
			}
		}
	}
	return nil
}

// laidOut reports whether a file is mapped as its headers say, and not only as
// a file to be read.
func (r *rebuilt) laidOut(l *loadedImage) bool {
	for _, p := range l.parts {
		if p.Name == "" {
			continue
		}
		for _, at := range [2]uint64{p.Start, p.Last()} {
			i := r.at(at)
			if i < 0 {
				return false
			}
			m := r.rows[i]
			if m.Inode != l.inode || m.Offset+(at-m.Start) != p.Offset+(at-p.Start) ||
				m.Perm.Is(vm.Write) && !p.Perm.Is(vm.Write) {
				return false
			}
		}
	}
	return true
}

// at is the index of the row that holds addr, else -1.
func (r *rebuilt) at(addr uint64) int {
	if i := r.from(addr); i < len(r.rows) && r.rows[i].Contains(addr) {
		return i
	}
	return -1
}

// from is the index of the first row that ends behind addr.
func (r *rebuilt) from(addr uint64) int {
	i, _ := slices.BinarySearchFunc(r.rows, addr, func(p hostPiece, a uint64) int {
		if p.Last() < a {
			return -1
		}
		return 1
	})
	return i
}

// addImageHoles adds what lies between the segments of what QEMU loaded, which
// looks like what fills the guest's unused address space: the first whole of
// QEMU's mappings may be that.
func (r *rebuilt) addImageHoles(whole int) {
	if whole == 0 {
		return
	}
	for _, l := range r.images {
		if !l.byQEMU {
			continue
		}
		first, last := l.parts[0].Start, l.parts[len(l.parts)-1].Last()
		span := vm.Range{Start: first, Size: last - first + 1}
		for _, p := range r.rest {
			if filler(p) && p.Overlaps(span) {
				r.rows = append(r.rows, p.clip(span))
			}
		}
	}
	slices.SortFunc(r.rows, func(a, b hostPiece) int { return cmp.Compare(a.Start, b.Start) })
}

// setPerms makes QEMU's permissions the guest's. Memory that the guest may
// execute QEMU can read, so that what it cannot read is not executable, and
// what it can but the guest cannot is executable.
func (r *rebuilt) setPerms() {
	for i := range r.rows {
		p := &r.rows[i]
		p.Perm &^= vm.Exec | vm.KnownExec
		switch {
		case p.refused:
			p.Perm = p.Perm&^vm.Read | vm.Exec | vm.KnownExec
		case p.empty && p.Perm.IsNot(vm.Write): // or only executable
			p.Perm &^= vm.Read | vm.KnownRead
		case p.Perm.IsNot(vm.Read):
			p.Perm |= vm.KnownExec
		}
	}
}

// setExec takes x from the ELF headers, cutting mappings where they say so.
func (r *rebuilt) setExec() {
	type part struct {
		vm.Mapping
		of *loadedImage
	}
	var parts []part
	for i := range r.images {
		for _, p := range r.images[i].parts {
			parts = append(parts, part{p, &r.images[i]})
		}
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(a.Start, b.Start) })
	var out []hostPiece
	next := 0
	for _, p := range r.rows {
		for ; next < len(parts) && parts[next].Last() < p.Start; next++ {
		}
		for i := next; i < len(parts) && parts[i].Start <= p.Last(); i++ {
			at := parts[i]
			if !at.Overlaps(p.Range) {
				continue
			}
			if p.Start < at.Start {
				out = append(out, p.clip(vm.Range{Start: p.Start, Size: at.Start - p.Start}))
			}
			mid := p.clip(at.Range)
			sameFile := p.Inode == at.of.inode || p.Inode == 0 && at.Name == ""
			if !p.Perm.Knows(vm.Exec) && (at.of.byQEMU || sameFile) {
				mid.Perm |= at.Perm & (vm.Exec | vm.KnownExec)
				if p.Inode == 0 && at.of.name != "" {
					mid.Name = at.of.name
				}
			}
			out = append(out, mid)
			if p.Last() <= at.Last() {
				p.Size = 0
				break
			}
			p = p.clip(vm.Range{Start: at.Last() + 1, Size: p.Last() - at.Last()})
		}
		if p.Size > 0 {
			out = append(out, p)
		}
	}
	r.rows = out
}

// clip is the part of a piece in a range, which must overlap it.
func (p hostPiece) clip(in vm.Range) hostPiece {
	p.Mapping = p.Mapping.Clip(in)
	return p
}

// within calls change for each row in the range, rows that reach out of it
// being cut.
func (r *rebuilt) within(in vm.Range, change func(*hostPiece)) {
	first := r.from(in.Start)
	end := first
	var parts []hostPiece
	for ; end < len(r.rows) && r.rows[end].Overlaps(in); end++ {
		p := r.rows[end]
		if p.Start < in.Start {
			parts = append(parts, p.clip(vm.Range{Start: p.Start, Size: in.Start - p.Start}))
		}
		mid := p.clip(in)
		change(&mid)
		parts = append(parts, mid)
		if p.Last() > in.Last() {
			parts = append(parts, p.clip(vm.Range{Start: in.Last() + 1, Size: p.Last() - in.Last()}))
		}
	}
	r.rows = slices.Replace(r.rows, first, end, parts...)
}

// Where all machines of a kind have a page that the kernel makes.
const (
	vsyscallPage = 0xffffffffff600000 // arch/x86/include/uapi/asm/vsyscall.h
	vectorsPage  = 0xffff0000         // Documentation/arch/arm/kernel_user_helpers.rst
	kernelPage   = 4096               // bytes
)

// name names the stack, the heap and what is where by the machine's rules.
func (r *rebuilt) name() {
	g := r.h.g
	if at, ok := g.aux.Get(image.AuxRandom); ok {
		if i := r.at(at); i >= 0 && r.rows[i].Inode == 0 {
			r.within(g.stackIn(r.rows[i].Range), func(p *hostPiece) {
				p.Name = "[stack]"
				if r.exe == nil {
					return
				}
				if perm, ok := r.exe.StackPerm(); ok {
					p.Perm |= perm & (vm.Exec | vm.KnownExec)
				}
			})
		}
	}
	if r.exe == nil {
		return
	}
	heap := r.exe.parts[len(r.exe.parts)-1].Last() + 1
	for i := range r.rows {
		if p := &r.rows[i]; p.Start == heap && p.Inode == 0 && p.Name == "" && p.Perm.Is(vm.Write) {
			p.Name, p.Derived = "[heap]", true
		}
	}
	switch r.exe.Machine {
	case elf.EM_ARM:
		r.within(vm.Range{Start: vectorsPage, Size: kernelPage}, func(p *hostPiece) {
			p.Name = "[vectors]"
			p.Perm |= vm.Exec | vm.KnownExec
		})
	case elf.EM_X86_64:
		if g.addressBits() == 64 {
			r.rows = append(r.rows, hostPiece{vma: -1, Mapping: vsyscall()})
		}
	}
}

// vsyscall is the page that every x86-64 process has.
func vsyscall() vm.Mapping {
	return vm.Mapping{
		Range: vm.Range{Start: vsyscallPage, Size: kernelPage},
		Perm:  vm.KnownAll | vm.Exec, Name: "[vsyscall]", Source: vm.SourceRule,
	}
}

// stackIn is the part of a mapping, which holds AT_RANDOM, that is the stack: up
// to the page in which AT_EXECFN's string ends, which QEMU puts at its top
// (linux-user/elfload.c, load_elf_binary).
func (g *guest) stackIn(r vm.Range) vm.Range {
	at, _ := g.aux.Get(image.AuxRandom)
	if exec, ok := g.aux.Get(image.AuxExecFn); ok && r.Contains(exec) && r.Contains(exec+uint64(len(g.exec))) {
		at = exec + uint64(len(g.exec))
	}
	last := at | (g.aux.PageSize() - 1)
	if !r.Contains(last) {
		return r
	}
	return vm.Range{Start: r.Start, Size: last - r.Start + 1}
}

// mappings are the rows, with parts of one mapping of QEMU's that do not differ
// put together again.
func (r *rebuilt) mappings() []vm.Mapping {
	var ms []vm.Mapping
	vma := -1
	for _, p := range r.rows {
		if n := len(ms); n > 0 && vma >= 0 && p.vma == vma {
			if m := &ms[n-1]; m.Last()+1 == p.Start && m.Perm == p.Perm && m.Name == p.Name {
				m.Size += p.Size
				continue
			}
		}
		ms = append(ms, p.Mapping)
		vma = p.vma
	}
	return ms
}
