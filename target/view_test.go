package target

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/target/gdb"
	"dbgsh/target/proc"
	"dbgsh/vm"
)

// fakeSource is a source with one mapping.
type fakeSource struct {
	calls int
	err   error
	live  bool
}

func (s *fakeSource) Map(context.Context) (*vm.Map, error) {
	s.calls++
	return &vm.Map{AddressBits: 64, Live: s.live, Mappings: []vm.Mapping{{Range: vm.Range{Start: 0x5000, Size: 0x1000}}}}, s.err
}
func (s *fakeSource) Memory(context.Context) (vm.Memory, error) { return nil, errors.ErrUnsupported }

// TestViewMap is the one rule of freshness: a view asks its source once, unless
// the debuggee runs or there is an error.
func TestViewMap(t *testing.T) {
	ctx := context.Background()
	tgt, err := New(Config{Config: gdb.Config{Inferior: io.Discard}})
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close(ctx)
	src := &fakeSource{err: vm.ErrNoProcess}
	v := &View{t: tgt, source: src, mapTurn: make(chan struct{}, 1)}
	rows := func(want, calls int) {
		t.Helper()
		m, err := v.Map(ctx)
		if err != nil || len(m.Mappings) != want || src.calls != calls {
			t.Errorf("%+v, %v after %d calls; want %d rows after %d", m, err, src.calls, want, calls)
		}
	}
	if _, err := v.Map(ctx); !errors.Is(err, vm.ErrNoProcess) {
		t.Errorf("got %v", err)
	}
	src.err, src.live = nil, true
	rows(1, 2)
	rows(1, 3)
	src.live = false
	rows(1, 4)
	rows(1, 4)
	v.Inferior.PID = 7
	// What is explored is seen at once, sorted in, and one with what it overlaps.
	tgt.kept.addExplored(v.key(), vm.Mapping{Range: vm.Range{Start: 0x1000, Size: 0x2000}})
	rows(2, 4)
	tgt.kept.addExplored(v.key(), vm.Mapping{Range: vm.Range{Start: 0x2000, Size: 0x2000}})
	rows(2, 4)
	if m, err := v.Map(ctx); err != nil || (m.Mappings[0].Range != vm.Range{Start: 0x1000, Size: 0x3000}) {
		t.Errorf("%+v, %v", m, err)
	}
	// A source that has no map any more leaves what was explored.
	src.err = errors.New("no map today")
	failing := &View{t: tgt, source: src, Inferior: v.Inferior, mapTurn: make(chan struct{}, 1)}
	m, err := failing.Map(ctx)
	if err != nil || len(m.Mappings) != 1 || m.Live || len(m.Unlisted()) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	src.err = nil
	// Another process of this inferior, or of another one, has nothing explored.
	other := &View{t: tgt, source: src, Inferior: gdb.Inferior{ID: 2, PID: 8}, mapTurn: make(chan struct{}, 1)}
	if err := tgt.kept.prune(other, gdb.Stamp{Processes: 1}); err != nil {
		t.Error(err)
	}
	if m, err := other.Map(ctx); err != nil || len(m.Mappings) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	rows(2, 6)
	if err := tgt.kept.prune(&View{Inferior: gdb.Inferior{PID: 9}}, gdb.Stamp{Processes: 2}); err != nil {
		t.Error(err)
	}
	rows(1, 6)
	v.Kind = KindQEMUSystem // which others run, too
	v.read, v.whole = nil, nil
	rows(1, 7)
	rows(1, 8)
	v.Kind = KindNone
	done, cancel := context.WithCancel(ctx)
	cancel()
	v.mapTurn <- struct{}{} // somebody reads the map
	if _, err := v.Map(done); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for the map: %v", err)
	}
}

// TestViewIsOfNow: a view is one and the same until something changes, and what
// changes while it is made shows in the next one.
func TestViewIsOfNow(t *testing.T) {
	d := start(t, testkit.BuildC(t, "tour"))
	d.gdbLines("break checkpoint", "run")
	look := func() *View {
		t.Helper()
		v, err := d.View(d.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	first := look()
	if look() != first {
		t.Error("another view though nothing has changed")
	}
	if _, _, err := d.Evaluate(d.ctx, "counter+1"); err != nil || look() != first {
		t.Errorf("looking at an expression drops the view: %v", err)
	}
	m, err := first.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := d.Map(d.ctx); err != nil || again != m {
		t.Errorf("the map is read again: %v", err)
	}
	for _, line := range []string{"echo on\\n", "stepi", "thread 1", "set var counter = 5"} {
		before := look()
		d.gdbLines(line)
		if look() == before {
			t.Errorf("the view outlives %s", line)
		}
	}
	stale := d.Stamp()
	d.Changed()
	v, err := d.look(d.ctx, stale) // as if that had come in the middle
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.view = v
	d.mu.Unlock()
	if look() == v {
		t.Error("a view that was stale before it was made is kept")
	}
	d.gdbLines("kill")
	if v := look(); v.Kind != KindNone {
		t.Errorf("after kill: %v", v.Kind)
	}
}

// TestRunningIsAskedAnew: of a debuggee that runs nothing is kept, since GDB is
// not told when it executes another program.
func TestRunningIsAskedAnew(t *testing.T) {
	other := testkit.BuildText(t, "gcc", "other.c", `#include <unistd.h>
int main(void) { write(1, "other\n", 6); for (;;) pause(); }
`, "-static")
	prog := testkit.BuildText(t, "gcc", "execs.c", `#include <unistd.h>
int main(int n, char **v) { write(1, "first\n", 6); char c; read(0, &c, 1); execl(v[1], v[1], (char *)0); return 1; }
`)
	d := start(t, prog, other)
	d.gdbLines("starti", "continue &")
	testkit.WaitFor(t, "start", func() bool { return strings.Contains(d.out.String(), "first") })
	if st, err := d.Status(d.ctx); err != nil || st.Program != prog || !st.Running || !st.Map.Live {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := d.Keyboard(d.ctx, []byte("x\n")); err != nil {
		t.Fatal(err)
	}
	testkit.WaitFor(t, "exec", func() bool { return strings.Contains(d.out.String(), "other") })
	if st, err := d.Status(d.ctx); err != nil || st.Program != other {
		t.Errorf("%+v, %v", st, err)
	}
	d.gdbLines("interrupt")
}

// TestKilledFromOutside: GDB is not told when somebody kills a stopped process.
func TestKilledFromOutside(t *testing.T) {
	d := start(t, testkit.BuildC(t, "tour"))
	d.gdbLines("break checkpoint", "run")
	if _, err := d.Map(d.ctx); err != nil {
		t.Fatal(err)
	}
	v, err := d.View(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	pid := v.Inferior.PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.WaitFor(t, "the end of its memory", func() bool {
		text, err := os.ReadFile(proc.Path(pid, "maps"))
		return err != nil || len(text) == 0
	})
	const want = "has exited"
	if m, err := d.Map(d.ctx); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%+v, %v", m, err)
	}
	if st, err := d.Status(d.ctx); err != nil || st.Map != nil || !strings.Contains(st.MapFrom, want) {
		t.Errorf("%+v, %v", st, err)
	}
}
