package qemusys

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
)

// enterSMM starts a PC whose SMRAM, at 0xa0000, holds an image, and has its CPU
// enter system management mode, from which it does not return.
func enterSMM(t testing.TB, image *fakeImage) *debuggee {
	t.Helper()
	const (
		smram, open, closed = 0x72, 0x4a, 0x0a // of the host bridge (Intel 440FX, "SMRAM")
		pm                  = 1<<3 | 3         // the PIIX4's power management function
		enable, apmc        = 0x5b, 0x02       // in it (Intel PIIX4, "DEVACTB")
	)
	qemu := testkit.StartQEMU(t, "qemu-system-x86_64", "", "-m", "16", "-S")
	wish := Auto
	d := connect(t, qemu.Addr, &wish)
	configure(t, qemu, 0, smram, open)
	for i := 0; i < len(image.b); i += 8 {
		if v := fmt.Sprintf("%x", image.b[i:i+8]); strings.Trim(v, "0") != "" {
			d.Lines(fmt.Sprintf("set {unsigned char[8]}%#x={0x%x,0x%x,0x%x,0x%x,0x%x,0x%x,0x%x,0x%x}", append([]any{image.base + uint64(i)}, bytesOf(image.b[i:i+8])...)...))
		}
	}
	configure(t, qemu, 0, smram, closed)
	configure(t, qemu, pm, enable, apmc)
	if m, err := d.Map(d.Ctx); err != nil || smmNote(m.About()) {
		t.Errorf("before: %q, %v", m.About(), err)
	}
	qemu.Monitor(t, "o /b 0xb2 0")
	d.Lines("maint packet Qqemu.sstep=0x1") // with interrupts
	for range 3 {                           // a CPU that was reset needs two
		d.Lines("stepi")
		if strings.Contains(qemu.Monitor(t, "info registers"), "SMM=1") {
			return d
		}
	}
	t.Fatal("the CPU does not enter system management mode")
	return d
}

func bytesOf(b []byte) (all []any) {
	for _, c := range b {
		all = append(all, c)
	}
	return all
}

func smmNote(notes []string) bool {
	return slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, "system management mode (SMM)") })
}

// In system management mode a CPU sees memory that nobody else does: its tables,
// its code and what they map.
func TestSystemManagementMode(t *testing.T) {
	const base, secret, va = 0xa0000, 0xa5008, 0x4008
	tables := &fakeImage{base: base}
	tables.put(base, 0, 0xa1000|xP|xW)
	tables.put(0xa1000, 0, 0xa2000|xP|xW)
	tables.put(0xa2000, 0, 0xa3000|xP|xW)
	tables.put(0xa2000, 1, 0x200000|xP|xW|xPS)
	tables.put(0xa3000, va>>12, secret&^0xfff|xP|xW)
	tables.put(0xa3000, 7, 0x7000|xP)
	tables.put(secret, 0, 0x6e6f656c65656e3c) // "<neeleon"
	d := enterSMM(t, tables)

	m, err := d.Map(d.Ctx)
	if err != nil || !smmNote(m.About()) || !strings.Contains(m.About()[0], "paging is off") {
		t.Fatalf("%q, %v", m.About(), err)
	}
	if !slices.ContainsFunc(m.Mappings, func(r vm.Mapping) bool { return r.Contains(base) && r.Name == "[pc.ram]" }) {
		t.Errorf("SMRAM is not in %q", shown(m))
	}

	d.Lines(fmt.Sprintf("set $cr3=%#xULL", base), "set $cr4=0x20ULL", "set $efer=0xd00ULL", "set $cr0=0x80050033ULL")
	rows := []string{"4000-5000 rwx kernel", "7000-8000 r-x kernel", "200000-400000 rwx kernel"}
	if m, err = d.Map(d.Ctx); err != nil || !smmNote(m.About()) {
		t.Errorf("%q, %v", m.About(), err)
	}
	same(t, "tables in SMRAM", shown(m), rows)
	pages, err := d.PageTables(d.Ctx, TableOptions{PTE: true})
	if err != nil {
		t.Fatal(err)
	}
	d.translates(pages)
	if path, err := d.PageWalk(d.Ctx, va, nil); err != nil || path.Phys != secret || !smmNote(path.Notes) {
		t.Errorf("%+v, %v", path, err)
	}
	mem, err := d.Memory(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, res := d.hitsOf(mem, m.Mappings, "<neeleon"); !slices.Equal(got, []uint64{va}) || !smmNote(mem.(vm.Noter).Notes()) {
		t.Errorf("found at %x: %+v", got, res)
	}
	mem.Close()
	p, err := d.Physical(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	if at, _ := d.hitsOf(p, p.Map.Mappings, "<neeleon"); !slices.Equal(at, []uint64{secret}) {
		t.Errorf("in physical memory at %x", at)
	}
	p.Close()

	// The stub's physical mode does not reach it, and would read a device there.
	d.throughStub(true)
	m, err = d.Map(d.Ctx)
	if err != nil || len(m.Mappings) != 0 || !smmNote(m.About()) || len(m.Unlisted()) != 1 || !strings.Contains(m.Unlisted()[0], "seen only in system management mode") {
		t.Errorf("through the stub: %q, %q, %v", shown(m), m.About(), err)
	}
	d.throughStub(false)

	// Tables that all see, and code that only this mode does.
	d.Lines("set $cr0=0x50033ULL", "set {unsigned long}0x8000=0x9000|3", "set {unsigned long}0x9000=0xa000|3", "set {unsigned long}0xa000=0xb000|3",
		fmt.Sprintf("set {unsigned long}0xb000=%#x|3", secret&^0xfff), "set {unsigned long}0xb008=0x7000|3",
		"set $cr3=0x8000ULL", "set $cr4=0x20ULL", "set $efer=0xd00ULL", "set $cr0=0x80050033ULL")
	for pc, managed := range map[string]bool{"0x10": true, "0x1010": false} {
		d.Lines("set $pc=" + pc)
		if m, err = d.Map(d.Ctx); err != nil || smmNote(m.About()) != managed {
			t.Errorf("code at %s: %q, %v", pc, m.About(), err)
		}
		same(t, "code at "+pc, shown(m), []string{"0-2000 rwx kernel"})
	}
}
