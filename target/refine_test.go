package target

import (
	"context"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// Where nearly every place is a hit, a stub is asked only for those wanted.
func TestSearchBehindGDBServerStops(t *testing.T) {
	prog := testkit.BuildC(t, "oddmaps")
	d := start(t, prog)
	d.gdbLines("target remote "+serve(t, prog, t.TempDir()), "break ready", "continue")
	m, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := d.Memory(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	zeros, err := search.NewBytes(make([]byte, 4))
	if err != nil {
		t.Fatal(err)
	}
	progress := 0
	o := search.Options{Matcher: zeros, Limit: 3, Progress: func(uint64, uint64) { progress++ }}
	got, err := search.Scan(d.ctx, mem, m.Mappings, o)
	if err != nil || got.Partial != nil || got.Count != 3 || !got.LimitReached || progress == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	o.Limit = 0
	o.Progress = func(done, _ uint64) {
		if progress++; done > 0 {
			cancel()
		}
	}
	got, err = search.Scan(ctx, mem, m.Mappings, o)
	if err != nil || got.Partial == nil || got.Count == 0 {
		t.Errorf("interrupted: %+v, %v", got, err)
	}
}

// Without a program pages that the user added are not all asked for one by one.
func TestSearchAddedPagesWithoutProcess(t *testing.T) {
	d := start(t, "")
	mem, err := d.Memory(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	needle, err := search.NewBytes([]byte("zq"))
	if err != nil {
		t.Fatal(err)
	}
	added := vm.Mapping{Range: vm.Range{Start: 0x100000, Size: 256 << 20}, Source: vm.SourceUser}
	got, err := search.Scan(d.ctx, mem, []vm.Mapping{added}, search.Options{Matcher: needle})
	if err != nil || got.Partial != nil || len(got.Unread) != 1 || got.Unread[0].Range != added.Range {
		t.Fatalf("%+v, %v", got, err)
	}
	if len(got.Notes) == 0 {
		t.Error("every page was tried")
	}
}
