package repl

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"dbgsh/commands"
)

// fakeGDB stands in for GDB: it knows a few commands that do what the tests
// look at.
type fakeGDB struct {
	mu       sync.Mutex
	lines    []string // what it was handed
	asked    []string // what completions it was asked for
	running  bool
	changed  chan struct{}
	started  bool
	alive    bool
	confirm  string       // how show confirm ends, "" for on
	keyboard bytes.Buffer // what the inferior got
	typed    chan struct{}
	eofs     int
	killed   chan struct{}
	rows     uint16
	cols     uint16
	full     bool // the inferior takes nothing
	keep     int  // bytes that the inferior takes per Keyboard, 0 for all
}

func newFakeGDB() *fakeGDB {
	return &fakeGDB{changed: make(chan struct{}), typed: make(chan struct{}, 100), killed: make(chan struct{})}
}

type lostError struct{}

func (lostError) Error() string { return "GDB ended (killed by signal 9)" }
func (lostError) Lost() bool    { return true }
func (lostError) Hint() string  { return `"run" starts a new one` }

func (g *fakeGDB) setRunning(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = on
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *fakeGDB) Console(ctx context.Context, line string, out io.Writer) error {
	g.mu.Lock()
	g.lines = append(g.lines, line)
	g.mu.Unlock()
	word, args, _ := strings.Cut(line, " ")
	switch word {
	case "kill", "delete":
		fmt.Fprintf(out, "done: %s\n", line)
	case "show":
		fmt.Fprintf(out, "Whether to confirm potentially dangerous operations is %s.\n", cmp.Or(g.confirm, "on"))
	case "echo", "break", "x", "list", "print", "set", "help":
		fmt.Fprintf(out, "%s\n", line)
	case "part":
		io.WriteString(out, args)
	case "fail":
		return errors.New(args)
	case "die":
		return lostError{}
	case "hang":
		fmt.Fprintln(out, "hanging")
		<-ctx.Done()
		return ctx.Err()
	case "stuck":
		fmt.Fprintln(out, "stuck")
		<-g.killed
		return lostError{}
	case "run":
		g.setRunning(true)
		defer g.setRunning(false)
		fmt.Fprintln(out, "running")
		for {
			select {
			case <-ctx.Done():
				fmt.Fprintln(out, "Program received signal SIGINT, Interrupt.")
				return nil
			case <-g.typed:
				if g.got("done") {
					g.mu.Lock()
					fmt.Fprintf(out, "inferior read %q\n", g.keyboard.String())
					g.mu.Unlock()
					return nil
				}
			}
		}
	case "eof", "eof2": // runs until its input ends, or ends twice
		g.setRunning(true)
		defer g.setRunning(false)
		for range g.typed {
			if g.got(map[string]string{"eof": "\x04", "eof2": "\x04\x04"}[word]) {
				fmt.Fprintf(out, "inferior read %q\n", g.keyboard.String())
				return nil
			}
		}
	case "source":
		text, err := os.ReadFile(args)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "wrong") {
			return fmt.Errorf("%s:3: Error in sourced command file:\nNo symbol \"wrong\" in current context.", args)
		}
		fmt.Fprintf(out, "sourced:\n%s", text)
	default:
		return fmt.Errorf("Undefined command: %q.  Try \"help\".", word)
	}
	return nil
}

func (g *fakeGDB) got(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Contains(g.keyboard.String(), text)
}

func (g *fakeGDB) Complete(_ context.Context, line string) ([]string, error) {
	g.mu.Lock()
	g.asked = append(g.asked, line)
	g.mu.Unlock()
	var got []string
	for _, c := range []string{
		"break", "commands", "define", "define-prefix", "delete", "document", "echo", "edit", "info", "info breakpoints",
		"info registers", "list", "print", "print counter", "print count", "python", "python-interactive", "run", "search", "set",
		"shell", "show", "step", "while", "while-stepping", "vma", "help print", "set confirm",
	} {
		if strings.HasPrefix(c, line) && strings.Count(c, " ") == strings.Count(line, " ") {
			got = append(got, c)
		}
	}
	return got, nil
}

func (g *fakeGDB) Help(_ context.Context, topic string) (string, error) {
	if topic == "h" || topic == "vm" {
		return "help, h, vm\nPrint list of commands.\n", nil
	}
	return "", fmt.Errorf("Undefined command: %q.  Try \"help\".", topic)
}

func (g *fakeGDB) Running() (bool, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running, g.changed
}

func (g *fakeGDB) Started() bool { return g.started }

func (g *fakeGDB) Alive() bool { return g.alive }

func (g *fakeGDB) Keyboard(ctx context.Context, p []byte) (int, error) {
	if g.full {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keep > 0 && len(p) > g.keep {
		p = p[:g.keep]
	}
	g.keyboard.Write(p)
	g.typed <- struct{}{}
	return len(p), nil
}

func (g *fakeGDB) KeyboardEOF(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.eofs++
	g.keyboard.WriteByte(4)
	g.typed <- struct{}{}
	return nil
}

func (g *fakeGDB) Resize(rows, cols uint16) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rows, g.cols = rows, cols
}

func (g *fakeGDB) Kill() { close(g.killed) }

// words is a result that is some words.
type words struct {
	Words []string `json:"words"`
}

func (w *words) WriteText(t *commands.Text) {
	for _, one := range w.Words {
		t.Print(commands.Heap, one)
		t.Print(commands.Plain, "\n")
	}
}

// testCommands are commands from outside the package commands.
func testCommands() []commands.Command {
	return []commands.Command{
		{
			Name: "words", Group: "Test", Args: "[WORD ...]", Short: "Its words.",
			Run: func(_ context.Context, _ *commands.Session, in commands.Input) (commands.Result, error) {
				w := &words{}
				for _, a := range in.Args {
					w.Words = append(w.Words, a.Text)
				}
				return w, nil
			},
		},
		{
			Name: "upper", Group: "Test", Short: "The words before it in capitals.",
			Run: func(_ context.Context, _ *commands.Session, in commands.Input) (commands.Result, error) {
				before, ok := in.Pipe.(*words)
				if !ok {
					return nil, fmt.Errorf("give it words, not %T", in.Pipe)
				}
				w := &words{}
				for _, one := range before.Words {
					w.Words = append(w.Words, strings.ToUpper(one))
				}
				return w, nil
			},
		},
		{
			Name: "vmmap", Aliases: []string{"vmm"}, Group: "Test", Args: "[REGION]", Short: "A map.", NoRepeat: true,
			Complete: commands.CompleteRegion,
			Run: func(context.Context, *commands.Session, commands.Input) (commands.Result, error) {
				return nil, errors.New("no process")
			},
		},
		{
			Name: "set", Group: "Test", Args: "X", Short: "Sets.", Verbatim: true, Complete: commands.CompleteSetting,
			Run: func(_ context.Context, s *commands.Session, in commands.Input) (commands.Result, error) {
				name, value, _ := strings.Cut(strings.TrimSpace(in.Tail), " ")
				if name != "pager" {
					return nil, commands.ErrForGDB
				}
				return nil, s.Settings.Set(name, value)
			},
		},
		{
			Name: "wait", Group: "Test", Short: "Waits.",
			Run: func(ctx context.Context, _ *commands.Session, _ commands.Input) (commands.Result, error) {
				fmt.Println("waiting")
				<-ctx.Done()
				return nil, ctx.Err()
			},
		},
		{
			Name: "panics", Group: "Test", Short: "Panics.",
			Run: func(context.Context, *commands.Session, commands.Input) (commands.Result, error) {
				panic("a bug")
			},
		},
	}
}

// newTestShell is a shell over g with the test's and the shell's own commands.
func newTestShell(tb testing.TB, g *fakeGDB, out *Output, change func(*Config)) *Shell {
	tb.Helper()
	cfg := Config{
		Output: out, Debugger: g,
		Session: &commands.Session{Settings: commands.NewSettings()},
	}
	reg, err := commands.NewRegistry(testCommands()...)
	if err != nil {
		tb.Fatal(err)
	}
	cfg.Session.Registry = reg
	if change != nil {
		change(&cfg)
	}
	sh := New(cfg)
	for _, c := range sh.Commands() {
		if err := reg.Register(c); err != nil {
			tb.Fatal(err)
		}
	}
	return sh
}

// ran is what a script printed, and how the shell stood then.
type ran struct {
	stdout, stderr string
	status         int
	more, left     bool
	gdb            []string
}

func runText(tb testing.TB, text string, change func(*Config)) ran {
	tb.Helper()
	var stdout, stderr bytes.Buffer
	g := newFakeGDB()
	sh := newTestShell(tb, g, NewOutput(&stdout, &stderr, false), change)
	more := sh.RunScript(context.Background(), "f", strings.NewReader(text))
	return ran{stdout.String(), stderr.String(), sh.Status(), more, sh.Left(), slices.Clone(g.lines)}
}
