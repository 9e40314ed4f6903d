package image

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
)

// qemuPages is the access of every page in the last table that
// QEMU_LOG=page wrote.
func qemuPages(t *testing.T, log string) map[uint64]string {
	t.Helper()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b[strings.LastIndex(string(b), "start"):]), "\n")
	pages := map[uint64]string{}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) != 3 {
			break
		}
		lo, hi, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(lo, 16, 64)
		end, err2 := strconv.ParseUint(hi, 16, 64)
		if err1 != nil || err2 != nil {
			t.Fatal(line)
		}
		for ; start < end; start += 4096 {
			pages[start] = f[2]
		}
	}
	return pages
}

// TestQEMUCores compares QEMU's cores with its own page table.
func TestQEMUCores(t *testing.T) {
	for _, v := range []struct {
		arch, triple string
		machine      elf.Machine
		flags        []string
	}{
		{"aarch64", "aarch64-linux-gnu", elf.EM_AARCH64, nil},
		{"aarch64", "aarch64-linux-gnu", elf.EM_AARCH64, []string{"-Wl,-z,separate-code", "-no-pie"}},
		{"aarch64", "aarch64-linux-gnu", elf.EM_AARCH64, []string{"-static"}},
		{"mips", "mips-linux-gnu", elf.EM_MIPS, nil},
		{"mips", "mips-linux-gnu", elf.EM_MIPS, []string{"-no-pie"}},
		{"mips", "mips-linux-gnu", elf.EM_MIPS, []string{"-static"}},
	} {
		t.Run(v.arch+strings.Join(v.flags, ""), func(t *testing.T) {
			t.Parallel()
			qemu := "qemu-" + v.arch
			testkit.Need(t, qemu)
			dir, sysroot := t.TempDir(), "/usr/"+v.triple
			exe := buildC(t, v.triple+"-gcc", v.flags...)
			log := filepath.Join(dir, "pages")
			p := startLive(t, dir, []string{"QEMU_LOG=page", "QEMU_LOG_FILENAME=" + log}, qemu, "-L", sysroot, exe)
			path := p.Abort(t, "qemu_*.core")
			want := qemuPages(t, log)
			inSysroot := func(path string) (CoreFile, error) {
				if strings.HasPrefix(path, "/lib") {
					path = sysroot + path
				}
				return os.Open(path)
			}
			for _, opt := range []CoreOptions{{}, {Open: inSysroot}} {
				c := openCore(t, path, -1, opt)
				if c.Machine != v.machine || len(c.Threads) != 4 {
					t.Errorf("%v, threads %v", c.Machine, c.Threads)
				}
				pages, heaps, stacks := 0, 0, 0
				named := map[string]bool{}
				for _, m := range c.Mappings {
					for a := m.Start; a-m.Start < m.Size; a += 4096 {
						pages++
						if want[a] != m.Perm.String()[:3] {
							t.Fatalf("%#x: %v, not %s", a, m.Perm, want[a])
						}
					}
					switch m.Name {
					case "[heap]":
						heaps++
					case "[stack]":
						stacks++
					}
					named[m.Name+" "+m.Perm.String()[:3]] = true
				}
				if pages != len(want) {
					t.Errorf("%d pages, not %d", pages, len(want))
				}
				if stacks != 1 || heaps > 1 || heaps == 0 && opt.Open != nil {
					t.Errorf("%d stacks, %d heaps", stacks, heaps)
				}
				dynamic := len(v.flags) == 0 || v.flags[0] != "-static"
				if !named[exe+" r-x"] || opt.Open != nil && !named[exe+" rw-"] || dynamic && !named["/lib/libc.so.6 r-x"] {
					t.Errorf("names %v\n%v", named, c.Notes)
				}
				for _, th := range c.Threads {
					if i := c.at(th.SP); i < 0 || !c.Mappings[i].Perm.Is(vm.Write) {
						t.Errorf("thread %+v", th)
					}
				}
			}
		})
	}
}
