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
	"time"

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
	pipes    [relayPipes][2]int // those that the relay opens too; they do not block here
	events   *os.File           // an epoll(7) of what takeOutput waits for

	// Of takeOutput alone.
	buf   []byte // for read; a pipe holds no more
	spare []byte // for filter.out
	told  []byte // by the relay

	mu     sync.Mutex // never held during a write to a pipe; guards what follows
	filter filter
	latest time.Time // when the last command came
	amount int       // bytes of GDB's output since then

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

// GDB writes byte by byte, and to wake a reader costs it more than to write: after
// muchOutput bytes since the last command it is read at longer and longer
// intervals, of an eighth of the time since then, but no more than maxPause.
const (
	muchOutput = 4 << 10
	pausePart  = 8
	maxPause   = 10 * time.Millisecond
)

// newLink makes the pipes.
func newLink(c *Client) (*link, error) {
	l := &link{c: c, pidfd: -1, ended: make(chan struct{})}
	l.filter.nonce = newNonce()
	l.filter.log = c.cfg.Log
	for i := range l.pipes {
		l.pipes[i] = [2]int{-1, -1}
	}
	for i := range l.pipes {
		if err := unix.Pipe2(l.pipes[i][:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			l.close()
			return nil, fmt.Errorf("pipe: %w", err)
		}
	}
	l.gdb = os.NewFile(uintptr(l.pipes[pipeInput][1]), "GDB's input")
	l.pipes[pipeInput][1] = -1
	size, err := unix.FcntlInt(uintptr(l.pipes[pipeOutput][0]), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		l.close()
		return nil, fmt.Errorf("pipe: %w", err)
	}
	l.buf = make([]byte, size)
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

// arguments are the first of the relay's. Through /proc a pipe is opened at
// either end by the name of any.
func (l *link) arguments() []string {
	args := []string{RelayArg}
	for _, p := range l.pipes {
		args = append(args, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p[0]))
	}
	return args
}

// open opens the relay's pipes to the library anew, through /proc, and starts
// the work. If it fails, it ends the relay.
func (l *link) open(pid int) error {
	if pid == 0 {
		return errors.New("relay: the library does not tell its process")
	}
	l.pid = pid
	err := l.watch()
	if err == nil {
		l.commands, err = openPipeEnd(pid, 0, os.O_RDONLY)
	}
	if err == nil {
		l.records, err = openPipeEnd(pid, 1, os.O_WRONLY)
	}
	if err != nil {
		l.kill()
		l.close()
		return fmt.Errorf("relay: %w", err)
	}
	l.work.Go(l.takeCommands)
	l.work.Go(l.takeOutput)
	return nil
}

// openPipeEnd opens the pipe behind a descriptor of another process.
func openPipeEnd(pid, fd, flags int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), flags, 0)
}

// watch makes the epoll. GDB's output is reported once each time that it is armed.
func (l *link) watch() error {
	var err error
	if l.pidfd, err = unix.PidfdOpen(l.pid, 0); err != nil {
		return fmt.Errorf("pidfd: %w", err)
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the file below waits as other files do
		return errors.Join(fmt.Errorf("epoll: %w", err), unix.Close(fd))
	}
	l.events = os.NewFile(uintptr(fd), "epoll")
	if err := l.events.SetReadDeadline(time.Time{}); err != nil { // says whether it does
		return err
	}
	for _, fd := range []int{l.pidfd, l.pipes[pipeErrors][0], l.pipes[pipeTold][0]} {
		if err := l.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN); err != nil {
			return err
		}
	}
	return l.control(unix.EPOLL_CTL_ADD, l.pipes[pipeOutput][0], unix.EPOLLIN|unix.EPOLLONESHOT)
}

// control changes what the epoll reports of a descriptor.
func (l *link) control(op, fd int, events uint32) error {
	conn, err := l.events.SyscallConn()
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	var ctlErr error
	err = conn.Control(func(epoll uintptr) {
		ctlErr = unix.EpollCtl(int(epoll), op, fd, &unix.EpollEvent{Fd: int32(fd), Events: events})
	})
	if err == nil {
		err = ctlErr
	}
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// arm has GDB's output reported, once.
func (l *link) arm() {
	// It was added in the same way.
	_ = l.control(unix.EPOLL_CTL_MOD, l.pipes[pipeOutput][0], unix.EPOLLIN|unix.EPOLLONESHOT)
}

// kill ends the relay, which Exit of the library has not waited for yet.
func (l *link) kill() {
	_ = unix.Kill(l.pid, unix.SIGKILL)
}

// close closes what was opened for GDB and the relay.
func (l *link) close() {
	for _, f := range []*os.File{l.gdb, l.events} {
		if f != nil {
			f.Close()
		}
	}
	fds := []int{l.pidfd}
	for _, p := range l.pipes {
		fds = append(fds, p[:]...)
	}
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
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
		l.latest, l.amount = time.Now(), 0
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

// takeOutput hands GDB's output to the library, up to the end of GDB and of the
// relay.
func (l *link) takeOutput() {
	for l.wait() {
	}
	// What GDB wrote last is still in the pipes. There is no end of file: a
	// process that GDB started may hold them open for ever.
	l.readOutput()
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

// wait waits for the relay and GDB and takes what they have written. It returns
// false when the relay has ended.
func (l *link) wait() (more bool) {
	var ready [4]unix.EpollEvent
	n := 0
	conn, err := l.events.SyscallConn()
	if err == nil {
		err = conn.Read(func(epoll uintptr) bool {
			n, err = unix.EpollWait(int(epoll), ready[:], 0)
			return n > 0
		})
	}
	if err != nil {
		return false // not before close
	}
	more = true
	for _, e := range ready[:n] {
		switch int(e.Fd) {
		case l.pidfd:
			more = false
		case l.pipes[pipeTold][0]:
			l.listen()
		case l.pipes[pipeErrors][0]:
			l.readErrors()
		case l.pipes[pipeOutput][0]:
			if l.readOutput() < len(l.buf) { // else the writer waits for us
				time.Sleep(l.pause())
			}
			l.arm()
		}
	}
	return more
}

// listen takes what the relay tells.
func (l *link) listen() {
	before := bytes.IndexByte(l.told, '\n') >= 0
	l.told = append(l.told, l.read(pipeTold)...)
	line, _, now := bytes.Cut(l.told, []byte("\n"))
	if pid, err := strconv.Atoi(string(line)); now && !before && err == nil && pid > 0 {
		l.c.begun(pid)
	}
}

// pause returns how long GDB's output is left alone now.
func (l *link) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.amount < muchOutput {
		return 0
	}
	return min(time.Since(l.latest)/pausePart, maxPause)
}

// readOutput takes what there is of GDB's output, and returns its size. What GDB
// wrote to its standard error before goes first, so that it belongs to the right
// command.
func (l *link) readOutput() int {
	data := l.read(pipeOutput)
	// GDB writes byte by byte; look no more often than for every line.
	if bytes.IndexByte(data, '\n') >= 0 {
		data = bytes.Clone(data) // readErrors needs the buffer
		l.readErrors()
	}
	l.mu.Lock()
	l.filter.write(data)
	l.amount += len(data)
	l.mu.Unlock()
	l.pass()
	return len(data)
}

// readErrors takes what there is of GDB's standard error.
func (l *link) readErrors() {
	data := l.read(pipeErrors)
	if len(data) == 0 {
		return
	}
	l.mu.Lock()
	l.filter.errors(data)
	l.mu.Unlock()
	l.pass()
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

// pass writes what the filter has for the library. It blocks while the library
// does not read. Only takeOutput calls it, and takeCommands after that has ended.
func (l *link) pass() {
	l.mu.Lock()
	out, exited := l.filter.out, l.filter.exited
	l.filter.out = l.spare[:0]
	l.mu.Unlock()
	if len(out) > 0 {
		_, _ = l.records.Write(out) // the library reads to the end
	}
	l.spare = nil
	if cap(out) <= 4*len(l.buf) { // what a long record needed is not kept
		l.spare = out
	}
	if exited {
		l.records.Close()
	}
}
