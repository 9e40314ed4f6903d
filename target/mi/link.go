package mi

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"
	"strings"
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
	c   *Client
	pid int // the relay's

	commands *os.File             // what the library writes: the read end
	records  *os.File             // what the library reads: the write end
	pipes    [relayPipes]pipeEnds // those that the relay opens too
	args     []string             // of the relay
	errs     int                  // the read end of pipeErrors
	buf      []byte               // of takeOutput; a pipe holds no more

	passing sync.Mutex // held from a read of GDB's output until the library has it; guards what follows
	spare   []byte     // for filter.out
	errBuf  []byte

	mu     sync.Mutex // never held during a write to a pipe; guards what follows
	filter filter
	latest time.Time // when the last command came
	amount int       // bytes of GDB's output since then
	reason string    // why GDB is gone, set when its output has the mark of its end

	ended chan struct{} // closed when the library has been told that GDB is gone
	work  sync.WaitGroup
}

type pipeEnds struct{ r, w *os.File }

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
	l := &link{c: c, args: []string{RelayArg}, ended: make(chan struct{}), errBuf: make([]byte, 4<<10)}
	l.filter.nonce = newNonce()
	l.filter.log = c.cfg.Log
	for i := range l.pipes {
		// GDB's output is read by a thread that blocks: poll(2) and its like
		// would have GDB wake the reader for every byte.
		mode := unix.O_CLOEXEC
		if i != pipeOutput {
			mode |= unix.O_NONBLOCK
		}
		var fds [2]int
		if err := unix.Pipe2(fds[:], mode); err != nil {
			l.close()
			return nil, fmt.Errorf("pipe: %w", err)
		}
		switch i {
		case pipeErrors:
			l.errs = fds[0]
		case pipeOutput:
			size, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETPIPE_SZ, 0)
			if err != nil {
				size = 64 << 10 // pipe(7)
			}
			l.buf = make([]byte, size)
		}
		l.pipes[i] = pipeEnds{os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe")}
		// A pipe can be opened at either end by the name of any.
		l.args = append(l.args, fdPath(os.Getpid(), fds[0]))
	}
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

// fdPath is the name of a descriptor of a process.
func fdPath(pid, fd int) string { return fmt.Sprintf("/proc/%d/fd/%d", pid, fd) }

// open opens the relay's pipes to the library anew, through /proc, and starts
// the work. If it fails, it ends the relay.
func (l *link) open(pid int) error {
	if pid == 0 {
		return errors.New("relay: the library does not tell its process")
	}
	l.pid = pid
	var err error
	if l.commands, err = os.OpenFile(fdPath(pid, 0), os.O_RDONLY, 0); err == nil {
		l.records, err = os.OpenFile(fdPath(pid, 1), os.O_WRONLY, 0)
	}
	if err != nil {
		l.kill()
		l.close()
		return fmt.Errorf("relay: %w", err)
	}
	for _, f := range []func(){l.takeCommands, l.takeOutput, l.takeErrors, l.awaitRelay, l.listen} {
		l.work.Go(f)
	}
	return nil
}

// kill ends the relay, which Exit of the library has not waited for yet.
func (l *link) kill() {
	_ = unix.Kill(l.pid, unix.SIGKILL)
}

// close closes what was opened for GDB and the relay.
func (l *link) close() {
	for _, p := range l.pipes {
		if p.r != nil {
			p.r.Close()
			p.w.Close()
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
			l.passing.Lock()
			l.pass()
			l.passing.Unlock()
		} else {
			_, _ = l.pipes[pipeInput].w.Write(forGDB) // an error means that it is about to end
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
	_, _ = l.pipes[pipeInput].w.Write(lines) // an error means that it is about to end
}

// takeOutput hands GDB's output to the library, up to the mark of its end.
func (l *link) takeOutput() {
	out := l.pipes[pipeOutput].r
	for {
		n, err := out.Read(l.buf)
		data, reason := l.buf[:n], ""
		l.mu.Lock()
		if l.reason != "" {
			before, _, found := bytes.Cut(data, l.mark())
			if found {
				data, reason = before, l.reason
			}
		}
		l.mu.Unlock()
		if err != nil {
			reason = err.Error() // nobody else closes it
		}
		l.take(data)
		if reason != "" {
			l.end(reason)
			return
		}
		if n < len(l.buf) { // else the writer waits for us
			time.Sleep(l.pause())
		}
	}
}

// mark is what ends GDB's output. A process that GDB started may hold the pipe
// open for ever, so that there is no other end. It comes at one go, as the buffer
// is as large as the pipe.
func (l *link) mark() []byte { return []byte("\x00" + l.filter.nonce + "\x00") }

// pause returns how long GDB's output is left alone now.
func (l *link) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.amount < muchOutput {
		return 0
	}
	return min(time.Since(l.latest)/pausePart, maxPause)
}

// take hands a piece of GDB's output to the library. What GDB wrote to its
// standard error before goes first, so that it belongs to the right command.
func (l *link) take(data []byte) {
	l.passing.Lock()
	defer l.passing.Unlock()
	// GDB writes byte by byte; look no more often than for every line.
	if bytes.IndexByte(data, '\n') >= 0 {
		l.readErrors(l.errs)
	}
	l.mu.Lock()
	l.filter.write(data)
	l.amount += len(data)
	l.mu.Unlock()
	l.pass()
}

// takeErrors hands GDB's standard error to the library, until it is closed.
func (l *link) takeErrors() {
	conn, err := l.pipes[pipeErrors].r.SyscallConn()
	for err == nil {
		err = conn.Read(func(fd uintptr) bool {
			l.passing.Lock()
			defer l.passing.Unlock()
			return l.readErrors(int(fd))
		})
	}
}

// readErrors takes what there is of GDB's standard error, and reports whether
// there was any.
func (l *link) readErrors(fd int) bool {
	n, _ := unix.Read(fd, l.errBuf)
	if n <= 0 {
		return false
	}
	l.mu.Lock()
	l.filter.errors(l.errBuf[:n])
	l.mu.Unlock()
	l.pass()
	return true
}

// pass writes what the filter has for the library. It blocks while the library
// does not read.
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

// end tells the library that GDB is gone, and closes all that was for GDB.
func (l *link) end(reason string) {
	l.passing.Lock()
	l.readErrors(l.errs)
	l.mu.Lock()
	l.filter.end(reason)
	l.mu.Unlock()
	l.pass()
	l.close()
	l.passing.Unlock()
	close(l.ended)
}

// awaitRelay waits for the end of the relay. It leaves the rest to the library.
func (l *link) awaitRelay() {
	for {
		if err := unix.Waitid(unix.P_PID, l.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			break
		}
	}
	l.pipes[pipeTold].w.Close() // which ends what listen reads
}

// listen takes what the relay tells, and at its end marks the end of GDB's output.
func (l *link) listen() {
	told := bufio.NewReader(l.pipes[pipeTold].r)
	line, _ := told.ReadString('\n') // in vain when the relay is killed
	if pid, err := strconv.Atoi(strings.TrimSuffix(line, "\n")); err == nil && pid > 0 {
		l.c.begun(pid)
	}
	text, _ := io.ReadAll(told)
	reason := string(text)
	if reason == "" {
		reason = "its relay has ended"
		defer l.c.endOrphan()
	}
	l.mu.Lock()
	l.reason = reason
	l.mu.Unlock()
	_, _ = l.pipes[pipeOutput].w.Write(l.mark()) // takeOutput reads to there
}
