package target

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"dbgsh/pt"
	"dbgsh/vm"
)

// gpaLine is what gva2gpa of the monitor, QEMU's own translation, says of an
// address that is mapped.
var gpaLine = regexp.MustCompile(`gpa: (?:0x)?([0-9a-f]+)`)

// translates compares the first and the last page of every row, and the pages
// behind them, with what QEMU itself makes of them for the CPU as it is.
func (d *debuggee) translates(ms []vm.Mapping) {
	d.t.Helper()
	asked := 0
	for _, m := range ms {
		for _, off := range []uint64{0, m.Size - m.Paged.PageSize} {
			text, err := d.query(d.ctx, fmt.Sprintf("monitor gva2gpa %#x", m.Start+off))
			if err != nil {
				d.t.Fatal(err)
			}
			want := fmt.Sprintf("%x", m.Paged.Phys+off)
			if g := gpaLine.FindStringSubmatch(text); g == nil || g[1] != want {
				d.t.Errorf("%#x: QEMU says %q, want %s", m.Start+off, strings.TrimSpace(text), want)
				return
			}
			asked++
		}
		end := m.Start + m.Size
		if end != 0 && !slices.ContainsFunc(ms, func(o vm.Mapping) bool { return o.Contains(end) }) {
			text, err := d.query(d.ctx, fmt.Sprintf("monitor gva2gpa %#x", end))
			if err != nil {
				d.t.Fatal(err)
			}
			if gpaLine.MatchString(text) {
				d.t.Errorf("%#x is in no row, but QEMU says %q", end, strings.TrimSpace(text))
				return
			}
		}
	}
	d.t.Logf("%d addresses", asked)
}

func TestLinuxARM64(t *testing.T) {
	addr := bootLinux(t, "qemu-system-aarch64", "arm64", "", "console=ttyAMA0 kpti=off", "-M", "virt", "-cpu", "cortex-a72", "-m", "512")
	wish := KernelMapAuto
	d := connect(t, addr, &wish)
	m, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := d.PageTables(d.ctx, PageTableOptions{PTE: true})
	if err != nil {
		t.Fatal(err)
	}
	// At EL1, without PAN (bit 22), everything can be read.
	d.gdbLines("set $cpsr=($cpsr & ~0x40000f) | 5")
	d.translates(pages.Mappings)
	var direct uint64
	text := false
	for _, r := range m.Mappings {
		if r.Paged.Kernel == "rwx" {
			t.Errorf("the kernel may write and execute %+v", r)
		}
		if r.Paged.Region == "direct map" {
			direct += r.Size
		}
		text = text || r.Paged.Kernel == "r-x" && r.Start>>63 == 1 && r.Size > 4<<20
	}
	if direct < 400<<20 || !text {
		t.Errorf("direct map %#x bytes, text %v", direct, text)
	}
	d.physicalOnly = true
	slow, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "physical mode", shown(slow), shown(m))
	if mode := d.physMode(); mode != "0" {
		t.Errorf("physical mode is %s", mode)
	}
	d.physicalOnly = false
	wish = KernelMapMonitor
	if m, err := d.Map(d.ctx); err != nil || len(m.Mappings) != 0 || !strings.Contains(m.Notes[0], "no info mem") {
		t.Errorf("monitor: %+v, %v", m, err)
	}
}

// Tables for RISC-V in the loader's image, walked beside info mem.
func TestRISCVMachine(t *testing.T) {
	const v, r, w, x, u, g, a, dirty = 1, 2, 4, 8, 16, 32, 64, 128
	ppn := func(pa uint64) uint64 { return pa >> 12 << 10 }
	tables := &image{base: 0x80100000}
	tables.put(0x80100000, 0, ppn(0x80101000)|v)
	tables.put(0x80100000, 2, ppn(0x80000000)|v|r|w|a|dirty) // 1 GiB with Sv39
	tables.put(0x80100000, 511, ppn(0x80101000)|v)
	tables.put(0x80101000, 1, ppn(0x80200000)|v|r|x|a)
	tables.put(0x80101000, 3, ppn(0x80102000)|v)
	for i := range uint64(5) {
		tables.put(0x80102000, int(i), ppn(0x80300000+i*0x1000)|v|r|w|u|a|dirty)
	}
	tables.put(0x80102000, 7, ppn(0x80300000)|v|r|x|u|a)
	tables.put(0x80102000, 9, ppn(0x80300000)|v|x|g|a)
	addr := startQEMU(t, "qemu-system-riscv64", "", "-M", "virt", "-bios", "none", "-m", "128", "-S", "-device", tables.file(t))
	wish := KernelMapAuto
	d := connect(t, addr, &wish)
	m, err := d.Map(d.ctx)
	if err != nil || len(m.Notes) == 0 || !strings.Contains(m.Notes[0], "paging is off") {
		t.Errorf("bare: %+v, %v", m, err)
	}
	rows := []string{
		"200000-400000 r-x kernel", "600000-605000 rw- user", "607000-608000 r-x user", "609000-60a000 --x kernel",
	}
	var want []string
	want = append(want, rows...)
	want = append(want, "80000000-c0000000 rw- kernel")
	for _, row := range rows {
		var lo, hi uint64
		_, _ = fmt.Sscanf(row, "%x-%x", &lo, &hi)
		_, tail, _ := strings.Cut(row, " ")
		want = append(want, fmt.Sprintf("%x-%x %s", lo+0xffffffffc0000000, hi+0xffffffffc0000000, tail))
	}
	d.gdbLines("set $satp=0x8000000000080100", "set $priv=1")
	for _, d.physicalOnly = range []bool{false, true} {
		if m, err = d.Map(d.ctx); err != nil {
			t.Fatal(err)
		}
		same(t, "Sv39", shown(m), want)
	}
	d.physicalOnly = false
	wish = KernelMapMonitor
	oracle, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "info mem", joinAlike(oracle.Mappings), shown(m))
}

// joinAlike is rows that follow each other with equal permissions as one.
func joinAlike(ms []vm.Mapping) []string {
	var joined []vm.Mapping
	for _, m := range ms {
		if n := len(joined) - 1; n >= 0 && joined[n].Last()+1 == m.Start && *joined[n].Paged == (vm.Paged{Kernel: m.Paged.Kernel, User: m.Paged.User, Phys: joined[n].Paged.Phys}) {
			joined[n].Size += m.Size
			continue
		}
		joined = append(joined, m)
	}
	return shown(&vm.Map{Mappings: joined})
}

// BenchmarkKernel measures what a user waits for with a Linux guest of 512 MiB:
// the walk alone; vmmap after a stop; the first one of a connection; physical
// mode; and what the monitor takes to list the pages and we to make ranges of it.
func BenchmarkKernel(b *testing.B) {
	addr := bootLinux(b, "qemu-system-x86_64", "amd64", "", "console=ttyS0", "-cpu", "max,la57=off", "-m", "512")
	wish := KernelMapAuto
	d := connect(b, addr, &wish)
	inf, err := d.inferior(d.ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("walk", func(b *testing.B) {
		m, err := d.machine(d.ctx, &inf)
		if err != nil {
			b.Fatal(err)
		}
		c, err := d.cpu(d.ctx, m, nil)
		if err != nil {
			b.Fatal(err)
		}
		ram, err := d.hostRAM(d.ctx, m, 0)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := pt.Walk(context.Background(), ram, c.mmu, pt.Options{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	maps := func(b *testing.B, before func() error) {
		rows := 0
		for b.Loop() {
			if err := before(); err != nil {
				b.Fatal(err)
			}
			m, err := d.Map(d.ctx)
			if err != nil {
				b.Fatal(err)
			}
			rows = len(m.Mappings)
		}
		b.ReportMetric(float64(rows), "rows")
	}
	b.Run("stop", func(b *testing.B) { maps(b, func() error { return nil }) })
	b.Run("first", func(b *testing.B) { maps(b, d.forgetMachine) })
	b.Run("physical", func(b *testing.B) {
		d.physicalOnly = true
		defer func() { d.physicalOnly = false }()
		maps(b, func() error { return nil })
	})
	b.Run("infotlb", func(b *testing.B) {
		for b.Loop() {
			text, err := d.longQuery(d.ctx, "monitor info tlb")
			if err != nil {
				b.Fatal(err)
			}
			ranges, last := 0, uint64(0)
			for line := range strings.Lines(text) {
				if len(line) > 34 && line[16] == ':' {
					va, err := strconv.ParseUint(line[:16], 16, 64)
					if err != nil {
						b.Fatal(err)
					}
					if va != last+0x1000 {
						ranges++
					}
					last = va
				}
			}
			b.ReportMetric(float64(ranges), "ranges")
		}
	})
}
