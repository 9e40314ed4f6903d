package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
)

// batch runs dbgsh to its end.
func batch(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := dbgsh(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// mustMatch runs dbgsh, which must succeed and say nothing on standard error.
func mustMatch(t *testing.T, pattern string, args ...string) {
	t.Helper()
	stdout, stderr, status := batch(t, args...)
	if status != 0 || stderr != "" || !regexp.MustCompile(pattern).MatchString(stdout) {
		t.Errorf("status %d, want output like\n%s\ngot\n%s\nand on standard error\n%s", status, pattern, stdout, stderr)
	}
}

// A breakpoint that has several places, which GDB shows as rows below it.
func TestMultiLocationBreakpoint(t *testing.T) {
	t.Parallel()
	prog := program(t, "testdata/places.cc")
	mustMatch(t, `(?s)^Breakpoint 1 at 0x[0-9a-f]+: over\. \(2 locations\)\n`+
		`Breakpoint 2 at 0x[0-9a-f]+: twice\. \(3 locations\)\n`+
		`Num .*<MULTIPLE>.*\n1\.1 .*\n1\.2 .*\n2 .*\n2\.1 .*\n2\.2 .*\n2\.3 .*`+
		`Breakpoint 2(\.1)?, twice<int>.*Breakpoint 2(\.2)?, twice<double>.*Breakpoint 2(\.3)?, twice<long>.*`+
		`Breakpoint 1(\.1)?, over .*Breakpoint 1(\.2)?, over .*exited normally`,
		"-ex", "break over", "-ex", "break twice", "-ex", "info breakpoints", "-ex", "run",
		"-ex", "continue", "-ex", "continue", "-ex", "continue", "-ex", "continue", "-ex", "continue", prog)
}

// A line of hundreds of kilobytes comes as it is.
func TestLongLine(t *testing.T) {
	t.Parallel()
	var want strings.Builder
	want.WriteString("$1 = {")
	for i := range uint64(100000) {
		if i > 0 {
			want.WriteString(", ")
		}
		// What testdata/inferior.c puts there.
		fmt.Fprintf(&want, "%d", byte(i*i/7))
	}
	want.WriteString("}\n")
	stdout, stderr, status := batch(t, "-ex", "break checkpoint", "-ex", "run",
		"-ex", "set print elements unlimited", "-ex", "set max-value-size unlimited", "-ex", "set print repeats unlimited", "-ex", "output/d 0", "-ex", "echo \\n",
		"-ex", "print/u big", program(t, "testdata/inferior.c"))
	_, got, _ := strings.Cut(stdout, "\n0\n")
	if got != want.String() || status != 0 || stderr != "" {
		t.Errorf("status %d, %d bytes, want %d\n%s", status, len(got), want.Len(), stderr)
	}
}

// Names that are not ASCII, in GDB's output, in maps, and as arguments.
func TestUTF8(t *testing.T) {
	t.Parallel()
	testkit.Need(t, "gcc")
	dir := filepath.Join(t.TempDir(), "été ☀")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(dir, "naïve.c")
	text, err := os.ReadFile("../../testdata/tour.c")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(source, text, 0o600); err != nil {
		t.Fatal(err)
	}
	prog := filepath.Join(dir, "naïve")
	if err := compile(source, prog); err != nil {
		t.Fatal(err)
	}
	mustMatch(t, `(?s)Breakpoint 1 at .*: file .*/été ☀/naïve\.c, line \d+\.\n`+
		`Starting program: .*/été ☀/naïve \n.*Breakpoint 1, checkpoint .* at .*/été ☀/naïve\.c:\d+\n`+
		`.*\n► .* r-xp .*/été ☀/naïve\n.*flag\{maps.*\n1 hit; `,
		"-ex", "break naïve.c:checkpoint", "-ex", "run", "-ex", "vmmap -x -A0 -B0 été", "-ex", "search -w flag{ [heap]", prog)
}

// GDB is killed while the debuggee runs: one line, and status 3.
func TestGDBIsKilledInAScript(t *testing.T) {
	t.Parallel()
	cmd := dbgsh(t, "-keep-going", "-ex", `python import os; print("gdb", os.getpid(), flush=True)`, "-ex", "run", "-ex", `echo no\n`,
		"-args", program(t, "testdata/inferior.c"), "spin")
	var errs testkit.Buffer
	cmd.Stderr = &errs
	gdb := ""
	p := testkit.Start(t, cmd, func(line string) bool {
		if pid, found := strings.CutPrefix(line, "gdb "); found {
			gdb = pid
		}
		return line == "spinning"
	})
	unix.Kill(atoi(t, gdb), unix.SIGKILL)
	rest := p.End(t)
	if s := cmd.ProcessState.ExitCode(); s != 3 {
		t.Errorf("exit status %d, want 3", s)
	}
	if want := regexp.MustCompile(`^-ex run: GDB ended \(killed by signal 9 \(SIGKILL\)\)\n$`); !want.MatchString(errs.String()) {
		t.Errorf("standard error is\n%s", errs.String())
	}
	if rest != "" {
		t.Errorf("afterwards came %q", rest)
	}
}

// Scripts are left by signals too; what was started is killed.
func TestSignalsInAScript(t *testing.T) {
	t.Parallel()
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			t.Parallel()
			cmd := dbgsh(t, "-ex", "run", "-ex", `echo no\n`, "-args", program(t, "testdata/inferior.c"), "spin")
			var errs testkit.Buffer
			cmd.Stderr = &errs
			p := testkit.Start(t, cmd, func(line string) bool { return line == "spinning" })
			cmd.Process.Signal(sig)
			if rest := p.End(t); strings.Contains(rest, "no\n") {
				t.Errorf("the script went on: %q", rest)
			}
			if s := cmd.ProcessState.ExitCode(); s != 1 {
				t.Errorf("exit status %d, want 1", s)
			}
			if want := regexp.MustCompile(`^-ex .*: (interrupted|terminated)\n$`); !want.MatchString(errs.String()) {
				t.Errorf("standard error is\n%s", errs.String())
			}
		})
	}
}

// A stub, and its end: the target is lost.
func TestStub(t *testing.T) {
	t.Parallel()
	prog := program(t, "testdata/inferior.c")
	addr, _ := testkit.GDBServer(t, prog, "spin")
	mustMatch(t, `(?s)Breakpoint 1, checkpoint .*\$1 = 1592651789\n.*\[Inferior 1 .* killed\]`,
		"-r", addr, "-ex", "break checkpoint", "-ex", "continue", "-ex", "print value", "-ex", "kill", prog)

	addr, server := testkit.GDBServer(t, prog, "spin")
	stdout, stderr, status := batch(t, "-keep-going", "-r", addr,
		"-ex", fmt.Sprintf("!kill -9 %d", server.Process.Pid), "-ex", "print value", "-ex", `echo no\n`, prog)
	if status != 3 || !regexp.MustCompile(`^-ex .*: the target is lost: .*\n$`).MatchString(stderr) || strings.Contains(stdout, "no\n") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
}

// A debuggee that reads, while the script is standard input, is at the end of
// its input.
func TestInputOfADebuggeeOfAPipedScript(t *testing.T) {
	t.Parallel()
	cmd := dbgsh(t, "-args", program(t, "testdata/inferior.c"), "echo")
	cmd.Stdin = strings.NewReader("run\nrun\necho on\\n\n")
	out, err := cmd.Output()
	want := regexp.MustCompile(`(?s)name\? .*end of input\n.*exited normally\]\n.*name\? .*end of input\n.*exited normally\]\non\n$`)
	if err != nil || !want.Match(out) || bytes.Contains(out, []byte("read <")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// Nobody reads standard output: dbgsh can be left, and GDB is not killed.
func TestStuckOutput(t *testing.T) {
	t.Parallel()
	testkit.Need(t, "yes")
	for _, both := range []bool{false, true} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cmd := dbgsh(t, "-log", filepath.Join(t.TempDir(), "log"), "-ex", "run", "-ex", "echo no", "yes")
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = w, &errs
		if both {
			cmd.Stderr = w
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Process.Kill()
		fds := []unix.PollFd{{Fd: int32(w.Fd()), Events: unix.POLLOUT}}
		testkit.WaitFor(t, "full pipe", func() bool {
			n, err := unix.Poll(fds, 0)
			return err == nil && n == 0
		})
		w.Close()
		cmd.Process.Signal(unix.SIGTERM)
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ended:
		case <-time.After(testkit.Patience):
			t.Fatal("dbgsh does not end")
		}
		if s := cmd.ProcessState.ExitCode(); s != 1 || strings.Contains(errs.String(), "killed") {
			t.Errorf("exit status %d\n%s", s, &errs)
		}
	}
}

// Standard output fails while the debuggee is opened.
func TestOutputFailsWhileOpening(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	prog := program(t, "testdata/inferior.c")
	cmd := dbgsh(t, "-p", fmt.Sprint(live(t, prog, "spin")), prog)
	cmd.Stdout = full
	cmd.Run()
	if s := cmd.ProcessState.ExitCode(); s != 1 {
		t.Errorf("exit status %d, want 1", s)
	}
}

// What -x names cannot be read.
func TestNoScript(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, why string }{{".", "is a directory"}, {"/nonexistent/x", "no such file or directory"}} {
		stdout, stderr, status := batch(t, "-keep-going", "-x", c.file, "-ex", `echo on\n`)
		if stdout != "on\n" || stderr != "-x: open "+c.file+": "+c.why+"\n" || status != 1 {
			t.Errorf("%s: status %d\n%s%s", c.file, status, stdout, stderr)
		}
	}
}

// How often GDB is asked for what is shown after a stop.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	lines := []struct {
		line string
		most int
	}{
		{"vmmap", 3}, {"vmmap", 0}, {"vmmap $sp", 1}, {"search -p $rsp [stack]", 2}, {"stepi", -1},
		{"vmmap -w libc | search -p $rsp", 4}, {"stepi", -1}, {"search x [heap]", 4}, {"vmmap 0x1000", 0}, {"stepi", -1}, {"status", 3},
	}
	asked := filepath.Join(t.TempDir(), "asked")
	count := fmt.Sprintf("!grep '^> ' %s | grep -vc info-gdb-mi-command >>%s", log, asked) // which only ends a line for GDB
	args := []string{"-log", log, "-ex", "break checkpoint", "-ex", "run", "-ex", count}
	for _, l := range lines {
		args = append(args, "-ex", l.line, "-ex", count)
	}
	if _, stderr, status := batch(t, append(args, program(t, "testdata/inferior.c"))...); status != 0 {
		t.Fatal(stderr)
	}
	text, err := os.ReadFile(asked)
	if err != nil {
		t.Fatal(err)
	}
	counts := strings.Fields(string(text))
	if len(counts) != len(lines)+1 {
		t.Fatalf("counted %d times", len(counts))
	}
	for i, l := range lines {
		if n := atoi(t, counts[i+1]) - atoi(t, counts[i]); l.most >= 0 && n > l.most {
			t.Errorf("%s: %d round trips, want at most %d", l.line, n, l.most)
		}
	}
}
