package mi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
)

// ticker counts in a loop, so that it can be interrupted, stepped and read.
const ticker = `
volatile long count;
char big[100000];
int twice(int n) { return 2 * n; }
int main(void) {
	for (int i = 0; i < (int)sizeof big; i++) big[i] = 'a' + i % 26;
	for (;;) {
		count = twice(count) + 1;
		count++;
	}
}
`

func TestStartErrors(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("#!/nonexistent\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		command []string
		want    []string
	}{
		{[]string{"/bin/false"}, []string{"exited with status 1"}},
		{[]string{"no-such-gdb-here"}, []string{"not found"}},
		{[]string{"/no/such/gdb"}, []string{"no such file"}},
		{[]string{plain}, []string{"permission denied"}},
		{[]string{"/"}, []string{"directory"}},
		// Two pipes: nothing says which is read first.
		{[]string{"sh", "-c", "echo first; echo broken gdb >&2; kill -9 $$"}, []string{"killed by signal 9 (SIGKILL): ", "first", "broken gdb"}},
		{[]string{"sh", "-c", "cat"}, []string{"it does not speak GDB/MI"}},
		{nil, []string{"no command"}},
	} {
		_, err := Start(testContext(t), Config{Command: c.command})
		var se *StartError
		if !errors.As(err, &se) {
			t.Errorf("%q: %v", c.command, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", c.command, err, want)
			}
		}
	}
	// Programs that are no GDB, and one that ignores everything.
	for _, command := range [][]string{{"sh", "-c", "exec sleep 1000"}, {"sh", "-c", "trap '' INT TERM; while :; do read x || sleep 1; done"}} {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		_, err := Start(ctx, Config{Command: command, Grace: 20 * time.Millisecond})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q: %v", command, err)
		}
	}
	noGoroutines(t)
}

// The relay and GDB are in sessions of their own: a terminal's Ctrl-C, Ctrl-Z
// and hang-up do not reach them.
func TestSessions(t *testing.T) {
	c := fake(t, "", Config{})
	seen := map[int]bool{}
	for _, pid := range []int{os.Getpid(), c.relay.pid, c.PID()} {
		sid, err := unix.Getsid(pid)
		if err != nil || seen[sid] {
			t.Errorf("process %d has session %d (%v)", pid, sid, err)
		}
		seen[sid] = true
	}
	if ppid := parent(t, c.PID()); ppid != c.relay.pid {
		t.Errorf("GDB's parent is %d, not the relay", ppid)
	}
}

func parent(t *testing.T, pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	n, _ := strconv.Atoi(strings.Fields(rest)[1])
	return n
}

// What a GDB may print, seen through the whole client.
func TestForeignText(t *testing.T) {
	var stray testkit.Buffer
	c := fake(t, "", Config{Stray: &stray})
	ctx := testContext(t)
	if !strings.Contains(stray.String(), "fake") {
		t.Errorf("stray text %q", stray.String())
	}
	for _, c2 := range []struct{ say, want string }{
		{"abc$T^done\n", "abc"},
		{"^done\n123^done\n1^error,msg=\"x\"\n2^done$T^done\n", "^done\n123^done\n1^error,msg=\"x\"\n2^done"},
		{strings.Repeat("x", 200000) + "\n$T^done\n", strings.Repeat("x", 200000) + "\n"},
		{"\x00\xff\x1b[31m\n$T^done\n", "\x00\xff\x1b[31m\n"},
	} {
		file := filepath.Join(t.TempDir(), "say")
		if err := os.WriteFile(file, []byte(c2.say), 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(stray.String())
		if _, err := c.Send(ctx, "say", "file:"+file); err != nil {
			t.Errorf("%.40q: %v", c2.say, err)
		}
		if got := stray.String()[before:]; got != c2.want {
			t.Errorf("%.40q: printed %.60q", c2.say, got)
		}
	}
	var e *Error
	for say, code := range map[string]string{
		"$T^done,a={\n": codeMalformed,
		"$T^error,msg=\"no\",code=\"undefined-command\"\n": "undefined-command",
	} {
		if _, err := c.Send(ctx, "say", say); !errors.As(err, &e) || e.Code != code {
			t.Errorf("%s: %v", say, err)
		}
	}
}

// A long result keeps its data, and so does a long event.
func TestLongRecords(t *testing.T) {
	events := make(chan Event, 1)
	c := fake(t, "", Config{Handler: func(e Event) { events <- e }})
	want := strings.Repeat(`0123456789é"\`, 100000)
	body := `a={b=["` + printchar([]byte(want)) + `"]}` + "\n"
	file := filepath.Join(t.TempDir(), "say")
	if err := os.WriteFile(file, []byte("=memory-changed,"+body+"$T^done,"+body), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := c.Send(testContext(t), "say", "file:"+file)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Tuple("a").Strings("b"); len(got) != 1 || got[0] != want {
		t.Errorf("the result is damaged (%d elements)", len(got))
	}
	e := <-events
	if got := e.Payload.Tuple("a").Strings("b"); e.Kind != "notify" || e.Class != "memory-changed" || len(got) != 1 || got[0] != want {
		t.Errorf("the event is damaged: %s %s", e.Kind, e.Class)
	}
}

func TestQuoting(t *testing.T) {
	c := realGDB(t, Config{})
	ctx := testContext(t)
	for _, s := range []string{"", " a", "a b", `"`, `\`, `\n`, "'", "é", "\u00a0\u200b", "tab\there", "line\nbreak", "\r\x01\x7f", "\xff\xfe", "#x", "--y", "-"} {
		// Sets a user variable's MI attribute and reads it back: argv as it came.
		if _, err := c.Send(ctx, "gdb-set", "confirm", "off"); err != nil {
			t.Fatal(err)
		}
		_, err := c.Send(ctx, "environment-cd", "/no/such"+s)
		if err == nil || !strings.Contains(err.Error(), "/no/such"+s+":") {
			t.Errorf("%q came as %v", s, err)
		}
	}
	var e *Error
	for _, bad := range []struct{ op, arg string }{{"a\nb", ""}, {"", ""}, {"a\x00", ""}, {"environment-cd", "a\x00b"}} {
		if _, err := c.Send(ctx, bad.op, bad.arg); err == nil || errors.As(err, &e) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := c.Console(ctx, "echo a\x00b", nil); err == nil || errors.As(err, &e) {
		t.Error(err)
	}
	// An empty argument counts.
	if _, err := c.Send(ctx, "info-gdb-mi-command", ""); err != nil {
		t.Error(err)
	}
	if got := console(t, c, `echo "é" \\ # \n`); got != "\"é\" \\ # \n" {
		t.Errorf("echo gave %q", got)
	}
	if got := console(t, c, "python\nfor i in range(2):\n  print(i)"); got != "0\n1\n" {
		t.Errorf("lines of Python gave %q", got)
	}
}

// GDB's own ways to print what is no MI.
func TestShells(t *testing.T) {
	c := realGDB(t, Config{})
	for line, want := range map[string]string{
		"shell echo hi":      "hi\n",
		"!echo hi":           "hi\n",
		"shell printf hi":    "hi",
		"pipe print 1 | cat": "$1 = 1\n",
		"shell echo '^done'; echo 1^done; echo '(gdb)'":         "^done\n1^done\n(gdb)\n",
		"shell printf '123^done\\n=dbgsh-gone,reason=\"x\"\\n'": "123^done\n=dbgsh-gone,reason=\"x\"\n",
		"python import os; _ = os.write(1, b'abc')":             "abc",
		"python import os; _ = os.write(2, b'abc\\n')":          "abc\n",
		"python print('\\u00e9\\u00a0\\x1b[1m')":                "é\u00a0\x1b[1m\n",
		"shell head -c 150000 /dev/zero | tr '\\000' y":         strings.Repeat("y", 150000),
	} {
		if got := console(t, c, line); got != want {
			t.Errorf("%s: %.80q (%d bytes), want %.80q (%d)", line, got, len(got), want, len(want))
		}
	}
}

func TestConsoleError(t *testing.T) {
	c := realGDB(t, Config{})
	for line, want := range map[string][2]string{
		"print nosuch": {"", `No symbol table is loaded.  Use the "file" command.`},
		"nosuch":       {"", `Undefined command: "nosuch".  Try "help".`},
		"python print(1); gdb.write('log\\n', gdb.STDERR); 1/0": {
			"1\nlog\nTraceback (most recent call last):\n  File \"<string>\", line 1, in <module>\nZeroDivisionError: division by zero\n",
			"Error while executing Python code."},
	} {
		var b strings.Builder
		var e *Error
		err := c.Console(testContext(t), line, &b)
		if !errors.As(err, &e) || e.Msg != want[1] || b.String() != want[0] {
			t.Errorf("%s: %q, %v", line, b.String(), err)
		}
		answer, _, _ := strings.Cut(want[0], "log\n") // what is logged is none
		if text, err := c.Query(testContext(t), line); !errors.As(err, &e) || e.Msg != want[1] || text != answer {
			t.Errorf("%s: %q, %v", line, text, err)
		}
	}
}

func TestQueryAll(t *testing.T) {
	var log testkit.Buffer
	c := realGDB(t, Config{Log: &log})
	ctx := testContext(t)
	if texts, err := c.QueryAll(ctx); len(texts) != 0 || err != nil {
		t.Errorf("no lines: %q, %v", texts, err)
	}
	before := strings.Count(log.String(), "\n> ")
	long := strings.Repeat("x", 200_000)
	texts, err := c.QueryAll(ctx, "echo a \\\"é\\\"\\n", "set $x = 3", "print $x", "shell printf 'b\\n1^done'", "python print('x' * 200000)")
	if want := []string{"a \"é\"\n", "", "$1 = 3\n", "b\n1^done", long + "\n"}; err != nil || !slices.Equal(texts, want) {
		t.Errorf("%.200q, %v", texts, err)
	}
	if n := strings.Count(log.String(), "\n> ") - before; n != 1 {
		t.Errorf("%d lines to GDB", n)
	}
	// The first that fails ends it.
	for _, c2 := range []struct {
		lines []string
		want  []string
	}{
		{[]string{"nosuch", "echo a"}, nil},
		{[]string{"echo a", "python print('lost'); gdb.execute('nosuch')", "shell exit 1", "set $x = 4"}, []string{"a"}},
		{[]string{"echo a", "echo b\\n", "nosuch"}, []string{"a", "b\n"}},
	} {
		var e *Error
		texts, err := c.QueryAll(ctx, c2.lines...)
		if !errors.As(err, &e) || !slices.Equal(texts, c2.want) {
			t.Errorf("%q: %q, %v", c2.lines, texts, err)
		}
	}
	if text, err := c.Query(ctx, "output $x"); text != "3" || err != nil {
		t.Errorf("a line behind one that failed was executed: %q, %v", text, err)
	}
	// Text that is not to be told apart.
	var e *Error
	deaf := "python\nclass Echo(gdb.Command):\n  def __init__(self): super().__init__('echo', gdb.COMMAND_USER)\n  def invoke(self, arg, tty): pass\nEcho()"
	if texts, err := c.QueryAll(ctx, "echo a", deaf); err == nil || errors.As(err, &e) {
		t.Errorf("without echo: %q, %v", texts, err)
	}
	if _, err := c.QueryAll(ctx, "echo a", "echo \x00"); err == nil {
		t.Error("a NUL byte was sent")
	}
	cancelled, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if texts, err := c.QueryAll(cancelled, "printf \"b\"", "python\nwhile True: pass"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnresponsive) {
		t.Errorf("cancelled: %q, %v", texts, err)
	}
}

// TestQueries is several lines in one round trip, whatever GDB traces and logs.
func TestQueries(t *testing.T) {
	var log testkit.Buffer
	c := realGDB(t, Config{Log: &log})
	lines := []string{
		"printf \"%d\\n\", 1", "output 2", "echo", "with print pretty on -- with language c -- output 3",
		"echo \\036+echo \\n", "show language", "printf \"+output 2\\n\"",
	}
	want := []string{"1\n", "2", "", "3", "\x1e+echo \n", "The current source language is \"auto; currently c\".\n", "+output 2\n"}
	trips := func() int { return strings.Count("\n"+log.String(), "\n> ") }
	for _, set := range []string{"echo", "set trace-commands on", "set debug parser 1", "set debug expression 1", "set debug target 1"} {
		console(t, c, set)
		before := trips()
		if texts, err := c.QueryAll(testContext(t), lines...); err != nil || !slices.Equal(texts, want) {
			t.Errorf("%s: %q, %v", set, texts, err)
		}
		if n := trips() - before; n != 1 {
			t.Errorf("%d round trips", n)
		}
		for i, l := range lines {
			if text, err := c.Query(testContext(t), l); err != nil || text != want[i] {
				t.Errorf("%s, %s: %q, %v", set, l, text, err)
			}
		}
		// What fails ends it.
		var e *Error
		texts, err := c.QueryAll(testContext(t), "output 1", "output 2", "nosuch", "shell touch "+t.TempDir()+"/no")
		if !errors.As(err, &e) || !strings.Contains(e.Msg, "nosuch") || !slices.Equal(texts, []string{"1", "2"}) {
			t.Errorf("%s: %q, %v", set, texts, err)
		}
	}
}

func TestRunControl(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "ticker.c", ticker)
	var mu sync.Mutex
	var stops []string
	c := realGDB(t, Config{Handler: func(e Event) {
		if e.Class == "stopped" {
			mu.Lock()
			stops = append(stops, e.Payload.Str("reason"))
			mu.Unlock()
		}
	}}, prog)
	ctx := testContext(t)
	console(t, c, "break twice")
	if got := console(t, c, "run"); !strings.Contains(got, "Breakpoint 1, twice") {
		t.Errorf("run printed %q", got)
	}
	if got := console(t, c, "finish"); !strings.Contains(got, "Value returned is $1 = 0") {
		t.Errorf("finish printed %q", got)
	}
	if got := console(t, c, "next"); !strings.Contains(got, "count++;") {
		t.Errorf("next printed %q", got)
	}
	// A call that stops is an error, after the text of the stop.
	if testkit.CanCall(t, "gdb") {
		var text strings.Builder
		var e *Error
		if err := c.Console(ctx, "call twice(4)", &text); !errors.As(err, &e) || !strings.Contains(text.String(), "Breakpoint 1, twice (n=4)") {
			t.Errorf("call printed %q, %v", text.String(), err)
		}
		console(t, c, "delete")
		if got := console(t, c, "continue"); got != "Continuing.\n" { // to the end of the call
			t.Errorf("continue printed %q", got)
		}
	}
	console(t, c, "delete")

	// The commands of a breakpoint, which resume three times.
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("set $n = 0\nbreak twice\ncommands\nsilent\nset $n = $n + 1\nprintf \"n=%d\\n\", $n\nif $n < 4\ncontinue\nend\nend\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	console(t, c, "source "+script)
	if got := console(t, c, "continue"); got != "Continuing.\nn=1\nn=2\nn=3\nn=4\n" {
		t.Errorf("continue printed %q", got)
	}
	console(t, c, "delete")

	// All of a long print, and all of a long read.
	console(t, c, "set print elements 0")
	console(t, c, "set print repeats 0")
	console(t, c, "set max-value-size unlimited")
	got := console(t, c, "print big")
	if want := strings.Repeat("abcdefghijklmnopqrstuvwxyz", 100000/26); !strings.Contains(got, want) {
		t.Errorf("print of 100,000 bytes gave %d", len(got))
	}
	r, err := c.Send(ctx, "data-read-memory-bytes", "&big", "100000")
	if err != nil {
		t.Fatal(err)
	}
	if m := r.Tuples("memory"); len(m) != 1 || len(m[0].Str("contents")) != 200000 {
		t.Errorf("read of 100,000 bytes gave %d elements", len(m))
	}
	// A command longer than a pipe.
	if _, err := c.Send(ctx, "data-write-memory-bytes", "&big", strings.Repeat("5a", 100000)); err != nil {
		t.Fatal(err)
	}
	if r, err = c.Send(ctx, "data-evaluate-expression", "big[99999]"); err != nil || r.Str("value") != "90 'Z'" {
		t.Error(r, err)
	}

	// In the background.
	console(t, c, "continue &")
	if got := console(t, c, "info threads"); !strings.Contains(got, "(running)") {
		t.Errorf("info threads printed %q", got)
	}
	console(t, c, "interrupt")
	testkit.WaitFor(t, "stop", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return stops[len(stops)-1] == "signal-received"
	})
	if got := console(t, c, "kill"); !strings.Contains(got, "killed") {
		t.Errorf("kill printed %q", got)
	}
}

func TestSeveralLocations(t *testing.T) {
	prog := testkit.BuildText(t, "g++", "over.cc", "int f(int a) { return a; }\nint f(long a) { return a; }\ntemplate<class T> int g(T t) { return t; }\nint main() { return f(1) + f(1l) + g(1) + g('a'); }\n")
	c := realGDB(t, Config{}, prog)
	for fn, n := range map[string]int{"f": 2, "g": 2} {
		r, err := c.Send(testContext(t), "break-insert", fn)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Tuple("bkpt").Tuples("locations"); len(got) != n {
			t.Errorf("%s has %d locations: %v", fn, len(got), r)
		}
	}
}

func TestPathsWithAccents(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "ticker.c", ticker)
	c := realGDB(t, Config{})
	path := filepath.Join(t.TempDir(), "é à b\u00a0\"c")
	if err := os.Rename(prog, path); err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	if _, err := c.Send(ctx, "file-exec-and-symbols", path); err != nil {
		t.Fatal(err)
	}
	r, err := c.Send(ctx, "list-thread-groups")
	if err != nil || r.Tuples("groups")[0].Str("executable") != path {
		t.Errorf("%v, %v", r, err)
	}
}

func TestCancel(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "ticker.c", ticker)
	c := realGDB(t, Config{}, prog)
	console(t, c, "break twice")
	console(t, c, "run")
	console(t, c, "delete")
	for _, line := range []string{
		"continue",
		"while 1\nend", // waits for input
		"python\nwhile True: pass",
		"python import time; time.sleep(1000)",
		"shell sleep 1000",
		"shell cat",
		"shell",
		"define foo",
		"pipe print 1 | sleep 1000",
		"find /b 0x1000, 0x7fffffffffff, 1, 2, 3, 4, 5, 6, 7, 8, 9",
		"until 1000",
		"watch count if count == -1",
		"continue",
	} {
		ctx, cancel := context.WithCancelCause(context.Background())
		cause := errors.New("the user's wish")
		timer := time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
		err := c.Console(ctx, line, nil)
		timer.Stop()
		cancel(nil)
		var e *Error
		if err != nil && !errors.As(err, &e) && (!errors.Is(err, context.Canceled) || !errors.Is(err, cause)) {
			t.Errorf("%s: %v", line, err)
		}
		if errors.Is(err, ErrUnresponsive) {
			t.Errorf("%s: %v", line, err)
		}
		if got := console(t, c, "printf \"ok\\n\""); got != "ok\n" {
			t.Errorf("after %s: %q", line, got)
		}
	}
	// A context that has ended before sends nothing.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Console(ctx, "kill", nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.Send(ctx, "gdb-exit"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// A SIGINT for nobody does not hit the next command.
	for range 20 {
		if err := c.Interrupt(); err != nil {
			t.Fatal(err)
		}
		if got := console(t, c, "printf \"ok\\n\""); got != "ok\n" {
			t.Errorf("after an interrupt: %q", got)
		}
	}
}

// A command that reads lines from GDB's input gets an end for them.
func TestNudge(t *testing.T) {
	c := realGDB(t, Config{Grace: 500 * time.Millisecond})
	for _, line := range []string{"python", "python import sys; sys.stdin.readline()"} {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		err := c.Console(ctx, line, nil)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", line, err)
		}
		if got := console(t, c, "printf \"ok\\n\""); got != "ok\n" {
			t.Errorf("after %s: %q", line, got)
		}
	}
}

func TestUnresponsive(t *testing.T) {
	testkit.Need(t, "gdb")
	var stray testkit.Buffer
	c := realGDB(t, Config{Grace: 100 * time.Millisecond, Stray: &stray})
	// Deaf until the file is there.
	flag := filepath.Join(t.TempDir(), "flag")
	deaf := "python\nimport signal, time, os\nold = signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf')\nwhile not os.path.exists('" + flag + "'): time.sleep(0.01)\nsignal.signal(signal.SIGINT, old)\nprint('late')"
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err := c.Console(ctx, deaf, writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "deaf\n") {
			cancel()
		}
		return len(p), nil
	}))
	if !errors.Is(err, ErrUnresponsive) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Send(ctx, "gdb-show", "width"); !errors.Is(err, ErrUnresponsive) {
		t.Fatal(err)
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := console(t, c, "printf \"ok\\n\""); got != "ok\n" {
		t.Errorf("%q", got)
	}
	if !strings.Contains(stray.String(), "late\n") {
		t.Errorf("stray text %q", stray.String())
	}
}

// GDB's answer is torn by somebody else's text: the nudge finds that out.
func TestLostAnswer(t *testing.T) {
	c := fake(t, "", Config{Grace: 4 * time.Second}) // the nudge comes after half of it
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Send(ctx, "mute"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnresponsive) {
		t.Fatal(err)
	}
	if _, err := c.Send(testContext(t), "x"); err != nil {
		t.Fatal(err)
	}
}

func TestDeath(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "ticker.c", ticker)
	kill := func(c *Client) { _ = unix.Kill(c.PID(), unix.SIGKILL) }
	for _, c2 := range []struct {
		name   string
		line   string // in flight
		do     func(*Client)
		reason string
	}{
		{"idle", "", kill, "killed by signal 9 (SIGKILL)"},
		{"running", "run", kill, "killed by signal 9 (SIGKILL)"},
		{"busy", "python\nwhile True: pass", kill, "killed by signal 9 (SIGKILL)"},
		{"Kill", "run", (*Client).Kill, "killed by signal 9 (SIGKILL)"},
		{"SIGTERM", "run", func(c *Client) { _ = unix.Kill(c.PID(), unix.SIGTERM) }, "exited with status 0"},
		{"SIGSEGV", "run", func(c *Client) { _ = unix.Kill(c.PID(), unix.SIGSEGV) }, "killed by signal 11 (SIGSEGV)"},
		{"quit", "quit 3", func(*Client) {}, "exited with status 3"},
		{"relay, idle", "", func(c *Client) { c.relay.kill() }, "its relay has ended"},
		{"relay, running", "run", func(c *Client) { c.relay.kill() }, "its relay has ended"},
		{"relay, busy", "python\nwhile True: pass", func(c *Client) { c.relay.kill() }, "its relay has ended"},
		{"relay, text", "python\nwhile True: print('x' * 1000)", func(c *Client) { c.relay.kill() }, "its relay has ended"},
		{"both", "run", func(c *Client) { c.relay.kill(); kill(c) }, ""},
	} {
		t.Run(c2.name, func(t *testing.T) {
			running := make(chan struct{}, 1)
			c := realGDB(t, Config{Handler: func(e Event) {
				if e.Class == "running" {
					running <- struct{}{}
				}
			}}, prog)
			ctx := testContext(t)
			result := make(chan error, 1)
			if c2.line != "" {
				go func() { result <- c.Console(ctx, c2.line, nil) }()
			}
			switch c2.line {
			case "":
				result <- c.goneOr("")
			case "run":
				<-running
			default:
				testkit.WaitFor(t, "call", func() bool { return len(c.turn) == 1 })
			}
			c2.do(c)
			var gone *GoneError
			if err := <-result; !errors.As(err, &gone) {
				t.Errorf("the call returned %v", err)
			}
			select {
			case <-c.Done():
			case <-ctx.Done():
				t.Fatal("not seen")
			}
			if err := c.Err(); !errors.As(err, &gone) || c2.reason != "" && gone.Reason != c2.reason {
				t.Errorf("Err is %v", err)
			}
			for range 3 {
				if _, err := c.Send(ctx, "gdb-version"); !errors.As(err, &gone) {
					t.Errorf("a later call returned %v", err)
				}
			}
			if err := c.Interrupt(); !errors.As(err, &gone) {
				t.Errorf("Interrupt returned %v", err)
			}
			finish(t, c)
		})
	}
}

// A child of GDB keeps its pipes open beyond its end, and even writes to them.
func TestDeathWithOpenPipes(t *testing.T) {
	for _, child := range []string{"sleep 1000", "yes"} {
		t.Run(child, func(t *testing.T) {
			written := make(chan struct{}, 1)
			c := realGDB(t, Config{Stray: writerFunc(func(p []byte) (int, error) {
				if strings.Contains(string(p), "y\ny\n") {
					select {
					case written <- struct{}{}:
					default:
					}
				}
				return len(p), nil
			})})
			// It waits until its process has been told.
			flag := filepath.Join(t.TempDir(), "flag")
			got := strings.TrimSpace(console(t, c, "shell (until test -e "+flag+"; do sleep 0.01; done; exec "+child+") & echo $!"))
			pid, err := strconv.Atoi(got)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Kill(pid, unix.SIGKILL) }()
			if err := os.WriteFile(flag, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if child == "yes" {
				<-written
			}
			c.Kill()
			select {
			case <-c.Done():
			case <-testContext(t).Done():
				t.Fatal("not seen")
			}
		})
	}
}

// TestBehindPipes is that no gdbserver of GDB's own is left, whatever ends GDB; but
// for a GDB that is killed from outside.
func TestBehindPipes(t *testing.T) {
	testkit.Need(t, "gdbserver")
	prog := testkit.BuildText(t, "gcc", "ticker.c", ticker)
	for name, end := range map[string]func(c *Client){
		"closed":       func(c *Client) { _ = c.Close(context.Background()) },
		"killed":       func(c *Client) { c.Kill() },
		"relay killed": func(c *Client) { c.relay.kill() },
	} {
		for _, line := range []string{"extended-remote | exec gdbserver --multi -", "remote | exec gdbserver - " + prog} {
			t.Run(name+", "+line[:7], func(t *testing.T) {
				t.Parallel()
				c, err := Start(testContext(t), Config{Command: []string{"gdb", "-nx", "-q", "--tty=/dev/null", prog}})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close(testContext(t))
				console(t, c, "target "+line)
				console(t, c, "break twice")
				if strings.HasPrefix(line, "extended") {
					console(t, c, "set remote exec-file "+prog)
					console(t, c, "run")
				} else {
					console(t, c, "continue")
				}
				threads, err := c.Send(testContext(t), "list-thread-groups")
				if err != nil {
					t.Fatal(err)
				}
				pid, err := strconv.Atoi(threads.Tuples("groups")[0].Str("pid"))
				if err != nil {
					t.Fatal(err)
				}
				server, err := exec.Command("ps", "-o", "ppid=", "-p", strconv.Itoa(pid)).Output()
				if err != nil {
					t.Fatal(err)
				}
				serverPID, err := strconv.Atoi(strings.TrimSpace(string(server)))
				if err != nil || serverPID == c.PID() || !testkit.Alive(serverPID) {
					t.Fatalf("gdbserver is %q: %v", server, err)
				}
				end(c)
				testkit.WaitGone(t, serverPID)
				testkit.WaitGone(t, pid)
			})
		}
	}
}

// What GDB's shell has started lives on.
func TestShellsProgramLivesOn(t *testing.T) {
	c := realGDB(t, Config{})
	var pids []int
	for _, line := range []string{"shell sleep 1000 </dev/null >/dev/null 2>&1 & echo $!", "shell setsid sleep 1000 </dev/null >/dev/null 2>&1 & sleep 0.1; echo $!"} {
		pid, err := strconv.Atoi(strings.TrimSpace(console(t, c, line)))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Kill(pid, unix.SIGKILL) }()
		pids = append(pids, pid)
	}
	c.Kill()
	finish(t, c)
	for _, pid := range pids {
		if !testkit.Alive(pid) {
			t.Errorf("process %d is dead", pid)
		}
	}
}

func TestClose(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "ticker.c", ticker)
	for _, line := range []string{"", "run", "run &", "python\nwhile True: pass", "python"} {
		c := realGDB(t, Config{Grace: 500 * time.Millisecond}, prog)
		result := make(chan error, 1)
		if line != "" {
			go func() { result <- c.Console(context.Background(), line, nil) }()
			testkit.WaitFor(t, "call", func() bool { return len(c.turn) == 1 || len(result) == 1 })
		} else {
			result <- nil
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := c.Close(testContext(t)); err != nil {
					t.Errorf("%q: %v", line, err)
				}
			})
		}
		wg.Wait()
		<-result
		if err := c.Err(); err == nil {
			t.Errorf("%q: GDB is not gone", line)
		}
	}
	// Without any good will of GDB, and without time.
	c := fake(t, "stubborn", Config{Grace: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Close(ctx); err != nil || c.Err().Error() != "GDB is gone: killed by signal 9 (SIGKILL)" {
		t.Error(err, c.Err())
	}
	// With a relay that does not move.
	c = fake(t, "", Config{Grace: 10 * time.Millisecond})
	if err := unix.Kill(c.relay.pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestMany(t *testing.T) {
	c := realGDB(t, Config{})
	n := 10000
	if testing.Short() {
		n = 1000
	}
	ctx := testContext(t)
	for i := range n {
		if _, err := c.Send(ctx, "gdb-show", "width"); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
}

// Every call gets its own text and nothing else.
func TestConcurrent(t *testing.T) {
	c := realGDB(t, Config{})
	ctx := testContext(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				want := fmt.Sprintf("%d.%d é\n", g, i)
				var b bytes.Buffer
				line := "echo " + strings.ReplaceAll(want, "\n", `\n`)
				if err := c.Console(ctx, line, &b); err != nil || b.String() != want {
					t.Errorf("%q, %v, want %q", b.String(), err, want)
				}
				if text, err := c.Query(ctx, line); err != nil || text != want {
					t.Errorf("%q, %v, want %q", text, err, want)
				}
				if r, err := c.Send(ctx, "data-evaluate-expression", strconv.Itoa(g*100+i)); err != nil || r.Str("value") != strconv.Itoa(g*100+i) {
					t.Errorf("%v, %v", r, err)
				}
			}
		})
	}
	wg.Wait()
}

// A writer that fails, or takes its time, stops nothing.
func TestWriters(t *testing.T) {
	c := realGDB(t, Config{})
	line := "python\nfor i in range(3000): print('x' * 1000)"
	if err := c.Console(testContext(t), line, failing{}); err != nil {
		t.Error(err)
	}
	n := 0
	if err := c.Console(testContext(t), line, writerFunc(func(p []byte) (int, error) {
		n += len(p)
		time.Sleep(20 * time.Microsecond)
		return len(p), nil
	})); err != nil || n != 3000*1001 {
		t.Error(n, err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Text comes while the command runs.
func TestStreaming(t *testing.T) {
	c := realGDB(t, Config{})
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	err := c.Console(ctx, "python\nprint('now')\nwhile True: pass", writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "now") {
			cancel()
		}
		return len(p), nil
	}))
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLog(t *testing.T) {
	var log testkit.Buffer
	c := fake(t, "", Config{Log: &log})
	if _, err := c.Send(testContext(t), "say", "é\"$T^done\n"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"! fake \n", "info-gdb-mi-command gdb-exit\n", "-say \"é\\\"$T^done\\012\"\n", "< é\""} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in %q", want, log.String())
		}
	}
}

// victim is the client process that TestParentKilled kills: it runs a program,
// attached to or started, prints the process ids and waits.
func victim(args []string) int {
	ctx := context.Background()
	if args[0] == "fake" {
		c, err := Start(ctx, Config{Command: []string{"/proc/self/exe", "fake-gdb", args[1]}})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(c.PID(), c.relay.pid)
		select {}
	}
	running := make(chan struct{}, 10)
	c, err := Start(ctx, Config{Command: []string{"gdb", "-nx", "-q", "--tty=/dev/null", args[0]}, Handler: func(e Event) {
		if e.Class == "running" {
			running <- struct{}{}
		}
	}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	pid := args[1]
	if pid == "0" {
		_ = c.Console(ctx, "break twice", nil)
		_ = c.Console(ctx, "run", nil)
		_ = c.Console(ctx, "delete", nil)
		r, err := c.Send(ctx, "list-thread-groups")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		pid = r.Tuples("groups")[0].Str("pid")
	} else if err := c.Console(ctx, "attach "+pid, nil); err != nil {
		fmt.Println(err)
		return 1
	}
	for len(running) > 0 {
		<-running
	}
	switch args[2] {
	case "running":
		go func() { _ = c.Console(ctx, "continue", nil) }()
		<-running
	case "printing":
		printed := make(chan struct{}, 1)
		go func() {
			_ = c.Console(ctx, "python\nwhile True: print('x' * 1000)", writerFunc(func(p []byte) (int, error) {
				select {
				case printed <- struct{}{}:
				default:
				}
				return len(p), nil
			}))
		}()
		<-printed
	}
	fmt.Println(c.PID(), pid)
	select {}
}

func TestParentKilled(t *testing.T) {
	testkit.Need(t, "gdb")
	prog := testkit.BuildText(t, "gcc", "ticker.c", ticker)
	for _, how := range []string{"started", "attached"} {
		for _, state := range []string{"running", "idle", "printing"} {
			t.Run(how+" "+state, func(t *testing.T) {
				pid := "0"
				if how == "attached" {
					debuggee := exec.Command(prog)
					if err := debuggee.Start(); err != nil {
						t.Fatal(err)
					}
					defer func() { _ = debuggee.Process.Kill(); _ = debuggee.Wait() }()
					pid = strconv.Itoa(debuggee.Process.Pid)
				}
				cmd := exec.Command("/proc/self/exe", "victim", prog, pid, state)
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				line, _ := bufio.NewReader(out).ReadString('\n')
				var gdbPID, progPID int
				_, scanErr := fmt.Sscan(line, &gdbPID, &progPID)
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				if scanErr != nil {
					t.Fatalf("victim: %q", line)
				}
				testkit.WaitFor(t, "end of GDB", func() bool { return !testkit.Alive(gdbPID) })
				if how == "started" {
					testkit.WaitFor(t, "end of the program", func() bool { return !testkit.Alive(progPID) })
					return
				}
				testkit.WaitFor(t, "detached program", func() bool {
					status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", progPID))
					return strings.Contains(string(status), "TracerPid:\t0") && !strings.Contains(string(status), "State:\tt")
				})
				if !testkit.Alive(progPID) {
					t.Error("the attached program is dead")
				}
			})
		}
	}
}

// A GDB that does not want to end is ended after its client, and its relay ends.
func TestParentKilledStubborn(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "victim", "fake", "stubborn")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	var gdbPID, relayPID int
	_, scanErr := fmt.Sscan(line, &gdbPID, &relayPID)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if scanErr != nil {
		t.Fatalf("victim: %q", line)
	}
	for _, pid := range []int{gdbPID, relayPID} {
		testkit.WaitGone(t, pid)
	}
}

// Whatever becomes of a GDB, no descriptor of it stays open.
func TestDescriptors(t *testing.T) {
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	for name, life := range map[string]func(){
		"closed":       func() { finish(t, start(t, "")) },
		"not started":  func() { _, _ = Start(testContext(t), Config{Command: []string{"no-such-gdb-here"}}) },
		"killed":       func() { c := start(t, ""); c.Kill(); finish(t, c) },
		"relay killed": func() { c := start(t, ""); c.relay.kill(); finish(t, c) },
	} {
		life() // the first opens what is shared
		before := open()
		for range 3 {
			life()
		}
		if after := open(); after > before {
			t.Errorf("%s: %d descriptors, %d before", name, after, before)
		}
	}
}

func start(t *testing.T, mode string) *Client {
	c, err := Start(testContext(t), Config{Command: []string{"/proc/self/exe", "fake-gdb", mode}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A process that GDB was attached to outlives GDB, when nobody but the kernel is
// left to tell GDB, and after Close.
func TestAttachedLivesOn(t *testing.T) {
	testkit.Need(t, "gdb")
	prog := testkit.BuildText(t, "gcc", "ticker.c", ticker)
	for name, end := range map[string]func(c *Client){
		"relay killed": func(c *Client) { c.relay.kill() },
		"closed":       func(c *Client) { _ = c.Close(context.Background()) },
	} {
		for _, run := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, running %v", name, run), func(t *testing.T) {
				debuggee := exec.Command(prog)
				if err := debuggee.Start(); err != nil {
					t.Fatal(err)
				}
				pid := debuggee.Process.Pid
				defer func() { _ = debuggee.Process.Kill(); _ = debuggee.Wait() }()
				events := make(chan struct{}, 100)
				c := realGDB(t, Config{Handler: func(e Event) {
					if e.Class == "running" {
						events <- struct{}{}
					}
				}}, prog)
				console(t, c, fmt.Sprintf("attach %d", pid))
				r, err := c.Send(testContext(t), "data-evaluate-expression", "(long)&main")
				if err != nil {
					t.Fatal(err)
				}
				addr, _ := r.Int("value")
				code := readMemory(t, pid, addr)
				// Never hit, but in the code while the program runs.
				console(t, c, "break main")
				for len(events) > 0 {
					<-events
				}
				result := make(chan error, 1)
				if run {
					go func() { result <- c.Console(context.Background(), "continue", nil) }()
					<-events
					// GDB is not always up to an interrupt while it resumes the
					// program; wait until it does nothing but to wait.
					before := cpuTime(pid)
					testkit.WaitFor(t, "progress", func() bool { return cpuTime(pid) > before+2 })
				} else {
					result <- nil
				}
				end(c)
				<-result
				testkit.WaitFor(t, "end of GDB", func() bool { return !testkit.Alive(c.PID()) })
				testkit.WaitFor(t, "running program", func() bool {
					status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
					return strings.Contains(string(status), "State:\tR")
				})
				if got := readMemory(t, pid, addr); got != code {
					t.Errorf("a breakpoint is left: %x, was %x", got, code)
				}
			})
		}
	}
}

// cpuTime returns the processor time that pid has used in user mode, in clock
// ticks (utime, proc_pid_stat(5)).
func cpuTime(pid int) int {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	n, _ := strconv.Atoi(strings.Fields(rest + strings.Repeat(" 0", 12))[11])
	return n
}

// readMemory returns the 32 bytes at addr of a process.
func readMemory(t *testing.T, pid int, addr int64) string {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 32)
	if _, err := f.ReadAt(buf, addr); err != nil {
		t.Fatal(err)
	}
	return string(buf)
}

func BenchmarkSend(b *testing.B) {
	c := realGDB(b, Config{})
	ctx := context.Background()
	for b.Loop() {
		if _, err := c.Send(ctx, "gdb-show", "width"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConsole(b *testing.B) {
	c := realGDB(b, Config{})
	ctx := context.Background()
	for b.Loop() {
		if err := c.Console(ctx, "echo x", nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	testkit.Need(b, "gdb")
	for b.Loop() {
		c, err := Start(context.Background(), Config{Command: []string{"gdb", "-nx", "-q"}})
		if err != nil {
			b.Fatal(err)
		}
		_ = c.Close(context.Background())
	}
}

// TestMissedInterrupt: what GDB runs for "shell" may miss the first SIGINT.
func TestMissedInterrupt(t *testing.T) {
	c := realGDB(t, Config{Grace: 8 * time.Second}) // the second one comes after half of it
	out := &testkit.Buffer{}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	file := filepath.Join(t.TempDir(), "ready")
	go func() {
		over <- c.Console(ctx, "shell trap 'trap - INT' INT; : >"+file+"; while :; do sleep 1000; done", out)
	}()
	testkit.WaitFor(t, "the shell", func() bool { _, err := os.Stat(file); return err == nil })
	cancel()
	if err := <-over; errors.Is(err, ErrUnresponsive) {
		t.Errorf("%v\n%s", err, out)
	}
	if got := console(t, c, "printf \"ok\\n\""); got != "ok\n" {
		t.Errorf("%q", got)
	}
}
