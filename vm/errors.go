package vm

import "errors"

// ErrNoProcess says that there is no debuggee whose map could be read.
var ErrNoProcess = errors.New(`no process: start one with "run", or attach with "attach PID"`)
