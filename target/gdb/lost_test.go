package gdb_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/target/gdb"
	"dbgsh/vm"
)

// TestLost: GDB drops a connection that broke, and speaks of other things from
// then on. Whatever is asked first, it is the loss that is told, until GDB is
// given a line.
func TestLost(t *testing.T) {
	prog := testkit.BuildC(t, "tour")
	for _, first := range []string{"query", "packet", "memory", "inferior", "nothing of the stub"} {
		t.Run(first, func(t *testing.T) {
			addr, server := testkit.GDBServer(t, prog)
			d := start(t, gdb.Config{})
			d.Lines("target remote " + addr)
			if err := server.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			testkit.WaitGone(t, server.Process.Pid)
			mem := gdb.NewMemory(d.GDB, true)
			lost := func(what string, err error) {
				t.Helper()
				var gone *gdb.LostError
				if !errors.As(err, &gone) || gone.What != "the target" || !errors.Is(err, vm.ErrProcessGone) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: %v", what, err)
				}
			}
			ask := func(what string) {
				var err error
				switch what {
				case "query":
					_, err = d.Query(d.Ctx, "x/x $sp+0x100000")
				case "packet":
					_, err = d.Packet(d.Ctx, "qqemu.PhyMemMode")
				case "memory":
					_, err = mem.ReadMemory(d.Ctx, make([]byte, 1<<16), 0x1000)
				case "inferior":
					_, err = d.Inferior(d.Ctx)
				default:
					if _, err := d.Query(d.Ctx, "info line nosuch"); err == nil || errors.As(err, new(*gdb.LostError)) && !strings.Contains(err.Error(), "ended") {
						t.Errorf("%s: %v", what, err)
					}
					return
				}
				lost(what, err)
			}
			ask(first)
			for _, what := range []string{"memory", "query", "packet"} {
				ask(what)
			}
			lost("Lost", d.Lost())
			if text, err := d.Query(d.Ctx, "show version"); err != nil || text == "" {
				t.Errorf("a question that needs no debuggee: %q, %v", text, err)
			}
			if err := d.Console(d.Ctx, "echo on\\n", &testkit.Buffer{}); err != nil || d.Lost() != nil {
				t.Errorf("after a line: %v, %v", err, d.Lost())
			}
			if _, err := d.Packet(d.Ctx, "qqemu.PhyMemMode"); err == nil || errors.As(err, new(*gdb.LostError)) {
				t.Errorf("after a line: %v", err)
			}
		})
	}
}

// TestRefresh: the registers are those of the debuggee, and the selected frame and
// everything else is as it was.
func TestRefresh(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "deep.c", "int inner(int n) { return n + 1; } int middle(int n) { return inner(n) + 1; } int main(void) { return middle(1); }")
	d := start(t, gdb.Config{Program: prog})
	if pc, ok, err := d.Refresh(d.Ctx); err != nil || ok {
		t.Errorf("without a process: %#x, %v, %v", pc, ok, err)
	}
	d.Lines("break inner", "run")
	for _, frame := range []string{"0", "1", "2"} {
		d.Lines("frame " + frame)
		before, stamp := d.Lines("info frame"), d.Stamp()
		pc, ok, err := d.Refresh(d.Ctx)
		if d.Stamp() != stamp {
			t.Errorf("frame %s: what is known is dropped", frame)
		}
		want, _, evalErr := d.Evaluate(d.Ctx, "$pc")
		if err != nil || evalErr != nil || !ok || pc != want {
			t.Errorf("frame %s: pc %#x, want %#x: %v, %v, %v", frame, pc, want, ok, err, evalErr)
		}
		if after := d.Lines("info frame"); after != before {
			t.Errorf("frame %s:\n%s\nthen\n%s", frame, before, after)
		}
	}
	done, cancel := context.WithCancel(d.Ctx)
	cancel()
	if _, _, err := d.Refresh(done); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
