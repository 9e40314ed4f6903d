package mi

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// handOver is how long an answer may take from the library's reader to the
// goroutine that waits for it, in the same process.
const handOver = time.Second

// relayEnd is what this process holds of the relay: its process, and its ends
// of the two pipes between the library and it.
type relayEnd struct {
	pid     int
	in      *os.File      // the read end of what the library writes
	out     *os.File      // the write end of what the library reads
	exiting atomic.Bool   // it has answered gdb-exit
	synced  chan struct{} // closed when all that it wrote has been read
	over    chan struct{} // closed when nothing is left to do about it
}

func (r *relayEnd) init() {
	r.synced = make(chan struct{})
	r.over = make(chan struct{})
}

// open opens the pipes of the relay anew, through /proc.
func (r *relayEnd) open(pid int) error {
	if pid == 0 {
		return errors.New("relay: the library does not tell its process")
	}
	r.pid = pid
	var err error
	if r.in, err = openPipeEnd(pid, 0, os.O_RDONLY); err == nil {
		if r.out, err = openPipeEnd(pid, 1, os.O_WRONLY); err == nil {
			return nil
		}
		r.in.Close()
	}
	r.kill()
	return fmt.Errorf("relay: %w", err)
}

// kill ends the relay, which Exit of the library has not waited for yet.
func (r *relayEnd) kill() {
	_ = unix.Kill(r.pid, unix.SIGKILL)
}

// openPipeEnd opens the pipe behind a descriptor of another process.
func openPipeEnd(pid, fd, flags int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), flags, 0)
}

// guard waits for the end of the relay. After its regular end the library has to
// see the end of its input; after any other end we take its place: the library
// needs an answer to every command, and to gdb-exit last.
func (c *Client) guard() {
	r := &c.relay
	defer close(r.over)
	defer r.in.Close()
	for {
		// Not waited for: that is left to the library.
		if err := unix.Waitid(unix.P_PID, r.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			break
		}
	}
	// Everything it wrote are whole lines (see maxLine).
	_, _ = fmt.Fprintf(r.out, "=%s\n", classSync)
	<-r.synced
	if r.exiting.Load() {
		r.out.Close()
		return
	}
	c.setGone("its relay has ended")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.endOrphan()
	}()
	c.standIn()
	<-ended
}

// endOrphan waits until GDB has ended, as the relay's death has told it to, and
// uses force in the end.
func (c *Client) endOrphan() {
	select {
	case <-c.started:
	default:
		return
	}
	if c.pidfd < 0 {
		return
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if pollEnd(c.pidfd, endGrace) {
			return
		}
		c.behind().release() // GDB may wait for them
		_ = unix.PidfdSendSignal(c.pidfd, sig, nil, 0)
	}
}

// standIn answers the library in the relay's place until gdb-exit.
func (c *Client) standIn() {
	r := &c.relay
	defer r.out.Close()
	type command struct {
		token int64
		exit  bool
	}
	commands := make(chan command)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		defer close(commands)
		in := bufio.NewReader(r.in)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			token, op, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "-")
			// What is left of a command that the relay had begun to read has
			// no token that fits.
			if n, err := strconv.ParseInt(token, 10, 64); err == nil && n == c.sent.Load() {
				select {
				case commands <- command{n, op == "gdb-exit"}:
				case <-stop:
					return
				}
			}
		}
	}()
	answer := func(token int64, exit bool) {
		text := fmt.Sprintf(`%d^error,msg="GDB is gone",code="%s"`, token, codeGone)
		if exit {
			text = fmt.Sprintf("%d^exit", token)
		}
		_, _ = fmt.Fprintln(r.out, text)
	}
	// A command that the relay had read when it died, and had not answered: all
	// its answers are read by now, so that a call still in flight gets none.
	inFlight := c.sent.Load()
	if inFlight == c.answered.Load() {
		inFlight = 0
	}
	wait := time.NewTimer(handOver)
	defer wait.Stop()
	for {
		select {
		case cmd, ok := <-commands:
			if !ok {
				return
			}
			if cmd.token == inFlight {
				inFlight = 0
			}
			answer(cmd.token, cmd.exit)
			if cmd.exit {
				return
			}
		case <-wait.C:
			if inFlight == 0 || c.answered.Load() >= inFlight {
				break
			}
			exit := c.exitSent.Load()
			answer(inFlight, exit)
			inFlight = 0
			if exit {
				return
			}
		}
	}
}
