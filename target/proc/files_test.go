package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// readAll is what ReadMapping tells of a mapping: its bytes, and which pages it did
// not read.
func readAll(t testing.TB, p *Memory, m vm.Mapping) (text []byte, unread []bool) {
	t.Helper()
	text, unread = make([]byte, m.Size), make([]bool, m.Size/p.page)
	for off := uint64(0); off < m.Size; {
		n, err := p.ReadMapping(t.Context(), m, text[off:], m.Start+off)
		if off += uint64(n); off == m.Size {
			break
		}
		hole := vm.Range{Start: m.Start + off, Size: p.page - off%p.page}
		var u *vm.UnreadableError
		if errors.As(err, &u) && u.Range.Contains(hole.Start) {
			hole.Size = u.Range.Last() - hole.Start + 1
		}
		for ; hole.Size > 0 && off < m.Size; hole.Size, off = hole.Size-p.page, off+p.page {
			unread[off/p.page] = true
		}
	}
	return text, unread
}

// truth is what the process sees, as reading through it shows; which changes it.
func truth(t testing.TB, k *kinds, m vm.Mapping) []byte {
	t.Helper()
	mem, err := os.Open(Path(k.pid, "mem"))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	text := make([]byte, m.Size)
	if _, err := mem.ReadAt(text, int64(m.Start)); err != nil {
		t.Fatal(err)
	}
	return text
}

// present is which pages of a mapping the process has.
func (k *kinds) present(t testing.TB, m vm.Mapping) (has []bool) {
	t.Helper()
	for _, e := range k.frames(t, []vm.Mapping{m}) {
		has = append(has, e>>63 != 0)
	}
	return has
}

// check compares what was read of a mapping with the truth, page by page, and wants
// pages left out that left says.
func (k *kinds) check(t testing.TB, p *Memory, m vm.Mapping, left func(page int, present bool) bool) {
	t.Helper()
	before := k.present(t, m)
	text, unread := readAll(t, p, m)
	if d := cmp.Diff(before, k.present(t, m)); d != "" {
		t.Errorf("%s: pages that the process has (-before +after):\n%s", m.Title(), d)
	}
	want := truth(t, k, m)
	for i, has := range before {
		if unread[i] != left(i, has) {
			t.Errorf("%s: page %d, which the process has: %v, was left out: %v", m.Title(), i, has, unread[i])
		}
		if a, b := text[i<<12:(i+1)<<12], want[i<<12:(i+1)<<12]; !unread[i] && !bytes.Equal(a, b) {
			t.Errorf("%s: page %d is %.20q, not %.20q", m.Title(), i, a, b)
		}
		if t.Failed() {
			return
		}
	}
}

func never(int, bool) bool { return false }

func absentOnes(_ int, present bool) bool { return !present }

// numbered is a text of so many bytes of which every 16 bytes are others.
func numbered(size int, what string) []byte {
	var b bytes.Buffer
	for b.Len() < size {
		fmt.Fprintf(&b, "%-9s%06d\n", what, b.Len()/16)
	}
	return b.Bytes()[:size]
}

func TestReadMappedFile(t *testing.T) {
	program := testkit.BuildC(t, "kinds")
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, numbered(1<<20+100, "file"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := startKinds(t, program, "file", path)
	for _, m := range k.pieces(t) {
		k.check(t, openMemory(t, k.pid, PopulatedByScan), m, never)
	}
}

func TestReadSharedMemory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("left out: files that have no name, which takes root")
		return
	}
	k := startKinds(t, testkit.BuildC(t, "kinds"), "shared")
	for _, m := range k.pieces(t) {
		k.check(t, openMemory(t, k.pid, PopulatedByScan), m, never)
	}
}

func TestReadFUSE(t *testing.T) {
	program := testkit.BuildC(t, "kinds")
	var (
		k *kinds
		f *testkit.FUSE
	)
	if !testkit.InMountNamespace(t, func() (err error) {
		dir := t.TempDir()
		if f, err = testkit.NewFUSE(t, dir, numbered(1<<20, "fuse")); err != nil {
			return err
		}
		k = startKinds(t, program, "file", filepath.Join(dir, "file"))
		return nil
	}) {
		return
	}
	t.Cleanup(func() { f.Stall(false) }) // before the program is waited for
	f.Stall(true)
	asked := len(f.Requests())
	pm := openMemory(t, k.pid, PopulatedByScan)
	matcher, err := search.NewBytes([]byte("fuse     0"))
	if err != nil {
		t.Fatal(err)
	}
	// Whatever would ask the file system would now never come back.
	ms, want := k.pieces(t), uint64(0)
	for _, m := range ms {
		for _, has := range k.present(t, m) {
			if has {
				want += 4096 / 16
			}
		}
	}
	r, err := search.Scan(t.Context(), pm, ms, search.Options{Matcher: matcher, Workers: 2})
	if err != nil || r.Partial != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	// One line was overwritten by the program.
	if r.Count != want-1 || r.SearchedBytes != want*16 {
		t.Errorf("%d hits in %d bytes, want %d in %d", r.Count, r.SearchedBytes, want-1, want*16)
	}
	notes := pm.Notes()
	left := 3*(1<<20) - r.SearchedBytes
	if len(notes) != 1 || !strings.Contains(notes[0], fmt.Sprintf("%d KiB of ", left>>10)) || !strings.Contains(notes[0], "files on fuse are not opened") {
		t.Errorf("notes %q, want one of %d KiB", notes, left>>10)
	}
	if more := f.Requests()[asked:]; len(more) > 0 {
		t.Errorf("the file system was asked for %q", more)
	}
	f.Stall(false)
	for _, m := range ms {
		k.check(t, openMemory(t, k.pid, PopulatedByScan), m, absentOnes)
	}
}

func TestReadOverlay(t *testing.T) {
	program := testkit.BuildC(t, "kinds")
	var k, other *kinds
	merged := ""
	if !testkit.InMountNamespace(t, func() error {
		dir := t.TempDir()
		options := ""
		for _, name := range []string{"lower", "upper", "work", "merged"} {
			path := filepath.Join(dir, name)
			if err := os.Mkdir(path, 0o700); err != nil {
				return err
			}
			if name != "merged" {
				options += fmt.Sprintf(",%sdir=%s", name, path)
			}
		}
		for _, name := range []string{"rewritten", "kept"} {
			if err := os.WriteFile(filepath.Join(dir, "lower", name), numbered(1<<20, "old"), 0o600); err != nil {
				return err
			}
		}
		merged = filepath.Join(dir, "merged")
		if err := unix.Mount("overlay", merged, "overlay", 0, options[1:]); err != nil {
			return fmt.Errorf("mount -t overlay: %w", err)
		}
		k = startKinds(t, program, "file", filepath.Join(merged, "rewritten"))
		other = startKinds(t, program, "file", filepath.Join(merged, "kept"))
		return nil
	}) {
		return
	}
	// In place, which makes it a copy in the upper layer.
	f, err := os.OpenFile(filepath.Join(fmt.Sprintf("/proc/%d/root", k.pid), merged, "rewritten"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(numbered(1<<20, "new")); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, m := range k.pieces(t) {
		pm := openMemory(t, k.pid, PopulatedByScan)
		k.check(t, pm, m, absentOnes)
		// One of the three shows no page of the file, so that nothing is known of it.
		want := "other files have their names"
		if m == k.piece(t, "second") {
			want = "nothing shows that"
		}
		if notes := pm.Notes(); len(notes) != 1 || !strings.Contains(notes[0], want) {
			t.Errorf("%s: notes %q", m.Title(), notes)
		}
	}
	// What was not rewritten is read as before, where its layers can be seen to be local.
	all, err := parseMounts([]byte(readFile(t, Path(other.pid, "mountinfo"))))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(m mount) bool { return m.point == merged })
	if p := openMemory(t, other.pid, PopulatedByScan); !p.layersLocal(all[i].device) {
		t.Logf("left out: files on overlay, whose layers here are on what is not known to be local")
		return
	}
	for name, left := range map[string]func(int, bool) bool{"first": never, "second": absentOnes, "shared": never} {
		other.check(t, openMemory(t, other.pid, PopulatedByScan), other.piece(t, name), left)
	}
}

// withoutRoot calls do as who has no capabilities; it starts no goroutines.
func withoutRoot(t *testing.T, do func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and so the thread ends with this goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			done <- err
			return
		}
		// To trace others stays allowed, to follow links to their files does not.
		data[1].Effective &^= 1 << (unix.CAP_CHECKPOINT_RESTORE - 32)
		data[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
		err := unix.Capset(&header, &data[0])
		if err == nil {
			do()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// By its name a file of another file system may be found, with the same inode number.
func TestReadFileMountedOver(t *testing.T) {
	program := testkit.BuildC(t, "kinds")
	var k *kinds
	path := ""
	if !testkit.InMountNamespace(t, func() error {
		path = filepath.Join(t.TempDir(), "file")
		for _, what := range []string{"under", "over"} {
			if err := unix.Mount("tmpfs", filepath.Dir(path), "tmpfs", 0, ""); err != nil {
				return fmt.Errorf("mount -t tmpfs: %w", err)
			}
			if err := os.WriteFile(path, numbered(1<<20, what), 0o600); err != nil {
				return err
			}
			if what == "under" {
				k = startKinds(t, program, "file", path)
			}
		}
		// The program came before the second mount, and is in the same namespace.
		return nil
	}) {
		return
	}
	all, err := parseVMAs([]byte(readFile(t, Path(k.pid, "maps"))))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/root%s", k.pid, path), &st); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(v vma) bool { return v.Name == path })
	if st.Ino != all[i].Inode || st.Dev == all[i].device {
		t.Fatalf("the files have inodes %d and %d", st.Ino, all[i].Inode)
	}
	for _, m := range k.pieces(t) {
		withoutRoot(t, func() {
			pm := openMemory(t, k.pid, PopulatedByScan)
			text, unread := readAll(t, pm, m)
			if bytes.Contains(text, []byte("over")) {
				t.Errorf("%s: was read from another file", m.Title())
			}
			if !slices.Contains(unread, true) {
				t.Errorf("%s: all was read", m.Title())
			}
			if notes := pm.Notes(); len(notes) != 1 || !strings.Contains(notes[0], "other files have their names") {
				t.Errorf("notes %q", notes)
			}
		})
		k.check(t, openMemory(t, k.pid, PopulatedByScan), m, never) // by the kernel's own link
	}
}

// By name, and with the device that belongs to it, a file is taken without root too.
func TestReadFileByName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, numbered(1<<20, "file"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := startKinds(t, testkit.BuildC(t, "kinds"), "file", path)
	p := openMemory(t, k.pid, PopulatedByScan)
	if v, err := p.vmaOf(k.piece(t, "first")); err != nil || !local(p.fsType(v.device)) || p.fsType(v.device) == "btrfs" {
		t.Logf("left out: files by name, which takes a file system whose files have its device: %v, %v", v, err)
		return
	}
	for _, m := range k.pieces(t) {
		withoutRoot(t, func() {
			pm := openMemory(t, k.pid, PopulatedByScan)
			if _, unread := readAll(t, pm, m); slices.Contains(unread, true) {
				t.Errorf("%s: not all was read: %q", m.Title(), pm.Notes())
			}
		})
	}
}

func TestReadWrittenPastEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	const size = 64*4096 + 100
	if err := os.WriteFile(path, numbered(size, "file"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := startKinds(t, testkit.BuildC(t, "kinds"), "file", path)
	// Somebody else writes behind the end of the file, which only memory shows.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	own, err := unix.Mmap(int(f.Fd()), 0, 65*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(own)
	copy(own[size:], "QZQZQZ#!")
	for _, m := range k.pieces(t) {
		if k.present(t, m)[64] {
			t.Fatal("the page is there already")
		}
		pm := openMemory(t, k.pid, PopulatedByScan)
		text, unread := readAll(t, pm, m)
		if slices.Contains(unread, true) || !bytes.Equal(text, truth(t, k, m)) {
			t.Errorf("%s: behind the end stands %.8q", m.Title(), text[size:])
		}
		if string(text[size:][:8]) != "QZQZQZ#!" {
			t.Errorf("%s: %.8q", m.Title(), text[size:])
		}
	}
}

func TestReadSwapped(t *testing.T) {
	if !testkit.Swap(t, 64<<20) {
		return
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	settle(t, path)
	k := startKinds(t, testkit.BuildC(t, "kinds"), "swap", path)
	ms := k.pieces(t)
	keep := func(m vm.Mapping) bool {
		return slices.ContainsFunc(ms, func(o vm.Mapping) bool { return o.Start == m.Start })
	}
	before := costOf(t, k.pid, keep)
	if before["Swap"] == 0 {
		t.Log("left out: swap, which this kernel does not use when it is told to")
		return
	}
	matcher, err := search.NewBytes([]byte("QZQZQZ#!"))
	if err != nil {
		t.Fatal(err)
	}
	total := uint64(0)
	for _, m := range ms {
		total += m.Size
	}
	pm := openMemory(t, k.pid, PopulatedByScan)
	for _, workers := range []int{1, 2} {
		r, err := search.Scan(t.Context(), pm, ms, search.Options{Matcher: matcher, Workers: workers})
		if err != nil || r.Partial != nil {
			t.Fatalf("%+v, %v", r, err)
		}
		if r.SwappedBytes() != before["Swap"]<<10 || r.SearchedBytes != total-before["Swap"]<<10 {
			t.Errorf("%d bytes searched, %d left in swap, of %d with %d KiB in swap", r.SearchedBytes, r.SwappedBytes(), total, before["Swap"])
		}
		if un := r.UnreadMappings(ms); len(un) > 0 || len(r.Unread) == 0 {
			t.Errorf("unread: %+v, %+v", r.Unread, un)
		}
		if want := r.SearchedBytes / (64 * 4096); r.Count != want {
			t.Errorf("%d hits, want %d", r.Count, want)
		}
		// What is in RAM is looked at again, the others are kept.
		again, err := search.Refine(t.Context(), pm, ms, search.TakeSnapshot(r), search.RefineOptions{Change: search.Unchanged})
		if err != nil || again.Count != r.Count || again.Undecided != 0 {
			t.Errorf("%+v, %v", again, err)
		}
	}
	if notes := pm.Notes(); len(notes) > 0 {
		t.Errorf("notes %q", notes)
	}
	if after := costOf(t, k.pid, keep); cmp.Diff(before, after) != "" {
		t.Errorf("it was changed (-before +after):\n%s", cmp.Diff(before, after))
	}
	pm = openMemory(t, k.pid, PopulatedByScan)
	r, err := search.Scan(t.Context(), pm, ms, search.Options{Matcher: matcher, Swapped: true})
	if err != nil || r.Partial != nil || r.SearchedBytes != total || len(r.Unread) > 0 || r.Count != total/(64*4096) {
		t.Errorf("with what is in swap: %+v, %v", r, err)
	}
	// What came back is what the kernel no longer counts as swapped.
	after := costOf(t, k.pid, keep)
	want := fmt.Sprintf("%d KiB that were in swap, or held by userfaultfd, are in RAM now", before["Swap"]-after["Swap"])
	if notes := pm.Notes(); len(notes) != 1 || notes[0] != want {
		t.Errorf("notes %q, want %q", notes, want)
	}
}

func TestReadUserfaults(t *testing.T) {
	program := testkit.BuildC(t, "kinds")
	k := startKinds(t, program, "uffdmissing")
	if len(k.missing) > 0 {
		t.Logf("left out: this kernel has no %v for this user", k.missing)
		return
	}
	ms := k.pieces(t)
	for _, best := range []PopulatedBy{PopulatedByScan, PopulatedByPagemap} {
		pm := openMemory(t, k.pid, best)
		// Zeros would be found where nothing is yet.
		r := scan(t, pm, ms, make([]byte, 64), search.Options{CountOnly: true})
		if r.Count != 0 || r.SearchedBytes != 2*8*4096 || len(r.Unread) != 2 {
			t.Errorf("%+v", r)
		}
		if notes := pm.Notes(); len(notes) != 1 || !strings.HasPrefix(notes[0], "448 KiB of ") || !strings.Contains(notes[0], "userfaultfd") {
			t.Errorf("notes %q", notes)
		}
	}
}

// Who reads a page by its address waits for whom the kernel waits for, but not longer
// than his context.
func TestReadMemoryLeavesBehind(t *testing.T) {
	program := testkit.BuildC(t, "kinds")
	var (
		k *kinds
		f *testkit.FUSE
	)
	if !testkit.InMountNamespace(t, func() (err error) {
		dir := t.TempDir()
		if f, err = testkit.NewFUSE(t, dir, numbered(1<<20, "fuse")); err != nil {
			return err
		}
		k = startKinds(t, program, "file", filepath.Join(dir, "file"))
		return nil
	}) {
		return
	}
	t.Cleanup(func() { f.Stall(false) }) // before the program is waited for
	f.Stall(true)
	asked := len(f.Requests())
	pm := openMemory(t, k.pid, PopulatedByScan)
	ctx, cancel := context.WithCancel(t.Context())
	type answer struct {
		n   int
		err error
	}
	answers := make(chan answer)
	go func() {
		n, err := pm.ReadMemory(ctx, make([]byte, 4096), k.at["first"]+1<<19)
		answers <- answer{n, err}
	}()
	testkit.WaitFor(t, "the kernel to ask for the page", func() bool { return len(f.Requests()) > asked })
	cancel()
	if a := <-answers; a.n != 0 || !errors.Is(a.err, context.Canceled) {
		t.Errorf("%+v", a)
	}
	if err := pm.Close(); err != nil {
		t.Error(err)
	}
}

func TestReadWriteProtected(t *testing.T) {
	k := startKinds(t, testkit.BuildC(t, "kinds"), "uffdwp")
	if len(k.missing) > 0 {
		t.Logf("left out: this kernel has no %v for this user", k.missing)
		return
	}
	for _, best := range []PopulatedBy{PopulatedByScan, PopulatedByPagemap} {
		r := scan(t, openMemory(t, k.pid, best), k.pieces(t), []byte("QZQZQZ#!"), search.Options{})
		// 24 markers stand for pages that are not there.
		if r.Count != 1 || r.SwappedBytes() != 24*4096 || r.SearchedBytes != 40*4096 {
			t.Errorf("%+v", r)
		}
	}
}

// A file system that does not answer keeps who asks it, and nobody else.
func TestStalledFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, numbered(1<<20, "file"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := startKinds(t, testkit.BuildC(t, "kinds"), "file", path)
	pm := openMemory(t, k.pid, PopulatedByScan)
	stalled, asked, release := k.piece(t, "first"), make(chan bool, 9), make(chan bool)
	opened, left := make(chan *os.File, 1), make(chan bool)
	pm.open = func(v *vma) (*os.File, error) {
		if v.Start != stalled.Start {
			return pm.openMapped(v)
		}
		defer close(left)
		asked <- true
		<-release
		f, err := pm.openMapped(v)
		opened <- f
		return f, err
	}
	matcher, err := search.NewBytes([]byte("file     0"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	found := make(chan *search.Result)
	go func() {
		r, err := search.Scan(ctx, pm, k.pieces(t), search.Options{Matcher: matcher, Workers: 2, Chunk: 64 << 10})
		if err != nil {
			t.Error(err)
		}
		found <- r
	}()
	<-asked
	// Other files can be read meanwhile, and no one waits for this one longer than
	// he wants to.
	text, unread := readAll(t, pm, k.piece(t, "shared"))
	if !bytes.Equal(text, numbered(1<<20, "file")) || slices.Contains(unread, true) {
		t.Error("another file cannot be read")
	}
	short, done := context.WithCancel(t.Context())
	done()
	v, err := pm.vmaOf(stalled)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := pm.file(short, v); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", f, err)
	}
	cancel()
	if r := <-found; !errors.Is(r.Partial, context.Canceled) {
		t.Errorf("%+v", r)
	}
	_ = pm.Notes()
	if err := pm.Close(); err != nil {
		t.Error(err)
	}
	// What is opened too late is closed again.
	close(release)
	f := <-opened
	<-left
	testkit.WaitFor(t, "the file to be closed", func() bool {
		_, err := f.Stat()
		return errors.Is(err, os.ErrClosed)
	})
	if _, err := pm.file(t.Context(), v); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestParseVMAs(t *testing.T) {
	text := readFile(t, "/proc/self/maps")
	all, err := parseVMAs([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		v := all[i]
		if got, want := fmt.Sprintf("%02x:%02x", unix.Major(v.device), unix.Minor(v.device)), strings.Fields(line)[3]; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		// What is mapped of ourselves can be asked for its numbers.
		var st unix.Stat_t
		if v.Inode != 0 && unix.Stat(v.Name, &st) == nil && st.Ino == v.Inode && st.Dev != v.device {
			t.Logf("%s: stat(2) says %#x, maps %#x", v.Name, st.Dev, v.device)
		}
	}
}

func TestParseMounts(t *testing.T) {
	const text = `22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 98:1 /mnt1 /mnt\0402\134 rw,noatime master:1 propagate_from:2 - ext3 /dev/ro\040ot rw,errors=continue
65 43 0:39 / /a rw - overlay overlay rw,lowerdir=/l1:/l\0402,upperdir=/u
`
	got, err := parseMounts([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []mount{
		{unix.Mkdev(0, 21), "/proc", "proc", "rw"},
		{unix.Mkdev(98, 1), `/mnt 2\`, "ext3", "rw,errors=continue"},
		{unix.Mkdev(0, 39), "/a", "overlay", "rw,lowerdir=/l1:/l 2,upperdir=/u"},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"\n", "22 27 0:21 / /proc rw,relatime\n", "22 27 x / /proc rw - proc proc rw\n", "22 27 0:21 / /proc rw - proc\n"} {
		var pe *vm.ParseError
		if _, err := parseMounts([]byte(text + bad)); !errors.As(err, &pe) || pe.Line != 4 {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := parseMounts([]byte(readFile(t, "/proc/self/mountinfo"))); err != nil {
		t.Error(err)
	}
}

func TestLayersLocal(t *testing.T) {
	host := []mount{
		{1, "/", "ext4", "rw"}, {2, "/net", "nfs4", "rw"}, {3, "/net/disk", "xfs", "rw"}, {4, "/fuse", "fuse.x", "rw"},
	}
	for options, want := range map[string]bool{
		"rw,lowerdir=/a:/b,upperdir=/u,workdir=/net/w": true,
		"rw,lowerdir=/a:/net/b,upperdir=/u":            false,
		"rw,lowerdir=/a:/net/disk/b,upperdir=/u":       true,
		"rw,lowerdir=/a,upperdir=/fuse/u":              false,
		"rw,lowerdir=a":                                false,
		"rw,lowerdir+=/a,lowerdir+=/fuse/b":            false,
		"rw,lowerdir=/a::/net/data":                    false,
		"rw,lowerdir=/netto":                           true,
		"rw":                                           false,
	} {
		p := &Memory{mounted: func() []mount { return append(slices.Clone(host), mount{9, "/merged", "overlay", options}) }}
		if got := p.layersLocal(9); got != want {
			t.Errorf("%s: %v", options, got)
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add([]byte("22 27 0:21 / /proc rw,relatime - proc proc rw\n"))
	f.Add([]byte("36 35 98:1 /mnt1 /mnt\\0402 rw master:1 - ext3 /dev/root rw\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := parseMounts(text)
		if err == nil && len(all) > bytes.Count(text, []byte{'\n'})+1 {
			t.Fatalf("%d mounts", len(all))
		}
	})
}

func FuzzParseVMAs(f *testing.F) {
	f.Add([]byte("00400000-00401000 r--p 00000000 fe:00 17   /x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		ms, err1 := ParseMaps(text)
		all, err2 := parseVMAs(text)
		if err1 != nil && err2 == nil || err2 == nil && len(all) != len(ms) {
			t.Fatalf("%v, %v", err1, err2)
		}
	})
}
