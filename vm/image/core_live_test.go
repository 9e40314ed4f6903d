package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
)

// coreProgram has odd mappings of every kind, and a known text in some.
const coreProgram = `
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char bss[300000];
static char data[8192] = "data of the program";

static void *wait_(void *p) { for (;;) pause(); return p; }

static char *map(int pages, int flags, int fd) {
  return mmap(0, pages * 4096, PROT_READ | PROT_WRITE, flags, fd, 0);
}

int main(int argc, char **argv) {
#ifndef ONE_THREAD
  pthread_t t;
  for (int i = 0; i < 3; i++) pthread_create(&t, 0, wait_, 0);
#endif
  memset(bss, 1, sizeof bss);
  strcpy(malloc(5000), "text on the heap");
  char *p = map(8, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  strcpy(p, "anonymous text");
  mprotect(p + 1 * 4096, 4096, PROT_WRITE);
  mprotect(p + 3 * 4096, 4096, PROT_EXEC);
  mprotect(p + 5 * 4096, 4096, PROT_NONE);
  mmap(0, 5 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  map(3, MAP_SHARED | MAP_ANONYMOUS, -1);
  int fd = open(" odd \x1b\xff name ", O_RDWR | O_CREAT, 0600);
  ftruncate(fd, 4096 * 9);
  strcpy(map(3, MAP_SHARED, fd), "shared text");
  mmap(0, 2 * 4096, PROT_READ, MAP_PRIVATE, fd, 4096 * 2);
  strcpy(map(1, MAP_PRIVATE, fd), "private text");
  fd = open("gone", O_RDWR | O_CREAT, 0600);
  ftruncate(fd, 4096);
  unlink("gone");
  map(1, MAP_SHARED, fd);
  write(1, "ready\n", 6);
  wait_(data);
}
`

// buildC builds coreProgram.
func buildC(t *testing.T, cc string, flags ...string) string {
	t.Helper()
	return testkit.BuildText(t, cc, "prog.c", coreProgram, append([]string{"-O1", "-w", "-pthread"}, flags...)...)
}

// live is a process that has said that it is ready.
type live struct {
	*testkit.Program
	exe string
}

// startLive starts a program in dir.
func startLive(t *testing.T, dir string, env []string, exe string, args ...string) *live {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", `[ -z "$FILTER" ] || echo "$FILTER" > /proc/self/coredump_filter
exec "$0" "$@"`, exe}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	return &live{testkit.Start(t, cmd, func(line string) bool { return line == "ready" }), exe}
}

func (p *live) proc(name string) string {
	return "/proc/" + strconv.Itoa(p.Process.Pid) + "/" + name
}

func (p *live) maps(t *testing.T) []vm.Mapping {
	t.Helper()
	b, err := os.ReadFile(p.proc("maps"))
	if err != nil {
		t.Fatal(err)
	}
	var ms []vm.Mapping
	for line := range strings.Lines(string(b)) {
		var m vm.Mapping
		var end uint64
		var perm, dev, name string
		if n, err := fmt.Sscanf(line, "%x-%x %s %x %s %d", &m.Start, &end, &perm, &m.Offset, &dev, &m.Inode); n != 6 {
			t.Fatalf("%q: %v", line, err)
		}
		if i := strings.IndexAny(line, "/["); i >= 0 {
			name = strings.TrimSuffix(line[i:], "\n")
		}
		if m.Perm, err = vm.ParsePerm([]byte(perm)); err != nil {
			t.Fatal(err)
		}
		m.Size, m.Name, m.Source = end-m.Start, name, vm.SourceProcfs
		ms = append(ms, m)
	}
	return ms
}

// settle waits until n threads all wait in the same system call, so that the
// memory of the process no longer changes.
func (p *live) settle(t *testing.T, n int) {
	t.Helper()
	testkit.WaitFor(t, "threads that rest", func() bool {
		files, _ := filepath.Glob(p.proc("task/*/syscall"))
		calls := map[string]bool{}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Skip(err)
			}
			call, _, _ := strings.Cut(string(b), " ")
			calls[strings.TrimSpace(call)] = true
		}
		return len(files) == n && len(calls) == 1 && !calls["running"]
	})
}

// openCore opens a core file, cut to size bytes unless size is negative.
func openCore(t testing.TB, path string, size int64, opt CoreOptions) *Core {
	t.Helper()
	if size >= 0 {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenCore(t.Context(), f, info.Size(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = f.Close() })
	return c
}

func openFile(path string) (CoreFile, error) { return os.Open(path) }

// coreLines is what a core can tell of mappings: no sharing, no inodes.
func coreLines(ms []vm.Mapping) []string {
	var s []string
	for _, m := range ms {
		s = append(s, fmt.Sprintf("%v %.3s %#x %q", m.Range, m.Perm, m.Offset, m.Name))
	}
	return s
}

func (c *Core) plain(t testing.TB) []vm.Mapping {
	t.Helper()
	m, err := c.Map(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m.Mappings
}

// memories is the memory of a process that can be read, as text by mapping.
func memories(t *testing.T, p *live, ms []vm.Mapping) map[uint64][]byte {
	t.Helper()
	f, err := os.Open(p.proc("mem"))
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	got := map[uint64][]byte{}
	for _, m := range ms {
		if m.Size > 4<<20 || m.Perm.IsNot(vm.Read) {
			continue
		}
		b := make([]byte, m.Size)
		if n, _ := f.ReadAt(b, int64(m.Start)); n == len(b) {
			got[m.Start] = b
		}
	}
	return got
}

// checkMemory compares what the core reads with what the process had.
func checkMemory(t *testing.T, c *Core, want map[uint64][]byte) {
	t.Helper()
	for _, m := range c.Mappings {
		b := want[m.Start]
		if b == nil || m.Name == "[vvar]" || m.Name == "[vvar_vclock]" {
			continue
		}
		got := make([]byte, m.Size)
		n, err := c.ReadMemory(context.Background(), got, m.Start)
		if uint64(n) != m.InCore+m.FromFile || (err == nil) != (uint64(n) == m.Size) || err != nil && !errors.Is(err, ErrNotInCore) {
			t.Errorf("%v %s: %d bytes, %v; %d in the core, %d from the file", m.Range, m.Title(), n, err, m.InCore, m.FromFile)
		}
		if !bytes.Equal(got[:n], b[:n]) {
			t.Errorf("%v %s: other bytes", m.Range, m.Title())
		}
	}
}

// TestKernelCores compares cores with the maps of the processes before.
func TestKernelCores(t *testing.T) {
	pattern := testkit.CorePattern(t)
	for _, v := range []struct {
		name, filter string
		flags        []string
	}{
		{"pie", "0x33", nil},
		{"pie, no memory dumped", "0", nil},
		{"pie, anonymous memory only", "0x1", nil},
		{"pie, everything dumped", "0x7f", nil},
		{"no-pie", "0x33", []string{"-no-pie"}},
		{"static", "0x33", []string{"-static"}},
		{"static, no memory dumped", "0", []string{"-static"}},
		{"static-pie", "0x33", []string{"-static-pie"}},
		{"pie, addresses not random", "0x33", nil},
		{"static, addresses not random", "0x33", []string{"-static"}},
		{"static-pie, addresses not random", "0x33", []string{"-static-pie"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			argv := []string{buildC(t, "gcc", v.flags...)}
			if strings.HasSuffix(v.name, "not random") {
				testkit.Need(t, "setarch")
				argv = append([]string{"setarch", "-R"}, argv...)
			}
			p := startLive(t, dir, []string{"FILTER=" + v.filter}, argv[0], argv[1:]...)
			p.settle(t, 4)
			maps := p.maps(t)
			want := coreLines(maps)
			mem := memories(t, p, maps)
			isMain := func(th CoreThread) bool { return th.ID == p.Process.Pid }
			core := p.Abort(t, pattern)
			for _, percent := range []int64{100, 90, 50, 10, 1} {
				info, err := os.Stat(core)
				if err != nil {
					t.Fatal(err)
				}
				size := info.Size()
				if percent < 100 {
					// Each is cut from the one before: 90, 50, 10, 1 of the whole.
					size = info.Size() * percent / map[int64]int64{90: 100, 50: 90, 10: 50, 1: 10}[percent]
				}
				for _, opt := range []CoreOptions{{}, {Open: openFile}} {
					c := openCore(t, core, size, opt)
					got := coreLines(c.plain(t))
					if size < 16384 {
						// Cut among the headers: what is there must be right.
						// Without the notes nothing has a name.
						for i := range got {
							if !strings.HasPrefix(want[i], got[i][:strings.Index(got[i], " 0x")]) {
								t.Errorf("%d%%: %s, not %s", percent, got[i], want[i])
							}
						}
					} else if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%d%%: %s", percent, diff)
					}
					checkMemory(t, c, mem)
					if percent == 100 && (len(c.Threads) != 4 || !slices.ContainsFunc(c.Threads, isMain)) {
						t.Errorf("threads %v of process %d", c.Threads, p.Process.Pid)
					}
					for _, th := range c.Threads {
						if i := c.at(th.SP); !th.HasSP || i < 0 || !c.Mappings[i].Perm.Is(vm.Write) {
							t.Errorf("thread %+v", th)
						}
					}
					if percent == 100 && opt.Open != nil && v.filter == "0x33" {
						for _, f := range c.Files {
							if f.Err != nil && strings.HasPrefix(f.Path, "/usr/") {
								t.Errorf("%s: %v", f.Path, f.Err)
							}
						}
						for _, m := range c.Mappings {
							if m.Perm.Is(vm.Exec) && strings.HasPrefix(m.Name, "/") && m.Absent() > 0 {
								t.Errorf("%v %s: %d bytes absent", m.Range, m.Name, m.Absent())
							}
						}
					}
				}
			}
		})
	}
}

// heapProgram has a heap, or none, and may have other memory where a heap could be.
const heapProgram = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
extern char end;
static char bss[300000];

static void map(char *at) {
  char *p = mmap(at, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (p != at) _exit(3);
  strcpy(p, "not the heap");
}

/* Field 47 of proc_pid_stat(5), start_brk; stdio and strtoul would make a heap. */
static char *start_brk(void) {
  char text[4096], *p = text;
  text[read(open("/proc/self/stat", O_RDONLY), text, sizeof text - 1)] = 0;
  for (int i = 1; i < 47; i++) p = strchr(p, ' ') + 1;
  unsigned long v = 0;
  for (; *p >= '0' && *p <= '9'; p++) v = v * 10 + *p - '0';
  return (char *)((v + PAGE - 1) & -PAGE);
}

int main(void) {
  char *brk = start_brk();
  memset(bss, 1, sizeof bss);
#ifdef BETWEEN
  /* Between bss and heap, or where there is no room for it, behind the heap. */
  map(brk - &end > 64 * PAGE || brk < &end ? brk - 16 * PAGE : brk + (16 << 20));
#endif
#ifdef BELOW
  map(brk - 2 * PAGE);
#endif
#ifdef HEAP
  strcpy(malloc(5000), "text on the heap");
#endif
#ifdef SPLIT
  char *part = (char *)(((unsigned long)malloc(16 * PAGE) + PAGE - 1) & -PAGE);
  mprotect(part + PAGE, PAGE, PROT_NONE);
  mprotect(part + 3 * PAGE, PAGE, PROT_READ);
#endif
  write(1, "ready\n", 6);
  for (;;) pause();
}
`

// TestHeaps compares what cores call heap with what the kernel called so.
func TestHeaps(t *testing.T) {
	pattern := testkit.CorePattern(t)
	heaps := func(ms []vm.Mapping) []string {
		return coreLines(slices.DeleteFunc(slices.Clone(ms), func(m vm.Mapping) bool { return m.Name != "[heap]" }))
	}
	for _, build := range [][]string{nil, {"-no-pie"}, {"-static"}, {"-static-pie"}, {"-static", "-s"}, {"-s"}} {
		for _, has := range [][]string{{"-DHEAP"}, {"-DHEAP", "-DBETWEEN"}, {"-DBETWEEN"}, {}, {"-DHEAP", "-DSPLIT"}, {"-DHEAP", "-DBELOW"}} {
			for _, random := range []bool{true, false} {
				below := slices.Contains(has, "-DBELOW")
				if below && !random {
					continue // bss is there
				}
				flags := slices.Concat(build, has)
				t.Run(fmt.Sprintf("%s, random %t", strings.Join(flags, " "), random), func(t *testing.T) {
					t.Parallel()
					argv := []string{testkit.BuildText(t, "gcc", "prog.c", heapProgram, append([]string{"-w"}, flags...)...)}
					if !random {
						testkit.Need(t, "setarch")
						argv = append([]string{"setarch", "-R"}, argv...)
					}
					p := startLive(t, t.TempDir(), []string{"FILTER=0x33"}, argv[0], argv[1:]...)
					maps := p.maps(t)
					want := heaps(maps)
					core := p.Abort(t, pattern)
					for _, opt := range []CoreOptions{{}, {Open: openFile}} {
						c := openCore(t, core, -1, opt)
						ms := c.plain(t)
						got := heaps(ms)
						// The files say it, but for a static program's without symbols.
						if opt.Open != nil && !slices.Equal(build, []string{"-static", "-s"}) && !slices.Equal(got, want) {
							t.Errorf("got %q, want %q", got, want)
						}
						// Without files, all that is where a heap may be is one memory.
						none := opt.Open == nil && len(want) == 0
						for _, line := range got {
							if !none && !slices.Contains(want, line) {
								t.Errorf("%s is not among %q, files: %t", line, want, opt.Open != nil)
							}
						}
						for _, m := range ms {
							if m.Derived != (m.Name == "[heap]" || strings.HasPrefix(m.Name, "[vvar")) {
								t.Errorf("%v %s is derived: %t", m.Range, m.Name, m.Derived)
							}
						}
					}
				})
			}
		}
	}
}

// goProgram resets SIGABRT, which Go's runtime would handle.
const goProgram = `package main

import (
	"os"
	"syscall"
	"unsafe"
)

func main() {
	var action [4]uint64
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGABRT), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	os.Stdout.WriteString("ready\n")
	select {}
}

func init() { go func() { b := []byte{0}; os.Stdin.Read(b); select {} }() }
`

func TestGoCore(t *testing.T) {
	pattern := testkit.CorePattern(t)
	testkit.Need(t, "go")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "prog.go"), []byte(goProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", "prog", "prog.go")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	p := startLive(t, dir, nil, filepath.Join(dir, "prog"))
	maps := p.maps(t)
	core := p.Abort(t, pattern)
	c := openCore(t, core, -1, CoreOptions{Open: openFile})
	if diff := cmp.Diff(coreLines(maps), coreLines(c.plain(t))); diff != "" {
		t.Error(diff)
	}
	for _, m := range c.Mappings {
		if m.Name == p.exe && m.Absent() > 0 {
			t.Errorf("%v %v: %d bytes absent", m.Range, m.Perm, m.Absent())
		}
	}
}

// TestOtherExecutable replaces the program after the crash.
func TestOtherExecutable(t *testing.T) {
	pattern := testkit.CorePattern(t)
	dir := t.TempDir()
	p := startLive(t, dir, []string{"FILTER=0x33"}, buildC(t, "gcc"))
	want := coreLines(p.maps(t))
	core := p.Abort(t, pattern)
	if err := os.Rename(buildC(t, "gcc", "-O2"), p.exe); err != nil {
		t.Fatal(err)
	}
	c := openCore(t, core, -1, CoreOptions{Open: openFile})
	if diff := cmp.Diff(want, coreLines(c.plain(t))); diff != "" {
		t.Error(diff)
	}
	for _, f := range c.Files {
		if f.Path == p.exe && (f.Err == nil || !strings.Contains(f.Err.Error(), "build-id")) {
			t.Errorf("%s: %v", f.Path, f.Err)
		}
	}
	for _, m := range c.Mappings {
		if m.Name == p.exe && m.FromFile > 0 {
			t.Errorf("%v: %d bytes from another file", m.Range, m.FromFile)
		}
	}
}

// TestPatchedExecutable patches the program after the crash in the one page of it
// that the core has too.
func TestPatchedExecutable(t *testing.T) {
	pattern := testkit.CorePattern(t)
	p := startLive(t, t.TempDir(), []string{"FILTER=0x33"}, buildC(t, "gcc"))
	core := p.Abort(t, pattern)
	file, err := os.ReadFile(p.exe)
	if err != nil {
		t.Fatal(err)
	}
	lacks := func() (fromFile uint64, use error) {
		c := openCore(t, core, -1, CoreOptions{Open: openFile})
		for _, m := range c.Mappings {
			if m.Name == p.exe {
				fromFile += m.FromFile
			}
		}
		for _, f := range c.Files {
			if f.Path == p.exe {
				use = f.Err
			}
		}
		return fromFile, use
	}
	if n, err := lacks(); n == 0 || err != nil {
		t.Fatalf("%d bytes from the program's file, %v", n, err)
	}
	file[0xfff] ^= 1
	if err := os.WriteFile(p.exe, file, 0o700); err != nil {
		t.Fatal(err)
	}
	if n, err := lacks(); n != 0 || err == nil || !strings.Contains(err.Error(), "byte at offset 0xfff") {
		t.Errorf("%d bytes from the patched file, %v", n, err)
	}
}

// TestGDBCore reads what gcore writes. It keeps no read permission and leaves
// out what nobody wrote to.
func TestGDBCore(t *testing.T) {
	testkit.Need(t, "gdb")
	dir := t.TempDir()
	p := startLive(t, dir, []string{"FILTER=0x33"}, buildC(t, "gcc"))
	p.settle(t, 4)
	maps := p.maps(t)
	mem := memories(t, p, maps)
	core := filepath.Join(dir, "gdb.core")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "gdb", "-nx", "-batch", "-p", strconv.Itoa(p.Process.Pid), "-ex", "gcore "+core, "-ex", "detach").CombinedOutput()
	if _, staterr := os.Stat(core); staterr != nil {
		testkit.Missing(t, "gcore: %v, %s", err, out)
	}
	c := openCore(t, core, -1, CoreOptions{Open: openFile})
	live := map[vm.Range]vm.Mapping{}
	for _, m := range maps {
		live[m.Range] = m
	}
	for _, m := range c.Mappings {
		l, ok := live[m.Range]
		if !ok || l.Offset != m.Offset || l.Name != m.Name {
			t.Errorf("%v %v %s, not %v %v %s", m.Range, m.Perm, m.Name, l.Range, l.Perm, l.Name)
		}
		for _, bit := range []vm.Perm{vm.Read, vm.Write, vm.Exec} {
			if m.Perm.Knows(bit) && m.Perm.Is(bit) != l.Perm.Is(bit) {
				// What GDB left out has the permissions of its segment, and RELRO
				// is written.
				t.Errorf("%v %s: %v, not %v", m.Range, m.Name, m.Perm, l.Perm)
			}
		}
		delete(live, m.Range)
	}
	for _, m := range live {
		if m.Perm.Is(vm.Write) || strings.HasPrefix(m.Name, "/") {
			t.Errorf("%v %v %s is missing", m.Range, m.Perm, m.Name)
		}
	}
	checkMemory(t, c, mem)
	if len(c.Threads) != 4 {
		t.Errorf("threads %v", c.Threads)
	}
}
