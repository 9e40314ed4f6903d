package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
)

// patience bounds every wait of a test; a passing test waits for far less.
const patience = 30 * time.Second

// keys that a person presses.
const (
	enter = "\r"
	ctrlC = "\x03"
	ctrlD = "\x04"
)

// terminal is dbgsh on a terminal of its own, as its controlling one.
type terminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	pty    *os.File
	exited chan struct{} // closed when dbgsh has ended
	read   chan struct{} // closed when all was read

	mu      sync.Mutex
	screen  []byte        // what was written and not yet expected
	changed chan struct{} // closed when screen next changes
}

// openTerminal starts dbgsh on a terminal of 30 rows and 100 columns.
func openTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	return onTerminal(t, dbgsh(t, args...))
}

func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	x := &terminal{t: t, cmd: cmd, exited: make(chan struct{}), read: make(chan struct{}), changed: make(chan struct{})}
	blocking, err := pty.StartWithSize(x.cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	// A file on which Close ends a Read, and so hangs up.
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	blocking.Close()
	x.pty = os.NewFile(uintptr(fd), "terminal")
	go func() {
		defer close(x.read)
		buf := make([]byte, 32<<10)
		for {
			n, err := x.pty.Read(buf)
			x.mu.Lock()
			x.screen = append(x.screen, buf[:n]...)
			close(x.changed)
			x.changed = make(chan struct{})
			x.mu.Unlock()
			if err != nil { // EIO: the last user of the terminal is gone
				return
			}
		}
	}()
	go func() {
		x.cmd.Wait()
		close(x.exited)
	}()
	t.Cleanup(func() {
		x.cmd.Process.Kill()
		<-x.exited
		x.pty.Close()
		<-x.read
	})
	return x
}

// all waits for the end of dbgsh and returns what was written, as it came.
func (x *terminal) all() string {
	x.t.Helper()
	x.status()
	<-x.read
	x.mu.Lock()
	defer x.mu.Unlock()
	return string(x.screen)
}

// escapes are the sequences that move the cursor and colour (ECMA-48).
var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// expect waits until the pattern matches what was written since the last
// match, without escape sequences and carriage returns, and returns the match
// and its groups.
func (x *terminal) expect(pattern string) []string {
	x.t.Helper()
	re := regexp.MustCompile(pattern)
	limit := time.After(patience)
	for {
		x.mu.Lock()
		text := bytes.ReplaceAll(escapes.ReplaceAll(x.screen, nil), []byte("\r"), nil)
		at := re.FindSubmatchIndex(text)
		if at != nil {
			x.screen = bytes.Clone(text[at[1]:])
			x.mu.Unlock()
			var groups []string
			for i := 0; i < len(at); i += 2 {
				groups = append(groups, string(text[at[i]:at[i+1]]))
			}
			return groups
		}
		changed := x.changed
		x.mu.Unlock()
		select {
		case <-changed:
		case <-limit:
			x.t.Fatalf("%s does not come; there is\n%s", pattern, text)
		}
	}
}

// resize makes the window another size.
func (x *terminal) resize(rows, cols uint16) {
	x.t.Helper()
	conn, err := x.pty.SyscallConn() // Fd would make the file a blocking one
	if err != nil {
		x.t.Fatal(err)
	}
	size := &unix.Winsize{Row: rows, Col: cols}
	if err := conn.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) }); err != nil {
		x.t.Fatal(err)
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

// underWay waits until a line that was entered runs: until then Ctrl-C is a key
// of the line editor.
func (x *terminal) underWay() {
	x.t.Helper()
	conn, err := x.pty.SyscallConn()
	if err != nil {
		x.t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		signals := false
		if err := conn.Control(func(fd uintptr) {
			mode, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
			signals = err == nil && mode.Lflag&unix.ISIG != 0
		}); err != nil {
			x.t.Fatal(err)
		}
		if signals {
			return
		}
	}
	x.t.Fatal("the line does not run")
}

// prompt waits for an empty prompt with nothing behind it.
func (x *terminal) prompt() {
	x.t.Helper()
	x.expect(`(^|\n)\(dbgsh\) $`)
}

// key presses keys.
func (x *terminal) key(keys string) {
	x.t.Helper()
	if _, err := x.pty.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// run types a line at the prompt, waits for the pattern, and for the prompt.
func (x *terminal) run(line, pattern string) []string {
	x.t.Helper()
	x.key(line + enter)
	x.expect(regexp.QuoteMeta(line) + `\n`)
	m := x.expect(pattern)
	x.prompt()
	return m
}

// status waits for the end of dbgsh and returns its exit status.
func (x *terminal) status() int {
	x.t.Helper()
	select {
	case <-x.exited:
	case <-time.After(patience):
		x.mu.Lock()
		defer x.mu.Unlock()
		x.t.Fatalf("dbgsh does not end; there is\n%s", x.screen)
	}
	return x.cmd.ProcessState.ExitCode()
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
