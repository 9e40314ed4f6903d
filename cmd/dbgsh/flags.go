package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// input is one -x, -ex, -ix or -iex.
type input struct {
	file, line string
	flag       string // as it was written, without the dash
}

// options is the command line.
type options struct {
	first     []input // before the program is loaded
	inputs    []input
	stay      bool
	batch     bool
	quiet     bool
	dir       string
	sources   []string // folders with source files
	tty       string
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
	withArgs  bool
	program   string
	args      []string
}

// option is a flag of the command line, from which its help is made.
type option struct {
	names []string // dbgsh's own first, then GDB's
	arg   string   // what stands behind it, "" for nothing
	use   string   // what it does
	set   func(o *options, value string) error
}

// formWidth is the width in columns of the flags in the help, which leaves out
// the second name of an option where there is no room for it.
const formWidth = 26

// into is an option's set that keeps the value.
func into(field func(o *options) *string) func(*options, string) error {
	return func(o *options, v string) error {
		*field(o) = v
		return nil
	}
}

// on is an option's set for one without a value.
func on(field func(o *options) *bool) func(*options, string) error {
	return func(o *options, v string) error {
		if v != "true" { // what package flag hands over for a flag alone
			return fmt.Errorf("it takes no value, but got %q", v)
		}
		*field(o) = true
		return nil
	}
}

// allOptions is the flags, in the order of the help. Names of GDB's mean what
// they mean there (GDB manual, "Choosing Files" and "Choosing Modes").
func allOptions() []option {
	return []option{
		{[]string{"p", "pid"}, "PID", "attach to the process PID", into(func(o *options) *string { return &o.pid })},
		{[]string{"c", "core"}, "FILE", "open the core FILE", into(func(o *options) *string { return &o.core })},
		{[]string{"r"}, "ADDR", "connect to the stub at ADDR: host:port, or a unix socket", into(func(o *options) *string { return &o.remote })},
		{[]string{"x", "command"}, "FILE", "run the script FILE; - is standard input", func(o *options, v string) error {
			o.inputs = append(o.inputs, input{file: v, flag: "x"})
			return nil
		}},
		{[]string{"ex", "eval-command"}, "CMD", "run CMD; -x and -ex run in the order given", func(o *options, v string) error {
			o.inputs = append(o.inputs, input{line: v, flag: "ex"})
			return nil
		}},
		{[]string{"ix", "init-command"}, "FILE", "run FILE before the program is loaded", func(o *options, v string) error {
			o.first = append(o.first, input{file: v, flag: "ix"})
			return nil
		}},
		{[]string{"iex", "init-eval-command"}, "CMD", "run CMD before the program is loaded", func(o *options, v string) error {
			o.first = append(o.first, input{line: v, flag: "iex"})
			return nil
		}},
		{[]string{"i"}, "", "stay at the prompt after -x and -ex", func(o *options, v string) error {
			if v != "true" {
				return fmt.Errorf("GDB's -i=%s names an interpreter; dbgsh is one of its own, and its -i takes no value", v)
			}
			o.stay = true
			return nil
		}},
		{[]string{"batch"}, "", "never prompt", on(func(o *options) *bool { return &o.batch })},
		{[]string{"args"}, "", "the words after program are its arguments", on(func(o *options) *bool { return &o.withArgs })},
		{[]string{"cd"}, "DIR", "go to DIR first", into(func(o *options) *string { return &o.dir })},
		{[]string{"d", "directory"}, "DIR", "look for source files in DIR, too", func(o *options, v string) error {
			o.sources = append(o.sources, v)
			return nil
		}},
		{[]string{"tty", "t"}, "FILE", "FILE is the terminal of the program", into(func(o *options) *string { return &o.tty })},
		{[]string{"json"}, "", "results as JSON", on(func(o *options) *bool { return &o.json })},
		{[]string{"keep-going"}, "", "go on after a command that fails", on(func(o *options) *bool { return &o.keepGoing })},
		{[]string{"color"}, "WHEN", "colour results: auto (on a terminal), always, never", into(func(o *options) *string { return &o.color })},
		{[]string{"gdb"}, "PATH", "the GDB to use (default gdb-multiarch, else gdb)", into(func(o *options) *string { return &o.gdb })},
		{[]string{"gdbinit"}, "", "let GDB read its own start-up files", on(func(o *options) *bool { return &o.gdbInit })},
		{[]string{"n", "nx", "nh"}, "", "do not run the init script", on(func(o *options) *bool { return &o.noInit })},
		{[]string{"q", "quiet", "silent"}, "", "no line before the first prompt", on(func(o *options) *bool { return &o.quiet })},
		{[]string{"log"}, "FILE", "write every line to and from GDB to FILE", into(func(o *options) *string { return &o.log })},
		{[]string{"version", "v"}, "", "show the versions of dbgsh and GDB", on(func(o *options) *bool { return &o.version })},
	}
}

// without are flags of GDB's that dbgsh has nothing for, with what it has instead.
func without() map[string]string {
	const (
		noWindow = `dbgsh has no windows; "list", "info registers" and "backtrace" show what they would`
		noInterp = "the interpreter is dbgsh itself; for programs there are -json, scripts and exit statuses"
		speed    = `after the start, "set serial baud" and "set remotetimeout" say that`
		readFile = "dbgsh reads symbols as GDB does by default; \"file\" and \"symbol-file\" take the flag"
	)
	return map[string]string{
		"tui": noWindow, "w": noWindow, "windows": noWindow, "dbx": noWindow,
		"interpreter": noInterp, "ui": noInterp, "annotate": noInterp, "fullname": noInterp, "f": noInterp,
		"b": speed, "l": speed,
		"readnow": readFile, "readnever": readFile,
		"s": `"symbol-file" as -ex takes it`, "symbols": `"symbol-file" as -ex takes it`,
		"e": `"exec-file" as -ex takes it`, "exec": `"exec-file" as -ex takes it`, "se": "the program's name alone does that",
		"write": `"set write on" as -iex does that`, "statistics": "-log has every line to and from GDB",
		"return-child-result": `"quit $_exitcode" as the last -ex does that`,
		"batch-silent":        "-batch, and standard output to /dev/null",
	}
}

// usage writes the help, which fits a screen of 24 lines and 80 columns.
func usage(w io.Writer) {
	fmt.Fprint(w, "usage: dbgsh [flags] [program [core|pid]]\n       dbgsh [flags] -args program [arg ...]\n")
	for _, op := range allOptions() {
		form, arg := "-"+op.names[0], ""
		if op.arg != "" {
			arg = " " + op.arg
		}
		if len(op.names) > 1 && len(form+", -"+op.names[1]+arg) <= formWidth {
			form += ", -" + op.names[1]
		}
		fmt.Fprintf(w, "  %-*s %s\n", formWidth, form+arg, op.use)
	}
}

// parseArgs reads the command line. flag.ErrHelp means that help was asked for
// and has been written to out.
func parseArgs(args []string, out io.Writer) (*options, error) {
	o := &options{color: "auto"}
	fs := flag.NewFlagSet("dbgsh", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for _, op := range allOptions() {
		set := func(v string) error { return op.set(o, v) }
		for _, n := range op.names {
			if op.arg == "" {
				fs.BoolFunc(n, op.use, set)
			} else {
				fs.Func(n, op.use, set)
			}
		}
	}
	for n, instead := range without() {
		fs.BoolFunc(n, "", func(string) error { return &noFlagError{n, instead} })
	}
	fs.BoolFunc("nw", "", func(string) error { return nil }) // no windows, as ever
	fs.BoolFunc("nowindows", "", func(string) error { return nil })
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		usage(out)
		return nil, err
	}
	if err != nil {
		// Package flag wraps only the text of what set says.
		for n, instead := range without() {
			if no := (&noFlagError{n, instead}); strings.HasSuffix(err.Error(), no.Error()) {
				return nil, no
			}
		}
		return nil, err
	}
	return o, o.positional(fs.Args())
}

// noFlagError says that a flag of GDB's is none of dbgsh's.
type noFlagError struct{ name, instead string }

func (e *noFlagError) Error() string { return fmt.Sprintf("-%s is GDB's alone: %s", e.name, e.instead) }

// positional reads the words behind the flags, and checks how all goes together.
func (o *options) positional(words []string) error {
	named := len(words) > 0
	if named {
		o.program, words = words[0], words[1:]
	}
	switch {
	case o.withArgs && !named:
		return errors.New("-args: no program is named behind it")
	case named && o.program == "":
		return errors.New("the program's name is empty; name a file")
	case o.withArgs:
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
	switch {
	case targets > 1:
		return errors.New("-p, -c and -r exclude each other; give one")
	case o.batch && o.stay:
		return errors.New("-batch never prompts, and -i stays at the prompt; give one")
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

// stdinIsScript reports whether standard input is read as a script.
func (o *options) stdinIsScript() bool {
	for _, in := range append(o.first, o.inputs...) {
		if in.file == "-" {
			return true
		}
	}
	return false
}

// what is the place of an input as errors name it.
func (in input) what() string { return "-" + cmp.Or(in.flag, "ex") }
