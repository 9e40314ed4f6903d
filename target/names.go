package target

import (
	"dbgsh/target/gdb"
	"dbgsh/target/qemusys"
	"dbgsh/target/qemuuser"
)

// What the rooms below have that those above need.
type (
	// LostError says that GDB, or the connection to the debuggee, is gone.
	LostError = gdb.LostError
	// ValueError says why an expression has no value that is a number.
	ValueError = gdb.ValueError
	// QEMUUserMap says where the map of a program in QEMU's user mode is read from.
	QEMUUserMap = qemuuser.Wish
	// KernelMap says where the map of a machine in QEMU is read from.
	KernelMap = qemusys.Wish
	// TableOptions say what of page tables to show.
	TableOptions = qemusys.TableOptions
	// Physical is the physical memory of a machine in QEMU.
	Physical = qemusys.Physical
)

// What may be wrong with an expression that callers differ on.
const (
	ValueNoExpression = gdb.ValueNoExpression // it is none to GDB
	ValueNoNumber     = gdb.ValueNoNumber     // its value is no integer and no pointer
)

// Where the map of a machine in QEMU may be read from.
const (
	KernelMapAuto       = qemusys.Auto
	KernelMapPageTables = qemusys.PageTables
	KernelMapMonitor    = qemusys.Monitor
	KernelMapNone       = qemusys.None
)
