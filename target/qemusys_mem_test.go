package target

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"dbgsh/vm"
)

// hitsOf searches mappings, and is the addresses of the hits.
func (d *debuggee) hitsOf(mem Memory, ms []vm.Mapping, needle string) (addrs []uint64, res *vm.ScanResult) {
	d.t.Helper()
	matcher, err := vm.NewBytes([]byte(needle))
	if err != nil {
		d.t.Fatal(err)
	}
	res, err = vm.Scan(d.ctx, mem, ms, vm.ScanOptions{Matcher: matcher, Workers: 2})
	if err != nil || res.Partial != nil {
		d.t.Fatal(err, res)
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
	ram := &image{base: 0x200000, b: data}
	hidden := &image{base: 0xa43000, b: []byte(needle)}
	addr := startQEMU(t, "qemu-system-x86_64", "", "-cpu", "max", "-m", "16", "-S", "-device", tables.file(t), "-device", ram.file(t), "-device", hidden.file(t))
	wish := KernelMapAuto
	d := connect(t, addr, &wish)
	d.fourLevels()
	m, err := d.Map(d.ctx)
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
	for _, d.physicalOnly = range []bool{false, true} {
		t.Run(fmt.Sprint("physicalOnly=", d.physicalOnly), func(t *testing.T) {
			mem, err := d.Memory(d.ctx)
			if err != nil {
				t.Fatal(err)
			}
			got, res := d.hitsOf(mem, ms, needle)
			if !slices.Equal(got, want) {
				t.Errorf("found at %x, not at %x; %+v", got, want, res)
			}
			p, err := d.Physical(d.ctx)
			if err != nil {
				t.Fatal(err)
			}
			at, res := d.hitsOf(p, p.Map.Mappings, needle)
			if !slices.Equal(at, []uint64{0x200010, 0x200ffb, 0xa43000}) {
				t.Errorf("in physical memory at %x: %+v", at, res)
			}
			for _, pa := range at {
				vas, all := p.MappedAt(pa, 1000)
				for _, va := range vas {
					if path, err := d.PageWalk(d.ctx, va, nil); err != nil || path.Phys != pa {
						t.Errorf("%#x is not at %#x: %+v, %v", pa, va, path, err)
					}
				}
				var begin []uint64 // what begins in this page was found at every address of it
				for _, va := range got {
					if path, err := d.PageWalk(d.ctx, va, nil); err == nil && path.Phys == pa {
						begin = append(begin, va)
					}
				}
				vas = slices.DeleteFunc(vas, func(va uint64) bool { return va>>63 != 0 })
				if pa == 0x200010 && !slices.Equal(begin, vas) || pa == 0xa43000 && all != 0 {
					t.Errorf("%#x is mapped at %x, found at %x", pa, vas, begin)
				}
			}
			if mode := d.physMode(); mode != "0" {
				t.Errorf("physical mode is %s", mode)
			}
		})
	}
	d.physicalOnly = false
	d.gdbLines("set $cr0=0x50033ULL")
	p, err := d.Physical(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if vas, all := p.MappedAt(0x1234, 5); all != 1 || vas[0] != 0x1234 || len(p.Map.Notes) != 1 {
		t.Errorf("paging off: mapped at %x, %q", vas, p.Map.Notes)
	}
	d.gdbLines("kill")
}

// naiveHits looks at every place of what GDB reads, by QEMU's own translation.
func naiveHits(d *debuggee, ms []vm.Mapping, needle string) (addrs []uint64) {
	d.t.Helper()
	mem := newGDBMemory(d.Target, true)
	var run []byte
	for i, m := range ms {
		b := make([]byte, m.Size)
		if n, err := mem.ReadMemory(d.ctx, b, m.Start); err != nil || uint64(n) < m.Size {
			d.t.Fatalf("GDB reads %d bytes of %v, %v", n, m.Range, err)
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

func TestPhysicalErrors(t *testing.T) {
	d, _ := tablesAt(t, filepath.Join(t.TempDir(), "gdb.sock"))
	if _, err := d.Physical(d.ctx); err == nil {
		t.Error("where RAM is cannot be asked")
	}
	d.gdbLines("disconnect")
	if _, err := d.Physical(d.ctx); !errors.Is(err, ErrNoPageTables) {
		t.Error(err)
	}
}
