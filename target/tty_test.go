package target

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

// Nobody reads what is typed: the write ends with its context all the same,
// and the terminal can be closed meanwhile.
func TestKeyboardIsFull(t *testing.T) {
	for _, person := range []bool{true, false} {
		tty, err := openTTY(person, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		text := bytes.Repeat([]byte("0123456789\n"), 100000) // more than the kernel holds
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		n, err := tty.write(ctx, text)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || n == 0 || n == len(text) {
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
		if err := tty.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil {
			t.Error("a closed terminal took the text")
		}
	}
}
