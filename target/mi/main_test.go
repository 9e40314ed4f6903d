package mi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
)

// The test binary plays every part: the relay, a GDB that prints what it is
// told to, and a client that gets killed.
func TestMain(m *testing.M) {
	if IsRelay() {
		os.Exit(RelayMain())
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "fake-gdb":
			os.Exit(fakeGDB(os.Args[2]))
		case "victim":
			os.Exit(victim(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// fakeGDB answers every command with ^done, but for these: "say TEXT" prints
// TEXT with $T replaced by the token, "die N" sends itself a signal, "leave N"
// exits, "mute" does not answer. mode "stubborn" ignores SIGTERM, SIGINT,
// gdb-exit and the end of its input, after which it prints for ever.
func fakeGDB(mode string) int {
	if mode == "stubborn" {
		signal.Ignore(unix.SIGTERM, unix.SIGINT)
	} else {
		signal.Notify(make(chan os.Signal, 1), unix.SIGINT)
	}
	fmt.Fprintf(os.Stderr, "fake %s\n", mode)
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			for mode == "stubborn" {
				fmt.Println("no")
			}
			return 0
		}
		token, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "-")
		op, arg, _ := strings.Cut(rest, " ")
		text := string(unescape(nil, []byte(strings.Trim(arg, `"`))))
		n, _ := strconv.Atoi(text)
		switch op {
		case "say":
			text = strings.ReplaceAll(text, "$T", token)
			if name, ok := strings.CutPrefix(text, "file:"); ok {
				data, _ := os.ReadFile(name)
				text = strings.ReplaceAll(string(data), "$T", token)
			}
			os.Stdout.WriteString(text)
		case "die":
			_ = unix.Kill(os.Getpid(), unix.Signal(n))
			select {}
		case "leave":
			return n
		case "mute":
		case "gdb-exit":
			if mode != "stubborn" {
				fmt.Printf("%s^exit\n", token)
				return 0
			}
		default:
			fmt.Printf("%s^done\n(gdb) \n", token)
		}
	}
}

// testContext ends before a hanging test would be killed without a trace.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// begin starts a client and checks at the end of the test that nothing of it is
// left.
func begin(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := Start(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { finish(t, c) })
	return c
}

// finish closes c; no process and no goroutine of it may be left.
func finish(t testing.TB, c *Client) {
	t.Helper()
	if err := c.Close(testContext(t)); err != nil {
		t.Error(err)
	}
	if err := unix.Kill(c.relay.pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the relay is left: %v", err)
	}
	testkit.WaitGone(t, c.PID())
	noGoroutines(t)
}

func noGoroutines(t testing.TB) {
	t.Helper()
	var left string
	defer func() { // WaitFor ends the test where there still are some
		if left != "" {
			t.Log(left)
		}
	}()
	testkit.WaitFor(t, "end of the client's goroutines", func() bool {
		buf := make([]byte, 1<<20)
		left = ""
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "cyrus-and/gdb") || strings.Contains(g, "mi.(*Client)") || strings.Contains(g, "mi.(*link)") || strings.Contains(g, "os/exec") {
				left += g + "\n\n"
			}
		}
		return left == ""
	})
}

func fake(t testing.TB, mode string, cfg Config) *Client {
	cfg.Command = []string{"/proc/self/exe", "fake-gdb", mode}
	return begin(t, cfg)
}

func realGDB(t testing.TB, cfg Config, args ...string) *Client {
	t.Helper()
	testkit.Need(t, "gdb")
	cfg.Command = append([]string{"gdb", "-nx", "-q", "--tty=/dev/null"}, args...)
	return begin(t, cfg)
}

// console runs a line that must succeed and returns its text.
func console(t testing.TB, c *Client, line string) string {
	t.Helper()
	var b strings.Builder
	if err := c.Console(testContext(t), line, &b); err != nil {
		t.Fatalf("%s: %v (printed %q)", line, err, b.String())
	}
	return b.String()
}
