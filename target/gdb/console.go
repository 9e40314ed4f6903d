package gdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"dbgsh/target/mi"
)

// Error is what GDB says of a command that fails, in its own words.
type Error = mi.Error

// Tuple is an answer of GDB/MI.
type Tuple = mi.Tuple

// Turn is GDB for one caller alone, until it is released.
type Turn struct{ g *GDB }

// Turn waits until nobody else talks to GDB. The error is ctx's cause.
func (g *GDB) Turn(ctx context.Context) (Turn, error) {
	select {
	case g.turn <- struct{}{}:
		return Turn{g}, nil
	case <-ctx.Done():
		return Turn{}, context.Cause(ctx)
	}
}

// Release lets others talk to GDB.
func (u Turn) Release() { <-u.g.turn }

// Query is GDB.Query within the turn.
func (u Turn) Query(ctx context.Context, line string) (text string, err error) {
	err = u.question(func(c *mi.Client) (err error) {
		text, err = c.Query(ctx, line)
		return err
	})
	return text, err
}

// Packet is GDB.Packet within the turn.
func (u Turn) Packet(ctx context.Context, p string) (string, error) {
	text, err := u.Query(ctx, "maint packet "+p)
	if err != nil {
		return "", err
	}
	return answerOf(text), nil
}

// Send sends one MI command, op without its dash. The error is an *Error where
// GDB refuses it, a *LostError where it is gone.
func (g *GDB) Send(ctx context.Context, op string, args ...string) (Tuple, error) {
	turn, err := g.Turn(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	defer turn.Release()
	return turn.send(ctx, op, args...)
}

// send is GDB.Send within the turn.
func (u Turn) send(ctx context.Context, op string, args ...string) (res Tuple, err error) {
	err = u.question(func(c *mi.Client) (err error) {
		res, err = c.Send(ctx, op, args...)
		return err
	})
	return res, err
}

// Query runs a line in GDB that changes nothing and returns what it prints.
// Errors are like those of Send.
func (g *GDB) Query(ctx context.Context, line string) (string, error) {
	turn, err := g.Turn(ctx)
	if err != nil {
		return "", err
	}
	defer turn.Release()
	return turn.Query(ctx, line)
}

// QueryAll runs lines that change nothing, in one round trip, and returns what
// each prints. The first that fails ends it; those before it are returned.
func (g *GDB) QueryAll(ctx context.Context, lines ...string) (texts []string, err error) {
	turn, err := g.Turn(ctx)
	if err != nil {
		return nil, err
	}
	defer turn.Release()
	err = turn.question(func(c *mi.Client) (err error) {
		texts, err = c.QueryAll(ctx, lines...)
		return err
	})
	return texts, err
}

// brings reports whether a command brings a debuggee: for those a new GDB is
// started when the old one is gone.
func brings(word string) bool {
	switch word {
	case "run", "r", "start", "starti", "file", "exec-file", "attach", "core-file", "core", "target":
		return true
	}
	return false
}

// Console hands a line to GDB. What GDB prints streams to out. It returns when
// GDB is done with the line and the debuggee, if the line set it running in
// the foreground, has stopped and its output has been handed on. Cancelling
// ctx interrupts GDB and the debuggee; the error is then nil if the debuggee
// ran and has stopped, which GDB has told by itself. An error that GDB reports
// has GDB's own words.
func (g *GDB) Console(ctx context.Context, line string, out io.Writer) error {
	c, err := g.alive()
	if err != nil {
		return err
	}
	word, _, _ := strings.Cut(line, " ")
	select {
	case <-c.Done():
		if !brings(word) {
			return lost(c.Err())
		}
		if err := c.Close(ctx); err != nil {
			return err
		}
		if err := g.Start(ctx); err != nil {
			return err
		}
		if err := g.Load(ctx); err != nil {
			return err
		}
		if c, err = g.alive(); err != nil {
			return err
		}
	default:
	}
	g.tellFound(ctx)
	// What the inferior wrote before GDB wrote something is shown before it.
	ran := false
	catchUp := func() { ran = g.drain(ctx) || ran }
	turn, err := g.Turn(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", word, err)
	}
	g.mu.Lock()
	g.lost = nil // the line may bring another debuggee
	g.mu.Unlock()
	watch := &lostWatch{w: out, before: catchUp}
	err = c.Console(ctx, line, watch)
	turn.Release()
	g.Changed()
	catchUp()
	if ran && ctx.Err() != nil && errors.Is(err, ctx.Err()) && !errors.Is(err, mi.ErrUnresponsive) {
		err = nil
	}
	if brings(word) && err == nil {
		g.remember(ctx)
	}
	// Some GDBs (13) abort when they lose a target that runs.
	var gone *mi.GoneError
	if watch.seen != "" && errors.As(err, &gone) {
		return &LostError{What: "GDB", Reason: gone.Reason + ", when the target was lost: " + watch.seen}
	}
	// GDB may word the error otherwise, or have none, if the target ran then.
	if said := new(mi.Error); watch.seen != "" && (errors.As(err, &said) || err == nil && ran && !g.Alive()) {
		err = &LostError{What: "the target", Reason: watch.seen}
	}
	return g.judge(err, false)
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
