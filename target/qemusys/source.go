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
	Process  int    // which of the stub's it is: QEMU's clusters of CPUs count as such
	Thread   string // the selected one's number, which stands for a CPU, as the stub says
	Wish     Wish   // where the map is to be read from
	Machines *Machines
	// FindPeer finds QEMU's process: FindPeer, but in tests.
	FindPeer func(gdbPID int, c gdb.Connection) (Peer, error)
	// Declared is the map that the stub and the program declare, for want of another.
	Declared func(ctx context.Context) (*vm.Map, error)
}

// Source is a machine in QEMU as its selected CPU sees it. Others may run, stop,
// reset or load it at any time without GDB being told, so that each look at it
// begins with the CPU's registers, and what is known of its memory from a look
// before is checked. Its methods may be called from several goroutines.
//
// QEMU's stub pauses a machine that runs as soon as it is asked for anything
// (gdbstub.c, gdb_read_byte), its run state included: there is no looking at one
// that another monitor has set running.
type Source struct{ cfg Config }

// New is the source for a machine.
func New(cfg Config) *Source { return &Source{cfg} }

// look is one look at the machine.
type look struct {
	m        *Machine
	c        *cpu
	fresh    bool        // the layout was asked for in this look
	askedSMM bool        // whether the CPU is in system management mode
	special  atomic.Bool // memory was met that a CPU sees otherwise in that mode
}

// look begins a look, at the tables of another root where root is not nil; anew
// says that the layout is to be asked for first.
func (s *Source) look(ctx context.Context, root *uint64, anew bool) (*look, error) {
	m, fresh, err := s.cfg.Machines.machine(ctx, &s.cfg)
	if err != nil {
		return nil, err
	}
	l := &look{m: m, fresh: fresh}
	if anew && !fresh {
		if err := l.layOut(ctx); err != nil {
			return nil, err
		}
	}
	l.c, err = s.cpu(ctx, m, root)
	return l, err
}

// layOut asks anew where the machine's memory is.
func (l *look) layOut(ctx context.Context) error {
	err := l.m.layOut(ctx)
	l.fresh = err == nil
	return err
}

// Refresh has GDB read registers anew with which it is asked next.
func (s *Source) Refresh(ctx context.Context) error {
	_, _, err := s.cfg.GDB.Refresh(ctx)
	return err
}

// TableOptions say what of the page tables to show.
type TableOptions struct {
	// Root is the physical address of another root table than the selected
	// CPU's, nil for none; on arm and aarch64 that of the lower addresses.
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
	return ctx.Err() != nil || lostIn(err) != nil
}

// PageTables is the map that the page tables of the selected CPU make.
func (s *Source) PageTables(ctx context.Context, o TableOptions) (*vm.Map, error) {
	l, res, err := s.walk(ctx, o, false)
	switch {
	case errors.Is(err, pt.ErrPagingOff) && o.Root == nil:
		return l.physicalMap(err), nil
	case err != nil:
		return nil, err
	case o.Root != nil && res.Unread > 0 && res.Unreadable[0].Table == *o.Root:
		return nil, res.Unreadable[0]
	}
	m := l.m
	out := mapOf(l.c, res, o.PTE)
	out.Live = s.cfg.GDB.Live()
	lay := m.layout()
	if out.AddressBits == 64 {
		m.arch.nameRegions(out.Mappings, lay.view(l.c.space()))
	}
	out.Notes = append(out.Notes, lay.hiddenNote(l.c.index)...)
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

// walk walks the tables of the selected CPU. With pt.ErrPagingOff the look comes
// as well. Memory may have been added to the machine, or have become what it was
// not, since it was laid out: where that would show, the layout is asked for
// again, and before the walk where anew says so.
func (s *Source) walk(ctx context.Context, o TableOptions, anew bool) (l *look, res *pt.Result, err error) {
	if l, err = s.look(ctx, o.Root, anew); err != nil {
		return nil, nil, err
	}
	err = l.until(ctx, func(mem pt.Phys) (whole bool, err error) {
		res, err = pt.Walk(ctx, mem, l.c.mmu, pt.Options{PTE: o.PTE})
		return err == nil && res.Unread == 0, err
	})
	if err == nil {
		err = gone(res)
	}
	return l, res, err
}

// until runs f on the physical memory that the CPU sees, as withPhys does, and
// again where f has not found all that it should, since the machine's memory may
// be laid out otherwise by now, or where the CPU turns out to see another.
func (l *look) until(ctx context.Context, f func(pt.Phys) (whole bool, err error)) error {
	for {
		whole := false
		err := l.withPhys(ctx, func(mem pt.Phys) (err error) {
			l.meetCode(mem)
			whole, err = f(mem)
			return err
		})
		off := errors.Is(err, pt.ErrPagingOff)
		if errors.Is(err, errMoved) && !l.fresh {
			whole, err = false, nil
		} else if err != nil && !off {
			return err
		}
		if managed, err := l.inSMM(ctx, !whole); err != nil {
			return err
		} else if managed {
			continue
		}
		if whole || l.fresh {
			return err
		}
		if err := l.layOut(ctx); err != nil {
			return err
		}
	}
}

// gone is the error for a walk in the middle of which QEMU ended.
func gone(res *pt.Result) error {
	if res.Unread == 0 {
		return nil
	}
	return lostIn(res.Unreadable[0].Err)
}

// lostIn is the *gdb.LostError in an error, nil where there is none.
func lostIn(err error) error {
	var lost *gdb.LostError
	if !errors.As(err, &lost) {
		return nil
	}
	return lost
}

// asLost turns what means that QEMU's process has ended into a *gdb.LostError.
func asLost(err error) error {
	if errors.Is(err, vm.ErrProcessGone) && lostIn(err) == nil {
		return &gdb.LostError{What: "QEMU", Reason: err.Error()}
	}
	return err
}

// withPhys runs f on the physical memory that the CPU sees: QEMU's own, or where
// that cannot be read the stub's. It may run f several times; only the last one
// counts, and f fails only where it would fail on any memory.
func (l *look) withPhys(ctx context.Context, f func(pt.Phys) error) error {
	ram, err := l.hostRAM()
	if err == nil {
		err = f(newRAMPhys(ctx, ram))
		if moved := ram.settled(); moved != nil {
			err = moved
		}
		err = errors.Join(err, ram.Close())
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
	return l.throughStub(ctx, func(s *stubPhys) error { return s.rounds(f) })
}

// PageWalk follows an address through the page tables of the selected CPU, or
// through those of another root, the address's own half's on ARM. The error wraps
// pt.ErrPagingOff where nothing is translated.
func (s *Source) PageWalk(ctx context.Context, addr uint64, root *uint64) (*pt.Path, error) {
	l, err := s.look(ctx, nil, false)
	if err != nil {
		return nil, err
	}
	if root != nil {
		l.c.mmu = withRoot(l.c.mmu, *root, addr)
	}
	var path *pt.Path
	err = l.until(ctx, func(mem pt.Phys) (whole bool, err error) {
		path, err = pt.Translate(mem, l.c.mmu, addr)
		return err == nil && path.End != pt.NotReadable, err
	})
	if err == nil {
		err = lostIn(path.Err)
	}
	if err != nil {
		return nil, err
	}
	path.Notes = slices.Concat(l.c.notes, path.Notes)
	return path, nil
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
func (l *look) physicalMap(why error) *vm.Map {
	lay, c := l.m.layout(), l.c
	blocks := lay.view(c.space())
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
func (s *Source) Describe(ctx context.Context, m *vm.Map) string {
	if m.From.Source != vm.SourcePageTables {
		return m.From.String()
	}
	l, err := s.look(ctx, nil, false)
	if err != nil {
		return "nothing: " + err.Error()
	}
	from := fmt.Sprintf("page tables of CPU %d, root register %#x, ", s.cpuIndex(), l.c.root)
	ram, err := l.hostRAM()
	if err == nil {
		err = ram.Close()
	}
	if err != nil {
		return from + "read through the stub: " + err.Error()
	}
	return from + fmt.Sprintf("read from QEMU's process %d", l.m.peer.PID)
}
