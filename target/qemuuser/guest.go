package qemuuser

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

	"dbgsh/target/gdb"
	"dbgsh/target/proc"
	"dbgsh/vm"
	"dbgsh/vm/image"
)

// Wish says where the memory map of a guest is to be read from.
type Wish string

// The sources, in the order in which Auto tries them.
const (
	Auto  Wish = "auto"
	Stub  Wish = "stub"  // QEMU's own answer, since 8.1
	Host  Wish = "host"  // the map of QEMU's process on this machine
	Guess Wish = "guess" // what the program's memory leads to
	None  Wish = "none"  // the address space as one mapping
)

// Config is what a Source works with.
type Config struct {
	GDB    *gdb.GDB
	Thread string // of QEMU's process, as the stub says; "" for unknown
	Wish   Wish   // where the map is to be read from
	// Arch is the size of the guest's pointers in bytes, and its byte order.
	Arch func(ctx context.Context) (ptr int, order binary.ByteOrder, err error)
}

// Source is what is known of a program in QEMU's user mode until it next
// changes; it is found out when it is first asked for. Its methods may be called
// from several goroutines.
type Source struct {
	cfg  Config
	turn chan struct{} // holds one while somebody finds out

	g *guest  // nil for not known yet
	m *vm.Map // nil for not read yet, for one that does not run

	mu      sync.Mutex
	asked   bool // for host
	host    *qemuHost
	hostErr error // why there is no host
}

// New is the source for the guest as it is now.
func New(cfg Config) *Source { return &Source{cfg: cfg, turn: make(chan struct{}, 1)} }

// guest is what every way to the map needs of a program in QEMU's user mode.
type guest struct {
	g     *gdb.GDB
	stub  gdb.Memory
	tid   string // of QEMU's thread, as the stub says; "" for unknown
	aux   image.Auxv
	exec  string // AT_EXECFN's string, "" for unknown
	class elf.Class
	order binary.ByteOrder

	noPython bool // GDB has none, or not as it is expected
}

// newGuest asks the stub for what every source needs.
func newGuest(ctx context.Context, cfg *Config) (*guest, error) {
	ptr, order, err := cfg.Arch(ctx)
	if err != nil {
		return nil, err
	}
	g := &guest{g: cfg.GDB, stub: gdb.NewMemory(cfg.GDB, true), tid: cfg.Thread, class: elf.ELFCLASS64, order: order}
	if ptr == 4 {
		g.class = elf.ELFCLASS32
	}
	if g.aux, err = cfg.GDB.Auxv(ctx); err != nil {
		return nil, err
	}
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
		k, err := g.stub.Read(ctx, b[n:n+min(256, len(b)-n)], addr+uint64(n))
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
			text, err := g.g.Query(ctx, fmt.Sprintf(probeScript, strings.Join(list, ",")))
			var said *gdb.Error
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
			n, err := g.stub.Read(ctx, b[:], a)
			if err != nil {
				return nil, err
			}
			answers = append(answers, n == 1)
		}
	}
	return answers, nil
}

// find finds out what is not known yet, the map included.
func (s *Source) find(ctx context.Context) (*guest, *vm.Map, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	if s.m != nil {
		return s.g, s.m, nil
	}
	if s.g == nil {
		g, err := newGuest(ctx, &s.cfg)
		if err != nil {
			return nil, nil, err
		}
		s.g = g
	}
	m, err := s.read(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !s.cfg.GDB.Live() {
		s.m = m
	}
	return s.g, m, nil
}

// Map is the map of the guest.
func (s *Source) Map(ctx context.Context) (*vm.Map, error) {
	_, m, err := s.find(ctx)
	return m, err
}

// PID is the id of QEMU's thread on its machine, as the stub says, 0 for unknown.
func (s *Source) PID() int {
	pid, _ := strconv.Atoi(s.cfg.Thread) // 0 where the stub does not say it
	return pid
}

// read reads the map from the wished source, or from the first that has one.
func (s *Source) read(ctx context.Context) (*vm.Map, error) {
	for _, source := range []struct {
		name Wish
		read func(context.Context) (*vm.Map, error)
	}{
		{Stub, s.g.stubMap},
		{Host, s.hostMap},
		{Guess, s.g.guessMap},
		{None, s.g.noMap},
	} {
		if s.cfg.Wish != Auto && s.cfg.Wish != source.name {
			continue
		}
		m, err := source.read(ctx)
		if err == nil {
			s.mu.Lock()
			if s.hostErr != nil {
				m.From.Instead = "QEMU's process cannot be read: " + s.hostErr.Error()
			}
			s.mu.Unlock()
			return m, nil
		}
		var gone *gdb.LostError
		if s.cfg.Wish != Auto || ctx.Err() != nil || errors.As(err, &gone) {
			return nil, fmt.Errorf("map of QEMU's guest, by %s: %w", source.name, err)
		}
	}
	return nil, fmt.Errorf("map of QEMU's guest: there is no source %q", s.cfg.Wish)
}

// stubMap is the guest's own /proc/self/maps, which QEMU's stub hands over
// since 8.1.
func (g *guest) stubMap(ctx context.Context) (*vm.Map, error) {
	const path = "/proc/self/maps"
	text, err := g.g.RemoteFile(ctx, path)
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
	return &vm.Map{Mappings: ms, AddressBits: g.addressBits(), From: vm.Origin{Source: vm.SourceRemote, Place: path + " as QEMU's stub has it"}}, nil
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
		From:    vm.Origin{Source: vm.SourceNone, Place: "nothing"},
		Partial: []vm.Lack{{Of: vm.LackMappings, Why: "[qemu] is the whole address space; what is mapped in it is not known"}},
	}, nil
}

// hostMap is the map that QEMU's process gives.
func (s *Source) hostMap(ctx context.Context) (*vm.Map, error) {
	h, err := s.qemuHost(ctx)
	if err != nil {
		return nil, err
	}
	return h.guestMap(ctx)
}

// qemuHost is QEMU's process, where it is on this machine and may be read.
func (s *Source) qemuHost(ctx context.Context) (*qemuHost, error) {
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

// Memory is the guest's memory: QEMU's, where that can be read and the settings
// do not forbid it, else what the stub hands over.
func (s *Source) Memory(ctx context.Context) (vm.Memory, error) {
	g, m, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	if s.cfg.Wish == Guess || s.cfg.Wish == None {
		return g.stub, nil
	}
	h, err := s.qemuHost(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return g.stub, nil
	}
	return h.memory(m.Mappings)
}
