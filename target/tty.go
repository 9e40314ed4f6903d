package target

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

	mu    sync.Mutex
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
		done: make(chan struct{}), marks: make(map[string]chan struct{}), atEOL: true,
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
	stop := context.AfterFunc(ctx, func() { t.master.SetWriteDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			t.master.SetWriteDeadline(time.Time{})
		}
	}()
	for n < len(p) {
		// Up to a special character, so that what was taken can be counted.
		end := n + len(p[n:])
		if !t.typist {
			if i := bytes.IndexAny(p[n:], "\x04\x16"); i == 0 {
				if _, err := t.master.Write([]byte{lnextChar, p[n]}); err != nil {
					return n, typeError(ctx, err)
				}
				n++
				continue
			} else if i > 0 {
				end = n + i
			}
		}
		k, err := t.master.Write(p[n:end])
		n += k
		if err != nil {
			return n, typeError(ctx, err)
		}
	}
	if n > 0 {
		t.mu.Lock()
		t.atEOL = p[n-1] == '\n'
		t.mu.Unlock()
	}
	return n, nil
}

func typeError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("type at the inferior's terminal: %w", err)
}

// eof types the end of a file.
func (t *tty) eof() error {
	t.mu.Lock()
	eof := []byte{eofChar}
	if !t.atEOL {
		eof = []byte{eofChar, eofChar} // the first only hands over the open line
	}
	t.atEOL = true
	t.mu.Unlock()
	if _, err := t.master.Write(eof); err != nil {
		return fmt.Errorf("end the inferior's input: %w", err)
	}
	return nil
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
			// A writer that fails loses the text, not the inferior.
			out.Write(data)
			held = bytes.Clone(held)
		}
		if err != nil {
			return
		}
	}
}

// takeMarks writes what stands before each whole mark in data, takes the mark
// out and reports it. It returns what is left, cut where a mark may begin.
func (t *tty) takeMarks(out io.Writer, data []byte) (rest, held []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for mark, seen := range t.marks {
		if i := bytes.Index(data, []byte(mark)); i >= 0 {
			out.Write(data[:i])
			data = data[i+len(mark):]
			close(seen)
			delete(t.marks, mark)
		}
	}
	if len(t.marks) == 0 {
		return data, nil
	}
	if i := bytes.LastIndexByte(data, markByte); i >= 0 && len(data)-i < markLen {
		return data[:i], data[i:]
	}
	return data, nil
}

// A mark is a byte that text does not hold and random hex digits: no output
// processing of a terminal changes it.
const (
	markByte = 0x10
	markLen  = 1 + 32
)

// drain returns when everything that was written to the terminal before the
// call has been handed on, or when ctx ends.
func (t *tty) drain(ctx context.Context) {
	var id [16]byte
	rand.Read(id[:])
	mark := string(rune(markByte)) + hex.EncodeToString(id[:])
	seen := make(chan struct{})
	t.mu.Lock()
	t.marks[mark] = seen
	t.mu.Unlock()
	// A stopped terminal (Ctrl-S) would hold the write up.
	go t.slave.WriteString(mark)
	select {
	case <-seen:
	case <-t.done:
	case <-ctx.Done():
	}
}

// Close hangs the terminal up.
func (t *tty) Close() error {
	err := errors.Join(t.slave.Close(), t.master.Close())
	<-t.done
	return err
}
