package commands

import (
	"context"

	"dbgsh/vm"
	"dbgsh/vm/search"
)

// Session is what commands work with: what is debugged, by the parts that they
// play, its map, and the settings. Commands run one at a time.
type Session struct {
	Eval     Evaluator
	Maps     *vm.Overlay
	Memory   MemoryOpener
	Program  Program
	Explorer Explorer
	Machine  Machine
	Status   Statuser
	Help     Helper
	Found    FoundKeeper
	// Changed says that what is known of the debuggee may not hold any more.
	Changed  func()
	Registry *Registry
	Settings *Settings
	// Progress, if not nil, is told of work that may take long: update with
	// how much of it is done, and finish when it is over.
	Progress func(what string) (update func(done, total uint64), finish func())

	last         *search.Snapshot // the hits of the last search, nil before the first
	lastPhysical bool             // their addresses are physical ones
	lastCut      bool             // there were more than are kept
}

// Debuggee is all that commands need of what is debugged. Its methods may be
// called from one goroutine at a time.
type Debuggee interface {
	vm.Mapper
	Evaluator
	MemoryOpener
	Program
	Explorer
	Machine
	Statuser
	Helper
	FoundKeeper
	// Changed says that what is known of the debuggee may not hold any more.
	Changed()
}

// NewSession is a session with d, in which nothing has been searched for yet.
func NewSession(d Debuggee, r *Registry, settings *Settings) *Session {
	return &Session{
		Eval: d, Maps: vm.NewOverlay(d), Memory: d, Program: d, Explorer: d, Machine: d, Status: d, Help: d, Found: d,
		Changed: d.Changed, Registry: r, Settings: settings,
	}
}

// Evaluator knows expressions.
type Evaluator interface {
	// Evaluate is the value of a GDB expression that is an integer or a
	// pointer, an array or a function (its address); a negative integer comes in two's
	// complement, and negative is true. Nothing in the debuggee is changed by it. A
	// *target.ValueError says why there is no such value; other errors wrap
	// vm.ErrNoProcess, or say that GDB could not be asked.
	Evaluate(ctx context.Context, expr string) (value uint64, negative bool, err error)
}
