package proc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
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
// vm.Sparse it knows which pages exist, and as a vm.MappingReader it takes
// pages of files that the process has not touched from the file. ReadMemory
// alone makes such pages exist. Its methods may be called concurrently.
//
// It stays with the address space that the thread had when it was opened; when
// that is gone, every method's error wraps vm.ErrProcessGone.
type Memory struct {
	tid     int
	mem     *os.File // /proc/TID/mem
	pagemap *os.File // /proc/TID/pagemap, nil where it cannot be had
	page    uint64   // size in bytes

	best     atomic.Int64  // the PopulatedBy still thought to work
	noGuards atomic.Bool   // PAGEMAP_SCAN does not know PAGE_IS_GUARD
	reason   error         // why pagemap cannot be had
	zeroPFN  func() uint64 // see zeroPageFrame; called once

	batches sync.Pool // of *[]byte, pagemapBatch long

	mu      sync.Mutex
	files   []mappedFile // the latest ones used, at most maxFiles
	through uint64       // bytes read through the process that might have been spared it
	why     error        // the first reason for that
	closed  bool
	vdso    []byte // our own, if it is the same; nil for not asked yet
	vdsoErr error  // why it is not
}

// mappedFile is the file behind a mapping.
type mappedFile struct {
	mapping vm.Mapping
	file    *os.File // nil where it cannot be read in place of the memory
	err     error    // why
}

const (
	// maxFiles bounds the open files: two workers use one or two each.
	maxFiles = 8
	// readPiece bounds a read between two looks at the context, in bytes.
	readPiece = 1 << 20
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
	return p, nil
}

// PageSize is the size of the process's pages in bytes.
func (p *Memory) PageSize() uint64 { return p.page }

// Close lets go of the process. Calls under way may still end well.
func (p *Memory) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, f := range p.files {
		if f.file != nil {
			f.file.Close()
		}
	}
	p.files = nil
	if p.pagemap != nil {
		p.pagemap.Close()
	}
	return p.mem.Close()
}

// Notes say what reading did that it should not have, one sentence each.
func (p *Memory) Notes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.through == 0 {
		return nil
	}
	return []string{fmt.Sprintf(
		"%d bytes were read through the process, which makes their pages resident: %v", p.through, p.why)}
}

func (p *Memory) gone() error { return fmt.Errorf("thread %d: %w", p.tid, vm.ErrProcessGone) }

// ReadMemory implements vm.Reader: by process_vm_readv(2), and by
// /proc/TID/mem where that refuses for want of permissions.
func (p *Memory) ReadMemory(ctx context.Context, b []byte, addr uint64) (int, error) {
	done := 0
	for done < len(b) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		n, err := p.readPiece(b[done:min(len(b), done+readPiece)], addr+uint64(done))
		done += n
		if err != nil {
			return done, fmt.Errorf("read %#x: %w", addr+uint64(done), err)
		}
	}
	return done, nil
}

// readPiece reads all of b, or says why not.
func (p *Memory) readPiece(b []byte, addr uint64) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	done := 0
	// On 32-bit hosts an address may not fit; /proc/TID/mem takes all.
	if uint64(uintptr(addr)) == addr {
		local := []unix.Iovec{{Base: &b[0]}}
		local[0].SetLen(len(b))
		n, err := unix.ProcessVMReadv(p.tid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
		if err == nil && n > 0 {
			// The thread's number may be another's by now, or it may have a
			// new address space: what was read counts if the old one lives.
			var probe [1]byte
			if m, err := p.Pread(probe[:], addr); m == 0 && errors.Is(err, vm.ErrProcessGone) {
				return 0, err
			}
			done = n
		}
	}
	for done < len(b) {
		n, err := p.Pread(b[done:], addr+uint64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Pread makes one read of /proc/TID/mem, which cannot be done from 2^63 on:
// pread(2) refuses negative positions.
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
	pmGuard   = 1 << 58 // since Linux 6.15
	pmFrame   = 1<<55 - 1
	pmEntry   = 8 // bytes
)

// Of include/uapi/linux/fs.h in the kernel.
const (
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
	return n, known, nil
}

// entryOffset is where the entry of the page of addr stands in a pagemap.
func (p *Memory) entryOffset(addr uint64) int64 { return int64(addr / p.page * pmEntry) }

// clip adds the extent of whole pages to into as far as it lies in r.
func clip(r vm.Range, start, end uint64, unreadable bool, into []vm.Extent) []vm.Extent {
	start, last := max(start, r.Start), min(end-1, r.Last())
	return append(into, vm.Extent{Range: vm.Range{Start: start, Size: last - start + 1}, Unreadable: unreadable})
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
		returned: pageIsPresent | pageIsSwapped | pageIsGuard,
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
		out = clip(r, e.start, e.end, e.categories&pageIsGuard != 0, out)
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
		from    uint64 // first page of the extent under way
		current uint64 // its kind: 0 for none, pmPresent or pmGuard
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
			if k := entryKind(binary.NativeEndian.Uint64(b), zeroPFN); k != current {
				if current != 0 {
					out = clip(r, start+from*p.page, start+done*p.page, current == pmGuard, out)
					if len(out) == len(into) {
						return len(out), start + done*p.page - r.Start, nil
					}
				}
				from, current = done, k
			}
			done++
		}
	}
	if current != 0 {
		out = clip(r, start+from*p.page, start+pages*p.page, current == pmGuard, out)
	}
	return len(out), r.Size, nil
}

// entryKind is what an entry of a pagemap means for private anonymous memory,
// where zeroPFN is the frame of the zero page, 0 for unknown.
func entryKind(entry, zeroPFN uint64) uint64 {
	switch {
	case entry&(pmPresent|pmSwapped) == 0:
		return 0
	case entry&pmPresent == 0 && entry&pmGuard != 0:
		return pmGuard
	case entry&pmPresent != 0 && zeroPFN != 0 && entry&pmFrame == zeroPFN:
		return 0
	}
	return pmPresent
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

// ReadMapping implements vm.MappingReader. Where the mapping is of a file, its
// pages that the process does not have are read from the file, since reading
// them through the process would give them to it.
func (p *Memory) ReadMapping(ctx context.Context, m vm.Mapping, b []byte, addr uint64) (int, error) {
	if m.Source != vm.SourceProcfs || len(b) == 0 || m.Inode == 0 && m.Name != vdsoName {
		return p.ReadMemory(ctx, b, addr)
	}
	absent := p.readFile
	if m.Inode == 0 {
		absent = p.readVDSO
	}
	return p.readOwned(ctx, b, addr, func(b []byte, addr uint64) (int, error) { return absent(ctx, m, b, addr) })
}

// Peek is ReadMapping for who has not asked Populated: pages of private anonymous
// memory that do not exist are zeros without being read, which would make them
// exist. The bytes from addr to addr+len(b) are all in m.
func (p *Memory) Peek(ctx context.Context, m vm.Mapping, b []byte, addr uint64) (int, error) {
	if !m.Anonymous() {
		return p.ReadMapping(ctx, m, b, addr)
	}
	return p.readOwned(ctx, b, addr, func(b []byte, _ uint64) (int, error) {
		clear(b)
		return len(b), nil
	})
}

// readOwned reads pages that the process has, and leaves the others to absent.
// Where it cannot be told which those are it reads all.
func (p *Memory) readOwned(ctx context.Context, b []byte, addr uint64, absent func(b []byte, addr uint64) (int, error)) (int, error) {
	own, err := p.Owned(addr, len(b))
	if err != nil {
		if errors.Is(err, vm.ErrProcessGone) {
			return 0, err
		}
		p.noteThrough(len(b), err)
		return p.ReadMemory(ctx, b, addr)
	}
	for done, i := 0, 0; i < len(own); {
		first := i
		for i < len(own) && own[i] == own[first] {
			i++
		}
		end := min(len(b), int(uint64(i)*p.page-addr%p.page))
		var n int
		if own[first] {
			n, err = p.ReadMemory(ctx, b[done:end], addr+uint64(done))
		} else {
			n, err = absent(b[done:end], addr+uint64(done))
		}
		if done += n; done < end {
			return done, err
		}
	}
	return len(b), nil
}

// Owned reports for each page of size bytes from addr on whether the process has
// it: present, swapped out, or a guard page, which can only be tried.
func (p *Memory) Owned(addr uint64, size int) ([]bool, error) {
	if p.pagemap == nil {
		return nil, p.reason
	}
	own := make([]bool, (addr%p.page+uint64(size)+p.page-1)/p.page)
	entries := make([]byte, pmEntry*len(own))
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
	for i := range own {
		own[i] = binary.NativeEndian.Uint64(entries[pmEntry*i:])&(pmPresent|pmSwapped|pmGuard) != 0
	}
	return own, nil
}

// readFile reads memory that the process does not have from the file behind it.
func (p *Memory) readFile(ctx context.Context, m vm.Mapping, b []byte, addr uint64) (int, error) {
	f, err := p.file(m)
	if err != nil {
		p.noteThrough(len(b), err)
		return p.ReadMemory(ctx, b, addr)
	}
	off := m.Offset + (addr - m.Start)
	n, err := f.ReadAt(b, int64(off))
	if errors.Is(err, os.ErrClosed) { // to make room for others
		return p.readFile(ctx, m, b, addr)
	}
	if n == len(b) {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read %#x from its file: %w", addr+uint64(n), err)
	}
	info, err := f.Stat()
	if err != nil {
		return n, fmt.Errorf("read %#x from its file: %w", addr+uint64(n), err)
	}
	// The page in which the file ends is filled up with zeros; behind it
	// every access is a SIGBUS, mmap(2).
	if end := (uint64(info.Size()) + p.page - 1) &^ (p.page - 1); end > off+uint64(n) {
		fill := int(min(uint64(len(b)), end-off))
		clear(b[n:fill])
		if n = fill; n == len(b) {
			return n, nil
		}
	}
	hole := vm.Range{Start: addr + uint64(n), Size: uint64(len(b) - n)}
	hole.Size += -(hole.Start + hole.Size) % p.page // pages are had or not as a whole
	rest := vm.Range{Start: hole.Start, Size: m.Size - (hole.Start - m.Start)}
	if PopulatedBy(p.best.Load()) == PopulatedByScan && rest.Size > hole.Size {
		rest.Size = min(rest.Size, scanAtOnce)
		var next [1]vm.Extent
		if k, known, err := p.scan(rest, next[:], 0); err == nil {
			if k > 0 {
				known = next[0].Start - rest.Start
			}
			hole.Size = max(hole.Size, known)
		}
	}
	return n, &vm.UnreadableError{Range: hole, Err: errors.New("past the end of the file")}
}

// vdsoName is the name of the vDSO's mapping, vdso(7).
const vdsoName = "[vdso]"

// readVDSO reads memory of the vDSO that the process does not have.
func (p *Memory) readVDSO(ctx context.Context, m vm.Mapping, b []byte, addr uint64) (int, error) {
	p.mu.Lock()
	if p.vdso == nil {
		p.vdso, p.vdsoErr = p.sameVDSO(ctx, m)
	}
	own, err := p.vdso, p.vdsoErr
	p.mu.Unlock()
	if err == nil {
		return copy(b, own[addr-m.Start:]), nil
	}
	p.noteThrough(len(b), err)
	return p.ReadMemory(ctx, b, addr)
}

// sameVDSO is the content of our own vDSO, if the process has the same: its
// first page, which the dynamic loader has looked at, holds the build ID.
func (p *Memory) sameVDSO(ctx context.Context, m vm.Mapping) ([]byte, error) {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	ms, err := ParseMaps(text)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(ms, func(m vm.Mapping) bool { return m.Name == vdsoName })
	if i < 0 || ms[i].Size != m.Size {
		return nil, errors.New("the vDSO is another than our own")
	}
	self, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil, err
	}
	defer self.Close()
	own, theirs := make([]byte, m.Size), make([]byte, p.page)
	if _, err := self.ReadAt(own, int64(ms[i].Start)); err != nil {
		return nil, err
	}
	has, err := p.Owned(m.Start, len(theirs))
	if err != nil {
		return nil, err
	}
	if !has[0] {
		return nil, errors.New("nothing of the vDSO is in use")
	}
	if _, err := p.ReadMemory(ctx, theirs, m.Start); err != nil {
		return nil, err
	}
	if !bytes.Equal(theirs, own[:p.page]) {
		return nil, errors.New("the vDSO is another than our own")
	}
	return own, nil
}

func (p *Memory) noteThrough(n int, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.through += uint64(n)
	if p.why == nil {
		p.why = why
	}
}

// file is the open file behind a mapping.
func (p *Memory) file(m vm.Mapping) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, f := range p.files {
		if f.mapping == m {
			p.files = append(slices.Delete(p.files, i, i+1), f) // the latest last
			return f.file, f.err
		}
	}
	if p.closed {
		return nil, os.ErrClosed
	}
	f := mappedFile{mapping: m}
	f.file, f.err = openMapped(p.tid, m)
	if len(p.files) == maxFiles {
		if old := p.files[0].file; old != nil {
			old.Close() // a reader that still has it asks again
		}
		p.files = slices.Delete(p.files, 0, 1)
	}
	p.files = append(p.files, f)
	return f.file, f.err
}

// openMapped opens the regular file behind a mapping of a thread's process for
// reading: by the kernel's own link, which leads to deleted files too but needs
// CAP_CHECKPOINT_RESTORE, else by name.
func openMapped(tid int, m vm.Mapping) (*os.File, error) {
	f, err := openRegular(fmt.Sprintf("/proc/%d/map_files/%x-%s", tid, m.Start, m.EndHex()), m.Inode)
	if err != nil && strings.HasPrefix(m.Name, "/") {
		if named, err := openRegular(filepath.Join(fmt.Sprintf("/proc/%d/root", tid), m.Name), m.Inode); err == nil {
			return named, nil
		}
	}
	return f, err
}

// openRegular opens a file if it is regular, has that inode, and is of a file
// system whose files read as they map.
func openRegular(path string, inode uint64) (*os.File, error) {
	// Looked at first, since opening a device can set it in motion.
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("no regular file")}
	}
	if st.Ino != inode {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("inode %d instead of %d", st.Ino, inode)}
	}
	var sys unix.Statfs_t
	if err := unix.Statfs(path, &sys); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	switch int64(sys.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.ANON_INODE_FS_MAGIC:
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("a file system of the kernel's own")}
	}
	// Without a new access time where that is allowed, open(2).
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOATIME|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EPERM) {
		f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	}
	return f, err
}
