package mi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// barrier is a command that changes nothing, touches no target and prints
// nothing. GDB reads no commands while a target runs in the foreground or the
// commands of a breakpoint are executed, so its answer means that all of that
// is over.
const barrier = "info-gdb-mi-command gdb-exit"

const (
	// chunksHeld is how many pieces of text (of at most maxLine bytes) may wait
	// for a slow writer before GDB has to wait as well.
	chunksHeld = 64
	// echoHold is how long log text is held back because it may be the echo of
	// the error message that ends the command.
	echoHold = time.Second
)

// chunk is a piece of text from GDB.
type chunk struct {
	log bool
	s   string
}

// call is one Send or Console in flight. Its goroutine alone writes to out.
type call struct {
	c      *Client
	ctx    context.Context
	name   string
	out    io.Writer // nil: text goes to Stray as it comes
	chunks chan chunk
	over   chan struct{} // closed when no more text is taken

	held        strings.Builder // log text that may be an error's echo
	holdUp      *time.Timer
	failed      bool // out has failed
	quiet       bool // out gets no log text
	interrupted bool
	cancelled   <-chan struct{}
	grace       <-chan time.Time
	nudged      bool // GDB was helped to answer
	abandoned   bool

	ran  bool   // something was set running, or has stopped; guarded by c.mu
	late *Error // came after ^running; guarded by c.mu
}

// begin waits for the turn and makes the call the one that gets the text.
func (c *Client) begin(ctx context.Context, name string, out io.Writer) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, reason(ctx))
	}
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	select {
	case c.turn <- struct{}{}:
	case <-c.done:
		return nil, fmt.Errorf("%s: %w", name, c.Err())
	case <-c.closing:
		return nil, fmt.Errorf("%s: %w", name, c.goneOr("closed"))
	case <-ctx.Done():
		if c.stuck.Load() {
			return nil, fmt.Errorf("%s: %w: %w", name, ErrUnresponsive, reason(ctx))
		}
		return nil, fmt.Errorf("%s: %w", name, reason(ctx))
	}
	k := &call{c: c, ctx: ctx, name: name, out: out, cancelled: ctx.Done(), over: make(chan struct{})}
	if c.dirty.Load() {
		if err := k.settle(); err != nil {
			k.end()
			return nil, err
		}
	}
	if out != nil {
		k.chunks = make(chan chunk, chunksHeld)
		c.mu.Lock()
		c.call = k
		c.mu.Unlock()
	}
	return k, nil
}

// settle makes sure that an earlier SIGINT does not hit the next command: one
// barrier takes what is left of it, and another one waits for its message,
// which nobody needs.
func (k *call) settle() error {
	k.c.dirty.Store(false)
	k.c.settling.Store(true)
	defer k.c.settling.Store(false)
	for range 2 {
		if _, err := k.exchange(barrier); err != nil {
			var e *Error
			if !errors.As(err, &e) {
				return err
			}
		}
	}
	return nil
}

// end gives the turn back.
func (k *call) end() {
	if k.out != nil {
		k.c.mu.Lock()
		k.c.call = nil
		k.c.mu.Unlock()
		k.flush()
	}
	if k.holdUp != nil {
		k.holdUp.Stop()
	}
	close(k.over)
	if !k.abandoned {
		<-k.c.turn
	}
}

// state returns what is known of the call so far: whether something was set
// running or has stopped, and the error of a command that had been answered
// with ^running.
func (k *call) state() (ran bool, late *Error) {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return k.ran, k.late
}

// exchange sends one command and waits for its answer, passing on text.
func (k *call) exchange(op string) (reply, error) {
	c := k.c
	j := job{op: op, reply: make(chan reply, 1)}
	select {
	case c.jobs <- j:
	case <-c.idle:
		return reply{}, fmt.Errorf("%s: %w", k.name, c.goneOr("closed"))
	}
	for {
		var hold <-chan time.Time
		if k.holdUp != nil {
			hold = k.holdUp.C
		}
		select {
		case ch := <-k.chunks:
			k.take(ch)
		case r := <-j.reply:
			k.drain()
			return r, k.wrap(r.err)
		case <-c.done:
			k.drain()
			return reply{}, fmt.Errorf("%s: %w", k.name, c.Err())
		case <-k.cancelled:
			k.cancelled, k.interrupted = nil, true
			_ = c.Interrupt() // an error means that GDB is gone
			k.grace = time.After(c.cfg.Grace / 2)
		case <-hold:
			k.flush()
		case <-k.grace:
			if !k.nudged {
				k.nudged = true
				go c.nudge()
				k.grace = time.After(c.cfg.Grace / 2)
				continue
			}
			k.abandon(j)
			return reply{}, fmt.Errorf("%s: %w: %w", k.name, ErrUnresponsive, reason(k.ctx))
		}
	}
}

// wrap adds the call's name to errors that are not GDB's own messages.
func (k *call) wrap(err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return fmt.Errorf("%s: %w", k.name, err)
}

// abandon leaves the turn to a goroutine that waits for the late answer.
func (k *call) abandon(j job) {
	c := k.c
	k.abandoned = true
	c.stuck.Store(true)
	go func() {
		select {
		case <-j.reply:
			late := &call{c: c, ctx: context.Background(), name: k.name}
			_ = late.settle() // fails only when GDB is gone, which others see too
		case <-c.done:
		}
		c.stuck.Store(false)
		<-c.turn
	}()
}

// take handles one piece of text.
func (k *call) take(ch chunk) {
	if ch.log && k.quiet {
		return
	}
	if !ch.log || k.held.Len() > maxHeld {
		k.flush()
	}
	if !ch.log {
		k.write(ch.s)
		return
	}
	k.held.WriteString(ch.s)
	if k.holdUp == nil {
		k.holdUp = time.NewTimer(echoHold)
	}
}

// drain handles the text that has come so far.
func (k *call) drain() {
	for {
		select {
		case ch := <-k.chunks:
			k.take(ch)
		default:
			return
		}
	}
}

// flush writes the text that was held back.
func (k *call) flush() {
	if k.holdUp != nil {
		k.holdUp.Stop()
		k.holdUp = nil
	}
	k.write(k.held.String())
	k.held.Reset()
}

// write passes text on, until out has failed once.
func (k *call) write(s string) {
	if s == "" || k.failed {
		return
	}
	if _, err := io.WriteString(k.out, s); err != nil {
		k.failed = true
	}
}

// unecho drops the held text if it is the echo of msg.
func (k *call) unecho(msg string) {
	text := k.held.String()
	if rest, ok := strings.CutSuffix(text, msg+"\n"); ok && (rest == "" || strings.HasSuffix(rest, "\n")) {
		k.held.Reset()
		k.held.WriteString(rest)
	}
}

// Send sends an MI command, op without its dash, and returns the results of its
// answer; the answer ^error is an *Error. Arguments are quoted as needed. For
// the few MI commands that hand their text to a CLI command unread (-gdb-set,
// -file-exec-and-symbols, -exec-arguments) the quotes are part of that text.
//
// When ctx ends, GDB is interrupted, and Send returns an error that wraps ctx's
// error and cause, or ErrUnresponsive too if GDB does not answer within Grace.
// When GDB has ended the error is a *GoneError.
func (c *Client) Send(ctx context.Context, op string, args ...string) (Tuple, error) {
	line, err := command(op, args)
	if err != nil {
		return nil, err
	}
	k, err := c.begin(ctx, op, nil)
	if err != nil {
		return nil, err
	}
	defer k.end()
	r, err := k.exchange(line)
	if err := k.outcome(err); err != nil {
		return nil, err
	}
	return r.payload, nil
}

// outcome returns what the call has to return.
func (k *call) outcome(err error) error {
	var e *Error
	if k.interrupted && (err == nil || errors.As(err, &e)) {
		return fmt.Errorf("%s: interrupted: %w", k.name, reason(k.ctx))
	}
	return err
}

// Console executes a line of GDB's command language and writes what it prints
// to out as it comes, but for the error message that it returns as *Error. It
// returns when the command is over and the target, if it was set running in the
// foreground, has stopped and the commands of the breakpoint there are done. A
// target in the background ("continue &") is not waited for. A nil out discards
// the text. The line may hold newlines; commands that read further lines from
// GDB's input (define, commands, python alone) wait for them in vain until ctx
// ends. Errors are like those of Send.
func (c *Client) Console(ctx context.Context, line string, out io.Writer) error {
	return c.console(ctx, line, out, true)
}

// Query is Console for a line that sets nothing running, which is over with
// GDB's answer to it, and returns what it prints, whatever GDB is set to trace
// ("set debug", "set trace-commands") and without its warnings.
func (c *Client) Query(ctx context.Context, line string) (string, error) {
	var b strings.Builder
	err := c.console(ctx, line, &b, false)
	return Untraced(b.String(), line), err
}

// Untraced is what a line printed, without the lines in which GDB shows what it
// executes while trace-commands is on.
func Untraced(text, line string) string {
	for {
		first, rest, found := strings.Cut(text, "\n")
		if !found || strings.TrimSpace(first) != "+"+line {
			return text
		}
		text = rest
		// with SETTING -- COMMAND executes a command of its own.
		if _, line, found = strings.Cut(line, " -- "); !found {
			return text
		}
	}
}

// named is a line as errors name it.
func named(line string) string {
	const most = 60 // bytes
	if len(line) > most {
		return strings.ToValidUTF8(line[:most], "") + "..."
	}
	return line
}

// QueryAll is Query for several lines, which GDB executes one after the other in
// one round trip. It returns what each has printed, in their order. When one
// fails, those behind it are not executed: texts has what the lines before it
// have printed, and err is GDB's *Error.
func (c *Client) QueryAll(ctx context.Context, lines ...string) (texts []string, err error) {
	if len(lines) == 0 {
		return nil, nil
	}
	// The mark has a character that no text of GDB's holds, and that stands
	// otherwise in the line where GDB shows what it executes.
	nonce := newNonce()
	echo, mark := `echo \036`+nonce, "\x1e"+nonce
	args := make([]string, 0, 2*len(lines))
	for _, line := range lines {
		args = append(args, line, echo)
	}
	var b strings.Builder
	err = c.execute(ctx, lines[0], args, &b, false)
	texts = strings.Split(b.String(), mark)
	texts = texts[:min(len(texts)-1, len(lines))] // the rest is of a line that failed
	for i := range texts {
		texts[i] = strings.TrimSuffix(Untraced(texts[i], lines[i]), "+"+echo+"\n")
	}
	if err == nil && len(texts) != len(lines) {
		err = fmt.Errorf("%s: GDB printed other than the text of %d lines", named(lines[0]), len(lines))
	}
	return texts, err
}

func (c *Client) console(ctx context.Context, line string, out io.Writer, stop bool) error {
	return c.execute(ctx, line, []string{line}, out, stop)
}

// execute has GDB execute lines, one after the other; errors name the call.
func (c *Client) execute(ctx context.Context, name string, lines []string, out io.Writer, stop bool) error {
	op := "interpreter-exec console"
	for _, line := range lines {
		if strings.IndexByte(line, 0) >= 0 {
			return fmt.Errorf("%q: the line holds a NUL byte", line)
		}
		op += " " + quoted(line)
	}
	if out == nil {
		out = io.Discard
	}
	k, err := c.begin(ctx, named(name), out)
	if err != nil {
		return err
	}
	defer k.end()
	k.quiet = !stop
	r, err := k.exchange(op)
	var e *Error
	if err != nil && !errors.As(err, &e) {
		return err
	}
	if e != nil {
		k.unecho(e.Msg)
	}
	// The stop, and what belongs to it; or what is left of an interrupt.
	ran, _ := k.state()
	if stop && (ran || r.class == "running") || k.interrupted {
		if _, berr := k.exchange(barrier); berr != nil && !errors.As(berr, new(*Error)) {
			return berr
		}
	}
	if _, late := k.state(); late != nil && err == nil {
		k.unecho(late.Msg)
		err = late
	}
	return k.outcome(err)
}
