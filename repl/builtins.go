package repl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"dbgsh/commands"
)

const gdbName = "gdb"

// Commands is the commands that belong to the shell itself. They work in this
// shell only.
func (sh *Shell) Commands() []commands.Command {
	return []commands.Command{sh.gdbCommand(), sh.sourceCommand(), sh.shellCommand(), sh.makeCommand(), sh.quitCommand()}
}

func (sh *Shell) gdbCommand() commands.Command {
	return commands.Command{
		Name:  gdbName,
		Group: commands.Shell,
		Args:  "LINE",
		Short: "Hand a line to GDB, even where dbgsh has a command of that name.",
		Long: "A | ends the line only where a command of dbgsh or a !SHELL COMMAND follows it, " +
			"so that GDB's own bars stay in it.",
		Examples: []commands.Example{
			{Line: "gdb search main", Does: "GDB's search, which looks in source text"},
			{Line: "gdb info registers | !grep rip", Does: "what GDB prints, through the shell"},
		},
		Verbatim: true,
		Complete: commands.CompleteGDB,
		Run: func(ctx context.Context, _ *commands.Session, in commands.Input) (commands.Result, error) {
			if strings.Trim(in.Tail, blanks) == "" {
				return nil, errors.New("give the line for GDB, e.g. gdb info registers")
			}
			return sh.gdbResult(ctx, in.Tail)
		},
	}
}

func (sh *Shell) sourceCommand() commands.Command {
	return commands.Command{
		Name:  "source",
		Group: commands.Shell,
		Args:  "[-v] FILE",
		Short: "Run the lines of a script.",
		Long: "The script may hold commands of dbgsh and of GDB, as at the prompt; lines that begin with # are " +
			"comments. The first command that fails ends it. Files whose names end in .py or .scm are GDB's to run. " +
			"With -v each line is shown before it is run.",
		Examples: []commands.Example{{Line: "source leaks.dbgsh", Does: "run a batch script"}},
		Verbatim: true, WholeLine: true, NoRepeat: true,
		Complete: commands.CompleteFile,
		Run: func(ctx context.Context, _ *commands.Session, in commands.Input) (commands.Result, error) {
			return sh.source(ctx, in.Tail)
		},
	}
}

// source runs the script that the arguments name.
func (sh *Shell) source(ctx context.Context, args string) (commands.Result, error) {
	name, verbose, search := strings.Trim(args, blanks), false, false
	for {
		word, rest := cutWord(name)
		switch word {
		case "-v":
			verbose = true
		case "-s":
			search = true
		default:
			if name == "" {
				return nil, errors.New("give the script's file, e.g. source leaks.dbgsh")
			}
			if ext := filepath.Ext(name); search || ext == ".py" || ext == ".scm" {
				return sh.gdbResult(ctx, "source "+strings.Trim(args, blanks))
			}
			return nil, sh.sourceFile(ctx, name, verbose)
		}
		name = strings.TrimLeft(rest, blanks)
	}
}

func (sh *Shell) sourceFile(ctx context.Context, name string, verbose bool) error {
	if sh.depth >= maxDepth {
		return fmt.Errorf("%s: %d scripts deep; a script that sources itself?", name, sh.depth)
	}
	f, err := openScript(expandHome(name))
	if err != nil {
		return err
	}
	defer f.Close()
	var src source = newScript(name, f)
	if verbose {
		src = &echoing{src, sh.Output}
	}
	return sh.runSource(ctx, src)
}

// echoing is a source that shows each line that it hands over.
type echoing struct {
	source
	w io.Writer
}

func (e *echoing) line(ctx context.Context, more bool) (string, error) {
	line, err := e.source.line(ctx, more)
	if err == nil {
		fmt.Fprintf(e.w, "+%s\n", line)
	}
	return line, err
}

func (sh *Shell) shellCommand() commands.Command {
	return commands.Command{
		Name:    "shell",
		Aliases: []string{"!"},
		Group:   commands.Shell,
		Args:    "[COMMAND]",
		Short:   "Run a command of the shell ($SHELL); alone, start one.",
		Long: "! may stand right before the command. Behind a | it gets what the commands before it show, as text, " +
			"or as JSON where they were asked for it.",
		Examples: []commands.Example{
			{Line: "!ls -l", Does: "a command of the shell"},
			{Line: "vmmap | !sort -k4 | head", Does: "the map's text through sort and head"},
		},
		Verbatim: true, WholeLine: true,
		Complete: commands.CompleteFile,
		Run: func(ctx context.Context, _ *commands.Session, in commands.Input) (commands.Result, error) {
			return nil, sh.shell(ctx, strings.Trim(in.Tail, blanks), in.Pipe)
		},
	}
}

func (sh *Shell) makeCommand() commands.Command {
	return commands.Command{
		Name:     "make",
		Group:    commands.Shell,
		Args:     "[ARGS]",
		Short:    "Run make, as shell make does.",
		Examples: []commands.Example{{Line: "make -j2", Does: "build the program"}},
		Verbatim: true, WholeLine: true,
		Complete: commands.CompleteFile,
		Run: func(ctx context.Context, _ *commands.Session, in commands.Input) (commands.Result, error) {
			return nil, sh.shell(ctx, "make"+in.Tail, in.Pipe)
		},
	}
}

// shellDelay is how long a shell command's output is waited for after its end:
// what it left running in the background may hold it open.
const shellDelay = time.Second

// shell runs a command of the user's shell, or without one the shell itself,
// on the terminal; what stands before it in the line, if anything, is its
// standard input.
func (sh *Shell) shell(ctx context.Context, command string, pipe commands.Result) error {
	name := os.Getenv("SHELL")
	if name == "" {
		name = "/bin/sh"
	}
	args := []string{"-c", command}
	if command == "" {
		if pipe != nil {
			return errors.New("give the shell's command, e.g. !sort -k4")
		}
		args = nil
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = shellDelay
	switch {
	case pipe != nil:
		var text bytes.Buffer
		if err := render(ctx, &text, pipe, sh.asJSON, commands.Screen{}, nil); err != nil {
			return err
		}
		cmd.Stdin = &text // that it is not read to its end is no error of exec's
	case sh.Stdin != nil && !sh.StdinIsScript:
		cmd.Stdin = sh.Stdin
	}
	err := sh.Output.lent(func(stdout, stderr io.Writer) error {
		cmd.Stdout, cmd.Stderr = stdout, stderr
		return sh.foreground(cmd.Run)
	})
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit) && exit.Exited():
		return fmt.Errorf("exit status %d", exit.ExitCode())
	case errors.As(err, &exit):
		return fmt.Errorf("ended by %s", exit)
	}
	return err
}

// foreground runs a child that has the terminal, as dbgsh found it, and
// Ctrl-C.
func (sh *Shell) foreground(run func() error) error {
	sh.signals.foreign.Store(true)
	defer sh.signals.foreign.Store(false)
	if t := sh.tty.Load(); t != nil {
		defer t.lend()()
	}
	return run()
}

func (sh *Shell) quitCommand() commands.Command {
	return commands.Command{
		Name:    "quit",
		Aliases: []string{"exit", "q"},
		Group:   commands.Shell,
		Args:    "[STATUS]",
		Short:   "Leave dbgsh; STATUS becomes its exit status.",
		Long: "What dbgsh started is killed, what it attached to is let go and runs on. At the prompt it asks first " +
			"if a process that dbgsh started is alive.",
		Examples: []commands.Example{{Line: "quit 2", Does: "leave with exit status 2"}},
		Verbatim: true, WholeLine: true, NoRepeat: true,
		Run: func(ctx context.Context, s *commands.Session, in commands.Input) (commands.Result, error) {
			return nil, sh.quit(ctx, s, strings.Trim(in.Tail, blanks))
		},
	}
}

func (sh *Shell) quit(ctx context.Context, s *commands.Session, status string) error {
	code := sh.status
	if status != "" {
		n, err := strconv.ParseUint(status, 0, 64)
		if err != nil {
			if n, _, err = s.Eval.Evaluate(ctx, status); err != nil {
				return fmt.Errorf("the exit status %s: %w", status, err)
			}
		}
		if n > 255 { // exit(3) keeps only the low byte
			return fmt.Errorf("the exit status %d: give one from 0 to 255", int64(n))
		}
		code = int(n)
	}
	if p, ok := sh.src.(*prompt); ok {
		if err := p.leave(ctx); err != nil {
			return err
		}
	}
	sh.status, sh.left = code, true
	return nil
}
