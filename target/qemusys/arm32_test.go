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

// Bits of TTBCR and SCTLR (ARM Architecture Reference Manual, DDI 0406C).
const (
	a32EAE  = 1 << 31
	a32PD0  = 1 << 4
	a32PD1  = 1 << 5
	a32EPD1 = 1 << 23

	a32On   = 0x00c50079 // M, and what QEMU's CPUs have at reset
	a32AFE  = 1 << 29
	a32WXN  = 1 << 19
	a32UWXN = 1 << 20
)

// a32Case is a set-up of the PL1&0 regime.
type a32Case struct {
	name         string
	ttbcr, sctlr uint32

	ttbr0, ttbr1 uint64
}

var a32Cases = []a32Case{
	{name: "short", sctlr: a32On},
	{name: "short, N 1, AFE", ttbcr: 1, sctlr: a32On | a32AFE},
	{name: "short, N 3", ttbcr: 3, sctlr: a32On | a32WXN | a32UWXN},
	{name: "short, N 7, PD0", ttbcr: 7 | a32PD0, sctlr: a32On},
	{name: "short, N 1, PD1", ttbcr: 1 | a32PD1, sctlr: a32On | a32AFE},
	{name: "long", ttbcr: a32EAE, sctlr: a32On},
	{name: "long, T0SZ 1", ttbcr: a32EAE | 1, sctlr: a32On},
	{name: "long, T0SZ 3", ttbcr: a32EAE | 3, sctlr: a32On},
	{name: "long, T1SZ 2", ttbcr: a32EAE | 2<<16, sctlr: a32On},
	{name: "long, T1SZ 5", ttbcr: a32EAE | 5<<16, sctlr: a32On | a32WXN},
	{name: "long, both", ttbcr: a32EAE | 1 | 1<<16, sctlr: a32On},
	{name: "long, both, EPD1", ttbcr: a32EAE | 2 | 7<<16 | a32EPD1, sctlr: a32On},
}

func (c *a32Case) long() bool { return c.ttbcr&a32EAE != 0 }

// a32Tables builds tables at random, and returns where their roots are.
func (m *fakeImage) a32Tables(c *a32Case, rng *rand.Rand) {
	root := func() uint64 {
		if c.long() {
			return m.a32Long(rng, 2)
		}
		return m.a32Short(rng)
	}
	c.ttbr0, c.ttbr1 = root(), root()
}

// a32Short builds a first-level table and some of the second level.
func (m *fakeImage) a32Short(rng *rand.Rand) uint64 {
	root := m.table(1 << 14)
	ap := func() uint32 { return rng.Uint32N(8) }
	var tables []uint64
	for range 4 {
		t := m.table(1 << 10)
		for i := 0; i < 256; i++ {
			p := ap()
			e := rng.Uint32()&(0xfffff000|0xdcd) | p&3<<4 | p>>2<<9 // TEX, XN and others at random
			switch rng.IntN(8) {
			case 0, 1, 2:
				m.put32(t, i, e|2)
			case 3:
				i = i&^15 + 15 // 16 alike
				e = e&^3 | 1
				for k := i - 15; k <= i; k++ {
					m.put32(t, k, e)
				}
			case 4:
				m.put32(t, i, e&^3)
			}
		}
		tables = append(tables, t)
	}
	for i := 0; i < 4096; i++ {
		p := ap()
		e := rng.Uint32()&0xfff37fff&^3 | p&3<<10 | p>>2<<15
		switch rng.IntN(24) {
		case 0:
			m.put32(root, i, uint32(tables[rng.IntN(len(tables))])|rng.Uint32N(1<<5)<<5&0x1e0|rng.Uint32N(4)<<2|1)
		case 1, 2, 3:
			m.put32(root, i, e&^0x40000|2)
		case 4:
			m.put32(root, i, e&^0x40000|3) // PXN, or reserved
		case 5:
			i = i&^15 + 15
			for k := i - 15; k <= i; k++ {
				m.put32(root, k, e|0x40000|2)
			}
		}
	}
	return root
}

// a32Long builds a table of 4 KiB, which does for every size of a root, and those
// below it; level counts down to the last, 0.
func (m *fakeImage) a32Long(rng *rand.Rand, level int) uint64 {
	var tables []uint64
	for n := 0; level > 0 && n < 3-level+1; n++ {
		tables = append(tables, m.a32Long(rng, level-1))
	}
	at := m.table(1 << 12)
	for i := range 512 {
		attrs := rng.Uint64() & (1<<54 | 1<<53 | 1<<11 | 1<<10 | 3<<6 | 7<<2 | 3<<8)
		leaf := rng.Uint64()&(1<<40-1)>>(12+9*level)<<(12+9*level) | attrs | 1<<10&(rng.Uint64()|rng.Uint64())
		switch k := rng.IntN(6); {
		case k < 2 && level > 0:
			m.put(at, i, tables[rng.IntN(len(tables))]|rng.Uint64N(16)<<59&rng.Uint64()|3)
		case k < 4 && level > 0:
			m.put(at, i, leaf|1)
		case k < 4:
			m.put(at, i, leaf|3)
		case k == 4:
			m.put(at, i, leaf&^1)
		}
	}
	if level == 2 { // the first entry of a small root leads on
		m.put(at, 0, tables[0]|3)
	}
	return at
}

// a32Says is what the four PAR of an address mean: what PL1 and PL0 may do, where
// the page is, and whether that is a supersection, of whose address QEMU tells the
// upper bits alone.
func (c *a32Case) a32Says(par []byte) (may string, at uint64, super bool) {
	letters := []byte("--/--")
	var pages []uint64
	flag := false
	for i, place := range []int{0, 1, 3, 4} {
		v := binary.LittleEndian.Uint64(par[8*i:])
		switch {
		case v&1 == 0 && c.long():
			pages = append(pages, v&(1<<40-1)&^0xfff)
		case v&1 == 0:
			super = super || v&2 != 0
			pages = append(pages, v&0xffffffff&^0xfff)
		case c.long():
			flag = flag || v>>3&15 == 2 // FST is 0b0010LL
		default:
			flag = flag || c.sctlr&a32AFE != 0 && (v>>1&31 == 3 || v>>1&31 == 6) // FS
		}
		if v&1 == 0 {
			letters[place] = "rw"[i&1]
		}
	}
	pages = slices.Compact(pages)
	switch {
	case len(pages) == 0 && flag:
		return atAccessFlag, 0, false
	case len(pages) == 0:
		return atFault, 0, false
	case len(pages) > 1 || flag:
		return fmt.Sprintf("PAR %x", par), 0, false
	}
	return string(letters), pages[0], super
}

// a32TablesSay is the same of what the tables are said to map.
func (c *a32Case) a32TablesSay(kernel, user, flags string, pa uint64) (may string, at uint64) {
	if (c.long() || c.sctlr&a32AFE != 0) && !slices.Contains(strings.Fields(flags), "A") {
		return atAccessFlag, 0
	}
	return kernel[:2] + "/" + user[:2], pa &^ 0xfff
}

// a32Answers is what the CPU says of addresses.
func (d *debuggee) a32Answers(ask []uint64) []byte {
	d.T.Helper()
	file := filepath.Join(d.T.TempDir(), "memory")
	var b []byte
	for _, va := range ask {
		b = binary.LittleEndian.AppendUint32(b, uint32(va))
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		d.T.Fatal(err)
	}
	d.Lines(fmt.Sprintf("restore %s binary %#x", file, atAsked),
		fmt.Sprintf("set $r8=%#x", atAsked), fmt.Sprintf("set $r9=%#x", atAnswered), fmt.Sprintf("set $r12=%d", len(ask)), "continue",
		fmt.Sprintf("dump binary memory %s %#x %#x", file, atAnswered, atAnswered+32*len(ask)))
	b, err := os.ReadFile(file)
	if err != nil {
		d.T.Fatal(err)
	}
	return b
}

// TestARM32Translation compares the map of tables made at random with what the
// CPU's own address translation operations say.
func TestARM32Translation(t *testing.T) {
	prog := testkit.Build(t, "arm-linux-gnueabihf-gcc", testkit.Testdata(t, "armat32.S"), "-g0", "-nostdlib", "-static", "-Wl,--build-id=none",
		fmt.Sprintf("-Wl,-Ttext=%#x", atCode))
	cases := slices.Clone(a32Cases)
	tables := &fakeImage{base: atTables}
	rng := rand.New(rand.NewPCG(32, 7))
	for i := range cases {
		tables.a32Tables(&cases[i], rng)
	}
	addr := testkit.QEMU(t, "qemu-system-arm", "", "-M", "virt,virtualization=on", "-cpu", "cortex-a15", "-m", "256", "-S",
		"-device", tables.file(t), "-device", "loader,cpu-num=0,file="+prog)
	wish := Auto
	d := connect(t, addr, &wish)
	if m, err := d.Map(d.Ctx); err != nil || len(m.About()) == 0 || !strings.HasPrefix(m.About()[0], "SCTLR.M is 0: paging is off") ||
		!slices.ContainsFunc(m.Mappings, func(r vm.Mapping) bool { return r.Name == "[mach-virt.ram]" }) {
		t.Errorf("at reset: %+v, %v", m, err)
	}
	d.Lines("symbol-file "+prog, "hbreak *&ready", "hbreak *&done")
	for i := range cases {
		c := &cases[i]
		t.Run(c.name, func(t *testing.T) {
			sub := *d
			own := *d.GDB
			own.T, sub.GDB = t, &own
			var lines []string
			for r, v := range map[int]uint64{0: uint64(c.sctlr), 1: uint64(c.ttbcr), 2: 0x55555555, 4: c.ttbr0, 5: 0, 6: c.ttbr1, 7: 0} {
				lines = append(lines, fmt.Sprintf("set $r%d=%#x", r, v))
			}
			sub.Lines(append(lines, "continue")...)
			sub.a32TranslatesAs(c, rng)
			if i == 0 {
				sub.alsoInPhysicalMode()
			}
		})
	}
}

// a32TranslatesAs compares the map of a case that the CPU is set up for.
func (d *debuggee) a32TranslatesAs(c *a32Case, rng *rand.Rand) {
	d.T.Helper()
	m, err := d.PageTables(d.Ctx, TableOptions{PTE: true})
	if err != nil {
		d.T.Fatal(err)
	}
	if m.AddressBits != 32 || len(m.About()) == 0 || !strings.Contains(m.About()[0], "the CPU is in Hyp mode") {
		d.T.Errorf("%d bits, notes %q", m.AddressBits, m.About())
	}
	var ask []uint64
	for _, r := range m.Mappings {
		for _, va := range []uint64{r.Start - 1, r.Start, r.Start + rng.Uint64N(r.Size), r.Last(), r.Start + r.Size} {
			ask = append(ask, va&0xffffffff)
		}
	}
	for len(ask) < 20000 {
		ask = append(ask, uint64(rng.Uint32()))
	}
	rng.Shuffle(len(ask), func(i, k int) { ask[i], ask[k] = ask[k], ask[i] })
	ask = ask[:20000]
	answers := d.a32Answers(ask)
	said := map[string]int{}
	for i, va := range ask {
		want, wantAt, super := c.a32Says(answers[32*i:][:32])
		said[want]++
		got, at := atFault, uint64(0)
		n, _ := slices.BinarySearchFunc(m.Mappings, va, func(r vm.Mapping, a uint64) int { return cmp.Compare(r.Last(), a) })
		if n < len(m.Mappings) && m.Mappings[n].Contains(va) {
			r := m.Mappings[n]
			got, at = c.a32TablesSay(r.Paged.Kernel, r.Paged.User, r.Paged.Flags, r.Paged.Phys+(va-r.Start))
		}
		if super {
			at &= 0xff000000
		}
		if got != want || at != wantAt {
			d.T.Fatalf("%#x: the CPU says %s %#x, the map %s %#x", va, want, wantAt, got, at)
		}
		if i%1000 != 0 {
			continue
		}
		path, err := d.PageWalk(d.Ctx, va, nil)
		if err != nil {
			d.T.Fatal(err)
		}
		got, at = atFault, 0
		if path.End == pt.Mapped {
			got, at = c.a32TablesSay(path.Access.Kernel(), path.Access.User(), path.Flags.String(), path.Phys)
		}
		if super {
			at &= 0xff000000
		}
		if got != want || at != wantAt {
			d.T.Fatalf("%#x: the CPU says %s %#x, the walk %s %#x", va, want, wantAt, got, at)
		}
	}
	d.T.Logf("%d rows: %v", len(m.Mappings), said)
	// What the tables are made for was met.
	flags := c.long() || c.sctlr&a32AFE != 0
	for may, never := range map[string]bool{"rw/--": false, "r-/r-": false, "rw/rw": false, atFault: false, atAccessFlag: !flags, "rw/r-": flags} {
		if (said[may] == 0) != never {
			d.T.Errorf("the CPU says %s %d times", may, said[may])
		}
	}
}

// TestARM32Regime: whose tables they are hangs on the mode, on SCR and HCR, and on
// what the stub tells.
func TestARM32Regime(t *testing.T) {
	type registers = map[string]uint64
	const on, hyp, monitor = 1, 0x1a, 0x16
	for _, tt := range []struct {
		name string
		v    registers
		want pt.ARM32 // TTBR0 and SCTLR alone
		note string
		err  string
	}{
		{"short", registers{"SCTLR": on, "TTBR0_EL1": 0x4000, "TTBR0": 0x11_00004000}, pt.ARM32{TTBR0: 0x4000, SCTLR: on}, "", ""},
		{"long", registers{"SCTLR": on, "TTBCR": a32EAE, "TTBR0_EL1": 0x4000, "TTBR0": 0x11_00004000}, pt.ARM32{TTBR0: 0x11_00004000, SCTLR: on}, "", ""},
		{"not secure", registers{"SCR": 1, "SCTLR": on, "TTBR0_EL1": 1, "SCTLR_S": 0, "TTBR0_EL1_S": 2}, pt.ARM32{TTBR0: 1, SCTLR: on}, "", ""},
		{"secure", registers{"SCR": 0, "SCTLR": 0, "TTBR0_EL1": 1, "SCTLR_S": on, "TTBR0_EL1_S": 2, "HCR": 1}, pt.ARM32{TTBR0: 2, SCTLR: on}, "", ""},
		{"monitor", registers{"SCR": 1, "cpsr": monitor, "TTBR0_EL1": 1, "SCTLR_S": on, "TTBR0_EL1_S": 2}, pt.ARM32{TTBR0: 2, SCTLR: on}, "", ""},
		{"stage 2", registers{"SCTLR": on, "HCR": 1}, pt.ARM32{}, "", "stage 2 is on"},
		{"HCR.TGE", registers{"SCTLR": on, "HCR": 1 << 27}, pt.ARM32{}, "", "HCR.TGE is 1"},
		{"Hyp above", registers{"SCTLR": on, "cpsr": hyp, "SCTLR_EL2": on, "TTBR0_EL1": 1}, pt.ARM32{TTBR0: 1, SCTLR: on}, "the CPU is in Hyp mode; shown", ""},
		{"Hyp alone", registers{"cpsr": hyp, "SCTLR_EL2": on}, pt.ARM32{}, "", "the CPU is in Hyp mode, whose"},
		{"Hyp, off", registers{"cpsr": hyp, "SCTLR_EL2": 0}, pt.ARM32{}, "", ""},
		{"PXN", registers{"SCTLR": on, "ID_MMFR0": 0x10201104}, pt.ARM32{SCTLR: on, PXN: true}, "", ""},
		{"no PXN", registers{"SCTLR": on, "ID_MMFR0": 0x10201103}, pt.ARM32{SCTLR: on}, "", ""},
	} {
		a, note, err := arm32Regime(tt.v)
		says := ""
		if err != nil {
			says = err.Error()
		}
		if a.TTBCR = 0; err == nil && a != tt.want || !strings.HasPrefix(says, tt.err) || (err == nil) != (tt.err == "") ||
			!strings.HasPrefix(note, tt.note) || (note == "") != (tt.note == "") {
			t.Errorf("%s: %+v, %q, %v", tt.name, a, note, err)
		}
	}
}

// TestLinuxARM32: Debian's kernels with short descriptors, and with long ones.
func TestLinuxARM32(t *testing.T) {
	for _, kernel := range []string{"armmp", "armmp-lpae"} {
		t.Run(kernel, func(t *testing.T) {
			addr := bootLinux(t, "qemu-system-arm", kernel, "", "console=ttyAMA0", "-M", "virt", "-cpu", "cortex-a15", "-m", "512")
			wish := Auto
			d := connect(t, addr, &wish)
			d.Lines("hbreak *0xffff0018", "continue") // an interrupt: gva2gpa goes by what the mode may access
			m, err := d.Map(d.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			text := false
			for _, r := range m.Mappings {
				if r.Paged.Kernel == "rwx" {
					t.Errorf("the kernel may write and execute %+v", r)
				}
				text = text || r.Start >= 0xc0000000 && r.Paged.Kernel == "r-x" && r.Paged.User == "---" && r.Size > 4<<20
			}
			if !text || m.AddressBits != 32 || strings.Contains(m.From.Place, "root register 0x0") {
				t.Errorf("text %v, %d bits, from %v", text, m.AddressBits, m.From)
			}
			d.alike(m)
			pages, err := d.PageTables(d.Ctx, TableOptions{PTE: true})
			if err != nil {
				t.Fatal(err)
			}
			// While the kernel runs it may have closed the user's domain, which
			// gva2gpa goes by.
			pages.Mappings = slices.DeleteFunc(pages.Mappings, func(r vm.Mapping) bool {
				_, domain, _ := strings.Cut(r.Paged.Flags, "DOMAIN=")
				return domain != "" && strings.Contains(strings.Join(pages.Rules, " "), "domain "+domain+" allows none now")
			})
			d.translates(pages)
			d.Lines("kill")
		})
	}
}
