package target

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"dbgsh/target/mi"
)

// gdbMemory reads memory through GDB: whatever the target is, and slowly.
type gdbMemory struct{ t *Target }

// gdbPiece is the most bytes that are read with one command; GDB sends two hex
// digits for each.
const gdbPiece = 16 << 10

// ReadMemory implements vm.Reader.
func (g gdbMemory) ReadMemory(ctx context.Context, p []byte, addr uint64) (n int, err error) {
	for n < len(p) {
		want := min(len(p)-n, gdbPiece)
		k, err := g.read(ctx, p[n:n+want], addr+uint64(n))
		n += k
		if err != nil || k < want {
			return n, err
		}
	}
	return n, nil
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
