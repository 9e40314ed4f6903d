package repl

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"dbgsh/commands"
	"dbgsh/internal/testkit"
)

func TestScript(t *testing.T) {
	t.Setenv("SHELL", "/bin/sh")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inner := write("inner", "echo in\nfail inside\necho never\n")
	loop := filepath.Join(dir, "loop")
	write("loop", "source "+loop+"\n")
	py := write("x.py", "print(1)\n")
	long := strings.Repeat("x", 1<<20)

	keepGoing := func(c *Config) { c.KeepGoing = true }
	asJSON := func(c *Config) { c.JSON = true }
	tests := []struct {
		name, text             string
		change                 func(*Config)
		stdout, stderr         string
		status                 int
		stops, left            bool
		skipStdout, skipStderr bool
	}{
		{name: "empty"},
		{name: "comments and blanks", text: "\n  # x\n\t\n"},
		{name: "gdb's line, CRLF", text: "echo a b\r\n", stdout: "echo a b\n"},
		{name: "no newline at the end", text: "echo a", stdout: "echo a\n"},
		{name: "a long line", text: "echo " + long + "\n", stdout: "echo " + long + "\n"},
		{name: "a line that goes on", text: "echo a\\\nb\\\nc\nnosuch", stdout: "echo abc\n", stderr: "f:4: nosuch: Undefined command: \"nosuch\".  Try \"help\".\n", status: 1, stops: true},
		{name: "our command", text: "words a 'b c'\n", stdout: "a\nb c\n"},
		{name: "a pipeline", text: "words a b | upper\n", stdout: "A\nB\n"},
		{name: "a shell stage", text: "words c b a | upper | !sort | head -n 2\n", stdout: "A\nB\n"},
		{name: "a shell stage that stops reading", text: "words " + strings.Repeat("wwwwwww ", 1<<16) + "| !head -n 1\necho on\n", stdout: "wwwwwww\necho on\n"},
		{name: "a shell stage that fails", text: "words a | !exit 3\n", stderr: "f:1: shell: exit status 3\n", status: 1, stops: true},
		{name: "gdb's output in a pipeline", text: "gdb echo a | b | !tr a-z A-Z\n", stdout: "ECHO A | B\n"},
		{name: "json to a shell", text: "words a --json | !cat\nwords a --json\n", stdout: "{\"words\":[\"a\"]}\n{\"words\":[\"a\"]}\n"},
		{name: "no stage", text: "words a | head\necho no\n", stderr: "f:1: head: no dbgsh command; for the shell's write | !head\n", status: 1, stops: true},
		{name: "nothing handed on", text: "!true | words a\nshell true\n", stderr: "", stdout: "", skipStderr: true, status: 1, stops: true},
		{name: "a prefix of a command", text: "wor a\nupp\n", stdout: "a\n", stderr: "f:2: upper: give it words, not <nil>\n", status: 1, stops: true},
		{name: "a prefix that is GDB's", text: "vma\n", stderr: "f:1: vma: Undefined command: \"vma\".  Try \"help\".\n", status: 1, stops: true},
		{name: "a prefix that is an alias of GDB's", text: "vm\n", stderr: "f:1: vm: Undefined command: \"vm\".  Try \"help\".\n", status: 1, stops: true},
		{name: "a prefix of two", text: "w a\n", stderr: "f:1: w: Undefined command: \"w\".  Try \"help\".\n", status: 1, stops: true},
		{name: "a prefix of an alias is none", text: "exi\n", stderr: "f:1: exi: Undefined command: \"exi\".  Try \"help\".\n", status: 1, stops: true},
		{name: "gdb LINE", text: "gdb print words\n", stdout: "print words\n"},
		{name: "gdb with no line", text: "gdb\n", stderr: "f:1: gdb: give the line for GDB, e.g. gdb info registers\n", status: 1, stops: true},
		{name: "left to GDB", text: "set confirm off\nset pager off\nset x | !tr s S\n", stdout: "set confirm off\nSet x\n"},
		{name: "a command's error", text: "\nvmmap x\n", stderr: "f:2: vmmap: no process\n", status: 1, stops: true},
		{name: "a usage error", text: "upper x\n", stderr: "f:1: upper: takes no arguments, but got \"x\"\n", status: 1, stops: true},
		{name: "a bug", text: "panics\n", skipStderr: true, status: 1, stops: true},
		{name: "keep going", text: "fail one\nfail two\necho on\n", change: keepGoing, stdout: "echo on\n", stderr: "f:1: fail: one\nf:2: fail: two\n", status: 1},
		{name: "lost", text: "die\necho on\n", change: keepGoing, stderr: "f:1: die: GDB ended (killed by signal 9)\n", status: 3, stops: true},
		{name: "quit", text: "echo a\nquit\necho b\n", stdout: "echo a\n", stops: true, left: true},
		{name: "quit with a status", text: "q 0x15\n", status: 21, stops: true, left: true},
		{name: "quit with no status", text: "q 256\n", stderr: "f:1: quit: the exit status 256: give one from 0 to 255\n", status: 1, stops: true},
		{name: "quit keeps the status", text: "fail x\nexit\n", change: keepGoing, stderr: "f:1: fail: x\n", status: 1, stops: true, left: true},
		{name: "quit behind gdb", text: "gdb quit\n", stderr: "f:1: quit: quit is dbgsh's own; write it without what stands before it\n", status: 1, stops: true},
		{name: "edit", text: "edit\n", stderr: "f:1: edit: an editor needs GDB's own terminal; write !$EDITOR FILE\n", status: 1, stops: true},
		{name: "a block", text: "if 1\n  echo x\nend\necho y\n", stdout: "sourced:\nif 1\n  echo x\nend\necho y\n"},
		{name: "a block by prefix, behind gdb", text: "gdb comm 1\nsilent\nend\n", stdout: "sourced:\ncomm 1\nsilent\nend\n"},
		{name: "a block that fails", text: "\nif 1\nprint wrong\nend\n", stderr: "f:2: if: No symbol \"wrong\" in current context.\n", status: 1, stops: true},
		{name: "a block with no end", text: "echo a\npython\nx = 1\n", stdout: "echo a\n", stderr: "f:2: python: its \"end\" is missing\n", status: 1, stops: true},
		{name: "source", text: "source " + inner + "\necho out\n", stdout: "echo in\n", stderr: inner + ":2: fail: inside\n", status: 1, stops: true},
		{name: "source, keep going", text: "source " + inner + "\necho out\n", change: keepGoing, stdout: "echo in\necho never\necho out\n", stderr: inner + ":2: fail: inside\n", status: 1},
		{name: "source -v", text: "source -v " + inner + "\n", stdout: "+echo in\necho in\n+fail inside\n", stderr: inner + ":2: fail: inside\n", status: 1, stops: true},
		{name: "source a script of GDB's", text: "source " + py + "\n", stdout: "sourced:\nprint(1)\n"},
		{name: "source nothing", text: "source /nonexistent/x\n", stderr: "f:1: source: open /nonexistent/x: no such file or directory\n", status: 1, stops: true},
		{name: "source itself", text: "source " + loop + "\n", stderr: loop + ":1: source: " + loop + ": 64 scripts deep; a script that sources itself?\n", status: 1, stops: true},
		{name: "json", text: "words a\nprint 1\nset pager off\nfail x\n", change: asJSON, stdout: "{\"words\":[\"a\"]}\n{\"console\":\"print 1\\n\"}\n", stderr: "f:4: fail: x\n", status: 1, stops: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := runText(t, tt.text, tt.change)
			if diff := cmp.Diff(tt.stdout, got.stdout); diff != "" {
				t.Errorf("stdout: -want +got\n%.2000s", diff)
			}
			if diff := cmp.Diff(tt.stderr, got.stderr); diff != "" && !tt.skipStderr {
				t.Errorf("stderr: -want +got\n%.2000s", diff)
			}
			if got.status != tt.status || got.more == tt.stops || got.left != tt.left {
				t.Errorf("status %d, more %v, left %v", got.status, got.more, got.left)
			}
		})
	}
}

// TestBugs: a panic is told with its stack, wherever a line meets it.
func TestBugs(t *testing.T) {
	for _, line := range []string{"panics", "words a | upper | panics", "bug"} {
		got := runText(t, line+"\necho on\n", func(c *Config) {
			c.KeepGoing = true
			c.Debugger = buggyGDB{c.Debugger}
		})
		word, _, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(got.stderr, "f:1: "+word+": internal error: a bug\ngoroutine ") || !strings.Contains(got.stderr, "_test.go:") {
			t.Errorf("%s: stderr %s", line, got.stderr)
		}
		if got.stdout != "echo on\n" || got.status != 1 || !got.more {
			t.Errorf("%s: stdout %q, status %d, more %v", line, got.stdout, got.status, got.more)
		}
	}
	var stderr bytes.Buffer
	sh := newTestShell(t, newFakeGDB(), NewOutput(io.Discard, &stderr, false), func(c *Config) { c.Debugger = buggyGDB{c.Debugger} })
	if head, list, tail := sh.completeWord(context.Background())("print bug", 9); head != "print bug" || list != nil || tail != "" {
		t.Errorf("completed to %q %q %q", head, list, tail)
	}
	if !strings.HasPrefix(stderr.String(), "internal error: a bug\ngoroutine ") {
		t.Errorf("stderr %s", stderr.String())
	}
}

// buggyGDB panics where bug is completed or run.
type buggyGDB struct{ Debugger }

func (g buggyGDB) Console(ctx context.Context, line string, out io.Writer) error {
	if line == "bug" {
		panic("a bug")
	}
	return g.Debugger.Console(ctx, line, out)
}

func (g buggyGDB) Complete(ctx context.Context, line string) ([]string, error) {
	if strings.HasSuffix(line, "bug") {
		panic("a bug")
	}
	return g.Debugger.Complete(ctx, line)
}

// TestOrdinaryLinesCostNoRoundTrip: only words that might abbreviate
// something make the shell ask GDB.
func TestOrdinaryLinesCostNoRoundTrip(t *testing.T) {
	g := newFakeGDB()
	sh := newTestShell(t, g, NewOutput(io.Discard, io.Discard, false), nil)
	sh.RunScript(context.Background(), "f", strings.NewReader("print 1\nwords a | upper\nbreak x\nif 1\nprint 2\nend\nx/4x $sp\n"))
	if len(g.asked) > 0 {
		t.Errorf("GDB was asked %q", g.asked)
	}
}

func TestBlockFileIsPrivateAndRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	g := &statGDB{fakeGDB: newFakeGDB()}
	out := NewOutput(io.Discard, io.Discard, false)
	sh := newTestShell(t, g.fakeGDB, out, func(c *Config) { c.Debugger = g })
	sh.RunScript(context.Background(), "f", strings.NewReader("if 1\nend\n"))
	if g.mode != 0o600 {
		t.Errorf("mode %o", g.mode)
	}
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

type statGDB struct {
	*fakeGDB
	mode os.FileMode
}

func (g *statGDB) Console(_ context.Context, line string, _ io.Writer) error {
	st, err := os.Stat(strings.TrimPrefix(line, "source "))
	if err == nil {
		g.mode = st.Mode()
	}
	return err
}

func TestRunLine(t *testing.T) {
	var stdout, stderr bytes.Buffer
	sh := newTestShell(t, newFakeGDB(), NewOutput(&stdout, &stderr, false), nil)
	ctx := context.Background()
	if !sh.RunLine(ctx, "-ex", "echo a") || sh.RunLine(ctx, "-ex", "vmmpa") || sh.RunLine(ctx, "-ex", "commands") {
		t.Error("more is wrong")
	}
	want := "-ex vmmpa: Undefined command: \"vmmpa\".  Try \"help\".\n-ex commands: its \"end\" is missing\n"
	if stdout.String() != "echo a\n" || stderr.String() != want {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
	if !sh.RunInit(ctx, filepath.Join(t.TempDir(), "none")) {
		t.Error("a missing init script is an error")
	}
	stderr.Reset()
	if sh.RunFile(ctx, "-x", "/nonexistent/x") || stderr.String() != "-x: open /nonexistent/x: no such file or directory\n" {
		t.Errorf("stderr %q", stderr.String())
	}
	stderr.Reset()
	dir := t.TempDir()
	if sh.RunFile(ctx, "-x", dir) || stderr.String() != "-x: open "+dir+": is a directory\n" {
		t.Errorf("stderr %q", stderr.String())
	}
	stderr.Reset()
	if sh.RunInit(ctx, dir) || stderr.String() != "init script: open "+dir+": is a directory\n" {
		t.Errorf("stderr %q", stderr.String())
	}
	sh.KeepGoing = true
	if !sh.RunFile(ctx, "-x", "/nonexistent/x") || !sh.RunFile(ctx, "-x", dir) || sh.Status() != 1 {
		t.Error("it does not keep going")
	}
}

// TestUnreadableScript: a script that cannot be read on is ended, also where
// failures end nothing.
func TestUnreadableScript(t *testing.T) {
	for text, want := range map[string]string{"": "f: no such luck\n", "echo a\n": "f:1: no such luck\n"} {
		var stderr bytes.Buffer
		sh := newTestShell(t, newFakeGDB(), NewOutput(io.Discard, &stderr, false), func(c *Config) { c.KeepGoing = true })
		r := io.MultiReader(strings.NewReader(text), iotest.ErrReader(errors.New("no such luck")))
		if sh.RunScript(context.Background(), "f", r) || stderr.String() != want {
			t.Errorf("stderr %q, want %q", stderr.String(), want)
		}
	}
}

// TestStuckOutput: standard output takes nothing. That is no reason to kill GDB.
func TestStuckOutput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	var stderr bytes.Buffer
	g := newFakeGDB()
	out := NewOutput(w, &stderr, false)
	sh := newTestShell(t, g, out, func(c *Config) { c.KeepGoing = true })
	sh.patience = 50 * time.Millisecond
	defer sh.Start()()
	line := "echo " + strings.Repeat("x", 1<<20) + "\n" // more than a pipe holds
	more := make(chan bool, 1)
	go func() { more <- sh.RunScript(context.Background(), "f", strings.NewReader(line+"echo b\n")) }()
	testkit.WaitFor(t, "output that is stuck", out.blocked)
	unix.Kill(unix.Getpid(), unix.SIGTERM)
	if <-more || !sh.Left() || sh.Status() != 1 {
		t.Errorf("left %v, status %d", sh.Left(), sh.Status())
	}
	select {
	case <-g.killed:
		t.Error("GDB was killed")
	default:
	}
	if stderr.String() != "write standard output: it takes nothing, and is given up\n" {
		t.Errorf("stderr %q", stderr.String())
	}
}

// TestTextAtThePrompt: what comes in pieces is shown in whole lines, with the
// prompt once below; a line that stays open is shown all the same.
func TestTextAtThePrompt(t *testing.T) {
	var stdout bytes.Buffer
	out := NewOutput(&stdout, io.Discard, false)
	redrawn := make(chan string, 10)
	out.prompting(func() { redrawn <- stdout.String(); stdout.Reset() })
	for _, piece := range []string{"\nProgram", " received ", "signal ", "SIGINT.\n0x", "12 in", " main\n"} {
		io.WriteString(out.Inferior(), piece)
	}
	const start = "\r\x1b[K"
	for _, want := range []string{"\n", "Program received signal SIGINT.\n", "0x12 in main\n"} {
		if got := <-redrawn; got != start+want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	io.WriteString(out.Inferior(), "name? ")
	if got := <-redrawn; got != start+"name? \n" {
		t.Errorf("got %q", got)
	}
	io.WriteString(out.Inferior(), "half")
	out.prompting(nil)
	if got := stdout.String(); got != "half" {
		t.Errorf("got %q", got)
	}
}

// TestOutputFailsWhileOpening: that is a failure, and what was cancelled for
// it is none.
func TestOutputFailsWhileOpening(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, fails := range []error{nil, context.Canceled} {
		var stderr bytes.Buffer
		out := NewOutput(full, &stderr, false)
		sh := newTestShell(t, newFakeGDB(), out, nil)
		more := sh.Open(context.Background(), func(context.Context) error {
			io.WriteString(out, "text")
			return fails
		})
		if more || !sh.Left() || sh.Status() != 1 || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("more %v, left %v, status %d, stderr %q", more, sh.Left(), sh.Status(), stderr.String())
		}
	}
}

// interruptOn sends the process a signal as soon as text is written.
type interruptOn struct {
	bytes.Buffer
	text string
	sig  unix.Signal
}

func (w *interruptOn) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.text) {
		unix.Kill(unix.Getpid(), w.sig)
	}
	return w.Buffer.Write(p)
}

func TestInterruptedScript(t *testing.T) {
	for _, tt := range []struct {
		text, stderr string
		sig          unix.Signal
		left         bool
		status       int
	}{
		{"echo a\nhang\necho b\n", "f:2: interrupted\n", unix.SIGINT, false, 1},
		{"hang\n", "f:1: terminated\n", unix.SIGTERM, true, 1},
		{"run\necho b\n", "f:1: interrupted\n", unix.SIGINT, false, 1},
	} {
		on := "hanging"
		if strings.HasPrefix(tt.text, "run") {
			on = "running"
		}
		stdout, stderr := &interruptOn{text: on, sig: tt.sig}, &bytes.Buffer{}
		sh := newTestShell(t, newFakeGDB(), NewOutput(stdout, stderr, false), func(c *Config) { c.KeepGoing = true })
		stop := sh.Start()
		more := sh.RunScript(context.Background(), "f", strings.NewReader(tt.text))
		stop()
		if more || sh.Left() != tt.left || sh.Status() != tt.status || stderr.String() != tt.stderr {
			t.Errorf("%q: more %v, left %v, status %d, stderr %q", tt.text, more, sh.Left(), sh.Status(), stderr)
		}
		if strings.Contains(stdout.String(), "echo b") {
			t.Errorf("%q went on", tt.text)
		}
	}
}

// TestInterruptWhileReading: a script whose pipe says nothing can be ended.
func TestInterruptWhileReading(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	stdout, stderr := &interruptOn{text: "echo", sig: unix.SIGINT}, &bytes.Buffer{}
	sh := newTestShell(t, newFakeGDB(), NewOutput(stdout, stderr, false), nil)
	defer sh.Start()()
	go io.WriteString(w, "echo a\n")
	if sh.RunScript(context.Background(), "-", r) || stderr.String() != "-:1: interrupted\n" {
		t.Errorf("stderr %q", stderr)
	}
}

// TestKillsStuckGDB: a GDB that does not answer is killed when dbgsh is to end.
func TestKillsStuckGDB(t *testing.T) {
	stdout, stderr := &interruptOn{text: "stuck", sig: unix.SIGTERM}, &bytes.Buffer{}
	sh := newTestShell(t, newFakeGDB(), NewOutput(stdout, stderr, false), nil)
	sh.patience = 50 * time.Millisecond
	defer sh.Start()()
	begin := time.Now()
	if sh.RunScript(context.Background(), "f", strings.NewReader("stuck\n")) || !sh.Left() {
		t.Error("it goes on")
	}
	if !strings.Contains(stderr.String(), "GDB does not answer and is killed") || time.Since(begin) < sh.patience {
		t.Errorf("stderr %q", stderr)
	}
}

func TestBrokenStdout(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	var stderr bytes.Buffer
	g := newFakeGDB()
	sh := newTestShell(t, g, NewOutput(w, &stderr, false), func(c *Config) { c.KeepGoing = true })
	defer sh.Start()()
	if sh.RunScript(context.Background(), "f", strings.NewReader("words a\necho b\n")) || !sh.Left() || sh.Status() != 0 || stderr.Len() > 0 {
		t.Errorf("left %v, status %d, stderr %q", sh.Left(), sh.Status(), stderr.String())
	}
	if len(g.lines) > 0 {
		t.Errorf("went on with %q", g.lines)
	}

	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	sh = newTestShell(t, newFakeGDB(), NewOutput(full, &stderr, false), nil)
	if sh.RunLine(context.Background(), "-ex", "words a") || sh.Status() != 1 || !strings.Contains(stderr.String(), "no space left") {
		t.Errorf("status %d, stderr %q", sh.Status(), stderr.String())
	}
}

func TestInferiorOutput(t *testing.T) {
	for _, json := range []bool{false, true} {
		var stdout, stderr bytes.Buffer
		out := NewOutput(&stdout, &stderr, json)
		io.WriteString(out.Inferior(), "hello\n")
		if json != (stderr.String() == "hello\n") || json == (stdout.String() == "hello\n") {
			t.Errorf("json %v: stdout %q, stderr %q", json, stdout.String(), stderr.String())
		}
	}
}

func TestInputOfScripts(t *testing.T) {
	for _, tt := range []struct {
		input, line, want string
		keep              int
	}{
		{"one\ndone\n", "run", `inferior read "one\ndone\n"`, 0},
		{"one\ndone\n", "run", `inferior read "one\ndone`, 2},
		{"one\n", "eof", `inferior read "one\n\x04"`, 0},
		{"one", "eof2", `inferior read "one\x04\x04"`, 0},
		{"", "eof", `inferior read "\x04"`, 0},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, tt.input)
		if strings.HasPrefix(tt.line, "eof") {
			w.Close()
		}
		var stdout bytes.Buffer
		g := newFakeGDB()
		g.keep = tt.keep
		sh := newTestShell(t, g, NewOutput(&stdout, io.Discard, false), func(c *Config) { c.Stdin = r })
		sh.RunLine(context.Background(), "-ex", tt.line)
		if !strings.Contains(stdout.String(), tt.want) {
			t.Errorf("%q: %q, want %s", tt.input, stdout.String(), tt.want)
		}
		w.Close()
		r.Close()
	}
}

func TestShellLeavesTheScriptAlone(t *testing.T) {
	t.Setenv("SHELL", "/bin/sh")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "!cat\necho on\n")
	w.Close()
	defer r.Close()
	var stdout bytes.Buffer
	sh := newTestShell(t, newFakeGDB(), NewOutput(&stdout, io.Discard, false), func(c *Config) { c.Stdin, c.StdinIsScript = r, true })
	if !sh.RunFile(context.Background(), "-x", "-") || stdout.String() != "echo on\n" {
		t.Errorf("stdout %q", stdout.String())
	}
}

func TestColor(t *testing.T) {
	for _, tt := range []struct {
		mode, noColor, term string
		terminal, want      bool
	}{
		{"auto", "", "xterm", true, true},
		{"auto", "", "xterm", false, false},
		{"auto", "1", "xterm", true, false},
		{"auto", "", "dumb", true, false},
		{"always", "1", "dumb", false, true},
		{"never", "", "xterm", true, false},
	} {
		t.Setenv("NO_COLOR", tt.noColor)
		t.Setenv("TERM", tt.term)
		if got := useColor(tt.mode, tt.terminal); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	got := runText(t, "words a\nwords a | !cat\n", func(c *Config) {
		if err := c.Session.Settings.Set("color", "always"); err != nil {
			t.Fatal(err)
		}
	})
	if got.stdout != "\x1b[34ma\x1b[0m\na\n" {
		t.Errorf("%q", got.stdout)
	}
}

// TestCommandsAreComplete: what help shows of the shell's own commands.
func TestCommandsAreComplete(t *testing.T) {
	for _, c := range New(Config{}).Commands() {
		if c.Group != commands.Shell || c.Short == "" || c.Args == "" || len(c.Examples) == 0 {
			t.Errorf("%s: %+v", c.Name, c)
		}
	}
}

func TestLost(t *testing.T) {
	if !isLost(&gdbError{lostError{}}) || isLost(errors.New("x")) || hint(&gdbError{lostError{}}) == "" {
		t.Error("a lost GDB is not known as such")
	}
}
