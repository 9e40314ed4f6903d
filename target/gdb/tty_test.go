package gdb

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
)

// full tells whether the terminal takes nothing at the moment.
func full(t testing.TB, tty *tty) bool {
	t.Helper()
	fds := []unix.PollFd{{Events: unix.POLLOUT}}
	if err := control(tty.master, func(fd int) error {
		fds[0].Fd = int32(fd)
		_, err := unix.Poll(fds, 0)
		return err
	}); err != nil && !errors.Is(err, unix.EINTR) {
		t.Fatal(err)
	}
	return fds[0].Revents&unix.POLLOUT == 0
}

// givenUp types until the terminal is full, and gives up then; it is how many
// bytes were taken, and the error.
func givenUp(t testing.TB, tty *tty, text []byte) (n int, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	go func() {
		n, err = tty.write(ctx, text)
		close(done)
	}()
	testkit.WaitFor(t, "full terminal", func() bool { return full(t, tty) })
	cancel()
	<-done
	return n, err
}

// Nobody reads what is typed: the write ends with its context all the same,
// and the terminal can be closed meanwhile.
func TestKeyboardIsFull(t *testing.T) {
	for _, person := range []bool{true, false} {
		tty, err := openTTY(person, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		text := bytes.Repeat([]byte("0123456789\n"), 100000) // more than the kernel holds
		n, err := givenUp(t, tty, text)
		if !errors.Is(err, context.Canceled) || n == 0 || n == len(text) {
			t.Errorf("person %v: %d of %d bytes taken, %v", person, n, len(text), err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := tty.write(context.Background(), text)
			done <- err
		}()
		if err := tty.resize(10, 20); err != nil {
			t.Error(err)
		}
		if err := tty.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil {
			t.Error("a closed terminal took the text")
		}
	}
}

// A context that ends a write at any moment takes nothing from the next one.
func TestTypingAfterCancel(t *testing.T) {
	tty, err := openTTY(true, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close(context.Background())
	for range 5000 {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		if _, err := tty.write(ctx, []byte("a\n")); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := tty.write(context.Background(), []byte("b\n")); err != nil {
			t.Fatal(err)
		}
		// Nobody reads what is typed.
		if err := unix.IoctlSetInt(int(tty.slave.Fd()), unix.TCFLSH, unix.TCIOFLUSH); err != nil {
			t.Fatal(err)
		}
	}
}

// The end of input waits for room, and for no longer than its context.
func TestEndOfInputIsBounded(t *testing.T) {
	tty, err := openTTY(true, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close(context.Background())
	if _, err := givenUp(t, tty, bytes.Repeat([]byte("0123456789\n"), 100000)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { // the last of the room
		var err error
		for err == nil {
			err = tty.eof(ctx)
		}
		ended <- err
	}()
	testkit.WaitFor(t, "full terminal", func() bool { return full(t, tty) })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// stuck is a writer that takes nothing until it is closed.
type stuck struct{ entered, free chan struct{} }

func (s *stuck) Write(p []byte) (int, error) {
	select {
	case s.entered <- struct{}{}:
	default:
	}
	<-s.free
	return len(p), nil
}

// A terminal whose text nobody takes can be drained and closed.
func TestCloseWhileOutputIsStuck(t *testing.T) {
	out := &stuck{make(chan struct{}, 1), make(chan struct{})}
	defer close(out.free)
	tty, err := openTTY(false, out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tty.slave.WriteString("text"); err != nil {
		t.Fatal(err)
	}
	<-out.entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	tty.drain(ctx)
	if err := tty.Close(ctx); err != nil {
		t.Error(err)
	}
}

// Text that is taken slowly is waited for.
func TestDrainWaitsForTheReader(t *testing.T) {
	out := &stuck{make(chan struct{}, 1), make(chan struct{})}
	tty, err := openTTY(false, out)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close(context.Background())
	if _, err := tty.slave.WriteString("text"); err != nil {
		t.Fatal(err)
	}
	<-out.entered
	drained, late := make(chan struct{}), make(chan time.Time)
	go func() {
		tty.drainUntil(context.Background(), late)
		close(drained)
	}()
	for range 3 {
		select {
		case <-drained:
			t.Fatal("the text was not taken yet")
		case late <- time.Now(): // it waits on
		}
	}
	close(out.free)
	<-drained
}
