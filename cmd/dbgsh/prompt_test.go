package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
)

func TestFirstPrompt(t *testing.T) {
	t.Parallel()
	x := openTerminal(t, program(t, "testdata/inferior.c"))
	x.Expect(`^dbgsh \d+\.\d+\.\d+ on GDB \d+\.\d+\S* · .*/inferior · type help, or any GDB command\n\(dbgsh\) $`)
	x.run("print value", `^\$1 = 1592651789\n`)
	x.run("vmmap", `^vmmap: no process: start one with "run", or attach with "attach PID"\n`)
	x.run("nosuch", `^Undefined command: "nosuch"\.  Try "help"\.\n`)
	// A line in parts, a block, an empty line, a line that is dropped.
	x.Type("define twice" + enter)
	x.Expect(`\n> $`)
	x.Type("print 2 * $arg0" + enter)
	x.Expect(`\n> $`)
	x.Type("end" + enter)
	x.prompt()
	x.run("twice 21", `^\$2 = 42\n`)
	x.Type(enter)
	x.Expect(`^\n\$3 = 42\n\(dbgsh\) $`)
	x.Type("print 3" + ctrlC)
	x.prompt()
	x.Type("define more" + enter)
	x.Expect(`\n> $`)
	x.Type(ctrlC)
	x.prompt()
	x.Type("quit 5" + enter)
	if s := x.Status(); s != 5 {
		t.Errorf("exit status %d, want 5", s)
	}
}

// What fails at the prompt is no failure of the session.
func TestLeave(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, keys string
		want       int
	}{
		{"Ctrl-D", ctrlD, 0}, {"quit", "quit" + enter, 0}, {"exit", "exit 1" + enter, 1},
		{"after an error", "nosuch" + enter + ctrlD, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := openTerminal(t)
			x.prompt()
			x.Type(c.keys)
			if s := x.Status(); s != c.want {
				t.Errorf("exit status %d, want %d", s, c.want)
			}
		})
	}
}

// The keyboard is the debuggee's while it runs, and nobody's else.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	x := openTerminal(t, "-args", program(t, "testdata/inferior.c"), "echo")
	x.prompt()
	x.Type("run" + enter)
	x.Expect(`name\? `)
	x.Type("some words" + enter)
	x.Expect(`some words\nread <some words>\n$`)
	x.Type("vmmap | é" + enter)
	x.Expect(`vmmap \| é\nread <vmmap \| é>\n$`)
	x.Type(ctrlC)
	x.Expect(`received signal SIGINT`)
	x.prompt()
	x.run("print value", `^\$1 = 1592651789\n`)
	x.Type("continue" + enter)
	x.Expect(`Continuing\.\n`)
	x.Type("again" + enter)
	x.Expect(`read <again>\n$`)
	x.Type(ctrlD) // the end of its input, not of dbgsh
	x.Expect(`(?s)end of input\n.*exited normally\]\n|exited normally\]\n.*end of input\n`)
	x.prompt()
	x.Type(ctrlD)
	if s := x.Status(); s != 0 {
		t.Errorf("exit status %d", s)
	}
}

// Ctrl-C works behind a paste that the debuggee does not read, and nothing of
// the paste becomes a command.
func TestInterruptBehindAPaste(t *testing.T) {
	t.Parallel()
	x := openTerminal(t, "-args", program(t, "testdata/inferior.c"), "wait")
	x.prompt()
	x.Type("run" + enter)
	x.Expect(`waiting\n`)
	x.Paste(strings.Repeat("print 12345"+enter, 4000) + ctrlC)
	x.Expect(`received signal SIGINT`)
	x.prompt()
	if m := x.run("print 1", `\$(\d+) = 1\n`); m[1] != "1" {
		t.Errorf("values before it: %s", m[1])
	}
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	x := openTerminal(t, "-args", program(t, "testdata/inferior.c"), "spin")
	x.prompt()
	x.Type("run" + enter)
	x.Expect(`spinning\n`)
	for range 3 {
		x.Type(ctrlC)
		x.Expect(`Program received signal SIGINT, Interrupt\.\n`)
		x.prompt()
		x.run("vmmap -A0 -B0 main", `\n► .* r-xp .*inferior \+0x[0-9a-f]+\n`)
		x.Type("continue" + enter)
		x.Expect(`Continuing\.\n`)
	}
	x.Type(ctrlC)
	x.Expect(`received signal SIGINT`)
	x.prompt()
	pid := x.inferior()

	// Leaving asks, since dbgsh has started it.
	x.Type(ctrlD)
	x.Expect(`kill it and leave\? \(y or n\) $`)
	x.Type("what" + enter)
	x.Expect(`Please answer y or n\.\n.*\(y or n\) $`)
	x.Type("n" + enter)
	x.prompt()
	x.Type("quit" + enter)
	x.Expect(`\(y or n\) $`)
	x.Type(ctrlC)
	x.prompt()
	x.Type(ctrlD)
	x.Expect(`\(y or n\) $`)
	x.Type("y" + enter)
	if s := x.Status(); s != 0 {
		t.Errorf("exit status %d", s)
	}
	testkit.WaitGone(t, pid)
}

// Ctrl-C during a search brings the prompt back, and the debuggee stands
// where it stood.
func TestInterruptSearch(t *testing.T) {
	t.Parallel()
	x := openTerminal(t, "-args", program(t, "testdata/inferior.c"), "touch", "512")
	x.prompt()
	x.run("break checkpoint", `Breakpoint 1`)
	x.run("run", `Breakpoint 1, `)
	x.run("continue", `Breakpoint 1, `)
	// Every place is a hit of a pattern that is slow to find.
	x.Type(`search --regex --count '(Q|QQ)+z'` + enter)
	x.Expect(`z'\n`)
	x.underWay()
	x.Type(ctrlC)
	x.Expect(`(?i)interrupted`)
	x.prompt()
	x.run("print value", `^\$\d = 1592651789\n`)
	x.Type(ctrlD)
	x.Expect(`\(y or n\) $`)
	x.Type("y" + enter)
	x.Status()
}

// Ctrl-C while GDB starts: what is called GDB may be anything.
func TestInterruptStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mute, started := filepath.Join(dir, "mute"), filepath.Join(dir, "started")
	if err := os.WriteFile(mute, []byte("#!/bin/sh\necho I am no GDB >"+started+"\nexec sleep 1000\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	x := openTerminal(t, "-gdb", mute)
	if _, err := os.ReadFile(started); err != nil { // waits
		t.Fatal(err)
	}
	x.Type(ctrlC)
	if s := x.Status(); s != 3 {
		t.Errorf("exit status %d, want 3", s)
	}
}

// A debuggee that runs in the background stops while the prompt is shown: what
// GDB says then comes in whole lines.
func TestStopAtThePrompt(t *testing.T) {
	t.Parallel()
	x := openTerminal(t, "-args", program(t, "testdata/inferior.c"), "spin")
	x.prompt()
	x.run("break checkpoint", `Breakpoint 1`)
	x.run("run", `Breakpoint 1, `)
	x.run("delete 1", ``)
	x.Type("continue &" + enter)
	x.Expect(`(?s)spinning\n.*\(dbgsh\) $`)
	x.Type("interrupt" + enter)
	x.Expect(`(?:^|\n)(?:\(dbgsh\) )?(Program|Thread .*) received signal SIGINT, Interrupt\.\n`)
	x.Expect(`\w+ \(.*\)`) // wherever it was: it may still be in the write of what was seen
	x.Expect(`\(dbgsh\) $`)
}

// The debuggee's terminal has the size of the user's, also when that changes.
func TestWindowSize(t *testing.T) {
	t.Parallel()
	x := openTerminal(t, "-args", program(t, "testdata/inferior.c"), "size")
	x.prompt()
	x.run("run", `30 rows, 100 columns\n`)
	x.run("break checkpoint", `Breakpoint 1`)
	x.run("run", `Breakpoint 1, `)
	x.Resize(41, 77)
	x.prompt() // shown again
	x.run("continue", `41 rows, 77 columns\n`)
}

// What dbgsh attached to lives on, whichever way dbgsh ends.
func TestAttachedLivesOn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(x *terminal)
	}{
		{"quit", func(x *terminal) { x.Type("quit" + enter) }},
		{"Ctrl-D", func(x *terminal) { x.Type(ctrlD) }},
		{"SIGTERM", func(x *terminal) { x.Cmd.Process.Signal(unix.SIGTERM) }},
		{"SIGHUP", func(x *terminal) { x.Cmd.Process.Signal(unix.SIGHUP) }},
		{"hang-up", func(x *terminal) { x.HangUp() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pid := live(t, program(t, "testdata/inferior.c"), "spin")
			x := openTerminal(t, "-p", strconv.Itoa(pid))
			x.prompt()
			x.run("break checkpoint", `Breakpoint 1`)
			x.run("continue", `Breakpoint 1, `)
			c.end(x)
			x.Status()
			if !isRunning(pid) {
				t.Errorf("the process is in state %q", testkit.State(pid))
			}
		})
	}
}

// What dbgsh started is killed, whichever way dbgsh ends, and GDB ends too.
func TestStartedIsKilled(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(x *terminal)
	}{
		{"SIGTERM", func(x *terminal) { x.Cmd.Process.Signal(unix.SIGTERM) }},
		{"SIGHUP", func(x *terminal) { x.Cmd.Process.Signal(unix.SIGHUP) }},
		{"SIGKILL", func(x *terminal) { x.Cmd.Process.Kill() }},
		{"hang-up", func(x *terminal) { x.HangUp() }},
	} {
		for _, running := range []bool{false, true} {
			name := c.name + " at the prompt"
			if running {
				name = c.name + " while it runs"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				x := openTerminal(t, "-args", program(t, "testdata/inferior.c"), "spin")
				x.prompt()
				x.run("break checkpoint", `Breakpoint 1`)
				x.run("run", `Breakpoint 1, `)
				pid, gdb := x.inferior(), x.gdb()
				if running {
					x.run("delete 1", ``)
					x.Type("continue" + enter)
					x.Expect(`spinning\n`)
				}
				c.end(x)
				x.Status()
				testkit.WaitGone(t, pid)
				testkit.WaitGone(t, gdb)
			})
		}
	}
}

// A hang-up that was ignored when dbgsh was started (nohup) stays ignored.
func TestIgnoredHangUp(t *testing.T) {
	t.Parallel()
	cmd := dbgsh(t, "-args", program(t, "testdata/inferior.c"), "spin")
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `trap "" HUP; exec dbgsh "$@"`}, cmd.Args...)
	x := onTerminal(t, cmd)
	x.prompt()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", x.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^SigIgn:\s*([0-9a-f]+)$`).FindSubmatch(status)
	if ignored, err := strconv.ParseUint(string(m[1]), 16, 64); err != nil || ignored>>(unix.SIGHUP-1)&1 == 0 {
		t.Errorf("ignored are %s, %v", m[1], err)
	}
	x.Cmd.Process.Signal(unix.SIGHUP)
	x.run("print 6*7", `= 42\n`)
	x.Type(ctrlD)
	if s := x.Status(); s != 0 {
		t.Errorf("exit status %d", s)
	}
}

// Nothing that is being debugged is lost unasked.
func TestConfirm(t *testing.T) {
	t.Parallel()
	other := live(t, program(t, "testdata/inferior.c"), "spin")
	x := openTerminal(t, "-args", program(t, "testdata/inferior.c"), "spin")
	x.prompt()
	x.run("break checkpoint", `Breakpoint 1`)
	x.run("run", `Breakpoint 1, `)
	pid := x.inferior()
	for _, line := range []string{
		"run", "start", "starti", "kill", "attach " + strconv.Itoa(other), "core-file none", "target remote :1", "delete",
	} {
		x.Type(line + enter)
		x.Expect(`\(y or n\) $`)
		x.Type("n" + enter)
		x.prompt()
	}
	if now := x.inferior(); now != pid {
		t.Errorf("process %d became %d", pid, now)
	}
	x.run("info breakpoints", `\n1 +breakpoint`)
	x.Type("kill" + enter)
	x.Expect(`\(y or n\) $`)
	x.Type("y" + enter)
	x.Expect(`killed\]`)
	x.prompt()
	testkit.WaitGone(t, pid)
	x.run("run", `Breakpoint 1, `) // nothing to lose
	x.run("set confirm off", ``)
	x.run("delete", ``)
	x.run("info breakpoints", `No breakpoints`)
	x.run("kill", `killed\]`)
}

// The end of GDB is told in one line; the shell stays, and run starts anew.
func TestGDBIsKilled(t *testing.T) {
	t.Parallel()
	x := openTerminal(t, "-args", program(t, "testdata/inferior.c"), "spin")
	x.prompt()
	x.run("vmmap_add 0x1000 0x1000 rw 0 kept", `added`)
	gdb := x.gdb()
	x.Type("run" + enter)
	x.Expect(`spinning\n`)
	unix.Kill(gdb, unix.SIGKILL)
	x.Expect(`(?:^|\n)GDB ended \(killed by signal 9 \(SIGKILL\)\)\. "run", "attach" or "file" starts a new one; added pages are kept\.\n\(dbgsh\) $`)
	x.run("vmmap kept", `\n► +0x1000 +0x2000 rw-\? +1000 +0 kept\n`)
	x.run("print value", `^GDB ended \(.*\)\. .*\n`)
	x.Type("run" + enter)
	x.Expect(`spinning\n`)
	x.Type(ctrlC)
	x.Expect(`received signal SIGINT`)
	x.prompt()
	x.run("vmmap -A0 -B0 main kept", `kept\n► .* r-xp .*inferior \+0x[0-9a-f]+\n`)
	if now := x.gdb(); now == gdb {
		t.Error("the same GDB")
	}
}

// History is kept in the user's state folder, for nobody else to read.
func TestHistory(t *testing.T) {
	t.Parallel()
	x := openTerminal(t)
	x.prompt()
	x.run("print 6*7", `42\n`)
	x.Type("quit" + enter)
	x.Status()
	var file string
	for _, v := range x.Cmd.Env {
		if dir, found := strings.CutPrefix(v, "XDG_STATE_HOME="); found {
			file = filepath.Join(dir, "dbgsh", "history")
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^print 6\*7$`).Match(text) || bytes.Count(text, []byte("\n")) > 2 {
		t.Errorf("history is %q", text)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// -i stays at the prompt after the commands, also when one fails.
func TestStay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, want string }{
		{"print 6*7", `^\$1 = 42\ndbgsh .*\n\(dbgsh\) $`}, {"nosuch", `^-ex nosuch: Undefined .*\n(.*\n)*\(dbgsh\) $`},
	} {
		x := openTerminal(t, "-i", "-ex", c.line)
		x.Expect(c.want)
		x.run("print 1", `\d = 1\n`)
		x.Type(ctrlD)
		if s := x.Status(); s != 0 {
			t.Errorf("exit status %d", s)
		}
	}
}

// Without -i dbgsh leaves, on a terminal too.
func TestLeaveAfterCommands(t *testing.T) {
	t.Parallel()
	x := openTerminal(t, "-ex", "print 6*7")
	x.Expect(`^\$1 = 42\n$`)
	if s := x.Status(); s != 0 {
		t.Errorf("exit status %d", s)
	}
}

// Results are coloured on a terminal, unless the user wants none.
func TestColor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flag, env string
		want      bool
	}{
		{"auto", "TERM=xterm-256color", true}, {"auto", "NO_COLOR=1", false}, {"auto", "TERM=dumb", false},
		{"never", "TERM=xterm-256color", false}, {"always", "NO_COLOR=1", true}, {"always", "TERM=dumb", true},
	} {
		cmd := dbgsh(t, "-color", c.flag, "-ex", "vmmap_add 0 4096 rx", "-ex", "vmmap")
		cmd.Env = append(cmd.Env, c.env)
		x := onTerminal(t, cmd)
		raw := x.All()
		if got := strings.Contains(raw, "\x1b[31m"); got != c.want || !strings.Contains(raw, "r-x?") {
			t.Errorf("-color %s, %s: coloured %v\n%s", c.flag, c.env, got, raw)
		}
	}
}

// Tab completes dbgsh's words and GDB's.
func TestCompletion(t *testing.T) {
	t.Parallel()
	x := openTerminal(t, program(t, "testdata/inferior.c"))
	x.prompt()
	x.Type("vmmap_c\t")
	x.Expect(`vmmap_clear $`)
	x.Type(enter)
	x.Expect(`0 added mappings dropped\n`)
	x.prompt()
	x.Type("info line checkp\t")
	x.Expect(`info line checkpoint $`)
	x.Type(enter)
	x.Expect(`Line \d+ of .*inferior\.c`)
	x.prompt()
}
