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
	"strings"
	"time"

	"golang.org/x/term"

	"dbgsh/commands"
	"dbgsh/repl"
	"dbgsh/target"
	"dbgsh/target/gdb"
	"dbgsh/target/mi"
)

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
		showVersion(os.Stdout, gdb.Find(o.gdb))
		return 0
	}
	if o.dir != "" {
		if err := os.Chdir(o.dir); err != nil {
			fmt.Fprintf(os.Stderr, "dbgsh: -cd: %v\n", err)
			return statusUsage
		}
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
	interactive := (o.stay || len(o.inputs) == 0) && !o.batch
	atPrompt := terminal && interactive
	if !terminal && interactive {
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

// work runs the init script, opens the debuggee, runs the scripts, and prompts.
func (o *options) work(ctx context.Context, shell *repl.Shell, tgt *target.Target, out *repl.Output, atPrompt bool) {
	if dir, err := os.UserConfigDir(); err == nil && !o.noInit {
		if !shell.RunInit(ctx, filepath.Join(dir, "dbgsh", "init.dbgsh")) && (shell.Left() || !atPrompt) {
			return
		}
	}
	if !runInputs(ctx, shell, o.first) && (shell.Left() || !atPrompt) {
		return
	}
	if !shell.Open(ctx, func(ctx context.Context) error { return o.open(ctx, tgt, out) }) && (shell.Left() || !atPrompt) {
		return
	}
	runInputs(ctx, shell, o.inputs)
	if atPrompt && !shell.Left() {
		if !o.quiet {
			shell.Banner = o.banner(ctx, tgt)
		}
		shell.Prompt(ctx)
	}
}

// runInputs runs scripts and commands up to the first that ends all; more is
// false then.
func runInputs(ctx context.Context, shell *repl.Shell, inputs []input) (more bool) {
	for _, in := range inputs {
		if in.file != "" {
			more = shell.RunFile(ctx, in.what(), in.file)
		} else {
			more = shell.RunLine(ctx, in.what(), in.line)
		}
		if !more {
			return false
		}
	}
	return true
}

// open loads the program and attaches, opens a core or connects.
func (o *options) open(ctx context.Context, tgt *target.Target, out *repl.Output) error {
	for _, dir := range o.sources {
		if err := tgt.Console(ctx, "directory "+dir, io.Discard); err != nil {
			return err
		}
	}
	if err := tgt.Load(ctx); err != nil {
		var said *gdb.Error
		if o.pid == "" || !errors.As(err, &said) {
			return err
		}
		// The process knows its own program, as for GDB.
		out.Complain(err.Error())
	}
	if o.tty != "" {
		if err := tgt.Console(ctx, "tty "+o.tty, io.Discard); err != nil {
			return err
		}
	}
	switch {
	case o.pid != "":
		return tgt.Console(ctx, "attach "+o.pid, out.Inferior())
	case o.core != "":
		return tgt.Console(ctx, "core-file "+o.core, out.Inferior())
	case o.remote != "":
		return tgt.Console(ctx, "target remote "+o.remote, out.Inferior())
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
