package mi

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// behind is programs of GDB's, as pidfds: above all those behind its pipes ("target
// remote | gdbserver ..."). GDB closes their pipe and then waits five seconds for the
// end of each (gdb/ser-pipe.c, PIPE_CLOSE_TIMEOUT), longer than it is given here.
// Without GDB nobody ends a gdbserver --multi, which (13) reads on behind the end of
// its input.
type behind []int

// findBehind finds the programs behind the pipes of a GDB: its children in
// sessions of their own that nobody traces. An error is as good as none.
func findBehind(gdb int) behind {
	return find(func(pid, parent, _, session int) bool {
		if gdb <= 0 || parent != gdb || session != pid {
			return false
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		return err == nil && bytes.Contains(status, []byte("\nTracerPid:\t0\n"))
	})
}

// findHelpers finds what a GDB runs in its own process group and waits for: what
// "shell", "make" and "pipe" start.
func findHelpers(gdb int) behind {
	return find(func(pid, _, group, _ int) bool { return gdb > 0 && group == gdb && pid != gdb })
}

// find finds processes by their own id, their parent's, their group's and their
// session's.
func find(is func(pid, parent, group, session int) bool) behind {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well-formed
	var found behind
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// proc_pid_stat(5): behind the name, which is in brackets, stand the
		// state, the parent, the process group and the session.
		f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || len(f) < 4 {
			continue
		}
		var of [3]int // 0 where it is no number: of nobody's
		for i := range of {
			of[i], _ = strconv.Atoi(string(f[1+i]))
		}
		if !is(pid, of[0], of[1], of[2]) {
			continue
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			found = append(found, fd)
		}
	}
	return found
}

// signal sends a signal to all.
func (b behind) signal(sig unix.Signal) {
	for _, fd := range b {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0) // an error means that it has ended
	}
}

// release sends a signal to all, and lets go of them.
func (b behind) release(sig unix.Signal) {
	b.signal(sig)
	for _, fd := range b {
		unix.Close(fd)
	}
}

// end ends all, whose input ends with GDB, and lets go of them. They have a while
// to end by themselves.
func (b behind) end() {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		end := time.Now().Add(termGrace)
		for _, fd := range b {
			if !pollEnd(fd, time.Until(end)) {
				behind{fd}.signal(sig)
			}
		}
	}
	for _, fd := range b {
		unix.Close(fd)
	}
}

// pollEnd tells whether the process of a pidfd ends within d.
func pollEnd(pidfd int, d time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for end := time.Now().Add(d); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(end).Milliseconds())))
		if err != unix.EINTR {
			return n > 0
		}
	}
}
