package commands

import (
	"context"
	"encoding/binary"

	"dbgsh/pt"
	"dbgsh/target"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// Session is what commands work with: one debuggee, its map, and the settings.
type Session struct {
	Debuggee Debuggee
	Maps     *vm.Cache
	Registry *Registry
	Settings *Settings
	// Progress, if not nil, is told of work that may take long: update with
	// how much of it is done, and finish when it is over.
	Progress func(what string) (update func(done, total uint64), finish func())

	last         *search.Snapshot // the hits of the last search, nil before the first
	lastPhysical bool             // their addresses are physical ones
	lastCut      bool             // there were more than are kept
}

// Debuggee is what commands need of the target. Its methods may be called
// from one goroutine at a time.
type Debuggee interface {
	// Evaluate is the value of a GDB expression that is an integer or a
	// pointer, an array or a function (its address); a negative integer comes in two's
	// complement, and negative is true. A *target.ValueError says that GDB
	// does not know it as such; other errors say that GDB could not be asked.
	Evaluate(ctx context.Context, expr string) (value uint64, negative bool, err error)
	// Memory reads the debuggee's memory; close it after use.
	Memory(ctx context.Context) (target.Memory, error)
	// Arch is the pointer size in bytes and the byte order of the debuggee.
	Arch(ctx context.Context) (ptr int, order binary.ByteOrder, err error)
	// Program is the path of the program's file, "" where none is loaded.
	Program(ctx context.Context) (string, error)
	// Explore finds the bounds of the readable memory around addr, at most limit
	// bytes; cut says that there may be more. The mapping is empty where nothing
	// can be read at addr.
	Explore(ctx context.Context, addr, limit uint64) (m vm.Mapping, cut bool, err error)
	// Registers is the values of the selected thread's registers.
	Registers(ctx context.Context) ([]uint64, error)
	// PageTables is the map that the page tables of a machine in QEMU make. The
	// error wraps target.ErrNoPageTables where there is no such machine.
	PageTables(ctx context.Context, o target.PageTableOptions) (*vm.Map, error)
	// PageWalk follows an address through page tables: those of another root
	// than the selected CPU's where root is not nil.
	PageWalk(ctx context.Context, addr uint64, root *uint64) (*pt.Path, error)
	// Physical is the physical memory of a machine in QEMU; close it after use.
	// The error wraps target.ErrNoPageTables where there is no such machine.
	Physical(ctx context.Context) (*target.Physical, error)
	// Status is what is known of the debuggee and its GDB.
	Status(ctx context.Context) (target.Status, error)
	// Help is what GDB's help says of a topic.
	Help(ctx context.Context, topic string) (string, error)
}
