package vm

import (
	"context"
	"errors"
	"testing"
)

type fakeMapper struct {
	m   *Map
	err error
}

func (f *fakeMapper) Map(context.Context) (*Map, error) { return f.m, f.err }

func TestOverlay(t *testing.T) {
	ctx := context.Background()
	src := &fakeMapper{m: exampleMap()}
	src.m.Live, src.m.From = true, Origin{Source: SourceRemote, Place: "somewhere"}
	o := NewOverlay(src)
	get := func() *Map {
		t.Helper()
		m, err := o.Map(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if get() != src.m {
		t.Error("nothing was added, and the map is another")
	}
	overlaps, err := o.Add(get(), Mapping{Range: Range{0x400800, 0x2000}, Name: "mine"}, Mapping{Range: Range{0x10, 1}})
	if err != nil || len(overlaps) != 1 || overlaps[0].Count != 2 || overlaps[0].Over.Start != 0x400000 {
		t.Errorf("got %+v, %v", overlaps, err)
	}
	m := get()
	if len(m.Mappings) != 8 || m.Mappings[0].Start != 0x10 || len(src.m.Mappings) != 6 {
		t.Errorf("after Add: %d mappings, %d of the source", len(m.Mappings), len(src.m.Mappings))
	}
	if !m.Live || m.From != src.m.From || m.AddressBits != src.m.AddressBits {
		t.Errorf("what holds of the source's map is lost: %+v", m)
	}
	if get() != m {
		t.Error("made anew for the same map of the source")
	}
	src.m = exampleMap()
	if again := get(); again == m || len(again.Mappings) != 8 || again.Live {
		t.Errorf("of another map of the source: %+v", again)
	}
	src.m, src.err = nil, ErrNoProcess
	if m := get(); len(m.Mappings) != 2 || len(m.Unlisted()) != 1 {
		t.Errorf("without a process: %+v", m)
	}
	for _, bad := range []Range{{0x1000, 0}, {1<<64 - 1, 2}} {
		if _, err := o.Add(nil, Mapping{Range: Range{1, 1}}, Mapping{Range: bad}); err == nil {
			t.Errorf("%v was added", bad)
		}
	}
	if n := o.ClearAdded(); n != 2 {
		t.Errorf("%d dropped", n)
	}
	if _, err := o.Map(ctx); !errors.Is(err, ErrNoProcess) {
		t.Errorf("got %v", err)
	}
}
