package repl

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// tty keeps the modes of the user's terminal. It is safe for concurrent use.
type tty struct {
	fd       int
	original unix.Termios // as dbgsh found it
	command  unix.Termios // while a line runs

	mu     sync.Mutex
	lent   bool // others have the terminal
	prompt bool // liner has it, with a prompt on the screen
}

// newTTY takes the mode that liner has set, in which keys come one by one
// without an echo, for that in which lines run. There Ctrl-Z and Ctrl-\ are
// bytes like any other, so that they reach the inferior, which then stops as
// GDB's users know it; Ctrl-C is ours.
func newTTY(in *os.File, original *unix.Termios) (*tty, error) {
	t := &tty{fd: int(in.Fd()), original: *original}
	mode, err := unix.IoctlGetTermios(t.fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t.command = *mode
	t.command.Cc[unix.VSUSP] = 0 // _POSIX_VDISABLE on Linux
	t.command.Cc[unix.VQUIT] = 0
	t.set(&t.command)
	return t, nil
}

// set fails only where the terminal has hung up, which reading from it tells.
func (t *tty) set(mode *unix.Termios) { unix.IoctlSetTermios(t.fd, unix.TCSETSW, mode) }

// lend gives the terminal, as dbgsh found it, to others until back is called.
func (t *tty) lend() (back func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lent = true
	t.set(&t.original)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.lent = false
		t.set(&t.command)
	}
}

// prompting says whether liner shows a prompt. Ctrl-C is a key like any other
// there; liner itself sees to that only after the prompt is on the screen.
func (t *tty) prompting(on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prompt = on
	t.set(t.mode())
}

// mode is what the terminal is to be in while it is ours.
func (t *tty) mode() *unix.Termios {
	mode := t.command
	if t.prompt {
		mode.Lflag &^= unix.ISIG
	}
	return &mode
}

// resume puts the terminal back into its mode after dbgsh was stopped and went
// on: the shell above has set its own meanwhile.
func (t *tty) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lent {
		return
	}
	t.set(t.mode())
	if t.prompt {
		redraw()
	}
}

// redraw makes liner show the prompt and what was typed again: it does so for
// a change of the window's size, and has no other way to be asked.
func redraw() { unix.Kill(unix.Getpid(), unix.SIGWINCH) }
