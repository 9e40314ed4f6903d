package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
)

// withHelper gives dbgsh's user a start-up file of GDB's in which a helper lives.
func withHelper(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if out, err := exec.Command("gdb", "-nx", "-batch", "-ex", "python print(1)").Output(); err != nil || string(out) != "1\n" {
		testkit.Missing(t, "GDB has no Python: %q, %v", out, err)
	}
	helper, err := filepath.Abs("testdata/helper.py")
	if err != nil {
		t.Fatal(err)
	}
	home := ""
	for _, v := range cmd.Env {
		if dir, ok := strings.CutPrefix(v, "HOME="); ok {
			home = dir // the last one counts
		}
	}
	text := fmt.Sprintf("source %s\ndefine hook-stop\necho hook-stop\\n\nend\ndefine hookpost-print\necho hookpost-print\\n\nend\n", helper)
	if err := os.WriteFile(filepath.Join(home, ".gdbinit"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// What dbgsh shows is the same with a helper in GDB's start-up file as without, and
// the helper's commands are there beside its own.
func TestHelperInGDBInit(t *testing.T) {
	t.Parallel()
	prog := program(t, "../../testdata/tour.c")
	lines := []string{
		"vmmap", "vmmap $sp", "vmmap -A0 -B0 $pc", "search flag{ [heap]", "search -4 counter -w tour",
		"vmmap -w [heap] | search flag{", "search flag{ | vmmap", "vmmap -x | !grep -c r-x", "vmmap --json [stack]", "vmmap_load", "vmmap_clear",
	}
	show := func(helper bool) string {
		args := []string{"-ex", "break checkpoint", "-ex", "run", "-ex", `echo ---\n`}
		for _, l := range lines {
			args = append(args, "-ex", l)
		}
		args = append(args, "-ex", `echo ---\n`, "-ex", "gdb vmmap now")
		var cmd *exec.Cmd
		if helper {
			args = append(args, "-ex", "search-pattern y", "-ex", "find-it z", "-ex", "vmmap -A0 -B0 $_base()", "-ex", "stepi", "-ex", "print counter")
			cmd = withHelper(t, dbgsh(t, append([]string{"-gdbinit"}, append(args, prog)...)...))
		} else {
			cmd = dbgsh(t, append([]string{"-keep-going"}, append(args, prog)...)...)
		}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if helper && (err != nil || errs.Len() > 0) {
			t.Fatalf("%v\n%s\n%s", err, out, &errs)
		}
		return string(out)
	}
	with, without := strings.Split(show(true), "---\n"), strings.Split(show(false), "---\n")
	if len(with) != 3 || len(without) != 3 {
		t.Fatalf("with a helper: %q\nwithout: %q", with, without)
	}
	number := regexp.MustCompile(`\b(0x)?[0-9a-f]{6,}\b|/proc/\d+`) // where addresses are chosen anew for each process
	equalLines(t, number.ReplaceAllString(with[1], "N"), number.ReplaceAllString(without[1], "N"))
	for part, pattern := range map[int]string{
		0: `(?s)^\x1b\[1;31mhelper is ready, 90 commands\x1b\[0m\nwritten\n.*hook-stop\n.*Breakpoint 1, .*-- registers --.*pc 0x[0-9a-f]+\n.*-- end --\n$`,
		2: `(?s)^\x1b\[1;31mhelper's map of \d+ now\x1b\[0m\nhelper's search of y\nhelper's search of z\n.*File\n► .* r-xp .*/tour \+0x[0-9a-f]+\n` +
			`.*hook-stop\n.*-- end --\n\$1 = a printer's text\nhookpost-print\n-- exited --\n$`,
	} {
		if !regexp.MustCompile(pattern).MatchString(with[part]) {
			t.Errorf("part %d is\n%s", part, with[part])
		}
	}
}

// The prompt stays dbgsh's own.
func TestPromptWithHelperInGDBInit(t *testing.T) {
	t.Parallel()
	cmd := withHelper(t, dbgsh(t, "-gdbinit", program(t, "../../testdata/tour.c")))
	x := onTerminal(t, cmd)
	x.Expect(`helper is ready, 90 commands`)
	x.prompt()
	x.run("break checkpoint", `Breakpoint 1: file .*tour\.c, line \d+\.\n`)
	x.run("run", `(?s)hook-stop\n.*Breakpoint 1, .*-- registers --.*-- end --\n`)
	x.run("vmmap -A0 -B0 [stack]", `► .*\[stack\]\n`)
	x.run("gdb vmmap x", `helper's map of \d+ x`)
	x.run("vmmap [heap] | search flag{", `1 hit; `)
	x.run("stepi", `(?s)-- registers --.*-- end --\n`)
	x.run("find-it z", `helper's search of z\n`)
	x.Type("quit" + enter)
	x.Expect(`.`)
	x.Type("y" + enter)
	if s := x.Status(); s != 0 {
		t.Errorf("exit status %d", s)
	}
}
