package qemusys

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"dbgsh/pt"
	"dbgsh/vm"
)

// monitorVersion is the beginning of what "info version" says.
var monitorVersion = regexp.MustCompile(`^(\d+)\.\d+`)

// monitorCPU is the line of "info cpus" for the CPU that the monitor works on.
var monitorCPU = regexp.MustCompile(`(?m)^\* CPU #(\d+)`)

// Bits of x86's registers (Intel SDM, 2.5 "Control Registers" and 2.2.1).
const (
	cr4LA57 = 1 << 12
	eferLMA = 1 << 10
)

// monitorMap is the map that QEMU's monitor makes of the page tables.
func (s *Source) monitorMap(ctx context.Context) (*vm.Map, error) {
	l, err := s.look(ctx, nil, false)
	if err != nil {
		return nil, err
	}
	m, c := l.m, l.c
	if m.peer.Lines < anyLines { // QEMU and GDB would wait for each other for ever
		return nil, errors.New("QEMU's monitor is asked for long output only over TCP, or as root; start QEMU with -gdb tcp:127.0.0.1:PORT")
	}
	bits := 64
	if x, ok := c.mmu.(pt.X86); ok {
		text, err := m.g.Query(ctx, "monitor info version")
		if err != nil {
			return nil, err
		}
		major := 0
		if v := monitorVersion.FindStringSubmatch(strings.TrimSpace(text)); v != nil {
			major, _ = strconv.Atoi(v[1])
		}
		// With 5 levels QEMU 7 searches 2^48 entries, for half a minute, and
		// prints none.
		if x.CR4&cr4LA57 != 0 && major < 8 {
			return nil, errors.New("info mem of QEMU 7 does not know 5-level paging; set kernel-vmmap page-tables")
		}
		if x.EFER&eferLMA == 0 {
			bits = 32
		}
	}
	text, err := m.monitorOf(ctx, s.cpuIndex(), "info mem")
	if err != nil {
		return nil, err
	}
	switch {
	case strings.HasPrefix(text, "unknown command"):
		return nil, errors.New("QEMU's monitor has no info mem for this architecture; set kernel-vmmap page-tables")
	case strings.HasPrefix(text, "PG disabled"), strings.HasPrefix(text, "No translation or protection"):
		return l.physicalMap(pt.ErrPagingOff), nil
	}
	ms, ok, err := ParseMonitorMem(text)
	if err != nil {
		return nil, fmt.Errorf("info mem: %w", err)
	}
	if !ok && strings.TrimSpace(text) != "" && m.arch != archRISCV {
		return nil, fmt.Errorf("info mem of QEMU's monitor says %q", strings.TrimSpace(text))
	}
	out := &vm.Map{Mappings: ms, AddressBits: bits, Notes: c.notes, From: vm.Origin{Source: vm.SourceMonitor, Place: "info mem of QEMU's monitor"}}
	if m.arch == archX86 {
		out.Partial = []vm.Lack{{Of: vm.LackPermissions, Why: "QEMU's monitor does not tell what is executable"}}
	}
	return out, nil
}

// monitorOf asks the monitor about a CPU. It works on the one that "cpu" named
// last, whatever GDB's thread is; that is set back.
func (m *Machine) monitorOf(ctx context.Context, cpu int, line string) (text string, err error) {
	cpus, err := m.g.Query(ctx, "monitor info cpus")
	if err != nil {
		return "", err
	}
	want := strconv.Itoa(cpu)
	if was := monitorCPU.FindStringSubmatch(cpus); was != nil && was[1] != want {
		if _, err := m.g.Query(ctx, "monitor cpu "+want); err != nil {
			return "", err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), physWait)
			defer cancel()
			_, back := m.g.Query(ctx, "monitor cpu "+was[1])
			err = errors.Join(err, back)
		}()
	}
	return m.g.LongQuery(ctx, "monitor "+line)
}
