package qemusys

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/pt"
	"dbgsh/vm"
)

// Bits of TCR_EL1 (Arm Architecture Reference Manual, DDI 0487).
const (
	aEPD0  = 1 << 7
	aEPD1  = 1 << 23
	aTBI0  = 1 << 37
	aTBI1  = 1 << 38
	aHA    = 1 << 39
	aHD    = 1 << 40
	aHPD0  = 1 << 41
	aE0PD1 = 1 << 56
	aDS    = 1 << 59
)

// Bits of descriptors (D8.3).
const (
	aBlock    = 1
	aTable    = 3
	aPage     = 3
	aUser     = 1 << 6  // AP[1]
	aReadOnly = 1 << 7  // AP[2]
	aShared   = 3 << 8  // SH
	aAF       = 1 << 10 // access flag
	aDBM      = 1 << 51
	aCont     = 1 << 52
	aPXN      = 1 << 53
	aUXN      = 1 << 54
	aNoUser   = 1 << 61 // APTable[0]
	aNoWrite  = 1 << 62 // APTable[1]
)

// atHalf is what one TTBR translates. Its levels count from 0 for the last one,
// which is the manual's 3.
type atHalf struct {
	grain int // log2 of the granule
	width int // of the addresses in bits, 64 - TxSZ
}

func (h atHalf) top() int { return (h.width-4)/(h.grain-3) - 1 }

func (h atHalf) shift(level int) int { return h.grain + level*(h.grain-3) }

func (h atHalf) entries(level int) int {
	if level == h.top() {
		return 1 << (h.width - h.shift(level))
	}
	return 1 << (h.grain - 3)
}

// atCase is a set-up of the EL1&0 regime.
type atCase struct {
	name         string
	lower, upper atHalf
	phys         int // width of physical addresses in bits, by TCR_EL1.IPS
	tcr          uint64

	ttbr0, ttbr1 uint64
}

var atCases = []atCase{
	{name: "4 and 64 KiB", lower: atHalf{12, 48}, upper: atHalf{16, 42}, phys: 48},
	{name: "16 and 4 KiB, tags", lower: atHalf{14, 47}, upper: atHalf{12, 39}, phys: 40, tcr: aTBI0 | aTBI1},
	{name: "64 and 16 KiB, a tag", lower: atHalf{16, 48}, upper: atHalf{14, 36}, phys: 44, tcr: aTBI1},
	{name: "a root of two entries", lower: atHalf{14, 48}, upper: atHalf{12, 30}, phys: 42},
	{name: "one level", lower: atHalf{12, 16}, upper: atHalf{16, 20}, phys: 36},
	{name: "EPD0", lower: atHalf{12, 39}, upper: atHalf{12, 48}, phys: 48, tcr: aEPD0},
	{name: "EPD1", lower: atHalf{12, 39}, upper: atHalf{12, 48}, phys: 48, tcr: aEPD1},
	{name: "E0PD1, HPD0", lower: atHalf{12, 39}, upper: atHalf{14, 47}, phys: 48, tcr: aE0PD1 | aHPD0},
	{name: "dirty state", lower: atHalf{12, 48}, upper: atHalf{14, 47}, phys: 48, tcr: aHA | aHD},
	{name: "LPA", lower: atHalf{16, 52}, upper: atHalf{16, 44}, phys: 52},
	{name: "LPA2", lower: atHalf{12, 48}, upper: atHalf{14, 52}, phys: 52, tcr: aDS},
	{name: "LPA2, five levels", lower: atHalf{12, 52}, upper: atHalf{12, 50}, phys: 52, tcr: aDS},
}

// registers is what the case has in TTBR0_EL1, TTBR1_EL1, TCR_EL1 and SCTLR_EL1.
func (c *atCase) registers() []uint64 {
	ips := slices.Index([]int{32, 36, 40, 42, 44, 48, 52}, c.phys)
	tg0 := slices.Index([]int{12, 16, 14}, c.lower.grain)
	tg1 := slices.Index([]int{0, 14, 12, 16}, c.upper.grain)
	tcr := c.tcr | uint64(64-c.lower.width|tg0<<14|(64-c.upper.width)<<16|tg1<<30|ips<<32)
	return []uint64{c.ttbr0, c.ttbr1, tcr, 0x30d00801} // SCTLR_EL1.M and what was RES1 in Armv8.0
}

// untagged is an address without what the case ignores of it.
func (c *atCase) untagged(va uint64) uint64 {
	switch upper := va>>55&1 != 0; {
	case upper && c.tcr&aTBI1 != 0:
		return va | 0xff<<56
	case !upper && c.tcr&aTBI0 != 0:
		return va &^ (0xff << 56)
	}
	return va
}

// output is an output address as a descriptor has it.
func (c *atCase) output(h atHalf, pa uint64) uint64 {
	switch high := pa >> 48; {
	case c.tcr&aDS != 0: // bits 9:8 are address bits 51:50
		return pa&(1<<50-1) | high>>2<<8
	case h.grain == 16: // bits 15:12 are address bits 51:48
		return pa&(1<<48-1) | high<<12
	}
	return pa
}

// blocks reports whether descriptors of a level above the last may be blocks.
// The tables have none elsewhere: QEMU 7.2 takes them, or ends in an assertion.
func (c *atCase) blocks(h atHalf, level int) bool {
	switch level {
	case 1:
		return true
	case 2:
		return h.grain != 14 || c.tcr&aDS != 0
	case 3:
		return h.grain == 12 && c.tcr&aDS != 0
	}
	return false
}

// table makes room for a table of so many bytes, a power of two.
func (m *fakeImage) table(size int) uint64 {
	pad := -len(m.b) & (size - 1)
	at := m.base + uint64(len(m.b)+pad)
	m.b = append(m.b, make([]byte, pad+size)...)
	return at
}

// atTables builds the tables of a half and returns where the root is. There is
// one for each level, to which several entries of the one above lead, and in it
// stands what a descriptor can be.
func (m *fakeImage) atTables(c *atCase, h atHalf) uint64 {
	const outside = 0x1000000000 // where the machine has nothing
	shared := uint64(aShared)
	if c.tcr&aDS != 0 { // the bits have another meaning
		shared = 0
	}
	var next uint64
	for level := range h.top() + 1 {
		n := h.entries(level)
		at := m.table(1 << h.grain)
		if level == h.top() { // it is aligned to its size alone, 64 bytes at least
			at += uint64(max(8*n, 64) % (1 << h.grain))
		}
		put := func(i int, e uint64) {
			if i < n {
				m.put(at, i, e)
			}
		}
		leaf := func(i int, e uint64) {
			pa := uint64(5<<(c.phys-3)+i<<h.shift(level)) & (1<<c.phys - 1<<h.shift(level))
			put(i, e|shared|c.output(h, pa))
		}
		tooFar := func(i int, e uint64) {
			if c.phys < 48 {
				put(i, e|1<<c.phys)
			}
		}
		if level == 0 {
			leaf(0, aPage|aAF)
			leaf(1, aPage|aAF|aUser)
			leaf(2, aPage|aAF|aReadOnly)
			leaf(3, aPage|aAF|aUser|aReadOnly)
			leaf(4, aBlock|aAF) // reserved
			leaf(5, 2|aAF)      // not valid
			leaf(6, aPage|aUser)
			tooFar(7, aPage|aAF)
			leaf(8, aPage|aAF|aUser|aPXN|aUXN)
			leaf(9, aPage|aAF|aUser|aReadOnly|aDBM)
			for i := 128; i < 256; i++ {
				leaf(i, aPage|aAF|aUser|aCont)
			}
			leaf(n-1, aPage|aAF|aUser|aReadOnly)
			next = at
			continue
		}
		put(0, aTable|next)
		put(1, aTable|next|aNoUser)
		put(2, 2|next) // not valid
		tooFar(3, aTable)
		put(8, aTable|outside)
		put(9, aTable|next)
		put(n-1, aTable|next|aNoWrite)
		if c.blocks(h, level) {
			leaf(4, aBlock|aAF|aUser)
			leaf(5, aBlock|aAF|aReadOnly)
			leaf(6, aBlock|aUser)
			tooFar(7, aBlock|aAF)
			for i := 32; i < 64; i++ {
				leaf(i, aBlock|aAF|aUser|aReadOnly|aCont)
			}
		}
		next = at
	}
	return next
}

// ask is addresses to ask the CPU for: the edges of rows and what is just
// outside of them, and others at random, of which many are mapped.
func (c *atCase) ask(rows []vm.Mapping, rng *rand.Rand) []uint64 {
	var ask []uint64
	for _, r := range rows {
		page := r.Paged.PageSize
		ask = append(ask, r.Start-1, r.Start, r.Start+rng.Uint64N(page), r.Start+(r.Size-page), r.Last(), r.Start+r.Size)
	}
	for _, h := range []atHalf{c.lower, c.upper} {
		for range 1500 {
			va := rng.Uint64N(1 << h.grain)
			for level := range h.top() + 1 {
				n := h.entries(level)
				i := []int{0, 1, 9, n - 1, rng.IntN(10), rng.IntN(n)}[rng.IntN(6)]
				va |= uint64(i%n) << h.shift(level)
			}
			if h == c.upper {
				va |= ^uint64(0) << h.width
			}
			ask = append(ask, va, va^1<<(48+rng.IntN(16)), va^rng.Uint64()>>56<<56)
		}
	}
	for range 500 {
		ask = append(ask, rng.Uint64())
	}
	slices.Sort(ask)
	return slices.Compact(ask)
}

// Where memory of the machine is used for what; RAM begins at 0x40000000.
const (
	atCode     = 0x40200000
	atTables   = 0x41000000
	atAsked    = 0x48000000
	atAnswered = 0x49000000
)

// proceed sets registers from x[first] on and has the CPU run until it stops.
func (d *debuggee) proceed(first int, values ...uint64) {
	d.T.Helper()
	var lines []string
	for i, v := range values {
		lines = append(lines, fmt.Sprintf("set $x%d=%#xULL", first+i, v))
	}
	d.Lines(append(lines, "continue")...)
}

// answers is what the CPU says of addresses: four PAR_EL1 for each.
func (d *debuggee) answers(ask []uint64) []byte {
	d.T.Helper()
	file := filepath.Join(d.T.TempDir(), "memory")
	var b []byte
	for _, va := range ask {
		b = binary.LittleEndian.AppendUint64(b, va)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		d.T.Fatal(err)
	}
	d.Lines(fmt.Sprintf("restore %s binary %#x", file, atAsked))
	d.proceed(0, atAsked, atAnswered, uint64(len(ask)))
	d.Lines(fmt.Sprintf("dump binary memory %s %#x %#x", file, atAnswered, atAnswered+4*len(b)))
	b, err := os.ReadFile(file)
	if err != nil {
		d.T.Fatal(err)
	}
	return b
}

// The answers that are no translation.
const (
	atFault      = "fault"
	atAccessFlag = "access flag fault"
)

// cpuSays is what the four PAR_EL1 of an address mean: what EL1 and EL0 may do,
// and where the page is.
func cpuSays(par []byte) (may string, at uint64) {
	letters := []byte("--/--")
	var pages []uint64
	flag := false
	for i, place := range []int{0, 1, 3, 4} {
		v := binary.LittleEndian.Uint64(par[8*i:])
		if v&1 == 0 {
			letters[place] = "rw"[i&1]
			pages = append(pages, v&(1<<52-1)&^0xfff)
		} else {
			flag = flag || v>>3&15 == 2 // FST is 0b0010LL
		}
	}
	pages = slices.Compact(pages)
	switch {
	case len(pages) == 0 && flag:
		return atAccessFlag, 0
	case len(pages) == 0:
		return atFault, 0
	case len(pages) > 1 || flag:
		return fmt.Sprintf("PAR_EL1 %x", par), 0
	}
	return string(letters), pages[0]
}

// tablesSay is the same of what the tables are said to map.
func (c *atCase) tablesSay(kernel, user, flags string, pa uint64) (may string, at uint64) {
	if c.tcr&aHA == 0 && !slices.Contains(strings.Fields(flags), "A") {
		return atAccessFlag, 0
	}
	return kernel[:2] + "/" + user[:2], pa &^ 0xfff
}

// TestARM64Translation compares the map of bare tables with what the CPU's own
// AT instructions say, which is whether EL1 and EL0 may read and write, and
// where that leads.
func TestARM64Translation(t *testing.T) {
	prog := testkit.Build(t, "aarch64-linux-gnu-gcc", testkit.Testdata(t, "armat.S"), "-g0", "-nostdlib", "-static", "-Wl,--build-id=none",
		fmt.Sprintf("-Wl,-Ttext=%#x", atCode))
	cases := slices.Clone(atCases)
	tables := &fakeImage{base: atTables}
	for i := range cases {
		c := &cases[i]
		c.ttbr0, c.ttbr1 = tables.atTables(c, c.lower), tables.atTables(c, c.upper)|0x42<<48 // an ASID
	}
	addr := testkit.QEMU(t, "qemu-system-aarch64", "", "-M", "virt,virtualization=on", "-cpu", "max", "-m", "256", "-S",
		"-device", tables.file(t), "-device", "loader,cpu-num=0,file="+prog)
	wish := Auto
	d := connect(t, addr, &wish)
	if m, err := d.Map(d.Ctx); err != nil || len(m.About()) == 0 || !strings.HasPrefix(m.About()[0], "SCTLR_EL2.M is 0: paging is off") {
		t.Errorf("at reset: %+v, %v", m, err)
	}
	d.Lines("symbol-file "+prog, "hbreak *&ready", "hbreak *&done")
	for i := range cases {
		c := &cases[i]
		t.Run(c.name, func(t *testing.T) {
			sub := *d
			own := *d.GDB
			own.T, sub.GDB = t, &own
			sub.proceed(10, c.registers()...)
			sub.translatesAs(c, rand.New(rand.NewPCG(8, uint64(i))))
			if i == 0 {
				sub.alsoInPhysicalMode()
			}
		})
	}
}

// translatesAs compares the map of a case that the CPU is set up for.
func (d *debuggee) translatesAs(c *atCase, rng *rand.Rand) {
	d.T.Helper()
	m, err := d.PageTables(d.Ctx, TableOptions{PTE: true})
	if err != nil {
		d.T.Fatal(err)
	}
	if len(m.About()) == 0 || !strings.Contains(m.About()[0], "the CPU is at EL2") {
		d.T.Errorf("notes %q", m.About())
	}
	ask := c.ask(m.Mappings, rng)
	answers := d.answers(ask)
	said := [2]map[string]int{{}, {}} // by half
	for i, va := range ask {
		want, wantAt := cpuSays(answers[32*i:][:32])
		said[va>>55&1][want]++
		got, at := atFault, uint64(0)
		addr := c.untagged(va)
		n, _ := slices.BinarySearchFunc(m.Mappings, addr, func(r vm.Mapping, a uint64) int { return cmp.Compare(r.Last(), a) })
		if n < len(m.Mappings) && m.Mappings[n].Contains(addr) {
			r := m.Mappings[n]
			got, at = c.tablesSay(r.Paged.Kernel, r.Paged.User, r.Paged.Flags, r.Paged.Phys+(addr-r.Start))
		}
		if got != want || at != wantAt {
			d.T.Fatalf("%#x: the CPU says %s %#x, the map %s %#x", va, want, wantAt, got, at)
		}
		if i%500 != 0 {
			continue
		}
		path, err := d.PageWalk(d.Ctx, va, nil)
		if err != nil {
			d.T.Fatal(err)
		}
		got, at = atFault, 0
		if path.End == pt.Mapped {
			got, at = c.tablesSay(path.Access.Kernel(), path.Access.User(), path.Flags.String(), path.Phys)
		}
		if got != want || at != wantAt {
			d.T.Fatalf("%#x: the CPU says %s %#x, the walk %s %#x", va, want, wantAt, got, at)
		}
	}
	d.T.Logf("%d rows, %d addresses: lower %v, upper %v", len(m.Mappings), len(ask), said[0], said[1])
	// What the tables are made for was met.
	for half, off := range []bool{c.tcr&aEPD0 != 0, c.tcr&aEPD1 != 0} {
		for may, never := range map[string]bool{
			"rw/--": false, "r-/--": false,
			"rw/rw":      half == 1 && c.tcr&aE0PD1 != 0,
			"r-/r-":      half == 1 && c.tcr&aE0PD1 != 0,
			atAccessFlag: c.tcr&aHA != 0,
		} {
			if (said[half][may] == 0) != (off || never) {
				d.T.Errorf("half %d: the CPU says %s %d times", half, may, said[half][may])
			}
		}
	}
}

// alsoInPhysicalMode compares the pages with what comes through the stub.
func (d *debuggee) alsoInPhysicalMode() {
	d.T.Helper()
	var rows [2][]string
	for i, physical := range []bool{false, true} {
		d.throughStub(physical)
		m, err := d.PageTables(d.Ctx, TableOptions{PTE: true})
		if err != nil {
			d.T.Fatal(err)
		}
		for _, r := range m.Mappings {
			rows[i] = append(rows[i], fmt.Sprintf("%v %+v", r.Range, *r.Paged))
		}
	}
	d.throughStub(false)
	same(d.T, "physical mode", rows[1], rows[0])
	if mode := d.physMode(); mode != "0" {
		d.T.Errorf("physical mode is %s", mode)
	}
}
