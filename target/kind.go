package target

import (
	"context"
	"strings"

	"dbgsh/target/gdb"
	"dbgsh/vm"
)

// Kind is what a debuggee is, which decides where its memory map is read from.
type Kind uint8

// The kinds of debuggees.
const (
	KindNone       Kind = iota // no process, no core
	KindNative                 // a process on this machine, under this GDB
	KindCore                   // a core file
	KindGDBServer              // a process behind gdbserver, on any machine
	KindQEMUUser               // a program in QEMU's user mode
	KindQEMUSystem             // a machine in QEMU
	KindStub                   // something else behind a remote stub
)

// source is one kind of debuggee, as it is until it next changes. Its methods
// may be called from several goroutines.
type source interface {
	// Map is the memory map, which the caller may add to but for its mappings.
	// The error wraps vm.ErrNoProcess where there is nothing that could have one.
	Map(ctx context.Context) (*vm.Map, error)
	// Memory is the memory, to be closed after use.
	Memory(ctx context.Context) (vm.Memory, error)
}

// describer is a source that knows more than its maps say of where they are from.
type describer interface {
	// Describe is where m is from, in words.
	Describe(ctx context.Context, m *vm.Map) string
}

// processOwner is a source that knows the process of the debuggee better than GDB.
type processOwner interface {
	// PID is the process's id, 0 for unknown.
	PID() int
}

// executable is a source that knows the file which the process executes, be it
// another than the one that GDB was given.
type executable interface {
	// Executable is a path of the file.
	Executable() string
}

// mortal is a source that sees the end of a process, of which GDB hears only when it
// next lets the process run.
type mortal interface {
	// Ended reports whether the process has no memory any more.
	Ended() bool
}

// kind is all that there is to know of a Kind beside its source.
type kind struct {
	name    string // for people
	explore error  // why memory is not to be found out by reading, nil where it may be
	shared  bool   // others may change it, and GDB is not told
	open    func(v *View) source
}

// kinds is the kinds of debuggees: a new one is a source and a line here.
func kinds() []kind {
	return []kind{
		KindNone:       {"no process", vm.ErrNoProcess, false, openNone},
		KindNative:     {"a process on this machine", ErrMapKnown, false, openNative},
		KindCore:       {"a core file", ErrMapKnown, false, openCore},
		KindGDBServer:  {"a process behind gdbserver", ErrMapKnown, false, openServer},
		KindQEMUUser:   {"a program in QEMU's user mode", nil, false, openQEMUUser},
		KindQEMUSystem: {"a machine in QEMU", nil, true, openQEMUSystem},
		KindStub:       {"a remote stub", nil, false, openStub},
	}
}

// String names the kind for people.
func (k Kind) String() string { return kinds()[k].name }

// kindOf decides what an inferior is, a stub by its own answers.
func (t *Target) kindOf(ctx context.Context, inf *gdb.Inferior) (Kind, error) {
	switch {
	case inf.Has("core"):
		return KindCore, nil
	case inf.Has("native") && inf.PID != 0:
		return KindNative, nil
	case !inf.Has("remote") && !inf.Has("extended-remote"), inf.PID == 0:
		return KindNone, nil
	}
	return t.kept.stub(keyOf(inf), func() (Kind, error) { return probeStub(ctx, t.GDB) })
}

// probeStub tells stubs apart. The qqemu packets are QEMU's own (its
// gdbstub), and only its user mode answers qOffsets, with the program's.
func probeStub(ctx context.Context, g *gdb.GDB) (Kind, error) {
	qemu, err := g.Packet(ctx, "qqemu.sstepbits")
	if err != nil {
		return 0, err
	}
	if qemu != "" {
		offsets, err := g.Packet(ctx, "qOffsets")
		if err != nil {
			return 0, err
		}
		if offsets != "" {
			return KindQEMUUser, nil
		}
		return KindQEMUSystem, nil
	}
	// A stub that opens files is gdbserver, or as good: vFile:setfs is answered
	// with F, or is not known (GDB's manual, Host I/O Packets).
	setfs, err := g.Packet(ctx, "vFile:setfs:0")
	if err != nil {
		return 0, err
	}
	if strings.HasPrefix(setfs, "F") {
		return KindGDBServer, nil
	}
	return KindStub, nil
}
