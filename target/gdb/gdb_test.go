package gdb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/internal/testkit/testgdb"
	"dbgsh/target/gdb"
	"dbgsh/vm"
)

func TestMain(m *testing.M) { testgdb.Main(m) }

// start starts a GDB.
func start(t testing.TB, cfg gdb.Config) *testgdb.GDB {
	t.Helper()
	return testgdb.Start(t, time.Minute, cfg)
}

func TestEvaluate(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "values.c", `#include <stdio.h>
int arr[4]; char text[16] = "abc"; char *msg = "hi"; short neg = -3; signed char c = -1;
unsigned long big = -1UL; enum e { RED, GREEN } col = GREEN; _Bool yes = 1; double d = 1.5; float f = 2;
struct s { int a; long b; } st, *sp = &st; void (*fp)(void); int (*table[2])(void); int takes(int (*f)(int (*)[4])) { return f == 0; }
int called; int side(void) { return ++called; }
int main(void) { puts(msg); return side() - 1; }
`)
	d := start(t, gdb.Config{GDB: "gdb", Program: prog})
	d.Lines("break main", "run")
	// address asks GDB in another way than Evaluate does.
	address := func(symbol string) uint64 {
		f := strings.Fields(d.Lines("info address " + symbol))
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
		{"fp", 0, false}, {"'values.c'::neg", 1<<64 - 3, true}, {"called == 5 ? 2 : 0", 0, false},
	} {
		v, neg, err := d.Evaluate(d.Ctx, c.expr)
		if err != nil || v != c.want || neg != c.negative {
			t.Errorf("%s: got %#x, %v, %v, want %#x, %v", c.expr, v, neg, err, c.want, c.negative)
		}
	}
	sp, _, err := d.Evaluate(d.Ctx, "$sp+8")
	if err != nil || !strings.Contains(d.Lines("info registers rsp"), fmt.Sprintf("%#x", sp-8)) {
		t.Errorf("$sp+8: %#x, %v", sp, err)
	}
	if _, _, err := d.Evaluate(d.Ctx, "$eflags"); err != nil {
		t.Errorf("$eflags: %v", err)
	}
	if v, _, err := d.Evaluate(d.Ctx, "malloc"); err != nil || v != address("malloc") {
		t.Errorf("malloc: %#x, %v", v, err)
	}
	for expr, want := range map[string]gdb.ValueErrorKind{
		"libc": gdb.ValueNoExpression, "[heap]": gdb.ValueNoExpression, "nosuch": gdb.ValueNoExpression, "libc-2.31.so": gdb.ValueNoExpression,
		"": gdb.ValueNoExpression, "(": gdb.ValueNoExpression, "*": gdb.ValueNoExpression, "int": gdb.ValueNoExpression, "struct nosuch": gdb.ValueNoExpression,
		"7fff": gdb.ValueNoExpression, "nosuch=1": gdb.ValueNoExpression, "it's": gdb.ValueNoExpression, "a@b;c": gdb.ValueNoExpression,
		"st": gdb.ValueNoNumber, "d": gdb.ValueNoNumber, "f": gdb.ValueNoNumber, "1.5": gdb.ValueNoNumber, "$st0": gdb.ValueNoNumber, "$nosuch": gdb.ValueNoNumber,
		"(void)0": gdb.ValueNoNumber, "$xmm0": gdb.ValueNoNumber, "0x10000000000000000": gdb.ValueNoNumber,
		"*(long*)0": gdb.ValueFailed, "*(char**)8 + 1": gdb.ValueFailed, "st.nosuch": gdb.ValueFailed, "big/0": gdb.ValueFailed,
	} {
		v, _, err := d.Evaluate(d.Ctx, expr)
		var noValue *gdb.ValueError
		if !errors.As(err, &noValue) || noValue.Kind != want {
			t.Errorf("%q: got %#x, %#v", expr, v, err)
		}
	}
	for _, set := range []string{"output-radix 16", "print symbol off", "print address off", "debug expression 1", "debug target 1", "trace-commands on", "language unknown"} {
		d.Lines("set " + set)
		for expr, want := range map[string]uint64{"neg": 1<<64 - 3, "big": 1<<64 - 1, "0xb0010": 0xb0010, "42": 42, "main": address("main"), "arr": address("arr"), "col": 1} {
			if v, neg, err := d.Evaluate(d.Ctx, expr); err != nil || v != want || neg != (expr == "neg") {
				t.Errorf("with %s %s: got %#x, %v, %v", set, expr, v, neg, err)
			}
		}
	}
	// In these digits mean something else to GDB too.
	d.Lines("set language c", "set input-radix 16")
	if v, _, err := d.Evaluate(d.Ctx, "42"); err != nil || v != 0x42 {
		t.Errorf("42 is %#x, %v", v, err)
	}
}

// TestEvaluateWithoutProcess is what needs a process, where there is none.
func TestEvaluateWithoutProcess(t *testing.T) {
	d := start(t, gdb.Config{})
	if v, _, err := d.Evaluate(d.Ctx, "$sp+8"); !errors.Is(err, vm.ErrNoProcess) {
		t.Errorf("$sp+8 is %#x, %v", v, err)
	}
	if v, _, err := d.Evaluate(d.Ctx, "21*2"); err != nil || v != 42 {
		t.Errorf("21*2 is %#x, %v", v, err)
	}
	d.Kill()
	if v, _, err := d.Evaluate(d.Ctx, "42"); err != nil || v != 42 {
		t.Errorf("without GDB 42 is %#x, %v", v, err)
	}
}

// TestEvaluateChangesNothing is expressions that would change the debuggee, whose
// memory and registers are compared with the kernel's and GDB's word.
func TestEvaluateChangesNothing(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "harm.c", `#include <sys/ptrace.h>
int called, counter = 5, arr[4]; char text[8] = "abc"; struct { int a, b : 3; } st; int *p = arr;
int side(void) { return ++called; } int (*fp)(void) = side;
int main(void) { return side() - 1; }
`)
	d := start(t, gdb.Config{Program: prog})
	d.Lines("break main", "run", "set $mine = 7")
	inf, err := d.Inferior(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	memory := func() []byte {
		var all []byte
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", inf.PID))
		if err != nil {
			t.Fatal(err)
		}
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", inf.PID))
		if err != nil {
			t.Fatal(err)
		}
		defer mem.Close()
		for line := range strings.Lines(string(maps)) {
			var from, to int64
			var perm string
			if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perm); err != nil || !strings.HasPrefix(perm, "rw") {
				continue
			}
			part := make([]byte, to-from)
			if _, err := mem.ReadAt(part, from); err != nil {
				t.Fatal(err)
			}
			all = append(all, part...)
		}
		return append(all, maps...)
	}
	before, registers := memory(), d.Lines("info registers")
	unchanged := func(what string) {
		t.Helper()
		if !bytes.Equal(memory(), before) || d.Lines("info registers") != registers {
			t.Fatalf("%s changed the debuggee", what)
		}
		for _, setting := range []string{"may-call-functions", "may-write-memory"} {
			if text := d.Lines("show " + setting); !strings.Contains(text, " is on.") {
				t.Fatalf("after %s: %s", what, text)
			}
		}
	}
	for _, expr := range []string{
		"side()", "(*fp)()", "side", "&side", "(side(), 1)", "counter=99", "counter = counter + 1", "counter++", "--counter", "counter+=1", "st.a = 1",
		"st.b=1", "arr[1]=2", "*p=3", "p = arr+1", "text[0]='x'", "$rax=5", "$pc++", "$eflags |= 1", "$sp-=8", "$_siginfo.si_signo = 3",
		"\"abc\"", "$mine = 8", "$mine++", "sizeof(counter=5)", "counter == (counter = 6)", "$_siginfo._sifields._kill.si_pid=1",
	} {
		v, _, err := d.Evaluate(d.Ctx, expr)
		var noValue *gdb.ValueError
		if looks := strings.HasSuffix(expr, "side"); looks != (err == nil) || !looks && (!errors.As(err, &noValue) || noValue.Kind != gdb.ValueHarmful) {
			t.Errorf("%s: %#x, %v", expr, v, err)
		}
		unchanged(expr)
	}
	if v, _, err := d.Evaluate(d.Ctx, "$mine"); err != nil || v != 7 {
		t.Errorf("$mine is %d, %v", v, err)
	}
	// What the user allows and forbids stays as it was when it is interrupted, or
	// fails, too.
	d.Lines(`python exec("import gdb\nclass Slow(gdb.Function):\n def invoke(self):\n  print('slow', flush=True)\n  while True: pass\nSlow('slow')")`)
	ctx, cancel := context.WithCancel(d.Ctx)
	timer := time.AfterFunc(100*time.Millisecond, cancel) // at any time: it never ends by itself
	defer timer.Stop()
	if v, _, err := d.Evaluate(ctx, "$slow()"); !errors.Is(err, context.Canceled) {
		t.Errorf("%#x, %v", v, err)
	}
	unchanged("an interrupt")
	d.Lines("set may-call-functions off")
	for _, expr := range []string{"counter", "side()", "*(int*)0"} {
		_, _, _ = d.Evaluate(d.Ctx, expr) // the settings count
		if text := d.Lines("show may-call-functions"); !strings.Contains(text, " is off.") {
			t.Errorf("after %s: %s", expr, text)
		}
	}
}

func TestArgsAndInput(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "echo.c", `#include <stdio.h>
int main(int n, char **v) { for (int i = 1; i < n; i++) printf("<%s>", v[i]);
	int c; unsigned long sum = 0, len = 0; while ((c = getchar()) != EOF) { len++; sum = sum * 31 + c; }
	printf(" %lu %lu\n", len, sum); return 0; }
`)
	args := []string{"plain", "two words", "it's", `"q" $HOME \n`, "é", "*", ""}
	d := start(t, gdb.Config{Program: prog, Args: args})
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
		_, err := d.Keyboard(d.Ctx, input)
		typed <- errors.Join(err, d.KeyboardEOF(d.Ctx))
	}()
	d.Lines("run")
	if err := <-typed; err != nil {
		t.Error(err)
	}
	want := ""
	for _, a := range args {
		want += "<" + a + ">"
	}
	want += fmt.Sprintf(" %d %d\n", n, sum)
	if got := d.Out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
