package gdb

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"dbgsh/vm"
)

// Memory reads memory through GDB: whatever the target is, and slowly. It may be
// used by several goroutines, one after the other.
type Memory struct {
	g      *GDB
	remote bool         // behind a stub, where big pieces pay
	dense  *atomic.Bool // what is searched for is so frequent that reading is quicker
}

// NewMemory is the memory of what g debugs; remote says that it is behind a stub.
func NewMemory(g *GDB, remote bool) Memory {
	return Memory{g: g, remote: remote, dense: new(atomic.Bool)}
}

// miPiece is the most bytes that are read with one MI command, where two hex
// digits stand for each; dumpPiece the most that GDB is told to write to a file,
// which it does not let itself be stopped in.
const (
	miPiece   = 16 << 10
	dumpPiece = 1 << 20
)

// ReadMemory implements vm.Reader.
func (m Memory) ReadMemory(ctx context.Context, p []byte, addr uint64) (n int, err error) {
	for n < len(p) {
		want := min(len(p)-n, dumpPiece)
		if m.remote && want > miPiece {
			ok, err := m.dump(ctx, p[n:n+want], addr+uint64(n))
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
		k, err := m.Read(ctx, p[n:n+want], addr+uint64(n))
		if err == nil && 0 < k && k < want {
			k, err = m.shorten(ctx, p[n:n+k], addr+uint64(n))
		}
		n += k
		if err != nil || k < want {
			return n, err
		}
	}
	return n, nil
}

// dump reads all of p by way of a file; ok is false where GDB cannot read all of it.
func (m Memory) dump(ctx context.Context, p []byte, addr uint64) (ok bool, err error) {
	text, err := ThroughFile(func(name string) error {
		_, err := m.g.Query(ctx, fmt.Sprintf("with language c -- dump binary memory %s %#x %#x", name, addr, addr+uint64(len(p))))
		return err
	})
	if Unreadable(err) {
		return false, nil
	}
	if err != nil || len(text) != len(p) {
		return false, err
	}
	copy(p, text)
	return true, nil
}

// Read is one command, for few bytes. GDB leaves out what it cannot read, and
// answers with an error if that is everything.
func (m Memory) Read(ctx context.Context, p []byte, addr uint64) (int, error) {
	// The address is an expression; not every language writes it so.
	res, err := m.g.Send(ctx, "data-read-memory-bytes", "--language", "c", fmt.Sprintf("%#x", addr), strconv.Itoa(len(p)))
	if Unreadable(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return memoryBytes(res, p, addr)
}

// memoryBytes is what -data-read-memory-bytes says of the bytes from addr on.
func memoryBytes(res Tuple, p []byte, addr uint64) (int, error) {
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

// shorten is the length of what GDB gives for memory that ends within the range
// asked for: GDB 13 hands over a byte more than can be read, with any value.
func (m Memory) shorten(ctx context.Context, p []byte, addr uint64) (int, error) {
	var last [1]byte
	n, err := m.Read(ctx, last[:], addr+uint64(len(p)-1))
	if err != nil {
		return 0, err
	}
	return len(p) - 1 + n, nil
}

// Unreadable reports whether GDB says that memory cannot be read (gdb/corefile.c,
// memory_error_message, and gdb/mi/mi-main.c), and nothing else.
func Unreadable(err error) bool {
	var said *Error
	return errors.As(err, &said) &&
		(strings.Contains(said.Msg, "Cannot access memory") || strings.Contains(said.Msg, "Unable to read memory"))
}

// Notes says what reading has done to the debuggee.
func (m Memory) Notes() []string {
	if m.remote {
		return []string{"read by the stub: pages that the debuggee had not touched yet may have been made present"}
	}
	return nil
}

// Close ends nothing: GDB stays.
func (Memory) Close() error { return nil }

// Probes implements vm.Prober: each is a question to GDB, and perhaps to a stub.
func (Memory) Probes() int { return 256 }

// The most bytes of a needle, which has to fit into a packet, and of a range,
// which the stub has to have searched before GDB's remotetimeout (2 s).
const (
	findNeedle = 256
	findPiece  = 64 << 20

	// A round trip for each hit is slower than reading where there are this many
	// hits with so few bytes between them.
	denseHits = 64
	denseGap  = 16 << 10
)

// FindBytes implements vm.Finder by the packet that GDB's find uses, with which
// a stub searches its own memory (qSearch:memory; GDB's manual, General Query
// Packets). It is sent without find, which takes a page that cannot be read for
// the end of the search and does not say so.
func (m Memory) FindBytes(ctx context.Context, r vm.Range, needle []byte, found func(addr uint64) (next uint64, more bool)) (known uint64, err error) {
	n := uint64(len(needle))
	if !m.remote || n == 0 || n > findNeedle || n > r.Size || m.dense.Load() {
		return 0, nil
	}
	pattern := escapePacket(needle)
	if strings.TrimRight(pattern, " \t") != pattern {
		// GDB drops blanks at the end of a line, and gdbserver ends the debuggee
		// over a packet that ends in the middle of a byte.
		return 0, nil
	}
	size := min(r.Size, findPiece)
	all := size
	if size < r.Size {
		all -= n - 1 // the needle may lie across the end of the piece
	}
	hits := uint64(0)
	for off := uint64(0); off < all && size-off >= n; {
		answer, err := m.g.Packet(ctx, fmt.Sprintf("qSearch:memory:%x;%x;%s", r.Start+off, size-off, pattern))
		if err != nil {
			return off, err
		}
		if answer == "0" {
			break
		}
		hex, hit := strings.CutPrefix(answer, "1,")
		addr, err := strconv.ParseUint(hex, 16, 64)
		if !hit || err != nil || addr-r.Start < off || addr-r.Start >= size {
			return off, nil // it cannot, or cannot read all of it
		}
		if hits++; hits >= denseHits && (addr-r.Start)/hits < denseGap {
			m.dense.Store(true)
			return addr - r.Start, nil // this hit is found again
		}
		next, more := found(addr)
		if !more || next <= addr {
			return min(addr-r.Start+1, all), nil
		}
		off = next - r.Start
	}
	return all, nil
}

// escapePacket writes bytes as the binary data of a packet (GDB's manual,
// Overview: a byte after 0x7d stands for itself with bit 5 turned). All that is
// no letter, digit or blank is written so, which keeps it through a line of
// GDB's; a blank would become a NUL, which cannot be kept.
func escapePacket(p []byte) string {
	var b strings.Builder
	for _, c := range p {
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == ' ' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte(0x7d)
		b.WriteByte(c ^ 0x20)
	}
	return b.String()
}
