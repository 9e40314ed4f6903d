// Package testgdb is a GDB for tests, for those packages that work with one.
package testgdb

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/target/gdb"
	"dbgsh/target/mi"
)

// Main is TestMain of a package whose tests start GDB.
func Main(m *testing.M) {
	if mi.IsRelay() {
		os.Exit(mi.RelayMain())
	}
	os.Exit(m.Run())
}

// GDB is a GDB that lives as long as the test.
type GDB struct {
	*gdb.GDB
	T   testing.TB
	Ctx context.Context // ends with the test, or before
	Out *testkit.Buffer // what the inferior writes, and GDB where nobody asked
}

// Start starts a GDB, for a time at most.
func Start(t testing.TB, most time.Duration, cfg gdb.Config) *GDB {
	t.Helper()
	return Run(t, most, cfg, func(cfg gdb.Config) (*gdb.GDB, func(context.Context) error, error) {
		g, err := gdb.New(cfg)
		if err != nil {
			return nil, nil, err
		}
		return g, g.Close, nil
	})
}

// Run is Start for what has a GDB: open makes both, and says how they are closed.
func Run(t testing.TB, most time.Duration, cfg gdb.Config,
	open func(gdb.Config) (g *gdb.GDB, shut func(context.Context) error, err error),
) *GDB {
	t.Helper()
	if cfg.GDB == "" {
		testkit.Need(t, "gdb")
	} else {
		testkit.Need(t, cfg.GDB)
	}
	ctx, cancel := context.WithTimeout(context.Background(), most)
	out := &testkit.Buffer{}
	cfg.Inferior, cfg.Stray = out, out
	g, shut, err := open(cfg)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shut(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		cancel()
	})
	if err := g.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.Load(ctx); err != nil {
		t.Fatal(err)
	}
	return &GDB{GDB: g, T: t, Ctx: ctx, Out: out}
}

// Lines runs lines and returns what GDB prints of them.
func (g *GDB) Lines(lines ...string) string {
	g.T.Helper()
	var b bytes.Buffer
	for _, l := range lines {
		if err := g.Console(g.Ctx, l, &b); err != nil {
			g.T.Fatalf("%s: %v\n%s", l, err, b.String())
		}
	}
	return b.String()
}
