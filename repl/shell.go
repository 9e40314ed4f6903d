package repl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"dbgsh/commands"
)

// Config is what a Shell is made of.
type Config struct {
	Output   *Output
	Stdin    *os.File          // the terminal of the prompt; in scripts, what the inferior reads
	Session  *commands.Session // lines are looked up in its Registry; its settings pager and color are heeded
	Debugger Debugger

	JSON          bool   // results come as JSON, one document each
	KeepGoing     bool   // a failing command does not end a script
	StdinIsScript bool   // Stdin is read as a script, so nobody else may read it
	HistoryFile   string // "" keeps none
	Banner        string // the line before the first prompt
}

// Shell runs lines. Its methods are to be called from one goroutine.
type Shell struct {
	Config
	classes  map[string]func(args string) (kind, string)
	signals  *signals
	patience time.Duration // see attend
	paint    func(commands.Style, string) string

	tty    atomic.Pointer[tty] // while Prompt runs on a terminal
	src    source              // where the line being run came from
	depth  int                 // scripts that source scripts
	last   bool                // the stage being run is its line's last
	asJSON bool                // the line asked the stage before for JSON
	typed  keyboard            // what the inferior has not taken yet

	status int
	left   bool
}

// New is a shell. With an empty Config it is good for Commands only.
func New(cfg Config) *Shell {
	sh := &Shell{Config: cfg, classes: classes(), signals: newSignals(), patience: defaultPatience, paint: painter()}
	if sh.Session != nil {
		sh.Session.Progress = sh.progress
	}
	return sh
}

// Left reports whether the shell is to be left without a further line or
// prompt: by quit, by SIGTERM or SIGHUP, or since nobody reads its output.
func (sh *Shell) Left() bool { return sh.left }

// Status is the exit status that the lines so far ask for: 0, 1 where a
// command failed or standard output did, 3 where GDB or the target was lost, or
// what quit said.
func (sh *Shell) Status() int {
	if _, failed := sh.Output.broken(); failed {
		return max(sh.status, 1)
	}
	return sh.status
}

// RunInit runs the script at path like RunFile; that there is none is fine.
func (sh *Shell) RunInit(ctx context.Context, path string) (more bool) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return sh.runFile(ctx, "init script", path)
}

// RunFile runs the script at path, which the flag named; - is Stdin. See
// RunScript. A file that cannot be opened is a command that failed.
func (sh *Shell) RunFile(ctx context.Context, flag, path string) (more bool) {
	if path == "-" {
		return sh.RunScript(ctx, path, sh.Stdin)
	}
	return sh.runFile(ctx, flag, path)
}

// runFile runs the script at path, which place says who named.
func (sh *Shell) runFile(ctx context.Context, place, path string) (more bool) {
	f, err := openScript(path)
	if err != nil {
		sh.fail(place, "", err)
		return sh.KeepGoing
	}
	defer f.Close()
	return sh.RunScript(ctx, path, f)
}

// openScript opens a file to be read line by line.
func openScript(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: path, Err: unix.EISDIR}
	}
	return f, nil
}

// RunScript runs the lines of r. What fails is reported on standard error with
// name and line number. more is false where nothing further is to be run: a
// command failed (and KeepGoing is off) or was interrupted, GDB or the target
// was lost, or the shell is to be left.
func (sh *Shell) RunScript(ctx context.Context, name string, r io.Reader) (more bool) {
	return sh.attend(ctx, func(ctx context.Context) error {
		return sh.runSource(ctx, newScript(name, r))
	}) == nil && !sh.left
}

// RunLine runs the line, or several, of text, which stood behind the flag. See
// RunScript.
func (sh *Shell) RunLine(ctx context.Context, flag, text string) (more bool) {
	s := newScript(flag+" "+shownLine(text), strings.NewReader(text))
	s.single = true
	return sh.attend(ctx, func(ctx context.Context) error { return sh.runSource(ctx, s) }) == nil && !sh.left
}

// errReported says that a script ended early and that the user was told why.
var errReported = errors.New("the script failed")

// maxDepth bounds scripts that source themselves. GDB has no such bound of its
// own for files; 64 is far beyond what anybody nests by hand.
const maxDepth = 64

// runSource runs the lines of src to its end, or to the first failure.
func (sh *Shell) runSource(ctx context.Context, src source) error {
	outer := sh.src
	sh.src = src
	sh.depth++
	defer func() { sh.src = outer; sh.depth-- }()
	for !sh.left {
		line, place, err := next(ctx, src)
		if isEOF(err) {
			return nil
		}
		unread := err != nil
		if !unread {
			err = sh.runLine(ctx, line)
		}
		if broken, _ := sh.Output.broken(); broken {
			sh.left = true
			return errReported
		}
		if ctx.Err() != nil {
			if cause := context.Cause(ctx); cause != errNoReader && !errors.Is(err, errReported) {
				sh.status = max(sh.status, 1)
				sh.Output.Complain(place + ": " + cause.Error())
			}
			return errReported
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, errReported) {
			word := ""
			if t := strings.TrimLeft(line, blanks); t != "" {
				word, _ = cutWord(t)
			}
			if s, ok := src.(*script); ok && s.single { // the place is the line itself
				err = &placedError{err}
			}
			sh.fail(place, word, err)
		}
		if unread || isLost(err) || !sh.KeepGoing || sh.status == 3 {
			return errReported
		}
	}
	return nil
}

// fail reports an error and remembers what it means for the exit status.
// place is "" for what was typed.
func (sh *Shell) fail(place, word string, err error) {
	if isLost(err) {
		sh.status = 3
	} else {
		sh.status = max(sh.status, 1)
	}
	var parts []string
	var bad *lineError
	var own *commandError
	var placed *placedError
	switch {
	case errors.As(err, &placed):
		word = ""
	case errors.As(err, &bad):
		word = bad.word
	case errors.As(err, &own):
		word = own.name
	case place == "": // GDB's own words
		word = ""
	}
	for _, p := range []string{place, word, reason(err)} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	text := strings.Join(parts, ": ")
	if h := hint(err); h != "" && place == "" {
		text += ". " + h
	}
	sh.Output.Complain(text)
}

// placedError is an error whose place is the whole line.
type placedError struct{ error }

func (e *placedError) Unwrap() error { return e.error }

// shownLine is a line of the command line as errors show it: its first line, in
// quotes where it has blanks, and not too long.
func shownLine(text string) string {
	const most = 60 // bytes
	line, _, more := strings.Cut(strings.Trim(text, blanks), "\n")
	if len(line) > most {
		line, more = strings.ToValidUTF8(line[:most], ""), true
	}
	if more {
		line += "..."
	}
	if strings.ContainsAny(line, blanks) || line == "" {
		return "'" + line + "'"
	}
	return line
}

// reason is the text of an error for the user.
func reason(err error) string {
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	return strings.TrimRight(err.Error(), "\n")
}

// commandError is the error of one of dbgsh's own commands.
type commandError struct {
	name string
	err  error
}

func (e *commandError) Error() string { return e.err.Error() }
func (e *commandError) Unwrap() error { return e.err }

// bugError is a panic, with the stack of the goroutine.
type bugError struct {
	value any
	stack []byte
}

func (e *bugError) Error() string { return fmt.Sprintf("internal error: %v\n%s", e.value, e.stack) }

// rescue, deferred, turns a panic into an error: a bug must not take the
// session along.
func rescue(err *error) {
	if r := recover(); r != nil {
		*err = &bugError{r, debug.Stack()}
	}
}

// runLine runs one line.
func (sh *Shell) runLine(ctx context.Context, line string) (err error) {
	defer rescue(&err)
	p, err := parse(line, func(word string) *commands.Command { return sh.lookup(ctx, word) })
	switch {
	case err != nil:
		return err
	case p.gdb != "":
		return sh.runGDB(ctx, p.gdb)
	}
	return sh.runStages(ctx, p.stages)
}

// lookup is the command that word names: by its name or an alias, or by a
// prefix of its name that no other command begins with and that is no name or
// alias of GDB's.
func (sh *Shell) lookup(ctx context.Context, word string) *commands.Command {
	reg := sh.Session.Registry
	if c := reg.Lookup(word); c != nil || word == "" {
		return c
	}
	var found *commands.Command
	for _, c := range reg.WithPrefix(word) {
		if !strings.HasPrefix(c.Name, word) {
			continue // an alias: "e" must not become "exit"
		}
		if found != nil {
			return nil
		}
		found = c
	}
	if found == nil || sh.gdbHas(ctx, word) {
		return nil
	}
	return found
}

// gdbHas reports whether GDB has a command or alias of exactly that name.
func (sh *Shell) gdbHas(ctx context.Context, word string) bool {
	all, err := sh.Debugger.Complete(ctx, word)
	if err != nil {
		return false
	}
	for _, c := range all {
		if c == word {
			return true
		}
	}
	// Short aliases (h, n, b) are not among the completions, but the help of
	// a command begins with all of its names.
	text, err := sh.Debugger.Help(ctx, word)
	if err != nil {
		return false
	}
	names, _, _ := strings.Cut(text, "\n")
	for n := range strings.SplitSeq(names, ",") {
		if strings.TrimSpace(n) == word {
			return true
		}
	}
	return false
}

// runStages runs the commands of a line, each with the result of the one
// before, and shows the last one's.
func (sh *Shell) runStages(ctx context.Context, stages []stage) error {
	var out commands.Output
	for i, st := range stages {
		sh.last, sh.asJSON = i == len(stages)-1, sh.JSON || out.JSON
		var err error
		out, err = sh.runStage(ctx, st, out.Result)
		if err != nil {
			if out.Result == nil {
				return err
			}
			// What was done until then, shown although the line may be cancelled.
			return errors.Join(sh.show(context.WithoutCancel(ctx), out.Result, sh.JSON || out.JSON), err)
		}
		if out.Result == nil && !sh.last {
			return &lineError{st.command.Name, fmt.Errorf("its output cannot be handed on")}
		}
	}
	if out.Result == nil {
		return nil
	}
	return sh.show(ctx, out.Result, sh.JSON || out.JSON)
}

func (sh *Shell) runStage(ctx context.Context, st stage, pipe commands.Result) (out commands.Output, err error) {
	out, err = st.command.Execute(ctx, sh.Session, st.tail, pipe)
	switch {
	case errors.Is(err, commands.ErrForGDB):
		out.Result, err = sh.gdbResult(ctx, st.command.Name+st.tail)
		return out, err
	case err != nil:
		var gdb *gdbError
		if errors.As(err, &gdb) || errors.Is(err, errReported) {
			return out, err
		}
		return out, &commandError{st.command.Name, err}
	}
	return out, nil
}
