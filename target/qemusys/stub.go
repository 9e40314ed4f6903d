package qemusys

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dbgsh/pt"
	"dbgsh/target/gdb"
)

// stubPhys reads physical memory by way of the stub: in its physical mode, or on a
// slow line by QEMU's monitor. It asks for nothing but memory: a device may take
// being read for an order, and where there is nothing the stub answers zeros.
//
// Pages are fetched many at a time, since an answer of GDB's costs more than
// the bytes in it.
type stubPhys struct {
	*physView
	m    *Machine
	turn gdb.Turn // in physical mode
	ctx  context.Context

	// get fetches pages that are memory. The error is one after which nothing
	// can be fetched any more.
	get   func(pages []uint64) error
	batch int // how many pages to fetch with the next command

	pages   map[uint64][]byte // guestPage bytes each, by physical address
	bad     map[uint64]error  // pages that cannot be read, and why
	missing map[uint64]bool   // pages that were asked for and not fetched yet
}

// newStubPhys is one that is yet to be told how to get pages.
func newStubPhys(ctx context.Context, m *Machine) *stubPhys {
	return &stubPhys{m: m, ctx: ctx, batch: 1, pages: map[uint64][]byte{}, bad: map[uint64]error{}, missing: map[uint64]bool{}}
}

const (
	// physPiece is the most bytes of one packet: two hex digits each in the
	// 4096 of QEMU's packets (MAX_PACKET_LENGTH, gdbstub.c).
	physPiece = 2048
	// physBatch is the most pages that are fetched with one command, 25 ms with
	// a stub on this machine; physTime is about how long one may take, since
	// ctx is looked at only between them.
	physBatch = 64
	physTime  = 200 * time.Millisecond
	// physWait bounds one command, which must not be interrupted: GDB would
	// take a packet's answer for that of the next one.
	physWait = 10 * time.Second
)

// stillPhysical is what to know where the mode cannot be set back: it outlives
// the connection.
const stillPhysical = `the stub may still take addresses as physical ones: "maint packet Qqemu.PhyMemMode:0" ends that`

// throughStub runs f on what is read by way of the stub.
func (l *look) throughStub(ctx context.Context, f func(*stubPhys) error) error {
	if l.m.answer >= slowAnswer && l.m.peer.Lines == anyLines && !l.m.noDump.Load() {
		s := newStubPhys(ctx, l.m)
		s.physView, s.get, s.batch = l.see(l.m.g.Query), s.dumpAll, 2*dumpAhead
		if err := f(s); !errors.Is(err, errNoDump) {
			return err
		}
		l.m.noDump.Store(true)
	}
	return l.inPhysicalMode(ctx, f)
}

// inPhysicalMode runs f while the stub takes addresses as physical ones
// (QEMU's Qqemu.PhyMemMode). Nothing else talks to GDB meanwhile. The mode is
// set back whatever happens; ctx ends f between two packets.
func (l *look) inPhysicalMode(ctx context.Context, f func(*stubPhys) error) (err error) {
	m := l.m
	turn, err := m.g.Turn(ctx)
	if err != nil {
		return err
	}
	defer turn.Release()
	s := newStubPhys(ctx, m)
	s.turn, s.get = turn, s.readAll
	s.physView = l.see(func(_ context.Context, line string) (string, error) { return s.console(line) })
	was, err := s.packet("qqemu.PhyMemMode")
	if err != nil {
		return err
	}
	if was != "0" && was != "1" {
		return errors.New("the stub has no physical mode (QEMU before 4.1)")
	}
	m.physMode.Store(was == "1")
	defer func() {
		answer, back := s.packet("Qqemu.PhyMemMode:" + was)
		if back == nil && answer != "OK" {
			back = fmt.Errorf("the stub answers %q", answer)
		}
		if back == nil {
			return
		}
		m.physMode.Store(true)
		if err == nil {
			err = back
		}
		var lost *gdb.LostError
		switch {
		case errors.As(err, &lost) && lost.What != "GDB": // so is the mode
		case err == back:
			err = fmt.Errorf("%w; %s", back, stillPhysical)
		default:
			err = fmt.Errorf("%w; %w; %s", err, back, stillPhysical)
		}
	}()
	answer, err := s.packet("Qqemu.PhyMemMode:1")
	if err != nil {
		return err
	}
	if answer != "OK" {
		return fmt.Errorf("physical mode: the stub answers %q", answer)
	}
	return f(s)
}

// packet is a packet that is answered soon.
func (s *stubPhys) packet(p string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), physWait)
	defer cancel()
	return s.turn.Packet(ctx, p)
}

// console runs a line that is over soon.
func (s *stubPhys) console(line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), physWait)
	defer cancel()
	return s.turn.Query(ctx, line)
}

// rounds runs f over and over, each time with the pages fetched that it asked
// for in vain the time before, until it has all. A walk takes one more than
// there are levels.
func (s *stubPhys) rounds(f func(pt.Phys) error) error {
	for {
		if err := f(s); err != nil || len(s.missing) == 0 {
			return err
		}
		if err := s.fetch(); err != nil {
			return err
		}
	}
}

// errNotFetched says that a page is there in the next round.
var errNotFetched = errors.New("not fetched yet")

// ReadPhys implements pt.Phys.
func (s *stubPhys) ReadPhys(p []byte, pa uint64) (err error) {
	for len(p) > 0 {
		page, off := pa&^(guestPage-1), pa&(guestPage-1)
		k := min(len(p), int(guestPage-off))
		if b, ok := s.pages[page]; ok {
			copy(p[:k], b[off:])
		} else if bad, ok := s.bad[page]; ok {
			return bad
		} else {
			s.missing[page] = true
			err = errNotFetched
		}
		p, pa = p[k:], pa+uint64(k)
	}
	return err
}

// fetch gets the missing pages. The error is one after which nothing can be
// fetched any more.
func (s *stubPhys) fetch() error {
	var pages []uint64
	for pa := range s.missing {
		n, err := s.memory(s.ctx, pa)
		switch {
		case final(s.ctx, err):
			return errors.Join(context.Cause(s.ctx), err)
		case err == nil && n < guestPage:
			err = notRAM(pa + n)
		case err == nil && s.hidden(pa):
			err = &hiddenError{pa}
		}
		if err != nil {
			s.bad[pa] = err
			continue
		}
		pages = append(pages, pa)
	}
	clear(s.missing)
	slices.Sort(pages)
	return s.get(pages)
}

// readAll gets pages in physical mode.
func (s *stubPhys) readAll(pages []uint64) error {
	for len(pages) > 0 {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		batch := pages[:min(len(pages), s.batch)]
		pages = pages[len(batch):]
		start := time.Now()
		ok, err := s.readBatch(batch)
		if err != nil {
			return fmt.Errorf("read %d pages from physical address %#x on through the stub: %w", len(batch), batch[0], err)
		}
		for i := 0; i < len(batch) && !ok; i++ {
			if s.ctx.Err() != nil {
				return context.Cause(s.ctx)
			}
			b := make([]byte, guestPage)
			if err := s.readPage(b, batch[i]); final(s.ctx, err) {
				return err
			} else if err != nil {
				s.bad[batch[i]] = err
			} else {
				s.pages[batch[i]] = b
			}
		}
		took := time.Since(start) / time.Duration(len(batch))
		s.batch = int(min(physBatch, max(1, physTime/max(1, took))))
	}
	return nil
}

// hidden reports whether the page at pa is memory that the system does not see.
func (s *stubPhys) hidden(pa uint64) bool {
	if s.plain == nil {
		return false
	}
	own, _ := blockAt(s.blocks, pa)
	system, ok := blockAt(s.plain, pa)
	return !ok || system.Name != own.Name
}

// readBatch reads pages with one command; ok is false where GDB will not. The
// addresses are those of an array of GDB's own making, whose elements it reads
// one after the other and writes to a file.
func (s *stubPhys) readBatch(pages []uint64) (ok bool, err error) {
	if !s.m.wide && pages[len(pages)-1]>>32 != 0 {
		return false, nil // GDB would cut the addresses to 32 bits
	}
	var elements strings.Builder
	for i, pa := range pages {
		if i > 0 {
			elements.WriteByte(',')
		}
		fmt.Fprintf(&elements, "*(unsigned char(*)[%d])%#x", guestPage, pa)
	}
	data, err := gdb.ThroughFile(func(name string) error {
		_, err := s.console(fmt.Sprintf("with max-value-size unlimited -- with language c -- dump binary value %s {%s}", name, elements.String()))
		return err
	})
	if gdb.Unreadable(err) {
		return false, nil
	}
	if err != nil || len(data) != len(pages)*guestPage {
		return false, err
	}
	for i, pa := range pages {
		s.pages[pa] = data[i*guestPage : (i+1)*guestPage]
	}
	return true, nil
}

// readPage reads a page by the packets that read memory.
func (s *stubPhys) readPage(p []byte, pa uint64) error {
	for off := 0; off < len(p); off += physPiece {
		answer, err := s.packet(fmt.Sprintf("m%x,%x", pa+uint64(off), physPiece))
		if err != nil {
			return err
		}
		if len(answer) != 2*physPiece {
			return notRAM(pa + uint64(off))
		}
		if _, err := hex.Decode(p[off:], []byte(answer)); err != nil {
			return fmt.Errorf("read physical address %#x: %w", pa, err)
		}
	}
	return nil
}
