package target

import (
	"context"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/internal/testkit/testgdb"
	"dbgsh/target/gdb"
)

func TestMain(m *testing.M) { testgdb.Main(m) }

// debuggee is a target under test.
type debuggee struct {
	*Target
	t   testing.TB
	ctx context.Context
	out *testkit.Buffer // what the inferior writes
	gdb *testgdb.GDB
}

// start starts a GDB on a program, which may be "".
func start(t testing.TB, program string, args ...string) *debuggee {
	t.Helper()
	return launch(t, time.Minute, Config{Config: gdb.Config{Program: program, Args: args}})
}

// launch starts a GDB, for a time at most.
func launch(t testing.TB, most time.Duration, c Config) *debuggee {
	t.Helper()
	d := &debuggee{t: t}
	d.gdb = testgdb.Run(t, most, c.Config, func(cfg gdb.Config) (*gdb.GDB, func(context.Context) error, error) {
		c.Config = cfg
		tgt, err := New(c)
		if err != nil {
			return nil, nil, err
		}
		d.Target = tgt
		return tgt.GDB, tgt.Close, nil
	})
	d.ctx, d.out = d.gdb.Ctx, d.gdb.Out
	return d
}

// gdbLines runs lines and returns what GDB prints of them.
func (d *debuggee) gdbLines(lines ...string) string {
	d.t.Helper()
	return d.gdb.Lines(lines...)
}
