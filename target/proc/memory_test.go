package proc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// procmem is a running testdata/procmem.c.
type procmem struct {
	*testkit.Program
	at map[string]uint64 // what it printed
}

func startProcmem(t testing.TB, args ...string) *procmem {
	t.Helper()
	p := &procmem{at: map[string]uint64{}}
	program := testkit.BuildC(t, "procmem")
	settle(t, program)
	cmd := exec.Command(program, args...)
	p.Program = testkit.Start(t, cmd, func(line string) bool {
		if line == "ready" {
			return true
		}
		name, value, _ := strings.Cut(line, " ")
		n, err := strconv.ParseInt(value, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		p.at[name] = uint64(n)
		return false
	})
	return p
}

// settle writes a file to its disk: else the kernel does so at some time, and pages of
// it that are mapped become clean.
func settle(t testing.TB, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func (p *procmem) file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.Process.Pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (p *procmem) mappings(t testing.TB) []vm.Mapping {
	t.Helper()
	ms, err := ParseMaps(p.file(t, "maps"))
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

// footprint is everything that a search must not change.
func (p *procmem) footprint(t testing.TB) string {
	t.Helper()
	lines := regexp.MustCompile(`(?m)^(VmPTE|VmRSS|RssAnon|RssFile|RssShmem|VmSwap):.*$`).FindAll(p.file(t, "status"), -1)
	// Where there are many CPUs status may be off by some pages; smaps is exact.
	lines = append(lines, regexp.MustCompile(`(?m)^([0-9a-f]+-.*|(Rss|Pss_Dirty|Anonymous|Swap):.*)$`).FindAll(p.file(t, "smaps"), -1)...)
	lines = append(lines, p.file(t, "maps"))
	return string(bytes.Join(lines, []byte("\n")))
}

func openMemory(t testing.TB, pid int, best PopulatedBy) *Memory {
	t.Helper()
	pm, err := OpenMemory(pid, Options{Best: best})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pm.Close() })
	return pm
}

// oracle reads mappings page by page and searches what it got.
func (p *procmem) oracle(t testing.TB, ms []vm.Mapping, needle []byte) (hits []uint64, unread []search.Unread, size uint64) {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var (
		text  []byte
		start uint64
	)
	flush := func() {
		for i := 0; ; i++ {
			n := bytes.Index(text[i:], needle)
			if n < 0 {
				break
			}
			i += n
			hits = append(hits, start+uint64(i))
		}
		text = nil
	}
	for i, m := range ms {
		for at := m.Start; m.Contains(at); at += 4096 {
			var page [4096]byte
			if start+uint64(len(text)) != at {
				flush()
				start = at
			}
			if n, err := mem.ReadAt(page[:], int64(at)); n != len(page) {
				if !errors.Is(err, io.EOF) && err == nil {
					t.Fatal(err)
				}
				flush()
				if k := len(unread); k > 0 && unread[k-1].Mapping == i && unread[k-1].Last()+1 == at {
					unread[k-1].Size += 4096
				} else {
					unread = append(unread, search.Unread{Range: vm.Range{Start: at, Size: 4096}, Mapping: i})
				}
				start = at + 4096
				continue
			}
			text = append(text, page[:]...)
			size += 4096
		}
	}
	flush()
	return hits, unread, size
}

func addresses(r *search.Result) []uint64 {
	var all []uint64
	for _, h := range r.Hits.All() {
		all = append(all, h.Address)
	}
	return all
}

func scan(t testing.TB, pm *Memory, ms []vm.Mapping, needle []byte, o search.Options) *search.Result {
	t.Helper()
	var err error
	if o.Matcher, err = search.NewBytes(needle); err != nil {
		t.Fatal(err)
	}
	r, err := search.Scan(t.Context(), pm, ms, o)
	if err != nil || r.Partial != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	return r
}

func TestScanProcess(t *testing.T) {
	p := startProcmem(t)
	all := p.mappings(t)
	// The oracle cannot read all of the sparse mapping.
	small := slices.DeleteFunc(slices.Clone(all), func(m vm.Mapping) bool { return m.Size > 1<<30 })
	before := p.footprint(t)
	type key struct {
		needle string
		best   PopulatedBy
		chunk  int
	}
	needles := []string{"QZQZQZ#!", "QZ", "\x7fELF", "\x00\x00\x00QZ", strings.Repeat("\x00", 4095) + "Q", "#!" + strings.Repeat("\x00", 30)}
	got := map[key]*search.Result{}
	for _, n := range needles {
		for _, best := range []PopulatedBy{PopulatedByScan, PopulatedByPagemap} {
			for _, chunk := range []int{0, 4096, 64 << 10} {
				pm := openMemory(t, p.Process.Pid, best)
				got[key{n, best, chunk}] = scan(t, pm, small, []byte(n), search.Options{Chunk: chunk, Workers: 2})
				if notes := pm.Notes(); os.Geteuid() == 0 && len(notes) > 0 {
					t.Errorf("notes %v", notes)
				}
			}
		}
	}
	for _, best := range []PopulatedBy{PopulatedByScan, PopulatedByPagemap} {
		pm := openMemory(t, p.Process.Pid, best)
		if r := scan(t, pm, all, []byte("QZQZQZ#!"), search.Options{Workers: 2}); r.Count != got[key{"QZQZQZ#!", best, 0}].Count+17 {
			t.Errorf("%d hits with the sparse mapping, %d without", r.Count, got[key{"QZQZQZ#!", best, 0}].Count)
		}
	}
	if after := p.footprint(t); after != before {
		t.Errorf("the search changed the process (-before +after):\n%s", cmp.Diff(before, after))
	}
	if p.at["guarded"] != 0 {
		t.Log("this kernel has no guard pages")
	}
	for _, n := range needles {
		hits, unread, size := p.oracle(t, small, []byte(n))
		if len(hits) == 0 {
			t.Errorf("%q: the oracle finds nothing", n)
		}
		for k, r := range got {
			if k.needle != n {
				continue
			}
			if d := cmp.Diff(hits, addresses(r)); d != "" {
				t.Errorf("%+v: hits (-want +got):\n%s", k, d)
			}
			if d := cmp.Diff(unread, r.Unread); d != "" {
				t.Errorf("%+v: unread (-want +got):\n%s", k, d)
			}
			if r.SearchedBytes != size || len(r.Notes) > 0 {
				t.Errorf("%+v: searched %d bytes, want %d; notes %v", k, r.SearchedBytes, size, r.Notes)
			}
		}
	}
}

func TestScanProcessZeros(t *testing.T) {
	p := startProcmem(t)
	all := p.mappings(t)
	i := slices.IndexFunc(all, func(m vm.Mapping) bool { return m.Contains(p.at["sparse"]) })
	before := p.footprint(t)
	for _, best := range []PopulatedBy{PopulatedByScan, PopulatedByPagemap} {
		r := scan(t, openMemory(t, p.Process.Pid, best), all[i:i+1], make([]byte, 16), search.Options{CountOnly: true})
		// Of each place but the last 15 all but those that see a needle: 17 of
		// them, of which the first has only its own 8 bytes.
		if want := uint64(256<<30) - 15 - 8 - 16*(8+15); all[i].Size == 256<<30 && r.Count != want {
			t.Errorf("%d hits, want %d", r.Count, want)
		}
	}
	if after := p.footprint(t); after != before {
		t.Errorf("the search changed the process (-before +after):\n%s", cmp.Diff(before, after))
	}
}

func TestPopulatedLevelsAgree(t *testing.T) {
	p := startProcmem(t)
	scan, pagemap := openMemory(t, p.Process.Pid, PopulatedByScan), openMemory(t, p.Process.Pid, PopulatedByPagemap)
	for _, m := range p.mappings(t) {
		if !m.Anonymous() {
			continue
		}
		// Not at page boundaries, and with little room for the answer.
		r := vm.Range{Start: m.Start + 1, Size: min(m.Size, 1<<30) - 2}
		want, got := extents(t, scan, r, 100), extents(t, pagemap, r, 3)
		if p.at["guarded"] != 0 || m.Contains(p.at["guard"]) {
			// Kernels before 6.15 tell of guard pages in neither, and those
			// before 6.16 in one.
			for _, e := range [2][]vm.Extent{want, got} {
				for i := range e {
					e[i].Unreadable = false
				}
			}
		}
		if d := cmp.Diff(join(want), join(got), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%v: (-scan +pagemap):\n%s", m.Range, d)
		}
	}
	pm := openMemory(t, p.Process.Pid, PopulatedByNothing)
	if _, _, err := pm.Populated(t.Context(), vm.Range{Start: p.at["zeros"], Size: 4096}, make([]vm.Extent, 1)); err == nil {
		t.Error("no error where asking is switched off")
	}
}

// extents asks for all of r.
func extents(t *testing.T, pm *Memory, r vm.Range, room int) (all []vm.Extent) {
	t.Helper()
	for r.Size > 0 {
		into := make([]vm.Extent, room)
		n, known, err := pm.Populated(t.Context(), r, into)
		if err != nil || known == 0 || known > r.Size {
			t.Fatalf("%v: %d, %d, %v", r, n, known, err)
		}
		all = append(all, into[:n]...)
		r = vm.Range{Start: r.Start + known, Size: r.Size - known}
	}
	return all
}

// join merges adjacent extents.
func join(es []vm.Extent) (all []vm.Extent) {
	for _, e := range es {
		if n := len(all); n > 0 && all[n-1].Unreadable == e.Unreadable && all[n-1].Last()+1 == e.Start {
			all[n-1].Size += e.Size
		} else {
			all = append(all, e)
		}
	}
	return all
}

func TestEntryKind(t *testing.T) {
	with, without := &Memory{swaps: true}, &Memory{}
	for entry, want := range map[uint64][2]pageState{ // on a machine with swap, and on one without
		0:                              {pageAbsent, pageAbsent},
		pmUffdWP:                       {pageAbsent, pageAbsent},
		pmPresent:                      {pagePresent, pagePresent},
		pmPresent | pmGuard:            {pagePresent, pagePresent},
		pmPresent | pmUffdWP:           {pagePresent, pagePresent},
		pmPresent | 7:                  {pageAbsent, pageAbsent},
		pmSwapped | 5:                  {pageSwapped, pagePresent},
		pmSwapped | pmUffdWP:           {pageSwapped, pageSwapped},
		pmSwapped | pmGuard:            {pageGuard, pageGuard},
		pmSwapped | pmGuard | pmUffdWP: {pageGuard, pageGuard},
	} {
		if got := [2]pageState{with.entryKind(entry, 7), without.entryKind(entry, 7)}; got != want {
			t.Errorf("%#x: %v, want %v", entry, got, want)
		}
	}
	if got := without.entryKind(pmPresent, 0); got != pagePresent {
		t.Errorf("hidden frame: %v", got)
	}
}

func TestProcessGone(t *testing.T) {
	for _, how := range []string{"killed", "exec", "exited"} {
		t.Run(how, func(t *testing.T) {
			p := startProcmem(t)
			ms := p.mappings(t)
			pm := openMemory(t, p.Process.Pid, PopulatedByScan)
			old := openMemory(t, p.Process.Pid, PopulatedByPagemap)
			b := make([]byte, 8)
			if n, err := pm.ReadMemory(t.Context(), b, p.at["zeros"]); n != 8 || err != nil {
				t.Fatal(n, err)
			}
			needle, _ := search.NewBytes([]byte("QZQZQZ#!"))
			over := false
			r, err := search.Scan(t.Context(), pm, ms, search.Options{Matcher: needle, Chunk: 4096, Progress: func(done, total uint64) {
				if over || done < 1<<16 {
					return
				}
				over = true
				switch how {
				case "killed":
					p.Process.Kill()
					p.Process.Wait()
				case "exited":
					p.Stdin.Close()
					p.Process.Wait()
				case "exec":
					io.WriteString(p.Stdin, "exec\nyes\n")
					if line, err := p.Stdout.ReadString('\n'); line != "yes\n" { // cat runs
						t.Error(line, err)
					}
				}
			}})
			if err != nil || !errors.Is(r.Partial, vm.ErrProcessGone) {
				t.Errorf("partial %v, %v", r.Partial, err)
			}
			for _, pm := range []*Memory{pm, old} {
				if n, err := pm.ReadMemory(t.Context(), b, p.at["zeros"]); n != 0 || !errors.Is(err, vm.ErrProcessGone) {
					t.Errorf("read %d, %v", n, err)
				}
				if _, _, err := pm.Populated(t.Context(), vm.Range{Start: p.at["sparse"], Size: 1 << 30}, make([]vm.Extent, 9)); !errors.Is(err, vm.ErrProcessGone) {
					t.Errorf("populated: %v", err)
				}
				for _, m := range ms {
					if n, err := pm.ReadMapping(t.Context(), m, b, m.Start); n != 0 || err == nil {
						t.Errorf("read of %v: %d, %v", m, n, err)
					}
				}
			}
		})
	}
	p := startProcmem(t)
	p.Process.Kill()
	p.Process.Wait()
	if pm, err := OpenMemory(p.Process.Pid, Options{}); !errors.Is(err, vm.ErrProcessGone) {
		t.Errorf("%v, %v", pm, err)
	}
}

func TestScanRemappedProcess(t *testing.T) {
	// What is gone is unread, and nothing is read that is not asked for.
	p := startProcmem(t)
	ms := p.mappings(t)
	i := slices.IndexFunc(ms, func(m vm.Mapping) bool { return m.Contains(p.at["file"]) })
	m := ms[i]
	m.Start -= 1 << 40 // where nothing is
	r := scan(t, openMemory(t, p.Process.Pid, PopulatedByScan), []vm.Mapping{m}, []byte("QZQZQZ#!"), search.Options{})
	if r.Count != 0 || r.SearchedBytes != 0 || len(r.Unread) != 1 || r.Unread[0].Range != m.Range {
		t.Errorf("%+v", r)
	}
}

func TestReadMemoryStops(t *testing.T) {
	p := startProcmem(t)
	pm := openMemory(t, p.Process.Pid, PopulatedByScan)
	b := make([]byte, 4*4096)
	n, err := pm.ReadMemory(t.Context(), b, p.at["tail"]+4096)
	if n != 4096 || err == nil || errors.Is(err, vm.ErrProcessGone) || !strings.Contains(err.Error(), fmt.Sprintf("%#x", p.at["tail"]+2*4096)) {
		t.Errorf("past the end of a file: %d, %v", n, err)
	}
	if !bytes.Equal(b[92:100], []byte("QZQZQZ#!")) {
		t.Errorf("%q", b[92:100])
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := pm.ReadMemory(cancelled, b, p.at["guard"]); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %d, %v", n, err)
	}
	for _, name := range []string{"none", "writeonly", "execonly"} {
		if n, err := pm.ReadMemory(t.Context(), b, p.at[name]); n != len(b) || err != nil || !bytes.Contains(b, []byte("QZQZQZ#!")) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

// BenchmarkScanProcess searches 1 GiB of random bytes of another process.
func BenchmarkScanProcess(b *testing.B) {
	p := startProcmem(b, "1024")
	ms := slices.DeleteFunc(p.mappings(b), func(m vm.Mapping) bool { return m.Size < 1<<30 })
	for _, workers := range []int{1, 2} {
		for _, chunk := range []int{64 << 10, 128 << 10, 256 << 10} {
			b.Run(fmt.Sprintf("workers=%d/chunk=%dK", workers, chunk>>10), func(b *testing.B) {
				pm := openMemory(b, p.Process.Pid, PopulatedByScan)
				b.SetBytes(int64(ms[0].Size))
				for b.Loop() {
					scan(b, pm, ms, []byte("a needle in a haystack"), search.Options{Workers: workers, Chunk: chunk})
				}
			})
		}
	}
}

// BenchmarkScanOwn is the limit: the same bytes in our own memory.
func BenchmarkScanOwn(b *testing.B) {
	own := make([]byte, 1<<30)
	x := uint64(88172645463325252)
	for i := 0; i < len(own); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(own[i:], x)
	}
	b.SetBytes(int64(len(own)))
	for b.Loop() {
		if bytes.Contains(own, []byte("a needle in a haystack")) {
			b.Fatal("found")
		}
	}
}

// BenchmarkScanSparse searches 256 GiB of which 17 pages exist.
func BenchmarkScanSparse(b *testing.B) {
	p := startProcmem(b)
	ms := slices.DeleteFunc(p.mappings(b), func(m vm.Mapping) bool { return !m.Contains(p.at["sparse"]) })
	for name, best := range map[string]PopulatedBy{"scan": PopulatedByScan, "pagemap": PopulatedByPagemap} {
		b.Run(name, func(b *testing.B) {
			pm := openMemory(b, p.Process.Pid, best)
			for b.Loop() {
				if r := scan(b, pm, ms, []byte("QZQZQZ#!"), search.Options{}); r.Count != 17 {
					b.Fatal(r.Count)
				}
			}
		})
	}
}
