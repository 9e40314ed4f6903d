package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
)

const smapsText = `55d0a1c3f000-55d0a1c41000 r--p 00000000 fe:00 123                        /usr/bin/a b: c
Size:                  8 kB
Rss:                   4 kB
KernelPageSize:        4 kB
VmFlags: rd mr mw me sd 
7f0000000000-7f0000001000 ---p 00000000 00:00 0 
Size:                  4 kB
VmFlags: mr mw me nr sd 
7f0000001000-7f0000002000 rw-s 00003000 00:01 9                          /dev/zero (deleted)
THPeligible:           0
`

func TestParseSmaps(t *testing.T) {
	ms, err := ParseSmaps([]byte(smapsText))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range ms {
		got = append(got, strings.Join([]string{m.Range.String(), m.Perm.String(), m.Name, m.VMFlags}, "|"))
	}
	if diff := cmp.Diff([]string{
		"0x55d0a1c3f000-0x55d0a1c41000|r--p|/usr/bin/a b: c|rd mr mw me sd",
		"0x7f0000000000-0x7f0000001000|---p||mr mw me nr sd",
		"0x7f0000001000-0x7f0000002000|rw-s|/dev/zero (deleted)|",
	}, got); diff != "" {
		t.Error(diff)
	}
	if ms[0].Rss != 4096 || ms[1].Rss != 0 {
		t.Errorf("%d and %d bytes in RAM", ms[0].Rss, ms[1].Rss)
	}
	for _, flag := range []string{"mr", "nr", "sd"} {
		if !ms[1].HasFlag(flag) {
			t.Errorf("no flag %s", flag)
		}
	}
	for _, flag := range []string{"", "m", "rd", "mr mw"} {
		if ms[1].HasFlag(flag) {
			t.Errorf("flag %q", flag)
		}
	}
	if ms[2].HasFlag("") {
		t.Error("a flag of none")
	}
	for _, bad := range []string{"Size: 4 kB\n", "1000-2000 rw-p\n", "nonsense\n", smapsText + "x", smapsText + "Rss: x kB\n"} {
		var perr *vm.ParseError
		if _, err := ParseSmaps([]byte(bad)); !errors.As(err, &perr) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestParseSmapsLive compares with /proc/PID/maps of a process that waits.
func TestParseSmapsLive(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := w.WriteString("ready\n"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat")
	cmd.Stdin = r
	dir := fmt.Sprintf("/proc/%d", testkit.Start(t, cmd, testkit.FirstLine).Process.Pid)
	testkit.WaitFor(t, "cat that sleeps", func() bool { return testkit.State(cmd.Process.Pid) == "S" })
	maps, err1 := os.ReadFile(dir + "/maps")
	smaps, err2 := os.ReadFile(dir + "/smaps")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	want, err := ParseMaps(maps)
	if err != nil {
		t.Fatal(err)
	}
	ss, err := ParseSmaps(smaps)
	if err != nil {
		t.Fatal(err)
	}
	var got []vm.Mapping
	for _, s := range ss {
		got = append(got, s.Mapping)
		if s.HasFlag("rd") != s.Perm.Is(vm.Read) || s.HasFlag("wr") != s.Perm.Is(vm.Write) || s.HasFlag("ex") != s.Perm.Is(vm.Exec) {
			t.Errorf("%v %v: flags %q", s.Range, s.Perm, s.VMFlags)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzSmaps(f *testing.F) {
	f.Add([]byte(smapsText))
	f.Fuzz(func(t *testing.T, b []byte) {
		ms, err := ParseSmaps(b)
		if err != nil && ms != nil {
			t.Fatal("mappings and an error")
		}
		for _, m := range ms {
			if !m.Valid() || m.Size == 0 {
				t.Fatal(m.Range)
			}
			m.HasFlag("nr")
		}
	})
}
