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

// monitorCR3 is CR3 as QEMU's monitor has it.
var monitorCR3 = regexp.MustCompile(`CR3=([0-9a-f]+)`)

// flipping starts a machine that has two roots of its tables, 32-bit ones, and a
// program that loads one after the other: what is mapped at 4 MiB under the first
// is mapped at 8 MiB under the second.
func flipping(t testing.TB) (*debuggee, *testkit.Emulator) {
	t.Helper()
	const first, second, code = 0x100000, 0x108000, 0x3f0000
	m := &fakeImage{base: first}
	m.put32(first, 1, 0x400000|xP|xW|xPS)
	m.put32(second, 2, 0x400000|xP|xW|xPS)
	for _, root := range []uint64{first, second} {
		m.put32(root, 1023, 0|xP|xW|xPS) // the CPU begins in the segment at 0xffff0000
	}
	m.b = append(m.b, make([]byte, code-m.base-uint64(len(m.b)))...)
	m.b = append(m.b, 0x0f, 0x22, 0xd8, 0x93, 0xeb, 0xfa) // mov %eax,%cr3; xchg %ax,%bx; jmp to the first
	qemu := testkit.StartQEMU(t, "qemu-system-x86_64", "", "-m", "16", "-S", "-device", m.file(t))
	wish := Auto
	d := connect(t, qemu.Addr, &wish)
	d.Lines(fmt.Sprintf("set $cr3=%#xULL", first), "set $cr4=0x10ULL", "set $cr0=0x80050033ULL",
		fmt.Sprintf("set $rax=%#x", first), fmt.Sprintf("set $rbx=%#x", second), "set $pc=0")
	return d, qemu
}

// flipped is the map of the root that the monitor says is loaded.
func flipped(t testing.TB, qemu *testkit.Emulator) (cr3 string, rows []string) {
	t.Helper()
	cr3 = monitorCR3.FindStringSubmatch(qemu.Monitor(t, "info registers"))[1]
	rows = []string{"400000-800000 rwx kernel", "ffc00000-100000000 rwx kernel"}
	if strings.HasSuffix(cr3, "108000") {
		rows[0] = "800000-c00000 rwx kernel"
	}
	return cr3, rows
}

func ranNote(notes []string) bool {
	return slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, "without GDB being told") })
}

// Whatever another monitor does to the machine, the next look sees it as it is.
func TestMachineIsRunByOthers(t *testing.T) {
	d, qemu := flipping(t)
	seen := map[string]bool{}
	testkit.WaitFor(t, "both roots", func() bool {
		if _, err := d.Map(d.Ctx); err != nil { // GDB has the registers
			t.Fatal(err)
		}
		qemu.QMP(t, `{"execute": "cont"}`)
		qemu.QMP(t, `{"execute": "stop"}`)
		cr3, want := flipped(t, qemu)
		seen[cr3] = true
		m, err := d.Map(d.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "after cont and stop", shown(m), want)
		return len(seen) == 2
	})
	for _, look := range []struct {
		name string
		rows func() (notes []string, mapped bool)
	}{
		{"a walk", func() ([]string, bool) {
			path, err := d.PageWalk(d.Ctx, 0x400000, nil)
			if err != nil {
				t.Fatal(err)
			}
			return path.Notes, path.End == pt.Mapped
		}},
		{"memory", func() ([]string, bool) {
			mem, err := d.Memory(d.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer mem.Close()
			n, err := mem.ReadMemory(d.Ctx, make([]byte, 1), 0x400000)
			if err != nil {
				t.Fatal(err)
			}
			return mem.(vm.Noter).Notes(), n == 1
		}},
		{"physical memory", func() ([]string, bool) {
			p, err := d.Physical(d.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			at, _ := p.MappedAt(0x400000, 10)
			return p.Map.Notes, slices.Equal(at, []uint64{0x400000})
		}},
	} {
		clear(seen)
		testkit.WaitFor(t, "both roots", func() bool {
			qemu.QMP(t, `{"execute": "cont"}`)
			qemu.QMP(t, `{"execute": "stop"}`)
			cr3, want := flipped(t, qemu)
			seen[cr3] = true
			if _, mapped := look.rows(); mapped != strings.HasPrefix(want[0], "400000") {
				t.Fatalf("%s: mapped %v, with CR3 %s", look.name, mapped, cr3)
			}
			return len(seen) == 2
		})
	}

	// A machine that runs is paused by the first packet.
	qemu.QMP(t, `{"execute": "cont"}`)
	m, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, want := flipped(t, qemu)
	same(t, "after cont", shown(m), want)

	// By GDB's own monitor, too.
	for _, how := range []string{"qmp", "gdb"} {
		d.Lines("set $pc=0") // somewhere else than after a reset
		if how == "qmp" {
			qemu.Monitor(t, "system_reset")
		} else {
			d.Lines("monitor system_reset")
		}
		testkit.WaitFor(t, "reset", func() bool { return strings.Contains(qemu.Monitor(t, "info registers"), "CR0=60000010") })
		m, err = d.Map(d.Ctx)
		if err != nil || len(m.About()) < 2 || !strings.Contains(m.About()[0], "paging is off") || !ranNote(m.About()) {
			t.Errorf("after a reset by %s: %q, %v", how, m.About(), err)
		}
		// Once is enough: GDB knows by now.
		m, err = d.Map(d.Ctx)
		if err != nil || ranNote(m.About()) {
			t.Errorf("after a reset by %s, again: %q, %v", how, m.About(), err)
		}
		d.Lines("set $cr0=0x80050033ULL")
	}
}

// configure writes a byte of the configuration of a PC's PCI device (PCI Local Bus
// Specification, "Configuration Mechanism #1"), whose number is that of the
// device, 0 for the host bridge, and three bits for the function.
func configure(t testing.TB, qemu *testkit.Emulator, device, register, value int) {
	t.Helper()
	qemu.Monitor(t, fmt.Sprintf("o /w 0xcf8 %#x", 0x80000000|device<<8|register&^3))
	qemu.Monitor(t, fmt.Sprintf("o /b %#x %#x", 0xcfc+register&3, value))
}

// What is RAM below 1 MiB now may be ROM at the next look, and the reverse.
func TestMemoryBecomesROM(t *testing.T) {
	const root, pam, rom, ram = 0xd8000, 0x5d, 0x00, 0x33 // PAM4: 0xd8000 to 0xdffff (Intel 440FX)
	qemu := testkit.StartQEMU(t, "qemu-system-x86_64", "", "-m", "16", "-S")
	wish := Auto
	d := connect(t, qemu.Addr, &wish)
	for _, only := range []bool{false, true} {
		d.throughStub(only)
		configure(t, qemu, 0, pam, ram)
		d.Lines("set $cr0=0x50033ULL", fmt.Sprintf("set $cr3=%#xULL", root), "set $cr4=0x10ULL")
		for i, e := range []uint32{0x9000 | xP | xW, 0x400000 | xP | xW | xPS, 0xd9000 | xP | xU} {
			d.Lines(fmt.Sprintf("set {unsigned int}%#x=%#x", root+4*i, e))
		}
		d.Lines(fmt.Sprintf("set {unsigned int}%#x=%#x", 0xd9000, 0x5000|xP|xU), "set $cr0=0x80050033ULL")
		for round, kind := range []int{ram, rom, ram, rom} {
			configure(t, qemu, 0, pam, kind)
			oracle, _, err := ParseMonitorMem(qemu.Monitor(t, "info mem"))
			if err != nil {
				t.Fatal(err)
			}
			m, err := d.Map(d.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			same(t, fmt.Sprintf("round %d", round), withoutExec(m.Mappings), withoutExec(oracle))
			if mapped := slices.ContainsFunc(m.Mappings, func(r vm.Mapping) bool { return r.Start == 0x800000 }); mapped != (kind == ram) {
				t.Errorf("round %d: %q", round, shown(m))
			}
			path, err := d.PageWalk(d.Ctx, 0x800000, nil)
			if err != nil || (path.End == pt.Mapped) != (kind == ram) {
				t.Errorf("round %d: %+v, %v", round, path, err)
			}
		}
	}
}

// Memory that was plugged out, and other memory in at its place, is the other's.
func TestMemoryIsElsewhere(t *testing.T) {
	const dimm = 1 << 32
	root := &fakeImage{base: 0x100000}
	root.put(0x100000, 0, dimm|xP|xW)
	addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-cpu", "max", "-S", "-m", "16,slots=2,maxmem=1G", "-device", root.file(t),
		"-object", "memory-backend-ram,id=plugged,size=128M", "-device", "pc-dimm,memdev=plugged")
	wish := Auto
	d := connect(t, addr, &wish)
	d.Lines("maint packet Qqemu.PhyMemMode:1", fmt.Sprintf("maint packet M%x,1:%x", dimm, xPS|xP|xW), "maint packet Qqemu.PhyMemMode:0")
	d.fourLevels()
	want := []string{"0-40000000 rwx kernel"}
	for round := range 2 {
		m, err := d.Map(d.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprintf("round %d", round), shown(m), want)
		lay := d.machine().layout()
		moved := 0
		for key, host := range lay.hosts {
			if key.name == "plugged" {
				host.addr += 1 << 20 // as if other memory were there
				lay.hosts[key] = host
				moved++
			}
		}
		if moved != 1 {
			t.Errorf("%d blocks: %v", moved, lay.hosts)
		}
	}
	d.Lines("kill")
}
