package gdb

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// tty is the terminal that the inferior runs on.
type tty struct {
	name   string
	master *os.File
	slave  *os.File // kept open, so that the terminal outlives each inferior
	done   chan struct{}
	typist bool // a person types

	turn    chan struct{} // holds a value while somebody types
	handing atomic.Bool   // text is being handed on

	mu    sync.Mutex               // never held while something is written
	marks map[string]chan struct{} // drain marks on their way
	atEOL bool                     // the last byte typed ended a line
}

// openTTY makes a pseudo-terminal and copies what is written to it to out.
// Where no person types, what is typed is not echoed and no byte of it but the
// end-of-file character is special.
func openTTY(person bool, out io.Writer) (*tty, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal for the inferior: %w", err)
	}
	if master, err = pollable(master); err != nil {
		return nil, errors.Join(fmt.Errorf("open a terminal for the inferior: %w", err), slave.Close())
	}
	t := &tty{
		name: slave.Name(), master: master, slave: slave, typist: person,
		done: make(chan struct{}), turn: make(chan struct{}, 1), marks: make(map[string]chan struct{}), atEOL: true,
	}
	if !person {
		if err := t.plain(); err != nil {
			return nil, errors.Join(err, master.Close(), slave.Close())
		}
	}
	go t.copyOutput(out)
	return t, nil
}

// pollable is f, which is closed, as a file whose reads and writes end with
// its deadlines and with Close. pty.Open makes its own a blocking one.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// plain sets the terminal up for a script: see termios(3).
func (t *tty) plain() error {
	if err := control(t.slave, makePlain); err != nil {
		return fmt.Errorf("set the inferior's terminal up: %w", err)
	}
	return nil
}

// control runs do on f's descriptor, which stays open meanwhile. With Fd, f
// could be closed under it.
func control(f *os.File, do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	err = conn.Control(func(fd uintptr) { doErr = do(int(fd)) })
	return errors.Join(err, doErr)
}

func makePlain(fd int) error {
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	mode.Oflag &^= unix.OPOST
	mode.Iflag &^= unix.ICRNL | unix.INLCR | unix.IGNCR | unix.IXON | unix.IXOFF | unix.ISTRIP
	mode.Lflag &^= unix.ECHO | unix.ECHONL | unix.ISIG
	mode.Lflag |= unix.ICANON | unix.IEXTEN
	for i := range mode.Cc {
		switch i {
		case unix.VEOF, unix.VLNEXT, unix.VMIN, unix.VTIME:
		default:
			mode.Cc[i] = 0 // _POSIX_VDISABLE on Linux
		}
	}
	return unix.IoctlSetTermios(fd, unix.TCSETS, mode)
}

// The control characters that plain leaves special, termios(3).
const (
	eofChar   = 0x04 // VEOF, Ctrl-D
	lnextChar = 0x16 // VLNEXT, Ctrl-V: the next byte is not special
)

// write types p at the terminal. It waits while that takes no more, until ctx
// is done, and returns how many bytes were taken.
func (t *tty) write(ctx context.Context, p []byte) (n int, err error) {
	err = t.until(ctx, func() error {
		n, err = t.typeText(ctx, p)
		return err
	})
	if n > 0 {
		t.mu.Lock()
		t.atEOL = p[n-1] == '\n'
		t.mu.Unlock()
	}
	return n, err
}

// until runs f, which writes to the terminal, when nobody else does. The write
// fails once ctx is done; the error then is ctx's cause.
func (t *tty) until(ctx context.Context, f func() error) error {
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-t.turn }()
	err := f()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("type at the inferior's terminal: %w", err)
}

// again is how soon a write is tried again that waits for room: the kernel does
// not tell of all the room that comes to be (n_tty hands over the buffer later).
const again = 50 * time.Millisecond

// put writes p to the terminal. It waits while that takes no more, until ctx is
// done, and returns how many bytes were taken. Only until's function calls it.
func (t *tty) put(ctx context.Context, p []byte) (n int, err error) {
	stop := context.AfterFunc(ctx, func() { t.master.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if err := t.master.SetWriteDeadline(time.Now().Add(again)); err != nil {
			return n, err
		}
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		k, err := t.master.Write(p[n:])
		n += k
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// typeText writes p, each special character quoted, and returns how many of
// its bytes were taken.
func (t *tty) typeText(ctx context.Context, p []byte) (n int, err error) {
	for n < len(p) {
		// Up to a special character, so that what was taken can be counted.
		end := n + len(p[n:])
		if !t.typist {
			if i := bytes.IndexAny(p[n:], "\x04\x16"); i == 0 {
				if _, err := t.put(ctx, []byte{lnextChar, p[n]}); err != nil {
					return n, err
				}
				n++
				continue
			} else if i > 0 {
				end = n + i
			}
		}
		k, err := t.put(ctx, p[n:end])
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// eof types the end of a file. It waits like write.
func (t *tty) eof(ctx context.Context) error {
	t.mu.Lock()
	eof := []byte{eofChar}
	if !t.atEOL {
		eof = []byte{eofChar, eofChar} // the first only hands over the open line
	}
	t.atEOL = true
	t.mu.Unlock()
	return t.until(ctx, func() error {
		_, err := t.put(ctx, eof)
		return err
	})
}

// endsOfInput is how many reads are told that the input is at its end: each
// takes one end-of-file character, and programs read on after the first.
const endsOfInput = 64

// noInput throws away what was typed and ends the input of the next inferior.
func (t *tty) noInput() {
	// A terminal that hung up has no input either.
	_ = control(t.slave, func(fd int) error { return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) })
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = t.until(ctx, func() error {
		_, err := t.put(ctx, bytes.Repeat([]byte{eofChar}, endsOfInput))
		return err
	})
}

// resize sets the terminal's size in characters.
func (t *tty) resize(rows, cols uint16) error {
	return control(t.master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

// copyOutput hands on what is written to the terminal, without the marks of drain.
func (t *tty) copyOutput(out io.Writer) {
	defer close(t.done)
	buf := make([]byte, 32<<10)
	var held []byte // the end of what was read, when it may begin a mark
	for {
		n, err := t.master.Read(buf)
		if n > 0 {
			data := append(held, buf[:n]...)
			data, held = t.takeMarks(out, data)
			t.hand(out, data)
			held = bytes.Clone(held)
		}
		if err != nil {
			return
		}
	}
}

// hand hands text on. A writer that fails loses the text, not the inferior.
func (t *tty) hand(out io.Writer, text []byte) {
	t.handing.Store(true)
	defer t.handing.Store(false)
	out.Write(text)
}

// takeMarks writes what stands before each whole mark in data, takes the mark
// out and reports it. It returns what is left, cut where a mark may begin.
func (t *tty) takeMarks(out io.Writer, data []byte) (rest, held []byte) {
	for {
		before, after, seen, more := t.cutMark(data)
		if seen == nil {
			data = after
			if i := bytes.LastIndexByte(data, markByte); more && i >= 0 && len(data)-i < markLen {
				return data[:i], data[i:]
			}
			return data, nil
		}
		t.hand(out, before)
		close(seen)
		data = after
	}
}

// cutMark cuts data around the first whole mark in it, if there is one, and
// forgets that mark. more says that others are still to come.
func (t *tty) cutMark(data []byte) (before, after []byte, seen chan struct{}, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first, name := len(data), ""
	for mark := range t.marks {
		if i := bytes.Index(data[:min(len(data), first+len(mark))], []byte(mark)); i >= 0 {
			first, name = i, mark
		}
	}
	if name == "" {
		return nil, data, nil, len(t.marks) > 0
	}
	seen = t.marks[name]
	delete(t.marks, name)
	return data[:first], data[first+len(name):], seen, len(t.marks) > 0
}

// A mark is a byte that text does not hold and random hex digits: no output
// processing of a terminal changes it.
const (
	markByte = 0x10
	markLen  = 1 + 32
)

// drainLimit is how long drain waits for a terminal that hands on nothing: one
// that was stopped (Ctrl-S) holds the mark up.
const drainLimit = time.Second

// drain returns when everything that was written to the terminal before the
// call has been handed on. Where that takes longer than drainLimit, it goes on
// waiting for whoever takes the text, until ctx is done.
func (t *tty) drain(ctx context.Context) {
	late := time.NewTicker(drainLimit)
	defer late.Stop()
	t.drainUntil(ctx, late.C)
}

// drainUntil is drain with what tells that drainLimit is over once more.
func (t *tty) drainUntil(ctx context.Context, late <-chan time.Time) {
	var id [16]byte
	rand.Read(id[:])
	mark := string(rune(markByte)) + hex.EncodeToString(id[:])
	seen := make(chan struct{})
	t.mu.Lock()
	t.marks[mark] = seen
	t.mu.Unlock()
	go t.slave.WriteString(mark) // on a stopped terminal it waits
	for {
		select {
		case <-seen:
			return
		case <-t.done:
			return
		case <-late:
			if ctx.Err() != nil || !t.handing.Load() {
				return
			}
		}
	}
}

// Close hangs the terminal up, and waits until what was read from it is handed
// on or ctx is done.
func (t *tty) Close(ctx context.Context) error {
	err := errors.Join(t.slave.Close(), t.master.Close())
	select {
	case <-t.done:
	case <-ctx.Done():
	}
	return err
}
