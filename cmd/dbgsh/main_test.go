package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"dbgsh/internal/testkit"
	"dbgsh/target/mi"
)

// The test's executable is dbgsh where it is called by that name, and the
// relay where dbgsh starts it as one.
func TestMain(m *testing.M) {
	if mi.IsRelay() {
		os.Exit(mi.RelayMain())
	}
	testscript.Main(withPrograms{m}, map[string]func(){"dbgsh": main})
}

// programsVar names the folder with the debuggees, for tests and scripts.
const programsVar = "PROGRAMS"

// withPrograms builds the debuggees before the tests and removes them after.
type withPrograms struct{ m *testing.M }

func (w withPrograms) Run() int {
	testkit.HearSignals()
	dir, err := os.MkdirTemp("", "dbgsh-programs-")
	if err == nil {
		defer os.RemoveAll(dir)
		os.Setenv(programsVar, dir)
		for _, source := range []string{
			"testdata/inferior.c", "testdata/places.cc", "../../testdata/tour.c", "../../testdata/oddmaps.c",
		} {
			if err = compile(source, filepath.Join(dir, nameOf(source))); err != nil {
				break
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return w.m.Run()
}

func nameOf(source string) string {
	return strings.TrimSuffix(filepath.Base(source), filepath.Ext(source))
}

func compilerOf(source string) string {
	if filepath.Ext(source) == ".cc" {
		return "g++"
	}
	return "gcc"
}

// compile builds a debuggee with what GDB wants to know of it. Without a
// compiler nothing is built.
func compile(source, path string) error {
	compiler := compilerOf(source)
	if _, err := exec.LookPath(compiler); err != nil {
		return nil
	}
	var flags []string
	if nameOf(source) == "inferior" {
		flags = append(flags, "-static") // GDB has less to read when it attaches
	}
	return testkit.Compile(path, compiler, source, flags...)
}

// program is a debuggee that was built of the source file.
func program(t testing.TB, source string) string {
	t.Helper()
	testkit.Need(t, compilerOf(source))
	return filepath.Join(os.Getenv(programsVar), nameOf(source))
}

// homeEnv is the environment of a user whose home is dir, which holds
// nothing of the real one's.
func homeEnv(dir string) []string {
	return []string{
		"HOME=" + dir,
		"XDG_CONFIG_HOME=" + filepath.Join(dir, "config"),
		"XDG_STATE_HOME=" + filepath.Join(dir, "state"),
		"TMPDIR=" + filepath.Join(dir, "tmp"),
		"LC_ALL=C.UTF-8", "TERM=xterm-256color", "SHELL=/bin/sh", "NO_COLOR=", "PAGER=", "DEBUGINFOD_URLS=",
		"GORACE=atexit_sleep_ms=0", // else it sleeps for a second at the end of each dbgsh
	}
}

// makeHome makes the folders of homeEnv.
func makeHome(dir string) error {
	for _, sub := range []string{"config/dbgsh", "state", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// dbgsh is the program, not started yet, with a home of its own.
func dbgsh(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	testkit.Need(t, "gdb")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := makeHome(home); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Args = append([]string{"dbgsh"}, args...)
	cmd.Env = append(os.Environ(), homeEnv(home)...)
	return cmd
}
