package target

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// fakeStub plays a bare machine behind a remote stub: memory that can be read, the
// regions that it declares, and a record of what was read.
type fakeStub struct {
	readable vm.Range
	regions  string // qXfer:memory-map, "" for none

	mu    sync.Mutex
	reads []vm.Range // since the last call of forget
}

func (s *fakeStub) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = nil
}

func (s *fakeStub) seen() []vm.Range {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// listen serves one connection and returns the address.
func (s *fakeStub) listen(t *testing.T) string {
	t.Helper()
	return testkit.AcceptOne(t, s.serve)
}

// serve answers packets of the remote serial protocol (GDB's manual, appendix E).
func (s *fakeStub) serve(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		b, err := in.ReadByte()
		if err != nil {
			return
		}
		if b != '$' {
			continue // an acknowledgement, or an interrupt
		}
		body, err := in.ReadString('#')
		if err != nil {
			return
		}
		if _, err := in.Discard(2); err != nil {
			return
		}
		answer := s.answer(strings.TrimSuffix(body, "#"))
		sum := byte(0)
		for i := range len(answer) {
			sum += answer[i]
		}
		if _, err := fmt.Fprintf(c, "+$%s#%02x", answer, sum); err != nil {
			return
		}
	}
}

// stubSP is where the stub's stack pointer points.
const stubSP = 0x20003f00

func (s *fakeStub) answer(p string) string {
	switch {
	case strings.HasPrefix(p, "qSupported"):
		if s.regions != "" {
			return "PacketSize=1000;qXfer:memory-map:read+"
		}
		return "PacketSize=1000"
	case strings.HasPrefix(p, "qXfer:memory-map:read::"):
		return "l" + s.regions
	case p == "?":
		return "S05"
	case p == "g": // the registers of amd64 as GDB orders them: rsp is the eighth
		regs := make([]byte, 536)
		binary.LittleEndian.PutUint64(regs[7*8:], stubSP)
		return hex.EncodeToString(regs)
	case strings.HasPrefix(p, "H"), p == "qAttached":
		return "1"
	case strings.HasPrefix(p, "m"):
		var addr, n uint64
		if _, err := fmt.Sscanf(p, "m%x,%x", &addr, &n); err != nil {
			return "E01"
		}
		r := vm.Range{Start: addr, Size: n}
		s.mu.Lock()
		s.reads = append(s.reads, r)
		s.mu.Unlock()
		part := r.Intersect(s.readable)
		if part.Size == 0 || part.Start != addr {
			return "E01"
		}
		data := make([]byte, part.Size)
		for i := range data {
			data[i] = byte((addr + uint64(i)) >> 12)
		}
		return hex.EncodeToString(data)
	}
	return ""
}

func TestStubWithoutMap(t *testing.T) {
	s := &fakeStub{readable: vm.Range{Start: 0x20000000, Size: 0x5000}}
	d := start(t, "")
	d.gdbLines("set architecture i386:x86-64", "target remote "+s.listen(t))
	v, err := d.View(d.ctx)
	if err != nil || v.Kind != KindStub {
		t.Fatalf("kind is %v, %v", v.Kind, err)
	}
	s.forget()
	m, err := d.Map(d.ctx)
	if err != nil || len(m.Mappings) != 0 || len(m.Unlisted()) != 1 {
		t.Fatalf("got %+v, %v", m, err)
	}
	if _, err := d.Status(d.ctx); err != nil {
		t.Error(err)
	}
	if reads := s.seen(); len(reads) > 0 {
		t.Errorf("the map read %v", reads)
	}
	// What was declared is read, and nothing else.
	mem, err := d.Memory(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, ahead := range []uint64{1, 16, 100} { // up to where it cannot be read
		if n, err := mem.ReadMemory(d.ctx, make([]byte, 200), 0x20005000-ahead); err != nil || uint64(n) != ahead {
			t.Errorf("%d bytes before the end: read %d, %v", ahead, n, err)
		}
	}
	s.forget()
	matcher, err := search.NewBytes([]byte{1, 1, 2, 2})
	if err != nil {
		t.Fatal(err)
	}
	declared := vm.Range{Start: 0x20000800, Size: 0x2000}
	res, err := search.Scan(d.ctx, mem, []vm.Mapping{{Range: declared, Source: vm.SourceUser}}, search.Options{Matcher: matcher})
	if err != nil || res.Count != 1 || res.Hits.At(0).Address != 0x20001ffe || res.SearchedBytes != declared.Size {
		t.Errorf("got %+v, %v", res, err)
	}
	for _, r := range s.seen() {
		if r.Intersect(declared) != r {
			t.Errorf("the search read %v", r)
		}
	}
	got, cut, err := d.Explore(d.ctx, stubSP, 1<<20)
	if err != nil || cut || got.Range != s.readable || got.Perm.String() != "r???" {
		t.Errorf("explored %+v, %v, %v", got, cut, err)
	}
	if got, _, err = d.Explore(d.ctx, 0x1000, 1<<20); err != nil || got.Size != 0 {
		t.Errorf("explored %+v, %v", got, err)
	}
	values, err := d.Registers(d.ctx)
	if err != nil || !bytes.Contains(fmt.Append(nil, values), fmt.Append(nil, uint64(stubSP))) {
		t.Errorf("registers %v, %v", values, err)
	}
}

func TestStubWithRegions(t *testing.T) {
	s := &fakeStub{readable: vm.Range{Start: 0x20000000, Size: 0x5000}, regions: `<?xml version="1.0"?>
<!DOCTYPE memory-map PUBLIC "+//IDN gnu.org//DTD GDB Memory Map V1.0//EN" "http://sourceware.org/gdb/gdb-memory-map.dtd">
<memory-map><memory type="ram" start="0x20000000" length="0x5000"/><memory type="rom" start="0x0" length="0x1000"/></memory-map>`}
	d := start(t, "")
	d.gdbLines("set architecture i386:x86-64", "target remote "+s.listen(t))
	s.forget()
	m, err := d.Map(d.ctx)
	if err != nil || len(m.Mappings) != 2 || m.Mappings[0].Perm.String() != "r-??" || m.Mappings[1].Range != s.readable || m.Mappings[1].Perm.String() != "rw??" {
		t.Fatalf("got %+v, %v", m, err)
	}
	if reads := s.seen(); len(reads) > 0 {
		t.Errorf("the map read %v", reads)
	}
}

func TestExploreWhereTheMapIsKnown(t *testing.T) {
	d := start(t, testkit.BuildC(t, "tour"))
	if _, _, err := d.Explore(d.ctx, 0, 1); !errors.Is(err, vm.ErrNoProcess) {
		t.Errorf("without a process: %v", err)
	}
	d.gdbLines("break checkpoint", "run")
	if _, _, err := d.Explore(d.ctx, 0, 1); !errors.Is(err, ErrMapKnown) {
		t.Errorf("got %v", err)
	}
}
