package target

import (
	"context"

	"dbgsh/target/qemusys"
	"dbgsh/target/qemuuser"
	"dbgsh/vm"
)

func openQEMUUser(v *View) source {
	wish := qemuuser.Auto
	if f := v.t.cfg.QEMUUserMap; f != nil {
		wish = f()
	}
	return qemuuser.New(qemuuser.Config{GDB: v.t.GDB, Thread: v.Inferior.Thread, Wish: wish, Arch: v.Arch})
}

func openQEMUSystem(v *View) source {
	wish := qemusys.Auto
	if f := v.t.cfg.KernelMap; f != nil {
		wish = f()
	}
	return qemusys.New(qemusys.Config{
		GDB: v.t.GDB, Conn: v.Inferior.Conn, Inferior: v.Inferior.ID, Process: v.Inferior.PID, Thread: v.Inferior.Thread,
		Wish: wish, Machines: &v.t.kept.machines, FindPeer: v.t.findPeer,
		Declared: func(ctx context.Context) (*vm.Map, error) { return declared(ctx, v) },
	})
}
