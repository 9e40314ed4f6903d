package target

import (
	"context"
	"errors"
	"io"
	"testing"

	"dbgsh/target/gdb"
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
func (s *fakeSource) Describe(context.Context) (int, string)    { return 0, "" }

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
	// What is explored is seen at once, sorted in, and one with what it overlaps.
	tgt.kept.addExplored(vm.Mapping{Range: vm.Range{Start: 0x1000, Size: 0x2000}})
	rows(2, 4)
	tgt.kept.addExplored(vm.Mapping{Range: vm.Range{Start: 0x2000, Size: 0x2000}})
	rows(2, 4)
	if m, err := v.Map(ctx); err != nil || (m.Mappings[0].Range != vm.Range{Start: 0x1000, Size: 0x3000}) {
		t.Errorf("%+v, %v", m, err)
	}
	tgt.kept.forget(7) // another process
	rows(1, 4)
	v.Kind = KindQEMUSystem // which others run, too
	v.read, v.whole = nil, nil
	rows(1, 5)
	rows(1, 6)
	v.Kind = KindNone
	done, cancel := context.WithCancel(ctx)
	cancel()
	v.mapTurn <- struct{}{} // somebody reads the map
	if _, err := v.Map(done); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for the map: %v", err)
	}
}
