package proc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"dbgsh/vm"
)

// vma is a mapping as the kernel has it now, with what names the file behind it
// beside its inode.
type vma struct {
	vm.Mapping
	device uint64 // that of the file's file system, as unix.Mkdev makes it
}

// parseVMAs reads the text of /proc/PID/maps, devices included.
func parseVMAs(text []byte) ([]vma, error) {
	ms, err := ParseMaps(text)
	if err != nil {
		return nil, err
	}
	all := make([]vma, len(ms))
	for i, m := range ms {
		row, rest, _ := bytes.Cut(text, []byte{'\n'})
		text = rest
		field := bytes.SplitN(row, []byte{' '}, 5)[3] // ParseMaps has seen five
		device, ok := parseDevice(string(field), 16)
		if !ok {
			return nil, &vm.ParseError{Line: i + 1, Text: string(row), Why: "no device"}
		}
		all[i] = vma{m, device}
	}
	return all, nil
}

func (p *Memory) readVMAs() ([]vma, error) {
	text, err := os.ReadFile(Path(p.tid, "maps"))
	if err != nil {
		return nil, err
	}
	return parseVMAs(text)
}

// vmaOf is what the kernel has where m is, which may be a part of it.
func (p *Memory) vmaOf(m vm.Mapping) (*vma, error) {
	all, err := p.vmas()
	if err != nil {
		return nil, err
	}
	i := sort.Search(len(all), func(i int) bool { return all[i].Last() >= m.Start })
	if i < len(all) {
		if v := &all[i]; v.Intersect(m.Range) == m.Range && v.Inode == m.Inode && v.Offset+(m.Start-v.Start) == m.Offset {
			return v, nil
		}
	}
	return nil, errors.New("the map has changed since it was read")
}

// parseDevice reads MAJOR:MINOR.
func parseDevice(text string, base int) (device uint64, ok bool) {
	major, minor, _ := strings.Cut(text, ":")
	a, err1 := strconv.ParseUint(major, base, 32)
	b, err2 := strconv.ParseUint(minor, base, 32)
	return unix.Mkdev(uint32(a), uint32(b)), err1 == nil && err2 == nil
}

// mount is a line of /proc/PID/mountinfo.
type mount struct {
	device  uint64 // as unix.Mkdev makes it
	point   string
	fsType  string
	options string // those of the file system
}

// parseMounts reads the text of /proc/PID/mountinfo, proc_pid_mountinfo(5).
func parseMounts(text []byte) ([]mount, error) {
	var all []mount
	for line := 1; len(text) > 0; line++ {
		row, rest, _ := bytes.Cut(text, []byte{'\n'})
		text = rest
		// Optional fields stand between six fields and a dash.
		front, back, _ := strings.Cut(string(row), " - ")
		f, g := strings.Split(front, " "), strings.Split(back, " ")
		if len(f) < 6 || len(g) < 3 {
			return nil, &vm.ParseError{Line: line, Text: string(row), Why: "fewer than nine fields"}
		}
		device, ok := parseDevice(f[2], 10)
		if !ok {
			return nil, &vm.ParseError{Line: line, Text: string(row), Why: "no device"}
		}
		all = append(all, mount{device, unescapeOctal(f[4]), g[0], unescapeOctal(g[2])})
	}
	return all, nil
}

// unescapeOctal undoes what the kernel does to spaces, newlines and backslashes in
// its lists of mounts: \040 for a space (seq_path, fs/seq_file.c).
func unescapeOctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// local reports whether files of a file system, by its name in /proc/filesystems,
// read as they are mapped, and are read on this machine alone. Opening a file on
// FUSE can drop its pages from the memory of those who map it
// (fuse_finish_open, fs/fuse/file.c), and a server that does not answer keeps
// whoever asks, for ever. So what is not known to be local is not touched.
func local(fsType string) bool {
	switch fsType {
	case "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "reiserfs", "nilfs2", "minix", "ufs",
		"vfat", "msdos", "exfat", "ntfs3", "hfs", "hfsplus", "iso9660", "udf",
		"squashfs", "erofs", "cramfs", "romfs", "jffs2", "ubifs",
		"tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs":
		return true
	}
	return false
}

// mounts is what is mounted for the process, and for us.
func (p *Memory) mounts() []mount {
	var all []mount
	for _, path := range []string{Path(p.tid, "mountinfo"), "/proc/self/mountinfo"} {
		if text, err := os.ReadFile(path); err == nil {
			if some, err := parseMounts(text); err == nil {
				all = append(all, some...)
			}
		}
	}
	return all
}

// internalDevices are those of the file systems that are mounted nowhere: the kernel's
// own for memfds, shared anonymous memory, System V's, and for huge pages.
func internalDevices() map[uint64]string {
	all := map[uint64]string{}
	add := func(fsType string, flags int) {
		fd, err := unix.MemfdCreate("dbgsh", unix.MFD_CLOEXEC|flags)
		if err != nil {
			return
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil {
			all[st.Dev] = fsType
		}
	}
	add("tmpfs", 0)
	sizes, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, size := range sizes {
		var kb uint64
		if _, err := fmt.Sscanf(filepath.Base(size), "hugepages-%dkB", &kb); err != nil {
			continue
		}
		// The logarithm of the size stands above the flags, memfd_create(2).
		log := 10
		for kb > 1 {
			kb, log = kb/2, log+1
		}
		add("hugetlbfs", unix.MFD_HUGETLB|log<<unix.MFD_HUGE_SHIFT)
	}
	return all
}

// fsType is the type of the file system on a device, "" where that is not to be
// found. Nothing of the file system itself is asked: it may not answer.
func (p *Memory) fsType(device uint64) string {
	for _, m := range p.mounted() {
		if m.device == device {
			return m.fsType
		}
	}
	return p.internal()[device]
}

// overlay is overlayfs by its name in /proc/filesystems.
const overlay = "overlay"

// layersLocal reports whether all that an overlayfs is made of is known to be local,
// by its options; what a layer's path meant where it was mounted may not be known here.
func (p *Memory) layersLocal(device uint64) bool {
	all := p.mounted()
	i := slices.IndexFunc(all, func(m mount) bool { return m.device == device })
	found := false
	for option := range strings.SplitSeq(all[i].options, ",") {
		name, paths, _ := strings.Cut(option, "=")
		switch strings.TrimSuffix(name, "+") {
		case "lowerdir", "upperdir", "datadir":
		default:
			continue
		}
		for path := range strings.SplitSeq(paths, ":") {
			if path == "" { // before layers of data alone
				continue
			}
			var on mount
			for _, m := range all {
				if inside(path, m.point) && len(m.point) >= len(on.point) {
					on = m
				}
			}
			if found = true; !local(on.fsType) {
				return false
			}
		}
	}
	return found
}

// inside reports whether an absolute path is below a directory.
func inside(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return ok && dir != "" && strings.HasPrefix(rest, "/")
}

// openMapped opens the file behind a mapping for reading, if it is known to hold
// what the mapping shows: a regular file with its device and inode, on a local
// file system, found by the kernel's own link, which leads to deleted files too but
// needs CAP_CHECKPOINT_RESTORE, else by name. On overlayfs that is not enough, see
// sameFrame.
func (p *Memory) openMapped(v *vma) (*os.File, error) {
	switch t := p.fsType(v.device); {
	case t == "":
		return nil, errors.New("what they are on is mounted nowhere")
	case t == overlay && !p.layersLocal(v.device):
		return nil, errors.New("files on overlay are not opened where its layers are not known")
	case t != overlay && !local(t):
		return nil, fmt.Errorf("files on %s are not opened", t)
	}
	f, err := p.openSame(fmt.Sprintf("/proc/%d/map_files/%x-%s", p.tid, v.Start, v.EndHex()), v, true)
	if err != nil && strings.HasPrefix(v.Name, "/") {
		f, err = p.openSame(filepath.Join(fmt.Sprintf("/proc/%d/root", p.tid), v.Name), v, false)
	}
	return f, err
}

var errNotSame = errors.New("other files have their names")

// openSame opens a file if it is the one behind v. Linked says that the path is the
// kernel's own link to it.
func (p *Memory) openSame(path string, v *vma, linked bool) (*os.File, error) {
	// Looked at first, since opening a device can set it in motion.
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("they cannot be opened: %w", err)
	}
	var sys unix.Statfs_t
	if err := unix.Statfs(path, &sys); err != nil {
		return nil, fmt.Errorf("they cannot be opened: %w", err)
	}
	// A file on btrfs has the device of its subvolume, which maps does not show,
	// and its inode's number is unique only there.
	// What is mapped on overlayfs had the device of its layer before Linux 6.6.
	layered := sys.Type == unix.OVERLAYFS_SUPER_MAGIC
	sameDevice := st.Dev == v.device || layered || linked && sys.Type == unix.BTRFS_SUPER_MAGIC
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errors.New("they are no regular files")
	case st.Ino != v.Inode || !sameDevice:
		return nil, errNotSame
	}
	// Without a new access time where that is allowed, open(2).
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOATIME|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EPERM) {
		f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		var bare *fs.PathError
		if errors.As(err, &bare) {
			err = bare.Err
		}
		return nil, fmt.Errorf("they cannot be opened: %w", err)
	}
	if layered {
		if err := p.sameFrame(f, v); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// sameFrame tells whether a file on overlayfs is what v shows. When it is written to
// for the first time it becomes a copy in the upper layer, and by its name, the kernel's
// link and its numbers only the copy is found, while those who had mapped it keep the
// old one (Documentation/filesystems/overlayfs.rst, "Non-standard behavior"). But
// pages of one file are in one place: if a page of v's is in the same frame of memory
// as that page of f's is for us, then f is the same file. Frames are shown to
// CAP_SYS_ADMIN alone.
func (p *Memory) sameFrame(f *os.File, v *vma) error {
	own, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return err
	}
	defer own.Close()
	cannot := errors.New("nothing shows that files on overlay are still those that were mapped")
	for off := uint64(0); off < v.Size; off += readPiece {
		entries, err := p.entries(v.Start+off, int(min(readPiece, v.Size-off)))
		if err != nil {
			return err
		}
		for i := uint64(0); i < uint64(len(entries)/pmEntry); i++ {
			theirs := func(b []byte) uint64 { return binary.NativeEndian.Uint64(b) & (pmPresent | pmFile | pmFrame) }
			it := theirs(entries[i*pmEntry:])
			if it&pmPresent == 0 || it&pmFile == 0 || it&pmFrame == 0 {
				continue
			}
			at := off + i*p.page
			ours := uint64(0)
			p.withMapped(f, v.Offset+at, p.page, unix.MAP_POPULATE, func(page unsafe.Pointer, _ uint64) {
				var entry [pmEntry]byte
				if _, err := own.ReadAt(entry[:], p.entryOffset(uint64(uintptr(page)))); err == nil {
					ours = theirs(entry[:])
				}
				// A frame may have become another page's before ours was found.
				if again, err := p.entries(v.Start+at, 1); err != nil || theirs(again) != it {
					ours = 0
				}
			})
			switch ours & pmFrame {
			case 0:
				continue
			case it & pmFrame:
				return nil
			}
			return errNotSame
		}
	}
	return cannot
}

// mappedFile is the file behind a mapping, or what is to become it.
type mappedFile struct {
	start uint64        // of the mapping
	ready chan struct{} // closed when what follows is set
	file  *os.File      // nil where it cannot be read in place of the memory
	err   error         // why

	dropped bool // nobody wants it any more; guarded by Memory.mu
}

// file is the open file behind a mapping. Whoever asks first opens it, and nobody
// waits for him longer than he has the time: stat(2) and open(2) may take for ever.
func (p *Memory) file(ctx context.Context, v *vma) (*os.File, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, os.ErrClosed
	}
	i := slices.IndexFunc(p.files, func(f *mappedFile) bool { return f.start == v.Start })
	if i >= 0 {
		f := p.files[i]
		p.files = append(slices.Delete(p.files, i, i+1), f) // the latest last
		p.mu.Unlock()
		select {
		case <-f.ready:
			return f.file, f.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f := &mappedFile{start: v.Start, ready: make(chan struct{})}
	if len(p.files) == maxFiles {
		p.files[0].drop()
		p.files = slices.Delete(p.files, 0, 1)
	}
	p.files = append(p.files, f)
	p.mu.Unlock()

	file, err := p.open(v)

	p.mu.Lock()
	defer p.mu.Unlock()
	f.file, f.err = file, err
	if f.dropped && file != nil {
		file.Close()
	}
	close(f.ready)
	return f.file, f.err
}

// drop closes the file, at once or as soon as it is open; a reader that still has
// it asks again. The caller holds Memory.mu.
func (f *mappedFile) drop() {
	f.dropped = true
	select {
	case <-f.ready:
		if f.file != nil {
			f.file.Close()
		}
	default:
	}
}

// evicted is how many pages of size bytes at off of a file on tmpfs are in swap, by
// cachestat(2).
func (p *Memory) evicted(f *os.File, off, size uint64) (pages uint64, err error) {
	first := off &^ (p.page - 1)
	var stat unix.Cachestat_t
	err = os.ErrClosed
	withFD(f, func(fd int) {
		err = unix.Cachestat(uint(fd), &unix.CachestatRange{Off: first, Len: off + size - first}, &stat, 0)
	})
	return stat.Evicted, err
}

// swappedFrom is how many of the size bytes at off of a file on tmpfs come before the
// first that is in swap.
func (p *Memory) swappedFrom(f *os.File, off, size uint64) uint64 {
	n, err := p.evicted(f, off, size)
	if err != nil {
		return p.notInCore(f, off, size) // Linux before 6.5
	}
	for at := off &^ (p.page - 1); n > 0 && at < off+size; at += p.page {
		if here, err := p.evicted(f, at, p.page); here > 0 || err != nil {
			return max(at, off) - off
		}
	}
	return size
}

// notInCore is swappedFrom by mincore(2), which takes pages for present that are in
// swap and in RAM, and all where the file is not ours.
func (p *Memory) notInCore(f *os.File, off, size uint64) uint64 {
	first := off &^ (p.page - 1)
	n := size
	p.withMapped(f, first, off+size-first, 0, func(at unsafe.Pointer, length uint64) {
		vec := make([]byte, (length+p.page-1)/p.page)
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(at), uintptr(length), uintptr(unsafe.Pointer(&vec[0]))); errno != 0 {
			return
		}
		for i, v := range vec {
			// A hole is not in RAM either, and takes none to be read.
			page := first + uint64(i)*p.page
			if v&1 == 0 && hasData(f, page) {
				n = max(page, off) - off
				return
			}
		}
	})
	return n
}

// hasData reports whether the page of a file at off is no hole.
func hasData(f *os.File, off uint64) (has bool) {
	withFD(f, func(fd int) {
		at, err := unix.Seek(fd, int64(off), unix.SEEK_DATA)
		has = err == nil && uint64(at) == off
	})
	return has
}

// withFD calls do with the file's descriptor, if the file is open.
func withFD(f *os.File, do func(fd int)) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { do(int(fd)) })
	}
}

// withMapped calls do with size bytes at off of the file mapped, if that can be, with
// flags for mmap(2). Memory that is mapped so must not be touched by
// ourselves, for the file may have become shorter: that is a SIGBUS.
func (p *Memory) withMapped(f *os.File, off, size uint64, flags int, do func(at unsafe.Pointer, size uint64)) {
	withFD(f, func(fd int) {
		at, err := unix.MmapPtr(fd, int64(off), nil, uintptr(size), unix.PROT_READ, unix.MAP_SHARED|flags)
		if err != nil {
			return
		}
		defer unix.MunmapPtr(at, uintptr(size))
		do(at, size)
	})
}

// readTail fills b from off on, where the file ends, with what the page of the file's
// end holds behind it, and returns how many bytes that are. They are zeros unless
// somebody has written them through a mapping, mmap(2), and no read of the file shows
// them.
func (p *Memory) readTail(f *os.File, b []byte, off uint64) (n int) {
	room := -off % p.page // to the end of the page
	if room == 0 {
		return 0
	}
	b = b[:min(uint64(len(b)), room)]
	p.withMapped(f, off&^(p.page-1), p.page, 0, func(at unsafe.Pointer, _ uint64) {
		local := []unix.Iovec{{Base: &b[0]}}
		local[0].SetLen(len(b))
		remote := []unix.RemoteIovec{{Base: uintptr(at) + uintptr(off%p.page), Len: len(b)}}
		// Of ourselves, since that fails where touching would be a SIGBUS.
		if k, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0); err == nil {
			n = k
		}
	})
	return n
}

var errAwaited = errors.New("userfaultfd(2) has yet to fill them")

// userfaults are the ranges of the process in which userfaultfd(2) is asked for pages
// that do not exist: they hold nothing yet, and whoever reads one waits for an answer.
// The kernel tells of them only in smaps, which takes long for much memory; so a
// process that has no userfaultfd among its files, having given it to another, is
// taken for one that has no such ranges.
func (p *Memory) userfaults() []vm.Range {
	fds, err := os.ReadDir(Path(p.tid, "fd"))
	if err != nil {
		return nil
	}
	if !slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
		to, err := os.Readlink(Path(p.tid, "fd/"+fd.Name()))
		return err == nil && to == "anon_inode:[userfaultfd]"
	}) {
		return nil
	}
	text, err := os.ReadFile(Path(p.tid, "smaps"))
	if err != nil {
		return nil
	}
	all, err := ParseSmaps(text)
	if err != nil {
		return nil
	}
	var rs []vm.Range
	for i := range all {
		// Missing and minor faults, proc_pid_smaps(5).
		if all[i].HasFlag("um") || all[i].HasFlag("ui") {
			rs = append(rs, all[i].Range)
		}
	}
	return rs
}

// awaits reports whether userfaultfd(2) is asked for pages in r that do not exist.
func (p *Memory) awaits(r vm.Range) bool {
	return slices.ContainsFunc(p.awaited(), r.Overlaps)
}
