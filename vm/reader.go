package vm

import (
	"context"
	"fmt"
)

// Reader reads the memory of the debuggee. n < len(p) means that the byte at
// addr+n cannot be read; err then says why, or is nil where that is all there
// is to say. A cancelled context ends the read with the context's error.
type Reader interface {
	ReadMemory(ctx context.Context, p []byte, addr uint64) (n int, err error)
}

// Memory is a Reader of a debuggee's memory that is open until it is closed.
type Memory interface {
	Reader
	Close() error
}

// Noter is a Reader that says what reading has done to the debuggee and what it
// could not do, one sentence each.
type Noter interface {
	Notes() []string
}

// Extent is a part of a mapping as a Sparse reader describes it.
type Extent struct {
	Range
	// Unreadable says that every read in the extent fails, as on guard pages.
	Unreadable bool
	// Swapped says that the extent is not in RAM, see ErrSwapped.
	Swapped bool
}

// Sparse is a Reader that knows which parts of memory can hold anything but
// zeros.
type Sparse interface {
	// Populated answers for the first bytes of r, which lies in one mapping, one
	// of which Mapping.Sparse is true:
	// it stores up to len(into) extents, ascending and disjoint, and returns
	// their number and for how many bytes of r, more than zero, they are the
	// whole answer. What lies in those bytes outside the extents reads as
	// zeros. An error other than the context's and ErrProcessGone means that
	// it cannot tell for this mapping; its text is the reason.
	Populated(ctx context.Context, r Range, into []Extent) (n int, known uint64, err error)
}

// MappingReader is a Reader that reads more gently where it is told in which
// mapping the bytes lie. Its method keeps the contract of Reader; the bytes
// from addr to addr+len(p) are all in m.
type MappingReader interface {
	ReadMapping(ctx context.Context, m Mapping, p []byte, addr uint64) (n int, err error)
}

// Swapper is a Reader of memory of which a part may be in swap. Reading that part
// brings it back into RAM, which takes it out of the debuggee's VmSwap.
type Swapper interface {
	// LeaveSwapped says whether ReadMapping leaves out what is in swap: it then
	// fails there with an error that wraps ErrSwapped, an UnreadableError where it
	// knows how far that goes. It is not called while anybody reads.
	LeaveSwapped(leave bool)
}

// Prober is a Reader that says how many unreadable pages in a row are worth a
// read each, at least 1: few where every read is a question to somebody else.
type Prober interface {
	Probes() int
}

// UnreadableError is returned by a Reader that knows how far the memory goes
// that it could not read.
type UnreadableError struct {
	Range Range // holds the first byte that was not read; nothing in it can be read
	Err   error
}

// Error names the range and the cause.
func (e *UnreadableError) Error() string { return fmt.Sprintf("read %v: %v", e.Range, e.Err) }

// Unwrap is the cause.
func (e *UnreadableError) Unwrap() error { return e.Err }

// Finder is a Reader of memory that is searched better where it is than by
// reading it, as behind a stub that knows how.
type Finder interface {
	// FindBytes tells of the addresses at which the needle stands whole within
	// r, ascending, overlapping ones too. What found returns, more than addr, is
	// the lowest place for the next, and whether one is wanted at all; it may
	// read memory. Known is for how many bytes of r, from its start on, all
	// places that start there have been told; the rest is to be asked for
	// again. Known is 0 where it cannot tell, because the needle is not of a
	// kind that it can look for or because the bytes cannot be read. The error
	// is the context's, or says that there is nothing to ask any more; known
	// counts even then.
	FindBytes(ctx context.Context, r Range, needle []byte, found func(addr uint64) (next uint64, more bool)) (known uint64, err error)
}

// Aliased is a Reader of addresses behind which other memory stands, by page
// tables for one; some of that may stand at several addresses.
type Aliased interface {
	Reader
	// Backing is the address, in the memory behind, of the byte at addr; ok is
	// false where nothing is behind it, so that it cannot be read. The same
	// holds for n bytes from addr on, at least 1: all have nothing behind them,
	// or the n bytes from at on. addr and at are equal modulo
	// the page size of a search, and what cannot be read is whole pages of that size.
	// With an error, the context's for one, nothing is known.
	Backing(ctx context.Context, addr uint64) (at, n uint64, ok bool, err error)
	// Behind reads the memory behind by its own addresses, with as many
	// concurrent calls as the Aliased itself allows; nil where that cannot be.
	Behind() Reader
}
