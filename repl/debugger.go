package repl

import (
	"context"
	"errors"
	"io"
)

// Debugger is the GDB behind the shell. Console and Help are called from one
// goroutine at a time, the other methods from any.
type Debugger interface {
	// Console runs one line in GDB; what GDB prints goes to out, and nothing
	// more of it after the return. It returns when GDB has finished the line
	// and a target that the line set running in the foreground has stopped.
	// A cancelled ctx interrupts GDB or the target; the error then is nil, if
	// the target stopped, or wraps context.Canceled. Other errors have GDB's
	// own message.
	Console(ctx context.Context, line string, out io.Writer) error
	// Complete is what GDB completes a line to, whole lines.
	Complete(ctx context.Context, line string) ([]string, error)
	// Help is what GDB's help says of a topic.
	Help(ctx context.Context, topic string) (string, error)
	// Running reports whether the target runs; changed is closed when the
	// answer next changes.
	Running() (running bool, changed <-chan struct{})
	// Started reports whether a process that dbgsh started is alive.
	Started() bool
	// Alive reports whether any process is being debugged.
	Alive() bool
	// Keyboard types p to the inferior. It waits while the inferior cannot take
	// more, until ctx is done, and says how many bytes were taken; an error
	// means that nobody takes any.
	Keyboard(ctx context.Context, p []byte) (n int, err error)
	// KeyboardEOF types the end-of-file character to the inferior. It waits
	// like Keyboard.
	KeyboardEOF(ctx context.Context) error
	// Resize gives the inferior's terminal its size, in characters.
	Resize(rows, cols uint16)
	// Kill ends a GDB that does not answer. Whoever waits for it gets an error.
	Kill()
}

// isLost reports whether err says that GDB or the target is gone.
func isLost(err error) bool {
	var l interface{ Lost() bool }
	return errors.As(err, &l) && l.Lost()
}

// hint is what an error adds on what to do, or "".
func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}
