// Package mi drives a GDB through its machine interface (GDB/MI, version 4).
//
// It is a shell around github.com/cyrus-and/gdb, which by itself does not
// survive text that is no MI, long lines, or the end of GDB. The library's child
// is a process of our own executable (see RelayMain) that starts GDB and ends it
// when this process is gone; what goes between the library and GDB goes through
// a filter in this process, which makes GDB's output fit for the library and
// answers in GDB's place when GDB is gone. It needs Linux 5.4 (CLONE_PIDFD).
package mi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cyrus-and/gdb"
	"golang.org/x/sys/unix"
)

// defaultGrace is how long an interrupted GDB may take to answer.
const defaultGrace = 2 * time.Second

// Config says which GDB to start and where its output goes.
type Config struct {
	// Command is GDB and its arguments, without --interpreter. A program that
	// GDB starts shares GDB's input and output unless --tty=... or "set
	// inferior-tty" gives it a terminal: it would then read our commands.
	Command []string
	// Handler gets the async records in their order. It runs on the goroutine
	// that reads GDB's output: it must be quick and must not call the Client.
	// It may be nil.
	Handler func(Event)
	// Stray gets text that belongs to no Console call: what GDB prints in the
	// background, during Send, and after an abandoned call. It is written to by
	// one goroutine, the one that reads GDB's output, and must be quick. It may
	// be nil.
	Stray io.Writer
	// Log gets every line to and from GDB, after "> " for GDB's input, "< " for
	// its output and "! " for its standard error. It is written to by one
	// goroutine at a time and must be quick. It may be nil.
	Log io.Writer
	// Grace is how long an interrupted command may take to answer before the
	// call returns ErrUnresponsive; 0 means two seconds.
	Grace time.Duration
}

// Event is an async record of GDB.
type Event struct {
	Kind    string // "exec", "status" or "notify"
	Class   string // "stopped", "running", "thread-group-started", ...
	Payload Tuple
}

// Error is GDB's ^error answer to a command.
type Error struct {
	Msg  string
	Code string // "undefined-command", or "" mostly
}

func (e *Error) Error() string { return e.Msg }

// GoneError says that GDB has ended, and how.
type GoneError struct {
	Reason string // "exited with status 1", "killed by signal 9 (SIGKILL)", ...
}

func (e *GoneError) Error() string { return "GDB is gone: " + e.Reason }

// StartError says that GDB could not be started or ended before its first answer.
type StartError struct {
	Command []string
	Reason  string
	Output  string // what it printed
}

func (e *StartError) Error() string {
	msg := "start GDB: "
	if len(e.Command) > 0 {
		msg = fmt.Sprintf("start %s: ", e.Command[0])
	}
	msg += e.Reason
	if out := strings.TrimSpace(e.Output); out != "" {
		msg += ": " + strings.ReplaceAll(out, "\n", "; ")
	}
	return msg
}

// ErrUnresponsive means that GDB did not answer an interrupted command in time.
// Later calls wait until it does; Kill ends it.
var ErrUnresponsive = errors.New("GDB does not answer")

// Client is one running GDB. All methods may be called from any goroutine.
type Client struct {
	cfg      Config
	lib      *gdb.Gdb
	turn     chan struct{} // holds one element while a call is in flight
	jobs     chan job      // to the one goroutine that calls lib
	idle     chan struct{} // closed when that goroutine has ended
	stuck    atomic.Bool   // the call in flight has been abandoned
	dirty    atomic.Bool   // a SIGINT was sent that may hit the next command
	settling atomic.Bool   // the message of an interrupt that came too late is due

	pid   int            // GDB's
	pidfd int            // GDB's
	left  sync.WaitGroup // who ends what a killed GDB has left
	relay *link

	started chan struct{} // closed when pid is set
	done    chan struct{} // closed when goneErr is set
	mu      sync.Mutex
	goneErr *GoneError
	call    *call  // gets the text of streams
	parts   []byte // long record under way

	closing chan struct{} // closed when Close has begun
	closed  chan struct{} // closed when Close is done
	once    sync.Once
}

// job is one command for the library.
type job struct {
	op    string
	exit  bool // end the library, and the goroutine
	reply chan reply
}

// reply is the answer to a job.
type reply struct {
	class   string
	payload Tuple
	err     error
}

// Start starts GDB and returns when it has answered a first command. When there
// is no working GDB the error is a *StartError, or that of ctx.
func Start(ctx context.Context, cfg Config) (*Client, error) {
	if len(cfg.Command) == 0 {
		return nil, &StartError{Reason: "no command"}
	}
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	c := &Client{
		cfg:     cfg,
		turn:    make(chan struct{}, 1),
		jobs:    make(chan job),
		idle:    make(chan struct{}),
		pidfd:   -1,
		started: make(chan struct{}),
		done:    make(chan struct{}),
		closing: make(chan struct{}),
		closed:  make(chan struct{}),
	}
	if err := c.launch(); err != nil {
		return nil, &StartError{Command: cfg.Command, Reason: err.Error()}
	}

	var out strings.Builder
	err := c.first(ctx, &out)
	if err == nil {
		if cfg.Stray != nil {
			_, _ = io.WriteString(cfg.Stray, out.String())
		}
		return c, nil
	}
	var gone *GoneError
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("start %s: %w", strings.Join(cfg.Command, " "), reason(ctx))
	case errors.As(err, &gone):
		err = &StartError{Command: cfg.Command, Reason: gone.Reason, Output: out.String()}
	default:
		err = &StartError{Command: cfg.Command, Reason: "it does not speak GDB/MI: " + err.Error(), Output: out.String()}
	}
	c.Kill()
	_ = c.Close(context.WithoutCancel(ctx))
	return nil, err
}

// launch starts the relay and all work.
func (c *Client) launch() error {
	l, err := newLink(c)
	if err != nil {
		return err
	}
	argv := append([]string{"/proc/self/exe"}, l.args...)
	argv = append(append(argv, c.cfg.Command...), "--interpreter=mi4")
	lib, err := gdb.NewCmd(argv, c.record)
	if err != nil {
		l.close()
		return fmt.Errorf("relay: %w", err)
	}
	if err := l.open(childPID(lib)); err != nil {
		return err
	}
	c.lib, c.relay = lib, l
	go c.work()
	return nil
}

// begun notes GDB's process.
func (c *Client) begun(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		fd = -1 // it has ended already, which the relay will tell
	}
	c.pid, c.pidfd = pid, fd
	close(c.started)
}

// childPID returns the process id of the library's child, which it has no
// method for.
func childPID(lib *gdb.Gdb) int {
	v := reflect.ValueOf(lib)
	for _, field := range []string{"cmd", "Process", "Pid"} {
		if v = v.Elem().FieldByName(field); !v.IsValid() {
			return 0
		}
		if field == "Pid" {
			return int(v.Int())
		}
	}
	return 0
}

// first waits for GDB's process and for its first answer.
func (c *Client) first(ctx context.Context, out io.Writer) error {
	k, err := c.begin(ctx, "start", out)
	if err != nil {
		return err
	}
	defer k.end()
	select {
	case <-c.started:
	case <-c.done:
		k.drain()
		return c.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	_, err = k.exchange(barrier)
	return err
}

// work calls the library: all its commands are sent here, one after the other.
func (c *Client) work() {
	defer close(c.idle)
	for j := range c.jobs {
		if j.exit {
			_ = c.lib.Exit() // tells only how the relay ended
			return
		}
		m, err := c.lib.Send(j.op)
		j.reply <- c.reply(m, err)
	}
}

// reply makes an answer of the library's record.
func (c *Client) reply(m map[string]any, err error) reply {
	if err != nil {
		return reply{err: err}
	}
	r := reply{}
	r.class, _ = m["class"].(string)
	r.payload = asTuple(m["payload"])
	if r.class == classWhole {
		rec, ok := scan(c.takeParts(), true)
		if !ok {
			return reply{err: &Error{Msg: "the answer was damaged on its way", Code: codeMalformed}}
		}
		r.class, r.payload = rec.class, rec.payload
	}
	if r.class == "error" {
		r.err = &Error{Msg: r.payload.Str("msg"), Code: r.payload.Str("code")}
		if r.payload.Str("code") == codeGone {
			r.err = c.goneOr("ended")
		}
	}
	return r
}

func (c *Client) takeParts() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.parts
	c.parts = nil
	return p
}

// record gets everything from the library but results. It runs on the
// library's reading goroutine.
func (c *Client) record(m map[string]any) {
	kind, _ := m["type"].(string)
	switch kind {
	case "console", "log", "target":
		s, _ := m["payload"].(string)
		c.text(chunk{log: kind == "log", s: s})
		return
	}
	class, _ := m["class"].(string)
	payload := asTuple(m["payload"])
	if strings.HasPrefix(class, private) {
		c.ownRecord(class, payload)
		return
	}
	if kind == "exec" {
		c.mu.Lock()
		if c.call != nil {
			c.call.ran = true
		}
		c.mu.Unlock()
	}
	c.event(Event{Kind: kind, Class: class, Payload: payload})
}

func (c *Client) event(e Event) {
	if c.cfg.Handler != nil {
		c.cfg.Handler(e)
	}
}

// ownRecord handles a record of the filter's own.
func (c *Client) ownRecord(class string, payload Tuple) {
	switch class {
	case classGone:
		c.setGone(payload.Str("reason"))
	case classPart:
		c.mu.Lock()
		c.parts = append(c.parts, payload.Str("text")...)
		c.mu.Unlock()
	case classWhole:
		r, ok := scan(c.takeParts(), true)
		kind := map[byte]string{'*': "exec", '+': "status", '=': "notify"}[r.kind]
		if ok && kind != "" {
			c.event(Event{Kind: kind, Class: r.class, Payload: r.payload})
		}
	case classLate:
		c.mu.Lock()
		if c.call != nil {
			c.call.late = &Error{Msg: payload.Str("msg")}
		}
		c.mu.Unlock()
	}
}

// text hands text to the call in flight, or to Stray.
func (c *Client) text(ch chunk) {
	c.mu.Lock()
	k := c.call
	c.mu.Unlock()
	if k != nil {
		select {
		case k.chunks <- ch:
			return
		case <-k.over:
		}
	}
	if c.settling.Load() && strings.TrimSpace(ch.s) == "Quit" {
		return // GDB's word for an interrupt that found nothing to end
	}
	if c.cfg.Stray != nil {
		_, _ = io.WriteString(c.cfg.Stray, ch.s)
	}
}

// setGone notes the end of GDB; the first reason stays.
func (c *Client) setGone(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goneErr == nil {
		c.goneErr = &GoneError{Reason: reason}
		close(c.done)
	}
}

// Done is closed when GDB is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil while GDB lives, and then a *GoneError.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goneErr == nil {
		return nil
	}
	return c.goneErr
}

// goneOr returns Err, or a *GoneError with reason while that is nil.
func (c *Client) goneOr(reason string) error {
	if err := c.Err(); err != nil {
		return err
	}
	return &GoneError{Reason: reason}
}

// PID returns GDB's process id.
func (c *Client) PID() int { return c.pid }

// Interrupt sends SIGINT to GDB's process group: GDB, and what it runs for
// "shell", "make" or "pipe", as a terminal would. A running target stops, a
// command ends with an error. It reaches nobody else: programs under GDB's
// control have groups of their own. When it comes too late for the command it
// was meant for, it does not hit the next one.
func (c *Client) Interrupt() error {
	c.dirty.Store(true)
	if err := c.signal(unix.SIGINT); err != nil {
		return fmt.Errorf("interrupt GDB: %w", err)
	}
	return nil
}

// nudge helps a GDB that does not answer an interrupt. What it runs for "shell" may
// have missed the SIGINT: between fork(2) and execve(2) it has GDB's handler. GDB
// itself gets no other one, which might cost it its connection.
func (c *Client) nudge() {
	select {
	case <-c.started:
		findHelpers(c.pid).release(unix.SIGINT)
	default:
	}
	c.relay.nudge()
}

// Kill ends GDB at once, with SIGKILL: for a GDB that does not answer. Done is
// closed soon after. What GDB started dies with it; a process that it attached
// to may be left with breakpoints in its code.
func (c *Client) Kill() {
	left := c.behind()
	_ = c.signal(unix.SIGKILL) // an error means that there is nothing to kill
	c.left.Go(left.end)
}

// behind finds the programs behind GDB's pipes.
func (c *Client) behind() behind {
	select {
	case <-c.started:
		return findBehind(c.pid)
	default:
		return nil
	}
}

// signal sends sig to GDB, and SIGINT to its whole group.
func (c *Client) signal(sig unix.Signal) error {
	select {
	case <-c.started:
	default:
		return c.goneOr("not started yet")
	}
	if err := c.Err(); err != nil {
		return err
	}
	if c.pidfd < 0 {
		return c.goneOr("ended")
	}
	if sig != unix.SIGINT {
		return unix.PidfdSendSignal(c.pidfd, sig, nil, 0)
	}
	// Signal 0 asks whether the process is still there, so that the group is
	// its and not that of another one with the same number.
	if err := unix.PidfdSendSignal(c.pidfd, 0, nil, 0); err != nil {
		return err
	}
	return unix.Kill(-c.pid, sig)
}

// Close ends GDB: it interrupts what is under way, asks GDB to exit (which kills
// the programs that GDB started and detaches from the others), and if that takes
// too long, or ctx ends, sends SIGTERM and then SIGKILL. It leaves no process
// and no goroutine behind. It may be called more than once; every call returns
// when the first is done. An error means that GDB or its relay survives SIGKILL.
func (c *Client) Close(ctx context.Context) error {
	c.once.Do(func() {
		close(c.closing)
		go c.end(ctx)
	})
	t := time.NewTimer(closeLimit)
	defer t.Stop()
	select {
	case <-c.closed:
		return nil
	case <-t.C:
		return fmt.Errorf("close: GDB (process %d) cannot be ended", c.pid)
	}
}

const (
	// exitGrace is how long GDB may take for a polite exit.
	exitGrace = 3 * time.Second
	// termGrace is how long it may take after SIGTERM, and the kernel after
	// SIGKILL.
	termGrace = time.Second
	// closeLimit is more than all these together.
	closeLimit = 15 * time.Second
)

// end is the work of Close.
func (c *Client) end(ctx context.Context) {
	defer close(c.closed)
	within := func(d time.Duration, what <-chan struct{}, ctx context.Context) bool {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-what:
			return true
		case <-t.C:
		case <-ctx.Done():
		}
		return false
	}
	exit := job{exit: true}
	asked := false
	if c.Err() == nil && c.free(ctx) {
		c.jobs <- exit
		asked = true
		within(exitGrace, c.done, ctx)
	}
	hard := context.Background()
	var left behind
	if c.Err() == nil {
		if left = c.behind(); len(left) > 0 {
			left.signal(unix.SIGTERM) // GDB may wait for them
			within(termGrace, c.done, ctx)
		}
	}
	if c.Err() == nil {
		_ = c.signal(unix.SIGTERM)
		within(termGrace, c.done, ctx)
	}
	if c.Err() == nil {
		c.Kill()
		if !within(termGrace, c.done, hard) {
			c.relay.kill()
		}
	}
	if !asked {
		t := time.NewTimer(termGrace)
		select {
		case c.jobs <- exit:
			t.Stop()
		case <-t.C:
			c.relay.kill()
			c.jobs <- exit
		}
	}
	if !within(termGrace, c.idle, hard) {
		c.relay.kill()
		<-c.idle
	}
	c.relay.work.Wait()
	left.end()
	c.left.Wait()
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
	}
}

// endOrphan waits until a GDB whose relay is dead has ended, as the relay's death
// has told it to, and uses force in the end.
func (c *Client) endOrphan() {
	select {
	case <-c.started:
	default:
		return
	}
	if c.pidfd < 0 {
		return
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if pollEnd(c.pidfd, endGrace) {
			return
		}
		c.behind().release(unix.SIGTERM) // GDB may wait for them
		_ = unix.PidfdSendSignal(c.pidfd, sig, nil, 0)
	}
}

// free gets the turn for good, interrupting the call that has it.
func (c *Client) free(ctx context.Context) bool {
	select {
	case c.turn <- struct{}{}:
		return true
	default:
	}
	_ = c.Interrupt()
	t := time.NewTimer(c.cfg.Grace)
	defer t.Stop()
	select {
	case c.turn <- struct{}{}:
		return c.Err() == nil
	case <-c.done:
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// reason returns why ctx ended, such that errors.Is finds both its error and
// its cause.
func reason(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}
