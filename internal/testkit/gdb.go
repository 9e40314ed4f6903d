package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// CanCall tells whether this GDB can call a function of a program on this
// machine, which plain GDB is asked: before 14 it cannot write registers back on
// a CPU with AMX. What needs that is then left out, for no tool is missing; the
// log says so, in the form that make test shows.
func CanCall(t testing.TB, gdb string) bool {
	t.Helper()
	can := canCall(t, gdb)
	if !can {
		t.Logf("left out: calls from GDB, since %s cannot write registers back on this CPU", gdb)
	}
	return can
}

func canCall(t testing.TB, gdb string) bool {
	t.Helper()
	Need(t, gdb)
	prog := BuildText(t, "gcc", "call.c", "int one(void) { return 1; }\nint main(void) { return one() - 1; }\n")
	text, err := exec.Command(gdb, "-nx", "-batch", "-ex", "break main", "-ex", "run", "-ex", "print one() + 41", prog).CombinedOutput()
	switch {
	case strings.Contains(string(text), "\n$1 = 42\n"):
		return true
	case strings.Contains(string(text), "Couldn't write extended state status"):
		return false
	}
	t.Fatalf("a call from plain %s: %v\n%s", gdb, err, text)
	return false
}

// GDBWithoutCalls is a GDB that fares like one before 14 on a CPU with AMX.
func GDBWithoutCalls(t testing.TB) (path string) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		Missing(t, "there is AMX on x86-64 alone")
	}
	Need(t, "gdb")
	preload := BuildC(t, "noxstate", "-shared", "-fPIC")
	path = filepath.Join(filepath.Dir(preload), "gdb")
	if err := os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\nLD_PRELOAD=%s exec gdb \"$@\"\n", preload), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}
