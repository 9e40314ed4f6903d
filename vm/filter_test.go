package vm

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func exampleMap() *Map {
	return &Map{AddressBits: 64, Mappings: []Mapping{
		{Range: Range{0x400000, 0x1000}, Perm: letters("r--p"), Name: "/bin/prog"},
		{Range: Range{0x401000, 0x1000}, Perm: letters("r-xp"), Name: "/bin/prog"},
		{Range: Range{0x600000, 0x2000}, Perm: letters("rw-p"), Name: "[heap]"},
		{Range: Range{0x7ffff7dd2000, 0x1000}, Perm: letters("rw-p")},
		{Range: Range{0x7ffff7dd8000, 0x1000}, Perm: letters("????"), Name: "mystery"},
		{Range: Range{0xfffffffffffff000, 0x1000}, Perm: letters("r-xs"), Name: "last"},
	}}
}

// show writes a selection as start addresses, neighbours in brackets.
func show(sel Selection) string {
	var b strings.Builder
	for i, r := range sel.Rows {
		if i > 0 {
			b.WriteByte(' ')
		}
		if r.Match {
			fmt.Fprintf(&b, "%x", r.Start)
		} else {
			fmt.Fprintf(&b, "[%x]", r.Start)
		}
	}
	return b.String()
}

func TestSelect(t *testing.T) {
	region := func(s string) Region {
		r, ok, err := ParseRegion(s)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return NameRegion(s)
		}
		return r
	}
	for _, c := range []struct {
		regions       []Region
		perm          string
		before, after int
		want          string
		undecided     int
	}{
		{nil, "", 1, 1, "400000 401000 600000 7ffff7dd2000 7ffff7dd8000 fffffffffffff000", 0},
		{nil, "?w", 1, 1, "600000 7ffff7dd2000", 1},
		{nil, "--x", 0, 0, "", 1},
		{[]Region{region("prog")}, "", 0, 0, "400000 401000", 0},
		{[]Region{region("prog")}, "", 0, 1, "400000 401000 [600000]", 0},
		{[]Region{region("prog")}, "??x", 1, 0, "[400000] 401000", 0},
		{[]Region{region("heap"), region("prog")}, "", 0, 0, "400000 401000 600000", 0},
		{[]Region{AddrRegion(0x601fff, "x")}, "", 1, 1, "[401000] 600000 [7ffff7dd2000]", 0},
		{[]Region{AddrRegion(0x602000, "x")}, "", 1, 1, "", 0},
		{[]Region{AddrRegion(1<<64-1, "x")}, "", 0, 9, "fffffffffffff000", 0},
		{[]Region{region("0x400fff-0x401001")}, "", 0, 0, "400000 401000", 0},
		{[]Region{region("0x400fff-0x401000")}, "", 0, 0, "400000", 0},
		{[]Region{region("0xffffffffffffffff-0x10000000000000000")}, "", 0, 0, "fffffffffffff000", 0},
		{[]Region{region("[anon_0x7ffff7dd2]")}, "", 0, 0, "7ffff7dd2000", 0},
		{[]Region{region("anon_7ffff7dd2")}, "", 0, 0, "7ffff7dd2000", 0},
		{[]Region{region("/^\\[anon/")}, "", 0, 0, "7ffff7dd2000", 0},
		{[]Region{region("/prog$|mys/")}, "", 0, 0, "400000 401000 7ffff7dd8000", 0},
		{[]Region{region("mystery")}, "r", 0, 0, "", 1},
		{[]Region{region("prog"), region("last")}, "", 0, 2, "400000 401000 [600000] [7ffff7dd2000] fffffffffffff000", 0},
	} {
		f := Filter{Regions: c.regions, Before: c.before, After: c.after}
		if c.perm != "" {
			var err error
			if f.Perm, err = ParsePermPattern(c.perm); err != nil {
				t.Fatal(err)
			}
		}
		sel := f.Select(exampleMap())
		if got := show(sel); got != c.want || sel.Undecided != c.undecided {
			t.Errorf("%v %s -B%d -A%d: got %s (%d undecided), want %s (%d)",
				c.regions, c.perm, c.before, c.after, got, sel.Undecided, c.want, c.undecided)
		}
	}
}

func TestSelectParts(t *testing.T) {
	f := Filter{Regions: []Region{
		RangeRegion(Range{0x400800, 0x1000}), RangeRegion(Range{0x400000, 0x10}), RangeRegion(Range{0x400008, 0x10}),
	}}
	sel := f.Select(exampleMap())
	if got, want := fmt.Sprint(sel.Rows[0].Parts, sel.Rows[1].Parts), "[0x400000-0x400018 0x400800-0x401000] [0x401000-0x401800]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	part := sel.Rows[1].Mapping.Clip(Range{0x401200, 1 << 40})
	if part.Start != 0x401200 || part.Size != 0xe00 {
		t.Errorf("clipped to %v", part.Range)
	}
}

func TestParseRange(t *testing.T) {
	for in, want := range map[string]Range{
		"0x1000-0x2000":                          {0x1000, 0x1000},
		"0XaB-0xac":                              {0xab, 1},
		"0x1-0x10000000000000000":                {1, 1<<64 - 1},
		"0xfffffffffffff000-0x10000000000000000": {0xfffffffffffff000, 0x1000},
		"0x0-0x0000000000000000000001":           {0, 1},
	} {
		r, ok, err := ParseRange(in)
		if !ok || err != nil || r != want {
			t.Errorf("%s: got %v, %v, %v", in, r, ok, err)
		}
	}
	for _, in := range []string{"", "-", "0x1000", "main-0x10", "0x10-main", "1000-2000", "0x-0x1", "0x1000-0x2000-0x3000"} {
		if r, ok, err := ParseRange(in); ok || err != nil {
			t.Errorf("%s: got %v, %v, %v", in, r, ok, err)
		}
	}
	for _, in := range []string{"0x2000-0x1000", "0x1-0x1", "0x10000000000000000-0x1", "0x0-0x10000000000000000", "0x1-0x10000000000000001"} {
		if r, ok, err := ParseRange(in); ok || err == nil {
			t.Errorf("%s: got %v, %v, %v", in, r, ok, err)
		}
	}
}

func FuzzParseRegion(f *testing.F) {
	for _, s := range []string{"0x1-0x2", "/a(b/", "libc", "0x1-0x10000000000000000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, ok, err := ParseRegion(s)
		if ok && err != nil {
			t.Fatalf("%q: both %v and %v", s, r, err)
		}
		if ok {
			m := exampleMap()
			(&Filter{Regions: []Region{r}}).Select(m)
		}
	})
}

func TestFilterCheck(t *testing.T) {
	for _, f := range []Filter{{Before: -1}, {After: -1}, {After: 65}, {Before: 65}} {
		if err := f.Check(); err == nil {
			t.Errorf("%+v passes", f)
		}
	}
	if err := (&Filter{Before: 64, After: 64}).Check(); err != nil {
		t.Error(err)
	}
}

func TestRangeLaws(t *testing.T) {
	addr := rapid.OneOf(rapid.Uint64Range(0, 64), rapid.Uint64Range(1<<64-64, 1<<64-1))
	gen := rapid.Custom(func(t *rapid.T) Range {
		r := Range{Start: addr.Draw(t, "start"), Size: rapid.Uint64Range(0, 80).Draw(t, "size")}
		if !r.Valid() {
			r.Size = -r.Start
		}
		return r
	})
	in := func(rs []Range, a uint64) bool {
		for _, r := range rs {
			if r.Contains(a) {
				return true
			}
		}
		return false
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		both := a.Intersect(b)
		rs := rapid.SliceOfN(gen, 0, 6).Draw(t, "ranges")
		union := Union(append([]Range(nil), rs...))
		for i := range uint64(160) {
			at := i - 80 // both ends of the address space
			if got, want := both.Contains(at), a.Contains(at) && b.Contains(at); got != want {
				t.Fatalf("%v in %v and %v: got %v", at, a, b, got)
			}
			if got, want := in(union, at), in(rs, at); got != want {
				t.Fatalf("%#x in the union %v of %v: got %v", at, union, rs, got)
			}
		}
		for i := 1; i < len(union); i++ {
			if union[i].Start-union[i-1].Start <= union[i-1].Size {
				t.Fatalf("%v touch", union)
			}
		}
	})
}

func TestClipOfCore(t *testing.T) {
	m := Mapping{Range: Range{0x1000, 0x3000}, Kept: Kept{Known: true, InCore: 0x1000, FromFile: 0x1000}}
	for _, c := range []struct {
		r    Range
		want [3]uint64 // in the core, in the file, nowhere
	}{
		{Range{0x1000, 0x3000}, [3]uint64{0x1000, 0x1000, 0x1000}},
		{Range{0x1000, 0x10}, [3]uint64{0x10, 0, 0}},
		{Range{0x1ff0, 0x20}, [3]uint64{0x10, 0x10, 0}},
		{Range{0x2800, 0x1000}, [3]uint64{0, 0x800, 0x800}},
		{Range{0x3800, 0x9000}, [3]uint64{0, 0, 0x800}},
	} {
		p := m.Clip(c.r)
		if got := [3]uint64{p.Kept.InCore, p.Kept.FromFile, p.Kept.Absent(p.Size)}; got != c.want {
			t.Errorf("%v: got %#x, want %#x", c.r, got, c.want)
		}
	}
}
