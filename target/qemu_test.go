package target

import (
	"errors"
	"slices"
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
	addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-m", "16", "-S")
	wish := qemusys.Auto
	d := launch(t, 5*time.Minute, Config{Config: gdb.Config{GDB: "gdb-multiarch"}, KernelMap: func() qemusys.Wish { return wish }})
	d.gdbLines("target remote " + addr)
	v, err := d.View(d.ctx)
	if err != nil || v.Kind != KindQEMUSystem {
		t.Fatalf("kind is %v, %v", v.Kind, err)
	}
	m, err := d.Map(d.ctx)
	if err != nil || !slices.ContainsFunc(m.Mappings, func(m vm.Mapping) bool { return m.Name == "[pc.ram]" }) {
		t.Errorf("%+v, %v", m, err)
	}
	if st, err := d.Status(d.ctx); err != nil || st.Map != "info mtree of QEMU's monitor" {
		t.Errorf("%+v, %v", st, err)
	}
	// A setting is looked at once a view.
	wish = qemusys.None
	d.Forget()
	if m, err := d.Map(d.ctx); err != nil || len(m.Mappings) != 0 || len(m.Unlisted()) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	d.gdbLines("disconnect")
	if _, err := d.Physical(d.ctx); !errors.Is(err, ErrNoPageTables) {
		t.Error(err)
	}
}
