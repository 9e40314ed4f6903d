package qemusys

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// On a slow line it is answers that count, not bytes: the stub's packets hold half
// a page each, while the monitor prints any number of pages in one go, in ten
// times as many bytes. What it prints is physical memory as the system sees it,
// and no mode has to be set for it.
const (
	// slowAnswer is from when on that is quicker: the monitor prints a page, and
	// GDB takes it, in about 3 ms on one machine.
	slowAnswer = 10 * time.Millisecond
	// dumpMost is the most pages of one command: 256 lines each, of which GDB
	// acknowledges every one while QEMU reads nothing (see widen).
	dumpMost = 64
	// dumpTime is about how long a command may take, since ctx is looked at only
	// between them.
	dumpTime = time.Second
	// dumpGap is how many pages are passed over and printed as well, rather than
	// waiting for another answer.
	dumpGap = 4
	// dumpAhead is the pages around one that are printed with it: tables lie
	// close together, and the next level's are not known yet.
	dumpAhead = 8
)

// errNoDump says that the monitor does not print memory as it is known to, or that
// this takes longer than packets would: the line is narrow, too.
var errNoDump = errors.New("QEMU's monitor is not to print memory")

// dumpAll gets pages by the monitor.
func (s *stubPhys) dumpAll(pages []uint64) error {
	for _, r := range s.runs(pages) {
		for first := r.first; first <= r.last; {
			if s.ctx.Err() != nil {
				return context.Cause(s.ctx)
			}
			n := int(min((r.last-first)/guestPage+1, uint64(s.batch)))
			start := time.Now()
			if err := s.dump(first, n); err != nil {
				return err
			}
			page := time.Since(start) / time.Duration(n)
			if n >= dumpAhead && page > 2*s.m.answer { // a page is two packets
				return errNoDump
			}
			s.batch = int(max(1, min(dumpMost, dumpTime/max(1, page))))
			first += uint64(n) * guestPage
		}
	}
	return nil
}

// pageRun is pages from one to another, both included, by their addresses.
type pageRun struct{ first, last uint64 }

// runs is pages, which are sorted, with those between and around that are memory
// of the same block, and not here yet.
func (s *stubPhys) runs(pages []uint64) (runs []pageRun) {
	for _, pa := range pages {
		if n := len(runs); n > 0 && pa <= runs[n-1].last {
			continue
		}
		r := pageRun{pa, pa}
		if b, ok := s.block(pa); ok && s.plain == nil {
			ahead := pageRun{pa &^ (dumpAhead*guestPage - 1), pa | (dumpAhead-1)*guestPage}
			first, last := b.Start+(-b.Start)%guestPage, (b.Last()+1)&^(guestPage-1)-guestPage
			r = pageRun{max(min(ahead.first, pa), min(first, pa)), min(ahead.last, max(last, pa))}
		}
		if n := len(runs); n > 0 && r.first <= runs[n-1].last+dumpGap*guestPage {
			if b, ok := s.block(runs[n-1].last); ok && b.Contains(pa) {
				runs[n-1].last = max(runs[n-1].last, r.last)
				continue
			}
		}
		runs = append(runs, r)
	}
	return runs
}

// dump has the monitor print n pages from one on.
func (s *stubPhys) dump(first uint64, n int) error {
	text, err := s.m.printed(s.ctx, fmt.Sprintf("monitor xp /%dgx %#x", n*guestPage/8, first))
	if err != nil {
		return fmt.Errorf("have QEMU's monitor print %d pages from physical address %#x on: %w", n, first, err)
	}
	b, ok := parseDump(text, first)
	if !ok || len(b) != n*guestPage {
		return errNoDump
	}
	for i := range n {
		s.pages[first+uint64(i)*guestPage] = b[i*guestPage:][:guestPage]
	}
	return nil
}

// printed is what the monitor prints of a line that is over soon. It must not be
// interrupted, for the same reason as packets must not (see physWait).
func (m *Machine) printed(ctx context.Context, line string) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), physWait)
	defer cancel()
	return m.g.LongQuery(ctx, line)
}

// parseDump reads what xp of QEMU's monitor prints of words of 8 bytes of a machine
// that is little-endian, from an address on:
//
//	0000000000001000: 0x0000000000102063 0x0000000000000000
func parseDump(text string, first uint64) (b []byte, ok bool) {
	for line := range strings.Lines(text) {
		at, words, found := strings.Cut(line, ":")
		addr, err := strconv.ParseUint(strings.TrimSpace(at), 16, 64)
		if !found || err != nil || addr != first+uint64(len(b)) {
			return nil, false
		}
		for _, w := range strings.Fields(words) {
			v, err := strconv.ParseUint(w, 0, 64)
			if err != nil || len(w) != len("0x0123456789abcdef") {
				return nil, false
			}
			b = binary.LittleEndian.AppendUint64(b, v)
		}
	}
	return b, len(b) > 0
}
