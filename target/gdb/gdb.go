// Package gdb is one GDB: starting and ending it, taking turns at it, its
// console, questions to it and to the stub behind it, memory through it, and the
// texts that it prints.
package gdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"

	"dbgsh/target/mi"
)

// Config says how to start GDB, and on what.
type Config struct {
	GDB      string // path or name of GDB; "" is gdb-multiarch where installed, else gdb
	StartUp  bool   // let GDB read its own start-up files
	Program  string // file to debug, may be ""
	Args     []string
	Terminal bool      // a person types at the inferior's terminal
	NoInput  bool      // nobody types there: the inferior's input is at its end
	Inferior io.Writer // gets what the inferior writes to its terminal
	Stray    io.Writer // gets what GDB prints when no line is under way
	Log      io.Writer // gets every line to and from GDB, may be nil
}

// GDB is one GDB after the other: when one has ended, a line that brings a
// debuggee starts the next. Its methods may be called from several goroutines;
// GDB works on one call after the other.
type GDB struct {
	cfg  Config
	tty  *tty
	turn chan struct{} // holds one while somebody talks to GDB

	changes   atomic.Uint64 // see Stamp
	processes atomic.Uint64

	mu      sync.Mutex
	client  *mi.Client // nil before Start and after Close
	program string     // the program that a new GDB is given
	found   *found     // what a search found that GDB has not been told, nil for nothing
	running bool
	partly  bool          // a thread has stopped while others may run (non-stop mode)
	turned  chan struct{} // closed when running next changes
	ran     bool          // the inferior has run since its output was last drained
	asked   bool          // a question is under way, see Turn.question
	ended   bool          // the debuggee has ended since it began
	lost    *LostError    // see Lost
}

// Stamp tells one state of the debuggee from another.
type Stamp struct {
	// Changes counts what may have changed the debuggee or what is selected:
	// a stop, a line given to GDB, a record of GDB's that says so.
	Changes uint64
	// Processes counts the processes that came and went.
	Processes uint64
}

// Stamp is the state as it is now. It is read before what is to hang on it, so
// that what changes meanwhile shows.
func (g *GDB) Stamp() Stamp { return Stamp{g.changes.Load(), g.processes.Load()} }

// New is a GDB that is not started yet. It opens the inferior's terminal.
func New(cfg Config) (*GDB, error) {
	tty, err := openTTY(cfg.Terminal, cfg.Inferior)
	if err != nil {
		return nil, err
	}
	cfg.GDB = Find(cfg.GDB)
	return &GDB{cfg: cfg, tty: tty, program: cfg.Program, turned: make(chan struct{}), turn: make(chan struct{}, 1)}, nil
}

// Find is the path or name of the GDB to start: the one given, else
// gdb-multiarch where it is installed, else gdb.
func Find(name string) string {
	if name != "" {
		return name
	}
	if path, err := exec.LookPath("gdb-multiarch"); err == nil {
		return path
	}
	return "gdb"
}

// Start starts GDB. The error says why it could not be started.
func (g *GDB) Start(ctx context.Context) error {
	argv := []string{g.cfg.GDB, "--quiet", "--tty", g.tty.name}
	if !g.cfg.StartUp {
		argv = append(argv, "--nx")
	}
	client, err := mi.Start(ctx, mi.Config{
		Command: argv,
		Handler: g.event,
		Stray:   g.cfg.Stray,
		Log:     g.cfg.Log,
	})
	if err != nil {
		return err
	}
	g.setRunning(false)
	g.mu.Lock()
	g.client = client
	g.mu.Unlock()
	g.Changed()
	go func() {
		<-client.Done()
		g.setRunning(false)
		g.gone()
	}()
	return nil
}

// Load gives GDB the program, if there is one, and its arguments.
func (g *GDB) Load(ctx context.Context) error {
	g.mu.Lock()
	program := g.program
	g.mu.Unlock()
	if program == "" {
		return nil
	}
	if _, err := g.Send(ctx, "file-exec-and-symbols", program); err != nil {
		return err
	}
	if len(g.cfg.Args) == 0 {
		return nil
	}
	return g.Console(ctx, "set args "+quoteArgs(g.cfg.Args), io.Discard)
}

// quoteArgs writes arguments so that the shell which starts the inferior
// hands them over unchanged.
func quoteArgs(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = quoteArg(a)
	}
	return strings.Join(quoted, " ")
}

func quoteArg(a string) string { return "'" + strings.ReplaceAll(a, "'", `'\''`) + "'" }

// Close ends GDB: what it started is killed, what it attached to goes on. It
// may be called more than once.
func (g *GDB) Close(ctx context.Context) error {
	g.mu.Lock()
	client := g.client
	g.client = nil
	g.mu.Unlock()
	var err error
	if client != nil {
		err = client.Close(ctx)
	}
	return errors.Join(err, g.tty.Close(ctx))
}

// Kill ends a GDB that does not answer, at once. What it started dies with it;
// what it attached to goes on, with GDB's breakpoints still in its code.
func (g *GDB) Kill() {
	g.mu.Lock()
	client := g.client
	g.mu.Unlock()
	if client != nil {
		client.Kill()
	}
}

// event takes GDB's asynchronous records, in order.
func (g *GDB) event(e mi.Event) {
	switch e.Class {
	case "running", "stopped":
		// In non-stop mode each thread stops alone; else it is all of them.
		stopped, alone := e.Payload["stopped-threads"].([]any)
		g.mu.Lock()
		g.partly = alone && len(stopped) > 0
		g.mu.Unlock()
		g.setRunning(e.Class == "running")
		g.Changed()
	case "thread-group-started", "thread-group-exited":
		if g.cfg.NoInput && e.Class == "thread-group-started" {
			g.tty.noInput()
		}
		if e.Class == "thread-group-exited" {
			g.mu.Lock()
			g.ended = g.asked && !g.running && !g.partly // else it may have exited by itself
			g.mu.Unlock()
		}
		g.gone()
	case "memory-changed", "thread-selected", "thread-exited", "library-loaded", "library-unloaded":
		g.Changed()
	}
}

// Changed says that what is known of the debuggee may not hold any more.
func (g *GDB) Changed() { g.changes.Add(1) }

// gone says that what was known of a process is of no use any more.
func (g *GDB) gone() {
	g.processes.Add(1)
	g.Changed()
}

// Live reports whether the debuggee runs, or some of its threads may.
func (g *GDB) Live() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running || g.partly
}

// allStopped says that no thread runs, be it that they have stopped one by one,
// unless something has changed since.
func (g *GDB) allStopped(stamp Stamp) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Stamp() == stamp {
		g.partly = false
	}
}

// Running reports whether the debuggee runs; changed is closed when the answer
// next changes.
func (g *GDB) Running() (running bool, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running, g.turned
}

func (g *GDB) setRunning(running bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ran = g.ran || running
	if g.running != running {
		g.running = running
		close(g.turned)
		g.turned = make(chan struct{})
	}
}

// alive is the client of a GDB that was started.
func (g *GDB) alive() (*mi.Client, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client == nil {
		return nil, &LostError{What: "GDB", Reason: "it was not started"}
	}
	return g.client, nil
}

// remember keeps the program that a new GDB would be given.
func (g *GDB) remember(ctx context.Context) {
	if inf, err := g.Inferior(ctx); err == nil && inf.Program != "" {
		g.mu.Lock()
		g.program = inf.Program
		g.mu.Unlock()
	}
}

// drain hands on what the inferior has written, if it has run since the last
// time, and reports whether it has.
func (g *GDB) drain(ctx context.Context) (ran bool) {
	g.mu.Lock()
	ran = g.ran
	g.ran = g.running
	g.mu.Unlock()
	if ran {
		g.tty.drain(ctx)
	}
	return ran
}

// Keyboard types p at the inferior's terminal. It waits while that takes no
// more, until ctx is done, and returns how many bytes were taken.
func (g *GDB) Keyboard(ctx context.Context, p []byte) (n int, err error) {
	return g.tty.write(ctx, p)
}

// KeyboardEOF types the end of a file at the inferior's terminal.
// It waits like Keyboard.
func (g *GDB) KeyboardEOF(ctx context.Context) error { return g.tty.eof(ctx) }

// Resize sets the size of the inferior's terminal, in characters.
func (g *GDB) Resize(rows, cols uint16) {
	// A terminal that was closed needs no size.
	_ = g.tty.resize(rows, cols)
}

// Complete is what GDB would complete the line to, whole lines.
func (g *GDB) Complete(ctx context.Context, line string) ([]string, error) {
	res, err := g.Send(ctx, "complete", line)
	if err != nil {
		return nil, err
	}
	return res.Strings("matches"), nil
}

// Help is what GDB's help says of a topic.
func (g *GDB) Help(ctx context.Context, topic string) (string, error) {
	return g.Query(ctx, strings.TrimSpace("help "+topic))
}

// Version is GDB's version, like 13.1.
func (g *GDB) Version(ctx context.Context) (string, error) {
	text, err := g.Query(ctx, "show version")
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(text, "\n")
	if i := strings.LastIndexByte(first, ' '); i >= 0 {
		return first[i+1:], nil
	}
	return "", fmt.Errorf("GDB does not say its version: %q", first)
}
