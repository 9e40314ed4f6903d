// Package target is one debuggee behind one GDB: starting and ending both,
// handing lines to GDB, evaluating, and the sources of memory maps, one file
// for each kind of target.
package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"dbgsh/target/mi"
	"dbgsh/vm"
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
	OnChange func()    // called when the debuggee's memory may have changed; quick, from any goroutine
	OnGone   func()    // called when a process is gone, or a new one comes; quick, from any goroutine
	// QEMUUserMap says where the map of a program in QEMU's user mode is to be
	// read from, each time that it is read; nil is QEMUUserAuto.
	QEMUUserMap func() QEMUUserMap
	// KernelMap says where the map of a machine in QEMU is to be read from, each
	// time that it is read; nil is KernelMapAuto.
	KernelMap func() KernelMap
}

// Target is a GDB with its debuggee. Its methods may be called from several
// goroutines; GDB works on one call after the other.
type Target struct {
	cfg  Config
	tty  *tty
	turn chan struct{} // holds one while somebody talks to GDB

	changes atomic.Uint64 // counts what may have changed the debuggee

	mu      sync.Mutex
	client  *mi.Client      // nil before Start and after Close
	program string          // the program that a new GDB is given
	stubs   map[string]Kind // what stubs have said of themselves
	guest   *guestState     // what was found out of a QEMU guest last, may be nil
	qsystem *qemuMachine    // the machine in QEMU looked at last

	coreMu  sync.Mutex
	opened  *openCore // the core file read last; guarded by coreMu
	running bool
	partly  bool          // a thread has stopped while others may run (non-stop mode)
	turned  chan struct{} // closed when running next changes
	ran     bool          // the inferior has run since its output was last drained

	physicalOnly bool // never look into QEMU's process, for tests; not to be changed once in use
}

// LostError says that GDB, or the connection to the debuggee, is gone.
type LostError struct {
	What   string // "GDB" or "the target"
	Reason string
}

func (e *LostError) Error() string {
	if e.What == "GDB" {
		return "GDB ended (" + e.Reason + ")"
	}
	return e.What + " is lost: " + e.Reason
}

// Hint says how to go on at a prompt.
func (e *LostError) Hint() string {
	if e.What == "GDB" {
		return `"run", "attach" or "file" starts a new one; added pages are kept.`
	}
	return ""
}

// Lost marks the error for those who do not know its type.
func (e *LostError) Lost() bool { return true }

// Is makes it vm.ErrProcessGone too: nothing can be read any more.
func (e *LostError) Is(err error) bool { return err == vm.ErrProcessGone }

// New is a target whose GDB is not started yet. It opens the inferior's terminal.
func New(cfg Config) (*Target, error) {
	tty, err := openTTY(cfg.Terminal, cfg.Inferior)
	if err != nil {
		return nil, err
	}
	if cfg.GDB == "" {
		cfg.GDB = "gdb"
		if path, err := exec.LookPath("gdb-multiarch"); err == nil {
			cfg.GDB = path
		}
	}
	return &Target{cfg: cfg, tty: tty, program: cfg.Program, turned: make(chan struct{}), stubs: make(map[string]Kind),
		turn: make(chan struct{}, 1)}, nil
}

// Start starts GDB. The error says why it could not be started.
func (t *Target) Start(ctx context.Context) error {
	argv := []string{t.cfg.GDB, "--quiet", "--tty", t.tty.name}
	if !t.cfg.StartUp {
		argv = append(argv, "--nx")
	}
	client, err := mi.Start(ctx, mi.Config{
		Command: argv,
		Handler: t.event,
		Stray:   t.cfg.Stray,
		Log:     t.cfg.Log,
	})
	if err != nil {
		return err
	}
	t.setRunning(false)
	t.mu.Lock()
	t.client = client
	clear(t.stubs) // a new GDB counts its connections anew
	t.mu.Unlock()
	t.changed()
	go func() {
		<-client.Done()
		t.setRunning(false)
		t.gone()
	}()
	return nil
}

// Load gives GDB the program, if there is one, and its arguments.
func (t *Target) Load(ctx context.Context) error {
	t.mu.Lock()
	program := t.program
	t.mu.Unlock()
	if program == "" {
		return nil
	}
	if _, err := t.send(ctx, "file-exec-and-symbols", program); err != nil {
		return err
	}
	if len(t.cfg.Args) == 0 {
		return nil
	}
	return t.Console(ctx, "set args "+quoteArgs(t.cfg.Args), io.Discard)
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
func (t *Target) Close(ctx context.Context) error {
	t.mu.Lock()
	client := t.client
	t.client = nil
	t.mu.Unlock()
	t.coreMu.Lock()
	core := t.opened
	t.opened = nil
	t.coreMu.Unlock()
	var err error
	if client != nil {
		err = client.Close(ctx)
	}
	if core != nil {
		err = errors.Join(err, core.Close())
	}
	return errors.Join(err, t.tty.Close(ctx))
}

// Kill ends a GDB that does not answer, at once. What it started dies with it;
// what it attached to goes on, with GDB's breakpoints still in its code.
func (t *Target) Kill() {
	t.mu.Lock()
	client := t.client
	t.mu.Unlock()
	if client != nil {
		client.Kill()
	}
}

// event takes GDB's asynchronous records, in order.
func (t *Target) event(e mi.Event) {
	switch e.Class {
	case "running", "stopped":
		// In non-stop mode each thread stops alone; else it is all of them.
		stopped, alone := e.Payload["stopped-threads"].([]any)
		t.mu.Lock()
		t.partly = alone && len(stopped) > 0
		t.mu.Unlock()
		t.setRunning(e.Class == "running")
		t.changed()
	case "thread-group-started", "thread-group-exited":
		if t.cfg.NoInput && e.Class == "thread-group-started" {
			t.tty.noInput()
		}
		t.gone()
	case "memory-changed", "thread-selected", "library-loaded", "library-unloaded":
		t.changed()
	}
}

func (t *Target) changed() {
	t.changes.Add(1)
	if t.cfg.OnChange != nil {
		t.cfg.OnChange()
	}
}

// gone says that what was known of a process is of no use any more.
func (t *Target) gone() {
	t.changed()
	if t.cfg.OnGone != nil {
		t.cfg.OnGone()
	}
}

// Running reports whether the debuggee runs; changed is closed when the answer
// next changes.
func (t *Target) Running() (running bool, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.running, t.turned
}

func (t *Target) setRunning(running bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ran = t.ran || running
	if t.running != running {
		t.running = running
		close(t.turned)
		t.turned = make(chan struct{})
	}
}

// gdb is the client of a GDB that is alive.
func (t *Target) gdb() (*mi.Client, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.client == nil {
		return nil, &LostError{What: "GDB", Reason: "it was not started"}
	}
	return t.client, nil
}

// send sends one MI command.
func (t *Target) send(ctx context.Context, op string, args ...string) (mi.Tuple, error) {
	release, err := t.take(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	defer release()
	return t.command(ctx, op, args...)
}

// command is send for who has taken his turn.
func (t *Target) command(ctx context.Context, op string, args ...string) (mi.Tuple, error) {
	c, err := t.gdb()
	if err != nil {
		return nil, err
	}
	res, err := c.Send(ctx, op, args...)
	return res, lost(err)
}

// take waits until nobody else talks to GDB; release ends that.
func (t *Target) take(ctx context.Context) (release func(), err error) {
	select {
	case t.turn <- struct{}{}:
		return func() { <-t.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// restarters are the commands for which a new GDB is started when the old one
// is gone: those that bring a debuggee.
var restarters = []string{"run", "r", "start", "starti", "file", "exec-file", "attach", "core-file", "core", "target"}

// Console hands a line to GDB. What GDB prints streams to out. It returns when
// GDB is done with the line and the debuggee, if the line set it running in
// the foreground, has stopped and its output has been handed on. Cancelling
// ctx interrupts GDB and the debuggee; the error is then nil if the debuggee
// ran and has stopped, which GDB has told by itself. An error that GDB reports
// has GDB's own words.
func (t *Target) Console(ctx context.Context, line string, out io.Writer) error {
	c, err := t.gdb()
	if err != nil {
		return err
	}
	word, _, _ := strings.Cut(line, " ")
	brings := slices.Contains(restarters, word)
	select {
	case <-c.Done():
		if !brings {
			return lost(c.Err())
		}
		if err := c.Close(ctx); err != nil {
			return err
		}
		if err := t.Start(ctx); err != nil {
			return err
		}
		if err := t.Load(ctx); err != nil {
			return err
		}
		if c, err = t.gdb(); err != nil {
			return err
		}
	default:
	}
	// What the inferior wrote before GDB wrote something is shown before it.
	ran := false
	catchUp := func() { ran = t.drain(ctx) || ran }
	release, err := t.take(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", word, err)
	}
	watch := &lostWatch{w: out, before: catchUp}
	err = c.Console(ctx, line, watch)
	release()
	t.changed()
	catchUp()
	if ran && ctx.Err() != nil && errors.Is(err, ctx.Err()) && !errors.Is(err, mi.ErrUnresponsive) {
		err = nil
	}
	if brings && err == nil {
		t.remember(ctx)
	}
	// Some GDBs (13) abort when they lose a target that runs.
	var gone *mi.GoneError
	if watch.seen != "" && errors.As(err, &gone) {
		return &LostError{What: "GDB", Reason: gone.Reason + ", when the target was lost: " + watch.seen}
	}
	// GDB may word the error otherwise, or have none, if the target ran then.
	if said := new(mi.Error); watch.seen != "" && (errors.As(err, &said) || err == nil && ran && !t.Alive()) {
		return &LostError{What: "the target", Reason: watch.seen}
	}
	return lost(err)
}

// lostWatch looks in what GDB prints for the end of a remote connection: where
// it comes while the target runs, GDB's error does not name it.
type lostWatch struct {
	w      io.Writer
	before func() // called before each write
	tail   []byte // the line that is not ended yet, as far as it matters
	seen   string // what GDB said
}

// lostTail bounds the part of a line that is looked at, in bytes.
const lostTail = 256

func (l *lostWatch) Write(p []byte) (int, error) {
	l.tail = append(l.tail, p...)
	if m := connectionLost.Find(l.tail); m != nil && l.seen == "" {
		l.seen = string(m)
	}
	l.tail = l.tail[max(0, len(l.tail)-lostTail):]
	l.before()
	return l.w.Write(p)
}

// call is query for a line that may run code in the debuggee, which has stopped
// again on return.
func (t *Target) call(ctx context.Context, line string) (string, error) {
	release, err := t.take(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	c, err := t.gdb()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = c.Console(ctx, line, &b)
	return b.String(), lost(err)
}

// query runs a line in GDB that changes nothing and returns what it prints.
func (t *Target) query(ctx context.Context, line string) (string, error) {
	release, err := t.take(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	return t.console(ctx, line)
}

// console is query for who has taken his turn.
func (t *Target) console(ctx context.Context, line string) (string, error) {
	c, err := t.gdb()
	if err != nil {
		return "", err
	}
	text, err := c.Query(ctx, line)
	return text, lost(err)
}

// remember keeps the program that a new GDB would be given.
func (t *Target) remember(ctx context.Context) {
	if inf, err := t.inferior(ctx); err == nil && inf.executable != "" {
		t.mu.Lock()
		t.program = inf.executable
		t.mu.Unlock()
	}
}

// drain hands on what the inferior has written, if it has run since the last
// time, and reports whether it has.
func (t *Target) drain(ctx context.Context) (ran bool) {
	t.mu.Lock()
	ran = t.ran
	t.ran = t.running
	t.mu.Unlock()
	if ran {
		t.tty.drain(ctx)
	}
	return ran
}

// Keyboard types p at the inferior's terminal. It waits while that takes no
// more, until ctx is done, and returns how many bytes were taken.
func (t *Target) Keyboard(ctx context.Context, p []byte) (n int, err error) {
	return t.tty.write(ctx, p)
}

// KeyboardEOF types the end of a file at the inferior's terminal.
// It waits like Keyboard.
func (t *Target) KeyboardEOF(ctx context.Context) error { return t.tty.eof(ctx) }

// Resize sets the size of the inferior's terminal, in characters.
func (t *Target) Resize(rows, cols uint16) {
	// A terminal that was closed needs no size.
	_ = t.tty.resize(rows, cols)
}

// connectionLost is how GDB words the end of a remote connection (gdb/remote.c).
var connectionLost = regexp.MustCompile(`Remote connection closed|Remote communication error|Target disconnected`)

// lost turns what means that GDB or its target is gone into a *LostError.
func lost(err error) error {
	var gone *mi.GoneError
	var said *mi.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &gone):
		return &LostError{What: "GDB", Reason: gone.Reason}
	case errors.As(err, &said) && connectionLost.MatchString(said.Msg):
		return &LostError{What: "the target", Reason: said.Msg}
	}
	return err
}

// Complete is what GDB would complete the line to, whole lines.
func (t *Target) Complete(ctx context.Context, line string) ([]string, error) {
	res, err := t.send(ctx, "complete", line)
	if err != nil {
		return nil, err
	}
	return res.Strings("matches"), nil
}

// Help is what GDB's help says of a topic.
func (t *Target) Help(ctx context.Context, topic string) (string, error) {
	return t.query(ctx, strings.TrimSpace("help "+topic))
}

// Version is GDB's version, like 13.1.
func (t *Target) Version(ctx context.Context) (string, error) {
	text, err := t.query(ctx, "show version")
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(text, "\n")
	if i := strings.LastIndexByte(first, ' '); i >= 0 {
		return first[i+1:], nil
	}
	return "", fmt.Errorf("GDB does not say its version: %q", first)
}
