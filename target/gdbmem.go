package target

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"

	"dbgsh/target/mi"
)

// gdbMemory reads memory through GDB: whatever the target is, and slowly.
type gdbMemory struct {
	t      *Target
	remote bool // behind a stub, where big pieces pay
}

// miPiece is the most bytes that are read with one MI command, where two hex
// digits stand for each; dumpPiece the most that GDB is told to write to a file,
// which it does not let itself be stopped in.
const (
	miPiece   = 16 << 10
	dumpPiece = 1 << 20
)

// ReadMemory implements vm.Reader.
func (g gdbMemory) ReadMemory(ctx context.Context, p []byte, addr uint64) (n int, err error) {
	for n < len(p) {
		want := min(len(p)-n, dumpPiece)
		if g.remote && want > miPiece {
			ok, err := g.dump(ctx, p[n:n+want], addr+uint64(n))
			if err != nil {
				return n, err
			}
			if ok {
				n += want
				continue
			}
		}
		// In smaller pieces, to find out how far it can be read.
		want = min(want, miPiece)
		k, err := g.read(ctx, p[n:n+want], addr+uint64(n))
		n += k
		if err != nil || k < want {
			return n, err
		}
	}
	return n, nil
}

// dump reads all of p by way of a file; ok is false where GDB cannot read all of it.
func (g gdbMemory) dump(ctx context.Context, p []byte, addr uint64) (ok bool, err error) {
	f, err := os.CreateTemp("", "dbgsh-memory-*")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	_, err = g.t.query(ctx, fmt.Sprintf("dump binary memory %s %#x %#x", f.Name(), addr, addr+uint64(len(p))))
	var said *mi.Error
	if errors.As(err, &said) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// GDB may have made the file anew, so it is read by its name.
	text, err := os.ReadFile(f.Name())
	if err != nil || len(text) != len(p) {
		return false, err
	}
	copy(p, text)
	return true, nil
}

// read is one command. GDB leaves out what it cannot read, and answers with an
// error if that is everything.
func (g gdbMemory) read(ctx context.Context, p []byte, addr uint64) (int, error) {
	res, err := g.t.send(ctx, "data-read-memory-bytes", fmt.Sprintf("%#x", addr), strconv.Itoa(len(p)))
	var said *mi.Error
	switch {
	case errors.As(err, &said):
		return 0, nil
	case err != nil:
		return 0, err
	}
	for _, block := range res.Tuples("memory") {
		begin, ok := block.Uint("begin")
		if !ok || begin != addr {
			continue
		}
		n, err := hex.Decode(p, []byte(block.Str("contents")))
		if err != nil {
			return 0, fmt.Errorf("read %#x: GDB's answer is not hex: %w", addr, err)
		}
		return n, nil
	}
	return 0, nil
}

// Close implements commands.MemoryReader.
func (gdbMemory) Close() error { return nil }
