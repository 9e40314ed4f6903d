// Package target is what is debugged: its kind, one source of maps and memory for
// each kind, and the view, which is what is known of the debuggee until it next
// changes.
package target

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"dbgsh/pt"
	"dbgsh/target/gdb"
	"dbgsh/target/proc"
	"dbgsh/target/qemusys"
	"dbgsh/target/qemuuser"
	"dbgsh/vm"
)

// Config says how to start GDB, and on what.
type Config struct {
	gdb.Config
	// QEMUUserMap says where the map of a program in QEMU's user mode is to be
	// read from, asked for once a view; nil is qemuuser.Auto.
	QEMUUserMap func() qemuuser.Wish
	// KernelMap says where the map of a machine in QEMU is to be read from, asked
	// for once a view; nil is qemusys.Auto.
	KernelMap func() qemusys.Wish
}

// Target is a GDB with its debuggee. Its methods may be called from several
// goroutines; GDB works on one call after the other.
type Target struct {
	*gdb.GDB
	cfg  Config
	kept kept
	// findPeer finds QEMU's process at the other end of a connection.
	findPeer func(gdbPID int, c gdb.Connection) (qemusys.Peer, error)

	turn chan struct{} // holds one while somebody makes a view
	mu   sync.Mutex
	view *View // the one made last, nil for none; guarded by mu
}

// New is a target whose GDB is not started yet. It opens the inferior's terminal.
func New(cfg Config) (*Target, error) {
	g, err := gdb.New(cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Target{GDB: g, cfg: cfg, findPeer: qemusys.FindPeer, turn: make(chan struct{}, 1)}, nil
}

// Close ends GDB: what it started is killed, what it attached to goes on. It
// may be called more than once.
func (t *Target) Close(ctx context.Context) error {
	return errors.Join(t.GDB.Close(ctx), t.kept.Close())
}

// View is what is known of the selected inferior now. Until something changes it
// is one and the same, but of a debuggee that runs, which GDB does not tell all of
// (execve(2), for one), it is another each time.
func (t *Target) View(ctx context.Context) (*View, error) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	stamp := t.Stamp()
	t.mu.Lock()
	v := t.view
	t.mu.Unlock()
	if v != nil && v.stamp == stamp && !t.Live() {
		return v, nil
	}
	v, err := t.look(ctx, stamp)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.view = v
	t.mu.Unlock()
	return v, nil
}

// look makes a view of what there is now.
func (t *Target) look(ctx context.Context, stamp gdb.Stamp) (*View, error) {
	v := &View{t: t, stamp: stamp, mapTurn: make(chan struct{}, 1)}
	var err error
	if v.Inferior, err = t.Inferior(ctx); err != nil {
		return nil, err
	}
	if v.Kind, err = t.kindOf(ctx, &v.Inferior); err != nil {
		return nil, err
	}
	if err := t.kept.prune(v, stamp); err != nil {
		return nil, err
	}
	v.source = kinds()[v.Kind].open(v)
	return v, nil
}

// Started reports whether a process that GDB started, and would kill on leaving,
// is alive.
func (t *Target) Started() bool {
	gdb := t.PID()
	for _, pid := range t.PIDs() {
		if parent, err := proc.Parent(pid); err == nil && parent == gdb { // GDB is the parent of what it starts
			return true
		}
	}
	return false
}

// noProcess says that there is no process, or why there is none any more.
func (t *Target) noProcess() error {
	if err := t.Lost(); err != nil {
		return err
	}
	return vm.ErrNoProcess
}

// Map is the memory map of the selected inferior, read once a view unless the
// debuggee runs, with what was explored. The error wraps vm.ErrNoProcess where
// there is nothing that could have a map.
func (t *Target) Map(ctx context.Context) (*vm.Map, error) {
	v, err := t.View(ctx)
	if err != nil {
		return nil, err
	}
	return v.Map(ctx)
}

// Memory is the memory of the selected inferior: read from the process itself
// where it is one on this machine, or QEMU's on it, else through GDB.
func (t *Target) Memory(ctx context.Context) (vm.Memory, error) {
	v, err := t.View(ctx)
	if err != nil {
		return nil, err
	}
	return v.source.Memory(ctx)
}

// Arch is the size of the debuggee's pointers in bytes and its byte order: the
// process's, else the program's, else what GDB supposes.
func (t *Target) Arch(ctx context.Context) (ptr int, order binary.ByteOrder, err error) {
	v, err := t.View(ctx)
	if err != nil {
		return 0, nil, err
	}
	return v.Arch(ctx)
}

// Program is the path of the program's file, "" where none is loaded.
func (t *Target) Program(ctx context.Context) (string, error) {
	v, err := t.View(ctx)
	if err != nil {
		return "", err
	}
	return v.Inferior.Program, nil
}

// Status is what is known of a target.
type Status struct {
	Kind    Kind
	PID     int    // of the debuggee, 0 where there is none
	Running bool   // else stopped
	Program string // the file that is debugged, "" for none
	GDB     string // GDB's version
	GDBPID  int
	Map     *vm.Map // nil where there is none
	MapFrom string  // where the map is read from, or why there is none
}

// Status asks what there is. That there is no map is no error.
func (t *Target) Status(ctx context.Context) (Status, error) {
	v, err := t.View(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{Kind: v.Kind, PID: v.Inferior.PID, Program: v.Inferior.Program, GDBPID: t.PID()}
	if s.GDB, err = t.Version(ctx); err != nil {
		return Status{}, err
	}
	s.Running = v.Inferior.Running && !v.Inferior.Stopped
	if o, ok := v.source.(processOwner); ok {
		s.PID = o.PID()
	}
	s.Map, err = v.Map(ctx)
	d, ok := v.source.(describer)
	switch {
	case ctx.Err() != nil, errors.As(err, new(*gdb.LostError)):
		return Status{}, err
	case errors.Is(err, vm.ErrNoProcess):
		s.MapFrom = "nothing: there is no process"
	case err != nil:
		s.MapFrom = "nothing: " + err.Error()
	case ok:
		s.MapFrom = d.Describe(ctx, s.Map)
	default:
		s.MapFrom = s.Map.From.String()
	}
	return s, nil
}

// explorePage is the step in bytes in which memory is explored: the smallest
// page of the architectures that GDB knows.
const explorePage = 4096

// ErrMapKnown says that there is nothing to explore, since the map is known.
var ErrMapKnown = errors.New("the memory map of this kind of target is known; vmmap shows it")

// Explore finds the bounds of the readable memory around addr by reading a byte
// of each page, at most limit bytes far, and adds it to the map for as long as
// the process lives. The mapping is empty where nothing can be read at addr.
func (t *Target) Explore(ctx context.Context, addr, limit uint64) (m vm.Mapping, cut bool, err error) {
	v, err := t.View(ctx)
	if err != nil {
		return m, false, err
	}
	switch err := kinds()[v.Kind].explore; {
	case errors.Is(err, vm.ErrNoProcess):
		return m, false, t.noProcess()
	case err != nil:
		return m, false, err
	}
	ptr, _, err := v.Arch(ctx)
	if err != nil {
		return m, false, err
	}
	last := uint64(math.MaxUint64)
	if ptr == 4 {
		last = math.MaxUint32
	}
	found, err := explore(ctx, gdb.NewMemory(t.GDB, false), addr, last, explorePage, limit)
	m = vm.Mapping{Range: found.Range, Perm: vm.KnownRead | vm.Read, Name: "<explored>", Source: vm.SourceExplored}
	if err == nil && m.Size > 0 {
		t.kept.addExplored(v.key(), m)
	}
	return m, found.cut, err
}

// ErrNoPageTables says that page tables are not to be had for what is debugged.
var ErrNoPageTables = errors.New("page tables are those of a machine in QEMU; connect to one with \"target remote\"")

// pageTables is a source that has page tables and physical memory.
type pageTables interface {
	PageTables(ctx context.Context, o qemusys.TableOptions) (*vm.Map, error)
	PageWalk(ctx context.Context, addr uint64, root *uint64) (*pt.Path, error)
	Physical(ctx context.Context) (*qemusys.Physical, error)
	// Refresh has GDB read registers anew with which it is asked next.
	Refresh(ctx context.Context) error
}

// PageTables is the map that the page tables of the selected CPU of a machine in
// QEMU make. The error wraps ErrNoPageTables where the debuggee is no such machine.
func (t *Target) PageTables(ctx context.Context, o qemusys.TableOptions) (*vm.Map, error) {
	v, m, err := t.machine(ctx)
	if err != nil {
		return nil, err
	}
	tables, err := m.PageTables(ctx, o)
	if err != nil || o.Root != nil {
		return tables, err
	}
	explored, _ := t.kept.explored(v.key())
	tables.Mappings = slices.Concat(tables.Mappings, explored)
	vm.Sort(tables.Mappings)
	return tables, nil
}

// PageWalk follows an address through the page tables of the selected CPU of a
// machine in QEMU, or through those of another root, the address's own half's
// on ARM. The error wraps ErrNoPageTables or pt.ErrPagingOff.
func (t *Target) PageWalk(ctx context.Context, addr uint64, root *uint64) (*pt.Path, error) {
	_, m, err := t.machine(ctx)
	if err != nil {
		return nil, err
	}
	return m.PageWalk(ctx, addr, root)
}

// Physical is the physical memory of the machine in QEMU; close it after use. The
// error wraps ErrNoPageTables where the debuggee is no such machine.
func (t *Target) Physical(ctx context.Context) (*qemusys.Physical, error) {
	_, m, err := t.machine(ctx)
	if err != nil {
		return nil, err
	}
	return m.Physical(ctx)
}

// Evaluate is GDB.Evaluate with the registers as they are now, be it that others
// have run the debuggee meanwhile.
func (t *Target) Evaluate(ctx context.Context, expr string) (value uint64, negative bool, err error) {
	// Numbers and names of the program's are known without a debuggee.
	if v, err := t.View(ctx); err == nil {
		if m, ok := v.source.(pageTables); ok {
			if err := m.Refresh(ctx); err != nil {
				return 0, false, err
			}
		}
	}
	return t.GDB.Evaluate(ctx, expr)
}

// machine is the view of a machine in QEMU, and its source. The error wraps
// ErrNoPageTables where the debuggee is none.
func (t *Target) machine(ctx context.Context) (*View, pageTables, error) {
	v, err := t.View(ctx)
	if err != nil {
		return nil, nil, err
	}
	m, ok := v.source.(pageTables)
	switch lost := t.Lost(); {
	case ok:
	case v.Kind == KindNone && lost != nil:
		return nil, nil, lost
	default:
		return nil, nil, fmt.Errorf("the debuggee is %v: %w", v.Kind, ErrNoPageTables)
	}
	return v, m, nil
}
