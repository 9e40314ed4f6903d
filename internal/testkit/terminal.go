package testkit

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Terminal is a program on a terminal of its own, as its controlling one.
type Terminal struct {
	Cmd *exec.Cmd

	t      testing.TB
	pty    *os.File
	exited chan struct{} // closed when the program has ended
	read   chan struct{} // closed when all was read

	mu      sync.Mutex
	screen  []byte        // what was written and not yet expected
	changed chan struct{} // closed when screen next changes
}

// OpenTerminal starts a program, which ends with the test.
func OpenTerminal(t testing.TB, cmd *exec.Cmd, rows, cols uint16) *Terminal {
	t.Helper()
	x := &Terminal{Cmd: cmd, t: t, exited: make(chan struct{}), read: make(chan struct{}), changed: make(chan struct{})}
	blocking, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: rows, Cols: cols})
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
		_ = cmd.Wait() // Status tells
		close(x.exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		<-x.exited
		x.pty.Close()
		<-x.read
	})
	return x
}

// escapes are the sequences that move the cursor and colour (ECMA-48).
const escapes = "\x1b\\[[0-9;?]*[A-Za-z]|\r"

// Expect waits until the pattern matches what was written since the last
// match, without escape sequences and carriage returns, and returns the match
// and its groups.
func (x *Terminal) Expect(pattern string) []string {
	x.t.Helper()
	re, invisible := regexp.MustCompile(pattern), regexp.MustCompile(escapes)
	limit := time.After(Patience)
	for {
		x.mu.Lock()
		text := invisible.ReplaceAll(x.screen, nil)
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
		case <-x.read:
			select {
			case <-changed: // the last of it
			default:
				x.t.Fatalf("the program ended without %s; there is\n%s", pattern, text)
			}
		}
	}
}

// Type presses keys.
func (x *Terminal) Type(keys string) {
	x.t.Helper()
	if _, err := x.pty.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// Paste is Type of more than may be read: what is left ends with the terminal.
func (x *Terminal) Paste(keys string) {
	go func() { _, _ = x.pty.WriteString(keys) }()
}

// HangUp closes the terminal.
func (x *Terminal) HangUp() { x.pty.Close() }

// control does something to the terminal. Fd would make the file a blocking one.
func (x *Terminal) control(do func(fd int) error) error {
	conn, err := x.pty.SyscallConn()
	if err != nil {
		return err
	}
	if gone := conn.Control(func(fd uintptr) { err = do(int(fd)) }); gone != nil {
		return gone
	}
	return err
}

// Resize makes the window another size.
func (x *Terminal) Resize(rows, cols uint16) {
	x.t.Helper()
	if err := x.control(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	}); err != nil {
		x.t.Fatal(err)
	}
}

// Mode is the terminal's mode.
func (x *Terminal) Mode() (mode unix.Termios) {
	x.t.Helper()
	if err := x.control(func(fd int) error {
		m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			mode = *m
		}
		return err
	}); err != nil {
		x.t.Fatal(err)
	}
	return mode
}

// Status waits for the end of the program and returns its exit status.
func (x *Terminal) Status() int {
	x.t.Helper()
	select {
	case <-x.exited:
	case <-time.After(Patience):
		x.mu.Lock()
		defer x.mu.Unlock()
		x.t.Fatalf("%s does not end; there is\n%s", x.Cmd.Path, x.screen)
	}
	return x.Cmd.ProcessState.ExitCode()
}

// All waits for the end of the program and returns what was written and not
// expected, as it came.
func (x *Terminal) All() string {
	x.t.Helper()
	x.Status()
	<-x.read
	x.mu.Lock()
	defer x.mu.Unlock()
	return string(x.screen)
}
