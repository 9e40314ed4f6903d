package vm

import (
	"errors"
	"fmt"
)

// ErrNoProcess says that there is no debuggee whose map could be read.
var ErrNoProcess = errors.New(`no process: start one with "run", or attach with "attach PID"`)

// ErrProcessGone says that the process whose memory was read is no more: it
// exited, or replaced itself by execve(2).
var ErrProcessGone = errors.New("the process exited")

// ErrSwapped says that memory was not read because it is not in RAM: it is in
// swap, or userfaultfd(2) has marked it. See Swapper.
var ErrSwapped = errors.New("in swap")

// ParseError says which line of a text could not be read as a mapping.
type ParseError struct {
	Line int    // counted from 1
	Text string // the line
	Why  string
}

func (e *ParseError) Error() string {
	text := e.Text
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return fmt.Sprintf("line %d: %s: %q", e.Line, e.Why, text)
}
