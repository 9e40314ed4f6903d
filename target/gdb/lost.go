package gdb

import (
	"errors"
	"regexp"

	"dbgsh/target/mi"
	"dbgsh/vm"
)

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

// connectionLost is how GDB words the end of a remote connection (gdb/remote.c).
var connectionLost = regexp.MustCompile(`Remote connection closed|Remote communication error|Target disconnected`)

// lost turns what means that GDB or its target is gone into a *LostError. Every
// error of GDB passes here.
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
	return explained(err)
}

// Lost is the *LostError with which the debuggee was lost, nil where it was not
// or where GDB was given a line since.
func (g *GDB) Lost() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lost == nil {
		return nil
	}
	return g.lost
}

// question runs f, which asks GDB for something and ends no debuggee: where one
// ends meanwhile, its connection broke. GDB drops a connection that broke and
// goes on without, so that its errors speak of other things from then on, of
// memory that cannot be read for one; until it is given a line they are all that
// loss.
func (u Turn) question(f func(c *mi.Client) error) error {
	g := u.g
	c, err := g.alive()
	if err != nil {
		return err
	}
	g.setAsked(true)
	err = f(c)
	return g.judge(err, g.setAsked(false))
}

// setAsked says whether a question is under way, and reports whether the
// debuggee has ended during the one before.
func (g *GDB) setAsked(asked bool) (ended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked, ended, g.ended = asked, g.ended, false
	return ended
}

// judge is the error of a line or a question that GDB has ended with err. ended
// says that the debuggee went away, which nobody had asked for.
func (g *GDB) judge(err error, ended bool) error {
	err = lost(err)
	g.mu.Lock()
	defer g.mu.Unlock()
	var gone *LostError
	switch {
	case errors.As(err, &gone):
		if gone.What != "GDB" && g.lost == nil {
			g.lost = gone
		}
		return err
	case ended && g.lost == nil:
		g.lost = &LostError{What: "the target", Reason: "its connection ended"}
	}
	if g.lost != nil && (errors.As(err, new(*Error)) || ended && err == nil) {
		return g.lost
	}
	return err
}
