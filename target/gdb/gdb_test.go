package gdb_test

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/internal/testkit/testgdb"
	"dbgsh/target/gdb"
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
	for _, expr := range []string{"libc", "[heap]", "st", "d", "f", "1.5", "nosuch", "libc-2.31.so", "", "(", "*", "int"} {
		v, _, err := d.Evaluate(d.Ctx, expr)
		var noValue *gdb.ValueError
		if !errors.As(err, &noValue) {
			t.Errorf("%q: got %#x, %v", expr, v, err)
		}
	}
	d.Lines("set output-radix 16")
	for expr, want := range map[string]uint64{"neg": 1<<64 - 3, "big": 1<<64 - 1, "0xb0010": 0xb0010} {
		if v, neg, err := d.Evaluate(d.Ctx, expr); err != nil || v != want || neg != (expr == "neg") {
			t.Errorf("in radix 16 %s: got %#x, %v, %v", expr, v, neg, err)
		}
	}
	if v, _, err := d.Evaluate(d.Ctx, "$st0"); err == nil {
		t.Errorf("$st0 is %#x", v)
	}
	// What has an effect has it once.
	effects := []string{"++called"}
	if testkit.CanCall(t, "gdb") {
		effects = append(effects, "side()")
	}
	for i, expr := range effects {
		want := uint64(i + 1)
		if v, _, err := d.Evaluate(d.Ctx, expr); err != nil || v != want {
			t.Errorf("%s: %d, %v, want %d", expr, v, err, want)
		}
		if v, _, err := d.Evaluate(d.Ctx, "called"); err != nil || v != want {
			t.Errorf("after %s called is %d, %v, want %d", expr, v, err, want)
		}
	}
}

// A GDB that cannot write registers says what helps.
func TestCallsOnAMX(t *testing.T) {
	d := start(t, gdb.Config{GDB: testkit.GDBWithoutCalls(t), Program: testkit.BuildText(t, "gcc", "one.c",
		"int one(void) { return 1; }\nint main(void) { return one() - 1; }\n")})
	d.Lines("break main", "run")
	const want = "Couldn't write extended state status: Bad address. GDB before 14 cannot write the registers of a CPU with AMX; GDB 14 or newer can."
	if err := d.Console(d.Ctx, "print one()", io.Discard); err == nil || err.Error() != want {
		t.Errorf("a line: %v", err)
	}
	if _, _, err := d.Evaluate(d.Ctx, "one()"); err == nil || err.Error() != "one(): "+want {
		t.Errorf("an expression: %v", err)
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
