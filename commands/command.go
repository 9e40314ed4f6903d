// Package commands holds the registry of dbgsh's commands, and one file for
// each of them. A command is data (names, group, help, flags, examples) and a
// function that returns a result. It prints nothing and touches no terminal;
// whoever runs it renders the result.
package commands

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Group is a heading of the help.
type Group string

// The groups, in the order in which help shows them.
const (
	Memory Group = "Memory"
	Shell  Group = "The shell"
)

func groups() []Group { return []Group{Memory, Shell} }

// Command is one command of the shell.
type Command struct {
	Name    string   // what the user types
	Aliases []string // other names for it
	Group   Group    // where help lists it
	Args    string   // the arguments after the flags, as the usage line shows them
	Short   string   // one sentence for the list
	Long    string   // what help adds, paragraphs of plain text, may be empty
	// Examples are lines that work, with what they do.
	Examples []Example

	// Run runs a command that has no flags of its own. A command has either
	// Run or Setup.
	Run RunFunc
	// Setup declares the command's flags and returns the function that runs
	// it with their values. It is called anew for every line.
	Setup func(flags *pflag.FlagSet) RunFunc

	// Verbatim commands get the rest of the line as Input.Tail, with nothing
	// in it read as a flag or a quote.
	Verbatim bool
	// WholeLine commands also keep every | in the line for themselves.
	WholeLine bool
	// NoRepeat says that an empty line does not run the command again.
	NoRepeat bool
	// Complete says what the word under the cursor may become, beside flags.
	Complete Completion
}

// Completion says what kind of word a command takes.
type Completion uint8

// The kinds of words that Tab knows of.
const (
	CompleteNothing Completion = iota
	CompleteRegion             // mapping names, then what GDB says of an expression
	CompleteCommand            // names of commands
	CompleteSetting            // names of settings
	CompleteFile               // paths
	CompleteGDB                // whatever GDB says of the rest of the line
)

// Example is a line that shows the command at work.
type Example struct {
	Line string
	Does string
}

// RunFunc runs a command. With an error there may be a result all the same:
// what was done until then.
type RunFunc func(ctx context.Context, s *Session, in Input) (Result, error)

// Input is what a command is run with.
type Input struct {
	Name string // the command's name
	Tail string // the text after the name as it was typed
	Args []Word // the words that are not flags; nil for a Verbatim command
	Pipe Result // what the stage before handed over; nil for the first
}

// UsageError says that a line does not have the form the command takes.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// ErrForGDB is returned by a command that leaves its line to GDB: the shell
// then hands the line over as if no command had its name.
var ErrForGDB = errors.New("the line is for GDB")

func usagef(format string, args ...any) error {
	return &UsageError{fmt.Errorf(format, args...)}
}

// Output is a command's result with what the line says about showing it.
type Output struct {
	Result Result
	JSON   bool // the line had --json
}

// Execute runs the command on the text after its name. pipe is the result of
// the stage before, or nil. -h and --help give the command's help as the result.
func (c *Command) Execute(ctx context.Context, s *Session, tail string, pipe Result) (Output, error) {
	in := Input{Name: c.Name, Tail: tail, Pipe: pipe}
	if c.Verbatim {
		res, err := c.Run(ctx, s, in)
		return Output{Result: res}, err
	}
	words, err := Words(tail)
	if err != nil {
		return Output{}, &UsageError{err}
	}
	f := c.flagSet()
	if err := f.parse(words); err != nil {
		return Output{}, &UsageError{fmt.Errorf("%w; see \"help %s\"", err, c.Name)}
	}
	if f.help {
		return Output{Result: &helpResult{command: c}}, nil
	}
	in.Args = f.args
	if c.Args == "" && len(in.Args) > 0 {
		return Output{}, usagef("takes no arguments, but got %q", in.Args[0].Text)
	}
	res, err := f.run(ctx, s, in)
	return Output{Result: res, JSON: f.json}, err
}

// Flags are the command's flags, for help and completion.
func (c *Command) Flags() *pflag.FlagSet { return c.flagSet().set }

// Usage is the command's usage line.
func (c *Command) Usage() string {
	var b strings.Builder
	b.WriteString(c.Name)
	if !c.Verbatim {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			name := "--" + f.Name
			if f.Shorthand != "" {
				name = "-" + f.Shorthand
			}
			if arg, _ := pflag.UnquoteUsage(f); arg != "" {
				name += " " + arg
			}
			b.WriteString(" [" + name + "]")
		})
	}
	if c.Args != "" {
		b.WriteString(" " + c.Args)
	}
	return b.String()
}
