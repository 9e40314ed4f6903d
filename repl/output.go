package repl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// Output is where everything that is shown goes: results and what GDB prints,
// errors, and the inferior's own output. It is safe for concurrent use.
type Output struct {
	stdout, stderr io.Writer
	json           bool

	mu       sync.Mutex
	midLine  bool          // the last thing written to the terminal did not end its line
	redraw   func()        // while a prompt is shown: shows it again
	err      error         // first error of stdout
	failed   chan struct{} // closed when err is set, for good
	terminal bool          // stdout is one
}

// NewOutput writes results to stdout and errors to stderr. With json, stdout
// is kept free of anything else.
func NewOutput(stdout, stderr io.Writer, json bool) *Output {
	return &Output{
		stdout: stdout, stderr: stderr, json: json,
		failed: make(chan struct{}), terminal: isTerminal(stdout),
	}
}

// Write writes to standard output.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.write(p)
}

func (o *Output) write(p []byte) (int, error) {
	if o.err != nil || len(p) == 0 { // a device may fail even an empty write
		return 0, o.err
	}
	n, err := o.stdout.Write(p)
	if n > 0 {
		o.midLine = p[n-1] != '\n'
	}
	if err != nil {
		o.err = err
		close(o.failed)
		if !errors.Is(err, unix.EPIPE) { // a reader that has enough is no news
			fmt.Fprintf(o.stderr, "write standard output: %v\n", err)
		}
	}
	return n, err
}

// Inferior is a writer for what the inferior prints, and for what GDB says
// without being asked. It is safe for use from any goroutine.
func (o *Output) Inferior() io.Writer { return inferiorOutput{o} }

type inferiorOutput struct{ o *Output }

func (w inferiorOutput) Write(p []byte) (int, error) {
	o := w.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.json {
		return o.stderr.Write(p)
	}
	if o.redraw == nil || len(p) == 0 {
		return o.write(p)
	}
	// A prompt is on the screen: the text takes its line, and it comes again
	// below. "\r\x1b[K" is ECMA-48's carriage return and erase in line.
	text := append([]byte("\r\x1b[K"), p...)
	if !bytes.HasSuffix(p, []byte("\n")) {
		text = append(text, '\n')
	}
	if _, err := o.write(text); err != nil {
		return 0, err
	}
	o.redraw()
	return len(p), nil
}

// complain writes a line to standard error, at the start of a line where both
// outputs may be the same terminal. It does not wait for standard output.
func (o *Output) complain(line string) {
	text := line + "\n"
	if o.mu.TryLock() {
		if o.midLine && o.terminal {
			text = "\n" + text
		}
		o.midLine = false
		defer o.mu.Unlock()
	}
	io.WriteString(o.stderr, text) // nobody is left to be told of an error here
}

// startLine ends the line that the cursor is in, if it is not at its start.
func (o *Output) startLine() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.midLine {
		o.write([]byte("\n"))
	}
}

// prompting says that a prompt is on the screen, which redraw shows again, or
// with nil that none is.
func (o *Output) prompting(redraw func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.redraw = redraw
	o.midLine = false
}

// lent runs f, which writes to standard output by itself.
func (o *Output) lent(f func(stdout, stderr io.Writer) error) error {
	err := f(o.stdout, o.stderr)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.midLine = false
	return err
}

// broken reports whether standard output takes nothing any more, and failed
// whether that is for another reason than that its reader is gone.
func (o *Output) broken() (broken, failed bool) {
	select {
	case <-o.failed:
		return true, !errors.Is(o.err, unix.EPIPE)
	default:
		return false, false
	}
}
