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
