package mi

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// RelayArg as the first argument of our executable makes the process the relay
// between the library and GDB. The arguments after it are "log" or "-", and
// GDB's command.
const RelayArg = "--dbgsh-mi-relay"

// endGrace is how long a GDB whose client is gone has to end by itself (to kill
// what it started and to detach from what it attached to), and then how long it
// has after SIGTERM, before SIGKILL.
const endGrace = 2 * time.Second

// IsRelay tells whether this process was started as the relay.
func IsRelay() bool {
	return len(os.Args) > 1 && os.Args[1] == RelayArg
}

// relay is the state of the relay process: a single loop around poll(2), so
// that the order of what comes in is the order of what goes out.
type relay struct {
	filter filter
	buf    []byte // for read
	nudges int    // readable when the client has asked for a nudge

	pid    int
	toGDB  int // GDB's standard input, non-blocking; -1 when closed
	out    int // GDB's standard output, non-blocking; -1 when closed
	errs   int // GDB's standard error, non-blocking; -1 when closed
	dead   int // readable when GDB has been waited for
	status chan syscall.WaitStatus
	queue  []byte // for GDB

	from    []byte // the client's line so far
	hungUp  bool   // the client is gone
	gone    bool   // GDB is gone
	reason  string
	force   []unix.Signal // for a GDB that does not end after its client
	forceAt time.Time     // when the first of them is due
}

// RelayMain runs the relay and returns its exit status. It must be called before
// anything else is done in a process for which IsRelay is true.
//
// The relay runs GDB in a session of its own, so that no terminal can interrupt
// or stop it, with SIGHUP as parent-death signal, and makes of GDB's output what
// the library can read. It outlives GDB, whatever ended that, answering
// every command with an error, until the client sends gdb-exit or hangs up.
func RelayMain() int {
	// SIGINT is what the library's Interrupt sends. Nothing is done about the
	// others (the client's end is seen as the end of our input), but by a handler
	// and not by SIG_IGN, which GDB would inherit.
	interrupts, ignored := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT)
	signal.Notify(ignored, unix.SIGQUIT, unix.SIGHUP, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	// The parent-death signal comes when the thread ends that made the child.
	runtime.LockOSThread()
	// Fails for a process group leader only, which has left the terminal's group.
	_, _ = unix.Setsid()
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "relay: no command")
		return 2
	}
	r := &relay{buf: make([]byte, 64<<10), toGDB: -1, out: -1, errs: -1, dead: -1}
	r.filter.nonce = newNonce()
	r.filter.log = os.Args[2] == "log"
	var wake [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, "relay: pipe:", err)
		return 2
	}
	r.nudges = wake[0]
	go func() {
		for range interrupts {
			_, _ = unix.Write(wake[1], []byte{0})
		}
	}()
	if err := r.start(os.Args[3:]); err != nil {
		r.end(err.Error())
	} else {
		r.filter.note(classStarted, "pid", strconv.Itoa(r.pid))
	}
	r.flush()
	for !r.done() {
		r.turn()
	}
	return 0
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

// start starts GDB.
func (r *relay) start(argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return err
	}
	var in, out, errs, dead [2]int
	for _, p := range []*[2]int{&in, &out, &errs, &dead} {
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("pipe: %w", err)
		}
	}
	for _, fd := range []int{in[1], out[0], errs[0]} {
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("pipe: %w", err)
		}
	}
	// SIGHUP makes GDB quit in order even while its target runs, and does not
	// reach the target. It may come more than once, as the threads of the relay
	// end one after the other: a second SIGINT would be left to the target.
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{uintptr(in[0]), uintptr(out[1]), uintptr(errs[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGHUP},
	})
	for _, fd := range []int{in[0], out[1], errs[1]} {
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r.pid, r.toGDB, r.out, r.errs, r.dead = pid, in[1], out[0], errs[0], dead[0]
	r.status = make(chan syscall.WaitStatus, 1)
	go func() {
		var ws syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(pid, &ws, 0, nil); err != syscall.EINTR {
				break
			}
		}
		r.status <- ws
		unix.Close(dead[1])
	}()
	return nil
}

// done tells whether the relay has nothing left to do.
func (r *relay) done() bool {
	if !r.gone {
		return false
	}
	if r.filter.exit != "" {
		f := &r.filter
		f.note(classExit)
		f.out = fmt.Appendf(f.out, "%s^exit\n", f.exit)
		r.flush()
		return true
	}
	return r.hungUp
}

// turn waits for something to happen and handles it.
func (r *relay) turn() {
	fds := make([]unix.PollFd, 0, 6)
	add := func(fd int, events int16) {
		if fd >= 0 {
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: events})
		}
	}
	if !r.hungUp {
		add(0, unix.POLLIN)
	}
	add(r.out, unix.POLLIN)
	add(r.errs, unix.POLLIN)
	add(r.dead, unix.POLLIN)
	add(r.nudges, unix.POLLIN)
	if len(r.queue) > 0 {
		add(r.toGDB, unix.POLLOUT)
	}
	timeout := -1
	if len(r.force) > 0 {
		timeout = int(max(0, time.Until(r.forceAt).Milliseconds()+1))
	}
	n, err := unix.Poll(fds, timeout)
	if err != nil {
		return // EINTR
	}
	if n == 0 {
		findBehind(r.pid).release() // GDB may wait for them
		r.signal(r.force[0])
		r.force = r.force[1:]
		r.forceAt = time.Now().Add(endGrace)
		return
	}
	for _, p := range fds {
		if p.Revents == 0 {
			continue
		}
		switch int(p.Fd) {
		case 0:
			r.readClient()
		case r.toGDB:
			r.writeGDB()
		case r.out:
			r.readGDB()
		case r.errs:
			r.readErrors()
		case r.dead:
			r.reap()
		case r.nudges:
			_, _ = unix.Read(r.nudges, r.buf)
			if r.toGDB >= 0 {
				r.send(r.filter.nudge())
			}
		}
	}
	r.flush()
}

// readClient takes commands from the client.
func (r *relay) readClient() {
	n, err := unix.Read(0, r.buf)
	if err == unix.EINTR || err == unix.EAGAIN {
		return
	}
	if n <= 0 {
		r.hangUp()
		return
	}
	r.from = append(r.from, r.buf[:n]...)
	for {
		line, rest, found := bytes.Cut(r.from, []byte("\n"))
		if !found {
			return
		}
		r.from = rest
		forGDB, op, ok := r.filter.command(line)
		switch {
		case !ok:
		case !r.gone:
			r.send(forGDB)
		case op != "gdb-exit":
			r.answerAll()
		}
	}
}

// hangUp ends GDB after the client. SIGINT makes it stop what it is doing, a
// running target included, and then the end of its input makes it quit, in the
// regular way. SIGTERM comes later only: while a target runs GDB passes an
// interrupt on to it then, and detaches from a process that will die of it.
func (r *relay) hangUp() {
	r.hungUp = true
	if r.gone {
		return
	}
	r.signal(unix.SIGINT)
	if r.toGDB >= 0 {
		unix.Close(r.toGDB)
		r.toGDB, r.queue = -1, nil
	}
	r.force = []unix.Signal{unix.SIGTERM, unix.SIGKILL}
	r.forceAt = time.Now().Add(endGrace)
}

// signal sends sig to GDB, SIGINT to what it runs as well. GDB has not been
// waited for as long as status is empty.
func (r *relay) signal(sig unix.Signal) {
	pid := r.pid
	if sig == unix.SIGINT {
		pid = -pid
	}
	if !r.gone && len(r.status) == 0 {
		_ = unix.Kill(pid, sig)
	}
}

// send queues lines for GDB.
func (r *relay) send(lines []byte) {
	if r.filter.log {
		r.filter.logLines(">", lines)
	}
	r.queue = append(r.queue, lines...)
	r.writeGDB()
}

// writeGDB hands GDB as much of the queue as it takes.
func (r *relay) writeGDB() {
	for len(r.queue) > 0 && r.toGDB >= 0 {
		n, err := unix.Write(r.toGDB, r.queue)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			// GDB reads no more: it is about to end.
			unix.Close(r.toGDB)
			r.toGDB, r.queue = -1, nil
			return
		}
		r.queue = r.queue[n:]
	}
}

// readGDB takes one piece of GDB's standard output. What GDB wrote to its
// standard error before goes first, so that it belongs to the right command.
func (r *relay) readGDB() bool {
	data, eof := r.read(r.out)
	if eof {
		unix.Close(r.out)
		r.out = -1
		return false
	}
	if len(data) == 0 {
		return false
	}
	// GDB writes byte by byte; look no more often than for every line.
	if bytes.IndexByte(data, '\n') >= 0 {
		data = bytes.Clone(data) // readErrors needs the buffer
		r.readErrors()
	}
	r.filter.write(data)
	return true
}

// readErrors takes all there is of GDB's standard error.
func (r *relay) readErrors() {
	for r.errs >= 0 {
		data, eof := r.read(r.errs)
		if eof {
			unix.Close(r.errs)
			r.errs = -1
		}
		if len(data) == 0 {
			return
		}
		if r.filter.log {
			r.filter.logLines("!", data)
		}
		r.filter.stream('@', data)
		r.flush()
	}
}

// read reads from a non-blocking descriptor, into a buffer that is used again.
func (r *relay) read(fd int) (data []byte, eof bool) {
	if fd < 0 {
		return nil, false
	}
	for {
		n, err := unix.Read(fd, r.buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return nil, false
		case err != nil || n == 0:
			return nil, true
		}
		return r.buf[:n], false
	}
}

// reap handles the end of GDB. What it wrote is still in the pipes; they may be
// held open for ever by a process that GDB started.
func (r *relay) reap() {
	ws := <-r.status
	for r.readGDB() {
		r.flush()
	}
	r.readErrors()
	r.filter.finish()
	for _, fd := range []int{r.toGDB, r.out, r.errs, r.dead} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	r.toGDB, r.out, r.errs, r.dead, r.queue = -1, -1, -1, -1, nil
	reason := fmt.Sprintf("exited with status %d", ws.ExitStatus())
	if ws.Signaled() {
		reason = fmt.Sprintf("killed by signal %d (%s)", ws.Signal(), unix.SignalName(ws.Signal()))
	}
	r.end(reason)
}

// end tells the client that there is no GDB, and why.
func (r *relay) end(reason string) {
	r.gone, r.reason = true, reason
	r.filter.note(classGone, "reason", reason)
	r.answerAll()
}

// answerAll answers every command that waits.
func (r *relay) answerAll() {
	for _, token := range r.filter.pending {
		r.filter.fail(token, codeGone, "GDB is gone: "+r.reason)
	}
	r.filter.pending = nil
}

// flush writes what the filter has for the client, in pieces of whole lines of
// at most maxLine bytes. It blocks while the client does not read.
func (r *relay) flush() {
	out := r.filter.out
	for len(out) > 0 {
		n := len(out)
		if n > maxLine {
			n = bytes.LastIndexByte(out[:maxLine], '\n') + 1
		}
		_, err := unix.Write(1, out[:n])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			break // the client is gone; the end of our input says so too
		}
		out = out[n:]
	}
	r.filter.out = r.filter.out[:0]
}
