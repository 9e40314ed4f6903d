package qemusys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"dbgsh/pt"
	"dbgsh/target/gdb"
	"dbgsh/vm"
)

// physMemory is the physical memory that a CPU of a machine in QEMU sees, until
// it is closed. Only RAM and ROM are read: a device may take being read for an
// order.
type physMemory struct {
	*physView
	look *look
	ram  *hostRAM // nil where QEMU's process cannot be read
	why  error    // why it cannot

	devices atomic.Bool // what is no memory was asked for, and not read
}

// physMemory is the memory that the CPU sees, out of QEMU's process where that
// can be read, else through the stub.
func (l *look) physMemory() *physMemory {
	p := &physMemory{physView: l.see(l.m.g.Query), look: l}
	p.ram, p.why = l.hostRAM()
	return p
}

// ReadMemory implements vm.Reader; addr is a physical address.
func (m *physMemory) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	return m.read(ctx, p, func(off uint64) (pa, n uint64, ok bool) { return addr + off, uint64(len(p)) - off, true })
}

// read fills p with what stands where a function says, offset by offset: the
// physical address, and how many bytes from there on go on together. It ends
// where there is no such address.
func (m *physMemory) read(ctx context.Context, p []byte, where func(off uint64) (pa, n uint64, ok bool)) (n int, err error) {
	type part struct {
		pa uint64
		b  []byte
	}
	var parts []part
	all := 0
	for all < len(p) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		pa, size, ok := where(uint64(all))
		if !ok {
			break
		}
		there, err := m.memory(ctx, pa)
		if errors.As(err, new(*notRAMError)) {
			m.devices.Store(true)
			break
		}
		if err != nil {
			return 0, err
		}
		k := int(min(uint64(len(p)-all), size, there))
		parts = append(parts, part{pa, p[all : all+k]})
		all += k
	}
	if len(parts) == 0 {
		return 0, nil
	}
	if m.ram != nil {
		for _, part := range parts {
			k, err := m.ram.read(ctx, part.b, part.pa)
			if n += k; err != nil && !m.isStrange() {
				return n, err
			} else if err != nil {
				break
			}
		}
		if !m.isStrange() {
			return n, nil
		}
	}
	err = m.look.throughStub(ctx, func(s *stubPhys) error {
		var bad error
		err := s.rounds(func(mem pt.Phys) error {
			n, bad = 0, nil
			for _, part := range parts {
				for b, pa := part.b, part.pa; len(b) > 0; {
					k := min(len(b), int(guestPage-pa%guestPage))
					if err := mem.ReadPhys(b[:k], pa); err != nil && bad == nil {
						bad = err
					}
					if bad == nil {
						n += k
					}
					b, pa = b[k:], pa+uint64(k)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		return bad
	})
	return n, err
}

// Close implements vm.Memory.
func (m *physMemory) Close() error {
	if m.ram == nil {
		return nil
	}
	return m.ram.Close()
}

// Notes says what reading did that it should not have, and did not do.
func (m *physMemory) Notes() (notes []string) {
	switch {
	case m.ram == nil:
		notes = append(notes, "read through the stub, which is slow: "+m.why.Error())
	case m.isStrange():
		notes = append(notes, "read through the stub, which is slow: "+m.look.m.stranger().Error())
	default:
		notes = m.ram.Notes()
	}
	if m.devices.Load() {
		notes = append(notes, "what is no RAM or ROM was not read: a device may take that for an order")
	}
	return notes
}

// kernelMemory is the memory of a CPU of a machine in QEMU by its page tables.
type kernelMemory struct {
	*physMemory
	flat  bool     // nothing is translated: addresses are physical
	about []string // what is to be known of the addresses

	mu     sync.Mutex
	win    window
	unread []string // which tables could not be read
}

// window is the rows of a part of the address space.
type window struct {
	rows        []pt.Row // sorted
	first, last uint64   // nothing else is mapped from here to there, both included
}

func windowOf(res *pt.Result, first uint64) window {
	w := window{rows: res.Rows, first: first, last: ^uint64(0)}
	if res.Cut != nil {
		w.last = max(res.Cut.VA, first+1) - 1
	}
	return w
}

// Memory is the memory of the machine by the tables of the selected CPU, or as
// GDB reads it, where these are not wanted or not to be had.
func (s *Source) Memory(ctx context.Context) (vm.Memory, error) {
	if s.cfg.Wish == None {
		return gdb.NewMemory(s.cfg.GDB, true), nil
	}
	k, err := s.kernelMemory(ctx)
	switch {
	case err == nil:
		return k, nil
	case final(ctx, err):
		return nil, err
	}
	return notedMemory{gdb.NewMemory(s.cfg.GDB, true), []string{"read by GDB, since " + err.Error()}}, nil
}

// notedMemory is memory with something to be said of it.
type notedMemory struct {
	gdb.Memory
	notes []string
}

func (m notedMemory) Notes() []string { return append(m.notes, m.Memory.Notes()...) }

// kernelMemory is the memory of the selected CPU by its tables.
func (s *Source) kernelMemory(ctx context.Context) (*kernelMemory, error) {
	l, res, err := s.walk(ctx, TableOptions{PTE: true}, true)
	k := &kernelMemory{flat: errors.Is(err, pt.ErrPagingOff)}
	switch {
	case k.flat:
		k.about = []string{flatNote(err)}
	case err != nil:
		return nil, err
	default:
		k.win, k.unread = windowOf(res, 0), unreadTables(res)
	}
	k.about = slices.Concat(k.about, l.c.notes, l.m.layout().hiddenNote(l.c.index))
	k.physMemory = l.physMemory()
	return k, nil
}

// Notes says what the answers lack.
func (k *kernelMemory) Notes() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Concat(k.about, k.unread, k.physMemory.Notes())
}

// ReadMemory implements vm.Reader.
func (k *kernelMemory) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	var failed error
	n, err := k.read(ctx, p, func(off uint64) (pa, n uint64, ok bool) {
		pa, n, ok, failed = k.Backing(ctx, addr+off)
		return pa, n, ok
	})
	if err == nil {
		err = failed
	}
	return n, err
}

var _ vm.Aliased = (*kernelMemory)(nil)

// Backing implements vm.Aliased: kernels map all RAM at one place and parts of
// it at others.
func (k *kernelMemory) Backing(ctx context.Context, addr uint64) (pa, n uint64, ok bool, err error) {
	if k.flat {
		return addr, min(^addr, ^uint64(0)-1) + 1, true, nil
	}
	w, err := k.window(ctx, addr)
	if err != nil {
		return 0, 0, false, err
	}
	i := sort.Search(len(w.rows), func(i int) bool { return w.rows[i].Start+(w.rows[i].Size-1) >= addr })
	switch {
	case i == len(w.rows):
		return 0, min(w.last-addr, ^uint64(0)-1) + 1, false, nil
	case addr < w.rows[i].Start:
		return 0, w.rows[i].Start - addr, false, nil
	}
	off := addr - w.rows[i].Start
	return w.rows[i].Phys + off, w.rows[i].Size - off, true, nil
}

// window is the one that holds addr. There is one for all addresses but where
// there are very many rows.
func (k *kernelMemory) window(ctx context.Context, addr uint64) (window, error) {
	if ctx.Err() != nil {
		return window{}, context.Cause(ctx)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if addr-k.win.first <= k.win.last-k.win.first {
		return k.win, nil
	}
	var res *pt.Result
	err := k.look.withPhys(ctx, func(mem pt.Phys) (err error) {
		res, err = pt.Walk(ctx, mem, k.look.c.mmu, pt.Options{PTE: true, First: addr})
		return err
	})
	if err == nil {
		err = gone(res)
	}
	if err != nil {
		return window{}, err
	}
	k.win = windowOf(res, addr)
	for _, note := range unreadTables(res) {
		if !slices.Contains(k.unread, note) {
			k.unread = append(k.unread, note)
		}
	}
	return k.win, nil
}

// Behind implements vm.Aliased.
func (k *kernelMemory) Behind() vm.Reader { return k.physMemory }

// Physical is the physical memory of a machine in QEMU as its selected CPU sees
// it. It is read by physical addresses.
type Physical struct {
	vm.Memory
	Map *vm.Map // RAM and ROM by physical address
	// MappedAt is where the CPU's tables map the byte at pa: all virtual
	// addresses, or where there are more than limit some, ascending, and how
	// many there are. It is called by one goroutine at a time.
	MappedAt func(pa uint64, limit int) (at []uint64, all int)
	// Incomplete says that a part of the tables was not looked at for MappedAt.
	Incomplete bool
}

// Physical is the physical memory of the machine. Close it after use.
func (s *Source) Physical(ctx context.Context) (*Physical, error) {
	k, err := s.kernelMemory(ctx)
	if err != nil {
		return nil, err
	}
	if k.blocks == nil {
		return nil, errors.Join(errors.New("QEMU is not asked over this connection where RAM is; start it with -gdb tcp:127.0.0.1:PORT"), k.Close())
	}
	p := &Physical{Memory: k.physMemory, Map: &vm.Map{
		Mappings: mappingsOf(k.blocks), AddressBits: 64, From: machineOrigin(), Live: s.cfg.GDB.Live(), Notes: slices.Concat(k.about, k.unread),
	}}
	if k.flat {
		p.MappedAt = func(pa uint64, limit int) ([]uint64, int) { return []uint64{pa}[:min(1, limit)], 1 }
		return p, nil
	}
	p.Incomplete = len(k.unread) > 0
	if k.win.last != ^uint64(0) {
		p.Incomplete = true
		p.Map.Notes = append(p.Map.Notes, fmt.Sprintf("where memory is mapped from %#x on was not looked at: there are too many pages", k.win.last+1))
	}
	p.MappedAt = newPhysIndex(k.win.rows).mappedAt
	return p, nil
}

// Notes says what reading did that it should not have, and did not do.
func (p *Physical) Notes() []string {
	if n, ok := p.Memory.(vm.Noter); ok {
		return n.Notes()
	}
	return nil
}
