package vm

import "testing"

func TestPageTableNames(t *testing.T) {
	m := Mapping{Range: Range{0xffff888000000123 &^ 0xfff, 0x3000}, Source: SourcePageTables, Paged: &Paged{Kernel: "rw-", User: "---", Region: "direct map", Phys: 0x5000, PageSize: 0x1000, Flags: "A D"}}
	if m.Title() != "[pt_0xffff888000000]" {
		t.Error(m.Title())
	}
	if got := m.Paged.Remark(); got != "derived: direct map; at 0x5000, pages of 0x1000 A D" {
		t.Error(got)
	}
	for _, name := range []string{"pt_0xffff888000000", "pt_ffff888000000", "direct map"} {
		f := Filter{Regions: []Region{NameRegion(name)}}
		if sel := f.Select(&Map{Mappings: []Mapping{m}}); len(sel.Rows) != 1 {
			t.Errorf("%s selects %d rows", name, len(sel.Rows))
		}
	}
	if part := m.Clip(Range{m.Start + 0x1000, 0x1000}); part.Paged.Phys != 0x6000 || m.Paged.Phys != 0x5000 {
		t.Errorf("clipped: %+v", part.Paged)
	}
	var none *Paged
	if none.Remark() != "" || (&Paged{Kernel: "r--", User: "r-x"}).Remark() != "user, kernel r--" {
		t.Error("remarks")
	}
}
