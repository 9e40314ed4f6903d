// Test runs every test, then each fuzz target briefly, shows what failed, and
// counts. A test that is skipped counts as failed: where this runs, nothing
// that tests need may be missing. So does a process that a test left running.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	// A number of inputs, not a time: what is under way when a time is up can
	// count as failed (https://go.dev/issue/48591).
	fuzzTime := "5000x"
	only := flag.String("fuzz", "", "only fuzz, each target this long")
	flag.Parse()
	// What a test leaves behind becomes a child of this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Println("FAIL prctl:", err)
		os.Exit(1)
	}
	c := &count{failedIn: make(map[string]bool), output: make(map[name][]string)}
	if *only != "" {
		fuzzTime = *only
	} else {
		// The time is for what hangs, not for a machine that is slow.
		c.goTest("-count=1", "-race", "-timeout", "10m", "./...")
	}
	targets := c.fuzzTargets()
	c.fuzzing = true
	for _, target := range targets {
		c.goTest("-run", "^$", "-fuzz", "^"+target.test+"$", "-fuzztime", fuzzTime, target.pkg)
	}
	c.left()
	fmt.Printf("%d passed, %d failed\n", c.passed, c.failed)
	if c.failed > 0 || c.passed == 0 {
		os.Exit(1)
	}
}

// name is a package or, with test, a test in it.
type name struct{ pkg, test string }

// event is a line of test2json's output (go doc test2json), or of a build's
// (go help buildjson).
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// count is what tests came to.
type count struct {
	fuzzing        bool
	passed, failed int
	failedIn       map[string]bool   // packages that had a test that failed
	output         map[name][]string // of what is under way
}

// goTest runs go test and counts.
func (c *count) goTest(args ...string) {
	failed := c.failed
	err := events(func(e event) { c.add(e) }, args...)
	if err != nil && c.failed == failed { // it says nothing of what it could not even begin
		c.failed++
		fmt.Printf("FAIL go test %s: %v\n", strings.Join(args, " "), err)
	}
}

func (c *count) add(e event) {
	n := name{e.Package, e.Test}
	switch e.Action {
	case "output":
		// What a test leaves out for a reason, as testkit.CanCall words it, is no
		// tool that is missing, but nothing to be silent about.
		if _, why, found := strings.Cut(e.Output, ": left out: "); found {
			fmt.Printf("     %-16s %s leaves out %s", e.Package, e.Test, why)
		}
		c.output[n] = append(c.output[n], e.Output)
		return
	case "build-output":
		fmt.Print(e.Output)
		return
	case "pass":
		if e.Test != "" {
			c.passed++
		}
		if (e.Test != "") == c.fuzzing {
			fmt.Printf("ok   %-16s %6.1f s  %s\n", e.Package, e.Elapsed, e.Test)
		}
	case "fail":
		if e.Test != "" || !c.failedIn[e.Package] {
			c.fail("FAIL", n)
		}
	case "skip":
		if e.Test != "" { // else a package without tests
			c.fail("SKIP", n)
		}
	default:
		return
	}
	delete(c.output, n)
}

func (c *count) fail(what string, n name) {
	c.failed++
	c.failedIn[n.pkg] = true
	fmt.Println(what, n.pkg, n.test)
	fmt.Print(strings.Join(c.output[n], ""))
}

// fuzzTargets is every fuzz target of the module.
func (c *count) fuzzTargets() []name {
	var found []name
	err := events(func(e event) {
		if t := strings.TrimSpace(e.Output); e.Action == "output" && strings.HasPrefix(t, "Fuzz") {
			found = append(found, name{e.Package, t})
		}
	}, "-list", "^Fuzz", "./...")
	if err != nil {
		c.failed++
		fmt.Println("FAIL go test -list:", err)
	}
	return found
}

// events runs go test -json and hands over what it says.
func events(do func(event), args ...string) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	// The race detector else keeps every program a second longer at its exit,
	// and tests start hundreds (https://go.dev/doc/articles/race_detector).
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	said := make(chan error, 1)
	go func() { said <- decode(out, do) }()
	status, err := reap(cmd.Process.Pid)
	if err := errors.Join(<-said, err); err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("exit status %d", status)
	}
	return nil
}

func decode(r io.Reader, do func(event)) error {
	d := json.NewDecoder(r)
	for {
		var e event
		switch err := d.Decode(&e); err {
		case nil:
			do(e)
		case io.EOF:
			return nil
		default:
			_, _ = io.Copy(io.Discard, r)
			return err
		}
	}
}

// reap waits for a child, and meanwhile for all that became one: who looks
// whether a process is gone may not find it dead and waited for by nobody.
func reap(child int) (status int, err error) {
	for {
		var ws unix.WaitStatus
		switch pid, err := unix.Wait4(-1, &ws, 0, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case pid == child && ws.Signaled():
			return 0, fmt.Errorf("ended by %v", ws.Signal())
		case pid == child:
			return ws.ExitStatus(), nil
		}
	}
}

// patience is how long what was told to end may take to.
const patience = 10 * time.Second

// left counts the processes that tests left as failed, and ends them.
func (c *count) left() {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
		all := children()
		if len(all) == 0 {
			return
		}
		if time.Now().Before(end) {
			continue
		}
		for _, pid := range all { // whose children are the next
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			dir, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
			c.failed++
			fmt.Printf("LEFT process %d in %s: %q\n", pid, dir, strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"))
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, 0, nil)
		}
	}
}

// children are this process's, but for those that have ended.
func children() (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		var state string
		var parent int
		_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')'):]), " ") // proc_pid_stat(5)
		if _, err := fmt.Sscan(rest, &state, &parent); err != nil || parent != os.Getpid() || state == "Z" {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/stat", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
