package proc

import (
	"slices"
	"strings"
	"testing"

	"dbgsh/vm"
	"dbgsh/vm/search"
)

// A search that is longer than a preview, and looking again at hits, must not
// make pages of files and of anonymous memory exist in the process either.
func TestRefineLeavesProcessAlone(t *testing.T) {
	p := startProcmem(t)
	ms := slices.DeleteFunc(p.mappings(t), func(m vm.Mapping) bool { return m.Size > 1<<30 })
	before := p.footprint(t)
	for _, needle := range []string{"QZQZQZ#!", "QZQZQZ#!" + strings.Repeat("\x00", 30), strings.Repeat("\x00", 5000)} {
		for _, best := range []PopulatedBy{PopulatedByScan, PopulatedByPagemap} {
			pm := openMemory(t, p.Process.Pid, best)
			found := scan(t, pm, ms, []byte(needle), search.Options{Skip: 4096})
			if found.Count == 0 {
				t.Fatalf("%.8q: no hits", needle)
			}
			exact, err := search.NewBytes([]byte(needle))
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range []search.RefineOptions{{Change: search.Unchanged}, {Matcher: exact}} {
				again, err := search.Refine(t.Context(), pm, ms, search.TakeSnapshot(found), o)
				if err != nil || again.Partial != nil {
					t.Fatalf("%+v, %v", again, err)
				}
				if !slices.Equal(addresses(found), addresses(&again.Result)) {
					t.Errorf("%.8q %+v: %d hits, %d again", needle, o, found.Count, again.Count)
				}
			}
		}
	}
	if after := p.footprint(t); after != before {
		t.Errorf("the process has changed from\n%s\nto\n%s", before, after)
	}
}
