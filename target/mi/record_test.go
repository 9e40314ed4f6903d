package mi

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cyrus-and/gdb"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"dbgsh/internal/testkit"
)

// printchar writes text as GDB does (printchar in gdb/utils.c, as MI calls it).
func printchar(text []byte) string {
	var sb strings.Builder
	for _, b := range text {
		switch {
		case b == '\n':
			sb.WriteString(`\n`)
		case b == '\b':
			sb.WriteString(`\b`)
		case b == '\t':
			sb.WriteString(`\t`)
		case b == '\f':
			sb.WriteString(`\f`)
		case b == '\r':
			sb.WriteString(`\r`)
		case b == 0x1b:
			sb.WriteString(`\033`)
		case b == '\a':
			sb.WriteString(`\a`)
		case b < ' ' || b >= 0x7f:
			fmt.Fprintf(&sb, `\%03o`, b)
		case b == '\\' || b == '"':
			sb.WriteByte('\\')
			sb.WriteByte(b)
		default:
			sb.WriteByte(b)
		}
	}
	return sb.String()
}

func TestUnescape(t *testing.T) {
	for _, c := range [][2]string{
		{``, ""}, {`a`, "a"}, {`\303\251`, "é"}, {`\0`, "\x00"}, {`\08`, "\x008"}, {`\377`, "\xff"},
		{`\400`, "\x200"}, {`\1234`, "S4"}, {`\e[0m`, "\x1b[0m"}, {`\n\t\r\a\b\f\v`, "\n\t\r\a\b\f\v"},
		{`\"\\\'`, `"\'`}, {`\`, `\`}, {`\q`, `q`}, {"\xff", "\xff"},
	} {
		if got := string(unescape(nil, []byte(c[0]))); got != c[1] {
			t.Errorf("unescape(%s) = %q, want %q", c[0], got, c[1])
		}
	}
}

func FuzzUnescape(f *testing.F) {
	f.Add([]byte(`a\303\251\e\\`), []byte("a\xc3\xa9\x1b\\"))
	f.Fuzz(func(t *testing.T, raw, text []byte) {
		if got := unescape(nil, raw); len(got) > len(raw) {
			t.Fatalf("%q grew to %q", raw, got)
		}
		if got := unescape(nil, []byte(printchar(text))); !bytes.Equal(got, text) {
			t.Fatalf("GDB's form of %q gave %q", text, got)
		}
		if got := unescape(nil, appendEscaped(nil, text)); !bytes.Equal(got, text) {
			t.Fatalf("our form of %q gave %q", text, got)
		}
	})
}

func TestScan(t *testing.T) {
	for _, c := range []struct {
		line string
		want Tuple
	}{
		{`^done`, nil},
		{`12^done,a="x",b={},c=[]`, Tuple{"a": "x", "b": Tuple{}, "c": []any{}}},
		{`*stopped,frame={args=[{name="a",value="\303\251"}],line="1"}`,
			Tuple{"frame": Tuple{"args": []any{Tuple{"name": "a", "value": "é"}}, "line": "1"}}},
		{`=x,l=["a","b",["c"]],r=[f={n="1"},f={n="2"}]`,
			Tuple{"l": []any{"a", "b", []any{"c"}}, "r": []any{Tuple{"f": Tuple{"n": "1"}}, Tuple{"f": Tuple{"n": "2"}}}}},
		{`+download,{section=".text",size="1"}`, Tuple{"section": ".text", "size": "1"}},
	} {
		r, ok := scan([]byte(c.line), true)
		if !ok {
			t.Errorf("%s: refused", c.line)
		}
		if d := cmp.Diff(c.want, r.payload); d != "" {
			t.Errorf("%s: %s", c.line, d)
		}
	}
	for _, line := range []string{
		``, `1`, `^`, `^,`, `^done,`, `^done,a`, `^done,a=`, `^done,a=b`, `^done,a="`, `^done,a="x"y`, `^done,a="x",`,
		`^done,a={`, `^done,a={"x"}`, `^done,a=[b="1","2"]`, `^done,a=["1",b="2"]`, `^done,{a="1"}`, `~x`, `~"x`, `~"x"y`,
		`1~"x"`, `(gdb) `, `text`, `*stopped,a="x"}`, ` ^done`, `^done `, `-1^done`, `^done,a=` + strings.Repeat("[", 300),
	} {
		if r, ok := scan([]byte(line), false); ok {
			t.Errorf("%s: taken as %+v", line, r)
		}
	}
}

func TestTuple(t *testing.T) {
	var none Tuple
	if none.Str("a") != "" || none.Tuple("a").List("b") != nil || none.Tuples("a") != nil || none.Strings("a") != nil {
		t.Error("a nil Tuple has something in it")
	}
	tu := Tuple{"n": "-12", "x": "0xffffffffffffffff", "t": map[string]any{"s": "y"}, "l": []any{"a", Tuple{"b": "c"}}}
	if n, ok := tu.Int("n"); n != -12 || !ok {
		t.Error(n, ok)
	}
	if n, ok := tu.Uint("x"); n != 1<<64-1 || !ok {
		t.Error(n, ok)
	}
	if _, ok := tu.Int("x"); ok {
		t.Error("2^64-1 is no int64")
	}
	if tu.Tuple("t").Str("s") != "y" || tu.Tuples("l")[0].Str("b") != "c" || tu.Strings("l")[0] != "a" {
		t.Error(tu)
	}
}

// classSync is a record of the test's own: all before it has been read.
const classSync = private + "sync"

// library is the library's parser, fed through a FIFO.
type library struct {
	lib    *gdb.Gdb
	fifo   *os.File
	token  int
	synced chan struct{}
	got    []map[string]any
}

func newLibrary(t testing.TB) *library {
	t.Helper()
	testkit.Need(t, "cat")
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	l := &library{synced: make(chan struct{})}
	lib, err := gdb.NewCmd([]string{"cat", path}, func(m map[string]any) {
		if m["class"] == classSync {
			l.synced <- struct{}{}
			return
		}
		l.got = append(l.got, m)
	})
	if err != nil {
		t.Fatal(err)
	}
	l.lib = lib
	if l.fifo, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the library never sees an answer to gdb-exit from cat
		l.token++
		done := make(chan struct{})
		go func() { defer close(done); _ = lib.Exit() }()
		l.registered(t)
		fmt.Fprintf(l.fifo, "%d^exit\n", l.token)
		l.fifo.Close()
		<-done
	})
	return l
}

// registered waits until the library knows its latest command: it writes it to
// a pipe that nobody reads, which FIONREAD shows to grow.
func (l *library) registered(t testing.TB) {
	t.Helper()
	pid := childPID(l.lib)
	pipe, err := os.OpenFile(fdPath(pid, 0), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	want := strconv.Itoa(l.token) + "-"
	var seen []byte
	testkit.WaitFor(t, "command in the pipe", func() bool {
		buf := make([]byte, 4096)
		n, _ := unix.Read(int(pipe.Fd()), buf)
		seen = append(seen, buf[:max(n, 0)]...)
		return bytes.Contains(seen, []byte(want)) && bytes.HasSuffix(seen, []byte("\n"))
	})
}

// feed runs data through a filter with one command in flight, whose token
// replaces $T, and returns the answer and what else the library read.
func (l *library) feed(t testing.TB, data []byte, pieces int) (answer map[string]any, rest []map[string]any) {
	t.Helper()
	l.token++
	l.got = nil
	f := &filter{nonce: "1234567890123456"}
	if f.command(fmt.Appendf(nil, "%d-op", l.token)) == nil {
		t.Fatal("command refused")
	}
	gdbs := fmt.Sprintf("%s%d", f.nonce, l.token)
	data = bytes.ReplaceAll(data, []byte("$T"), []byte(gdbs))
	for len(data) > 0 {
		n := min(len(data), max(1, len(data)/max(1, pieces)))
		f.write(data[:n])
		data = data[n:]
	}
	f.finish()
	for _, token := range f.pending {
		f.fail(token, codeGone, "gone")
	}
	for line := range bytes.Lines(f.out) {
		if len(line) > maxLine || line[len(line)-1] != '\n' {
			t.Fatalf("a line of %d bytes", len(line))
		}
	}
	reply := make(chan map[string]any, 1)
	go func() {
		m, _ := l.lib.Send("op")
		reply <- m
	}()
	l.registered(t)
	if _, err := l.fifo.Write(fmt.Appendf(f.out, "=%s\n", classSync)); err != nil {
		t.Fatal(err)
	}
	<-l.synced
	return <-reply, l.got
}

// text joins the stream records of a kind.
func text(rest []map[string]any, kinds ...string) string {
	var sb strings.Builder
	for _, m := range rest {
		for _, k := range kinds {
			if m["type"] == k {
				sb.WriteString(m["payload"].(string))
			}
		}
	}
	return sb.String()
}

func TestFilter(t *testing.T) {
	l := newLibrary(t)
	for _, c := range []struct {
		name, in, class string
		text            string // of all streams
		records         int    // other than streams
	}{
		{"plain", "$T^done\n(gdb) \n", "done", "", 0},
		{"results", `$T^done,a="x"` + "\n", "done", "", 0},
		{"text", "hello\n\n$T^done\n", "done", "hello\n\n", 0},
		{"no newline", "hello$T^done\n", "done", "hello", 0},
		{"digits before", "12$T^done\n", "done", "12", 0},
		{"stranger's record", "^done\n123^done\n1^done\n$T^done\n", "done", "^done\n123^done\n1^done\n", 0},
		{"no newline, stream", `hel~"lo\n"` + "\n$T^done\n", "done", "hello\n", 0},
		{"no newline, async", `hel*stopped,reason="x"` + "\n$T^done\n", "done", "hel", 1},
		{"assignment", "a=b,c=\"d\"\n$T^done\n", "done", "a=b,c=\"d\"\n", 0},
		{"private", "=dbgsh-gone,reason=\"x\"\n=dbgsh-sync\n$T^done\n", "done", "=dbgsh-gone,reason=\"x\"\n=dbgsh-sync\n", 0},
		{"private behind text", "x=dbgsh-sync\n$T^done\n", "done", "x=dbgsh-sync\n", 0},
		{"garbage", "~\"abc\n*\n=,\n{}[]^*+=~@&\n\"\n$T^done\n", "done", "~\"abc\n*\n=,\n{}[]^*+=~@&\n\"\n", 0},
		{"torn result", "$T^done,a=\"x\n", "error", "", 0},
		{"unreadable result", "$T^done,bkpt={a=\"1\"},{b=\"2\"}\n", "error", "", 0},
		{"two answers", "$T^done\n$T^done\n", "done", "", 0},
		{"none", "", "error", "", 0},
		{"utf-8", `~"\303\251"` + "\n" + `$T^done,a="\303\251"` + "\n", "done", "é", 0},
		{"no utf-8", `~"\377\0\001"` + "\n$T^done\n", "done", "\xff\x00\x01", 0},
		{"token on async", `5*running,thread-id="all"` + "\n$T^done\n", "done", "", 1},
		{"mi2 script", `=breakpoint-modified,bkpt={script={"a","b"}}` + "\n$T^done\n", "done",
			`=breakpoint-modified,bkpt={script={"a","b"}}` + "\n", 0},
		{"carriage return", "a\rb\r\n$T^done\n", "done", "a\rb\r\n", 0},
		{"end without newline", "$T^done\nabc", "done", "abc", 0},
	} {
		for _, pieces := range []int{1, 3, 1 << 20} {
			answer, rest := l.feed(t, []byte(c.in), pieces)
			if answer["class"] != c.class {
				t.Errorf("%s in %d: answer %v", c.name, pieces, answer)
			}
			got := text(rest, "console", "target", "log")
			n := 0
			for _, m := range rest {
				if m["class"] != nil {
					n++
				}
			}
			if got != c.text || n != c.records {
				t.Errorf("%s in %d: text %q, %d records (%v)", c.name, pieces, got, n, rest)
			}
		}
	}
}

// What the library is given for what GDB writes after a console line with the
// token $T.
func TestFilterConsole(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"one record of several", "~\"a\\n\"\n~\"b\"\n$T^done\n(gdb) \n", "~\"a\\nb\"\n1^done\n"},
		{"kinds apart", "~\"a\"\n&\"b\"\n~\"c\"\n$T^done\n(gdb) \n", "~\"a\"\n&\"b\"\n~\"c\"\n1^done\n"},
		{"no prompt yet", "~\"a\"\n$T^done\n", "~\"a\"\n"},
		{"text before the prompt", "$T^error,msg=\"x\"\n~\"a\"\n(gdb) \n", "~\"a\"\n1^error,msg=\"x\"\n"},
		{"text in the prompt's line", "$T^done\nabc(gdb) \n", "@\"abc\"\n1^done\n"},
		{"a prompt before", "(gdb) \n~\"a\"\n$T^done\n", "~\"a\"\n"},
		{"set running", "$T^running\n*running,thread-id=\"all\"\n", "1^running\n*running,thread-id=\"all\"\n"},
		{"has stopped", "*stopped\n$T^error,msg=\"x\"\n", "*stopped\n1^error,msg=\"x\"\n"},
		{"runs after the answer", "$T^done\n*running,thread-id=\"all\"\n", "*running,thread-id=\"all\"\n1^done\n"},
	} {
		for _, size := range []int{1, 1 << 20} {
			f := &filter{nonce: "12345678"}
			f.command([]byte(`1-interpreter-exec console "x"`))
			in := []byte(strings.ReplaceAll(c.in, "$T", f.nonce+"1"))
			for piece := range slices.Chunk(in, size) {
				f.write(piece)
			}
			got, want := string(f.out), c.want
			if size == 1 { // how much is joined depends on the pieces
				join := strings.NewReplacer("\"\n~\"", "")
				got, want = join.Replace(got), join.Replace(want)
			}
			if got != want {
				t.Errorf("%s in pieces of %d: %q, want %q", c.name, size, got, want)
			}
		}
	}
	// GDB dies before its prompt.
	f := &filter{nonce: "12345678"}
	f.command([]byte(`1-interpreter-exec console "x"`))
	f.write([]byte("123456781^done\n"))
	f.end("killed")
	if want := "1^done\n=" + classGone + ",reason=\"killed\"\n"; string(f.out) != want {
		t.Errorf("at GDB's end: %q, want %q", f.out, want)
	}
}

// Whatever a program prints and however GDB's writes are cut, the text arrives.
func TestFilterText(t *testing.T) {
	l := newLibrary(t)
	rapid.Check(t, func(rt *rapid.T) {
		want := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "text")
		if n := rapid.IntRange(0, 400).Draw(rt, "times"); n > 300 {
			want = bytes.Repeat(append(want, 0xc3, 0xa9), n)
		}
		in := fmt.Sprintf("~\"%s\"\n$T^done,v=\"%s\"\n", printchar(want), printchar(want[:min(len(want), 500)]))
		answer, rest := l.feed(t, []byte(in), rapid.IntRange(1, 50).Draw(rt, "pieces"))
		if got := text(rest, "console"); got != string(want) {
			rt.Fatalf("%q came as %q", want, got)
		}
		if utf8.Valid(want) {
			for _, m := range rest {
				if s, _ := m["payload"].(string); !utf8.ValidString(s) {
					rt.Fatalf("a rune was cut: %q", s)
				}
			}
		}
		if answer["class"] != "done" {
			rt.Fatalf("answer %v", answer)
		}
	})
}

// Nothing that GDB writes makes the library panic or hang.
func FuzzFilter(f *testing.F) {
	l := newLibrary(f)
	for _, s := range []string{
		"", "$T^done\n", "a$T^done,a=\"x\"\n", "~\"\\303\\251\"\n", "*stopped,reason=\"x\",frame={a=[]}\n",
		"=dbgsh-sync\n", "^done\n", "1^done\n", "a~\"x\"\n", "+download,{a=\"b\"}\n", "\xff\x00\r\n", "$T^error,msg=\"\\\"\"\n$T^done\n",
		"=x,a=[b=\"1\",c={d=\"2\"}]\n", "~\"" + strings.Repeat("x", 5000) + "\"\n", "&\"\n",
	} {
		f.Add([]byte(s), 1)
		f.Add([]byte(s), 1000)
	}
	f.Fuzz(func(t *testing.T, data []byte, pieces int) {
		answer, _ := l.feed(t, data, pieces)
		if answer["class"] == nil {
			t.Fatalf("answer %v", answer)
		}
	})
}
