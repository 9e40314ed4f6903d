package mi

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// RelayArg as the first argument of our executable makes the process the relay
// between the library and GDB. The arguments after it are the paths of pipes, in
// the order of pipeInput and its like, and GDB's command.
const RelayArg = "--dbgsh-mi-relay"

// endGrace is how long a GDB whose client is gone has to end by itself (to kill
// what it started and to detach from what it attached to), and then how long it
// has after SIGTERM, before SIGKILL.
const endGrace = 2 * time.Second

// IsRelay tells whether this process was started as the relay.
func IsRelay() bool {
	return len(os.Args) > 1 && os.Args[1] == RelayArg
}

// relay is the state of the relay process.
type relay struct {
	pid    int    // GDB's
	pidfd  int    // GDB's
	out    [2]int // GDB's standard output and error, to be read when the client is gone
	hungUp bool   // the client is gone
	force  []unix.Signal
	due    time.Time // when the first of force is due
}

// RelayMain runs the relay and returns its exit status. It must be called before
// anything else is done in a process for which IsRelay is true.
//
// The relay starts GDB on pipes of the client's, in a session of its own, so that
// no terminal can interrupt or stop it, with SIGHUP as parent-death signal. It
// hands nothing on: it tells GDB's process id, waits for GDB's end and tells
// that, and ends GDB when the client is gone.
func RelayMain() int {
	// Nothing is done about signals (the client's end is seen in our input), but
	// by a handler and not by SIG_IGN, which GDB would inherit.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	// The parent-death signal comes when the thread ends that made the child.
	runtime.LockOSThread()
	// Fails for a process group leader only, which has left the terminal's group.
	_, _ = unix.Setsid()
	if len(os.Args) < 2+relayPipes+1 {
		fmt.Fprintln(os.Stderr, "relay: no command")
		return 2
	}
	fd, err := openPipe(os.Args[2+pipeTold], unix.O_WRONLY)
	if err != nil {
		return 1 // the client is gone
	}
	tell := os.NewFile(uintptr(fd), "pipe")
	r := &relay{}
	end := ""
	if err := r.start(os.Args[2:], os.Args[2+relayPipes:]); err != nil {
		end = err.Error()
	}
	fmt.Fprintln(tell, r.pid)
	if r.pid != 0 {
		end = r.wait()
	}
	fmt.Fprint(tell, end)
	return 0
}

// openPipe opens a pipe of the client's. It does not wait for somebody at the other
// end: the client may have gone meanwhile.
func openPipe(path string, mode int) (int, error) {
	fd, err := unix.Open(path, mode|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return -1, fmt.Errorf("pipe: %w", err)
	}
	return fd, nil
}

// start starts GDB on pipes.
func (r *relay) start(pipes, argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return err
	}
	var files [3]int
	for i, mode := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_WRONLY} {
		if files[i], err = openPipe(pipes[i], mode); err != nil {
			return err
		}
	}
	for i := range r.out {
		if r.out[i], err = openPipe(pipes[pipeOutput+i], unix.O_RDONLY); err != nil {
			return err
		}
	}
	// SIGHUP makes GDB quit in order even while its target runs, and does not
	// reach the target. It may come more than once, as the threads of the relay
	// end one after the other: a second SIGINT would be left to the target.
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGHUP, PidFD: &r.pidfd},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r.pid = pid
	return nil
}

// wait waits for the end of GDB and returns how it ended.
func (r *relay) wait() string {
	fds := []unix.PollFd{
		{Fd: int32(r.pidfd), Events: unix.POLLIN},
		{Fd: 0}, // its hang-up only: the client reads it
	}
	for {
		timeout := -1
		if len(r.force) > 0 {
			timeout = int(max(0, time.Until(r.due).Milliseconds()+1))
		}
		if _, err := unix.Poll(fds, timeout); err != nil {
			continue // EINTR
		}
		switch {
		case fds[0].Revents != 0:
			return r.reap()
		case r.hungUp:
			drain(fds[1:])
		case fds[1].Revents != 0:
			r.hangUp()
			fds = fds[:1]
			for _, fd := range r.out {
				fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			}
		}
		if len(r.force) > 0 && time.Now().After(r.due) {
			findBehind(r.pid).release(unix.SIGTERM) // GDB may wait for them
			_ = unix.Kill(r.pid, r.force[0])        // an error means that it cannot be ended
			r.force = r.force[1:]
			r.due = time.Now().Add(endGrace)
		}
	}
}

// hangUp ends GDB after the client. SIGINT makes it stop what it is doing, a
// running target included, and then the end of its input, which went with the
// client, makes it quit, in the regular way. SIGTERM comes later only: while a
// target runs GDB passes an interrupt on to it then, and detaches from a process
// that will die of it.
func (r *relay) hangUp() {
	r.hungUp = true
	_ = unix.Kill(-r.pid, unix.SIGINT) // the group is GDB's: it has not been waited for
	r.force = []unix.Signal{unix.SIGTERM, unix.SIGKILL}
	r.due = time.Now().Add(endGrace)
}

// drain reads what GDB writes for nobody: a GDB that cannot write does not end.
func drain(fds []unix.PollFd) {
	buf := make([]byte, 64<<10)
	for i := range fds {
		if fds[i].Revents == 0 {
			continue
		}
		if n, err := unix.Read(int(fds[i].Fd), buf); n <= 0 && err != unix.EINTR {
			fds[i].Fd = -1 // nobody writes there any more
		}
	}
}

// reap waits for a GDB that has ended and returns how it did.
func (r *relay) reap() string {
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(r.pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	if ws.Signaled() {
		return fmt.Sprintf("killed by signal %d (%s)", ws.Signal(), unix.SignalName(ws.Signal()))
	}
	return fmt.Sprintf("exited with status %d", ws.ExitStatus())
}
