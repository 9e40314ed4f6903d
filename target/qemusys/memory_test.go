package qemusys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/pt"
	"dbgsh/target/gdb"
	"dbgsh/target/proc"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// hitsOf searches mappings, and is the addresses of the hits.
func (d *debuggee) hitsOf(mem vm.Memory, ms []vm.Mapping, needle string) (addrs []uint64, res *search.Result) {
	d.T.Helper()
	matcher, err := search.NewBytes([]byte(needle))
	if err != nil {
		d.T.Fatal(err)
	}
	res, err = search.Scan(d.Ctx, mem, ms, search.Options{Matcher: matcher, Workers: 2})
	if err != nil || res.Partial != nil {
		d.T.Fatal(err, res)
	}
	for _, h := range res.Hits.All() {
		addrs = append(addrs, h.Address)
	}
	return addrs, res
}

// What is searched for stands in a page that is mapped at many addresses, across
// two pages that follow each other at some of them, and where nothing maps it.
func TestSearchMachine(t *testing.T) {
	const needle = "<the needle>"
	tables := x86Tables()
	data := make([]byte, 0x5000) // from 0x200000 on
	copy(data[0x10:], needle)
	copy(data[0x1000-5:], needle)
	ram := &fakeImage{base: 0x200000, b: data}
	hidden := &fakeImage{base: 0xa43000, b: []byte(needle)}
	addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-cpu", "max", "-m", "16", "-S", "-device", tables.file(t), "-device", ram.file(t), "-device", hidden.file(t))
	wish := Auto
	d := connect(t, addr, &wish)
	d.fourLevels()
	m, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	// Not what the table outside RAM and those of 1 GiB lead to, and not all
	// that is alike.
	ms := slices.DeleteFunc(m.Mappings, func(r vm.Mapping) bool { return r.Size >= 1<<30 || r.Start>>63 != 0 })
	want := naiveHits(d, ms, needle)
	if len(want) < 12 {
		t.Errorf("GDB finds it at %x", want)
	}
	for _, only := range []bool{false, true} {
		d.throughStub(only)
		t.Run(fmt.Sprint("through the stub ", only), func(t *testing.T) {
			mem, err := d.Memory(d.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			got, res := d.hitsOf(mem, ms, needle)
			if !slices.Equal(got, want) {
				t.Errorf("found at %x, not at %x; %+v", got, want, res)
			}
			p, err := d.Physical(d.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			at, res := d.hitsOf(p, p.Map.Mappings, needle)
			if !slices.Equal(at, []uint64{0x200010, 0x200ffb, 0xa43000}) {
				t.Errorf("in physical memory at %x: %+v", at, res)
			}
			found := map[uint64][]uint64{} // by physical address
			for _, va := range got {
				path, err := d.PageWalk(d.Ctx, va, nil)
				if err != nil || path.End != pt.Mapped {
					t.Fatalf("%#x: %+v, %v", va, path, err)
				}
				found[path.Phys] = append(found[path.Phys], va)
			}
			for pa, want := range map[uint64][]uint64{0x200010: found[0x200010], 0xa43000: nil} {
				vas, all := p.MappedAt(pa, 1000)
				vas = slices.DeleteFunc(vas, func(va uint64) bool { return va>>63 != 0 })
				if !slices.Equal(vas, want) || pa == 0xa43000 && all != 0 || len(found[0x200010]) < 4 {
					t.Errorf("%#x is mapped at %x, found at %x", pa, vas, want)
				}
			}
			if mode := d.physMode(); mode != "0" {
				t.Errorf("physical mode is %s", mode)
			}
		})
	}
	d.throughStub(false)
	d.Lines("set $cr0=0x50033ULL")
	p, err := d.Physical(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	if vas, all := p.MappedAt(0x1234, 5); all != 1 || vas[0] != 0x1234 || len(p.Map.Notes) != 1 {
		t.Errorf("paging off: mapped at %x, %q", vas, p.Map.Notes)
	}
	d.Lines("kill")
}

// naiveHits looks at every place of what GDB reads, by QEMU's own translation.
func naiveHits(d *debuggee, ms []vm.Mapping, needle string) (addrs []uint64) {
	d.T.Helper()
	mem := gdb.NewMemory(d.GDB.GDB, true)
	var run []byte
	for i, m := range ms {
		b := make([]byte, m.Size)
		if n, err := mem.ReadMemory(d.Ctx, b, m.Start); err != nil || uint64(n) < m.Size {
			d.T.Fatalf("GDB reads %d bytes of %v, %v", n, m.Range, err)
		}
		if i == 0 || ms[i-1].Last()+1 != m.Start {
			run = nil
		}
		before := len(run)
		run = append(run, b...)
		for at := max(0, before-len(needle)+1); at < len(run); at++ {
			if bytes.HasPrefix(run[at:], []byte(needle)) {
				addrs = append(addrs, m.Start+uint64(at-before))
			}
		}
	}
	return addrs
}

// kiB is a value of /proc/PID/status.
func kiB(t testing.TB, pid int, name string) (n int) {
	t.Helper()
	text, err := os.ReadFile(proc.Path(pid, "status"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n"+name+":")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Looking at RAM gives QEMU no pages, whatever its RAM is made of.
func TestSearchMachineGently(t *testing.T) {
	for _, backend := range []string{"memory-backend-ram", "memory-backend-memfd"} {
		t.Run(backend, func(t *testing.T) {
			const at = 0x2345000
			data := &fakeImage{base: at, b: []byte("<the needle>")}
			addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-S", "-m", "256", "-object", backend+",id=m,size=256M", "-machine", "memory-backend=m", "-device", data.file(t))
			wish := Auto
			d := connect(t, addr, &wish)
			p, err := d.Physical(d.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			pid := d.machine().peer.PID
			before := []int{kiB(t, pid, "RssShmem"), kiB(t, pid, "RssAnon"), kiB(t, pid, "VmPTE")}
			if got, res := d.hitsOf(p, p.Map.Mappings, "<the needle>"); !slices.Equal(got, []uint64{at}) {
				t.Errorf("found at %x: %+v", got, res)
			}
			after := []int{kiB(t, pid, "RssShmem"), kiB(t, pid, "RssAnon"), kiB(t, pid, "VmPTE")}
			for i := range before { // QEMU works a little itself
				if after[i]-before[i] > 200 {
					t.Errorf("RssShmem, RssAnon and VmPTE were %d kB, and are %d", before, after)
				}
			}
		})
	}
}

// A page that cannot be read hides nothing before it; a QEMU that dies is no
// memory without hits; and a memory is read until it is closed itself.
func TestMachineMemoryEnds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ram")
	addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-S", "-m", "32", "-object", "memory-backend-file,id=m,size=32M,share=on,mem-path="+file, "-machine", "memory-backend=m")
	wish := Auto
	d := connect(t, addr, &wish)
	p, err := d.Physical(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	other, err := d.Memory(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 0x40000)
	if n, err := p.ReadMemory(d.Ctx, b, 0x1fc0000); n != len(b) || err != nil {
		t.Errorf("read %#x, %v", n, err)
	}
	if err := os.Truncate(file, 0x1ffc000); err != nil {
		t.Fatal(err)
	}
	if n, err := p.ReadMemory(d.Ctx, b, 0x1fc0000); n != 0x3c000 || err == nil {
		t.Errorf("read %#x, %v", n, err)
	}
	// Nobody has to tell QEMU that its end has come.
	qemu, err := os.FindProcess(d.machine().peer.PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.Kill(); err != nil {
		t.Fatal(err)
	}
	testkit.WaitFor(t, "end of QEMU", func() bool {
		n, err := p.ReadMemory(d.Ctx, b, 0x100000)
		return n == 0 && errors.Is(err, vm.ErrProcessGone)
	})
	matcher, err := search.NewBytes([]byte("needle"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := search.Scan(d.Ctx, p, p.Map.Mappings, search.Options{Matcher: matcher})
	if err != nil || !errors.Is(res.Partial, vm.ErrProcessGone) {
		t.Errorf("%+v, %v", res, err)
	}
}

// Memory that is plugged in is there at the next look, in every way of looking.
func TestMemoryIsPlugged(t *testing.T) {
	const dimm = 1 << 32
	tables := &fakeImage{base: 0x100000}
	tables.put(0x100000, 0, 0x101000|xP|xW)
	tables.put(0x101000, 0, dimm|xP|xW)
	tables.put(0x101000, 1, xPS|xP|xW)
	addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-cpu", "max", "-S", "-m", "16,slots=2,maxmem=1G", "-device", tables.file(t))
	wish := Auto
	d := connect(t, addr, &wish)
	d.fourLevels()
	m, err := d.Map(d.Ctx)
	if err != nil || len(m.Mappings) != 1 || len(m.About()) != 1 || !strings.Contains(m.About()[0], "no memory at physical address 0x100000000") {
		t.Errorf("before: %+v, %v", m, err)
	}
	d.Lines("monitor object_add memory-backend-ram,id=plugged,size=128M", "monitor device_add pc-dimm,id=dimm,memdev=plugged")
	if path, err := d.PageWalk(d.Ctx, 0x1000, nil); err != nil || path.End != pt.NotPresent {
		t.Errorf("walk: %+v, %v", path, err)
	}
	if m, err = d.Map(d.Ctx); err != nil || len(m.Mappings) != 1 || len(m.About()) != 0 {
		t.Errorf("after: %+v, %v", m, err)
	}
	d.Lines("set $cr0=0x50033ULL", "monitor device_del dimm")
	d.Lines("monitor object_add memory-backend-ram,id=second,size=128M", "monitor device_add pc-dimm,id=dimm2,memdev=second")
	m, err = d.Map(d.Ctx)
	if err != nil || !slices.ContainsFunc(m.Mappings, func(r vm.Mapping) bool { return r.Name == "[second]" && r.Start > dimm }) {
		t.Errorf("paging off: %+v, %v", m, err)
	}
}

// What lies behind more pages than are kept is read all the same.
func TestSearchBehindManyPages(t *testing.T) {
	const needle = "<the needle>"
	tables := &fakeImage{base: 0x100000}
	tables.put(0x100000, 0, 0x101000|xP|xW)
	tables.put(0x100000, 1, 0x105000|xP|xW)
	for i := range 512 {
		tables.put(0x101000, i, 0x102000|xP|xW)
		tables.put(0x102000, i, 0x103000|xP|xW)
		tables.put(0x103000, i, 0x104000|xP|xW)
	}
	tables.put(0x105000, 0, 0x106000|xP|xW)
	tables.put(0x106000, 0, 0x107000|xP|xW)
	tables.put(0x107000, 0, 0x108000|xP|xW)
	tables.put(0x108000, 511, 0)
	copy(tables.b[0x8000:], needle)
	addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-cpu", "max", "-S", "-m", "16", "-device", tables.file(t))
	wish := Auto
	d := connect(t, addr, &wish)
	d.fourLevels()
	m, err := d.Map(d.Ctx)
	if err != nil || len(m.Mappings) != 1 || m.Mappings[0].Size != 1<<39+guestPage {
		t.Fatalf("%+v, %v", m, err)
	}
	mem, err := d.Memory(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	part := m.Mappings[0].Clip(vm.Range{Start: 1<<39 - 2*guestPage, Size: 3 * guestPage})
	if got, res := d.hitsOf(mem, []vm.Mapping{part}, needle); !slices.Equal(got, []uint64{1 << 39}) || res.SearchedBytes != 3*guestPage {
		t.Errorf("found at %x: %+v", got, res)
	}
	// A walk that was given up leaves nothing behind.
	k := mem.(*kernelMemory)
	d.throughStub(true)
	k.win = window{}
	given, cancel := context.WithCancel(d.Ctx)
	cancel()
	if _, _, _, err := k.Backing(given, 1<<39); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if at, _, ok, err := k.Backing(d.Ctx, 1<<39); at != 0x108000 || !ok || err != nil {
		t.Errorf("at %#x, %v, %v", at, ok, err)
	}
	d.throughStub(false)
	p, err := d.Physical(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, all := p.MappedAt(0x108000, 10); all != 0 || !p.Incomplete || len(p.Map.Notes) != 1 {
		t.Errorf("mapped at %d places, %v, %q", all, p.Incomplete, p.Map.Notes)
	}
}
