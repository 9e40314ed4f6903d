package repl

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dbgsh/commands"
	"dbgsh/internal/testkit"
	"dbgsh/vm"
)

// TestMain runs the test binary as a shell where a test asks for one.
func TestMain(m *testing.M) {
	if os.Getenv("DBGSH_TEST_SHELL") == "" {
		testkit.HearSignals()
		os.Exit(m.Run())
	}
	g := newFakeGDB()
	g.started = os.Getenv("DBGSH_TEST_STARTED") != ""
	g.full = os.Getenv("DBGSH_TEST_FULL") != ""
	g.alive, g.confirm = os.Getenv("DBGSH_TEST_ALIVE") != "", os.Getenv("DBGSH_TEST_CONFIRM")
	out := NewOutput(os.Stdout, os.Stderr, false)
	sh := newTestShell(&testing.T{}, g, out, func(c *Config) {
		c.Stdin, c.Banner, c.HistoryFile = os.Stdin, "dbgsh under test", HistoryPath()
		c.Session.Maps = vm.NewOverlay(oneMapping{})
	})
	reg := sh.Session.Registry
	for _, c := range []commands.Command{
		{
			Name: "lines", Group: "Test", Short: "Many lines.",
			Run: func(context.Context, *commands.Session, commands.Input) (commands.Result, error) {
				return &words{strings.Fields(strings.Repeat("line ", 100))}, nil
			},
		},
		{
			Name: "asked", Group: "Test", Short: "What the fake GDB was told.",
			Run: func(context.Context, *commands.Session, commands.Input) (commands.Result, error) {
				g.mu.Lock()
				defer g.mu.Unlock()
				return commands.Notef("rows %d, cols %d, lines %q", g.rows, g.cols, g.lines), nil
			},
		},
		{
			Name: "later", Group: "Test", Short: "The inferior says something while the prompt is shown.",
			Run: func(context.Context, *commands.Session, commands.Input) (commands.Result, error) {
				go func() {
					for {
						out.mu.Lock()
						shown := out.redraw != nil
						out.mu.Unlock()
						if shown {
							break
						}
						time.Sleep(time.Millisecond)
					}
					fmt.Fprint(out.Inferior(), "from the inferior")
				}()
				return nil, nil
			},
		},
	} {
		if err := reg.Register(c); err != nil {
			panic(err)
		}
	}
	sh.patience = 200 * time.Millisecond
	stop := sh.Start()
	sh.Prompt(context.Background())
	stop()
	os.Exit(sh.Status())
}

type oneMapping struct{}

func (oneMapping) Map(context.Context) (*vm.Map, error) {
	return &vm.Map{AddressBits: 64, Mappings: []vm.Mapping{
		{Range: vm.Range{Start: 0x1000, Size: 0x1000}, Name: "/usr/lib/libc.so.6"},
		{Range: vm.Range{Start: 0x2000, Size: 0x1000}, Name: "/tmp/a b"},
		{Range: vm.Range{Start: 0x3000, Size: 0x1000}, Name: "[heap]"},
	}}, nil
}

// terminal is a shell on a terminal.
type terminal struct {
	*testkit.Terminal
	t     *testing.T
	state string // XDG_STATE_HOME
}

func startTerminal(t *testing.T, env ...string) *terminal {
	t.Helper()
	return startTerminalSized(t, 30, 100, env...)
}

func startTerminalSized(t *testing.T, rows, cols uint16, env ...string) *terminal {
	t.Helper()
	state := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DBGSH_TEST_SHELL=1", "TERM=xterm", "NO_COLOR=1", "SHELL=/bin/sh", "PAGER=", "XDG_STATE_HOME="+state)
	cmd.Env = append(cmd.Env, env...)
	return &terminal{testkit.OpenTerminal(t, cmd, rows, cols), t, state}
}

// prompt waits for a prompt with nothing typed behind it.
func (term *terminal) prompt() {
	term.t.Helper()
	term.Expect(`\(dbgsh\) `)
}

// line sends a line at the prompt and waits until its echo is shown.
func (term *terminal) line(text string) {
	term.t.Helper()
	term.Type(text + "\r")
	term.Expect(`\n`)
}

func (term *terminal) exit(want int) {
	term.t.Helper()
	if got := term.Status(); got != want {
		term.t.Errorf("exit status %d, want %d; shown: %s", got, want, term.All())
	}
}

func TestPrompt(t *testing.T) {
	term := startTerminal(t)
	original := term.Mode()
	term.Expect("dbgsh under test\n")
	term.prompt()
	term.line("words a b | upper")
	term.Expect("^A\nB\n")
	term.prompt()

	// Ctrl-C clears the line.
	term.Type("words nonsense\x03")
	term.Expect(`\^C`)
	term.prompt()
	term.line("words sense")
	term.Expect("^sense\n")
	term.prompt()

	// Errors, ours and GDB's.
	term.line("vmmap")
	term.Expect("^vmmap: no process\n")
	term.prompt()
	term.line("serch foo")
	term.Expect(`^Undefined command: "serch".  Try "help".` + "\n")
	term.prompt()
	term.line("die")
	term.Expect(`^GDB ended \(killed by signal 9\)\. "run" starts a new one` + "\n")
	term.prompt()

	// A result that does not end its line leaves the prompt alone.
	term.line("part x")
	term.Expect("^x\n")
	term.prompt()

	// A block, and one that is dropped.
	term.line("if 1")
	term.Expect("> ")
	term.line("echo x")
	term.Expect("> ")
	term.line("end")
	term.Expect("sourced:\nif 1\necho x\nend\n")
	term.prompt()
	term.line("python")
	term.Expect("> ")
	term.Type("x\x03")
	term.prompt()

	// Ctrl-C cancels what hangs, in GDB and in ours.
	term.line("hang")
	term.Expect("hanging\n")
	term.Type("\x03")
	term.Expect("interrupted\n")
	term.prompt()
	term.line("wait")
	term.Expect("waiting\n")
	term.Type("\x03")
	term.Expect("wait: interrupted\n")
	term.prompt()

	// The window's size.
	term.line("asked")
	term.Expect("rows 30, cols 100")
	term.prompt()
	term.Resize(40, 90)
	testkit.WaitFor(t, "new size of the window", func() bool {
		term.line("asked")
		size := term.Expect(`rows \d+, cols \d+`)[0]
		term.prompt()
		return size == "rows 40, cols 90"
	})

	// The inferior speaks while the prompt is shown: it is shown again.
	term.line("later")
	term.Expect("from the inferior\n")
	term.prompt()

	// The keyboard is the inferior's while it runs, Ctrl-Z too.
	term.line("run")
	term.Expect("running\n")
	term.Type("hello\r\x1a\x04done")
	term.Expect(`inferior read "hello\\r\\x1a\\x04done"` + "\n")
	term.prompt()
	term.line("run")
	term.Expect("running\n")
	term.Type("\x03")
	term.Expect("SIGINT")
	term.prompt()

	// The shell has the terminal as dbgsh found it.
	term.line("!stty -a | grep -o -- ' .*icanon'; echo again")
	term.Expect(` icanon`)
	term.Expect("again\n")
	term.prompt()
	term.line("shell echo asleep; exec sleep 100")
	term.Expect("asleep\n")
	term.Type("\x03")
	term.Expect("shell: ended by signal: interrupt\n")
	term.prompt()
	term.line("shell read x; echo got $x")
	term.Type("text\n")
	term.Expect("got text\n")
	term.prompt()

	// Long results, with the pager and without.
	term.line("set pager off")
	term.prompt()
	term.line("lines")
	term.Expect("(line\n){100}")
	term.prompt()

	term.Type("\x04")
	term.exit(0)
	if got := term.Mode(); got != original {
		t.Errorf("the terminal's mode was %+v and is %+v", original, got)
	}

	path := filepath.Join(term.state, "dbgsh", "history")
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 || dir.Mode().Perm() != 0o700 {
		t.Errorf("modes %v, %v", st.Mode(), dir.Mode())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(text), "words a b | upper\nwords sense\nvmmap\n") {
		t.Errorf("history %q", text)
	}
}

func TestPager(t *testing.T) {
	term := startTerminal(t, "PAGER=echo paged; head -n 2")
	term.prompt()
	term.line("lines")
	term.Expect("^paged\nline\nline\n")
	term.prompt()
	term.line("words few")
	term.Expect("^few\n")
	term.prompt()
	term.line("quit 7")
	term.exit(7)
}

func TestLeaving(t *testing.T) {
	question := `A process that dbgsh started is alive; kill it and leave\? \(y or n\) `
	term := startTerminal(t, "DBGSH_TEST_STARTED=1")
	term.prompt()
	term.Type("\x04")
	term.Expect(question)
	term.line("n")
	term.prompt()
	term.line("quit 4")
	term.Expect(question)
	term.line("what")
	term.Expect("Please answer y or n.\n" + question)
	term.Type("\x03")
	term.prompt()
	term.line("q 4")
	term.Expect(question)
	term.line("y")
	term.exit(4)

	term = startTerminal(t, "DBGSH_TEST_STARTED=1")
	term.prompt()
	term.Type("\x04")
	term.Expect(question)
	term.Type("\x04")
	term.exit(0)

	// SIGTERM, at the prompt and within a command; what was typed is kept.
	term = startTerminal(t)
	term.prompt()
	term.line("words a")
	term.prompt()
	term.Cmd.Process.Signal(unix.SIGTERM)
	term.exit(0)
	if text, err := os.ReadFile(filepath.Join(term.state, "dbgsh", "history")); string(text) != "words a\n" {
		t.Errorf("history %q, %v", text, err)
	}
	term = startTerminal(t)
	term.prompt()
	term.line("hang")
	term.Expect("hanging")
	term.Cmd.Process.Signal(unix.SIGHUP)
	term.exit(0)
}

// TestStuckGDB: GDB does not answer, so that Ctrl-C offers to kill it.
func TestStuckGDB(t *testing.T) {
	term := startTerminal(t)
	term.prompt()
	term.line("stuck")
	term.Expect("stuck\n")
	term.Type("\x03\x03\x03") // nobody's patience makes GDB die sooner
	term.Expect("no answer yet; Ctrl-C once more kills GDB\n")
	term.Type("\x03")
	term.Expect("GDB does not answer and is killed\n")
	term.Expect("GDB ended")
	term.prompt()
}

func TestRepeat(t *testing.T) {
	term := startTerminal(t)
	term.prompt()
	for _, tt := range []struct{ line, again string }{
		{"words a | upper", "A\n"},
		{"print 1", "print 1\n"},
		{"x/4x $sp", "x\n"},
		{"list main", "list\n"},
		{"list -", "list -\n"},
		{"gdb x/i $pc", "x\n"},
		{"words b", "b\n"},
		{"delete 1", ""},
		{"words c", "c\n"},
		{"vmmap", ""},
		{"words d", "d\n"},
		{"run", ""},
		{"# comment", ""},
	} {
		term.line(tt.line)
		if tt.line == "run" {
			term.Expect("running")
			term.Type("done")
		}
		term.prompt()
		for range 2 {
			term.Type("\r")
			term.Expect(`^[^\n]*\n` + regexp.QuoteMeta(tt.again) + `[^\n]*\(dbgsh\) `)
		}
	}
}

func TestCompletionOnTab(t *testing.T) {
	term := startTerminal(t)
	term.prompt()
	for _, tt := range []struct{ typed, shown string }{
		{"uppe\t", `upper $`},
		{"words x | upp\t", `\| upper $`},
		{"vmmap hea\t\x7f", ``},
		{"vmmap lib\t", `vmmap libc\.so\.6 $`},
		{"vmmap coun\t\t", `count +counter`},
		{"words --js\t", `--json $`},
		{"break x\x15info b\t", `info breakpoints $`},
		{"set pag\t", `set pager $`},
		{"print coun\t\t", `count +counter`},
	} {
		term.Type(tt.typed)
		term.Expect(tt.shown)
		term.Type("\x15\x0b\x03")
		term.Expect(`\^C`)
		term.prompt()
	}
}

// TestDumbTerminal: without editing, the prompt works all the same.
func TestDumbTerminal(t *testing.T) {
	t.Run("dumb", func(t *testing.T) { testDumb(t, startTerminal(t, "TERM=dumb")) })
	t.Run("no width", func(t *testing.T) {
		testDumb(t, startTerminalSized(t, 0, 0))
	})
}

func testDumb(t *testing.T, term *terminal) {
	term.prompt()
	term.Type("words a\n")
	term.Expect("\na\n")
	term.prompt()
	term.Type("words nonsense\x03")
	term.prompt()
	term.Type("words b\n")
	term.Expect("\nb\n")
	term.prompt()
	term.Type("\x04")
	term.exit(0)
}

// TestPasteThatNobodyReads: Ctrl-C works behind it, and nothing of it becomes a
// command.
func TestPasteThatNobodyReads(t *testing.T) {
	term := startTerminal(t, "DBGSH_TEST_FULL=1")
	term.prompt()
	term.line("run")
	term.Expect("running\n")
	term.Paste(strings.Repeat("echo pasted\r", 4000) + "\x03")
	term.Expect("SIGINT")
	term.prompt()
	term.line("asked")
	term.Expect(`lines \["run"\]`)
	term.prompt()
}

// TestConfirm: what would lose a process or all breakpoints is asked for first,
// where GDB would ask.
func TestConfirm(t *testing.T) {
	process := `^The process being debugged would be lost; go on\? \(y or n\) `
	term := startTerminal(t, "DBGSH_TEST_ALIVE=1")
	term.prompt()
	for _, line := range []string{"kill", "run", "r", "gdb kill", "attach 1", "core", "target remote :1", "starti"} {
		term.line(line)
		term.Expect(process)
		term.line("n")
		term.prompt()
	}
	term.line("kill")
	term.Expect(process)
	term.line("y")
	term.Expect("^done: kill\n")
	term.prompt()
	for _, line := range []string{"delete", "d", "delete display"} {
		term.line(line)
		term.Expect(`^Delete them all\? \(y or n\) `)
		term.Type("\x03")
		term.prompt()
	}
	term.line("delete 1")
	term.Expect("^done: delete 1\n")
	term.prompt()

	for _, env := range [][]string{{"DBGSH_TEST_ALIVE=1", "DBGSH_TEST_CONFIRM=off"}, {}} {
		term = startTerminal(t, env...)
		term.prompt()
		term.line("kill")
		term.Expect("^done: kill\n")
		term.prompt()
	}
}

func TestEndangers(t *testing.T) {
	for line, want := range map[string]danger{
		"run": endsProcess, "r <x": endsProcess, "k": endsProcess, "kill inferiors 1": harmless, "att 1": endsProcess,
		"target record": harmless, "target record-full": harmless, "tar extended-remote :1": endsProcess, "start": endsProcess,
		"delete": deletesAll, "delete breakpoints": deletesAll, "delete 1 2": harmless, "delete breakpoints 1": harmless,
		"delete $n": harmless, "next": harmless, "detach": harmless, "thread apply all delete": deletesAll, "rwatch x": harmless,
		"| delete | cat": deletesAll, "": harmless,
	} {
		if got := endangers(line); got != want {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
}
