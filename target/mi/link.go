package mi

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// link joins the library and GDB inside this process. It has the other ends of
// the pipes between the library and the relay, its child, and one end of GDB's:
// in the relay's place it hands the library's commands to GDB, and GDB's output,
// made fit by the filter, to the library. When GDB is gone it answers for it,
// until gdb-exit.
type link struct {
	c     *Client
	pid   int // the relay's
	pidfd int // the relay's

	commands *os.File           // what the library writes: the read end
	records  *os.File           // what the library reads: the write end
	gdb      *os.File           // GDB's input: the write end
	pipes    [relayPipes][2]int // those that the relay opens; the ends of this process are not blocking
	told     []byte             // by the relay
	buf      []byte             // for read
	spare    []byte             // for filter.out

	mu     sync.Mutex // never held during a write to a pipe
	filter filter     // guarded by mu

	ended chan struct{} // closed when the library has been told that GDB is gone
	work  sync.WaitGroup
}

// The places of pipes in the relay's arguments.
const (
	pipeInput  = iota // of GDB
	pipeOutput        // of GDB
	pipeErrors        // of GDB
	pipeTold          // by the relay: GDB's process id or 0, a newline, and why GDB is gone
	relayPipes
)

// newLink makes the pipes.
func newLink(c *Client) (*link, error) {
	l := &link{c: c, pidfd: -1, buf: make([]byte, 64<<10), ended: make(chan struct{})}
	l.filter.nonce = newNonce()
	l.filter.log = c.cfg.Log
	for i := range l.pipes {
		l.pipes[i] = [2]int{-1, -1}
	}
	for i := range l.pipes {
		if err := unix.Pipe2(l.pipes[i][:], unix.O_CLOEXEC); err != nil {
			l.close()
			return nil, fmt.Errorf("pipe: %w", err)
		}
		ours := l.pipes[i][0]
		if i == pipeInput {
			ours = l.pipes[i][1]
		}
		if err := unix.SetNonblock(ours, true); err != nil {
			l.close()
			return nil, fmt.Errorf("pipe: %w", err)
		}
	}
	l.gdb = os.NewFile(uintptr(l.pipes[pipeInput][1]), "GDB's input")
	l.pipes[pipeInput][1] = -1
	return l, nil
}

// newNonce returns nonceDigits secret digits, the first of them not 0, by which
// GDB's results are told from any other text.
func newNonce() string {
	low := new(big.Int).Exp(big.NewInt(10), big.NewInt(nonceDigits-1), nil)
	n, err := rand.Int(rand.Reader, new(big.Int).Mul(low, big.NewInt(9)))
	if err != nil {
		panic(err) // crypto/rand never returns an error
	}
	return n.Add(n, low).String()
}

// arguments are the first of the relay's: paths of its ends of the pipes.
func (l *link) arguments() []string {
	args := []string{RelayArg}
	for _, p := range l.pipes {
		end := p[1]
		if end < 0 {
			end = p[0]
		}
		args = append(args, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), end))
	}
	return args
}

// open opens the relay's pipes to the library anew, through /proc, and starts
// the work.
func (l *link) open(pid int) error {
	if pid == 0 {
		return errors.New("relay: the library does not tell its process")
	}
	l.pid = pid
	var err error
	if l.pidfd, err = unix.PidfdOpen(pid, 0); err == nil {
		if l.commands, err = openPipeEnd(pid, 0, os.O_RDONLY); err == nil {
			if l.records, err = openPipeEnd(pid, 1, os.O_WRONLY); err == nil {
				l.work.Go(l.takeCommands)
				l.work.Go(l.takeOutput)
				return nil
			}
			l.commands.Close()
		}
	}
	l.kill()
	l.close()
	return fmt.Errorf("relay: %w", err)
}

// kill ends the relay, which Exit of the library has not waited for yet.
func (l *link) kill() {
	_ = unix.Kill(l.pid, unix.SIGKILL)
}

// openPipeEnd opens the pipe behind a descriptor of another process.
func openPipeEnd(pid, fd, flags int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), flags, 0)
}

// close closes what was opened for GDB and the relay.
func (l *link) close() {
	if l.gdb != nil {
		l.gdb.Close()
	}
	for _, p := range l.pipes {
		for _, fd := range p {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	}
	if l.pidfd >= 0 {
		unix.Close(l.pidfd)
	}
}

// takeCommands hands the library's commands to GDB, up to gdb-exit.
func (l *link) takeCommands() {
	defer l.commands.Close()
	in := bufio.NewReader(l.commands)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		l.mu.Lock()
		forGDB := l.filter.command(bytes.TrimSuffix(line, []byte("\n")))
		exit, gone := l.filter.exit != "", l.filter.gone != ""
		l.mu.Unlock()
		if gone {
			<-l.ended
			l.pass()
		} else {
			_, _ = l.gdb.Write(forGDB) // an error means that it is about to end
		}
		if exit {
			return
		}
	}
}

// nudge helps a GDB that does not answer.
func (l *link) nudge() {
	l.mu.Lock()
	lines := l.filter.nudge()
	l.mu.Unlock()
	_, _ = l.gdb.Write(lines) // an error means that it is about to end
}

// pass writes what the filter has for the library. It blocks while the library
// does not read. It is called by takeOutput, and by takeCommands after that.
func (l *link) pass() {
	l.mu.Lock()
	out := l.filter.out
	l.filter.out = l.spare[:0]
	exited := l.filter.exited
	l.mu.Unlock()
	if len(out) > 0 {
		_, _ = l.records.Write(out) // the library reads up to the end
	}
	l.spare = out
	if exited {
		l.records.Close()
	}
}

// takeOutput hands GDB's output to the library, up to the end of GDB and of the
// relay.
func (l *link) takeOutput() {
	fds := []unix.PollFd{
		{Fd: int32(l.pidfd), Events: unix.POLLIN},
		{Fd: int32(l.pipes[pipeErrors][0]), Events: unix.POLLIN},
		{Fd: int32(l.pipes[pipeOutput][0]), Events: unix.POLLIN},
		{Fd: int32(l.pipes[pipeTold][0]), Events: unix.POLLIN},
	}
	for fds[0].Revents == 0 {
		if _, err := unix.Poll(fds, -1); err != nil {
			continue // EINTR
		}
		if fds[3].Revents != 0 && l.listen() {
			fds[3].Fd = -1 // the rest comes with the relay's end
		}
		if fds[1].Revents != 0 {
			l.readErrors()
		}
		if fds[2].Revents != 0 {
			l.readOutput()
		}
	}
	// What GDB wrote is still in the pipes; a process that it started may hold
	// them open for ever.
	for l.readOutput() {
	}
	l.readErrors()
	l.listen()
	_, reason, _ := bytes.Cut(l.told, []byte("\n"))
	orphan := len(reason) == 0
	if orphan {
		reason = []byte("its relay has ended")
	}
	l.mu.Lock()
	l.filter.end(string(reason))
	l.mu.Unlock()
	l.pass()
	close(l.ended)
	l.close()
	if orphan {
		l.c.endOrphan()
	}
}

// listen takes what the relay tells, and reports whether GDB's process has been
// told.
func (l *link) listen() bool {
	before := bytes.IndexByte(l.told, '\n') >= 0
	for data := l.read(pipeTold); len(data) > 0; data = l.read(pipeTold) {
		l.told = append(l.told, data...)
	}
	line, _, told := bytes.Cut(l.told, []byte("\n"))
	if pid, err := strconv.Atoi(string(line)); told && !before && err == nil && pid > 0 {
		l.c.begun(pid)
	}
	return told
}

// readOutput takes one piece of GDB's output and reports whether there was any.
// What GDB wrote to its standard error before goes first, so that it belongs to
// the right command.
func (l *link) readOutput() bool {
	data := l.read(pipeOutput)
	if len(data) == 0 {
		return false
	}
	// GDB writes byte by byte; look no more often than for every line.
	if bytes.IndexByte(data, '\n') >= 0 {
		data = bytes.Clone(data) // readErrors needs the buffer
		l.readErrors()
	}
	l.mu.Lock()
	l.filter.write(data)
	l.mu.Unlock()
	l.pass()
	return true
}

// readErrors takes all there is of GDB's standard error.
func (l *link) readErrors() {
	for data := l.read(pipeErrors); len(data) > 0; data = l.read(pipeErrors) {
		l.mu.Lock()
		l.filter.errors(data)
		l.mu.Unlock()
		l.pass()
	}
}

// read reads what is in a pipe, into a buffer that is used again.
func (l *link) read(pipe int) []byte {
	for {
		n, err := unix.Read(l.pipes[pipe][0], l.buf)
		if err != unix.EINTR {
			return l.buf[:max(n, 0)]
		}
	}
}
