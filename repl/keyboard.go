package repl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// keyboard carries what is typed to the inferior.
type keyboard struct {
	mu      sync.Mutex
	pending []byte // read, but not yet taken by the inferior
	midLine bool   // what was read last did not end its line
}

// forwardInput makes Stdin the inferior's while the target runs, until stop
// is called. Not a byte is read at any other time.
func (sh *Shell) forwardInput(ctx context.Context) (stop func()) {
	if sh.Stdin == nil || sh.StdinIsScript {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		sh.typed.forward(ctx, sh.Stdin, sh.Debugger)
	}()
	return func() {
		cancel()
		<-done
	}
}

// forward feeds the inferior whenever it runs, until ctx is done.
func (k *keyboard) forward(ctx context.Context, in *os.File, d Debugger) {
	for {
		running, changed := d.Running()
		if running {
			run, cancel := context.WithCancel(ctx)
			fed := make(chan struct{})
			go func() {
				defer close(fed)
				k.feed(run, int(in.Fd()), d)
			}()
			select {
			case <-changed:
			case <-ctx.Done():
			}
			cancel()
			<-fed
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// feed types what it reads from fd to the inferior, until ctx is done or
// there is no more.
func (k *keyboard) feed(ctx context.Context, fd int, d Debugger) {
	ctx, cancel := context.WithCancel(ctx)
	f := &feeding{ended: make(chan struct{}), more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		k.read(ctx, fd, f)
	}()
	k.write(ctx, d, f)
	cancel()
	<-read
}

// feeding is what the two halves of feed tell each other.
type feeding struct {
	ended      chan struct{} // closed when there is no more to read
	more, room chan struct{} // pending has grown, or is empty
}

func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// maxAhead bounds what is kept, in bytes, of what was typed ahead at a
// terminal; what comes then is lost, as in a terminal's own full queue.
const maxAhead = 1 << 20

// read reads what is typed. A terminal is read also while the inferior takes
// nothing: behind a full queue the kernel does not see Ctrl-C. Of anything else
// no more is taken than the inferior takes.
func (k *keyboard) read(ctx context.Context, fd int, f *feeding) {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	terminal := err == nil
	if terminal {
		if own, err := openNonblocking(fd); err == nil {
			defer unix.Close(own)
			fd = own
		}
	}
	buf := make([]byte, 4096)
	for {
		for !terminal && len(k.waiting()) > 0 {
			select {
			case <-f.room:
			case <-ctx.Done():
				return
			}
		}
		if !readable(ctx, fd) {
			return
		}
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case n > 0:
			k.add(buf[:n])
			tell(f.more)
		default: // the end, or a terminal that hung up
			close(f.ended)
			return
		}
	}
}

// openNonblocking opens the terminal behind fd once more. Ctrl-C empties its
// queue, also between a poll that saw something there and the read, which would
// then wait; and fd itself is shared with whoever started dbgsh.
func openNonblocking(fd int) (int, error) {
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	if _, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil { // ours, whoever owns it
		path = "/dev/tty"
	}
	return unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

// write types what was read, until ctx is done, nobody takes it, or all is
// typed and the end is told.
func (k *keyboard) write(ctx context.Context, d Debugger, f *feeding) {
	for {
		if p := k.waiting(); len(p) > 0 {
			n, err := d.Keyboard(ctx, p)
			k.remove(n)
			if ctx.Err() != nil {
				return
			}
			if err != nil || n == 0 {
				k.drop()
				return
			}
			tell(f.room)
			continue
		}
		select {
		case <-f.more:
		case <-ctx.Done():
			return
		case <-f.ended:
			if len(k.waiting()) > 0 {
				continue
			}
			if k.midLine { // VEOF behind text only hands the text over, termios(3)
				k.midLine = false
				d.KeyboardEOF(ctx)
			}
			d.KeyboardEOF(ctx)
			return
		}
	}
}

// waiting is what the inferior has not taken yet. It stays as it is.
func (k *keyboard) waiting() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pending
}

func (k *keyboard) add(p []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.midLine = p[len(p)-1] != '\n' && p[len(p)-1] != '\r'
	k.pending = append(k.pending, p[:min(len(p), maxAhead-len(k.pending))]...)
}

func (k *keyboard) remove(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pending = k.pending[n:]; len(k.pending) == 0 {
		k.pending = nil
	}
}

// drop forgets what the inferior has not taken.
func (k *keyboard) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending = nil
}

// readable waits until fd can be read without waiting, and reports false if
// ctx is done before.
func readable(ctx context.Context, fd int) bool {
	if ctx.Err() != nil {
		return false
	}
	wake, waker, err := os.Pipe()
	if err != nil {
		return false
	}
	defer wake.Close()
	stop := context.AfterFunc(ctx, func() { waker.Close() })
	defer func() {
		if stop() {
			waker.Close()
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil, fds[1].Revents != 0, ctx.Err() != nil:
			return false
		case fds[0].Revents != 0:
			return true
		}
	}
}
