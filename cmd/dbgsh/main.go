// Dbgsh is a debugger shell: GDB with the memory map of the debuggee at hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"dbgsh/commands"
	"dbgsh/repl"
	"dbgsh/target"
	"dbgsh/target/gdb"
	"dbgsh/target/mi"
)

const version = "0.1.0"

// The exit statuses.
const (
	statusUsage = 2 // bad usage
	statusStart = 3 // GDB or the target could not be started, or was lost
)

func main() {
	if mi.IsRelay() {
		os.Exit(mi.RelayMain())
	}
	// A map is garbage at the next stop: it pays to collect seldom.
	debug.SetGCPercent(400)
	os.Exit(run(os.Args[1:]))
}

// input is one -x or -ex.
type input struct {
	file, line string
}

// options is the command line.
type options struct {
	inputs    []input
	stay      bool
	pid       string
	core      string
	remote    string
	gdb       string
	color     string
	json      bool
	keepGoing bool
	log       string
	noInit    bool
	gdbInit   bool
	version   bool
	program   string
	args      []string
}

// parseArgs reads the command line. flag.ErrHelp means that help was asked for
// and has been written to out.
func parseArgs(args []string, out io.Writer) (*options, error) {
	o := &options{}
	var withArgs bool
	fs := flag.NewFlagSet("dbgsh", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Func("x", "run the batch script `FILE`; - is standard input; may be repeated", func(s string) error {
		o.inputs = append(o.inputs, input{file: s})
		return nil
	})
	fs.Func("ex", "run the command `CMD`; may be repeated; -x and -ex run in the order given", func(s string) error {
		o.inputs = append(o.inputs, input{line: s})
		return nil
	})
	fs.BoolVar(&o.stay, "i", false, "stay at the prompt after -x and -ex")
	fs.StringVar(&o.pid, "p", "", "attach to the process `PID`")
	fs.StringVar(&o.core, "c", "", "open the core `FILE`")
	fs.StringVar(&o.remote, "r", "", "connect to the stub at `ADDR`: host:port, or a unix socket")
	fs.StringVar(&o.gdb, "gdb", "", "use the GDB at `PATH` (default gdb-multiarch where installed, else gdb)")
	fs.StringVar(&o.color, "color", "auto", "`WHEN` results are coloured: auto (only on a terminal), always or never")
	fs.BoolVar(&o.json, "json", false, "results as JSON")
	fs.BoolVar(&o.keepGoing, "keep-going", false, "go on after a command that fails")
	fs.StringVar(&o.log, "log", "", "write every line to and from GDB to `FILE`")
	fs.BoolVar(&o.noInit, "n", false, "do not run the init script")
	fs.BoolVar(&o.gdbInit, "gdbinit", false, "let GDB read its own start-up files")
	fs.BoolVar(&o.version, "version", false, "show the version and leave")
	fs.BoolVar(&withArgs, "args", false, "the words after program are its arguments")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(out, "usage: dbgsh [flags] [program [core|pid]]\n       dbgsh [flags] -args program [arg ...]\n\nflags:\n")
		fs.SetOutput(out)
		fs.PrintDefaults()
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	return o, o.positional(fs.Args(), withArgs)
}

// positional reads the words behind the flags, and checks how all goes together.
func (o *options) positional(words []string, withArgs bool) error {
	named := len(words) > 0
	if named {
		o.program, words = words[0], words[1:]
	}
	switch {
	case withArgs && !named:
		return errors.New("-args: no program is named behind it")
	case named && o.program == "":
		return errors.New("the program's name is empty; name a file")
	case withArgs:
		o.args = words
	case len(words) > 0 && strings.HasPrefix(words[0], "-"):
		return fmt.Errorf("%s stands behind the program; flags go before it, and -args before a program with arguments", words[0])
	case len(words) > 1:
		return fmt.Errorf("%s: one word may follow the program, a core file or a process id; for arguments write -args before the program", words[1])
	case len(words) == 1:
		if _, err := os.Stat(words[0]); err != nil && isPID(words[0]) {
			if o.pid != "" {
				return fmt.Errorf("two processes to attach to: -p %s and %s", o.pid, words[0])
			}
			o.pid = words[0]
		} else {
			if o.core != "" {
				return fmt.Errorf("two core files: -c %s and %s", o.core, words[0])
			}
			o.core = words[0]
		}
	}
	if o.pid != "" && !isPID(o.pid) {
		return fmt.Errorf("-p %s: not a process id; give a number", o.pid)
	}
	targets := 0
	for _, s := range []string{o.pid, o.core, o.remote} {
		if s != "" {
			targets++
		}
	}
	if targets > 1 {
		return errors.New("-p, -c and -r exclude each other; give one")
	}
	switch o.color {
	case "auto", "always", "never":
		return nil
	}
	return fmt.Errorf("-color %s: give auto, always or never", o.color)
}

func isPID(s string) bool {
	n, err := strconv.ParseInt(s, 10, 32)
	return err == nil && n > 0
}

// run is the whole program; it returns the exit status.
func run(args []string) int {
	o, err := parseArgs(args, os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "dbgsh: %v (dbgsh -h shows the usage)\n", err)
		return statusUsage
	case o.version:
		fmt.Printf("dbgsh %s\n", version)
		return 0
	}
	var log io.Writer
	if o.log != "" {
		f, err := os.OpenFile(o.log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			fmt.Fprintf(os.Stderr, "dbgsh: -log: %v\n", err)
			return statusUsage
		}
		defer f.Close()
		log = f
	}
	status, err := o.session(log)
	if err != nil {
		fmt.Fprintf(os.Stderr, "dbgsh: %v\n", err)
		return statusStart
	}
	return status
}

// session starts GDB, runs what the command line asks for, and ends GDB.
func (o *options) session(log io.Writer) (status int, err error) {
	terminal := term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
	atPrompt := terminal && (o.stay || len(o.inputs) == 0)
	if !terminal && (o.stay || len(o.inputs) == 0) {
		o.inputs = append(o.inputs, input{file: "-"}) // what would be typed at a prompt
	}
	out := repl.NewOutput(os.Stdout, os.Stderr, o.json)

	settings := commands.NewSettings()
	tgt, err := target.New(target.Config{
		Config: gdb.Config{
			GDB: o.gdb, StartUp: o.gdbInit, Program: o.program, Args: o.args,
			Terminal: atPrompt, NoInput: o.stdinIsScript(), Inferior: out.Inferior(), Stray: out.Inferior(), Log: log,
		},
		QEMUUserMap: func() target.QEMUUserMap { return target.QEMUUserMap(settings.Get("qemu-user-vmmap")) },
		KernelMap:   settings.KernelMap,
	})
	if err != nil {
		return 0, err
	}
	registry, err := commands.NewRegistry(commands.All()...)
	if err != nil {
		return 0, err
	}
	if err := settings.Set("color", o.color); err != nil {
		return 0, err
	}
	shell := repl.New(repl.Config{
		Output: out, Stdin: os.Stdin,
		Session:  commands.NewSession(tgt, registry, settings),
		Debugger: tgt,
		JSON:     o.json, KeepGoing: o.keepGoing,
		StdinIsScript: o.stdinIsScript(),
		HistoryFile:   repl.HistoryPath(),
	})
	for _, c := range shell.Commands() {
		if err := registry.Register(c); err != nil {
			return 0, err
		}
	}
	ctx := context.Background()
	stop := shell.Start()
	defer stop()
	defer func() {
		// GDB kills what it started and lets go what it attached to.
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err = errors.Join(err, tgt.Close(ctx))
	}()
	if shell.Open(ctx, tgt.Start) {
		o.work(ctx, shell, tgt, out, atPrompt)
	}
	return shell.Status(), nil
}

func (o *options) stdinIsScript() bool {
	for _, in := range o.inputs {
		if in.file == "-" {
			return true
		}
	}
	return false
}

// work runs the init script, opens the debuggee, runs the scripts, and prompts.
func (o *options) work(ctx context.Context, shell *repl.Shell, tgt *target.Target, out *repl.Output, atPrompt bool) {
	if dir, err := os.UserConfigDir(); err == nil && !o.noInit {
		if !shell.RunInit(ctx, filepath.Join(dir, "dbgsh", "init.dbgsh")) && (shell.Left() || !atPrompt) {
			return
		}
	}
	if !shell.Open(ctx, func(ctx context.Context) error { return o.open(ctx, tgt, out.Inferior()) }) && (shell.Left() || !atPrompt) {
		return
	}
	for _, in := range o.inputs {
		more := false
		if in.file != "" {
			more = shell.RunFile(ctx, in.file)
		} else {
			more = shell.RunLine(ctx, "-ex", in.line)
		}
		if !more {
			break
		}
	}
	if atPrompt && !shell.Left() {
		shell.Banner = o.banner(ctx, tgt)
		shell.Prompt(ctx)
	}
}

// open loads the program and attaches, opens a core or connects.
func (o *options) open(ctx context.Context, tgt *target.Target, out io.Writer) error {
	if err := tgt.Load(ctx); err != nil {
		return err
	}
	switch {
	case o.pid != "":
		return tgt.Console(ctx, "attach "+o.pid, out)
	case o.core != "":
		return tgt.Console(ctx, "core-file "+o.core, out)
	case o.remote != "":
		return tgt.Console(ctx, "target remote "+o.remote, out)
	}
	return nil
}

// banner is the line before the first prompt.
func (o *options) banner(ctx context.Context, tgt *target.Target) string {
	parts := []string{"dbgsh " + version}
	if v, err := tgt.Version(ctx); err == nil {
		parts[0] += " on GDB " + v
	}
	if o.program != "" {
		parts = append(parts, o.program)
	}
	return strings.Join(append(parts, "type help, or any GDB command"), " · ")
}
