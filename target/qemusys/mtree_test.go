package qemusys

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"dbgsh/vm"
)

// What QEMU 7.2 says of a PC with two CPUs and 4 GiB, shortened.
const mtreeText = `FlatView #0
 AS "VGA", root: bus master container
 Root memory region: (none)
  No rendered FlatView

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom
  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000
  0000000000100000-00000000bfffffff (prio 0, ram): pc.ram @0000000000100000 KVM
  00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi
  0000000100000000-000000013fffffff (prio 0, ram): pc.ram @00000000c0000000
  fffffffffffff000-ffffffffffffffff (prio 0, romd): odd "name", @ it KVM

`

func TestParseMtree(t *testing.T) {
	views, err := ParseMtree(mtreeText)
	if err != nil {
		t.Fatal(err)
	}
	block := func(start, size uint64, kind, name string, off uint64) MemoryBlock {
		return MemoryBlock{vm.Range{Start: start, Size: size}, kind, name, off}
	}
	want := []FlatView{{Spaces: []string{"VGA"}}, {Spaces: []string{"memory", "cpu-memory-0"}, Blocks: []MemoryBlock{
		block(0, 0xa0000, "ram", "pc.ram", 0),
		block(0xc0000, 0x20000, "rom", "pc.rom", 0),
		block(0xe0000, 0x20000, "rom", "pc.bios", 0x20000),
		block(0x100000, 0xbff00000, "ram", "pc.ram", 0x100000),
		block(0x100000000, 0x40000000, "ram", "pc.ram", 0xc0000000),
		block(0xfffffffffffff000, 0x1000, "romd", `odd "name", @ it KVM`, 0),
	}}}
	if !reflect.DeepEqual(views, want) {
		t.Errorf("got %+v", views)
	}
	for _, text := range []string{"", "unknown command: 'info mtree'\r\n", "  0000-0fff (prio 0, ram): early\n"} {
		if views, err := ParseMtree(text); len(views) != 0 || err != nil {
			t.Errorf("%q: %v, %v", text, views, err)
		}
	}
	if _, err := ParseMtree("FlatView #0\n  0000-0fff (prio 0, ram): a\n  0fff-1fff (prio 0, ram): b\n"); err == nil {
		t.Error("blocks that overlap")
	}
}

func TestHostAddress(t *testing.T) {
	for _, c := range []struct {
		text string
		pa   uint64
		name string
		host uint64
		ok   bool
	}{
		{"Host virtual address for 0x1000 (pc.ram) is 0x7f25d3e01000\r\n", 0x1000, "pc.ram", 0x7f25d3e01000, true},
		{"Host virtual address for 0x1000 (odd) is 0x1 (x) is 0x2000", 0x1000, "odd) is 0x1 (x", 0x2000, true},
		{"Host virtual address for 0x1000 (pc.ram) is 0x7f25d3e01000", 0x2000, "", 0, false},
		{"Memory at address 0xfee00000 is not RAM", 0xfee00000, "", 0, false},
		{"No memory is mapped at address 0xd0000000", 0xd0000000, "", 0, false},
		{"Host virtual address for 0x1000 (pc.ram) is 0x", 0x1000, "pc.ram", 0, false},
	} {
		if name, host, ok := HostAddress(c.text, c.pa); name != c.name || host != c.host || ok != c.ok {
			t.Errorf("%q: %q at %#x, %v", c.text, name, host, ok)
		}
	}
}

func TestParseMonitorMem(t *testing.T) {
	for _, c := range []struct {
		text string
		ok   bool
		want []string
	}{
		{"ffffffffff000000-0000000000000000 0000000001000000 -rw\r\n0000000000400000-0000000000401000 0000000000001000 ur-\r\n", true, []string{
			"0x400000-0x401000 r-?? kernel r-? user r-? at 0x0",
			"0xffffffffff000000-0x10000000000000000 rw?? kernel rw? user --- at 0x0",
		}},
		{"vaddr            paddr            size             attr\n---------------- ---------------- ---------------- -------\n" +
			"0000000000010000 0000000080200000 0000000000001000 rwxu-ad\nffffffff80000000 0000000080200000 0000000000200000 r-x-gad\n", true, []string{
			"0x10000-0x11000 rwx? kernel rw- user rwx at 0x80200000",
			"0xffffffff80000000-0xffffffff80200000 r-x? kernel r-x user --- at 0x80200000",
		}},
		{"PG disabled\r\n", false, nil},
		{"unknown command: 'info mem'\r\n", false, nil},
	} {
		ms, ok, err := ParseMonitorMem(c.text)
		var got []string
		for _, m := range ms {
			got = append(got, fmt.Sprintf("%v %v kernel %s user %s at %#x", m.Range, m.Perm, m.Paged.Kernel, m.Paged.User, m.Paged.Phys))
		}
		if err != nil || ok != c.ok || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %q, %v, %v", c.text, got, ok, err)
		}
	}
	if _, _, err := ParseMonitorMem("ffffffffff000000-1 0000000001000001 -rw"); err == nil {
		t.Error("a range that wraps")
	}
}

func FuzzParseMtree(f *testing.F) {
	f.Add(mtreeText)
	f.Fuzz(func(t *testing.T, text string) {
		views, err := ParseMtree(text)
		if err != nil {
			return
		}
		for _, v := range views {
			for i, b := range v.Blocks {
				if b.Size == 0 || !b.Valid() || i > 0 && v.Blocks[i-1].Last() >= b.Start {
					t.Fatalf("block %d of %+v", i, v.Blocks)
				}
			}
		}
	})
}

func FuzzHostAddress(f *testing.F) {
	f.Add("Host virtual address for 0x1000 (pc.ram) is 0x7f25d3e01000", uint64(0x1000))
	f.Fuzz(func(t *testing.T, text string, pa uint64) {
		name, host, ok := HostAddress(text, pa)
		if ok && !(strings.Contains(text, name) && strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", host))) {
			t.Fatalf("%q at %#x is not in %q", name, host, text)
		}
	})
}

func FuzzParseMonitorMem(f *testing.F) {
	f.Add("ffffffffff000000-0000000000000000 0000000001000000 -rw\r\n0000000000400000-0000000000401000 0000000000001000 ur-\r\n")
	f.Add("0000000000010000 0000000080200000 0000000000001000 rwxu-ad\n")
	f.Fuzz(func(t *testing.T, text string) {
		ms, ok, err := ParseMonitorMem(text)
		if err == nil && ok != (len(ms) > 0) {
			t.Fatalf("%d mappings, %v", len(ms), ok)
		}
		for i, m := range ms {
			if m.Size == 0 || !m.Valid() || m.Paged == nil || i > 0 && ms[i-1].Start > m.Start {
				t.Fatalf("mapping %d is %+v", i, m)
			}
		}
	})
}
