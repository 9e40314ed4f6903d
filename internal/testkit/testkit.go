// Package testkit is what the tests of every package need of the machine they
// run on: tools, compilers, processes, terminals, and a way to wait for them. It
// imports nothing of the project, so that every package's tests can use it.
package testkit

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Patience bounds every wait of a test; a test that passes waits for far less.
const Patience = 2 * time.Minute

// Need skips the test where a tool is missing; see Missing.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			Missing(t, "%v", err)
		}
	}
}

// Missing skips the test for want of something that somebody's machine may be
// without; under make test, which installs everything, that fails it.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("DBGSH_TEST_REQUIRE") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Testdata is the path of a file of the project's testdata/.
func Testdata(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd() // the package's, below the module's
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "testdata", name)
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
}

// BuildC builds testdata/NAME.c for the time of the test, with what GDB wants to
// know of it.
func BuildC(t testing.TB, name string, flags ...string) string {
	t.Helper()
	return Build(t, "gcc", Testdata(t, name+".c"), flags...)
}

// Build is BuildC of any source file, with any compiler.
func Build(t testing.TB, compiler, source string, flags ...string) string {
	t.Helper()
	return buildIn(t, t.TempDir(), compiler, source, flags)
}

// BuildText is Build of a text, with the name that its file is to have.
func BuildText(t testing.TB, compiler, name, text string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, name)
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return buildIn(t, dir, compiler, source, flags)
}

func buildIn(t testing.TB, dir, compiler, source string, flags []string) string {
	t.Helper()
	Need(t, compiler)
	name := filepath.Base(source)
	out := filepath.Join(dir, name[:len(name)-len(filepath.Ext(name))])
	if err := Compile(out, compiler, source, flags...); err != nil {
		t.Fatal(err)
	}
	return out
}

// Compile is Build where there is no test yet.
func Compile(out, compiler, source string, flags ...string) error {
	// Flags come last: a later one wins, and libraries follow what needs them.
	cmd := exec.Command(compiler, append([]string{"-g", "-O0", "-o", out, source}, flags...)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd, err, text)
	}
	return nil
}

// Buffer is a bytes.Buffer for several goroutines.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// WaitFor waits until ok, of which nobody tells when it becomes so.
func WaitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
