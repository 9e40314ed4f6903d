package target

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dbgsh/target/mi"
)

func TestMain(m *testing.M) {
	if mi.IsRelay() {
		os.Exit(mi.RelayMain())
	}
	os.Exit(m.Run())
}

// need skips the test where a tool is missing; under make test that fails it.
func need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("DBGSH_TEST_REQUIRE") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// compile builds a program of testdata.
func compile(t testing.TB, name string, flags ...string) string {
	t.Helper()
	need(t, "gcc")
	out := filepath.Join(t.TempDir(), name)
	args := append([]string{"-g", "-O0", "-o", out, filepath.Join("../testdata", name+".c")}, flags...)
	if text, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, text)
	}
	return out
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// debuggee is a target under test.
type debuggee struct {
	*Target
	t   testing.TB
	ctx context.Context
	out *buffer // what the inferior writes
}

// start starts a GDB on a program, which may be "".
func start(t testing.TB, program string, args ...string) *debuggee {
	t.Helper()
	need(t, "gdb")
	return launch(t, time.Minute, Config{Program: program, Args: args})
}

// launch starts a GDB, for a time at most.
func launch(t testing.TB, most time.Duration, c Config) *debuggee {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), most)
	d := &debuggee{t: t, ctx: ctx, out: &buffer{}}
	c.Inferior, c.Stray = d.out, d.out
	tgt, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tgt.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		cancel()
	})
	d.Target = tgt
	if err := tgt.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := tgt.Load(ctx); err != nil {
		t.Fatal(err)
	}
	return d
}

// gdb runs lines and returns what GDB prints of them.
func (d *debuggee) gdbLines(lines ...string) string {
	d.t.Helper()
	var b bytes.Buffer
	for _, l := range lines {
		if err := d.Console(d.ctx, l, &b); err != nil {
			d.t.Fatalf("%s: %v\n%s", l, err, b.String())
		}
	}
	return b.String()
}
