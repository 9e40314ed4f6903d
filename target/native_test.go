package target

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dbgsh/vm"
)

// mapLines is a map as /proc/PID/maps writes it, without devices and inodes.
func mapLines(m *vm.Map) []string {
	var lines []string
	for i := range m.Mappings {
		mp := &m.Mappings[i]
		lines = append(lines, fmt.Sprintf("%08x-%08x %v %08x %s", mp.Start, mp.Start+mp.Size, mp.Perm, mp.Offset, mp.Name))
	}
	return lines
}

// kernelLines is /proc/PID/maps in the form of mapLines.
func kernelLines(t testing.TB, pid int) []string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for l := range strings.SplitSeq(strings.TrimSuffix(string(text), "\n"), "\n") {
		f := strings.SplitN(l, " ", 6)
		name := ""
		if len(f) == 6 {
			name = strings.TrimLeft(f[5], " ")
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %s", f[0], f[1], f[2], name))
	}
	return lines
}

func sameMap(t testing.TB, m *vm.Map, pid int) {
	t.Helper()
	got, want := mapLines(m), kernelLines(t, pid)
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("line %d: got %q, want %q", i+1, g, w)
		}
	}
}

func (d *debuggee) pid() int {
	d.t.Helper()
	inf, err := d.inferior(d.ctx)
	if err != nil || inf.pid == 0 {
		d.t.Fatalf("no inferior: %+v, %v", inf, err)
	}
	return inf.pid
}

func (d *debuggee) sameMap() {
	d.t.Helper()
	m, err := d.Map(d.ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	sameMap(d.t, m, d.pid())
}

func TestMapOfOddMappings(t *testing.T) {
	d := start(t, compile(t, "oddmaps"), t.TempDir())
	d.gdbLines("break ready", "run")
	d.sameMap()
	if n := len(kernelLines(t, d.pid())); n < 35 {
		t.Errorf("only %d mappings", n)
	}
}

func TestMapAfterCall(t *testing.T) {
	d := start(t, compile(t, "tour"))
	if _, err := d.Map(d.ctx); !errors.Is(err, vm.ErrNoProcess) {
		t.Fatalf("before run: %v", err)
	}
	d.gdbLines("break checkpoint", "run")
	d.sameMap()
	before := len(kernelLines(t, d.pid()))
	d.gdbLines("call (void *) mmap(0, 4096, 1, 0x22, -1, 0)", "call (void *) mmap(0x10000, 4096, 3, 0x22, -1, 0)")
	d.sameMap()
	if after := len(kernelLines(t, d.pid())); after <= before {
		t.Errorf("%d mappings, then %d", before, after)
	}
	d.gdbLines("delete", "continue")
	if _, err := d.Map(d.ctx); !errors.Is(err, vm.ErrNoProcess) {
		t.Fatalf("after the end: %v", err)
	}
	if got, want := d.out.String(), "counter is 4922\n"; got != want {
		t.Errorf("the inferior wrote %q, want %q", got, want)
	}
}

func TestMapOfAttached(t *testing.T) {
	for _, program := range []string{"python3", "node"} {
		t.Run(program, func(t *testing.T) {
			need(t, program)
			code := map[string][]string{
				"python3": {"-c", "import sys; print('up', flush=True); sys.stdin.read()"},
				"node":    {"-e", "console.log('up'); process.stdin.resume()"},
			}
			cmd := exec.Command(program, code[program]...)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				stdin.Close()
				if err := cmd.Wait(); err != nil {
					t.Errorf("%s did not live on: %v", program, err)
				}
			})
			if _, err := io.ReadFull(stdout, make([]byte, 3)); err != nil {
				t.Fatal(err)
			}
			d := start(t, "")
			d.gdbLines("attach " + strconv.Itoa(cmd.Process.Pid))
			d.sameMap()
			if d.Started() {
				t.Error("an attached process counts as started")
			}
		})
	}
}

// TestMapOfLeaderless reads the map of a process whose first thread has ended.
func TestMapOfLeaderless(t *testing.T) {
	src := filepath.Join(t.TempDir(), "leaderless.c")
	text := `#include <pthread.h>
#include <unistd.h>
#include <stdio.h>
void ready(void) { }
static void *other(void *p) { sleep(1); ready(); return p; }
int main(void) { pthread_t t; pthread_create(&t, 0, other, 0); pthread_exit(0); }
`
	if err := os.WriteFile(src, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	need(t, "gcc")
	prog := strings.TrimSuffix(src, ".c")
	if out, err := exec.Command("gcc", "-g", "-pthread", "-o", prog, src).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	d := start(t, prog)
	d.gdbLines("break ready", "run")
	pid := d.pid()
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid)); err != nil || len(text) > 0 {
		t.Skipf("the first thread still has its memory: %d bytes, %v", len(text), err)
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	m, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil && tid != pid {
			sameMap(t, m, tid)
		}
	}
}

func TestEvaluate(t *testing.T) {
	src := filepath.Join(t.TempDir(), "values.c")
	text := `#include <stdio.h>
int arr[4]; char text[16] = "abc"; char *msg = "hi"; short neg = -3; signed char c = -1;
unsigned long big = -1UL; enum e { RED, GREEN } col = GREEN; _Bool yes = 1; double d = 1.5; float f = 2;
struct s { int a; long b; } st, *sp = &st; void (*fp)(void); int (*table[2])(void); int takes(int (*f)(int (*)[4])) { return f == 0; }
int called; int side(void) { return ++called; }
int main(void) { puts(msg); return side() - 1; }
`
	if err := os.WriteFile(src, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	need(t, "gcc")
	prog := strings.TrimSuffix(src, ".c")
	if out, err := exec.Command("gcc", "-g", "-O0", "-o", prog, src).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	d := start(t, prog)
	d.gdbLines("break main", "run")
	// address asks GDB in another way than Evaluate does.
	address := func(symbol string) uint64 {
		f := strings.Fields(d.gdbLines("info address " + symbol))
		for _, w := range f {
			if v, err := strconv.ParseUint(strings.TrimSuffix(w, "."), 0, 64); err == nil && strings.HasPrefix(w, "0x") {
				return v
			}
		}
		t.Fatalf("no address of %s: %v", symbol, f)
		return 0
	}
	for _, c := range []struct {
		expr     string
		want     uint64
		negative bool
	}{
		{"0x10", 0x10, false}, {"42", 42, false}, {"-1", 1<<64 - 1, true}, {"2+2", 4, false},
		{"0xffffffffffffffff", 1<<64 - 1, false}, {"big", 1<<64 - 1, false},
		{"arr", address("arr"), false}, {"&arr[1]", address("arr") + 4, false}, {"text", address("text"), false},
		{"main", address("main"), false}, {"&st", address("st"), false}, {"sp", address("st"), false},
		{"st.a", 0, false}, {"&st.b", address("st") + 8, false}, {"table", address("table"), false},
		{"&arr", address("arr"), false}, {"&text", address("text"), false}, {"&main", address("main"), false},
		{"&table", address("table"), false}, {"takes", address("takes"), false},
		{"neg", 1<<64 - 3, true}, {"c", 1<<64 - 1, true}, {"col", 1, false}, {"RED", 0, false}, {"yes", 1, false},
		{"fp", 0, false}, {"'values.c'::neg", 1<<64 - 3, true}, {"$_exitcode == 5 ? 1 : 0", 0, false},
	} {
		if strings.HasPrefix(c.expr, "$_exit") {
			continue // void until something has exited
		}
		v, neg, err := d.Evaluate(d.ctx, c.expr)
		if err != nil || v != c.want || neg != c.negative {
			t.Errorf("%s: got %#x, %v, %v, want %#x, %v", c.expr, v, neg, err, c.want, c.negative)
		}
	}
	sp, _, err := d.Evaluate(d.ctx, "$sp+8")
	if err != nil || !strings.Contains(d.gdbLines("info registers rsp"), fmt.Sprintf("%#x", sp-8)) {
		t.Errorf("$sp+8: %#x, %v", sp, err)
	}
	if _, _, err := d.Evaluate(d.ctx, "$eflags"); err != nil {
		t.Errorf("$eflags: %v", err)
	}
	if v, _, err := d.Evaluate(d.ctx, "malloc"); err != nil || v != address("malloc") && v == 0 {
		t.Errorf("malloc: %#x, %v", v, err)
	}
	for _, expr := range []string{"libc", "[heap]", "st", "d", "f", "1.5", "nosuch", "libc-2.31.so", "", "(", "*", "int"} {
		v, _, err := d.Evaluate(d.ctx, expr)
		var noValue *ValueError
		if !errors.As(err, &noValue) {
			t.Errorf("%q: got %#x, %v", expr, v, err)
		}
	}
	d.gdbLines("set output-radix 16")
	for expr, want := range map[string]uint64{"neg": 1<<64 - 3, "big": 1<<64 - 1, "0xb0010": 0xb0010} {
		if v, neg, err := d.Evaluate(d.ctx, expr); err != nil || v != want || neg != (expr == "neg") {
			t.Errorf("in radix 16 %s: got %#x, %v, %v", expr, v, neg, err)
		}
	}
	if v, _, err := d.Evaluate(d.ctx, "$st0"); err == nil {
		t.Errorf("$st0 is %#x", v)
	}
	if v, _, err := d.Evaluate(d.ctx, "side()"); err != nil || v != 1 {
		t.Errorf("side(): %d, %v", v, err)
	}
	if v, _, err := d.Evaluate(d.ctx, "called"); err != nil || v != 1 {
		t.Errorf("side ran %d times, want once: %v", v, err)
	}
}

func FuzzClassify(f *testing.F) {
	for _, s := range []string{"type = int\n", "type = struct {\n    int a;\n} *\n", "type = char [16]\n", "type = <data variable, no debug info>\n"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) { classify(s) })
}

func FuzzParseValue(f *testing.F) {
	for _, s := range []string{"-5", "65 'A'", "(char *) 0x0", "{int (void)} 0x1139 <main>", "@0x7ffc: 3", "(", "{{"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) { parseValue(s) })
}

func TestArch(t *testing.T) {
	d := start(t, compile(t, "tour"))
	ptr, order, err := d.Arch(d.ctx)
	if err != nil || ptr != 8 || order != binary.LittleEndian {
		t.Errorf("got %d, %v, %v", ptr, order, err)
	}
	empty := start(t, "")
	supposed := strings.TrimSpace(empty.gdbLines("output sizeof(void *)"))
	if ptr, order, err = empty.Arch(empty.ctx); err != nil || strconv.Itoa(ptr) != supposed || order != binary.LittleEndian {
		t.Errorf("without a program: got %d, %v, %v; GDB supposes %s", ptr, order, err, supposed)
	}
}

func TestArgsAndInput(t *testing.T) {
	src := filepath.Join(t.TempDir(), "echo.c")
	text := `#include <stdio.h>
int main(int n, char **v) { for (int i = 1; i < n; i++) printf("<%s>", v[i]);
	int c; unsigned long sum = 0, len = 0; while ((c = getchar()) != EOF) { len++; sum = sum * 31 + c; }
	printf(" %lu %lu\n", len, sum); return 0; }
`
	if err := os.WriteFile(src, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	need(t, "gcc")
	prog := strings.TrimSuffix(src, ".c")
	if out, err := exec.Command("gcc", "-o", prog, src).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	args := []string{"plain", "two words", "it's", `"q" $HOME \n`, "é", "*", ""}
	d := start(t, prog, args...)
	var input []byte
	for i := range 3000 {
		input = append(input, byte(i), byte(i>>8), 'x')
	}
	var sum, n uint64
	for _, c := range input {
		sum, n = sum*31+uint64(c), n+1
	}
	typed := make(chan error, 1)
	go func() {
		_, err := d.Keyboard(d.ctx, input)
		typed <- errors.Join(err, d.KeyboardEOF(d.ctx))
	}()
	d.gdbLines("run")
	if err := <-typed; err != nil {
		t.Error(err)
	}
	want := ""
	for _, a := range args {
		want += "<" + a + ">"
	}
	want += fmt.Sprintf(" %d %d\n", n, sum)
	if got := d.out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// waitGone waits until a process has ended.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it is gone already
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	if err != nil || n == 0 {
		t.Fatalf("process %d lives on: %v", pid, err)
	}
}

func TestGDBDies(t *testing.T) {
	d := start(t, compile(t, "tour"))
	d.gdbLines("break checkpoint", "run")
	pid := d.pid()
	d.Kill()
	err := d.Console(d.ctx, "print 1", io.Discard)
	var gone *LostError
	if !errors.As(err, &gone) {
		t.Fatalf("got %v", err)
	}
	// The process that GDB had started dies with it.
	waitGone(t, pid)
	// The next run brings a new GDB, with the same program.
	d.gdbLines("run")
	if _, err := d.Map(d.ctx); !errors.Is(err, vm.ErrNoProcess) {
		t.Errorf("after a run without breakpoints: %v", err)
	}
}

func TestContinueIsCancelled(t *testing.T) {
	src := filepath.Join(t.TempDir(), "spin.c")
	if err := os.WriteFile(src, []byte("#include <unistd.h>\nint main(void) { puts0(); for (;;) pause(); }\nint puts0(void) { write(1, \"up\\n\", 3); return 0; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	need(t, "gcc")
	prog := strings.TrimSuffix(src, ".c")
	if out, err := exec.Command("gcc", "-w", "-o", prog, src).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	d := start(t, prog)
	ctx, cancel := context.WithCancel(d.ctx)
	go func() {
		for running, changed := d.Running(); !running; running, changed = d.Running() {
			<-changed
		}
		cancel()
	}()
	var b bytes.Buffer
	if err := d.Console(ctx, "run", &b); err != nil || !strings.Contains(b.String(), "SIGINT") {
		t.Errorf("got %v\n%s", err, b.String())
	}
	if running, _ := d.Running(); running {
		t.Error("still running")
	}
	d.sameMap()
	if !d.Started() {
		t.Error("the process counts as not started")
	}
}
