package qemusys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dbgsh/target/gdb"
	"dbgsh/target/proc"
	"dbgsh/vm"
)

// Machine is what is known of a machine in QEMU for as long as the connection
// lasts. Its methods may be called from several goroutines.
type Machine struct {
	g         *gdb.GDB
	conn      gdb.Connection
	process   int
	arch      machineArch
	wide      bool     // GDB's addresses are known to have 64 bits
	registers []string // as the stub has described them
	flat      string   // why nothing is translated, "" where something may be
	peer      Peer     // QEMU's process
	why       string   // why the process's memory cannot be read, "" where it can

	answer   time.Duration // what an answer of the stub's takes
	noDump   atomic.Bool   // the monitor is not to print memory
	physMode atomic.Bool   // the stub was left in physical mode when last asked

	mu  sync.Mutex
	lay *layout // as it was asked for last
}

// Machines is the machines that the inferiors of one GDB are connected to. The
// zero value is empty. It may be used by several goroutines.
type Machines struct {
	mu         sync.Mutex
	byInferior map[int]*Machine
}

// machine is what is known of the machine behind an inferior's stub, which is
// found out once for each connection and cluster of CPUs, whose registers may be
// of other architectures; fresh says that this was just now.
func (ms *Machines) machine(ctx context.Context, cfg *Config) (m *Machine, fresh bool, err error) {
	ms.mu.Lock()
	m = ms.byInferior[cfg.Inferior]
	ms.mu.Unlock()
	if m != nil && m.conn == cfg.Conn && m.process == cfg.Process {
		return m, false, nil
	}
	if m, err = open(ctx, cfg); err != nil {
		return nil, false, err
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.byInferior == nil {
		ms.byInferior = map[int]*Machine{}
	}
	ms.byInferior[cfg.Inferior] = m
	return m, true, nil
}

// Forget drops what is known of all machines.
func (ms *Machines) Forget() {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	clear(ms.byInferior)
}

// open asks the stub, and this machine, for what does not change.
func open(ctx context.Context, cfg *Config) (*Machine, error) {
	m := &Machine{g: cfg.GDB, conn: cfg.Conn, process: cfg.Process}
	if err := m.describeCPU(ctx); err != nil {
		return nil, err
	}
	var err error
	if m.peer, err = cfg.FindPeer(m.g.PID(), m.conn); err == nil {
		var mem *proc.Memory
		if mem, err = proc.OpenMemory(m.peer.PID, proc.Options{}); err == nil {
			err = mem.Close()
		}
	}
	if err != nil {
		m.why = err.Error()
	}
	for i := range 3 { // one may take long for other reasons
		start := time.Now()
		mode, err := m.g.Packet(ctx, "qqemu.PhyMemMode")
		if err != nil {
			return nil, err
		}
		m.physMode.Store(mode == "1")
		if took := time.Since(start); i == 0 || took < m.answer {
			m.answer = took
		}
		if m.answer < slowAnswer {
			break
		}
	}
	return m, m.layOut(ctx)
}

// layout is where QEMU says that memory is. It is what it was when it was asked
// for: memory can be plugged in, and what is ROM now may be RAM later.
type layout struct {
	views []FlatView   // nil where long output does not get through
	maps  []vm.Mapping // of QEMU's process, sorted; nil where it is not seen
	fixed string       // the machine's own RAM, by its name: nobody can unplug that

	mu      sync.Mutex
	hosts   map[blockKey]hostBlock // as asked for last
	strange bool                   // memory was met that the process does not have
	smm     map[int][]vm.Range     // see otherInSMM, by CPU
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

// layOut asks anew where memory is.
func (m *Machine) layOut(ctx context.Context) error {
	l := &layout{hosts: map[blockKey]hostBlock{}, smm: map[int][]vm.Range{}}
	if m.why == "" {
		text, err := os.ReadFile(proc.Path(m.peer.PID, "maps"))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(text) == 0 {
			err = asLost(vm.ErrProcessGone)
		}
		if err == nil {
			l.maps, err = proc.ParseMaps(text)
		}
		if err != nil {
			return fmt.Errorf("memory map of QEMU's process: %w", err)
		}
	}
	if ask, err := m.mtreeFits(ctx); err != nil {
		return err
	} else if ask {
		text, err := m.printed(ctx, "monitor info mtree -f")
		if err != nil {
			return err
		}
		if l.views, err = ParseMtree(text); err != nil {
			return fmt.Errorf("info mtree -f: %w", err)
		}
	}
	// What can be plugged in and out lies above.
	for _, b := range l.view(cpuSpace(0)) {
		if b.Kind == "ram" {
			l.fixed = b.Name
			break
		}
	}
	m.mu.Lock()
	m.lay = l
	m.mu.Unlock()
	return nil
}

// mtreeFits reports whether all of "info mtree -f" gets through. There are some
// 150 lines with a PC, most of them for devices, and up to three for each CPU.
func (m *Machine) mtreeFits(ctx context.Context) (bool, error) {
	if m.peer.Lines < someLines || m.peer.Lines == anyLines {
		return m.peer.Lines == anyLines, nil
	}
	res, err := m.g.Send(ctx, "thread-list-ids")
	if err != nil {
		return false, err
	}
	cpus, ok := res.Uint("number-of-threads")
	return ok && 300+3*cpus < someLines, nil
}

// layout is the layout that was asked for last.
func (m *Machine) layout() *layout {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lay
}

// cpuSpace is the name of the address space that a CPU sees (QEMU's
// softmmu/physmem.c, cpu_address_space_init).
func cpuSpace(cpu int) string { return fmt.Sprintf("cpu-memory-%d", cpu) }

// view is the memory in an address space of a CPU, or where that is not known the
// system's, whose space is "memory" (QEMU's softmmu/memory.c); nil where that is
// not known either.
func (l *layout) view(space string) []MemoryBlock {
	for _, name := range []string{space, cpuSpace(0), "memory"} {
		if blocks := l.space(name); blocks != nil {
			return blocks
		}
	}
	return nil
}

// space is the memory in an address space, nil where none is known.
func (l *layout) space(name string) []MemoryBlock {
	for _, v := range l.views {
		if slices.Contains(v.Spaces, name) {
			return v.Blocks
		}
	}
	return nil
}

// hiddenNote says that a CPU sees other memory in its secure state, where it
// does: the stub's physical mode does not reach that.
func (l *layout) hiddenNote(cpu int) []string {
	name := fmt.Sprintf("cpu-secure-memory-%d", cpu)
	for _, v := range l.views {
		if slices.Contains(v.Spaces, name) && !slices.Equal(v.Blocks, l.view(cpuSpace(cpu))) {
			return []string{"memory that only the secure state sees is not shown"}
		}
	}
	return nil
}

// uniform reports whether all CPUs see the same memory, or none is known to
// see another.
func (l *layout) uniform() bool {
	views := 0
	for _, v := range l.views {
		if slices.ContainsFunc(v.Spaces, func(s string) bool { return strings.HasPrefix(s, "cpu-memory-") }) {
			views++
		}
	}
	return views < 2
}

// notRAMError says that at a physical address there is no memory.
type notRAMError struct{ pa uint64 }

func (e *notRAMError) Error() string { return fmt.Sprintf("no memory at physical address %#x", e.pa) }

func notRAM(pa uint64) error { return &notRAMError{pa} }

// asker runs a line in GDB that changes nothing, as GDB.Query does.
type asker func(ctx context.Context, line string) (string, error)

// physView is the physical memory that a CPU sees, in one look.
type physView struct {
	*layout
	look   *look
	blocks []MemoryBlock // nil where the layout is not known
	plain  []MemoryBlock // in system management mode: what the system sees
	other  []vm.Range    // else: where that mode would see other memory
	ask    asker
	fresh  bool     // the layout was asked for in this look
	trusts bool     // an answer of a look before counts until settled is called
	shadow vm.Range // memory that a guest lays out otherwise at will

	now     sync.Mutex
	has     map[blockKey]hostBlock // what was asked for in this look
	pending []chan error           // what is being asked, see host
}

// x86Shadow is where a PC's chip set maps ROM, RAM or devices as its guest
// wishes: for graphics and SMM (SMRAM) below 0xc0000, and the PAM registers
// (Intel 440FX, "PAM - Programmable Attribute Map Registers" and "SMRAM").
func x86Shadow() vm.Range { return vm.Range{Start: 0xa0000, Size: 0x60000} }

// see is the memory that the CPU sees.
func (l *look) see(ask asker) *physView {
	lay := l.m.layout()
	v := &physView{layout: lay, look: l, blocks: lay.view(l.c.space()), ask: ask, fresh: l.fresh, has: map[blockKey]hostBlock{}}
	if l.m.arch == archX86 {
		v.shadow = x86Shadow()
	}
	if l.c.smm {
		v.plain = lay.view(cpuSpace(l.c.index))
	} else {
		v.other = lay.otherInSMM(l.c.index)
	}
	return v
}

// guestPage is the step in bytes in which memory is asked for page by page:
// QEMU's own smallest (TARGET_PAGE_BITS).
const guestPage = 4096

// block is the block of memory that holds pa. Where the layout is not known it
// is a page, of which only host can tell whether it is memory.
func (v *physView) block(pa uint64) (b MemoryBlock, ok bool) {
	v.look.meet(pa, v.other)
	page := vm.Range{Start: pa &^ (guestPage - 1), Size: guestPage}
	if v.blocks == nil {
		return MemoryBlock{Range: page}, true
	}
	if b, ok = blockAt(v.blocks, pa); !ok {
		return b, false
	}
	if !v.fresh && v.shadow.Contains(pa) && page.Start >= b.Start && page.Last() <= b.Last() {
		b.Range, b.Offset = page, b.Offset+(page.Start-b.Start) // each page may have become another
	}
	return b, true
}

// blockAt is the block among sorted ones that holds pa.
func blockAt(blocks []MemoryBlock, pa uint64) (b MemoryBlock, ok bool) {
	i, ok := slices.BinarySearchFunc(blocks, pa, func(b MemoryBlock, a uint64) int {
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
	return blocks[i], true
}

// errMoved says that the machine's memory is laid out otherwise by now.
var errMoved = errors.New("the machine's memory is laid out otherwise by now")

// host is where QEMU says that it has the block. The monitor is asked once a look
// for each but the machine's own RAM: memory may have been unplugged, and other
// memory plugged in. Where settled is called in the end, what it answered in a look
// before counts till then, and it is asked meanwhile. The error is errMoved where
// the layout holds no more.
func (v *physView) host(ctx context.Context, b MemoryBlock) (hostBlock, error) {
	l, key := v.layout, blockKey{b.Start, b.Name}
	v.now.Lock()
	defer v.now.Unlock()
	if host, known := v.has[key]; known {
		return host, nil
	}
	l.mu.Lock()
	before, known := l.hosts[key]
	l.mu.Unlock()
	if known && b.Name == l.fixed && !v.shadow.Overlaps(b.Range) {
		v.has[key] = before
		return before, nil
	}
	if known && !v.fresh && v.trusts {
		answer := make(chan error, 1)
		v.pending = append(v.pending, answer)
		go func() {
			host, err := v.askHost(ctx, b)
			if err == nil && host.addr != before.addr {
				err = errMoved
			}
			answer <- err
		}()
		v.has[key] = before
		return before, nil
	}
	host, err := v.askHost(ctx, b)
	if err != nil {
		return host, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !v.fresh && (known && before.addr != host.addr || host.addr == 0 || !host.held && l.maps != nil) {
		return hostBlock{}, errMoved
	}
	l.hosts[key], v.has[key] = host, host
	l.strange = l.strange || host.addr != 0 && !host.held
	return host, nil
}

// settled waits for what is being asked, and is the error of the first that fails:
// errMoved where what was read is of no use.
func (v *physView) settled() error {
	v.now.Lock()
	pending := v.pending
	v.pending = nil
	v.now.Unlock()
	var err error
	for _, answer := range pending {
		if e := <-answer; err == nil {
			err = e
		}
	}
	return err
}

// askHost asks the monitor where QEMU has the block; nowhere where it is no memory.
func (v *physView) askHost(ctx context.Context, b MemoryBlock) (host hostBlock, err error) {
	// The monitor answers for the system's view, which may not be the CPU's.
	at := func(asked MemoryBlock) error {
		text, err := v.ask(ctx, fmt.Sprintf("monitor gpa2hva %#x", asked.Start))
		if name, addr, ok := HostAddress(text, asked.Start); err == nil && ok && (name == b.Name || b.Name == "") {
			addr += b.Offset - asked.Offset
			host = hostBlock{addr, v.holds(vm.Range{Start: addr, Size: b.Size})}
		}
		return err
	}
	if err := at(b); err != nil {
		return host, err
	}
	if system, ok := elsewhere(v.plain, b); ok && host.addr == 0 {
		err = at(system)
	}
	return host, err
}

// memory is for how many bytes from pa on there is memory without a gap, within
// one block. The error says that there is none, or that nobody could be asked.
func (v *physView) memory(ctx context.Context, pa uint64) (uint64, error) {
	b, ok := v.block(pa)
	if ok && (v.blocks == nil || !v.fresh && v.shadow.Contains(pa)) {
		host, err := v.host(ctx, b)
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

// mapping is QEMU's mapping that holds an address of its process.
func (l *layout) mapping(host uint64) (m vm.Mapping, ok bool) {
	i := sort.Search(len(l.maps), func(i int) bool { return l.maps[i].Last() >= host })
	if i == len(l.maps) || !l.maps[i].Contains(host) {
		return m, false
	}
	return l.maps[i], true
}

// holds reports whether the process that was found has all of r mapped.
func (l *layout) holds(r vm.Range) bool {
	for {
		h, ok := l.mapping(r.Start)
		if !ok {
			return false
		}
		rest := h.Size - (r.Start - h.Start)
		if r.Size <= rest {
			return true
		}
		r = vm.Range{Start: r.Start + rest, Size: r.Size - rest}
	}
}

// isStrange reports whether memory was met that the process does not have.
func (l *layout) isStrange() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.strange
}

// stranger is the error for a process that is not the QEMU it was taken for:
// one that hands the connection on, say.
func (m *Machine) stranger() error {
	return fmt.Errorf("process %d does not have the guest's memory where QEMU says", m.peer.PID)
}

// hostRAM reads physical memory from QEMU's process, until it is closed.
type hostRAM struct {
	*physView
	*proc.Memory
	m *Machine
}

// hostRAM is the memory that the CPU sees, out of QEMU's process. The error says
// why it cannot be read there.
func (l *look) hostRAM() (*hostRAM, error) {
	m := l.m
	switch {
	case m.why != "":
		return nil, errors.New(m.why)
	case m.layout().isStrange():
		return nil, m.stranger()
	}
	mem, err := proc.OpenMemory(m.peer.PID, proc.Options{})
	if err != nil {
		return nil, asLost(err)
	}
	v := l.see(m.g.Query)
	v.trusts = true
	return &hostRAM{v, mem, m}, nil
}

// read reads from pa on, and makes no page of QEMU's process exist. n < len(p)
// means that the byte at pa+n cannot be read.
func (h *hostRAM) read(ctx context.Context, p []byte, pa uint64) (n int, err error) {
	for n < len(p) {
		at := pa + uint64(n)
		b, ok := h.block(at)
		if !ok {
			return n, notRAM(at)
		}
		host, err := h.host(ctx, b)
		switch {
		case err != nil:
			return n, err
		case host.addr == 0:
			return n, notRAM(at)
		case !host.held:
			return n, h.m.stranger()
		}
		off := at - b.Start
		in, _ := h.mapping(host.addr + off)
		rest := min(b.Size-off, in.Size-(host.addr+off-in.Start))
		end := n + int(min(uint64(len(p)-n), rest))
		k, err := h.Peek(ctx, in, p[n:end], host.addr+off)
		if n += k; n < end {
			var whole *vm.UnreadableError // of QEMU's addresses
			if errors.As(err, &whole) {
				err = whole.Err
			}
			err = asLost(err)
			return n, fmt.Errorf("read physical address %#x: %w", pa+uint64(n), err)
		}
	}
	return n, nil
}

// ramPhys reads page tables from QEMU's process, all at one time. It is not for
// several goroutines at once.
type ramPhys struct {
	*hostRAM
	ctx context.Context
	own map[uint64][]bool // for each page of a stretch whether the process has it
}

func newRAMPhys(ctx context.Context, ram *hostRAM) *ramPhys {
	return &ramPhys{ram, ctx, map[uint64][]bool{}}
}

// ownStretch is how many bytes of addresses one read of a pagemap looks at,
// whatever is asked for (PAGEMAP_WALK_SIZE, fs/proc/task_mmu.c). Tables stand
// close together.
const ownStretch = 2 << 20

// ReadPhys implements pt.Phys.
func (r *ramPhys) ReadPhys(p []byte, pa uint64) error {
	if at, ok := r.present(pa, len(p)); ok {
		if n, _ := r.Pread(p, at); n == len(p) {
			return nil
		}
	}
	_, err := r.read(r.ctx, p, pa)
	return err
}

// present is where the size bytes at pa are in QEMU's process; ok is false where
// they are in several places, or reading them might make a page exist.
func (r *ramPhys) present(pa uint64, size int) (at uint64, ok bool) {
	b, ok := r.block(pa)
	if !ok || b.Size-(pa-b.Start) < uint64(size) {
		return 0, false
	}
	host, err := r.host(r.ctx, b)
	if err != nil || !host.held {
		return 0, false
	}
	at = host.addr + (pa - b.Start)
	stretch := at &^ (ownStretch - 1)
	own, known := r.own[stretch]
	if !known {
		if own, err = r.Owned(stretch, ownStretch); err != nil {
			own = nil
		}
		r.own[stretch] = own
	}
	page := r.PageSize()
	for off := at - stretch; off < at-stretch+uint64(size); off += page - off%page {
		if i := off / page; i >= uint64(len(own)) || !own[i] {
			return 0, false
		}
	}
	return at, true
}
