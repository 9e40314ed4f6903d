package target

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
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

// String names the kind for people.
func (k Kind) String() string {
	return [...]string{
		"no process", "a process on this machine", "a core file", "a process behind gdbserver",
		"a program in QEMU's user mode", "a machine in QEMU", "a remote stub",
	}[k]
}

// inferior is what GDB says of the selected inferior.
type inferior struct {
	id         string
	pid        int        // 0 where there is no process
	executable string     // "" where no file is loaded
	stack      []string   // GDB's target stack, the top first: native, core, remote ...
	conn       connection // to the stub, where there is one
	kind       Kind
}

// inferior asks GDB for the selected inferior.
func (t *Target) inferior(ctx context.Context) (inferior, error) {
	num, err := t.send(ctx, "data-evaluate-expression", "$_inferior")
	if err != nil {
		return inferior{}, err
	}
	groups, err := t.send(ctx, "list-thread-groups")
	if err != nil {
		return inferior{}, err
	}
	inf := inferior{id: "i" + num.Str("value")}
	for _, g := range groups.Tuples("groups") {
		if g.Str("id") == inf.id {
			inf.executable = g.Str("executable")
			inf.pid, _ = strconv.Atoi(g.Str("pid"))
		}
	}
	text, err := t.query(ctx, "maint print target-stack")
	if err != nil {
		return inferior{}, err
	}
	for line := range strings.Lines(text) {
		if layer, found := strings.CutPrefix(strings.TrimSpace(line), "- "); found {
			name, _, _ := strings.Cut(layer, " ")
			inf.stack = append(inf.stack, name)
		}
	}
	inf.kind, err = t.kindOf(ctx, &inf)
	return inf, err
}

// kindOf decides what an inferior is, a stub by its own answers.
func (t *Target) kindOf(ctx context.Context, inf *inferior) (Kind, error) {
	has := func(layer string) bool { return slices.Contains(inf.stack, layer) }
	switch {
	case has("core"):
		return KindCore, nil
	case has("native") && inf.pid != 0:
		return KindNative, nil
	case !has("remote") && !has("extended-remote"), inf.pid == 0:
		return KindNone, nil
	}
	// A stub is asked once for each connection and process.
	key, err := t.query(ctx, "info connections")
	if err != nil {
		return 0, err
	}
	if c, err := t.gdb(); err == nil {
		inf.conn = parseConnection(key, c.PID())
	}
	key = strings.ReplaceAll(key, "*", " ") + inf.id + " " + strconv.Itoa(inf.pid)
	t.mu.Lock()
	known, ok := t.stubs[key]
	t.mu.Unlock()
	if ok {
		return known, nil
	}
	kind, err := t.probeStub(ctx)
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	t.stubs[key] = kind
	t.mu.Unlock()
	return kind, nil
}

// probeStub tells stubs apart. The qqemu packets are QEMU's own (its
// gdbstub), and only its user mode answers qOffsets, with the program's.
func (t *Target) probeStub(ctx context.Context) (Kind, error) {
	qemu, err := t.packet(ctx, "qqemu.sstepbits")
	if err != nil {
		return 0, err
	}
	if qemu != "" {
		offsets, err := t.packet(ctx, "qOffsets")
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
	setfs, err := t.packet(ctx, "vFile:setfs:0")
	if err != nil {
		return 0, err
	}
	if strings.HasPrefix(setfs, "F") {
		return KindGDBServer, nil
	}
	return KindStub, nil
}

// received is how GDB shows the answer to a packet.
var received = regexp.MustCompile(`(?m)^received: "(.*)"$`)

// packet sends a packet to the stub and returns its answer, "" where the stub
// does not know it.
func (t *Target) packet(ctx context.Context, p string) (string, error) {
	text, err := t.query(ctx, "maint packet "+p)
	if err != nil {
		return "", err
	}
	return answerOf(text), nil
}

// answerOf is the stub's answer in what maint packet prints.
func answerOf(text string) string {
	if m := received.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}
