package repl

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// signals is the one owner of the signals that dbgsh acts on.
type signals struct {
	interrupt chan os.Signal // SIGINT
	terminate chan os.Signal // SIGTERM, SIGHUP
	foreign   atomic.Bool    // a child has the terminal: SIGINT is its own
}

func newSignals() *signals {
	return &signals{interrupt: make(chan os.Signal, 1), terminate: make(chan os.Signal, 1)}
}

// The reasons why the line under way is to end.
var (
	errInterrupted = errors.New("interrupted")
	errTerminated  = errors.New("terminated")
	errNoReader    = errors.New("nobody reads standard output")
)

// Start makes the shell the owner of SIGINT, SIGTERM, SIGHUP, SIGPIPE and
// SIGWINCH until stop is called, and gives the inferior the terminal's size.
func (sh *Shell) Start() (stop func()) {
	s := sh.signals
	// What the parent had us ignore (nohup, a shell's &) stays ignored.
	if !signal.Ignored(unix.SIGINT) {
		signal.Notify(s.interrupt, unix.SIGINT)
	}
	signal.Notify(s.terminate, unix.SIGTERM)
	if !signal.Ignored(unix.SIGHUP) {
		signal.Notify(s.terminate, unix.SIGHUP)
	}
	// With a receiver, a write to a broken pipe fails and does not kill us;
	// unlike with signal.Ignore, children do not inherit that.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, unix.SIGPIPE)
	other := make(chan os.Signal, 4)
	signal.Notify(other, unix.SIGWINCH, unix.SIGCONT)
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for {
			sh.resize()
			select {
			case sig := <-other:
				if t := sh.tty.Load(); t != nil && sig == unix.SIGCONT {
					t.resume()
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(s.interrupt)
		signal.Stop(s.terminate)
		signal.Stop(pipe)
		signal.Stop(other)
		close(done)
		<-finished
	}
}

// resize gives the inferior the size of the terminal, if there is one.
func (sh *Shell) resize() {
	if sh.Stdin == nil {
		return
	}
	size, err := unix.IoctlGetWinsize(int(sh.Stdin.Fd()), unix.TIOCGWINSZ)
	if err == nil && size.Row > 0 && size.Col > 0 {
		sh.Debugger.Resize(size.Row, size.Col)
	}
}

// defaultPatience is how long a cancelled line may take to end before its end is
// enforced, or Ctrl-C enforces it. A target with thousands of threads takes a
// good part of a second to stop.
const defaultPatience = 2 * time.Second

// stuckError says that a line did not end even without GDB.
type stuckError struct{}

func (stuckError) Error() string { return "the command does not end" }
func (stuckError) Lost() bool    { return true }

// attend runs f. Ctrl-C, SIGTERM and a standard output that nobody reads
// cancel its context. Where that does not end it, a further Ctrl-C (a further
// wait with the others) gives up a standard output that takes nothing, the next
// kills GDB, and one more gives up and leaves.
func (sh *Shell) attend(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()

	failed := sh.Output.failed
	var late <-chan time.Time
	killed, gaveUp := false, false
	end := func(cause error) {
		if ctx.Err() == nil {
			cancel(cause)
			late = time.After(sh.patience)
		}
	}
	enforce := func() (giveUp bool) {
		switch {
		case !gaveUp && sh.Output.blocked(): // GDB may only be waiting for us
			gaveUp = true
			sh.Output.giveUp()
			late = time.After(sh.patience)
			return false
		case killed:
			return true
		}
		killed = true
		sh.Output.Complain("GDB does not answer and is killed")
		sh.Debugger.Kill()
		late = time.After(sh.patience)
		return false
	}
	for {
		giveUp := false
		select {
		case err := <-done:
			if c := context.Cause(ctx); c == errTerminated || c == errNoReader {
				sh.left = true
			}
			return err
		case <-sh.signals.interrupt:
			switch {
			case sh.signals.foreign.Load():
			case ctx.Err() == nil:
				end(errInterrupted)
			case late == nil:
				giveUp = enforce()
			}
		case <-sh.signals.terminate:
			end(errTerminated)
		case <-failed:
			failed = nil
			end(errNoReader)
		case <-late:
			late = nil
			switch {
			case context.Cause(ctx) != errInterrupted:
				giveUp = enforce()
			case !gaveUp && sh.Output.blocked():
				sh.Output.Complain("standard output takes nothing; Ctrl-C once more gives it up and leaves")
			case killed:
				sh.Output.Complain("no answer yet; Ctrl-C once more leaves dbgsh")
			default:
				sh.Output.Complain("no answer yet; Ctrl-C once more kills GDB")
			}
		}
		if giveUp {
			sh.fail("", "", stuckError{})
			sh.left = true
			return errReported
		}
	}
}
