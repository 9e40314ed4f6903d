package target

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"dbgsh/pt"
	"dbgsh/target/qemusys"
	"dbgsh/vm"
)

// KernelMap says where the memory map of a machine in QEMU is read from.
type KernelMap string

// The sources, in the order in which auto tries the first two.
const (
	KernelMapAuto       KernelMap = "auto"
	KernelMapPageTables KernelMap = "page-tables" // the selected CPU's page tables
	KernelMapMonitor    KernelMap = "monitor"     // "info mem" of QEMU's monitor
	KernelMapNone       KernelMap = "none"        // what the stub and the program declare
)

// PageTableOptions say what of the page tables to show.
type PageTableOptions struct {
	// Root is the physical address of another root table than the selected
	// CPU's, nil for none; on aarch64 that of the lower addresses.
	Root *uint64
	// PTE asks for a mapping for each physically contiguous run of pages of one
	// size, with equal flags.
	PTE bool
}

// ErrNoPageTables says that page tables are not to be had for what is debugged.
var ErrNoPageTables = errors.New("page tables are those of a machine in QEMU; connect to one with \"target remote\"")

// kernelWish is the source that is wished for.
func (t *Target) kernelWish() KernelMap {
	if t.cfg.KernelMap == nil {
		return KernelMapAuto
	}
	return t.cfg.KernelMap()
}

// machineMap is the map of a machine in QEMU from the source that is wished for.
func (t *Target) machineMap(ctx context.Context, inf *inferior) (*vm.Map, error) {
	wish := t.kernelWish()
	if wish == KernelMapNone {
		return t.stubMap(ctx, inf)
	}
	var tablesErr error
	if wish != KernelMapMonitor {
		m, err := t.pageTables(ctx, inf, PageTableOptions{})
		if err == nil || final(ctx, err) {
			return m, err
		}
		tablesErr = err
	}
	if wish != KernelMapPageTables {
		m, err := t.monitorMap(ctx, inf)
		if err == nil || final(ctx, err) {
			if err == nil && tablesErr != nil {
				m.Notes = append(m.Notes, "from the monitor, since "+tablesErr.Error())
			}
			return m, err
		}
		if tablesErr == nil {
			tablesErr = err
		}
	}
	m, err := t.stubMap(ctx, inf)
	if err != nil {
		return nil, err
	}
	m.Notes = append([]string{"no page tables: " + tablesErr.Error()}, m.Notes...)
	return m, nil
}

// final reports whether an error leaves nothing else to try.
func final(ctx context.Context, err error) bool {
	var gone *LostError
	return ctx.Err() != nil || errors.As(err, &gone)
}

// PageTables is the map that the page tables of the selected CPU of a machine in
// QEMU make. The error wraps ErrNoPageTables where the debuggee is no such machine.
func (t *Target) PageTables(ctx context.Context, o PageTableOptions) (*vm.Map, error) {
	inf, err := t.inferior(ctx)
	if err != nil {
		return nil, err
	}
	if inf.kind != KindQEMUSystem {
		return nil, fmt.Errorf("the debuggee is %v: %w", inf.kind, ErrNoPageTables)
	}
	return t.pageTables(ctx, &inf, o)
}

func (t *Target) pageTables(ctx context.Context, inf *inferior, o PageTableOptions) (*vm.Map, error) {
	m, c, res, err := t.walk(ctx, inf, o, false)
	switch {
	case errors.Is(err, pt.ErrPagingOff) && o.Root == nil:
		return m.physicalMap(c, err), nil
	case err != nil:
		return nil, err
	case o.Root != nil && res.Unread > 0 && res.Unreadable[0].Table == *o.Root:
		return nil, res.Unreadable[0]
	}
	out := mapOf(c, res, o.PTE)
	lay := m.layout()
	if out.AddressBits == 64 {
		m.arch.nameRegions(out.Mappings, lay.view(c.index))
	}
	out.Notes = append(out.Notes, lay.hiddenNote(c.index)...)
	if m.physMode.Load() {
		mode, err := t.packet(ctx, "qqemu.PhyMemMode")
		if err != nil {
			return nil, err
		}
		if m.physMode.Store(mode == "1"); mode == "1" {
			out.Notes = append(out.Notes, `the stub is in physical mode, so GDB's own reads take physical addresses; "maint packet Qqemu.PhyMemMode:0" ends that`)
		}
	}
	return out, nil
}

// walk walks the tables of the selected CPU. With pt.ErrPagingOff the machine
// and the CPU come as well. Memory may have been added to the machine, or have
// become what it was not, since it was laid out: where that would show, the
// layout is asked for again, and before the walk where anew says so.
func (t *Target) walk(ctx context.Context, inf *inferior, o PageTableOptions, anew bool) (m *qemuMachine, c *cpu, res *pt.Result, err error) {
	m, fresh, err := t.machine(ctx, inf)
	if err != nil {
		return nil, nil, nil, err
	}
	if anew && !fresh {
		if err := t.layOut(ctx, m); err != nil {
			return nil, nil, nil, err
		}
		fresh = true
	}
	if c, err = t.cpu(ctx, m, o.Root); err != nil {
		return nil, nil, nil, err
	}
	for {
		err = t.withPhys(ctx, m, c, func(mem pt.Phys) error {
			res, err = pt.Walk(ctx, mem, c.mmu, pt.Options{PTE: o.PTE})
			return err
		})
		if fresh || err == nil && res.Unread == 0 || err != nil && !errors.Is(err, pt.ErrPagingOff) {
			break
		}
		if err := t.layOut(ctx, m); err != nil {
			return nil, nil, nil, err
		}
		fresh = true
	}
	if err == nil {
		err = gone(res)
	}
	return m, c, res, err
}

// gone is the error for a walk in the middle of which QEMU ended.
func gone(res *pt.Result) error {
	if res.Unread == 0 || !errors.Is(res.Unreadable[0].Err, vm.ErrProcessGone) {
		return nil
	}
	return &LostError{What: "QEMU", Reason: res.Unreadable[0].Err.Error()}
}

// withPhys runs f on the physical memory that a CPU sees: QEMU's own, or where
// that cannot be read the stub's. It may run f several times; only the last one
// counts, and f fails only where it would fail on any memory.
func (t *Target) withPhys(ctx context.Context, m *qemuMachine, c *cpu, f func(pt.Phys) error) error {
	ram, err := t.hostRAM(m, c.index)
	if err == nil {
		err = errors.Join(f(newRAMPhys(ctx, ram)), ram.Close())
		if !ram.isStrange() {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if final(ctx, err) {
		return err
	}
	return t.inPhysicalMode(ctx, m, c.index, func(s *stubPhys) error { return s.rounds(f) })
}

// PageWalk follows an address through the page tables of the selected CPU of a
// machine in QEMU, or through those of another root, the address's own half's
// on aarch64. The error wraps ErrNoPageTables or pt.ErrPagingOff.
func (t *Target) PageWalk(ctx context.Context, addr uint64, root *uint64) (*pt.Path, error) {
	inf, err := t.inferior(ctx)
	if err != nil {
		return nil, err
	}
	if inf.kind != KindQEMUSystem {
		return nil, fmt.Errorf("the debuggee is %v: %w", inf.kind, ErrNoPageTables)
	}
	m, fresh, err := t.machine(ctx, &inf)
	if err != nil {
		return nil, err
	}
	upper := m.arch == archARM64 && addr>>55&1 != 0 // the bit that chooses the root, also of tagged addresses
	own := root
	if upper {
		own = nil
	}
	c, err := t.cpu(ctx, m, own)
	if err != nil {
		return nil, err
	}
	if root != nil && upper {
		c.mmu = withUpper(c.mmu, *root)
	}
	for {
		var path *pt.Path
		err = t.withPhys(ctx, m, c, func(mem pt.Phys) error {
			path, err = pt.Translate(mem, c.mmu, addr)
			return err
		})
		if err != nil {
			return nil, err
		}
		if fresh || path.End != pt.NotReadable {
			path.Notes = slices.Concat(c.notes, path.Notes)
			return path, nil
		}
		if err := t.layOut(ctx, m); err != nil {
			return nil, err
		}
		fresh = true
	}
}

// mapOf is what a walk found as a map; pte says that it kept pages apart.
func mapOf(c *cpu, res *pt.Result, pte bool) *vm.Map {
	m := &vm.Map{AddressBits: res.Bits, Notes: c.notes, Rules: res.Notes}
	m.Mappings = make([]vm.Mapping, len(res.Rows))
	paged := make([]vm.Paged, len(res.Rows))
	for i := range res.Rows {
		r := &res.Rows[i]
		p := &paged[i]
		p.Kernel, p.User, p.Phys = r.Access.Kernel(), r.Access.User(), r.Phys
		if pte {
			p.PageSize, p.Flags = r.PageSize(), r.Flags.String()
		}
		m.Mappings[i] = vm.Mapping{
			Range: vm.Range{Start: r.Start, Size: r.Size}, Perm: permOf(r.Access),
			Source: vm.SourcePageTables, Paged: p,
		}
	}
	m.Notes = append(m.Notes, unreadTables(res)...)
	if res.Cut != nil {
		m.Notes = append(m.Notes, res.Cut.String())
	}
	return m
}

// unreadTables says which tables a walk could not read.
func unreadTables(res *pt.Result) (notes []string) {
	if res.Unread > 0 {
		notes = append(notes, res.Unreadable[0].Error())
	}
	if res.Unread > 1 {
		notes = append(notes, fmt.Sprintf("%d tables could not be read; what they map is not listed", res.Unread))
	}
	return notes
}

// permOf is the user's permissions where he may access the page, else the kernel's.
func permOf(a pt.Access) vm.Perm {
	letters := a.Kernel()
	if a.UserAccessible() {
		letters = a.User()
	}
	p, _ := vm.ParseAccess(letters) // they are r, w, x and - only
	return p
}

// flatNote says what addresses are where a CPU translates nothing; why says so.
func flatNote(why error) string { return why.Error() + "; addresses are physical ones" }

// physicalMap is the memory of a machine whose CPU translates nothing; why says so.
func (m *qemuMachine) physicalMap(c *cpu, why error) *vm.Map {
	lay := m.layout()
	blocks := lay.view(c.index)
	out := &vm.Map{AddressBits: 64, Mappings: mappingsOf(blocks), Notes: append([]string{flatNote(why)}, c.notes...)}
	if len(blocks) == 0 {
		out.Notes = append(out.Notes, "QEMU is not asked over this connection where RAM is; over TCP it is")
	}
	out.Notes = append(out.Notes, lay.hiddenNote(c.index)...)
	if x, ok := c.mmu.(pt.X86); ok && x.CR0&1 == 0 { // PE
		out.Notes = append(out.Notes, "the CPU is in real mode: $pc and $sp are offsets into segments, whose bases are not added")
	}
	return out
}

// mappingsOf is memory as a map shows it.
func mappingsOf(blocks []qemusys.MemoryBlock) []vm.Mapping {
	var ms []vm.Mapping
	for _, b := range blocks {
		perm := vm.KnownRead | vm.Read | vm.KnownWrite
		if b.Kind == "ram" || b.Kind == "nv-ram" {
			perm |= vm.Write
		}
		ms = append(ms, vm.Mapping{Range: b.Range, Perm: perm, Offset: b.Offset, Name: "[" + b.Name + "]", Source: vm.SourceMachine})
	}
	return ms
}

// machineSource says where the map of a machine is read from.
func (t *Target) machineSource(ctx context.Context, inf *inferior) string {
	switch t.kernelWish() {
	case KernelMapMonitor:
		return "info mem of QEMU's monitor"
	case KernelMapNone:
		return "what the stub and the program's file declare"
	}
	m, _, err := t.machine(ctx, inf)
	if err != nil {
		return "nothing: " + err.Error()
	}
	c, err := t.cpu(ctx, m, nil)
	if err != nil {
		return "nothing: " + err.Error()
	}
	s := fmt.Sprintf("page tables of CPU %d, root register %#x, ", t.cpuIndex(ctx), c.root)
	ram, err := t.hostRAM(m, c.index)
	if err == nil {
		err = ram.Close()
	}
	if err != nil {
		return s + "read through the stub: " + err.Error()
	}
	return s + fmt.Sprintf("read from QEMU's process %d", m.qemu)
}
