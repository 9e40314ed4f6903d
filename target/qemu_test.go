package target

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/target/gdb"
	"dbgsh/target/qemusys"
	"dbgsh/vm"
)

// TestMachine is what the target itself does for a machine in QEMU; what its
// source does is tested there.
func TestMachine(t *testing.T) {
	qemu := testkit.StartQEMU(t, "qemu-system-x86_64", "", "-m", "16", "-S")
	wish := qemusys.Auto
	d := launch(t, 5*time.Minute, Config{Config: gdb.Config{GDB: "gdb-multiarch"}, KernelMap: func() qemusys.Wish { return wish }})
	d.gdbLines("target remote " + qemu.Addr)
	v, err := d.View(d.ctx)
	if err != nil || v.Kind != KindQEMUSystem {
		t.Fatalf("kind is %v, %v", v.Kind, err)
	}
	m, err := d.Map(d.ctx)
	if err != nil || !slices.ContainsFunc(m.Mappings, func(m vm.Mapping) bool { return m.Name == "[pc.ram]" }) {
		t.Errorf("%+v, %v", m, err)
	}
	if st, err := d.Status(d.ctx); err != nil || st.MapFrom != "info mtree of QEMU's monitor" {
		t.Errorf("%+v, %v", st, err)
	}
	// What was explored is a part of this map, too.
	if _, _, err := d.Explore(d.ctx, 0x7000, 0x1000); err != nil {
		t.Error(err)
	}
	if m, err := d.PageTables(d.ctx, TableOptions{PTE: true}); err != nil || !slices.ContainsFunc(m.Mappings, func(m vm.Mapping) bool { return m.Source == vm.SourceExplored && m.Start == 0x7000 }) {
		t.Errorf("%+v, %v", m, err)
	}
	// A setting is looked at once a view.
	wish = qemusys.None
	d.Changed()
	if m, err := d.Map(d.ctx); err != nil || len(m.Mappings) != 1 || len(m.Unlisted()) != 1 { // what was explored
		t.Errorf("%+v, %v", m, err)
	}
	wish = qemusys.Auto
	// Another monitor resets the machine, of which GDB is not told.
	d.gdbLines("set $pc=0x1234", "set $cr0=0x80050033ULL")
	if m, err := d.Map(d.ctx); err != nil || slices.ContainsFunc(m.Mappings, func(m vm.Mapping) bool { return m.Name == "[pc.ram]" }) {
		t.Errorf("%+v, %v", m, err)
	}
	qemu.Monitor(t, "system_reset")
	testkit.WaitFor(t, "reset", func() bool { return strings.Contains(qemu.Monitor(t, "info registers"), "CR0=60000010") })
	if pc, _, err := d.Evaluate(d.ctx, "$pc"); err != nil || pc != 0xfff0 {
		t.Errorf("pc is %#x, %v", pc, err)
	}
	if m, err := d.Map(d.ctx); err != nil || !slices.ContainsFunc(m.Mappings, func(m vm.Mapping) bool { return m.Name == "[pc.ram]" }) {
		t.Errorf("%+v, %v", m, err)
	}
	d.gdbLines("disconnect")
	if _, err := d.Physical(d.ctx); !errors.Is(err, ErrNoPageTables) {
		t.Error(err)
	}
}

// A machine that is gone is lost, whatever is asked, and not "no process".
func TestMachineIsLost(t *testing.T) {
	ask := map[string]func(d *debuggee) error{
		"map":      func(d *debuggee) error { _, err := d.Map(d.ctx); return err },
		"walk":     func(d *debuggee) error { _, err := d.PageWalk(d.ctx, 0, nil); return err },
		"physical": func(d *debuggee) error { _, err := d.Physical(d.ctx); return err },
		"explore":  func(d *debuggee) error { _, _, err := d.Explore(d.ctx, 0x1000, 0x1000); return err },
		"evaluate": func(d *debuggee) error { _, _, err := d.Evaluate(d.ctx, "$sp"); return err },
	}
	for first := range ask {
		t.Run(first, func(t *testing.T) {
			qemu := testkit.StartQEMU(t, "qemu-system-x86_64", "", "-m", "16", "-S")
			d := launch(t, 5*time.Minute, Config{Config: gdb.Config{GDB: "gdb-multiarch"}})
			d.gdbLines("target remote " + qemu.Addr)
			if err := ask[first](d); err != nil && first != "walk" {
				t.Error(err)
			}
			if err := qemu.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			testkit.WaitGone(t, qemu.Process.Pid)
			for _, what := range []string{first, "map", "walk", "physical", "explore", "evaluate"} {
				var lost *LostError
				if err := ask[what](d); !errors.As(err, &lost) || lost.What == "GDB" {
					t.Errorf("%s: %v", what, err)
				}
			}
			d.gdbLines("echo on\\n")
			if err := ask["map"](d); !errors.Is(err, vm.ErrNoProcess) {
				t.Errorf("after a line: %v", err)
			}
		})
	}
}
