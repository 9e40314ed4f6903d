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

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"dbgsh/commands"
	"dbgsh/vm"
)

// TestMain runs the test binary as a shell where a test asks for one.
func TestMain(m *testing.M) {
	if os.Getenv("DBGSH_TEST_SHELL") == "" {
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

// terminal is a shell on a pty, with what it has shown.
type terminal struct {
	t     *testing.T
	cmd   *exec.Cmd
	tty   *os.File
	shown chan string
	text  string // what was shown since the last expectation
	ended chan error
	state string // XDG_STATE_HOME
}

func startTerminal(t *testing.T, env ...string) *terminal {
	t.Helper()
	return startTerminalSized(t, &pty.Winsize{Rows: 30, Cols: 100}, env...)
}

func startTerminalSized(t *testing.T, size *pty.Winsize, env ...string) *terminal {
	t.Helper()
	state := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DBGSH_TEST_SHELL=1", "TERM=xterm", "NO_COLOR=1", "SHELL=/bin/sh", "PAGER=", "XDG_STATE_HOME="+state)
	cmd.Env = append(cmd.Env, env...)
	tty, err := pty.StartWithSize(cmd, size)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, cmd: cmd, tty: tty, shown: make(chan string, 1000), ended: make(chan error, 1), state: state}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf)
			if n > 0 {
				term.shown <- string(buf[:n])
			}
			if err != nil {
				close(term.shown)
				return
			}
		}
	}()
	go func() { term.ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		tty.Close()
	})
	return term
}

// expect waits until text (a regular expression) is shown.
func (term *terminal) expect(text string) {
	term.t.Helper()
	re := regexp.MustCompile(text)
	csi := regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]") // what liner moves the cursor with
	late := time.After(20 * time.Second)
	for {
		if at := re.FindStringIndex(term.text); at != nil {
			term.text = term.text[at[1]:]
			return
		}
		select {
		case s, ok := <-term.shown:
			if !ok {
				term.t.Fatalf("ended without %q: %q", text, term.text)
			}
			term.text = csi.ReplaceAllString(term.text+s, "")
		case <-late:
			term.t.Fatalf("no %q in %q", text, term.text)
		}
	}
}

// prompt waits for a prompt with nothing typed behind it.
func (term *terminal) prompt() {
	term.t.Helper()
	term.expect(`\(dbgsh\) `)
}

func (term *terminal) send(text string) {
	term.t.Helper()
	if _, err := term.tty.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

// line sends a line at the prompt and waits until its echo is shown.
func (term *terminal) line(text string) {
	term.t.Helper()
	term.send(text + "\r")
	term.expect(`\n`)
}

func (term *terminal) exit(want int) {
	term.t.Helper()
	select {
	case <-term.ended:
	case <-time.After(20 * time.Second):
		term.t.Fatal("the shell does not end")
	}
	if got := term.cmd.ProcessState.ExitCode(); got != want {
		for s := range term.shown {
			term.text += s
		}
		term.t.Errorf("exit status %d, want %d; shown: %s", got, want, term.text)
	}
}

func TestPrompt(t *testing.T) {
	term := startTerminal(t)
	original, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	term.expect("dbgsh under test\r\n")
	term.prompt()
	term.line("words a b | upper")
	term.expect("^A\r\nB\r\n")
	term.prompt()

	// Ctrl-C clears the line.
	term.send("words nonsense\x03")
	term.expect(`\^C`)
	term.prompt()
	term.line("words sense")
	term.expect("^sense\r\n")
	term.prompt()

	// Errors, ours and GDB's.
	term.line("vmmap")
	term.expect("^vmmap: no process\r\n")
	term.prompt()
	term.line("serch foo")
	term.expect(`^Undefined command: "serch".  Try "help".` + "\r\n")
	term.prompt()
	term.line("die")
	term.expect(`^GDB ended \(killed by signal 9\)\. "run" starts a new one` + "\r\n")
	term.prompt()

	// A result that does not end its line leaves the prompt alone.
	term.line("part x")
	term.expect("^x\r\n")
	term.prompt()

	// A block, and one that is dropped.
	term.line("if 1")
	term.expect("> ")
	term.line("echo x")
	term.expect("> ")
	term.line("end")
	term.expect("sourced:\r\nif 1\r\necho x\r\nend\r\n")
	term.prompt()
	term.line("python")
	term.expect("> ")
	term.send("x\x03")
	term.prompt()

	// Ctrl-C cancels what hangs, in GDB and in ours.
	term.line("hang")
	term.expect("hanging\r\n")
	term.send("\x03")
	term.expect("interrupted\r\n")
	term.prompt()
	term.line("wait")
	term.expect("waiting\r\n")
	term.send("\x03")
	term.expect("wait: interrupted\r\n")
	term.prompt()

	// The window's size.
	term.line("asked")
	term.expect("rows 30, cols 100")
	term.prompt()
	if err := pty.Setsize(term.tty, &pty.Winsize{Rows: 40, Cols: 90}); err != nil {
		t.Fatal(err)
	}
	for term.text = ""; !strings.Contains(term.text, "rows 40, cols 90"); {
		term.line("asked")
		term.expect(`rows \d+, `)
		term.text = "rows 40, " + term.text
		term.expect("rows 40, cols ")
		if strings.HasPrefix(term.text, "90") {
			break
		}
		term.prompt()
	}
	term.prompt()

	// The inferior speaks while the prompt is shown: it is shown again.
	term.line("later")
	term.expect("from the inferior\r\n")
	term.prompt()

	// The keyboard is the inferior's while it runs, Ctrl-Z too.
	term.line("run")
	term.expect("running\r\n")
	term.send("hello\r\x1a\x04done")
	term.expect(`inferior read "hello\\r\\x1a\\x04done"` + "\r\n")
	term.prompt()
	term.line("run")
	term.expect("running\r\n")
	term.send("\x03")
	term.expect("SIGINT")
	term.prompt()

	// The shell has the terminal as dbgsh found it.
	term.line("!stty -a | grep -o -- ' .*icanon'; echo again")
	term.expect(` icanon`)
	term.expect("again\r\n")
	term.prompt()
	term.line("shell echo asleep; exec sleep 100")
	term.expect("asleep\r\n")
	term.send("\x03")
	term.expect("shell: ended by signal: interrupt\r\n")
	term.prompt()
	term.line("shell read x; echo got $x")
	term.send("text\n")
	term.expect("got text\r\n")
	term.prompt()

	// Long results, with the pager and without.
	term.line("set pager off")
	term.prompt()
	term.line("lines")
	term.expect("(line\r\n){100}")
	term.prompt()

	term.send("\x04")
	term.exit(0)
	got, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
	if err == nil && *got != *original {
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
	term.expect("^paged\r\nline\r\nline\r\n")
	term.prompt()
	term.line("words few")
	term.expect("^few\r\n")
	term.prompt()
	term.line("quit 7")
	term.exit(7)
}

func TestLeaving(t *testing.T) {
	question := `A process that dbgsh started is alive; kill it and leave\? \(y or n\) `
	term := startTerminal(t, "DBGSH_TEST_STARTED=1")
	term.prompt()
	term.send("\x04")
	term.expect(question)
	term.line("n")
	term.prompt()
	term.line("quit 4")
	term.expect(question)
	term.line("what")
	term.expect("Please answer y or n.\r\n" + question)
	term.send("\x03")
	term.prompt()
	term.line("q 4")
	term.expect(question)
	term.line("y")
	term.exit(4)

	term = startTerminal(t, "DBGSH_TEST_STARTED=1")
	term.prompt()
	term.send("\x04")
	term.expect(question)
	term.send("\x04")
	term.exit(0)

	// SIGTERM, at the prompt and within a command; what was typed is kept.
	term = startTerminal(t)
	term.prompt()
	term.line("words a")
	term.prompt()
	term.cmd.Process.Signal(unix.SIGTERM)
	term.exit(0)
	if text, err := os.ReadFile(filepath.Join(term.state, "dbgsh", "history")); string(text) != "words a\n" {
		t.Errorf("history %q, %v", text, err)
	}
	term = startTerminal(t)
	term.prompt()
	term.line("hang")
	term.expect("hanging")
	term.cmd.Process.Signal(unix.SIGHUP)
	term.exit(0)
}

// TestStuckGDB: GDB does not answer, so that Ctrl-C offers to kill it.
func TestStuckGDB(t *testing.T) {
	term := startTerminal(t)
	term.prompt()
	term.line("stuck")
	term.expect("stuck\r\n")
	term.send("\x03\x03\x03") // nobody's patience makes GDB die sooner
	term.expect("no answer yet; Ctrl-C once more kills GDB\r\n")
	term.send("\x03")
	term.expect("GDB does not answer and is killed\r\n")
	term.expect("GDB ended")
	term.prompt()
}

func TestRepeat(t *testing.T) {
	term := startTerminal(t)
	term.prompt()
	for _, tt := range []struct{ line, again string }{
		{"words a | upper", "A\r\n"},
		{"print 1", "print 1\r\n"},
		{"x/4x $sp", "x\r\n"},
		{"list main", "list\r\n"},
		{"list -", "list -\r\n"},
		{"gdb x/i $pc", "x\r\n"},
		{"words b", "b\r\n"},
		{"delete 1", ""},
		{"words c", "c\r\n"},
		{"vmmap", ""},
		{"words d", "d\r\n"},
		{"run", ""},
		{"# comment", ""},
	} {
		term.line(tt.line)
		if tt.line == "run" {
			term.expect("running")
			term.send("done")
		}
		term.prompt()
		for range 2 {
			term.send("\r")
			term.expect(`^[^\n]*\n` + regexp.QuoteMeta(tt.again) + `[^\n]*\(dbgsh\) `)
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
		term.send(tt.typed)
		term.expect(tt.shown)
		term.send("\x15\x0b\x03")
		term.expect(`\^C`)
		term.prompt()
	}
}

// TestDumbTerminal: without editing, the prompt works all the same.
func TestDumbTerminal(t *testing.T) {
	t.Run("dumb", func(t *testing.T) { testDumb(t, startTerminal(t, "TERM=dumb")) })
	t.Run("no width", func(t *testing.T) {
		testDumb(t, startTerminalSized(t, &pty.Winsize{}))
	})
}

func testDumb(t *testing.T, term *terminal) {
	term.prompt()
	term.send("words a\n")
	term.expect("\na\r\n")
	term.prompt()
	term.send("words nonsense\x03")
	term.prompt()
	term.send("words b\n")
	term.expect("\nb\r\n")
	term.prompt()
	term.send("\x04")
	term.exit(0)
}

// TestPasteThatNobodyReads: Ctrl-C works behind it, and nothing of it becomes a
// command.
func TestPasteThatNobodyReads(t *testing.T) {
	term := startTerminal(t, "DBGSH_TEST_FULL=1")
	term.prompt()
	term.line("run")
	term.expect("running\r\n")
	go term.tty.WriteString(strings.Repeat("echo pasted\r", 4000) + "\x03") // ends with the terminal
	term.expect("SIGINT")
	term.prompt()
	term.line("asked")
	term.expect(`lines \["run"\]`)
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
		term.expect(process)
		term.line("n")
		term.prompt()
	}
	term.line("kill")
	term.expect(process)
	term.line("y")
	term.expect("^done: kill\r\n")
	term.prompt()
	for _, line := range []string{"delete", "d", "delete display"} {
		term.line(line)
		term.expect(`^Delete them all\? \(y or n\) `)
		term.send("\x03")
		term.prompt()
	}
	term.line("delete 1")
	term.expect("^done: delete 1\r\n")
	term.prompt()

	for _, env := range [][]string{{"DBGSH_TEST_ALIVE=1", "DBGSH_TEST_CONFIRM=off"}, {}} {
		term = startTerminal(t, env...)
		term.prompt()
		term.line("kill")
		term.expect("^done: kill\r\n")
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
