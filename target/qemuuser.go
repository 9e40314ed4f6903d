package target

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"dbgsh/target/mi"
	"dbgsh/target/proc"
	"dbgsh/vm"
	"dbgsh/vm/image"
)

// QEMUUserMap says where the memory map of a program in QEMU's user mode is
// read from.
type QEMUUserMap string

// The sources, in the order in which auto tries them.
const (
	QEMUUserAuto  QEMUUserMap = "auto"
	QEMUUserStub  QEMUUserMap = "stub"  // QEMU's own answer, since 8.1
	QEMUUserHost  QEMUUserMap = "host"  // the map of QEMU's process on this machine
	QEMUUserGuess QEMUUserMap = "guess" // what the program's memory leads to
	QEMUUserNone  QEMUUserMap = "none"  // the address space as one mapping
)

// guest is a program in QEMU's user mode.
type guest struct {
	t     *Target
	stub  gdbMemory
	tid   string // of QEMU's thread, as the stub says; "" for unknown
	aux   image.Auxv
	exec  string // AT_EXECFN's string, "" for unknown
	class elf.Class
	order binary.ByteOrder

	noPython bool // GDB has none, or not as it is expected
}

// newGuest asks the stub for what every source needs.
func (t *Target) newGuest(ctx context.Context, inf *inferior, tid string) (*guest, error) {
	ptr, order, err := t.archOf(ctx, inf)
	if err != nil {
		return nil, err
	}
	g := &guest{t: t, stub: newGDBMemory(t, true), tid: tid, class: elf.ELFCLASS64, order: order}
	if ptr == 4 {
		g.class = elf.ELFCLASS32
	}
	text, err := t.query(ctx, "info auxv")
	var said *mi.Error
	if err != nil && !errors.As(err, &said) {
		return nil, err
	}
	g.aux = parseInfoAuxv(text)
	if at, ok := g.aux.Get(image.AuxExecFn); ok {
		if g.exec, err = g.cString(ctx, at); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// cString is the string at addr, or "" where there is none of less than Linux's
// PATH_MAX bytes.
func (g *guest) cString(ctx context.Context, addr uint64) (string, error) {
	const pathMax = 4096
	var b [pathMax]byte
	for n := 0; n < len(b); {
		k, err := g.stub.read(ctx, b[n:n+min(256, len(b)-n)], addr+uint64(n))
		if err != nil {
			return "", err
		}
		if i := bytes.IndexByte(b[n:n+k], 0); i >= 0 {
			return string(b[:n+i]), nil
		}
		if n += k; k == 0 {
			break
		}
	}
	return "", nil
}

// parseInfoAuxv reads what GDB's info auxv prints: a line for each entry, with
// its type, the type's name, a description, the value, and the string behind
// it where that is one.
func parseInfoAuxv(text string) image.Auxv {
	var aux image.Auxv
	for line := range strings.Lines(text) {
		// No description has a quote.
		entry, _, _ := strings.Cut(line, ` "`)
		f := strings.Fields(entry)
		if len(f) < 3 {
			continue
		}
		typ, err1 := strconv.ParseUint(f[0], 10, 64)
		value, err2 := strconv.ParseUint(f[len(f)-1], 0, 64)
		if err1 == nil && err2 == nil && image.AuxType(typ) != image.AuxNull {
			aux = append(aux, image.AuxValue{Type: image.AuxType(typ), Value: value})
		}
	}
	return aux
}

// addressBits is the width of the guest's addresses.
func (g *guest) addressBits() int {
	if g.class == elf.ELFCLASS32 {
		return 32
	}
	return 64
}

// last is the guest's highest address.
func (g *guest) last() uint64 { return ^uint64(0) >> (64 - g.addressBits()) }

// guestPage is the start of the guest's page that addr lies in.
func (g *guest) guestPage(addr uint64) uint64 { return addr &^ (g.aux.PageSize() - 1) }

// probesAtOnce is how many addresses the stub is asked about with one command.
const probesAtOnce = 256

// probeScript prints for each address whether a byte can be read there. It
// leaves nothing behind in GDB's Python.
const probeScript = `python exec("import gdb\ninf = gdb.selected_inferior()\n` +
	`def probe(addr):\n try:\n  inf.read_memory(addr, 1)\n  return '1'\n except gdb.MemoryError:\n  return '0'\n` +
	`print(''.join(map(probe, [%s])))", {})`

// readable asks the stub for each address whether the guest may read the byte
// there; QEMU refuses what is none of the guest's readable pages. Most of the
// time goes into talking to GDB, so that its Python asks, where it has one.
func (g *guest) readable(ctx context.Context, addrs ...uint64) ([]bool, error) {
	answers := make([]bool, 0, len(addrs))
	for some := range slices.Chunk(addrs, probesAtOnce) {
		if len(some) > 1 && !g.noPython {
			list := make([]string, len(some))
			for i, a := range some {
				list[i] = strconv.FormatUint(a, 10)
			}
			text, err := g.t.query(ctx, fmt.Sprintf(probeScript, strings.Join(list, ",")))
			var said *mi.Error
			if err != nil && !errors.As(err, &said) {
				return nil, err
			}
			if text = strings.TrimSpace(text); err == nil && len(text) == len(some) && strings.Trim(text, "01") == "" {
				for _, c := range text {
					answers = append(answers, c == '1')
				}
				continue
			}
			g.noPython = true
		}
		for _, a := range some {
			var b [1]byte
			n, err := g.stub.read(ctx, b[:], a)
			if err != nil {
				return nil, err
			}
			answers = append(answers, n == 1)
		}
	}
	return answers, nil
}

// guestState is what was found out of a guest, for as long as nothing changes.
type guestState struct {
	key guestKey
	g   *guest
	m   *vm.Map

	mu      sync.Mutex
	asked   bool // for host
	host    *qemuHost
	hostErr error // why there is no host
}

// guestKey is what a guestState hangs on.
type guestKey struct {
	changes uint64
	wish    QEMUUserMap
	thread  string
}

// qemuUser is what is known of the guest, its map included.
func (t *Target) qemuUser(ctx context.Context, inf *inferior) (*guestState, error) {
	key := guestKey{changes: t.changes.Load(), wish: QEMUUserAuto}
	if t.cfg.QEMUUserMap != nil {
		key.wish = t.cfg.QEMUUserMap()
	}
	tid := t.selectedTID(ctx)
	key.thread = inf.id + " " + tid
	t.mu.Lock()
	known := t.guest
	t.mu.Unlock()
	if known != nil && known.key == key {
		return known, nil
	}
	g, err := t.newGuest(ctx, inf, tid)
	if err != nil {
		return nil, err
	}
	s := &guestState{key: key, g: g}
	if err := s.findMap(ctx); err != nil {
		return nil, err
	}
	if running, _ := t.Running(); !running {
		t.mu.Lock()
		t.guest = s
		t.mu.Unlock()
	}
	return s, nil
}

// qemuUserMap is the map of the guest.
func (t *Target) qemuUserMap(ctx context.Context, inf *inferior) (*vm.Map, error) {
	s, err := t.qemuUser(ctx, inf)
	if err != nil {
		return nil, err
	}
	m := *s.m // the caller marks it
	return &m, nil
}

// qemuUserStatus is the id of QEMU's thread on its machine, as the stub says, 0
// for unknown, and where the last map of the guest came from.
func (t *Target) qemuUserStatus(ctx context.Context) (tid int, source string) {
	tid, _ = strconv.Atoi(t.selectedTID(ctx)) // 0 where the stub does not say it
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.guest == nil {
		return tid, "not read yet"
	}
	return tid, strings.TrimPrefix(strings.Join(t.guest.m.Notes, "; "), "from ")
}

// findMap reads the map from the wished source, or from the first that has one.
func (s *guestState) findMap(ctx context.Context) error {
	for _, source := range []struct {
		name QEMUUserMap
		read func(context.Context) (*vm.Map, error)
	}{
		{QEMUUserStub, s.g.stubMap},
		{QEMUUserHost, s.hostMap},
		{QEMUUserGuess, s.g.guessMap},
		{QEMUUserNone, s.g.noMap},
	} {
		if s.key.wish != QEMUUserAuto && s.key.wish != source.name {
			continue
		}
		m, err := source.read(ctx)
		if err == nil {
			if s.hostErr != nil {
				m.Notes = append(m.Notes, "QEMU's process cannot be read: "+s.hostErr.Error())
			}
			s.m = m
			return nil
		}
		var gone *LostError
		if s.key.wish != QEMUUserAuto || ctx.Err() != nil || errors.As(err, &gone) {
			return fmt.Errorf("map of QEMU's guest, by %s: %w", source.name, err)
		}
	}
	return nil // not reached: noMap has no error
}

// stubMap is the guest's own /proc/self/maps, which QEMU's stub hands over
// since 8.1.
func (g *guest) stubMap(ctx context.Context) (*vm.Map, error) {
	const path = "/proc/self/maps"
	text, err := g.t.remoteFile(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("get %s from the stub: %w", path, err)
	}
	ms, err := proc.ParseMaps(text)
	if err != nil {
		return nil, fmt.Errorf("%s on the stub's side: %w", path, err)
	}
	if len(ms) == 0 {
		return nil, fmt.Errorf("%s is empty on the stub's side", path)
	}
	for i := range ms {
		ms[i].Source = vm.SourceRemote
	}
	vm.Sort(ms)
	return &vm.Map{Mappings: ms, AddressBits: g.addressBits(), Notes: []string{"from QEMU's stub"}}, nil
}

// noMap is the address space, of which nothing is known. With 64 bits it lacks
// the last byte, since a range has less than 2^64 bytes.
func (g *guest) noMap(context.Context) (*vm.Map, error) {
	all := vm.Mapping{Range: vm.Range{Size: g.last()}, Name: "[qemu]", Source: vm.SourceNone}
	if g.addressBits() < 64 {
		all.Size++
	}
	return &vm.Map{
		Mappings: []vm.Mapping{all}, AddressBits: g.addressBits(),
		Notes: []string{"[qemu] is the whole address space; what is mapped in it is not known"},
	}, nil
}

// hostMap is the map that QEMU's process gives.
func (s *guestState) hostMap(ctx context.Context) (*vm.Map, error) {
	h, err := s.qemuHost(ctx)
	if err != nil {
		return nil, err
	}
	return h.guestMap(ctx)
}

// qemuHost is QEMU's process, where it is on this machine and may be read.
func (s *guestState) qemuHost(ctx context.Context) (*qemuHost, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked {
		host, err := s.g.openHost(ctx)
		if ctx.Err() != nil {
			return nil, err
		}
		s.asked, s.host, s.hostErr = true, host, err
	}
	return s.host, s.hostErr
}

// qemuUserMemory is the guest's memory: QEMU's, where that can be read and the
// settings do not forbid it, else what the stub hands over.
func (t *Target) qemuUserMemory(ctx context.Context, inf *inferior) (Memory, error) {
	s, err := t.qemuUser(ctx, inf)
	if err != nil {
		return nil, err
	}
	if s.key.wish == QEMUUserGuess || s.key.wish == QEMUUserNone {
		return s.g.stub, nil
	}
	h, err := s.qemuHost(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return s.g.stub, nil
	}
	return h.memory(s.m.Mappings)
}
