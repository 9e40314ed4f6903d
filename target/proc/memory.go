package proc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"dbgsh/vm"
)

// PopulatedBy is a way to learn which pages of a process exist.
type PopulatedBy int

// The ways, from the best down. Memory takes the first that works.
const (
	PopulatedByScan    PopulatedBy = iota // ioctl PAGEMAP_SCAN, since Linux 6.7
	PopulatedByPagemap                    // reading /proc/TID/pagemap
	PopulatedByNothing                    // everything has to be read
)

// Memory reads the memory of a local process and changes nothing in it: as a
// vm.Sparse it knows which pages exist, as a vm.MappingReader it takes pages of
// files that the process has not touched from the file, where that is known to hold
// the same, and leaves them out else, and as a vm.Swapper it leaves out what is in
// swap where it is told to. ReadMemory alone makes such pages exist. Its methods may
// be called concurrently, but for LeaveSwapped.
//
// Pages are read by pread(2) of /proc/TID/mem. process_vm_readv(2) is faster by a
// tenth of what a search takes, but pins them, and what is pinned is no longer
// shared after fork(2) or by KSM since Linux 5.19 (gup_must_unshare, mm/internal.h):
// a search of a forked child doubled its memory. No bit of /proc/TID/pagemap tells which
// pages are safe: bit 56, mapped exactly once, is also set on those of a large folio
// that somebody else holds another part of, on those in a pipe since vmsplice(2), and
// on a page of KSM's with one user, all of which are copied.
//
// It stays with the address space that the thread had when it was opened; when
// that is gone, every method's error wraps vm.ErrProcessGone.
type Memory struct {
	tid     int
	mem     *os.File // /proc/TID/mem
	pagemap *os.File // /proc/TID/pagemap, nil where it cannot be had
	page    uint64   // size in bytes

	best     atomic.Int64 // the PopulatedBy still thought to work
	noGuards atomic.Bool  // PAGEMAP_SCAN does not know PAGE_IS_GUARD
	reason   error        // why pagemap cannot be had
	swaps    bool         // this machine has swap
	leave    atomic.Bool  // what LeaveSwapped was told
	open     func(*vma) (*os.File, error)

	// Each is found out once, when it is first asked for.
	zeroPFN  func() uint64 // see zeroPageFrame
	vmas     func() ([]vma, error)
	mounted  func() []mount
	internal func() map[uint64]string // see internalDevices
	awaited  func() []vm.Range        // see userfaults
	vdso     func() ([]byte, error)   // see sameVDSO

	batches sync.Pool // of *[]byte, pagemapBatch long

	mu      sync.Mutex
	files   []*mappedFile // the latest ones used, at most maxFiles
	closed  bool
	blind   error     // why it could not be seen which pages the process has
	swapIns uint64    // pages that came back from swap
	left    []leftOut // what was not read, by the reason
}

// leftOut is memory that was not read because that would have changed the process.
type leftOut struct {
	why    string
	names  []string // of the mappings
	ranges []vm.Range
}

const (
	// maxFiles bounds the open files: two workers use one or two each.
	maxFiles = 8
	// readPiece bounds a read between two looks at the context, in bytes.
	readPiece = 1 << 20
	// maxUnion is how many ranges that were left out are kept apart before they
	// are merged.
	maxUnion = 1 << 10
	// pagemapBatch is how much of a pagemap is read at once, in bytes.
	pagemapBatch = 1 << 20
	// scanAtOnce bounds what one call of Populated looks at, in bytes: a
	// kernel walks 8 GiB of existing pages in about 50 ms.
	scanAtOnce = 8 << 30
)

// Options are for tests and for working around a kernel; the zero value
// is what to use else.
type Options struct {
	// Best is the best way to learn about pages that may be taken.
	Best PopulatedBy
}

// OpenMemory opens the memory of the process of thread tid. It fails with
// vm.ErrProcessGone where there is no such thread.
func OpenMemory(tid int, o Options) (*Memory, error) {
	p := &Memory{tid: tid, page: uint64(os.Getpagesize())}
	p.best.Store(int64(o.Best))
	p.batches.New = func() any {
		b := make([]byte, pagemapBatch)
		return &b
	}
	var err error
	if p.mem, err = os.Open(fmt.Sprintf("/proc/%d/mem", tid)); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			err = fmt.Errorf("thread %d: %w", tid, vm.ErrProcessGone)
		}
		return nil, err
	}
	if p.pagemap, err = os.Open(fmt.Sprintf("/proc/%d/pagemap", tid)); err != nil {
		p.pagemap, p.reason = nil, err
	}
	p.zeroPFN = sync.OnceValue(zeroPageFrame)
	p.vmas = sync.OnceValues(p.readVMAs)
	p.mounted = sync.OnceValue(p.mounts)
	p.internal = sync.OnceValue(internalDevices)
	p.awaited = sync.OnceValue(p.userfaults)
	p.vdso = sync.OnceValues(p.sameVDSO)
	p.open = p.openMapped
	var sys unix.Sysinfo_t
	p.swaps = unix.Sysinfo(&sys) != nil || sys.Totalswap > 0
	return p, nil
}

// LeaveSwapped implements vm.Swapper.
func (p *Memory) LeaveSwapped(leave bool) { p.leave.Store(leave) }

// PageSize is the size of the process's pages in bytes.
func (p *Memory) PageSize() uint64 { return p.page }

// Close lets go of the process. It waits for nobody: calls under way may still end
// well.
func (p *Memory) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, f := range p.files {
		f.drop()
	}
	p.files = nil
	if p.pagemap != nil {
		p.pagemap.Close()
	}
	return p.mem.Close()
}

// Notes say what reading did to the process and what was not read for its sake,
// one sentence each.
func (p *Memory) Notes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var notes []string
	if p.blind != nil {
		notes = append(notes, fmt.Sprintf("reading may have made pages resident: which the process has cannot be seen: %v", p.blind))
	}
	if p.swapIns > 0 {
		notes = append(notes, fmt.Sprintf("%d KiB that were in swap, or held by userfaultfd, are in RAM now", p.swapIns*p.page>>10))
	}
	for i := range p.left {
		l := &p.left[i]
		l.ranges = vm.Union(l.ranges)
		size := uint64(0)
		for _, r := range l.ranges {
			size += r.Size
		}
		of := vm.Escape(l.names[0])
		if more := len(l.names) - 1; more > 0 {
			of += fmt.Sprintf(" and %d more", more)
		}
		notes = append(notes, fmt.Sprintf("%d KiB of %s that the process has not touched were not read: %s", size>>10, of, l.why))
	}
	return notes
}

// leaveOut notes what was not read, and is the error that says so.
func (p *Memory) leaveOut(r vm.Range, name string, why error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.left, func(l leftOut) bool { return l.why == why.Error() })
	if i < 0 {
		i = len(p.left)
		p.left = append(p.left, leftOut{why: why.Error()})
	}
	l := &p.left[i]
	if !slices.Contains(l.names, name) {
		l.names = append(l.names, name)
	}
	if l.ranges = append(l.ranges, r); len(l.ranges)%maxUnion == 0 {
		l.ranges = vm.Union(l.ranges)
	}
	return &vm.UnreadableError{Range: r, Err: fmt.Errorf("not touched by the process, and %w", why)}
}

func (p *Memory) gone() error { return fmt.Errorf("thread %d: %w", p.tid, vm.ErrProcessGone) }

// ReadMemory implements vm.Reader. It reads whatever is there, and so may make
// pages exist or bring them back from swap. It comes back when the context ends even
// where the kernel waits for somebody who does not answer, as for a page that
// userfaultfd(2) has not got yet; the read is then left behind.
func (p *Memory) ReadMemory(ctx context.Context, b []byte, addr uint64) (int, error) {
	type answer struct {
		n   int
		err error
	}
	done := 0
	for done < len(b) {
		// What is left behind must not write into what is the caller's again.
		own := make([]byte, min(len(b)-done, readPiece))
		answers := make(chan answer, 1)
		go func() {
			n, err := p.read(ctx, own, addr+uint64(done))
			answers <- answer{n, err}
		}()
		select {
		case a := <-answers:
			done += copy(b[done:], own[:a.n])
			if a.err != nil {
				return done, a.err
			}
		case <-ctx.Done():
			return done, ctx.Err()
		}
	}
	return done, nil
}

// read reads all of b, or says why not. It may have to wait longer than its context.
func (p *Memory) read(ctx context.Context, b []byte, addr uint64) (int, error) {
	done := 0
	for done < len(b) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		n, err := p.Pread(b[done:min(len(b), done+readPiece)], addr+uint64(done))
		if done += n; err != nil {
			return done, fmt.Errorf("read %#x: %w", addr+uint64(done), err)
		}
	}
	return done, nil
}

// Pread makes one read of /proc/TID/mem, which cannot be done from 2^63 on:
// pread(2) refuses negative positions. There lie only pages of the kernel's own, such
// as x86's [vsyscall], which since Linux 6.5 /proc/TID/mem does not show either
// (__access_remote_vm, mm/memory.c).
func (p *Memory) Pread(b []byte, addr uint64) (int, error) {
	n, err := pread(p.mem, b, int64(addr))
	switch {
	case n > 0:
		return n, nil
	case err == nil: // the address space has no users any more
		return 0, p.gone()
	}
	return 0, err
}

// pread makes one system call, unlike os.File.ReadAt, so that a short read is
// told from an error behind it.
func pread(f *os.File, b []byte, off int64) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	closed := raw.Control(func(fd uintptr) {
		for {
			n, err = unix.Pread(int(fd), b, off)
			if err != unix.EINTR {
				return
			}
		}
	})
	if closed != nil {
		return 0, closed
	}
	return max(n, 0), err
}

// Bits of an entry of /proc/PID/pagemap,
// Documentation/admin-guide/mm/pagemap.rst in the kernel.
const (
	pmPresent = 1 << 63
	pmSwapped = 1 << 62
	pmFile    = 1 << 61 // of a file, or shared anonymous
	pmGuard   = 1 << 58 // since Linux 6.15
	pmUffdWP  = 1 << 57 // write-protected by userfaultfd(2), since Linux 5.14
	pmFrame   = 1<<55 - 1
	pmEntry   = 8 // bytes
)

// Of include/uapi/linux/fs.h in the kernel.
const (
	pageIsWritten = 1 << 1 // not write-protected by userfaultfd(2)
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
	pageIsPFNZero = 1 << 5
	pageIsGuard   = 1 << 8 // since Linux 6.16
)

// pageRegion is struct page_region.
type pageRegion struct{ start, end, categories uint64 }

// pmScanArg is struct pm_scan_arg.
type pmScanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages uint64
	inverted, mask, anyOf, returned                         uint64
}

// pagemapScan is PAGEMAP_SCAN, _IOWR('f', 16, struct pm_scan_arg).
func pagemapScan() uintptr {
	const readWrite, size = 3, unsafe.Sizeof(pmScanArg{})
	return readWrite<<30 | size<<16 | 'f'<<8 | 16
}

// pageState is where a page of the process is.
type pageState uint8

const (
	pageAbsent  pageState = iota // the process does not have it
	pagePresent                  // in RAM, or not to be told
	pageSwapped                  // in swap, or a marker of userfaultfd(2)'s
	pageGuard                    // every access fails
)

// stateOf is what the bits present, swapped, guard and write-protected of a page say.
// A page that is not present but "swapped" may be a migration entry, a guard page of
// a kernel that does not show them, or else a marker of userfaultfd(2)'s, which stands for
// no page and is always write-protected (pte_to_pagemap_entry, fs/proc/task_mmu.c).
func (p *Memory) stateOf(present, swapped, guard, protected bool) pageState {
	switch {
	case present:
		return pagePresent
	case !swapped:
		return pageAbsent
	case guard:
		return pageGuard
	case protected || p.swaps:
		return pageSwapped
	}
	return pagePresent // only trying tells
}

// entryState is what an entry of a pagemap says.
func (p *Memory) entryState(entry uint64) pageState {
	return p.stateOf(entry&pmPresent != 0, entry&pmSwapped != 0, entry&pmGuard != 0, entry&pmUffdWP != 0)
}

// Populated implements vm.Sparse for private anonymous memory: pages that are
// present or swapped out, but not the zero page.
func (p *Memory) Populated(ctx context.Context, r vm.Range, into []vm.Extent) (int, uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	if p.pagemap == nil {
		return 0, 0, p.reason
	}
	if len(into) == 0 || r.Size == 0 || !r.Valid() {
		return 0, 0, fmt.Errorf("populated pages of %v: nothing asked for", r)
	}
	r.Size = min(r.Size, scanAtOnce)
	var (
		n     int
		known uint64
		err   error
	)
	best := PopulatedBy(p.best.Load())
	if best == PopulatedByScan {
		n, known, err = p.scan(r, into, pageIsPFNZero)
		if errors.Is(err, unix.ENOTTY) { // Linux before 6.7
			p.best.Store(int64(PopulatedByPagemap))
		}
	}
	if best == PopulatedByPagemap || err != nil {
		n, known, err = p.readPagemap(ctx, r, into)
	}
	if best == PopulatedByNothing {
		err = errors.New("asking which pages exist is switched off")
	}
	if err != nil {
		return 0, 0, err
	}
	// A dead address space looks like one without pages.
	var entry [pmEntry]byte
	if m, err := pread(p.pagemap, entry[:], p.entryOffset(r.Start)); m == 0 && err == nil {
		return 0, 0, p.gone()
	}
	if p.awaits(r) {
		n, known = p.fillGaps(vm.Range{Start: r.Start, Size: known}, into, n)
	}
	return n, known, nil
}

// fillGaps leaves out what lies between n extents of r. It returns how many extents
// there are then, and for how many bytes of r they are the whole answer.
func (p *Memory) fillGaps(r vm.Range, into []vm.Extent, n int) (int, uint64) {
	found := slices.Clone(into[:n])
	out := into[:0]
	done := uint64(0) // of r
	for _, e := range append(found, vm.Extent{Range: vm.Range{Start: r.Start + r.Size}}) {
		if gap := e.Start - r.Start - done; gap > 0 {
			if len(out) == len(into) {
				break
			}
			left := vm.Range{Start: r.Start + done, Size: gap}
			_ = p.leaveOut(left, "anonymous memory", errAwaited)
			out = append(out, vm.Extent{Range: left, Unreadable: true})
			done += gap
		}
		if len(out) == len(into) || e.Size == 0 {
			break
		}
		out = append(out, e)
		done += e.Size
	}
	return len(out), done
}

// entryOffset is where the entry of the page of addr stands in a pagemap.
func (p *Memory) entryOffset(addr uint64) int64 { return int64(addr / p.page * pmEntry) }

// clip adds the extent of whole pages to into as far as it lies in r.
func clip(r vm.Range, start, end uint64, s pageState, into []vm.Extent) []vm.Extent {
	start, last := max(start, r.Start), min(end-1, r.Last())
	e := vm.Extent{Range: vm.Range{Start: start, Size: last - start + 1}, Unreadable: s == pageGuard, Swapped: s == pageSwapped}
	if n := len(into); n > 0 {
		if b := &into[n-1]; b.Last()+1 == start && b.Unreadable == e.Unreadable && b.Swapped == e.Swapped {
			b.Size += e.Size
			return into
		}
	}
	return append(into, e)
}

// scan asks the kernel for the pages in r that are present or swapped out and
// in none of the categories not.
func (p *Memory) scan(r vm.Range, into []vm.Extent, not uint64) (int, uint64, error) {
	regions := make([]pageRegion, len(into))
	start := r.Start &^ (p.page - 1)
	arg := pmScanArg{
		start: start, end: (r.Last() | (p.page - 1)) + 1,
		vec: uint64(uintptr(unsafe.Pointer(&regions[0]))), vecLen: uint64(len(regions)),
		inverted: not, mask: not, anyOf: pageIsPresent | pageIsSwapped,
		returned: pageIsPresent | pageIsSwapped | pageIsGuard | pageIsWritten,
	}
	arg.size = uint64(unsafe.Sizeof(arg))
	if p.noGuards.Load() {
		arg.returned &^= pageIsGuard
	}
	n, err := p.ioctl(&arg, regions)
	if errors.Is(err, unix.EINVAL) && arg.returned&pageIsGuard != 0 {
		arg.returned &^= pageIsGuard
		if n, err = p.ioctl(&arg, regions); err == nil {
			p.noGuards.Store(true)
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("PAGEMAP_SCAN: %w", err)
	}
	out := into[:0]
	for _, e := range regions[:n] {
		has := func(c uint64) bool { return e.categories&c != 0 }
		out = clip(r, e.start, e.end, p.stateOf(has(pageIsPresent), has(pageIsSwapped), has(pageIsGuard), !has(pageIsWritten)), out)
	}
	return len(out), min(arg.walkEnd-r.Start, r.Size), nil
}

// ioctl makes the call; regions is what arg.vec points to.
func (p *Memory) ioctl(arg *pmScanArg, regions []pageRegion) (n int, err error) {
	raw, err := p.pagemap.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		for {
			var r uintptr
			r, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, pagemapScan(), uintptr(unsafe.Pointer(arg)))
			if n = int(r); errno != unix.EINTR {
				return
			}
		}
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return 0, err
	}
	runtime.KeepAlive(regions)
	return min(n, len(regions)), nil
}

// readPagemap finds the same in /proc/TID/pagemap.
func (p *Memory) readPagemap(ctx context.Context, r vm.Range, into []vm.Extent) (int, uint64, error) {
	batch := p.batches.Get().(*[]byte)
	defer p.batches.Put(batch)
	var (
		out     = into[:0]
		start   = r.Start &^ (p.page - 1)
		pages   = (r.Last()-start)/p.page + 1
		from    uint64    // first page of the extent under way
		current pageState // of it, pageAbsent for none
		zeroPFN = p.zeroPFN()
	)
	for done := uint64(0); done < pages; {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		b := (*batch)[:min(pagemapBatch, (pages-done)*pmEntry)]
		n, err := pread(p.pagemap, b, p.entryOffset(start+done*p.page))
		if err == nil && n < pmEntry {
			err = p.gone()
		}
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/%d/pagemap: %w", p.tid, err)
		}
		for b = b[:n&^(pmEntry-1)]; len(b) > 0; b = b[pmEntry:] {
			if s := p.entryKind(binary.NativeEndian.Uint64(b), zeroPFN); s != current {
				if current != pageAbsent {
					out = clip(r, start+from*p.page, start+done*p.page, current, out)
					if len(out) == len(into) {
						return len(out), start + done*p.page - r.Start, nil
					}
				}
				from, current = done, s
			}
			done++
		}
	}
	if current != pageAbsent {
		out = clip(r, start+from*p.page, start+pages*p.page, current, out)
	}
	return len(out), r.Size, nil
}

// entryKind is what an entry of a pagemap means for private anonymous memory,
// where zeroPFN is the frame of the zero page, 0 for unknown.
func (p *Memory) entryKind(entry, zeroPFN uint64) pageState {
	if entry&pmPresent != 0 && zeroPFN != 0 && entry&pmFrame == zeroPFN {
		return pageAbsent
	}
	return p.entryState(entry)
}

// zeroPageFrame is the number of the frame that untouched anonymous memory
// reads from, learnt from a page of our own; 0 where the kernel hides it.
func zeroPageFrame() uint64 {
	own, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return 0
	}
	defer unix.Munmap(own)
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0
	}
	defer f.Close()
	var entry [pmEntry]byte
	addr := uintptr(unsafe.Pointer(&own[0]))
	if own[0] != 0 {
		return 0
	}
	if _, err := f.ReadAt(entry[:], int64(addr)/int64(os.Getpagesize())*pmEntry); err != nil {
		return 0
	}
	e := binary.NativeEndian.Uint64(entry[:])
	if e&pmPresent == 0 {
		return 0
	}
	return e & pmFrame
}

// ReadMapping implements vm.MappingReader. Pages that the process does not have are
// not read through it, since that would give them to it: those of private anonymous
// memory are zeros, those of a file are read from it, if it is known to hold the
// same, and others are left out. Unlike ReadMemory it may have to wait longer than its
// context, where a page that the process had is taken from it meanwhile, or where
// what a file lies on does not answer; no lock is held then.
func (p *Memory) ReadMapping(ctx context.Context, m vm.Mapping, b []byte, addr uint64) (int, error) {
	switch {
	case m.Anonymous():
		// Populated has told what is there, but swap takes pages at any time.
		if p.swaps || !p.leave.Load() {
			return p.Peek(ctx, m, b, addr)
		}
		return p.read(ctx, b, addr)
	case m.Source != vm.SourceProcfs && m.Source != vm.SourceQEMU || m.Inode == 0 && m.Name != vdsoName:
		return p.read(ctx, b, addr)
	}
	absent := p.readFile
	if m.Inode == 0 {
		absent = p.readVDSO
	}
	return p.readPages(ctx, b, addr, func(b []byte, addr uint64) (int, error) { return absent(ctx, m, b, addr) })
}

// Peek is ReadMapping for who has not asked Populated. The bytes from addr to
// addr+len(b) are all in m.
func (p *Memory) Peek(ctx context.Context, m vm.Mapping, b []byte, addr uint64) (int, error) {
	if !m.Anonymous() {
		return p.ReadMapping(ctx, m, b, addr)
	}
	return p.readPages(ctx, b, addr, func(b []byte, addr uint64) (int, error) {
		if r := (vm.Range{Start: addr, Size: uint64(len(b))}); p.awaits(r) {
			return 0, p.leaveOut(r, m.Title(), errAwaited)
		}
		clear(b)
		return len(b), nil
	})
}

// readPages reads pages that the process has in RAM, and in swap where they are not to
// be left there, and leaves those that it does not have to absent. Where it cannot be
// told which those are it reads all.
func (p *Memory) readPages(ctx context.Context, b []byte, addr uint64, absent func(b []byte, addr uint64) (int, error)) (int, error) {
	states, err := p.states(addr, len(b))
	if err != nil {
		if errors.Is(err, vm.ErrProcessGone) {
			return 0, err
		}
		p.mu.Lock()
		p.blind = cmp.Or(p.blind, err)
		p.mu.Unlock()
		return p.read(ctx, b, addr)
	}
	for done, i := 0, 0; i < len(states); {
		first := i
		for i < len(states) && states[i] == states[first] {
			i++
		}
		end := min(len(b), int(uint64(i)*p.page-addr%p.page))
		at := addr + uint64(done)
		var n int
		switch s := states[first]; {
		case s == pageAbsent:
			n, err = absent(b[done:end], at)
		case s == pageSwapped && p.leave.Load():
			err = &vm.UnreadableError{Range: vm.Range{Start: at, Size: uint64(end - done)}, Err: vm.ErrSwapped}
		default:
			n, err = p.read(ctx, b[done:end], at)
			if s == pageSwapped {
				p.countSwapIns(at, end-done)
			}
		}
		if done += n; done < end {
			return done, err
		}
	}
	return len(b), nil
}

// countSwapIns counts the pages that are in RAM now; they were in swap.
func (p *Memory) countSwapIns(addr uint64, size int) {
	states, err := p.states(addr, size)
	if err != nil {
		return // the process is gone
	}
	n := uint64(0)
	for _, s := range states {
		if s == pagePresent {
			n++
		}
	}
	p.addSwapIns(n)
}

func (p *Memory) addSwapIns(n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swapIns += n
}

// states is where each page of size bytes from addr on is.
func (p *Memory) states(addr uint64, size int) ([]pageState, error) {
	entries, err := p.entries(addr, size)
	if err != nil {
		return nil, err
	}
	states := make([]pageState, len(entries)/pmEntry)
	for i := range states {
		states[i] = p.entryState(binary.NativeEndian.Uint64(entries[pmEntry*i:]))
	}
	return states, nil
}

// Owned reports for each page of size bytes from addr on whether the process has
// it: present, swapped out, or a guard page, which can only be tried.
func (p *Memory) Owned(addr uint64, size int) ([]bool, error) {
	states, err := p.states(addr, size)
	if err != nil {
		return nil, err
	}
	own := make([]bool, len(states))
	for i, s := range states {
		own[i] = s != pageAbsent
	}
	return own, nil
}

// entries are those of the pages of size bytes from addr on.
func (p *Memory) entries(addr uint64, size int) ([]byte, error) {
	if p.pagemap == nil {
		return nil, p.reason
	}
	entries := make([]byte, pmEntry*((addr%p.page+uint64(size)+p.page-1)/p.page))
	for done := 0; done < len(entries); {
		n, err := pread(p.pagemap, entries[done:], p.entryOffset(addr)+int64(done))
		if err == nil && n == 0 {
			err = p.gone()
		}
		if err != nil {
			return nil, fmt.Errorf("pagemap of %#x: %w", addr, err)
		}
		done += n
	}
	return entries, nil
}

// absentFrom is how much of m from addr on the process does not have, as far as that
// can be told at once: size bytes at least, of which it is known.
func (p *Memory) absentFrom(m vm.Mapping, addr, size uint64) vm.Range {
	r := vm.Range{Start: addr, Size: size}
	rest := vm.Range{Start: addr, Size: m.Size - (addr - m.Start)}
	if PopulatedBy(p.best.Load()) == PopulatedByScan && rest.Size > size {
		rest.Size = min(rest.Size, scanAtOnce)
		var next [1]vm.Extent
		if k, known, err := p.scan(rest, next[:], 0); err == nil {
			if k > 0 {
				known = next[0].Start - rest.Start
			}
			r.Size = max(size, known)
		}
	}
	return r
}

// readFile reads memory that the process does not have from the file behind it.
func (p *Memory) readFile(ctx context.Context, m vm.Mapping, b []byte, addr uint64) (int, error) {
	all := vm.Range{Start: addr, Size: uint64(len(b))}
	left := func(n int, why error) (int, error) {
		return n, p.leaveOut(p.absentFrom(m, addr+uint64(n), all.Size-uint64(n)), m.Title(), why)
	}
	if p.awaits(all) {
		return left(0, errAwaited)
	}
	v, err := p.vmaOf(m)
	if err != nil {
		return left(0, err)
	}
	f, err := p.file(ctx, v)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil {
		return left(0, err)
	}
	off := v.Offset + (addr - v.Start)
	if p.swaps && p.fsType(v.device) == "tmpfs" {
		if !p.leave.Load() {
			before, err := p.evicted(f, off, all.Size)
			defer func() {
				if after, afterErr := p.evicted(f, off, all.Size); err == nil && afterErr == nil {
					p.addSwapIns(before - min(before, after))
				}
			}()
		} else if n := p.swappedFrom(f, off, all.Size); n < all.Size {
			if n == 0 {
				hole := vm.Range{Start: addr, Size: p.page - addr%p.page}
				return 0, &vm.UnreadableError{Range: hole, Err: vm.ErrSwapped}
			}
			b = b[:n]
		}
	}
	n, err := f.ReadAt(b, int64(off))
	switch {
	case n == len(b):
		if uint64(n) < all.Size {
			return n, vm.ErrSwapped
		}
		return n, nil
	case errors.Is(err, os.ErrClosed): // to make room for others
		return p.readFile(ctx, m, b, addr)
	case !errors.Is(err, io.EOF):
		return n, fmt.Errorf("read %#x from its file: %w", addr+uint64(n), err)
	}
	if n += p.readTail(f, b[n:], off+uint64(n)); n == len(b) {
		return n, nil
	}
	// Pages are had or not as a whole.
	at := addr + uint64(n)
	size := all.Size - uint64(n)
	hole := p.absentFrom(m, at, min(size+-(at+size)%p.page, m.Size-(at-m.Start)))
	return n, &vm.UnreadableError{Range: hole, Err: errors.New("past the end of the file")}
}

// vdsoName is the name of the vDSO's mapping, vdso(7).
const vdsoName = "[vdso]"

// readVDSO reads memory of the vDSO that the process does not have.
func (p *Memory) readVDSO(_ context.Context, m vm.Mapping, b []byte, addr uint64) (int, error) {
	v, err := p.vmaOf(m)
	if err == nil {
		var own []byte
		if own, err = p.vdso(); err == nil {
			return copy(b, own[addr-v.Start:]), nil
		}
	}
	return 0, p.leaveOut(vm.Range{Start: addr, Size: uint64(len(b))}, m.Name, err)
}

var errOtherVDSO = errors.New("it is another than our own")

// sameVDSO is the content of our own vDSO, if the process has the same: its
// first page, which the dynamic loader has looked at, holds the build ID.
func (p *Memory) sameVDSO() ([]byte, error) {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	ms, err := ParseMaps(text)
	if err != nil {
		return nil, err
	}
	vmas, err := p.vmas()
	if err != nil {
		return nil, err
	}
	ours := slices.IndexFunc(ms, func(m vm.Mapping) bool { return m.Name == vdsoName })
	its := slices.IndexFunc(vmas, func(v vma) bool { return v.Name == vdsoName })
	if ours < 0 || its < 0 || ms[ours].Size != vmas[its].Size {
		return nil, errOtherVDSO
	}
	self, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil, err
	}
	defer self.Close()
	own, theirs := make([]byte, ms[ours].Size), make([]byte, p.page)
	if _, err := self.ReadAt(own, int64(ms[ours].Start)); err != nil {
		return nil, err
	}
	states, err := p.states(vmas[its].Start, len(theirs))
	if err != nil {
		return nil, err
	}
	if states[0] != pagePresent {
		return nil, errors.New("nothing of it is in use")
	}
	if _, err := p.read(context.Background(), theirs, vmas[its].Start); err != nil {
		return nil, err
	}
	if !bytes.Equal(theirs, own[:p.page]) {
		return nil, errOtherVDSO
	}
	return own, nil
}
