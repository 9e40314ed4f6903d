package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
)

// TestMachineDumps dumps machines by QEMU's monitor, which also says what is in
// their memory.
func TestMachineDumps(t *testing.T) {
	for _, v := range []struct {
		qemu string
		args []string
		dump string
		ram  []vm.Range // some of it
	}{
		{"qemu-system-x86_64", nil, "dump-guest-memory", []vm.Range{{Start: 0, Size: 0xa0000}, {Start: 1 << 20, Size: 63 << 20}}},
		{"qemu-system-x86_64", nil, "dump-guest-memory -p", []vm.Range{{Start: 0, Size: 0xa0000}, {Start: 1 << 20, Size: 63 << 20}}},
		{"qemu-system-i386", nil, "dump-guest-memory", []vm.Range{{Start: 1 << 20, Size: 63 << 20}}},
		{"qemu-system-aarch64", []string{"-M", "virt", "-cpu", "cortex-a57"}, "dump-guest-memory", []vm.Range{{Start: 1 << 30, Size: 64 << 20}}},
		{"qemu-system-arm", []string{"-M", "virt"}, "dump-guest-memory", []vm.Range{{Start: 1 << 30, Size: 64 << 20}}},
		{"qemu-system-riscv64", []string{"-M", "virt"}, "dump-guest-memory", []vm.Range{{Start: 2 << 30, Size: 64 << 20}}},
	} {
		t.Run(v.qemu+strings.TrimPrefix(v.dump, "dump-guest-memory"), func(t *testing.T) {
			t.Parallel()
			testkit.Need(t, v.qemu)
			dir := t.TempDir()
			loaded := make([]byte, 0x3000)
			for i := range loaded {
				loaded[i] = byte(i*7 + i>>8)
			}
			if err := os.WriteFile(filepath.Join(dir, "loaded"), loaded, 0o600); err != nil {
				t.Fatal(err)
			}
			last := v.ram[len(v.ram)-1]
			at := last.Start + 0x1234000
			lines := v.dump + " core\n"
			for i, r := range v.ram {
				lines += fmt.Sprintf("pmemsave %#x %#x ram%d\n", r.Start, r.Size, i)
			}
			cmd := exec.CommandContext(t.Context(), v.qemu, slices.Concat([]string{"-S", "-m", "64", "-accel", "tcg", "-display", "none", "-nic", "none", "-monitor", "stdio",
				"-device", fmt.Sprintf("loader,file=loaded,addr=%#x,force-raw=on", at)}, v.args)...)
			cmd.Dir, cmd.Stdin = dir, strings.NewReader(lines+"quit\n")
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", cmd, err, text)
			}
			c := openCore(t, filepath.Join(dir, "core"), -1, CoreOptions{Open: openFile})
			m, err := c.Map(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !c.Physical || m.From.Source != vm.SourceMachine {
				t.Errorf("from %v, physical: %t", m.From, c.Physical)
			}
			about := strings.Join(m.About(), "\n")
			if strings.Contains(about, "GDB") || strings.Contains(about, "stack") || !strings.Contains(strings.Join(m.Unlisted(), "\n"), "physical addresses") {
				t.Errorf("it is said to be\n%s", about)
			}
			for _, mp := range m.Mappings {
				if mp.Perm != 0 || mp.Name != "" || mp.Source != vm.SourceMachine || mp.Kept.Absent(mp.Size) != 0 || !strings.HasPrefix(mp.Title(), "[phys_0x") {
					t.Errorf("%+v, %s", mp, mp.Title())
				}
			}
			for i, r := range v.ram {
				want, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("ram", i)))
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(want))
				if n, err := c.ReadMemory(t.Context(), got, r.Start); n != len(want) || err != nil || uint64(n) != r.Size || !bytes.Equal(got, want) {
					t.Errorf("%v: %d bytes, %v, or other bytes", r, n, err)
				}
			}
			got := make([]byte, len(loaded))
			if _, err := c.ReadMemory(t.Context(), got, at); err != nil || !bytes.Equal(got, loaded) {
				t.Errorf("what was loaded to %#x is not there, %v", at, err)
			}
		})
	}
}

// TestMachineDumpKinds is what makes a dump, and what does not.
func TestMachineDumpKinds(t *testing.T) {
	f := kinds()[0]
	at := func(flags elf.ProgFlag, vaddr, paddr, size uint64) elf.ProgHeader {
		p := load(flags, vaddr, size)
		p.Paddr = paddr
		return p
	}
	qemu := f.note("QEMU", 0, make([]byte, 440))
	prstatus := f.note("CORE", ntPRStatus, make([]byte, 336))
	auxv := f.note("CORE", ntAuxv, f.words(uint64(AuxPageSize), 4096, 0, 0))
	body := bytes.Repeat([]byte("12345678"), 0x200)
	for _, c := range []struct {
		name  string
		progs []elf.ProgHeader
		notes []byte
		want  []string // nil for no dump
	}{
		{"as others may write it", []elf.ProgHeader{at(0, 0x1000, 0x1000, 0x1000)}, prstatus, []string{"0x1000-0x2000"}},
		{"with virtual addresses", []elf.ProgHeader{at(0, 0xffff880000001000, 0x1000, 0x1000), at(0, 0xffffffff81000000, 0x5000, 0x1000)}, qemu, []string{"0x1000-0x2000", "0x5000-0x6000"}},
		{"virtual addresses without a note", []elf.ProgHeader{at(0, 0x3000, 0x1000, 0x1000)}, prstatus, nil},
		{"with permissions", []elf.ProgHeader{at(0, 0x1000, 0x1000, 0x1000), at(elf.PF_R, 0x3000, 0x3000, 0x1000)}, qemu, nil},
		{"with an auxiliary vector", []elf.ProgHeader{at(0, 0x1000, 0x1000, 0x1000)}, auxv, nil},
		{"of a process", []elf.ProgHeader{at(0, 0x1000, 0, 0x1000)}, prstatus, nil},
		{"without memory", nil, qemu, nil},
	} {
		bodies := slices.Repeat([][]byte{body}, len(c.progs))
		core, err := openBytes(t, f.core(c.progs, bodies, c.notes), CoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range core.Mappings {
			got = append(got, m.Range.String())
		}
		if core.Physical != (c.want != nil) || core.Physical && !slices.Equal(got, c.want) {
			t.Errorf("%s: %t, %q", c.name, core.Physical, got)
		}
	}
	// The same bytes, at several virtual addresses: said once, and no contradiction.
	many := f
	many.typ = elf.ET_CORE
	many.progs = make([]elf.ProgHeader, 4)
	off := many.add(body)
	for i, p := range []vm.Range{{Start: 0x1000, Size: 0x1000}, {Start: 0x1000, Size: 0x800}, {Start: 0x1400, Size: 0x400}} {
		many.progs[i+1] = elf.ProgHeader{Type: elf.PT_LOAD, Off: off + p.Start - 0x1000, Vaddr: uint64(i) << 40, Paddr: p.Start, Filesz: p.Size, Memsz: p.Size}
	}
	many.progs[0] = elf.ProgHeader{Type: elf.PT_NOTE, Off: many.add(qemu), Filesz: uint64(len(qemu))}
	c, err := openBytes(t, many.bytes(), CoreOptions{})
	if err != nil || len(c.Mappings) != 1 || len(c.Notes) != 0 || !c.Physical {
		t.Errorf("%+v, %v", c, err)
	}
}
