package target

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dbgsh/target/mi"
	"dbgsh/vm"
)

// qemuMachine is what is known of a machine in QEMU for as long as the connection lasts.
type qemuMachine struct {
	conn   connection
	arch   machineArch
	wide   bool   // GDB\'s addresses are known to have 64 bits
	qemu   int    // QEMU's process, 0 where it is not seen
	why    string // why the process's memory cannot be read, "" where it can
	tcp    bool   // monitor output of any length gets through
	mem    *os.File
	maps   []vm.Mapping // of QEMU's process
	views  []vm.FlatView
	unread int // how many tables lie where no memory is, by this layout

	mu     sync.Mutex
	blocks map[string][]hostBlock // by address space; known once asked for
	pages  map[uint64]uint64      // where the layout is not asked for: host address by page
}

// hostBlock is guest memory that QEMU's process has at an address.
type hostBlock struct {
	vm.MemoryBlock
	host uint64 // of the first byte
}

// Close forgets QEMU's process.
func (m *qemuMachine) Close() error {
	if m == nil || m.mem == nil {
		return nil
	}
	return m.mem.Close()
}

// machine is what is known of the machine behind the stub, which is found out
// once for each connection.
func (t *Target) machine(ctx context.Context, inf *inferior) (*qemuMachine, error) {
	t.mu.Lock()
	known := t.qsystem
	t.mu.Unlock()
	if known != nil && known.conn == inf.conn {
		return known, nil
	}
	m := &qemuMachine{conn: inf.conn, blocks: map[string][]hostBlock{}, pages: map[uint64]uint64{}}
	var err error
	if m.arch, m.wide, err = t.machineArch(ctx); err != nil {
		return nil, err
	}
	c, err := t.gdb()
	if err != nil {
		return nil, err
	}
	m.qemu, m.tcp, err = peerOf(c.PID(), inf.conn)
	if err == nil {
		err = m.open()
	}
	if err != nil {
		m.why = err.Error()
	}
	if m.tcp {
		text, err := t.longQuery(ctx, "monitor info mtree -f")
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		if m.views, err = vm.ParseMtree(text); err != nil {
			return nil, errors.Join(fmt.Errorf("info mtree -f: %w", err), m.Close())
		}
	}
	t.mu.Lock()
	old := t.qsystem
	t.qsystem = m
	t.mu.Unlock()
	return m, old.Close()
}

// longQuery is query for hundreds of lines that come one by one, which costs
// thirty times less by way of a file. GDB's pipe (since 10) also sets
// $_shell_exitcode.
func (t *Target) longQuery(ctx context.Context, line string) (string, error) {
	f, err := os.CreateTemp("", "dbgsh-monitor-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	_, err = t.query(ctx, "pipe "+line+" | cat >"+quoteArg(f.Name()))
	var said *mi.Error
	switch {
	case errors.As(err, &said):
		return t.query(ctx, line)
	case err != nil:
		return "", err
	}
	text, err := io.ReadAll(f)
	if err == nil && len(text) == 0 {
		return t.query(ctx, line)
	}
	return string(text), err
}

// forgetMachine makes the next use find out everything anew.
func (t *Target) forgetMachine() error {
	t.mu.Lock()
	old := t.qsystem
	t.qsystem = nil
	t.mu.Unlock()
	return old.Close()
}

// open opens the memory of QEMU's process.
func (m *qemuMachine) open() error {
	f, err := os.Open(procPath(m.qemu, "mem"))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(procPath(m.qemu, "maps"))
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if m.maps, err = vm.ParseMaps(text); err != nil {
		return errors.Join(err, f.Close())
	}
	m.mem = f
	return nil
}

// view is the memory that a CPU sees, nil where it is not known. Every CPU has
// an address space named cpu-memory-N; "memory" is the system's (QEMU's
// softmmu/physmem.c, cpu_address_space_init, and softmmu/memory.c).
func (m *qemuMachine) view(cpu int) (name string, blocks []vm.MemoryBlock) {
	for _, name := range []string{fmt.Sprintf("cpu-memory-%d", cpu), "cpu-memory-0", "memory"} {
		for _, v := range m.views {
			if slices.Contains(v.Spaces, name) {
				return name, v.Blocks
			}
		}
	}
	return "", nil
}

// uniform reports whether all CPUs see the same memory, or none is known to
// see another.
func (m *qemuMachine) uniform() bool {
	views := 0
	for _, v := range m.views {
		if slices.ContainsFunc(v.Spaces, func(s string) bool { return strings.HasPrefix(s, "cpu-memory-") }) {
			views++
		}
	}
	return views < 2
}

// notRAM is the error for a physical address that is no memory.
func notRAM(pa uint64) error { return fmt.Errorf("no memory at physical address %#x", pa) }

// layout says where a CPU sees memory.
type layout struct {
	m      *qemuMachine
	blocks []hostBlock
	// ask answers for one page where the blocks are not known, because long
	// output does not get through.
	ask func(pa uint64) (host uint64, ok bool, err error)
}

// layout is where a CPU sees memory; query runs a line in GDB.
func (m *qemuMachine) layout(cpu int, query func(string) (string, error)) (layout, error) {
	l := layout{m: m, ask: func(pa uint64) (uint64, bool, error) {
		text, err := query(fmt.Sprintf("monitor gpa2hva %#x", pa))
		if err != nil {
			return 0, false, err
		}
		host, ok := vm.HostAddress(text, pa)
		return host, ok, nil
	}}
	m.mu.Lock()
	defer m.mu.Unlock()
	name, blocks := m.view(cpu)
	if name == "" {
		return l, nil
	}
	known, ok := m.blocks[name]
	if !ok {
		for _, b := range blocks {
			host, ok, err := l.ask(b.Start)
			if err != nil {
				return l, err
			}
			if ok {
				known = append(known, hostBlock{b, host})
			}
		}
		m.blocks[name] = known
	}
	l.blocks, l.ask = known, nil
	return l, nil
}

// guestPage is the step in bytes in which memory is asked for page by page:
// QEMU's own smallest (TARGET_PAGE_BITS).
const guestPage = 4096

// locate is where in QEMU's process the byte at pa is, and how many bytes from
// there on are as contiguous.
func (l *layout) locate(pa uint64) (host, n uint64, err error) {
	if l.ask == nil {
		i, found := slices.BinarySearchFunc(l.blocks, pa, func(b hostBlock, a uint64) int {
			switch {
			case b.Last() < a:
				return -1
			case b.Start > a:
				return 1
			}
			return 0
		})
		if !found {
			return 0, 0, notRAM(pa)
		}
		off := pa - l.blocks[i].Start
		return l.blocks[i].host + off, l.blocks[i].Size - off, nil
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	page, off := pa&^(guestPage-1), pa&(guestPage-1)
	host, known := l.m.pages[page]
	if !known {
		var ok bool
		if host, ok, err = l.ask(page); err != nil {
			return 0, 0, err
		}
		if !ok {
			return 0, 0, notRAM(pa)
		}
		l.m.pages[page] = host
	}
	return host + off, guestPage - off, nil
}

// hostRAM reads physical memory from QEMU's process.
type hostRAM struct{ layout }

// hostRAM is the memory that a CPU sees, out of QEMU's process. The error says
// why it cannot be read there.
func (t *Target) hostRAM(ctx context.Context, m *qemuMachine, cpu int) (*hostRAM, error) {
	if m.mem == nil {
		return nil, errors.New(m.why)
	}
	l, err := m.layout(cpu, func(line string) (string, error) { return t.query(ctx, line) })
	if err != nil {
		return nil, err
	}
	for _, b := range l.blocks {
		if !m.holds(vm.Range{Start: b.host, Size: b.Size}) {
			return nil, m.stranger()
		}
	}
	return &hostRAM{l}, nil
}

// stranger is the error for a process that is not the QEMU it was taken for:
// one that hands the connection on, say.
func (m *qemuMachine) stranger() error {
	return fmt.Errorf("process %d does not have the guest's memory where QEMU says", m.qemu)
}

// holds reports whether the process that was found has all of r mapped.
func (m *qemuMachine) holds(r vm.Range) bool {
	for _, h := range m.maps {
		if h.Contains(r.Start) {
			rest := h.Size - (r.Start - h.Start)
			if r.Size <= rest {
				return true
			}
			r = vm.Range{Start: r.Start + rest, Size: r.Size - rest}
		}
	}
	return false
}

// ReadPhys implements pt.Phys.
func (h *hostRAM) ReadPhys(p []byte, pa uint64) error {
	for len(p) > 0 {
		host, n, err := h.locate(pa)
		if err != nil {
			return err
		}
		k := min(uint64(len(p)), n)
		if h.ask != nil && !h.m.holds(vm.Range{Start: host, Size: k}) {
			return h.m.stranger()
		}
		if _, err := h.m.mem.ReadAt(p[:k], int64(host)); err != nil {
			return fmt.Errorf("read physical address %#x: %w", pa, err)
		}
		p, pa = p[k:], pa+k
	}
	return nil
}

// stubPhys reads physical memory through the stub, which is in physical mode.
// It asks for nothing but memory: a device may take being read for an order,
// and where there is nothing the stub answers zeros.
type stubPhys struct {
	layout
	t   *Target
	ctx context.Context
}

const (
	// physPiece is the most bytes of one packet: two hex digits each in the
	// 4096 of QEMU's packets (MAX_PACKET_LENGTH, gdbstub.c).
	physPiece = 2048
	// physWait bounds one command, which must not be interrupted: GDB would
	// take a packet's answer for that of the next one.
	physWait = 10 * time.Second
)

// inPhysicalMode runs f while the stub takes addresses as physical ones
// (QEMU's Qqemu.PhyMemMode). Nothing else talks to GDB meanwhile. The mode is
// set back whatever happens; ctx ends f between two packets.
func (t *Target) inPhysicalMode(ctx context.Context, m *qemuMachine, cpu int, f func(*stubPhys) error) (err error) {
	release, err := t.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	s := &stubPhys{t: t, ctx: ctx}
	if s.layout, err = m.layout(cpu, s.console); err != nil {
		return err
	}
	was, err := s.packet("qqemu.PhyMemMode")
	if err != nil {
		return err
	}
	if was != "0" && was != "1" {
		return errors.New("the stub has no physical mode (QEMU before 4.1)")
	}
	defer func() {
		answer, back := s.packet("Qqemu.PhyMemMode:" + was)
		if back == nil && answer != "OK" {
			back = fmt.Errorf("the stub answers %q", answer)
		}
		if back != nil {
			err = errors.Join(err, fmt.Errorf("set the stub back from physical mode: %w; do it with \"maint packet Qqemu.PhyMemMode:%s\"", back, was))
		}
	}()
	if answer, err := s.packet("Qqemu.PhyMemMode:1"); err != nil || answer != "OK" {
		return errors.Join(err, fmt.Errorf("physical mode: the stub answers %q", answer))
	}
	return f(s)
}

// packet is Target.packet for who has GDB for himself.
func (s *stubPhys) packet(p string) (string, error) {
	text, err := s.console("maint packet " + p)
	if err != nil {
		return "", err
	}
	return answerOf(text), nil
}

// console runs a line that is over soon.
func (s *stubPhys) console(line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), physWait)
	defer cancel()
	return s.t.console(ctx, line)
}

// ReadPhys implements pt.Phys.
func (s *stubPhys) ReadPhys(p []byte, pa uint64) error {
	for len(p) > 0 {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		_, n, err := s.locate(pa)
		if err != nil {
			return err
		}
		k := int(min(uint64(len(p)), n))
		if pa>>32 == 0 || s.m.wide {
			k = min(k, miPiece)
			err = s.read(p[:k], pa)
		} else {
			k = min(k, physPiece)
			err = s.readWide(p[:k], pa)
		}
		if err != nil {
			return err
		}
		p, pa = p[k:], pa+uint64(k)
	}
	return nil
}

// read reads by GDB, which puts several packets together.
func (s *stubPhys) read(p []byte, pa uint64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), physWait)
	defer cancel()
	res, err := s.t.command(ctx, "data-read-memory-bytes", fmt.Sprintf("%#x", pa), strconv.Itoa(len(p)))
	if unreadable(err) {
		return notRAM(pa)
	}
	if err != nil {
		return err
	}
	if n, err := memoryBytes(res, p, pa); err != nil || n < len(p) {
		return errors.Join(err, notRAM(pa))
	}
	return nil
}

// readWide reads where GDB itself would cut the address to 32 bits.
func (s *stubPhys) readWide(p []byte, pa uint64) error {
	answer, err := s.packet(fmt.Sprintf("m%x,%x", pa, len(p)))
	if err != nil {
		return err
	}
	if len(answer) != 2*len(p) {
		return notRAM(pa)
	}
	if _, err := hex.Decode(p, []byte(answer)); err != nil {
		return fmt.Errorf("read physical address %#x: %w", pa, err)
	}
	return nil
}
