package qemusys

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/pt"
	"dbgsh/vm"
)

// gpaLine is what gva2gpa of the monitor, QEMU's own translation, says of an
// address that is mapped.
var gpaLine = regexp.MustCompile(`gpa: (?:0x)?([0-9a-f]+)`)

// translates compares the first and the last page of every row, and the pages
// behind them, with what QEMU itself makes of them for the CPU as it is.
func (d *debuggee) translates(all *vm.Map) {
	d.T.Helper()
	asked := 0
	for _, m := range all.Mappings {
		for _, off := range []uint64{0, m.Size - m.Paged.PageSize} {
			text, err := d.Query(d.Ctx, fmt.Sprintf("monitor gva2gpa %#x", m.Start+off))
			if err != nil {
				d.T.Fatal(err)
			}
			want := fmt.Sprintf("%x", m.Paged.Phys+off)
			if g := gpaLine.FindStringSubmatch(text); g == nil || g[1] != want {
				d.T.Errorf("%#x: QEMU says %q, want %s", m.Start+off, strings.TrimSpace(text), want)
				return
			}
			asked++
		}
		end := m.Start + m.Size
		if end<<(64-all.AddressBits) != 0 && !slices.ContainsFunc(all.Mappings, func(o vm.Mapping) bool { return o.Contains(end) }) {
			text, err := d.Query(d.Ctx, fmt.Sprintf("monitor gva2gpa %#x", end))
			if err != nil {
				d.T.Fatal(err)
			}
			if gpaLine.MatchString(text) {
				d.T.Errorf("%#x is in no row, but QEMU says %q", end, strings.TrimSpace(text))
				return
			}
		}
	}
	d.T.Logf("%d addresses", asked)
}

func TestLinuxARM64(t *testing.T) {
	addr := bootLinux(t, "qemu-system-aarch64", "arm64", "", "console=ttyAMA0 kpti=off", "-M", "virt", "-cpu", "cortex-a72", "-m", "512")
	wish := Auto
	d := connect(t, addr, &wish)
	m, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := d.PageTables(d.Ctx, TableOptions{PTE: true})
	if err != nil {
		t.Fatal(err)
	}
	// At EL1, without PAN (bit 22), everything can be read.
	d.Lines("set $cpsr=($cpsr & ~0x40000f) | 5")
	d.translates(pages)
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
	d.alike(m)
	wish = Monitor
	if m, err := d.Map(d.Ctx); err != nil || len(m.Mappings) != 0 || !strings.Contains(m.About()[0], "no info mem") {
		t.Errorf("monitor: %+v, %v", m, err)
	}
}

// TestLinuxARM64VHE: with virtualization Debian's kernel runs at EL2, in the
// EL2&0 regime (HCR_EL2.E2H).
func TestLinuxARM64VHE(t *testing.T) {
	addr := bootLinux(t, "qemu-system-aarch64", "arm64", "", "console=ttyAMA0 kpti=off", "-M", "virt,virtualization=on", "-cpu", "max,pauth-impdef=on", "-m", "512")
	wish := Auto
	d := connect(t, addr, &wish)
	m, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := d.PageTables(d.Ctx, TableOptions{PTE: true})
	if err != nil {
		t.Fatal(err)
	}
	// At EL2, without PAN (bit 22), everything can be read.
	d.Lines("set $cpsr=($cpsr & ~0x40000f) | 9")
	d.translates(pages)
	vectors, err := d.machine().registersOf(d.Ctx, "$VBAR_EL2")
	if err != nil {
		t.Fatal(err)
	}
	text := false
	for _, r := range m.Mappings {
		if r.Paged.Kernel == "rwx" {
			t.Errorf("the kernel may write and execute %+v", r)
		}
		text = text || r.Contains(vectors[0]) && r.Paged.Kernel == "r-x" && r.Size > 4<<20
	}
	if !text {
		t.Errorf("%#x is in no text of the kernel's", vectors[0])
	}
	path, err := d.PageWalk(d.Ctx, vectors[0], nil)
	if err != nil || path.End != pt.Mapped || !strings.Contains(path.Mode, "TTBR1_EL2") {
		t.Errorf("walk: %+v, %v", path, err)
	}
	// At EL0 the tables are the same, as HCR_EL2.TGE is 1.
	d.Lines("set $cpsr=$cpsr & ~0xf")
	user, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "EL0", shown(user), shown(m))
	root := uint64(0x100abc)
	for _, va := range []uint64{0, vectors[0]} {
		if _, err := d.PageWalk(d.Ctx, va, &root); err == nil || !strings.Contains(err.Error(), "0x100abc is no address of a root table") {
			t.Errorf("a root at %#x: %v", root, err)
		}
	}
	if _, err := d.PageTables(d.Ctx, TableOptions{Root: &root}); err == nil || !strings.Contains(err.Error(), "0x100abc is no address of a root table") {
		t.Errorf("a root at %#x: %v", root, err)
	}
}

// TestARMRegime: whose tables they are hangs on the exception level, on
// HCR_EL2 and on what the stub tells.
func TestARMRegime(t *testing.T) {
	const e2h, tge, dc, on = 1 << 34, 1 << 27, 1 << 12, 1
	type registers = map[string]uint64
	for _, tt := range []struct {
		name string
		v    registers
		el   int // whose registers; 0: none
		says string
	}{
		{"no EL2", registers{"SCTLR_EL1": on}, 1, ""},
		{"no EL2, off", registers{}, 1, ""},
		{"EL2 is there", registers{"HCR_EL2": 0, "SCTLR_EL1": on, "SCTLR_EL2": on}, 1, ""},
		{"a guest's kernel", registers{"HCR_EL2": e2h, "SCTLR_EL1": on, "cpsr": 1 << 2}, 1, ""},
		{"VHE", registers{"HCR_EL2": e2h | tge, "SCTLR_EL2": on, "cpsr": 2 << 2}, 2, ""},
		{"VHE, user", registers{"HCR_EL2": e2h | tge, "SCTLR_EL2": on}, 2, ""},
		{"VHE, stage 2 is not the user's", registers{"HCR_EL2": e2h | tge | on, "SCTLR_EL2": on}, 2, ""},
		{"VHE, a guest is near", registers{"HCR_EL2": e2h | on, "SCTLR_EL1": on, "SCTLR_EL2": on, "cpsr": 2 << 2}, 2, ""},
		{"VHE, off", registers{"HCR_EL2": e2h, "SCTLR_EL1": on, "SCTLR_EL2": 0, "cpsr": 2 << 2}, 2, ""},
		{"a guest", registers{"HCR_EL2": e2h | on, "SCTLR_EL1": on, "cpsr": 1 << 2}, 0, "stage 2 is on"},
		{"a guest's user", registers{"HCR_EL2": on, "SCTLR_EL1": on}, 0, "stage 2 is on"},
		{"a guest, off", registers{"HCR_EL2": on, "cpsr": 1 << 2}, 0, "stage 2 is on"},
		{"HCR_EL2.DC", registers{"HCR_EL2": dc, "cpsr": 1 << 2}, 0, "stage 2 is on"},
		{"HCR_EL2.TGE", registers{"HCR_EL2": tge, "SCTLR_EL1": on}, 0, "HCR_EL2.TGE is 1, so that nothing is translated at EL0"},
		{"a hypervisor above", registers{"HCR_EL2": 0, "SCTLR_EL1": on, "SCTLR_EL2": on, "cpsr": 2 << 2}, 1, "the CPU is at EL2; shown"},
		{"a hypervisor above a guest", registers{"HCR_EL2": on, "SCTLR_EL1": on, "SCTLR_EL2": on, "cpsr": 2 << 2}, 0, "stage 2 is on"},
		{"a hypervisor alone", registers{"HCR_EL2": 0, "SCTLR_EL1": 0, "SCTLR_EL2": on, "cpsr": 2 << 2}, 0, "the CPU is at EL2, whose tables dbgsh does not walk"},
		{"a hypervisor, off", registers{"HCR_EL2": 0, "SCTLR_EL1": 0, "SCTLR_EL2": 0, "cpsr": 2 << 2}, 2, ""},
		{"firmware above", registers{"SCTLR_EL1": on, "SCTLR_EL3": on, "cpsr": 3 << 2}, 1, "the CPU is at EL3; shown"},
		{"firmware alone", registers{"SCTLR_EL3": on, "cpsr": 3 << 2}, 0, "the CPU is at EL3, whose tables dbgsh does not walk"},
		{"firmware, not described", registers{"cpsr": 3 << 2}, 0, "the CPU is at EL3, whose tables dbgsh does not walk"},
		{"firmware, off", registers{"SCTLR_EL2": on, "SCTLR_EL3": 0, "cpsr": 3 << 2}, 3, ""},
		{"not secure", registers{"SCR_EL3": 1, "HCR_EL2": e2h | tge, "SCTLR_EL2": on}, 2, ""},
		{"secure, with EL2", registers{"SCR_EL3": 1 << 18, "HCR_EL2": on, "SCTLR_EL1": on}, 0, "stage 2 is on"},
		{"secure, without", registers{"SCR_EL3": 0, "HCR_EL2": e2h | tge | on, "SCTLR_EL1": on, "cpsr": 1 << 2}, 1, ""},
	} {
		for level, root := range map[int]uint64{1: 0x1000, 2: 0x2000} {
			tt.v[fmt.Sprintf("TTBR0_EL%d", level)] = root
			tt.v[fmt.Sprintf("TTBR1_EL%d", level)] = root + 0x100
			tt.v[fmt.Sprintf("TCR_EL%d", level)] = root + 0x200
		}
		a, says, err := armRegime(tt.v)
		if err != nil {
			says = err.Error()
		}
		if (err != nil) != (tt.el == 0) || !strings.HasPrefix(says, tt.says) || tt.says == "" && says != "" {
			t.Errorf("%s: %q, %v, want %q", tt.name, says, err, tt.says)
		}
		if tt.el == 0 {
			continue
		}
		if a.EL != tt.el || a.SCTLR != tt.v[fmt.Sprintf("SCTLR_EL%d", tt.el)] && tt.el < 3 {
			t.Errorf("%s: %+v, want EL%d's", tt.name, a, tt.el)
		}
		if root := uint64(a.EL) << 12; a.SCTLR != 0 && (a.TTBR0 != root || a.TTBR1 != root+0x100 || a.TCR != root+0x200) {
			t.Errorf("%s: %+v", tt.name, a)
		}
	}
}

func TestLinuxRISCV64(t *testing.T) {
	addr := bootLinux(t, "qemu-system-riscv64", "riscv64", "", "console=ttyS0", "-M", "virt", "-m", "512")
	wish := Auto
	d := connect(t, addr, &wish)
	m, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	wish = Monitor
	oracle, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	wish = Auto
	same(t, "info mem", shown(m), joinAlike(oracle.Mappings))
	stvec, err := d.machine().registersOf(d.Ctx, "$stvec")
	if err != nil {
		t.Fatal(err)
	}
	var high uint64
	text := false
	for _, r := range m.Mappings {
		if r.Paged.Kernel == "rwx" || r.Start>>63 == 1 && r.Paged.User != "---" {
			t.Errorf("a kernel would not map %+v", r)
		}
		if r.Start>>63 == 1 {
			high += r.Size
		}
		text = text || r.Contains(stvec[0]) && r.Paged.Kernel == "r-x" && r.Size > 4<<20
	}
	if high < 400<<20 || !text {
		t.Errorf("%#x bytes in the upper half, text at %#x %v", high, stvec[0], text)
	}
	d.alike(m)
	pages, err := d.PageTables(d.Ctx, TableOptions{PTE: true})
	if err != nil {
		t.Fatal(err)
	}
	// In S-mode, with SUM and MXR, everything can be read.
	d.Lines("set $priv=1", "set $mstatus=$mstatus|0xc0000")
	d.translates(pages)
}

// Bits of RISC-V entries (Privileged Architecture, figure "Sv39 page table entry").
const (
	rvV = 1 << iota
	rvR
	rvW
	rvX
	rvU
	rvG
	rvA
	rvD

	rvNC = 1 << 61 // Svpbmt
	rvIO = 1 << 62
	rvN  = 1 << 63 // Svnapot
)

// rvEntry is an entry in tables of RISC-V. Without R, W and X it leads to the
// table of the next level.
type rvEntry struct {
	index int
	bits  uint64 // but V
	page  uint64 // the number of the page that a leaf maps, of its own size
	ppn   uint64 // bits of the PPN below that number
	bad   bool   // reserved: every access faults
}

// rvTables is one table for each level, all of the same entries but for the last
// level's. A mode of fewer levels uses the lower ones.
type rvTables struct {
	stride   int
	levels   int
	first    uint64    // is added to each page of a superpage
	dir, pte []rvEntry // sorted by index
	noPBMT   bool      // memory types are reserved
}

// Where the tables are, the one of level 0 first, and behind them one of a
// single page, for entries that may not lead to a table.
const rvBase = 0x80100000

func (p *rvTables) table(level int) uint64 { return rvBase + uint64(level)<<12 }

// newRVTables is tables whose entries have 32 or 64 bits; those of 64 use
// Svnapot if the hart has extensions, and Svpbmt, be it reserved.
func newRVTables(wide, extensions bool) *rvTables {
	p := &rvTables{stride: 10, levels: 2, first: 0xc00, noPBMT: !extensions} // beyond 4 GiB
	p.dir = []rvEntry{
		{index: 0},
		{index: 1, bits: rvR | rvW | rvX | rvA | rvD, page: 2},
		{index: 2, bits: rvR | rvU | rvA, page: 4},
		{index: 3, bits: rvR | rvX | rvG | rvA, page: 6},
		{index: 4, bits: rvR | rvX | rvA, page: 8},
		{index: 5, bits: rvX | rvA, page: 10},
		{index: 6, bits: rvX | rvU | rvA, page: 12},
		{index: 10, bits: rvW | rvA | rvD, page: 14, bad: true},
		{index: 11, bits: rvW | rvX | rvA | rvD, page: 16, bad: true},
		{index: 12, bits: rvR | rvW | rvA | rvD, page: 18, ppn: 1, bad: true},
		{index: 13, bits: rvR | rvW | rvA | rvD, page: 20, ppn: 0x100, bad: true},
		{index: 14, bits: rvA, bad: true},
		{index: 15, bits: rvD, bad: true},
		{index: 16, bits: rvU, bad: true},
	}
	for i := range 5 {
		p.pte = append(p.pte, rvEntry{index: i, bits: rvR | rvW | rvU | rvA | rvD, page: uint64(i)})
	}
	p.pte = append(p.pte, []rvEntry{
		{index: 7, bits: rvR | rvX | rvU | rvA, page: 6},
		{index: 8, bits: rvR | rvA, page: 8},
		{index: 9, bits: rvR | rvW | rvA, page: 10},
		{index: 10, bits: rvR | rvW | rvX | rvA | rvD, page: 12},
		{index: 11, bits: rvR | rvX | rvG | rvA, page: 14},
		{index: 12, bits: rvX | rvA, page: 16},
		{index: 13, bits: rvX | rvU | rvA, page: 18},
		{index: 14, bits: rvW | rvA | rvD, page: 20, bad: true},
		{index: 15, bits: rvW | rvX | rvU | rvA | rvD, page: 22, bad: true},
		{index: 16, bits: rvG, page: 24, bad: true}, // there is no next level
	}...)
	if wide {
		p.stride, p.levels, p.first = 9, 5, 0
		if extensions {
			p.dir = append(p.dir, rvEntry{index: 20, bits: rvN | rvR | rvA, page: 22, ppn: 8, bad: true}, rvEntry{index: 21, bits: rvN, bad: true})
			for i := range 16 {
				p.pte = append(p.pte, rvEntry{index: 32 + i, bits: rvN | rvR | rvX | rvU | rvA, page: 48, ppn: 8})
			}
			p.pte = append(p.pte, []rvEntry{
				{index: 64, bits: rvN | rvR | rvX | rvA, page: 64, ppn: 4, bad: true}, // 32 KiB
				{index: 65, bits: rvN | rvR | rvX | rvA, page: 80, bad: true},
			}...)
		}
		p.dir = append(p.dir, []rvEntry{
			{index: 22, bits: rvIO, bad: true},
			{index: 23, bits: rvNC | rvR | rvW | rvA | rvD, page: 24},
		}...)
		p.pte = append(p.pte, []rvEntry{
			{index: 68, bits: rvNC | rvR | rvW | rvA | rvD, page: 96},
			{index: 69, bits: rvIO | rvR | rvW | rvA | rvD, page: 97},
		}...)
	}
	n := 1 << p.stride
	p.dir = append(p.dir, rvEntry{index: n * 3 / 4, bits: rvG}, rvEntry{index: n - 1, bits: rvR | rvX | rvA, page: 26})
	p.pte = append(p.pte, rvEntry{index: n - 1, bits: rvR | rvW | rvU | rvA | rvD, page: 100})
	return p
}

// level is the entries of a table and the bits of an address below its index.
func (p *rvTables) level(level int) (entries []rvEntry, shift int) {
	if level == 0 {
		return p.pte, 12
	}
	return p.dir, 12 + p.stride*level
}

// phys is the address that an entry of a table holds.
func (p *rvTables) phys(level, shift int, e rvEntry) uint64 {
	switch {
	case level > 0 && e.bits&(rvR|rvW|rvX) != 0:
		return (p.first+e.page)<<shift | e.ppn<<12
	case level == 0:
		return e.page<<12 | e.ppn<<12
	case e.bad:
		return p.table(p.levels)
	}
	return p.table(level - 1)
}

func (p *rvTables) image() *fakeImage {
	m := &fakeImage{base: rvBase}
	put := func(table uint64, index int, entry uint64) {
		if p.stride == 10 {
			m.put32(table, index, uint32(entry))
		} else {
			m.put(table, index, entry)
		}
	}
	for level := range p.levels {
		entries, shift := p.level(level)
		for _, e := range entries {
			put(p.table(level), e.index, p.phys(level, shift, e)>>2|e.bits|rvV)
		}
	}
	put(p.table(p.levels), 0, rvR|rvA|rvV)
	return m
}

// rvPage is a page that tables map, or where bad is set do not, though info mem
// lists it if bits has R, W or X.
type rvPage struct {
	vm.Range
	phys, bits uint64
	bad        bool
}

// pages is what tables map from a root at a level on, computed from their
// definition.
func (p *rvTables) pages(root int) []rvPage {
	var all []rvPage
	var walk func(level int, base, global uint64)
	walk = func(level int, base, global uint64) {
		entries, shift := p.level(level)
		for _, e := range entries {
			at := base | uint64(e.index)<<shift
			pg := rvPage{Range: vm.Range{Start: at, Size: 1 << shift}, phys: p.phys(level, shift, e), bits: e.bits | global, bad: e.bad || p.noPBMT && e.bits&(rvNC|rvIO) != 0}
			switch {
			case level > 0 && e.bits&(rvR|rvW|rvX) == 0 && !e.bad:
				walk(level-1, at, global|e.bits&rvG)
				continue
			case level > 0 && e.bits&(rvR|rvW|rvX) == 0:
				pg.Size, pg.bits = pg.Size>>p.stride, rvR
			case e.bits&rvN != 0:
				pg.phys = pg.phys&^0xffff | at&0xf000
			}
			if n := 64 - 12 - p.stride*(root+1); p.stride == 9 { // sign extension
				pg.Start = uint64(int64(at<<n) >> n)
			}
			all = append(all, pg)
		}
	}
	walk(root, 0, 0)
	return all
}

// rvRows is the rows that pages make, with or without the bad ones.
func rvRows(pages []rvPage, bad bool) []string {
	var joined []rvPage
	for _, pg := range pages {
		pg.bits &= rvR | rvW | rvX | rvU
		if pg.bad && !bad || pg.bits&^rvU == 0 {
			continue
		}
		if n := len(joined) - 1; n >= 0 && joined[n].Last()+1 == pg.Start && joined[n].bits == pg.bits {
			joined[n].Size += pg.Size
			continue
		}
		joined = append(joined, pg)
	}
	var rows []string
	for _, pg := range joined {
		kind := "kernel"
		if pg.bits&rvU != 0 {
			kind = "user"
		}
		rows = append(rows, fmt.Sprintf("%x-%s %s %s", pg.Start, pg.EndHex(), letters(pg.bits>>1, "rwx"), kind))
	}
	return rows
}

// letters is a letter for each bit from bit 0 on, "-" where it is not set.
func letters(bits uint64, names string) string {
	b := []byte(names)
	for i := range b {
		if bits>>i&1 == 0 {
			b[i] = '-'
		}
	}
	return string(b)
}

// Tables of RISC-V in the loader's image, beside what the test computes of their
// definition, info mem and gva2gpa. info mem lists reserved entries, too;
// gva2gpa, which walks as the hart does, tells that they fault.
func TestRISCVMachine(t *testing.T) {
	type mode struct {
		name string
		root int // the level of the root
		satp uint64
	}
	for _, machine := range []struct {
		qemu, cpu string
		tables    *rvTables
		modes     []mode
		setUp     []string
	}{
		{"qemu-system-riscv64", "rv64,svnapot=on,svpbmt=on", newRVTables(true, true),
			[]mode{{"Sv39", 2, 8 << 60}, {"Sv48", 3, 9 << 60}, {"Sv57", 4, 10 << 60}}, []string{"set $menvcfg=1ULL<<62"}}, // PBMTE
		{"qemu-system-riscv64", "rv64", newRVTables(true, false), []mode{{"Sv39", 2, 8 << 60}}, nil},
		{"qemu-system-riscv32", "rv32", newRVTables(false, false), []mode{{"Sv32", 1, 1 << 31}}, nil},
	} {
		t.Run(strings.ReplaceAll(machine.cpu, ",", " "), func(t *testing.T) {
			tables := machine.tables
			addr := testkit.QEMU(t, machine.qemu, "", "-M", "virt", "-cpu", machine.cpu+",pmp=off", "-bios", "none", "-m", "128", "-S",
				"-device", tables.image().file(t))
			wish := Auto
			d := connect(t, addr, &wish)
			m, err := d.Map(d.Ctx)
			if err != nil || len(m.About()) == 0 || !strings.Contains(m.About()[0], "paging is off") {
				t.Errorf("bare: %+v, %v", m, err)
			}
			d.Lines(append(machine.setUp, "set $mstatus=$mstatus|0xc0000", "set $priv=1")...) // SUM and MXR, in S-mode
			for _, mode := range machine.modes {
				d.Lines(fmt.Sprintf("set $satp=%#x", mode.satp|tables.table(mode.root)>>12))
				pages := tables.pages(mode.root)
				for _, only := range []bool{false, true} {
					d.throughStub(only)
					if m, err = d.Map(d.Ctx); err != nil {
						t.Fatal(err)
					}
					same(t, mode.name, shown(m), rvRows(pages, false))
					if on := d.physMode(); on != "0" {
						t.Errorf("%s: physical mode is %s", mode.name, on)
					}
				}
				d.throughStub(false)
				wish = Monitor
				oracle, err := d.Map(d.Ctx)
				if err != nil {
					t.Fatal(err)
				}
				wish = Auto
				same(t, mode.name+", info mem", joinAlike(oracle.Mappings), rvRows(pages, true))
				if m, err = d.PageTables(d.Ctx, TableOptions{PTE: true}); err != nil {
					t.Fatal(err)
				}
				d.hasPages(m.Mappings, pages)
				d.translates(m)
			}
		})
	}
}

// hasPages compares rows with the pages that make them, one by one, and asks
// QEMU about those that are none.
func (d *debuggee) hasPages(ms []vm.Mapping, pages []rvPage) {
	d.T.Helper()
	for _, pg := range pages {
		i := slices.IndexFunc(ms, func(m vm.Mapping) bool { return m.Contains(pg.Start) })
		if pg.bad {
			text, err := d.Query(d.Ctx, fmt.Sprintf("monitor gva2gpa %#x", pg.Start))
			if err != nil {
				d.T.Fatal(err)
			}
			if i >= 0 || gpaLine.MatchString(text) {
				d.T.Errorf("%v is reserved, but in row %d, and QEMU says %q", pg.Range, i, strings.TrimSpace(text))
			}
			continue
		}
		var flags []string
		for _, f := range []struct {
			bit  uint64
			name string
		}{{rvG, "G"}, {rvA, "A"}, {rvD, "D"}, {rvN, "NAPOT"}, {rvNC, "NC"}, {rvIO, "IO"}} {
			if pg.bits&f.bit != 0 {
				flags = append(flags, f.name)
			}
		}
		want := vm.Paged{Kernel: letters(pg.bits>>1, "rwx"), User: "---", Phys: pg.phys, PageSize: pg.Size, Flags: strings.Join(flags, " ")}
		if pg.bits&rvU != 0 {
			want.User = want.Kernel
			want.Kernel = strings.Replace(want.Kernel, "x", "-", 1)
		}
		if i < 0 {
			d.T.Errorf("%v is missing", pg.Range)
			continue
		}
		got := *ms[i].Paged
		got.Phys += pg.Start - ms[i].Start
		if got != want {
			d.T.Errorf("%v: got %+v, want %+v", pg.Range, got, want)
		}
	}
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

// Memory that only the secure state sees is not to be had, and is not passed over
// in silence.
func TestSecureMachine(t *testing.T) {
	for _, secure := range []bool{false, true} {
		machine := "virt"
		if secure {
			machine += ",secure=on"
		}
		addr := testkit.QEMU(t, "qemu-system-aarch64", "", "-M", machine, "-cpu", "cortex-a57", "-m", "64", "-S")
		wish := Auto
		d := connect(t, addr, &wish)
		m, err := d.Map(d.Ctx)
		noted := slices.ContainsFunc(m.About(), func(n string) bool { return strings.Contains(n, "only the secure state sees") })
		if err != nil || noted != secure {
			t.Errorf("secure %v: %q, %v", secure, m.About(), err)
		}
		d.Lines("disconnect")
	}
}
