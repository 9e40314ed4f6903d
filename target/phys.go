package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"dbgsh/target/mi"
	"dbgsh/vm"
)

// qemuMachine is what is known of a machine in QEMU for as long as the connection lasts.
type qemuMachine struct {
	conn      connection
	arch      machineArch
	wide      bool     // GDB's addresses are known to have 64 bits
	registers []string // as the stub has described them
	qemu      int      // QEMU's process, 0 where it is not seen
	why       string   // why the process's memory cannot be read, "" where it can
	tcp       bool     // monitor output of any length gets through
	mem       *os.File
	maps      []vm.Mapping // of QEMU's process
	views     []vm.FlatView
	unread    int // how many tables lie where no memory is, by this layout

	mu      sync.Mutex
	hosts   map[blockKey]hostBlock // known once asked for
	strange bool                   // memory was met that the process does not have
}

// blockKey is a block of memory by its first physical address and its name, or
// a page without a name where the layout is not asked for.
type blockKey struct {
	start uint64
	name  string
}

// hostBlock is where QEMU says that it has a block of memory.
type hostBlock struct {
	addr uint64 // in its process; 0 where this is no memory
	held bool   // the process that was found has it there
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
	m := &qemuMachine{conn: inf.conn, hosts: map[blockKey]hostBlock{}}
	if err := t.describeCPU(ctx, m); err != nil {
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
	text, err := throughFile(func(name string) error {
		_, err := t.query(ctx, "pipe "+line+" | cat >"+name)
		return err
	})
	var said *mi.Error
	if errors.As(err, &said) || err == nil && len(text) == 0 {
		return t.query(ctx, line)
	}
	return string(text), err
}

// throughFile gives write the name of a file for GDB to write to, which has no
// characters that would have to be quoted, and returns what GDB wrote.
func throughFile(write func(name string) error) ([]byte, error) {
	fd, err := unix.MemfdCreate("dbgsh", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	defer f.Close()
	if err := write(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)); err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
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
	blocks []vm.MemoryBlock // nil where long output does not get through
	query  func(string) (string, error)
}

// layout is where a CPU sees memory; query runs a line in GDB.
func (m *qemuMachine) layout(cpu int, query func(string) (string, error)) layout {
	_, blocks := m.view(cpu)
	return layout{m, blocks, query}
}

// guestPage is the step in bytes in which memory is asked for page by page:
// QEMU's own smallest (TARGET_PAGE_BITS).
const guestPage = 4096

// block is the block of memory that holds pa. Where the layout is not known it
// is a page, of which only host can tell whether it is memory.
func (l *layout) block(pa uint64) (b vm.MemoryBlock, ok bool) {
	if l.blocks == nil {
		return vm.MemoryBlock{Range: vm.Range{Start: pa &^ (guestPage - 1), Size: guestPage}}, true
	}
	i, ok := slices.BinarySearchFunc(l.blocks, pa, func(b vm.MemoryBlock, a uint64) int {
		switch {
		case b.Last() < a:
			return -1
		case b.Start > a:
			return 1
		}
		return 0
	})
	if !ok {
		return b, false
	}
	return l.blocks[i], true
}

// host is where QEMU says that it has the block. The monitor is asked once for
// each, when it is first needed.
func (l *layout) host(b vm.MemoryBlock) (hostBlock, error) {
	m, key := l.m, blockKey{b.Start, b.Name}
	m.mu.Lock()
	host, known := m.hosts[key]
	m.mu.Unlock()
	if known {
		return host, nil
	}
	text, err := l.query(fmt.Sprintf("monitor gpa2hva %#x", b.Start))
	if err != nil {
		return host, err
	}
	// The monitor answers for the system's view, which may not be the CPU's.
	if name, addr, ok := vm.HostAddress(text, b.Start); ok && (name == b.Name || b.Name == "") {
		host = hostBlock{addr, m.holds(vm.Range{Start: addr, Size: b.Size})}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hosts[key] = host
	m.strange = m.strange || host.addr != 0 && !host.held
	return host, nil
}

// memory is for how many bytes from pa on there is memory without a gap, within
// one block. The error says that there is none, or that nobody could be asked.
func (l *layout) memory(pa uint64) (uint64, error) {
	b, ok := l.block(pa)
	if ok && l.blocks == nil {
		host, err := l.host(b)
		if err != nil {
			return 0, err
		}
		ok = host.addr != 0
	}
	if !ok {
		return 0, notRAM(pa)
	}
	return b.Size - (pa - b.Start), nil
}

// hostRAM reads physical memory from QEMU's process.
type hostRAM struct{ layout }

// hostRAM is the memory that a CPU sees, out of QEMU's process. The error says
// why it cannot be read there.
func (t *Target) hostRAM(ctx context.Context, m *qemuMachine, cpu int) (*hostRAM, error) {
	switch {
	case t.physicalOnly:
		return nil, errors.New("the stub is to be used")
	case m.mem == nil:
		return nil, errors.New(m.why)
	case m.isStrange():
		return nil, m.stranger()
	}
	return &hostRAM{m.layout(cpu, func(line string) (string, error) { return t.query(ctx, line) })}, nil
}

// stranger is the error for a process that is not the QEMU it was taken for:
// one that hands the connection on, say.
func (m *qemuMachine) stranger() error {
	return fmt.Errorf("process %d does not have the guest's memory where QEMU says", m.qemu)
}

// isStrange reports whether memory was met that the process does not have.
func (m *qemuMachine) isStrange() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.strange
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
		b, ok := h.block(pa)
		if !ok {
			return notRAM(pa)
		}
		host, err := h.host(b)
		switch {
		case err != nil:
			return err
		case host.addr == 0:
			return notRAM(pa)
		case !host.held:
			return h.m.stranger()
		}
		off := pa - b.Start
		k := min(uint64(len(p)), b.Size-off)
		if _, err := h.m.mem.ReadAt(p[:k], int64(host.addr+off)); err != nil {
			return fmt.Errorf("read physical address %#x: %w", pa, err)
		}
		p, pa = p[k:], pa+k
	}
	return nil
}
