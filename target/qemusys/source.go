package qemusys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"dbgsh/pt"
	"dbgsh/target/gdb"
	"dbgsh/vm"
)

// Wish says where the memory map of a machine is to be read from.
type Wish string

// The sources, in the order in which Auto tries the first two.
const (
	Auto       Wish = "auto"
	PageTables Wish = "page-tables" // the selected CPU's page tables
	Monitor    Wish = "monitor"     // "info mem" of QEMU's monitor
	None       Wish = "none"        // what the stub and the program declare
)

// Config is what a Source works with.
type Config struct {
	GDB      *gdb.GDB
	Conn     gdb.Connection
	Inferior int    // as GDB counts them
	Thread   string // the selected one's number, which stands for a CPU, as the stub says
	Wish     Wish   // where the map is to be read from
	Machines *Machines
	// FindPeer finds QEMU's process: FindPeer, but in tests.
	FindPeer func(gdbPID int, c gdb.Connection) (Peer, error)
	// Declared is the map that the stub and the program declare, for want of another.
	Declared func(ctx context.Context) (*vm.Map, error)
}

// Source is what is known of a machine in QEMU, as its selected CPU sees it,
// until it next changes. Its methods may be called from several goroutines.
type Source struct {
	cfg   Config
	fresh atomic.Bool // the layout was asked for since the machine last changed
}

// New is the source for a machine as it is now.
func New(cfg Config) *Source { return &Source{cfg: cfg} }

// machine is the machine behind the connection.
func (s *Source) machine(ctx context.Context) (*Machine, error) {
	m, fresh, err := s.cfg.Machines.machine(ctx, &s.cfg)
	if fresh {
		s.fresh.Store(true)
	}
	return m, err
}

// layOut asks anew where the machine's memory is.
func (s *Source) layOut(ctx context.Context, m *Machine) error {
	err := m.layOut(ctx)
	s.fresh.Store(err == nil)
	return err
}

// TableOptions say what of the page tables to show.
type TableOptions struct {
	// Root is the physical address of another root table than the selected
	// CPU's, nil for none; on aarch64 that of the lower addresses.
	Root *uint64
	// PTE asks for a mapping for each physically contiguous run of pages of one
	// size, with equal flags.
	PTE bool
}

// Map is the map of the machine from the source that is wished for.
func (s *Source) Map(ctx context.Context) (*vm.Map, error) {
	if s.cfg.Wish == None {
		return s.cfg.Declared(ctx)
	}
	var tablesErr error
	if s.cfg.Wish != Monitor {
		m, err := s.PageTables(ctx, TableOptions{})
		if err == nil || final(ctx, err) {
			return m, err
		}
		tablesErr = err
	}
	if s.cfg.Wish != PageTables {
		m, err := s.monitorMap(ctx)
		if err == nil || final(ctx, err) {
			if err == nil && tablesErr != nil {
				m.From.Instead = tablesErr.Error()
			}
			return m, err
		}
		if tablesErr == nil {
			tablesErr = err
		}
	}
	m, err := s.cfg.Declared(ctx)
	if err != nil {
		return nil, err
	}
	m.Partial = append([]vm.Lack{{Of: vm.LackMappings, Why: "no page tables: " + tablesErr.Error()}}, m.Partial...)
	return m, nil
}

// final reports whether an error leaves nothing else to try.
func final(ctx context.Context, err error) bool {
	var gone *gdb.LostError
	return ctx.Err() != nil || errors.As(err, &gone)
}

// PageTables is the map that the page tables of the selected CPU make.
func (s *Source) PageTables(ctx context.Context, o TableOptions) (*vm.Map, error) {
	m, c, res, err := s.walk(ctx, o, false)
	switch {
	case errors.Is(err, pt.ErrPagingOff) && o.Root == nil:
		return m.physicalMap(c, err), nil
	case err != nil:
		return nil, err
	case o.Root != nil && res.Unread > 0 && res.Unreadable[0].Table == *o.Root:
		return nil, res.Unreadable[0]
	}
	out := mapOf(c, res, o.PTE)
	out.Live = s.cfg.GDB.Live()
	lay := m.layout()
	if out.AddressBits == 64 {
		m.arch.nameRegions(out.Mappings, lay.view(c.index))
	}
	out.Notes = append(out.Notes, lay.hiddenNote(c.index)...)
	if m.physMode.Load() {
		mode, err := m.g.Packet(ctx, "qqemu.PhyMemMode")
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
func (s *Source) walk(ctx context.Context, o TableOptions, anew bool) (m *Machine, c *cpu, res *pt.Result, err error) {
	if m, err = s.machine(ctx); err != nil {
		return nil, nil, nil, err
	}
	if anew && !s.fresh.Load() {
		if err := s.layOut(ctx, m); err != nil {
			return nil, nil, nil, err
		}
	}
	if c, err = s.cpu(ctx, m, o.Root); err != nil {
		return nil, nil, nil, err
	}
	for {
		err = m.withPhys(ctx, c, func(mem pt.Phys) error {
			res, err = pt.Walk(ctx, mem, c.mmu, pt.Options{PTE: o.PTE})
			return err
		})
		if s.fresh.Load() || err == nil && res.Unread == 0 || err != nil && !errors.Is(err, pt.ErrPagingOff) {
			break
		}
		if err := s.layOut(ctx, m); err != nil {
			return nil, nil, nil, err
		}
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
	return &gdb.LostError{What: "QEMU", Reason: res.Unreadable[0].Err.Error()}
}

// withPhys runs f on the physical memory that a CPU sees: QEMU's own, or where
// that cannot be read the stub's. It may run f several times; only the last one
// counts, and f fails only where it would fail on any memory.
func (m *Machine) withPhys(ctx context.Context, c *cpu, f func(pt.Phys) error) error {
	ram, err := m.hostRAM(c.index)
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
	return m.inPhysicalMode(ctx, c.index, func(s *stubPhys) error { return s.rounds(f) })
}

// PageWalk follows an address through the page tables of the selected CPU, or
// through those of another root, the address's own half's on aarch64. The error
// wraps pt.ErrPagingOff where nothing is translated.
func (s *Source) PageWalk(ctx context.Context, addr uint64, root *uint64) (*pt.Path, error) {
	m, err := s.machine(ctx)
	if err != nil {
		return nil, err
	}
	upper := m.arch == archARM64 && addr>>55&1 != 0 // the bit that chooses the root, also of tagged addresses
	own := root
	if upper {
		own = nil
	}
	c, err := s.cpu(ctx, m, own)
	if err != nil {
		return nil, err
	}
	if root != nil && upper {
		c.mmu = withUpper(c.mmu, *root)
	}
	for {
		var path *pt.Path
		err = m.withPhys(ctx, c, func(mem pt.Phys) error {
			path, err = pt.Translate(mem, c.mmu, addr)
			return err
		})
		if err != nil {
			return nil, err
		}
		if s.fresh.Load() || path.End != pt.NotReadable {
			path.Notes = slices.Concat(c.notes, path.Notes)
			return path, nil
		}
		if err := s.layOut(ctx, m); err != nil {
			return nil, err
		}
	}
}

// mapOf is what a walk found as a map; pte says that it kept pages apart.
func mapOf(c *cpu, res *pt.Result, pte bool) *vm.Map {
	m := &vm.Map{AddressBits: res.Bits, Notes: c.notes, Rules: res.Notes, From: vm.Origin{Source: vm.SourcePageTables, Place: fmt.Sprintf("page tables, root register %#x", c.root)}}
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
	for _, why := range unreadTables(res) {
		m.Partial = append(m.Partial, vm.Lack{Of: vm.LackMappings, Why: why})
	}
	if res.Cut != nil {
		m.Partial = append(m.Partial, vm.Lack{Of: vm.LackMappings, Why: res.Cut.String()})
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
func (m *Machine) physicalMap(c *cpu, why error) *vm.Map {
	lay := m.layout()
	blocks := lay.view(c.index)
	out := &vm.Map{AddressBits: 64, Mappings: mappingsOf(blocks), From: machineOrigin(), Notes: append([]string{flatNote(why)}, c.notes...)}
	if len(blocks) == 0 {
		out.Partial = append(out.Partial, vm.Lack{Of: vm.LackMappings, Why: "QEMU is not asked over this connection where RAM is; over TCP it is"})
	}
	out.Notes = append(out.Notes, lay.hiddenNote(c.index)...)
	if x, ok := c.mmu.(pt.X86); ok && x.CR0&1 == 0 { // PE
		out.Notes = append(out.Notes, "the CPU is in real mode: $pc and $sp are offsets into segments, whose bases are not added")
	}
	return out
}

// machineOrigin is where the layout of physical memory is read.
func machineOrigin() vm.Origin {
	return vm.Origin{Source: vm.SourceMachine, Place: "info mtree of QEMU's monitor"}
}

// mappingsOf is memory as a map shows it.
func mappingsOf(blocks []MemoryBlock) []vm.Mapping {
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

// Describe says where a map of the machine is from, and how its tables are read.
func (s *Source) Describe(ctx context.Context, m *vm.Map) (pid int, from string) {
	if m.From.Source != vm.SourcePageTables {
		return 0, m.From.String()
	}
	return 0, s.describeTables(ctx)
}

func (s *Source) describeTables(ctx context.Context) string {
	m, err := s.machine(ctx)
	if err != nil {
		return "nothing: " + err.Error()
	}
	c, err := s.cpu(ctx, m, nil)
	if err != nil {
		return "nothing: " + err.Error()
	}
	from := fmt.Sprintf("page tables of CPU %d, root register %#x, ", s.cpuIndex(), c.root)
	ram, err := m.hostRAM(c.index)
	if err == nil {
		err = ram.Close()
	}
	if err != nil {
		return from + "read through the stub: " + err.Error()
	}
	return from + fmt.Sprintf("read from QEMU's process %d", m.peer.PID)
}
