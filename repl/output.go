package repl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Output is where everything that is shown goes: results and what GDB prints,
// errors, and the inferior's own output. It is safe for concurrent use.
type Output struct {
	stdout, stderr io.Writer
	json           bool

	writing atomic.Int32  // writes under way to files
	given   chan struct{} // closed by giveUp
	once    sync.Once     // closes given

	mu       sync.Mutex
	midLine  bool          // the last thing written to the terminal did not end its line
	redraw   func()        // while a prompt is shown: shows it again
	held     []byte        // the begin of a line that came while a prompt is shown
	later    *time.Timer   // shows held
	err      error         // first error of stdout
	failed   chan struct{} // closed when err is set, for good
	terminal bool          // stdout is one
}

// NewOutput writes results to stdout and errors to stderr. With json, stdout
// is kept free of anything else.
func NewOutput(stdout, stderr io.Writer, json bool) *Output {
	return &Output{
		stdout: stdout, stderr: stderr, json: json,
		failed: make(chan struct{}), given: make(chan struct{}), terminal: isTerminal(stdout),
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
	n, err := o.put(o.stdout, p)
	if n > 0 {
		o.midLine = p[n-1] != '\n'
	}
	if err != nil {
		o.err = err
		close(o.failed)
		if !errors.Is(err, unix.EPIPE) { // a reader that has enough is no news
			o.warn(fmt.Sprintf("write standard output: %v\n", err))
		}
	}
	return n, err
}

// errGivenUp is the error of writes after giveUp.
var errGivenUp = errors.New("it takes nothing, and is given up")

// put writes p to w. A file that takes nothing holds it up until giveUp.
func (o *Output) put(w io.Writer, p []byte) (int, error) {
	if _, ok := w.(*os.File); !ok {
		return w.Write(p)
	}
	type written struct {
		n   int
		err error
	}
	done := make(chan written, 1)
	own := bytes.Clone(p) // the write may outlast the call
	o.writing.Add(1)
	defer o.writing.Add(-1)
	go func() {
		n, err := w.Write(own)
		done <- written{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-o.given:
		return 0, errGivenUp
	}
}

// blocked reports whether a write is under way that may be waiting for a reader.
func (o *Output) blocked() bool { return o.writing.Load() > 0 }

// giveUp ends the writes that are under way; those to come fail.
func (o *Output) giveUp() { o.once.Do(func() { close(o.given) }) }

// warnLimit is how long standard error may take for a line.
const warnLimit = time.Second

// warn writes text to standard error. It leaves one that takes nothing alone.
func (o *Output) warn(text string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.WriteString(o.stderr, text) // nobody is left to be told of an error here
	}()
	select {
	case <-done:
	case <-time.After(warnLimit):
	}
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
		return o.put(o.stderr, p)
	}
	if o.redraw == nil || len(p) == 0 {
		return o.write(p)
	}
	// A prompt is on the screen, which is to be shown again below each text: so
	// lines are shown whole where the rest of one comes soon.
	o.held = append(o.held, p...)
	end := bytes.LastIndexByte(o.held, '\n') + 1
	if len(o.held)-end > maxHeld {
		end = len(o.held)
	}
	if end > 0 {
		err := o.interject(o.held[:end])
		o.held = append(o.held[:0], o.held[end:]...)
		if err != nil {
			return 0, err
		}
	}
	if o.later != nil {
		o.later.Stop()
	}
	if len(o.held) > 0 {
		o.later = time.AfterFunc(heldFor, o.release)
	}
	return len(p), nil
}

const (
	heldFor = 100 * time.Millisecond // how long a line may wait for its rest
	maxHeld = 64 << 10               // bytes of a line that waits
)

// release shows what waits for the end of its line.
func (o *Output) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.held) > 0 {
		o.interject(o.held)
		o.held = nil
	}
}

// interject shows text on the line of the prompt, and the prompt again below.
// "\r\x1b[K" is ECMA-48's carriage return and erase in line.
func (o *Output) interject(text []byte) error {
	if o.redraw == nil { // the prompt is gone
		_, err := o.write(text)
		return err
	}
	text = append([]byte("\r\x1b[K"), text...)
	if text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	_, err := o.write(text)
	if err == nil {
		o.redraw()
	}
	return err
}

// Complain writes a line to standard error, at the start of a line where both
// outputs may be the same terminal. It does not wait for standard output.
func (o *Output) Complain(line string) {
	text := line + "\n"
	if o.mu.TryLock() {
		if o.midLine && o.terminal {
			text = "\n" + text
		}
		o.midLine = false
		defer o.mu.Unlock()
	}
	o.warn(text)
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
	if redraw == nil && len(o.held) > 0 {
		o.interject(o.held)
		o.held = nil
	}
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
