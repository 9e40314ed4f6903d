package repl

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// keyboard carries what is typed to the inferior.
type keyboard struct {
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
	buf := make([]byte, 4096)
	for {
		for len(k.pending) > 0 {
			n, err := d.Keyboard(ctx, k.pending)
			k.pending = k.pending[n:]
			if ctx.Err() != nil {
				return
			}
			if err != nil || n == 0 {
				k.pending = nil
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
			k.pending = append(k.pending[:0], buf[:n]...)
			k.midLine = buf[n-1] != '\n' && buf[n-1] != '\r'
		default: // the end, or a terminal that hung up
			if k.midLine { // VEOF behind text only hands the text over, termios(3)
				k.midLine = false
				d.KeyboardEOF(ctx)
			}
			d.KeyboardEOF(ctx)
			return
		}
	}
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
func (k *keyboard) drop() { k.pending = nil }
