package target

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"dbgsh/pt"
	"dbgsh/vm"
)

// physMemory is the physical memory that a CPU of a machine in QEMU sees. Only
// RAM and ROM are read: a device may take being read for an order.
type physMemory struct {
	layout
	t   *Target
	cpu int
	ram *hostRAM // nil where QEMU's process cannot be read
}

// physMemory is the memory that a CPU sees, out of QEMU's process where that
// can be read, else through the stub.
func (t *Target) physMemory(ctx context.Context, m *qemuMachine, cpu int) (*physMemory, error) {
	ram, err := t.hostRAM(ctx, m, cpu)
	if final(ctx, err) {
		return nil, err
	}
	query := func(line string) (string, error) { return t.query(ctx, line) }
	return &physMemory{layout: m.layout(cpu, query), t: t, cpu: cpu, ram: ram}, nil
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
		there, err := m.memory(pa)
		if final(ctx, err) {
			return 0, err
		}
		if err != nil {
			break
		}
		k := int(min(uint64(len(p)-all), size, there))
		parts = append(parts, part{pa, p[all : all+k]})
		all += k
	}
	var bad error
	fill := func(mem pt.Phys) error {
		n, bad = 0, nil
		for _, part := range parts {
			if err := mem.ReadPhys(part.b, part.pa); err != nil && bad == nil {
				bad = err
			}
			if bad == nil {
				n += len(part.b)
			}
		}
		return nil
	}
	switch {
	case len(parts) == 0:
	case m.ram != nil:
		err = fill(m.ram)
	default:
		err = m.t.inPhysicalMode(ctx, m.m, m.cpu, func(s *stubPhys) error { return s.rounds(fill) })
	}
	if err != nil {
		return 0, err
	}
	return n, bad
}

// Close implements Memory; QEMU's process stays open for the connection.
func (m *physMemory) Close() error { return nil }

// kernelMemory is the memory that a CPU of a machine in QEMU sees by its page tables.
type kernelMemory struct {
	*physMemory
	rows []pt.Row // what is mapped where; sorted
	flat bool     // nothing is translated: addresses are physical
}

// machineMemory is the memory of a machine.
func (t *Target) machineMemory(ctx context.Context, inf *inferior) (Memory, error) {
	if t.kernelWish() == KernelMapNone {
		return newGDBMemory(t, true), nil
	}
	k, _, err := t.kernelMemory(ctx, inf)
	if err != nil && !final(ctx, err) {
		return newGDBMemory(t, true), nil
	}
	return k, err
}

// kernelMemory is the memory of the selected CPU by its tables. Notes say what
// they may map beside.
func (t *Target) kernelMemory(ctx context.Context, inf *inferior) (k *kernelMemory, notes []string, err error) {
	// What lies below 1 MiB may be RAM now and ROM a moment ago.
	if err := t.forgetMachine(); err != nil {
		return nil, nil, err
	}
	m, c, res, err := t.walk(ctx, inf, PageTableOptions{PTE: true})
	k = &kernelMemory{}
	switch {
	case errors.Is(err, pt.ErrPagingOff):
		k.flat, notes = true, []string{flatNote(err)}
	case err != nil:
		return nil, nil, err
	default:
		k.rows, notes = res.Rows, unlisted(res)
	}
	k.physMemory, err = t.physMemory(ctx, m, c.index)
	return k, notes, err
}

// ReadMemory implements vm.Reader.
func (k *kernelMemory) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	return k.read(ctx, p, func(off uint64) (pa, n uint64, ok bool) { return k.Backing(addr + off) })
}

var _ vm.Aliased = (*kernelMemory)(nil)

// Backing implements vm.Aliased: kernels map all RAM at one place and parts of
// it at others.
func (k *kernelMemory) Backing(addr uint64) (pa, n uint64, ok bool) {
	if k.flat {
		return addr, max(-addr, 1), true // the last byte of 2^64 is no memory
	}
	i := sort.Search(len(k.rows), func(i int) bool { return k.rows[i].Start+(k.rows[i].Size-1) >= addr })
	switch {
	case i == len(k.rows):
		return 0, max(-addr, 1), false
	case addr < k.rows[i].Start:
		return 0, k.rows[i].Start - addr, false
	}
	off := addr - k.rows[i].Start
	return k.rows[i].Phys + off, k.rows[i].Size - off, true
}

// Behind implements vm.Aliased.
func (k *kernelMemory) Behind() vm.Reader { return k.physMemory }

// Physical is the physical memory of a machine in QEMU as its selected CPU sees
// it. It is read by physical addresses.
type Physical struct {
	Memory
	Map *vm.Map // RAM and ROM by physical address
	// MappedAt is where the CPU's tables map the byte at pa: all virtual
	// addresses, or where there are more than limit some, ascending, and how
	// many there are.
	MappedAt func(pa uint64, limit int) (at []uint64, all int)
}

// Physical is the physical memory of the machine in QEMU. The error wraps
// ErrNoPageTables where the debuggee is no such machine.
func (t *Target) Physical(ctx context.Context) (*Physical, error) {
	inf, err := t.inferior(ctx)
	if err != nil {
		return nil, err
	}
	if inf.kind != KindQEMUSystem {
		return nil, fmt.Errorf("the debuggee is %v: %w", inf.kind, ErrNoPageTables)
	}
	k, notes, err := t.kernelMemory(ctx, &inf)
	if err != nil {
		return nil, err
	}
	if k.blocks == nil {
		return nil, errors.New("where RAM is is not asked over this connection; start QEMU with -gdb tcp:127.0.0.1:PORT")
	}
	p := &Physical{Memory: k.physMemory, Map: &vm.Map{Mappings: mappingsOf(k.blocks), AddressBits: 64, Notes: notes}}
	if k.flat {
		p.MappedAt = func(pa uint64, limit int) ([]uint64, int) { return []uint64{pa}[:min(1, limit)], 1 }
	} else {
		p.MappedAt = newPhysIndex(k.rows).mappedAt
	}
	return p, nil
}
