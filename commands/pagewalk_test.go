package commands

import (
	"encoding/json"
	"strings"
	"testing"

	"dbgsh/target"
)

func TestPageTables(t *testing.T) {
	s, _ := newSession(t)
	for line, want := range map[string]string{
		"vmmap --pte": `
             Start                End Perm     Size Offset File
0xffff888000000000 0xffff888000200000 rw-?   200000      0 [pt_0xffff888000000] (derived: direct map; at 0x1000, pages of 0x1000 A D)
0xffffffffff600000 0xffffffffff601000 r-x?     1000      0 [pt_0xffffffffff600] (user, kernel r--)
`,
		"vmmap --root 0x5000": `
             Start                End Perm     Size Offset File
0xffff888000000000 0xffff888000200000 rw-?   200000      0 [pt_0xffff888000000] (derived: direct map)
`,
		"vmmap --pte -x | vmmap -A0 -B0 pt_ffffffffff600": `
              Start                End Perm     Size Offset File
►0xffffffffff600000 0xffffffffff601000 r-x?     1000      0 [pt_0xffffffffff600] (user, kernel r--)
`,
		"pagewalk 0x123": `
0x123 by x86-64, 4 levels
PML4E   0x1000[3] at 0x1018: 0x0000000000002060 P W
physical 0x5123: the PTE entry maps a page of 4 KiB, kernel rw-, user ---
CR0.WP is 0
`,
		"pagewalk --root $sp-0x100 2": `
0x2 by x86-64, 4 levels
PML4E   0x7ffffffddf10[3] at 0x7ffffffddf28: 0x0000000000002060 not present
not present: the PML4E entry is not present
`,
	} {
		got, err := run(t, s, line)
		if err != nil || got != want[1:] {
			t.Errorf("%s: %v\n%s\nwant\n%s", line, err, got, want[1:])
		}
	}
	for _, line := range []string{"pagewalk", "pagewalk 1 2", "pagewalk --root nosuch 1", "vmmap --root nosuch", "vmmap | vmmap --pte"} {
		if _, err := run(t, s, line); err == nil {
			t.Errorf("%s: no error", line)
		}
	}
}

func TestPageTablesJSON(t *testing.T) {
	s, _ := newSession(t)
	for line, wants := range map[string][]string{
		"pagewalk 0x123":   {`"physical":"0x5123"`, `"mapped":true`, `"kernel":"rw-"`, `"flags":"P W"`, `"notes":["CR0.WP is 0"]`},
		"pagewalk 0x456":   {`"mapped":false`, `"end":"not present"`, `"notes":[]`},
		"vmmap --pte":      {`"page_table":{"kernel":"rw-","user":"---","physical":"0x1000","page_size":4096,"flags":"A D","derived_region":"direct map"}`},
		"vmmap --root $sp": {`"physical":"0x7ffffffde010"`},
	} {
		out, err := execute(s, line)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(out.Result)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: %s lacks %s", line, text, want)
			}
		}
	}
}

func TestKernelMapSettings(t *testing.T) {
	s, _ := newSession(t)
	for _, c := range []struct {
		line string
		want target.KernelMap
	}{
		{"set kernel-vmmap auto", target.KernelMapAuto},
		{"set kernel-vmmap-via-page-tables off", target.KernelMapMonitor},
		{"set kernel-vmmap page-tables", target.KernelMapPageTables},
		{"set kernel-vmmap none", target.KernelMapNone},
		{"set kernel-vmmap monitor", target.KernelMapMonitor},
		{"set kernel-vmmap auto", target.KernelMapMonitor},
		{"set kernel-vmmap-via-page-tables on", target.KernelMapAuto},
	} {
		if _, err := run(t, s, c.line); err != nil || s.Settings.KernelMap() != c.want {
			t.Errorf("%s: %v, %v", c.line, s.Settings.KernelMap(), err)
		}
	}
	if _, err := run(t, s, "set kernel-vmmap magic"); err == nil {
		t.Error("no error")
	}
}

// TestPageTablesWithAdded is that added pages are shown among page tables, and not
// among those of another address space.
func TestPageTablesWithAdded(t *testing.T) {
	s, _ := newSession(t)
	if _, err := run(t, s, "vmmap_add 0x123000 0x1000 rw 0 mine"); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"vmmap --pte", "vmmap --pte -w", "vmmap --pte mine", "vmmap --pte | vmmap mine"} {
		if got, err := run(t, s, line); err != nil || !strings.Contains(got, "mine") {
			t.Errorf("%s: %v\n%s", line, err, got)
		}
	}
	got, err := run(t, s, "vmmap --root 0x5000 --pte")
	if err != nil || strings.Contains(got, "mine") || !strings.Contains(got, "1 added mapping left out: --root shows another address space\n") {
		t.Errorf("%v\n%s", err, got)
	}
}
