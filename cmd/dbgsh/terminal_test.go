package main

import (
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
)

// keys that a person presses.
const (
	enter = "\r"
	ctrlC = "\x03"
	ctrlD = "\x04"
)

// terminal is dbgsh on a terminal.
type terminal struct {
	*testkit.Terminal
	t *testing.T
}

// openTerminal starts dbgsh on a terminal of 30 rows and 100 columns.
func openTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	return onTerminal(t, dbgsh(t, args...))
}

func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	return &terminal{testkit.OpenTerminal(t, cmd, 30, 100), t}
}

// underWay waits until a line that was entered runs: until then Ctrl-C is a key
// of the line editor.
func (x *terminal) underWay() {
	x.t.Helper()
	testkit.WaitFor(x.t, "line that runs", func() bool { return x.Mode().Lflag&unix.ISIG != 0 })
}

// prompt waits for an empty prompt with nothing behind it.
func (x *terminal) prompt() {
	x.t.Helper()
	x.Expect(`(^|\n)\(dbgsh\) $`)
}

// run types a line at the prompt, waits for the pattern, and for the prompt.
func (x *terminal) run(line, pattern string) []string {
	x.t.Helper()
	x.Type(line + enter)
	x.Expect(regexp.QuoteMeta(line) + `\n`)
	m := x.Expect(pattern)
	x.prompt()
	return m
}

// inferior is the process id of the debuggee, which must be stopped.
func (x *terminal) inferior() int {
	x.t.Helper()
	m := x.run(`python print("pid", gdb.selected_inferior().pid)`, `pid (\d+)\n`)
	return atoi(x.t, m[1])
}

// gdb is the process id of GDB, which must wait for commands.
func (x *terminal) gdb() int {
	x.t.Helper()
	m := x.run(`python import os; print("gdb", os.getpid())`, `gdb (\d+)\n`)
	return atoi(x.t, m[1])
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// isRunning reports whether a process is alive and not a zombie, nor stopped.
func isRunning(pid int) bool {
	switch testkit.State(pid) {
	case "R", "S", "D":
		return true
	}
	return false
}
