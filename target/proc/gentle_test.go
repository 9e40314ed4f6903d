package proc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// kinds is a running testdata/kinds.c.
type kinds struct {
	*testkit.Program
	pid     int // of what is looked at
	at      map[string]uint64
	missing []string // what this machine has not
}

// startKinds starts the program. It does not fail the test, so that it can be used
// in testkit.InMountNamespace.
func startKinds(t testing.TB, program string, args ...string) *kinds {
	t.Helper()
	k := &kinds{at: map[string]uint64{}}
	k.Program = testkit.Start(t, exec.Command(program, args...), func(line string) bool {
		name, value, _ := strings.Cut(line, " ")
		switch name {
		case "ready":
			return true
		case "missing":
			k.missing = append(k.missing, value)
		case "pid":
			k.pid, _ = strconv.Atoi(value)
		default:
			k.at[name], _ = strconv.ParseUint(value, 0, 64)
		}
		return false
	})
	if k.pid == 0 {
		k.pid = k.Process.Pid
	}
	testkit.WaitFor(t, "the program to wait", func() bool { return testkit.State(k.pid) == "S" })
	return k
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pieces are the mappings of what the program has printed, ascending.
func (k *kinds) pieces(t testing.TB) []vm.Mapping {
	t.Helper()
	all, err := ParseMaps([]byte(readFile(t, Path(k.pid, "maps"))))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(m vm.Mapping) bool {
		for _, at := range k.at {
			if m.Contains(at) {
				return false
			}
		}
		return true
	})
}

// piece is the mapping at a name.
func (k *kinds) piece(t testing.TB, name string) vm.Mapping {
	t.Helper()
	for _, m := range k.pieces(t) {
		if m.Contains(k.at[name]) {
			return m
		}
	}
	t.Fatalf("nothing is mapped at %s", name)
	return vm.Mapping{}
}

// cost is what a process takes of the machine, by the kernel's names.
type cost map[string]uint64

// costOf is the sum over its mappings that keep holds for, and what the kernel counts
// for the whole process.
func costOf(t testing.TB, pid int, keep func(vm.Mapping) bool) cost {
	t.Helper()
	c := cost{}
	var in bool
	for line := range strings.Lines(readFile(t, Path(pid, "smaps"))) {
		name, value, _ := strings.Cut(line, ":")
		if ms, err := ParseMaps([]byte(line)); err == nil {
			in = keep(ms[0])
			continue
		}
		var kb uint64
		// Referenced is set by every look, GDB's too, and means nothing to the process.
		if n, _ := fmt.Sscanf(value, "%d kB", &kb); n == 1 && in && name != "Referenced" && !strings.HasSuffix(name, "PageSize") {
			c[name] += kb
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^(VmPTE|VmSwap|RssAnon|RssFile|RssShmem):\s*(\d+) kB$`).FindAllStringSubmatch(readFile(t, Path(pid, "status")), -1) {
		c[m[1]], _ = strconv.ParseUint(m[2], 10, 64)
	}
	stat := readFile(t, Path(pid, "stat"))
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // from the third on, proc_pid_stat(5)
	for name, i := range map[string]int{"minflt": 10, "majflt": 12} {
		c[name], _ = strconv.ParseUint(f[i-3], 10, 64)
	}
	if text, err := os.ReadFile(Path(pid, "ksm_stat")); err == nil {
		for _, m := range regexp.MustCompile(`(?m)^(\w+) (\d+)$`).FindAllStringSubmatch(string(text), -1) {
			c[m[1]], _ = strconv.ParseUint(m[2], 10, 64)
		}
	}
	return c
}

// frames are the entries of the pagemap for mappings: where each page is.
func (k *kinds) frames(t testing.TB, ms []vm.Mapping) []uint64 {
	t.Helper()
	f, err := os.Open(Path(k.pid, "pagemap"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []uint64
	for _, m := range ms {
		b := make([]byte, m.Size/4096*8)
		if _, err := f.ReadAt(b, int64(m.Start/4096*8)); err != nil {
			t.Fatal(err)
		}
		for ; len(b) > 0; b = b[8:] {
			all = append(all, binary.NativeEndian.Uint64(b))
		}
	}
	return all
}

// looks are the ways in which memory is read, but for ReadMemory, which reads what it
// is told to.
func looks(t *testing.T, k *kinds) map[string]func() {
	ms := k.pieces(t)
	matcher, err := search.NewBytes([]byte("QZQZQZ#!"))
	if err != nil {
		t.Fatal(err)
	}
	find := func(best PopulatedBy) *search.Result {
		r, err := search.Scan(t.Context(), openMemory(t, k.pid, best), ms, search.Options{Matcher: matcher, Workers: 2})
		if err != nil || r.Partial != nil {
			t.Fatalf("%+v, %v", r, err)
		}
		return r
	}
	refine := func(o search.RefineOptions) func() {
		return func() {
			before := find(PopulatedByScan)
			r, err := search.Refine(t.Context(), openMemory(t, k.pid, PopulatedByScan), ms, search.TakeSnapshot(before), o)
			if err != nil || r.Partial != nil || r.Count != before.Count {
				t.Fatalf("%d hits, then %+v, %v", before.Count, r, err)
			}
		}
	}
	return map[string]func(){
		"scan":           func() { find(PopulatedByScan) },
		"scan, pagemap":  func() { find(PopulatedByPagemap) },
		"refine by text": refine(search.RefineOptions{Matcher: matcher}),
		"refine":         refine(search.RefineOptions{Change: search.Unchanged}),
		"peek": func() {
			p := openMemory(t, k.pid, PopulatedByScan)
			p.LeaveSwapped(true)
			b := make([]byte, 1<<20)
			for _, m := range ms {
				for off := uint64(0); off < m.Size; {
					n, err := p.Peek(t.Context(), m, b[:min(uint64(len(b)), m.Size-off)], m.Start+off)
					if off += uint64(n); err != nil || n == 0 {
						off = off&^4095 + 4096
					}
				}
			}
		},
	}
}

// TestLookingChangesNothing has the kernel count what a process takes before and
// after each way to look at it.
func TestLookingChangesNothing(t *testing.T) {
	program := testkit.BuildC(t, "kinds")
	text := bytes.Repeat([]byte("0123456789abcde\n"), 1<<20/16)
	for i := 0; i < len(text); i += 64 << 10 {
		copy(text[i:], "QZQZ"+"QZ#!")
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, text, 0o600); err != nil {
		t.Fatal(err)
	}
	settle(t, plain)
	start := func(args ...string) func(t *testing.T) *kinds {
		return func(t *testing.T) *kinds { return startKinds(t, program, args...) }
	}
	for _, kind := range []struct {
		name  string
		start func(t *testing.T) *kinds // nil where this machine cannot; it is logged why
		// must not be 0, so that there is something to change
		must []string
	}{
		{"fork", start("fork"), []string{"Shared_Dirty"}},
		{"huge pages after fork", start("forkhuge"), []string{"Shared_Dirty"}},
		{"halves of a huge page", start("forkhalf"), []string{"Private_Dirty"}},
		{"in a pipe after fork", start("spliced"), []string{"Private_Dirty"}},
		{"KSM", func(t *testing.T) *kinds { return startMerged(t, program) }, []string{"ksm_merging_pages"}},
		{"KSM, one user", func(t *testing.T) *kinds {
			k := startMerged(t, program)
			if k != nil {
				fmt.Fprintln(k.Stdin, "drop")
				if line, err := k.Stdout.ReadString('\n'); line != "dropped\n" {
					t.Fatal(line, err)
				}
				delete(k.at, "second")
			}
			return k
		}, []string{"ksm_merging_pages"}},
		{"shared memory", start("shared"), nil},
		{"hugetlb", func(t *testing.T) *kinds {
			if !hugePages(t, 8) {
				return nil
			}
			return startKinds(t, program, "hugetlb")
		}, nil},
		{"file", start("file", plain), []string{"Rss", "Private_Dirty"}},
		{"FUSE", func(t *testing.T) (k *kinds) {
			testkit.InMountNamespace(t, func() error {
				dir := t.TempDir()
				if _, err := testkit.NewFUSE(t, dir, text); err != nil {
					return err
				}
				k = startKinds(t, program, "file", filepath.Join(dir, "file"))
				return nil
			})
			return k
		}, []string{"Rss", "Private_Dirty"}},
		{"swap", func(t *testing.T) *kinds {
			if !testkit.Swap(t, 64<<20) {
				return nil
			}
			return startKinds(t, program, "swap", plain)
		}, []string{"Swap", "VmSwap"}},
		{"userfaultfd, missing", start("uffdmissing"), []string{"Rss"}},
		{"userfaultfd, write-protected", start("uffdwp"), []string{"Rss"}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			if kind.start == nil {
				return
			}
			k := kind.start(t)
			if k == nil {
				return
			}
			if len(k.missing) > 0 {
				t.Logf("left out: this kernel has no %v", k.missing)
				return
			}
			ms := k.pieces(t)
			keep := func(m vm.Mapping) bool {
				return slices.ContainsFunc(ms, func(o vm.Mapping) bool { return o.Start == m.Start })
			}
			first := costOf(t, k.pid, keep)
			for _, name := range kind.must {
				if first[name] == 0 {
					t.Fatalf("%s is 0: the kernel has not made it so", name)
				}
			}
			ways := looks(t, k)
			for _, way := range slices.Sorted(maps.Keys(ways)) {
				before, frames := costOf(t, k.pid, keep), k.frames(t, ms)
				ways[way]()
				after := costOf(t, k.pid, keep)
				for _, name := range slices.Sorted(maps.Keys(before)) {
					if before[name] != after[name] {
						t.Errorf("%s: %s from %d to %d", way, name, before[name], after[name])
					}
				}
				moved := 0
				for i, e := range k.frames(t, ms) {
					if e != frames[i] {
						moved++
					}
				}
				if moved > 0 {
					t.Errorf("%s: %d of %d pages are others now", way, moved, len(frames))
				}
			}
			var row []string
			for _, name := range slices.Sorted(maps.Keys(first)) {
				if n := first[name]; n > 0 {
					row = append(row, fmt.Sprintf("%s %d", name, n))
				}
			}
			t.Logf("before: %s", strings.Join(row, ", "))
		})
	}
}

// startMerged starts the program, and has the kernel merge the pages of both pieces.
func startMerged(t *testing.T, program string) *kinds {
	t.Helper()
	const dir = "/sys/kernel/mm/ksm/"
	set := func(name, value string) (old string, err error) {
		text, err := os.ReadFile(dir + name)
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(text)), os.WriteFile(dir+name, []byte(value), 0)
	}
	for _, s := range [][2]string{{"pages_to_scan", "100000"}, {"sleep_millisecs", "1"}, {"run", "1"}} {
		old, err := set(s[0], s[1])
		if err != nil {
			t.Logf("left out: KSM, which this user cannot switch on: %v", err)
			return nil
		}
		t.Cleanup(func() { _, _ = set(s[0], old) }) // as it was written before
	}
	k := startKinds(t, program, "ksm")
	testkit.WaitFor(t, "KSM to merge pages", func() bool {
		merged, _ := strconv.Atoi(strings.TrimSpace(readFile(t, Path(k.pid, "ksm_merging_pages"))))
		return merged >= 2000 // of 2048
	})
	// It must not go on while it is watched.
	if _, err := set("run", "0"); err != nil {
		t.Fatal(err)
	}
	return k
}

// hugePages has the kernel keep so many huge pages more for the time of the test.
func hugePages(t *testing.T, n int) bool {
	t.Helper()
	const path = "/proc/sys/vm/nr_hugepages"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Logf("left out: huge pages: %v", err)
		return false
	}
	old, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := os.WriteFile(path, fmt.Append(nil, old+n), 0); err != nil {
		t.Logf("left out: huge pages, which this user cannot have kept: %v", err)
		return false
	}
	t.Cleanup(func() { _ = os.WriteFile(path, text, 0) }) // as it was written before
	return true
}
