package qemusys

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/internal/testkit/testgdb"
	"dbgsh/pt"
	"dbgsh/target/gdb"
	"dbgsh/vm"
)

// debuggee is a machine under test, seen as a target sees it.
type debuggee struct {
	*testgdb.GDB
	wish     *Wish
	stub     bool // QEMU's process is not to be seen
	lines    *int // how many lines of the monitor get through, nil for as many as do
	machines *Machines
	talk     *talk

	source *Source
	made   state // what the source was made for
}

// state is what a source holds for.
type state struct {
	stamp gdb.Stamp
	wish  Wish
	stub  bool
}

// connect connects a new GDB, which can debug any architecture.
func connect(t testing.TB, addr string, wish *Wish, before ...string) *debuggee {
	t.Helper()
	d := newDebuggee(t, wish)
	d.Lines(append(before, "target remote "+addr)...)
	return d
}

// newDebuggee is connect before it connects.
func newDebuggee(t testing.TB, wish *Wish) *debuggee {
	t.Helper()
	d := &debuggee{wish: wish, machines: &Machines{}, talk: &talk{}}
	d.GDB = testgdb.Start(t, 5*time.Minute, gdb.Config{GDB: "gdb-multiarch", Log: d.talk})
	return d
}

// talk calls whom it is told to for each line to and from GDB.
type talk struct {
	mu   sync.Mutex
	line func()
}

func (k *talk) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.line != nil {
		k.line()
	}
	return len(p), nil
}

func (k *talk) each(line func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.line = line
}

// throughStub says whether QEMU's process is not to be used from now on, but what
// there is for those who do not see it.
func (d *debuggee) throughStub(only bool) {
	if d.stub != only {
		d.stub, d.machines = only, &Machines{}
	}
}

// look is the machine as it is now.
func (d *debuggee) look() *Source {
	d.T.Helper()
	now := state{d.Stamp(), *d.wish, d.stub}
	if d.source != nil && d.made == now {
		return d.source
	}
	inf, err := d.Inferior(d.Ctx)
	if err != nil {
		d.T.Fatal(err)
	}
	find := func(pid int, c gdb.Connection) (Peer, error) {
		peer, err := FindPeer(pid, c)
		if d.lines != nil {
			peer.Lines = *d.lines
		}
		if d.stub {
			peer.PID, err = 0, errors.New("the stub is to be used")
		}
		return peer, err
	}
	d.made, d.source = now, New(Config{
		GDB: d.GDB.GDB, Conn: inf.Conn, Inferior: inf.ID, Process: inf.PID, Thread: inf.Thread, Wish: now.wish, Machines: d.machines, FindPeer: find,
		Declared: func(context.Context) (*vm.Map, error) { return &vm.Map{AddressBits: 64}, nil },
	})
	return d.source
}

// machine is what is kept of the machine.
func (d *debuggee) machine() *Machine {
	d.T.Helper()
	l, err := d.look().look(d.Ctx, nil, false)
	if err != nil {
		d.T.Fatal(err)
	}
	return l.m
}

func (d *debuggee) Map(ctx context.Context) (*vm.Map, error)        { return d.look().Map(ctx) }
func (d *debuggee) Memory(ctx context.Context) (vm.Memory, error)   { return d.look().Memory(ctx) }
func (d *debuggee) Physical(ctx context.Context) (*Physical, error) { return d.look().Physical(ctx) }
func (d *debuggee) PageTables(ctx context.Context, o TableOptions) (*vm.Map, error) {
	return d.look().PageTables(ctx, o)
}

func (d *debuggee) PageWalk(ctx context.Context, addr uint64, root *uint64) (*pt.Path, error) {
	return d.look().PageWalk(ctx, addr, root)
}

// shown is the rows of a map in the form "START-END perm user".
func shown(m *vm.Map) []string {
	var rows []string
	for _, r := range m.Mappings {
		kind := "kernel"
		if r.Paged != nil && r.Paged.User != "---" {
			kind = "user"
		}
		rows = append(rows, fmt.Sprintf("%x-%s %s %s", r.Start, r.EndHex(), r.Perm.String()[:3], kind))
	}
	return rows
}

// physMode is the stub's physical mode, "0" or "1".
func (d *debuggee) physMode() string {
	d.T.Helper()
	answer, err := d.Packet(d.Ctx, "qqemu.PhyMemMode")
	if err != nil {
		d.T.Fatal(err)
	}
	return answer
}

// image is physical memory from base on, in which tests build tables.
type fakeImage struct {
	base uint64
	b    []byte
}

func (m *fakeImage) put(table uint64, index int, entry uint64) {
	off := table - m.base + 8*uint64(index)
	if need := int(off) + 8; need > len(m.b) {
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	binary.LittleEndian.PutUint64(m.b[off:], entry)
}

func (m *fakeImage) put32(table uint64, index int, entry uint32) {
	off := table - m.base + 4*uint64(index)
	if need := int(off) + 4; need > len(m.b) {
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	binary.LittleEndian.PutUint32(m.b[off:], entry)
}

// file writes the image for QEMU's loader.
func (m *fakeImage) file(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tables.bin")
	if err := os.WriteFile(path, m.b, 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", path, m.base)
}

// Bits of x86 entries.
const (
	xP  = 1 << 0
	xW  = 1 << 1
	xU  = 1 << 2
	xPS = 1 << 7
	xNX = 1 << 63
)

// x86Tables has several paging structures: at 0x100000 one of 4 levels, at
// 0x110000 one of 5, at 0x120000 one of PAE, at 0x130000 one of 32 bits.
func x86Tables() *fakeImage {
	m := &fakeImage{base: 0x100000}
	// 4 levels. PML4[0] to a PDPT by an entry without W, PML4[1] the same one
	// with W and U, PML4[256] by NX; PML4[510] is the table itself.
	m.put(0x100000, 0, 0x101000|xP|xU)
	m.put(0x100000, 1, 0x101000|xP|xW|xU)
	m.put(0x100000, 2, 0x101000|xP|xW|xU) // equal to the one before
	m.put(0x100000, 256, 0x101000|xP|xW|xU|xNX)
	m.put(0x100000, 300, 0x40000000|xP|xW) // outside of RAM
	m.put(0x100000, 510, 0x100000|xP|xW|xNX)
	m.put(0x101000, 0, 0x102000|xP|xW|xU)
	m.put(0x101000, 3, 0x40000000|xP|xW|xPS|1<<12) // 1 GiB, PAT
	m.put(0x102000, 0, 0x103000|xP|xW|xU)
	m.put(0x102000, 1, 0x103000|xP|xW) // the same table, without U
	m.put(0x102000, 8, 0x200000|xP|xW|xU|xPS)
	m.put(0x102000, 9, 0x400000|xP|xU|xPS|xNX)
	for i := range 4 {
		m.put(0x103000, i, uint64(0x200000+i*0x1000)|xP|xW|xU)
	}
	m.put(0x103000, 4, 0x200000|xP|xU)
	m.put(0x103000, 5, 0x200000|xP|xW|xU|xNX)
	m.put(0x103000, 7, 0x200000|xP|xW)
	// 5 levels, low and high half; the PML4 is the one above.
	m.put(0x110000, 0, 0x111000|xP|xW|xU)
	m.put(0x110000, 255, 0x111000|xP|xW|xU)
	m.put(0x110000, 256, 0x111000|xP|xW)
	m.put(0x110000, 511, 0x111000|xP|xW)
	m.put(0x111000, 0, 0x101000|xP|xW|xU)
	m.put(0x111000, 511, 0x101000|xP|xW|xU)
	// PAE: four PDPTEs, of which two count.
	m.put(0x120000, 0, 0x102000|xP)
	m.put(0x120000, 3, 0x102000|xP)
	// 32 bits: 4 MiB pages and tables. PDE 2 is of a page at 0x99<<32 with
	// CR4.PSE (PSE-36), and of a table without.
	m.put32(0x130000, 0, 0x131000|xP|xW|xU)
	m.put32(0x130000, 1, 0x400000|xP|xW|xPS)
	m.put32(0x130000, 2, 0x132000|xP|xW|xU|xPS)
	m.put32(0x130000, 768, 0x800000|xP|xU|xPS)
	m.put32(0x131000, 0, 0x1000|xP|xW|xU)
	m.put32(0x131000, 1, 0x2000|xP|xU)
	m.put32(0x131000, 1023, 0x2000|xP|xW)
	m.put32(0x132000, 0, 0x3000|xP|xU)
	m.put32(0x132000, 5, 0x4000|xP|xW|xPS) // bit 7 of a PTE is PAT
	m.put32(0x132000, 6, 0x6000|xP|xW|xU)
	return m
}

// pdptRows is what the PDPT of x86Tables maps from base on, with what the
// levels above forbid.
func pdptRows(base uint64, w, u, x bool) []string {
	type leaf struct {
		off, size uint64
		w, u, x   bool
	}
	var leaves []leaf
	page := func(pd uint64, user bool) {
		for _, l := range []leaf{
			{0, 0x4000, true, true, true}, {0x4000, 0x1000, false, true, true}, {0x5000, 0x1000, true, true, false}, {0x7000, 0x1000, true, false, true},
		} {
			l.off += pd
			l.u = l.u && user
			leaves = append(leaves, l)
		}
	}
	page(0, true)
	page(0x200000, false)
	leaves = append(leaves, leaf{0x1000000, 0x200000, true, true, true}, leaf{0x1200000, 0x200000, false, true, false},
		leaf{0xc0000000, 0x40000000, true, false, true})
	var rows []string
	var last leaf
	for _, l := range leaves {
		l.w, l.u, l.x = l.w && w, l.u && u, l.x && x
		if len(rows) > 0 && last.off+last.size == l.off && last.w == l.w && last.u == l.u && last.x == l.x {
			last.size += l.size
			rows = rows[:len(rows)-1]
		} else {
			last = l
		}
		perm, kind := []byte("r--"), "kernel"
		if last.w {
			perm[1] = 'w'
		}
		if last.x {
			perm[2] = 'x'
		}
		if last.u {
			kind = "user"
		}
		rows = append(rows, fmt.Sprintf("%x-%x %s %s", base+last.off, base+last.off+last.size, perm, kind))
	}
	return rows
}

func TestX86Machine(t *testing.T) {
	tables := x86Tables()
	addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-cpu", "max", "-m", "128", "-S", "-device", tables.file(t))
	wish := Auto
	d := connect(t, addr, &wish)

	// Paging is off.
	m, err := d.Map(d.Ctx)
	if err != nil || len(m.About()) != 2 || !strings.Contains(m.About()[0], "paging is off") || !strings.Contains(m.About()[1], "real mode") {
		t.Fatalf("got %+v, %v", m, err)
	}
	var ram bool
	for _, r := range m.Mappings {
		ram = ram || r.Name == "[pc.ram]" && r.Contains(0x100000) && r.Last() == 0x7ffffff && r.Perm.String() == "rw??"
	}
	if !ram {
		t.Errorf("no RAM in %+v", m.Mappings)
	}

	setUp := func(cr3, cr4, efer uint64) {
		d.Lines(fmt.Sprintf("set $cr3=%#xULL", cr3), fmt.Sprintf("set $cr4=%#xULL", cr4),
			fmt.Sprintf("set $efer=%#xULL", efer), "set $cr0=0x80050033ULL")
	}
	both := func(what string, want []string, notes ...string) {
		t.Helper()
		for _, only := range []bool{false, true} {
			d.throughStub(only)
			m, err := d.Map(d.Ctx)
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			same(t, what, shown(m), want)
			if len(m.About()) != len(notes) {
				t.Errorf("%s: notes %q", what, m.About())
			}
			for i := range min(len(notes), len(m.About())) {
				if !strings.Contains(m.About()[i], notes[i]) {
					t.Errorf("%s: note %q lacks %q", what, m.About()[i], notes[i])
				}
			}
			if mode := d.physMode(); mode != "0" {
				t.Errorf("%s: physical mode is %s", what, mode)
			}
		}
		d.throughStub(false)
	}

	// 4 levels, with PCID and cache bits in CR3.
	const pml4 = 1 << 39
	var want []string
	want = append(want, pdptRows(0, false, true, true)...)
	want = append(want, pdptRows(pml4, true, true, true)...)
	want = append(want, pdptRows(2*pml4, true, true, true)...)
	want = append(want, pdptRows(0xffff800000000000, true, true, false)...)
	setUp(0x100000|0x18, 0x20, 0xd00)
	self := selfRows(t, tables)
	both("4 levels", append(want, self...), "0x40000000", "3 tables")
	setUp(0x100000|0x7, 0x20020, 0xd00) // CR4.PCIDE
	both("PCID", append(want, self...), "0x40000000", "3 tables")

	// The monitor tells W and U over all levels.
	setUp(0x100000, 0x20, 0xd00)
	text, err := d.Query(d.Ctx, "monitor info mem")
	if err != nil {
		t.Fatal(err)
	}
	oracle, ok, err := ParseMonitorMem(text)
	if err != nil || !ok {
		t.Fatalf("%v\n%s", err, text)
	}
	m, err = d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "info mem", withoutExec(m.Mappings), withoutExec(oracle))
	wish = Monitor
	m, err = d.Map(d.Ctx)
	if err != nil || len(m.Mappings) != len(oracle) || m.Mappings[0].Perm.String() != "r-??" || m.Mappings[0].Title() != "[pt_0x0]" {
		t.Errorf("monitor: %+v, %v", m, err)
	}
	wish = None
	if m, err = d.Map(d.Ctx); err != nil || len(m.Mappings) != 0 {
		t.Errorf("none: %+v, %v", m, err)
	}
	wish = Auto

	// Leaves one by one, beside info tlb.
	pages, err := d.PageTables(d.Ctx, TableOptions{PTE: true})
	if err != nil {
		t.Fatal(err)
	}
	text, err = d.Query(d.Ctx, "monitor info tlb")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "info tlb", leavesOf(pages.Mappings), tlbLeaves(text))

	// 5 levels.
	want = nil
	for _, base := range []uint64{0, 255 << 48} {
		want = append(want, pdptRows(base, true, true, true)...)
		want = append(want, pdptRows(base+511*pml4, true, true, true)...)
	}
	for _, base := range []uint64{0xff00000000000000, 0xffff000000000000} {
		want = append(want, pdptRows(base, true, false, true)...)
		want = append(want, pdptRows(base+511*pml4, true, false, true)...)
	}
	setUp(0x110000, 0x1020, 0xd00)
	both("5 levels", want)
	if pages, err = d.PageTables(d.Ctx, TableOptions{PTE: true}); err != nil {
		t.Fatal(err)
	}
	if text, err = d.Query(d.Ctx, "monitor info tlb"); err != nil {
		t.Fatal(err)
	}
	same(t, "info tlb of 5 levels", leavesOf(pages.Mappings), tlbLeaves(text))
	wish = Monitor
	if m, err = d.Map(d.Ctx); err != nil || len(m.Mappings) != 0 || !strings.Contains(m.About()[0], "5-level") {
		t.Errorf("monitor with 5 levels: %+v, %v", m, err)
	}
	wish = Auto

	// PAE: the PD of the tables above in the first and the last GiB.
	d.Lines("set $cr0=0x50033ULL")
	setUp(0x120000, 0x20, 0x800)
	want = nil
	for _, base := range []uint64{0, 0xc0000000} {
		for _, r := range pdptRows(base, true, true, true) {
			if !strings.HasPrefix(r, fmt.Sprintf("%x-", base+0xc0000000)) {
				want = append(want, r)
			}
		}
	}
	both("PAE", want)

	setUp(0x130000, 0x10, 0)
	both("32 bits", []string{
		"0-1000 rwx user", "1000-2000 r-x user", "3ff000-800000 rwx kernel", "800000-c00000 rwx user", "c0000000-c0400000 r-x user",
	})
	if path, err := d.PageWalk(d.Ctx, 0x806123, nil); err != nil || path.Phys != 0x9900006123 {
		t.Errorf("walk with CR4.PSE: %+v, %v", path, err)
	}
	// Without PSE, PDEs 1 and 768 lead to tables in RAM that are empty.
	setUp(0x130000, 0, 0)
	both("without CR4.PSE", []string{
		"0-1000 rwx user", "1000-2000 r-x user", "3ff000-400000 rwx kernel",
		"800000-801000 r-x user", "805000-806000 rwx kernel", "806000-807000 rwx user",
	})
	if path, err := d.PageWalk(d.Ctx, 0x806123, nil); err != nil || path.Phys != 0x6123 || len(path.Steps) != 2 {
		t.Errorf("walk without CR4.PSE: %+v, %v", path, err)
	}
	if m, err = d.PageTables(d.Ctx, TableOptions{PTE: true}); err != nil || m.AddressBits != 32 {
		t.Fatalf("without CR4.PSE: %+v, %v", m, err)
	}
	if text, err = d.Query(d.Ctx, "monitor info tlb"); err != nil {
		t.Fatal(err)
	}
	same(t, "info tlb without CR4.PSE", leavesOf(m.Mappings), tlbLeaves(text))

	// Another root than the CPU's.
	setUp(0x130000, 0x20, 0xd00)
	root := uint64(0x111000)
	if m, err = d.PageTables(d.Ctx, TableOptions{Root: &root}); err != nil {
		t.Fatal(err)
	}
	same(t, "another root", shown(m), append(pdptRows(0, true, true, true), pdptRows(0xffffff8000000000, true, true, true)...))
	path, err := d.PageWalk(d.Ctx, 0x4123, &root)
	if err != nil || len(path.Steps) == 0 || path.Steps[0].Addr != root || path.Phys != 0x200123 {
		t.Errorf("walk of another root: %+v, %v", path, err)
	}
	setUp(0x100000, 0x20, 0xd00)
	path, err = d.PageWalk(d.Ctx, pml4+0x4123, nil)
	if err != nil || path.Phys != 0x200123 || len(path.Steps) != 4 || path.Access.User() != "r-x" {
		t.Errorf("walk: %+v, %v", path, err)
	}
	if m, err = d.Map(d.Ctx); err != nil {
		t.Fatal(err)
	}
	if from := d.look().Describe(d.Ctx, m); !strings.Contains(from, "0x100000") {
		t.Errorf("the map is from %s", from)
	}
	d.Lines("kill")
}

// same compares two lists of rows.
func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("%s: row %d of %d (want %d): got %q, want %q", what, i, len(got), len(want), g, w)
			return
		}
	}
}

// withoutExec is rows with what the monitor knows, joined where only x parts them.
func withoutExec(ms []vm.Mapping) []string {
	var joined []vm.Mapping
	for _, m := range ms {
		n := len(joined) - 1
		user := m.Paged.User != "---"
		if n >= 0 && joined[n].Last()+1 == m.Start && joined[n].Perm.Is(vm.Write) == m.Perm.Is(vm.Write) && (joined[n].Paged.User != "---") == user {
			joined[n].Size += m.Size
			continue
		}
		joined = append(joined, m)
	}
	var rows []string
	for _, m := range joined {
		rows = append(rows, fmt.Sprintf("%v w=%v u=%v", m.Range, m.Perm.Is(vm.Write), m.Paged.User != "---"))
	}
	return rows
}

// leavesOf is a line for every page.
func leavesOf(ms []vm.Mapping) []string {
	var rows []string
	for _, m := range ms {
		for off := uint64(0); off < m.Size; off += m.Paged.PageSize {
			rows = append(rows, fmt.Sprintf("%x: %x", m.Start+off, m.Paged.Phys+off))
		}
	}
	return rows
}

// tlbLine is a line of info tlb on x86.
var tlbLine = regexp.MustCompile(`(?m)^([0-9a-f]{16}): ([0-9a-f]{16}) [-A-Z]+`)

// tlbLeaves reads the same out of info tlb.
func tlbLeaves(text string) []string {
	var rows []string
	for _, m := range tlbLine.FindAllStringSubmatch(text, -1) {
		var va, pa uint64
		_, _ = fmt.Sscanf(m[1]+" "+m[2], "%x %x", &va, &pa)
		rows = append(rows, fmt.Sprintf("%x: %x", va, pa))
	}
	return rows
}

// selfRows is what the self-map in PML4[510] of the tables shows, computed
// level by level from the image.
func selfRows(t testing.TB, m *fakeImage) []string {
	t.Helper()
	entry := func(pa uint64, i int) uint64 {
		off := pa - m.base + 8*uint64(i)
		if pa < m.base || off+8 > uint64(len(m.b)) {
			return 0
		}
		return binary.LittleEndian.Uint64(m.b[off:])
	}
	var rows []string
	var first, end uint64
	var state string
	flush := func() {
		if state != "" {
			rows = append(rows, fmt.Sprintf("%x-%x %s", first, end, state))
		}
		state = ""
	}
	var walk func(table uint64, level int, va uint64, w, u, x bool)
	walk = func(table uint64, level int, va uint64, w, u, x bool) {
		for i := range 512 {
			e := entry(table, i)
			if e&xP == 0 || e&0xffffffffff000 == 0x40000000 && level > 0 && e&xPS == 0 {
				continue
			}
			at := va + uint64(i)<<(12+9*level)
			ew, eu, ex := w && e&xW != 0, u && e&xU != 0, x && e&xNX == 0
			if level > 0 && e&xPS == 0 {
				walk(e&0xffffffffff000, level-1, at, ew, eu, ex)
				continue
			}
			now := []byte("r-- kernel")
			if ew {
				now[1] = 'w'
			}
			if ex {
				now[2] = 'x'
			}
			s := string(now)
			if eu {
				s = string(now[:4]) + "user"
			}
			if s != state || at != end {
				flush()
				first, state = at, s
			}
			end = at + 1<<(12+9*level)
		}
	}
	walk(0x100000, 2, 0xffffff0000000000, true, false, false)
	flush()
	return rows
}
