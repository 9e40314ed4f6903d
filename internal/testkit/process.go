package testkit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Program is a program that runs, until the test ends at most.
type Program struct {
	*exec.Cmd
	Stdin  io.WriteCloser // nil where the command has a Stdin of its own
	Stdout *bufio.Reader  // what comes after the line that it was ready with
}

// Start starts a program and waits for the line, without its end, that says
// that it is ready.
func Start(t testing.TB, cmd *exec.Cmd, ready func(line string) bool) *Program {
	t.Helper()
	var errs Buffer
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, cmd)
	p.Stdout = bufio.NewReader(out)
	if err := await(p.Stdout, cmd, ready); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, errs.String())
	}
	return p
}

// FirstLine is ready with whatever it says first.
func FirstLine(string) bool { return true }

// End waits for the program's end and returns what it wrote until then.
func (p *Program) End(t testing.TB) string {
	t.Helper()
	late := time.AfterFunc(Patience, func() { _ = p.Process.Kill() })
	rest, _ := io.ReadAll(p.Stdout) // it ends with the program
	_ = p.Wait()                    // ProcessState tells
	if !late.Stop() {
		t.Fatalf("%v does not end; it wrote %q", p.Cmd, rest)
	}
	return string(rest)
}

// HearSignals makes of the Ctrl-C and the hang-up that are ignored because the
// test was started so (nohup, a script's &) what they are by default, for the
// programs that tests start. It is for TestMain.
func HearSignals() {
	for _, sig := range []os.Signal{unix.SIGINT, unix.SIGHUP} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig) // a handler is no disposition to inherit
		}
	}
}

func start(t testing.TB, cmd *exec.Cmd) *Program {
	t.Helper()
	p := &Program{Cmd: cmd}
	if cmd.Stdin == nil {
		var err error
		if p.Stdin, err = cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
	})
	return p
}

// await reads lines up to the one that ready is true of.
func await(r *bufio.Reader, cmd *exec.Cmd, ready func(line string) bool) error {
	late := time.AfterFunc(Patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("not ready: %w after %q", err, line)
		}
		if ready(strings.TrimRight(line, "\r\n")) {
			return nil
		}
	}
}

// GDBServer starts gdbserver and returns where it listens, for one connection.
func GDBServer(t testing.TB, args ...string) (addr string, server *Program) {
	t.Helper()
	Need(t, "gdbserver")
	cmd := exec.Command("gdbserver", append([]string{"--once", "127.0.0.1:0"}, args...)...)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	server = start(t, cmd)
	lines := bufio.NewReader(out)
	if err := await(lines, cmd, func(line string) bool {
		_, port, found := strings.Cut(line, "Listening on port ")
		addr = "127.0.0.1:" + port
		return found
	}); err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }() // so that it never waits for a reader
	return addr, server
}

// QEMU starts a machine that waits for GDB at addr, a unix socket's path or ""
// for a port of the loopback, and returns where it listens. With -S it stands at
// its first instruction.
func QEMU(t testing.TB, qemu, addr string, args ...string) string {
	t.Helper()
	return StartQEMU(t, qemu, addr, args...).Addr
}

// Emulator is a QEMU that runs.
type Emulator struct {
	*Program
	Addr string // where it waits for GDB

	answers chan string // lines of QMP's that answer a command
}

// StartQEMU starts a machine as QEMU does.
func StartQEMU(t testing.TB, qemu, addr string, args ...string) *Emulator {
	t.Helper()
	Need(t, qemu)
	cmd := exec.Command(qemu)
	var said Buffer
	cmd.Stderr = &said
	gdb := "path=" + addr
	if addr == "" {
		// QEMU inherits the socket: a port that is given by number may be
		// another's by then. A unix socket is QEMU's own, for SO_PEERCRED tells
		// who began to listen (unix(7)).
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = []*os.File{f}
		// nodelay is part of what -gdb tcp: means: without it packets wait 40 ms
		// for an acknowledgement.
		addr, gdb = l.Addr().String(), "fd=3,nodelay=on" // the first of ExtraFiles
	}
	cmd.Args = append([]string{qemu, "-name", addr, "-accel", "tcg", "-display", "none", "-nic", "none", "-monitor", "none", "-qmp", "stdio",
		"-chardev", "socket,id=gdb,server=on,wait=off," + gdb, "-gdb", "chardev:gdb"}, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e := &Emulator{Program: start(t, cmd), Addr: addr, answers: make(chan string, 1)}
	t.Cleanup(func() {
		if t.Failed() && said.String() != "" {
			t.Logf("%s: %s", qemu, said.String())
		}
	})
	go func() {
		defer close(e.answers)
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			if strings.HasPrefix(line, `{"return"`) || strings.HasPrefix(line, `{"error"`) { // else an event
				e.answers <- line
			}
		}
	}()
	// The answer comes from the main loop, which serves GDB, too.
	e.QMP(t, `{"execute": "qmp_capabilities"}`)
	return e
}

// QMP has QEMU execute a command of its machine protocol, and returns the line
// that answers it.
func (e *Emulator) QMP(t testing.TB, command string) string {
	t.Helper()
	_, _ = io.WriteString(e.Stdin, command+"\n") // where QEMU has ended, nothing answers
	select {
	case line, ok := <-e.answers:
		if ok && strings.HasPrefix(line, `{"return"`) {
			return line
		}
		t.Fatalf("%s: %s: %q", e.Path, command, line)
	case <-time.After(Patience):
		t.Fatalf("%s: %s: no answer", e.Path, command)
	}
	return ""
}

// Monitor has QEMU's monitor execute a line, and returns what it prints.
func (e *Emulator) Monitor(t testing.TB, line string) string {
	t.Helper()
	quoted, err := json.Marshal(line)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Return string }
	said := e.QMP(t, fmt.Sprintf(`{"execute": "human-monitor-command", "arguments": {"command-line": %s}}`, quoted))
	if err := json.Unmarshal([]byte(said), &answer); err != nil {
		t.Fatalf("%q: %v", said, err)
	}
	return answer.Return
}

// CorePattern is what the kernel's core files match in the directory of the
// process that they are of (core(5)).
func CorePattern(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		Missing(t, "%v", err)
	}
	pattern := strings.TrimSpace(string(b))
	if pattern == "" || strings.ContainsAny(pattern, "|/@") {
		Missing(t, "core_pattern %q puts core files elsewhere", pattern)
	}
	name, _, _ := strings.Cut(pattern, "%")
	return name + "*"
}

// Abort ends the program with SIGABRT, and is the path of the core file that the
// pattern finds in its directory.
func (p *Program) Abort(t testing.TB, pattern string) string {
	t.Helper()
	most := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Prlimit(p.Process.Pid, unix.RLIMIT_CORE, &most, nil) // where it may not be raised it may do
	if err := p.Process.Signal(unix.SIGABRT); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	cores, _ := filepath.Glob(filepath.Join(p.Dir, pattern))
	if len(cores) == 0 {
		Missing(t, "no core file: %v", p.ProcessState)
	}
	return cores[0]
}

// State is the state letter of a process (proc_pid_stat(5)), "" where there is
// none.
func State(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')'):]), " ")
	return rest[:1]
}

// Alive tells whether pid is a process that has not ended.
func Alive(pid int) bool {
	switch State(pid) {
	case "", "Z", "X":
		return false
	}
	return true
}

// WaitGone waits until a process has ended.
func WaitGone(t testing.TB, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for end := time.Now().Add(Patience); ; {
		n, err := unix.Poll(fds, int(time.Until(end).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			t.Fatal(err)
		case n == 0:
			t.Fatalf("process %d lives on, in state %s", pid, State(pid))
		default:
			return
		}
	}
}
