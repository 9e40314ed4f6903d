package pt

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30

	kR   = KernelRead
	kRW  = KernelRead | KernelWrite
	kRX  = KernelRead | KernelExec
	kRWX = kRW | KernelExec
	uR   = UserRead
	uRW  = UserRead | UserWrite
	uRX  = UserRead | UserExec
	uRWX = uRW | UserExec

	nx = 1 << 63
)

// long is a set-up of 4 levels with NXE.
func long(root uint64) X86 { return X86{CR0: 0x80050033, CR3: root, CR4: 0x20, EFER: 0xd00} }

// modeOf is the paging mode that registers say.
func modeOf(mmu MMU) string {
	r, err := mmu.regime()
	if err != nil {
		return err.Error()
	}
	return r.mode
}

func wantRows(t *testing.T, m Phys, mmu MMU, opt Options, want []Row) *Result {
	t.Helper()
	res := walk(t, m, mmu, opt)
	if diff := cmp.Diff(want, res.Rows); diff != "" {
		t.Errorf("rows of %+v (-want +got):\n%s", mmu, diff)
	}
	if res.Cut != nil {
		t.Errorf("cut: %v", res.Cut)
	}
	return res
}

// wantEnd checks where the translation of va ends, and that its reason holds why.
func wantEnd(t *testing.T, m Phys, mmu MMU, va uint64, end End, steps int, why string) *Path {
	t.Helper()
	p, err := Translate(m, mmu, va)
	if err != nil {
		t.Fatal(err)
	}
	if p.End != end || len(p.Steps) != steps || !strings.Contains(p.Why, why) {
		t.Errorf("Translate %#x ends %v after %d steps, %q; want %v after %d, ...%s...", va, p.End, len(p.Steps), p.Why, end, steps, why)
	}
	return p
}

// TestX86Levels: an access needs the right at each level.
func TestX86Levels(t *testing.T) {
	const base = 0x100000
	m := newRAM(base, 16*4096)
	pml4, pdpt, pd := uint64(base), uint64(base+0x1000), uint64(base+0x2000)
	m.put(pml4, 0, pdpt|7)
	m.put(pdpt, 0, pd|7)
	// Four page tables behind PDEs of different rights, each with four pages.
	for i, e := range []uint64{7, 5, 3, nx | 7} {
		pt := base + 0x3000 + uint64(i)*0x1000
		m.put(pd, i, pt|e)
		for k, leaf := range []uint64{7, 5, 3, nx | 7} {
			m.put(pt, k, uint64(0x800000+(i*4+k)*0x1000)|leaf)
		}
	}
	row := func(i, k int, a Access) Row {
		n := uint64(i*4 + k)
		return Row{Start: uint64(i)<<21 + uint64(k)<<12, Size: 4 * kib, Phys: 0x800000 + n<<12, Access: a, PageShift: 12}
	}
	want := []Row{
		row(0, 0, kRWX|uRWX), row(0, 1, kRX|uRX), row(0, 2, kRWX), row(0, 3, kRW|uRW),
		row(1, 0, kRX|uRX), row(1, 1, kRX|uRX), row(1, 2, kRX), row(1, 3, kR|uR),
		row(2, 0, kRWX), row(2, 1, kRX), row(2, 2, kRWX), row(2, 3, kRW),
		row(3, 0, kRW|uRW), row(3, 1, kR|uR), row(3, 2, kRW), row(3, 3, kRW|uRW),
	}
	// In the second table the first two pages are alike and contiguous.
	merged := slices.Clone(want)
	merged[4].Size += 4 * kib
	merged = slices.Delete(merged, 5, 6)
	wantRows(t, m, long(pml4|0x18), Options{PTE: true}, merged)
	wantRows(t, m, long(pml4|0xfff), Options{}, merged) // PCID bits

	// The same again with all of it forbidden at the top.
	m.put(pml4, 0, pdpt|1|nx)
	all := []Row{row(0, 0, kR), row(1, 0, kR), row(2, 0, kR), row(3, 0, kR)}
	for i := range all {
		all[i].Size *= 4
	}
	wantRows(t, m, long(pml4), Options{PTE: true}, all)

	// Without NXE bit 63 is reserved, and the top entry faults.
	mmu := long(pml4)
	mmu.EFER = 0x500
	wantRows(t, m, mmu, Options{}, nil)
	wantEnd(t, m, mmu, 0x1000, Reserved, 1, "EFER.NXE")
	m.put(pml4, 0, pdpt|7)
	wantEnd(t, m, mmu, 0x603000, Reserved, 3, "EFER.NXE")
	wantEnd(t, m, mmu, 0x4000, NotPresent, 4, "PTE")
	p := wantEnd(t, m, mmu, 0x1234, Mapped, 4, "4 KiB")
	if p.Phys != 0x801234 || p.Steps[3].Addr != base+0x3008 || p.Steps[3].Value != 0x801005 || p.Steps[3].Flags != "P U" {
		t.Errorf("Translate 0x1234: %+v", p)
	}
}

// TestX86Pages: the sizes of pages, PAT where it stands, reserved bits.
func TestX86Pages(t *testing.T) {
	const base = 0x100000
	m := newRAM(base, 4*4096)
	pml4, pdpt, pd, pt := uint64(base), uint64(base+0x1000), uint64(base+0x2000), uint64(base+0x3000)
	m.put(pml4, 0, pdpt|3)
	m.put(pdpt, 0, pd|3)
	m.put(pdpt, 1, 0x40000000|0x10e3|1<<8) // 1 GiB, PAT, global
	m.put(pdpt, 2, 0x80000000|0x2083)      // bit 13 of a 1 GiB page is reserved
	m.put(pd, 0, pt|3)
	m.put(pd, 1, 0x600000|0x1083)
	m.put(pd, 2, 0x800000|0x83)
	m.put(pd, 3, 0xa00000|0x83)
	m.put(pd, 4, 0xc00000|0x4083) // reserved
	m.put(pt, 0, 0x5000|0x83)     // PAT of a PTE
	m.put(pt, 1, 0x6000|0x3|1<<51)
	want := []Row{
		{Start: 0, Size: 4 * kib, Phys: 0x5000, Flags: PAT, Access: kRWX, PageShift: 12},
		{Start: 0x1000, Size: 4 * kib, Phys: 0x6000 | 1<<51, Access: kRWX, PageShift: 12},
		{Start: 0x200000, Size: 2 * mib, Phys: 0x600000, Flags: PAT, Access: kRWX, PageShift: 21},
		{Start: 0x400000, Size: 4 * mib, Phys: 0x800000, Access: kRWX, PageShift: 21},
		{Start: 0x40000000, Size: gib, Phys: 0x40000000, Flags: Global | Accessed | Dirty | PAT, Access: kRWX, PageShift: 30},
	}
	wantRows(t, m, long(pml4), Options{PTE: true}, want)
	wantRows(t, m, long(pml4), Options{}, []Row{
		{Start: 0, Size: 8 * kib, Phys: 0x5000, Access: kRWX, PageShift: 12},
		{Start: 0x200000, Size: 6 * mib, Phys: 0x600000, Access: kRWX, PageShift: 21},
		{Start: 0x40000000, Size: gib, Phys: 0x40000000, Access: kRWX, PageShift: 30},
	})
	wantEnd(t, m, long(pml4), 0x80001234, Reserved, 2, "PDPTE")
	wantEnd(t, m, long(pml4), 0x800000, Reserved, 3, "0x4000")
	p := wantEnd(t, m, long(pml4), 0x7fffffff, Mapped, 2, "1 GiB")
	if p.Phys != 0x7fffffff || p.PageSize != gib || p.Steps[1].Flags != "P W A D G PS PAT" {
		t.Errorf("Translate 0x7fffffff: %+v", p)
	}
}

// TestX86Shared: aliases, a self-map and a table that is reached with different
// rights are shown everywhere, and read once for each level and set of rights.
func TestX86Shared(t *testing.T) {
	const base = 0x100000
	m := newRAM(base, 8*4096)
	m.reads = map[uint64]int{}
	pml4, pdpt, pd, pt := uint64(base), uint64(base+0x1000), uint64(base+0x2000), uint64(base+0x3000)
	m.put(pml4, 0, pdpt|7)
	m.put(pml4, 1, pdpt|7) // an alias of 512 GiB
	m.put(pml4, 2, pdpt|5) // another, not writable
	m.put(pml4, 511, pdpt|7)
	m.put(pdpt, 0, pd|7)
	m.put(pdpt, 511, pd|7)
	m.put(pd, 0, pt|7)
	m.put(pd, 1, pt|7)
	m.put(pd, 511, pt|7)
	m.put(pt, 0, 0x8000|0x67)
	m.put(pt, 1, 0x9000|nx|0x67)
	m.put(pt, 511, 0xa000|0x67)
	mmu := long(pml4)

	var want []Row
	for _, top := range []uint64{0, 1 << 39, 2 << 39, 0xffffff8000000000} {
		for _, g := range []uint64{0, 511 << 30} {
			for _, p := range []uint64{0, 1 << 21, 511 << 21} {
				rows := []Row{
					{Start: 0, Size: 4 * kib, Phys: 0x8000, Access: kRWX | uRWX},
					{Start: 0x1000, Size: 4 * kib, Phys: 0x9000, Access: kRW | uRW},
					{Start: 511 << 12, Size: 4 * kib, Phys: 0xa000, Access: kRWX | uRWX},
				}
				for _, r := range rows {
					r.Start += top + g + p
					r.PageShift, r.Flags = 12, Accessed|Dirty
					if top == 2<<39 {
						r.Access &^= KernelWrite | UserWrite
					}
					want = append(want, r)
				}
			}
		}
	}
	res := wantRows(t, m, mmu, Options{PTE: true}, want)
	if last := res.Rows[len(res.Rows)-1]; last.Start+last.Size != 0 || !contains(last, ^uint64(0)) {
		t.Errorf("the last row does not end at 2^64: %+v", last)
	}
	if got, want := m.reads, (map[uint64]int{pml4: 1, pdpt: 2, pd: 2, pt: 2}); !cmp.Equal(got, want) {
		t.Errorf("reads of tables: %v, want %v", got, want)
	}
	if res.tables != 7 {
		t.Errorf("%d tables, want 7", res.tables)
	}

	// Merged, neighbours of different tables become one row.
	merged := walk(t, m, mmu, Options{}).Rows
	across := Row{Start: 511 << 12, Size: 8 * kib, Phys: 0xa000, Access: kRWX | uRWX, PageShift: 12}
	if merged[2] != across {
		t.Errorf("row 2 is %+v, want %+v", merged[2], across)
	}

	// A self-map: the tables show up as pages.
	m.put(pml4, 510, pml4|0x63|nx)
	clear(m.reads)
	self := walk(t, m, mmu, Options{PTE: true})
	p, err := Translate(m, mmu, 0xffffff7fbfdfeff8) // entry 511 of the root, by way of entry 510
	if err != nil || p.End != Mapped || p.Phys != pml4+0xff8 {
		t.Errorf("Translate: %+v %v", p, err)
	}
	r, ok := find(self.Rows, 0xffffff7fbfdfeff8)
	if !ok || r.Access != kRW || r.Phys+0xff8 != p.Phys {
		t.Errorf("self-map row %+v %v", r, ok)
	}
	if n := m.reads[pml4]; n != 4 { // once at each level
		t.Errorf("the self-mapped root was read %d times", n)
	}
}

// TestX86FiveLevels: both halves of 57 bits.
func TestX86FiveLevels(t *testing.T) {
	const base = 0x100000
	m := newRAM(base, 8*4096)
	for l := range uint64(4) {
		m.put(base+l<<12, 0, base+(l+1)<<12|7)
		m.put(base+l<<12, 255, base+(l+1)<<12|7)
		m.put(base+l<<12, 256, base+(l+1)<<12|3)
	}
	pt := uint64(base + 4<<12)
	m.put(pt, 1, 0x8000|7)
	mmu := long(base)
	mmu.CR4 |= 1 << 12
	var want []Row
	for i := range 81 { // the entries 0, 255 and 256 of four levels
		a, va, n := kRWX|uRWX, uint64(0), i
		for shift := 21; shift <= 48; shift += 9 {
			index := []uint64{0, 255, 256}[n%3]
			n /= 3
			va |= index << shift
			if index == 256 {
				a &^= userAll
			}
		}
		va = uint64(int64(va<<7) >> 7)
		want = append(want, Row{Start: va | 0x1000, Size: 4 * kib, Phys: 0x8000, Access: a, PageShift: 12})
	}
	slices.SortFunc(want, func(a, b Row) int {
		if a.Start < b.Start {
			return -1
		}
		return 1
	})
	res := wantRows(t, m, mmu, Options{PTE: true}, want)
	if mode := modeOf(mmu); mode != "x86-64, 5 levels" || res.Bits != 64 {
		t.Errorf("mode %q, %d bits", mode, res.Bits)
	}
	wantEnd(t, m, mmu, 1<<56, OutsideRange, 0, "5 levels")
	wantEnd(t, m, mmu, 0xff00000000001000, Mapped, 5, "4 KiB")
	wantEnd(t, m, long(base+0x1000), 1<<47, OutsideRange, 0, "4 levels")
	// 4 levels below one of the same tables.
	if n := len(walk(t, m, long(base+0x1000), Options{PTE: true}).Rows); n != 27 {
		t.Errorf("%d rows with 4 levels, want 27", n)
	}
}

// TestX86Legacy: PAE, and 32-bit paging with PSE, PSE-36 and without.
func TestX86Legacy(t *testing.T) {
	const base = 0x100000
	m := newRAM(base, 8*4096)
	// A PDPT of 4 entries that is not page aligned.
	pdpt, pd, pt := uint64(base+0x20), uint64(base+0x1000), uint64(base+0x2000)
	m.put(pdpt, 0, pd|1)
	m.put(pdpt, 3, pd|0x19)
	m.put(pdpt, 4, pd|1) // no longer in the table
	m.put(pd, 0, pt|3)
	m.put(pd, 511, 0x200000|0xe7|nx|1<<36)
	m.put(pd, 1, 0x200000|0xe7|1<<52) // reserved in PAE
	m.put(pt, 3, 0x5000|7)
	pae := X86{CR0: 0x80050033, CR3: pdpt, CR4: 0x20, EFER: 0x800}
	want := []Row{
		{Start: 0x3000, Size: 4 * kib, Phys: 0x5000, Access: kRWX, PageShift: 12},
		{Start: 511 << 21, Size: 2 * mib, Phys: 0x200000 | 1<<36, Flags: Accessed | Dirty, Access: kRW | uRW, PageShift: 21},
		{Start: 0xc0003000, Size: 4 * kib, Phys: 0x5000, Access: kRWX, PageShift: 12},
		{Start: 0xffe00000, Size: 2 * mib, Phys: 0x200000 | 1<<36, Flags: Accessed | Dirty, Access: kRW | uRW, PageShift: 21},
	}
	res := wantRows(t, m, pae, Options{PTE: true}, want)
	if mode := modeOf(pae); mode != "PAE paging" || res.Bits != 32 || res.tables != 3 {
		t.Errorf("mode %q, %d bits, %d tables", mode, res.Bits, res.tables)
	}
	wantEnd(t, m, pae, 1<<32, OutsideRange, 0, "PAE")
	wantEnd(t, m, pae, 0x200000, Reserved, 2, "0x10000000000000")
	if p := wantEnd(t, m, pae, 0xc0003004, Mapped, 3, ""); p.Steps[0].Addr != pdpt+24 || p.Steps[0].Name != "PDPTE" {
		t.Errorf("first step %+v", p.Steps[0])
	}

	m = newRAM(base, 8*4096)
	pd = base
	pt = base + 0x1000
	m.put4(pd, 0, uint32(pt|7))
	m.put4(pd, 1, 0x00c00000|0x1e7)                // 4 MiB
	m.put4(pd, 2, 0x00800000|0x83|0x1000|0x25<<13) // PAT, address bits 39:32
	m.put4(pd, 3, 0x00800000|0x83|1<<21)           // reserved
	m.put4(pd, 1023, uint32(pt|5))
	m.put4(pt, 0, 0x5000|3)
	m.put4(pt, 1, 0x6000|7)
	m.put4(pt, 1023, 0x7000|0x87)
	pse := X86{CR0: 0x80050033, CR3: pd | 0x18, CR4: 0x10}
	rows := []Row{
		{Start: 0, Size: 4 * kib, Phys: 0x5000, Access: kRWX, PageShift: 12},
		{Start: 0x1000, Size: 4 * kib, Phys: 0x6000, Access: kRWX | uRWX, PageShift: 12},
		{Start: 0x3ff000, Size: 4 * kib, Phys: 0x7000, Flags: PAT, Access: kRWX | uRWX, PageShift: 12},
		{Start: 0x400000, Size: 4 * mib, Phys: 0xc00000, Flags: Global | Accessed | Dirty, Access: kRWX | uRWX, PageShift: 22},
		{Start: 0x800000, Size: 4 * mib, Phys: 0x800000 | 0x25<<32, Flags: PAT, Access: kRWX, PageShift: 22},
		{Start: 0xffc00000, Size: 4 * kib, Phys: 0x5000, Access: kRX, PageShift: 12},
		{Start: 0xffc01000, Size: 4 * kib, Phys: 0x6000, Access: kRX | uRX, PageShift: 12},
		{Start: 0xfffff000, Size: 4 * kib, Phys: 0x7000, Flags: PAT, Access: kRX | uRX, PageShift: 12},
	}
	wantRows(t, m, pse, Options{PTE: true}, rows)
	wantEnd(t, m, pse, 0xc00000, Reserved, 1, "0x200000")

	// Without PSE, bit 7 of a PDE means nothing: these are page tables outside RAM.
	pse = X86{CR0: 0x80050033, CR3: pd}
	res = wantRows(t, m, pse, Options{PTE: true}, append(slices.Clone(rows[:3]), rows[5:]...))
	if res.Unread != 3 || len(res.Unreadable) != 3 {
		t.Fatalf("%d tables not readable, want 3", res.Unread)
	}
	u := res.Unreadable[1]
	if u.VA != 0x800000 || u.Table != 0x00800000|0x1000|0x25<<13&0xff000 || u.Entry != "PTE" || !errors.Is(u, errNoRAM) {
		t.Errorf("not readable: %v (%+v)", u, u)
	}
	p := wantEnd(t, m, pse, 0x801000, NotReadable, 1, "cannot be read")
	if !errors.Is(p.Err, errNoRAM) {
		t.Errorf("error %v", p.Err)
	}
}

func TestX86Off(t *testing.T) {
	m := newRAM(0, 4096)
	for _, mmu := range []MMU{X86{CR0: 0x11}, ARM64{TCR: 0x19}, RISCV{SATP: 5}, RISCV{XLEN: 32, SATP: 5}} {
		if _, err := Walk(context.Background(), m, mmu, Options{}); !errors.Is(err, ErrPagingOff) {
			t.Errorf("Walk(%+v): %v", mmu, err)
		}
		if _, err := Translate(m, mmu, 0); !errors.Is(err, ErrPagingOff) {
			t.Errorf("Translate(%+v): %v", mmu, err)
		}
	}
	_, err := Walk(context.Background(), m, RISCV{SATP: 7 << 60}, Options{})
	if err == nil || errors.Is(err, ErrPagingOff) {
		t.Errorf("a reserved satp.MODE: %v", err)
	}
}

func TestX86Notes(t *testing.T) {
	m := newRAM(0, 4096)
	tests := []struct {
		cr0, cr4 uint64
		want     []string
	}{
		{0x80050033, 0x20, nil},
		{0x80040033, 0x20, []string{"CR0.WP"}},
		{0x80050033, 0x20 | 1<<20 | 1<<21, []string{"not in the permissions: CR4.SMEP (the kernel cannot execute user pages), CR4.SMAP ("}},
		{0x80040033, 0x20 | 1<<22 | 1<<24, []string{"CR0.WP", "CR4.PKE (protection keys may forbid access to user pages), CR4.PKS ("}},
	}
	for _, tt := range tests {
		mmu := X86{CR0: tt.cr0, CR4: tt.cr4, EFER: 0xd00}
		notes := walk(t, m, mmu, Options{}).Notes
		if path := wantEnd(t, m, mmu, 0, NotPresent, 1, ""); !slices.Equal(path.Notes, notes) {
			t.Errorf("cr0 %#x cr4 %#x: notes %q, of the path %q", tt.cr0, tt.cr4, notes, path.Notes)
		}
		if len(notes) != len(tt.want) {
			t.Errorf("cr0 %#x cr4 %#x: notes %q, want %q", tt.cr0, tt.cr4, notes, tt.want)
			continue
		}
		for i, n := range notes {
			if !strings.Contains(n, tt.want[i]) {
				t.Errorf("cr0 %#x cr4 %#x: note %q, want %q", tt.cr0, tt.cr4, n, tt.want[i])
			}
		}
	}
}

func TestX86Keys(t *testing.T) {
	const base = 0x100000
	m := newRAM(base, 2*4096)
	m.put(base, 0, base|0x27) // self-map of the very first entry: a page at address 0
	mmu := long(base)
	mmu.CR4 |= 1 << 22
	m.put(base, 1, 0x5000|7|13<<59)
	// Level by level, entry 1 as a leaf needs three zero indices before it.
	p := wantEnd(t, m, mmu, 0x1000, Mapped, 4, "")
	if k, ok := p.Flags.protectionKey(); k != 13 || !ok || p.Flags.String() != "KEY=13" {
		t.Errorf("flags %v", p.Flags)
	}
	mmu.CR4 = 0x20
	p = wantEnd(t, m, mmu, 0x1000, Mapped, 4, "")
	if _, ok := p.Flags.protectionKey(); ok {
		t.Error("a key, though CR4.PKE is 0")
	}
}
