package pt

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// maxLevels is the number of levels of the deepest tables of all.
const maxLevels = 5

// regime is a CPU's set-up in the form that the walkers use. Levels count from
// 0 for the tables whose entries can only map pages.
type regime struct {
	mode  string
	bits  int // width of a virtual address: 32 or 64
	parts []part
	notes []string
	strip func(va uint64) uint64 // takes a tag out of an address; may be nil
	// domains is notes on the domains that were met, one bit each; may be nil.
	domains func(met uint16) []string
}

// part is one range of virtual addresses that one root table translates.
type part struct {
	format
	geometry
	id   uint64 // 0 or 1; equal for parts of equal format
	root uint64 // physical address of the root table
	top  int    // the root table's level
	size uint64 // bytes that the whole root table spans, also where addresses use a part of it

	base   uint64 // the address of what the root's first entry translates, modulo 2^64
	lo, hi uint64 // the offsets from base that addresses have, both included
	cut    bool   // a page may reach beyond them, where another part translates

	off string // why nothing is translated here, or ""
}

// otherRoot is a root table that was asked for instead of the CPU's own.
type otherRoot struct {
	asked bool
	pa    uint64
}

func rootAt(pa uint64) otherRoot { return otherRoot{true, pa} }

// replace changes root if another one was asked for. An address fits in the
// bits of mask, or it is none that the root register can hold.
func (o otherRoot) replace(root *uint64, mask uint64) error {
	if !o.asked {
		return nil
	}
	if o.pa&^mask != 0 {
		return fmt.Errorf("%#x is no address of a root table: those are multiples of %s below %#x",
			o.pa, sizeName(mask&-mask), uint64(1)<<bits.Len64(mask))
	}
	*root = o.pa
	return nil
}

// geometry says how tables lie in memory.
type geometry struct {
	grain, stride uint8 // log2 of the page size, and of the entries in a table
	half          bool  // entries of 4 bytes, else 8
	swap          bool  // big-endian
}

// shift is log2 of what one entry at level spans.
func (g *geometry) shift(level int) uint { return uint(g.grain) + uint(g.stride)*uint(level) }

// entries is the number of entries of a table of the part.
func (p *part) entries(level int) int {
	if level == p.top {
		return int(p.size >> p.shift(level))
	}
	return 1 << p.stride
}

// clip cuts a row to the addresses that the part translates, and reports whether
// there is anything left of it.
func (p *part) clip(r *Row) bool {
	off := r.Start - p.base
	last := off + (r.Size - 1)
	if last < p.lo || off > p.hi {
		return false
	}
	first := max(off, p.lo)
	r.Start, r.Phys, r.Size = p.base+first, r.Phys+(first-off), min(last, p.hi)-first+1
	return true
}

func (p *part) entryBytes() int {
	if p.half {
		return 4
	}
	return 8
}

// inherited is what the levels above say to those below, in the format's own
// bits; it fits in six.
type inherited uint8

// format is what entries mean. Implementations are immutable values.
type format interface {
	// decode says what entry number index of a table does.
	decode(level, index int, e uint64, in inherited) entry
	// name is the manual's name for an entry of the level.
	name(level int) string
	// describe spells out the entry's flags.
	describe(level int, e uint64) string
}

type kind uint8

const (
	absent   kind = iota // not present
	reserved             // present, but its form is reserved: an access faults
	table                // leads to a table of the level below
	leaf                 // maps a page
	denied               // would map a page, but nobody may access it
)

// entry is a decoded one.
type entry struct {
	kind kind
	pa   uint64    // table, leaf: what it leads to
	in   inherited // table: what the level below inherits

	access Access // leaf
	flags  Flags  // leaf

	// same masks the bits that decide over kind and access: entries of one
	// table that agree there are alike in both. Not for tables.
	same uint64
	// addr masks address bits where adding step means the next page;
	// 0 where entries have to be decoded one by one. Leaves only.
	addr, step uint64

	why string // reserved: what is wrong; denied: by what
	bad uint64 // reserved: the value that is wrong
}

// mustBe0 is what is wrong with an entry that has reserved bits set.
const mustBe0 = "bits are set that must be 0"

// bitRange has the bits from lo to hi set, both included, and is 0 where hi < lo.
func bitRange(hi, lo int) uint64 {
	if hi < lo {
		return 0
	}
	return ^uint64(0) >> (63 - hi) &^ (1<<lo - 1)
}

// halves splits p into its lower half, at address 0, and its upper half, which
// ends at 2^64.
func halves(p part) []part {
	low, high := p, p
	low.hi = p.size/2 - 1
	high.lo, high.hi = p.size/2, p.size-1
	high.base = -p.size
	return []part{low, high}
}

// Walk lists what the tables of mmu map. It reads each table once for each
// level and each set of inherited permissions that it is met with, however
// often it is mapped, and lists it wherever it is mapped.
//
// The error is ctx's, or says that the registers stand for no translation;
// it wraps ErrPagingOff where that is off. A table that cannot be read is no
// error: Result.Unreadable names it. Walks share nothing, so that several may
// run at once if mem allows it.
func Walk(ctx context.Context, mem Phys, mmu MMU, opt Options) (*Result, error) {
	r, err := mmu.regime()
	if err != nil {
		return nil, err
	}
	w := &walker{ctx: ctx, mem: mem, pte: opt.PTE, maxRows: opt.maxRows, work: opt.maxWork,
		memo: map[uint64]span{}, res: &Result{Bits: r.bits, Notes: r.notes}}
	if w.maxRows <= 0 {
		w.maxRows = defaultMaxRows
	}
	if w.work <= 0 {
		w.work = defaultMaxWork
	}
	limit := w.work
	last := opt.Last
	if last == 0 {
		last = ^uint64(0)
	}

	res := w.res
	for i := range r.parts {
		p := &r.parts[i]
		if p.off != "" {
			res.Notes = append(res.Notes, p.off)
			continue
		}
		// Within a part no address wraps, so plain comparison will do.
		lo, hi := max(p.base+p.lo, opt.First), min(p.base+p.hi, last)
		if lo > hi {
			continue
		}
		if !w.fill(p, p.top, p.root, 0, lo-p.base, hi-p.base, p.base) {
			break
		}
	}
	if w.err != nil {
		return nil, w.err
	}
	res.Rows = w.join()
	res.Notes = append(res.Notes, w.met.notes()...)
	if r.domains != nil {
		res.Notes = append(res.Notes, r.domains(w.domains)...)
	}
	switch {
	case len(res.Rows) > w.maxRows:
		res.Cut = &Cut{VA: res.Rows[w.maxRows].Start, ByRows: true, Limit: w.maxRows}
		res.Rows = res.Rows[:w.maxRows]
	case w.tired:
		res.Cut = &Cut{VA: w.stopped, Limit: limit}
	}
	return res, nil
}

// walker is the state of one Walk.
type walker struct {
	ctx context.Context
	mem Phys

	pte     bool
	maxRows int
	work    int // what is left of Options.maxWork

	level [maxLevels]struct {
		buf []byte // where tables of this level are copied to
		tab []byte // the current one's entries, 8 bytes each, little-endian; nil after an error
		pa  uint64
	}

	// rows are what was found so far, by address. None reaches across the start
	// or the end of a table that was walked, so that memo can name what a table
	// maps as a part of rows. What would have done is a continuation.
	rows  []Row
	fence int             // rows below this index are not to grow
	more  int             // how many rows are continuations
	memo  map[uint64]span // by the key of memoKey

	met     Flags  // those of all leaves
	domains uint16 // theirs, one bit each, where there are such
	tired   bool   // work ran out
	stopped uint64 // where
	err     error  // ctx's
	res     *Result
}

// span is what a table maps where it was met first, at va.
type span struct {
	va       uint64
	from, to int // in rows
}

// memoKey puts what decides over a table's rows in one word. Tables other than
// roots are aligned to 4 KiB, or to 1 KiB where there are two levels, and nothing
// leads back to a root's level.
func memoKey(p *part, level int, pa uint64, in inherited) uint64 {
	return pa | uint64(level)<<8 | uint64(in)<<1 | p.id
}

// fill appends to w.rows what the table at pa maps of the offsets lo to hi,
// both included. Offset 0 is address va. It returns false when the walk has to
// end; the rows so far are sound then.
//
// Neither rows nor time can blow up, whatever the tables hold. A table is
// scanned once for each key, at the price of its entries. From then on it
// costs its rows: all but the first become rows of their own again and count
// against the bound on rows, except for continuations, which count as work.
func (w *walker) fill(p *part, level int, pa uint64, in inherited, lo, hi, va uint64) bool {
	n := p.entries(level)
	if !w.spend(n, va+lo) {
		return false
	}
	if w.err = w.ctx.Err(); w.err != nil {
		return false
	}
	if err := w.load(p, level, pa, n); err != nil {
		if w.err = w.ctx.Err(); w.err != nil {
			return false
		}
		if n := len(w.res.Unreadable); level == p.top && p.lo > 0 && n > 0 && w.res.Unreadable[n-1].Table == pa {
			return true // already said for the lower half
		}
		w.res.Unread++
		if len(w.res.Unreadable) < maxUnreadable {
			w.res.Unreadable = append(w.res.Unreadable, Unreadable{VA: va + lo, Table: pa, Entry: p.name(level), Err: err})
		}
		return true
	}

	tab := w.level[level].tab
	shift := p.shift(level)
	end := int(hi>>shift) + 1
	for i := int(lo >> shift); i < end; {
		w.work -= runWork // looked at when the next table is due
		rest := tab[8*i : 8*end]
		e := binary.LittleEndian.Uint64(rest)
		d := p.decode(level, i, e, in)
		off := uint64(i) << shift
		switch {
		case d.kind == table:
			if !w.child(p, level, d, off, lo, hi, va) {
				return false
			}
			i++
			continue
		case d.kind != leaf:
			i += alike(rest, e, d.same)
			continue
		}
		w.met |= d.flags
		if domain, ok := d.flags.domain(); ok {
			w.domains |= 1 << domain
		}
		row := Row{Start: va + off, Phys: d.pa, Access: d.access, PageShift: uint8(shift)}
		run := 1
		if !w.pte {
			run = alike(rest, e, d.same)
		} else {
			row.Flags = d.flags
			if d.addr != 0 {
				run = ascending(rest, e, d.step, ^d.addr)
			}
		}
		row.Size = uint64(run) << shift
		i += run
		if p.cut && !p.clip(&row) {
			continue
		}
		if !w.add(row) {
			return false
		}
	}
	return true
}

// spend takes n from the work that is left. It returns false, with va as the
// place where the walk stopped, when that was too much.
func (w *walker) spend(n int, va uint64) bool {
	w.work -= n
	if w.work < 0 {
		w.tired, w.stopped = true, va
	}
	return !w.tired
}

// child appends what the table behind entry d at offset off maps; lo, hi and
// va are as in fill.
func (w *walker) child(p *part, level int, d entry, off, lo, hi, va uint64) bool {
	if !w.spend(tableWork, va+max(lo, off)) {
		return false
	}
	last := uint64(1)<<p.shift(level) - 1 // offset of the last byte that d spans
	if lo > off || hi-off < last {
		from := max(lo, off) - off
		return w.fill(p, level-1, d.pa, d.in, from, min(hi-off, last), va+off)
	}
	va += off
	key := memoKey(p, level, d.pa, d.in)
	s, ok := w.memo[key]
	if !ok {
		w.fence = len(w.rows)
		s = span{va: va, from: w.fence}
		if !w.fill(p, level-1, d.pa, d.in, 0, last, va) {
			return false
		}
		w.fence = len(w.rows)
		s.to = w.fence
		w.memo[key] = s
		return true
	}
	if !w.spend(s.to-s.from, va) {
		return false
	}
	for i := s.from; i < s.to; i++ {
		r := w.rows[i]
		r.Start += va - s.va
		r.Flags &^= continuation
		if !w.add(r) {
			return false
		}
	}
	return true
}

// What takes longer than to look at one entry more, in entries.
const (
	runWork   = 4  // an entry unlike the one before
	tableWork = 16 // an entry that leads to a table
)

// continuation marks a row that belongs to the one before. It leaves no walk.
const continuation Flags = 1 << 31

// continues reports whether r goes on where l ends, with the same attributes.
func (w *walker) continues(l, r *Row) bool {
	return l.Start+l.Size == r.Start && l.Access == r.Access &&
		(!w.pte || l.Phys+l.Size == r.Phys && l.PageShift == r.PageShift && (l.Flags^r.Flags)&^continuation == 0)
}

// grow makes l longer by r, which continues it.
func (l *Row) grow(r *Row) {
	l.Size += r.Size
	if l.PageShift != r.PageShift {
		l.PageShift = 0
	}
}

// add appends r, or lets the last row grow by it. It returns false when there
// are too many rows.
func (w *walker) add(r Row) bool {
	n := len(w.rows)
	if n > 0 && w.continues(&w.rows[n-1], &r) {
		if n > w.fence {
			w.rows[n-1].grow(&r)
			return true
		}
		r.Flags |= continuation
		w.more++
	}
	if n == cap(w.rows) {
		w.rows = slices.Grow(w.rows, max(n, 64))
	}
	w.rows = append(w.rows, r)
	return n-w.more < w.maxRows
}

// join is rows with the continuations where they belong.
func (w *walker) join() []Row {
	out := w.rows[:0]
	for _, r := range w.rows {
		if r.Flags&continuation != 0 {
			out[len(out)-1].grow(&r)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// load makes the n entries of the table at pa the current ones of level.
func (w *walker) load(p *part, level int, pa uint64, n int) error {
	lv := &w.level[level]
	if len(lv.tab) == 8*n && lv.pa == pa && level == p.top {
		return nil // a root that serves two parts
	}
	lv.tab, lv.pa = nil, pa
	size := n * p.entryBytes()
	if cap(lv.buf) < size {
		lv.buf = make([]byte, size)
	}
	raw := lv.buf[:size]
	if err := w.mem.ReadPhys(raw, pa); err != nil {
		return err
	}
	w.res.tables++
	if p.half || p.swap {
		raw = widen(raw, p)
	}
	lv.tab = raw
	return nil
}

// widen is a copy of raw with entries of 8 bytes, little-endian.
func widen(raw []byte, p *part) []byte {
	size := p.entryBytes()
	out := make([]byte, 0, len(raw)/size*8)
	for i := 0; i < len(raw); i += size {
		out = binary.LittleEndian.AppendUint64(out, p.entryAt(raw[i:]))
	}
	return out
}

// entryAt is the entry that b begins with.
func (p *part) entryAt(b []byte) uint64 {
	var order binary.ByteOrder = binary.LittleEndian
	if p.swap {
		order = binary.BigEndian
	}
	if p.half {
		return uint64(order.Uint32(b))
	}
	return order.Uint64(b)
}

// alike counts the entries at the beginning of b that equal e, the first one,
// in the bits of mask.
func alike(b []byte, e, mask uint64) int {
	i := 8
	// Four at a time: one branch for half a cache line.
	for ; i+32 <= len(b); i += 32 {
		q := b[i : i+32 : i+32]
		d := binary.LittleEndian.Uint64(q) ^ e
		d |= binary.LittleEndian.Uint64(q[8:]) ^ e
		d |= binary.LittleEndian.Uint64(q[16:]) ^ e
		d |= binary.LittleEndian.Uint64(q[24:]) ^ e
		if d&mask != 0 {
			break
		}
	}
	for ; i+8 <= len(b); i += 8 {
		if (binary.LittleEndian.Uint64(b[i:])^e)&mask != 0 {
			break
		}
	}
	return i / 8
}

// ascending counts the entries at the beginning of b of which each is the one
// before plus step, the first being e, and all equal in the bits of mask.
func ascending(b []byte, e, step, mask uint64) int {
	i, next := 8, e+step
	for ; i+32 <= len(b); i += 32 {
		q := b[i : i+32 : i+32]
		d := binary.LittleEndian.Uint64(q) ^ next
		d |= binary.LittleEndian.Uint64(q[8:]) ^ (next + step)
		d |= binary.LittleEndian.Uint64(q[16:]) ^ (next + 2*step)
		d |= binary.LittleEndian.Uint64(q[24:]) ^ (next + 3*step)
		// The address of a run may not carry into other bits: by the last
		// of four it would have.
		if d|((next+3*step)^e)&mask != 0 {
			break
		}
		next += 4 * step
	}
	for ; i+8 <= len(b); i += 8 {
		if binary.LittleEndian.Uint64(b[i:]) != next || (next^e)&mask != 0 {
			break
		}
		next += step
	}
	return i / 8
}

// End is how a translation ends.
type End uint8

// The ways in which a translation ends.
const (
	Mapped       End = iota // at a page
	NotPresent              // at an entry that is not present
	Reserved                // at an entry of a reserved form
	NotReadable             // at a table that cannot be read
	OutsideRange            // before the first table: the address is none that is translated
	NoAccess                // at an entry that gives nobody access
)

func (e End) String() string {
	return [...]string{"mapped", "not present", "reserved", "table not readable", "outside the translated range", "no access"}[e]
}

// Step is one table entry on the way of a translation.
type Step struct {
	Name  string // the manual's name for the entry, such as "PDPTE" or "level 2"
	Table uint64 // physical address of its table
	Index int    // its number in it
	Addr  uint64 // its physical address
	Value uint64
	Flags string // spelled out
}

// Path is the way of one address through the tables.
type Path struct {
	Mode  string // the paging mode, such as "x86-64, 4 levels"
	VA    uint64 // the address, without the tag it may have had
	Steps []Step // from the root down
	End   End
	Why   string   // one line: where it ends, and why
	Err   error    // NotReadable: what reading said
	Notes []string // as in Result; the caller's

	// Where End is Mapped:
	Phys     uint64 // what VA is mapped to
	PageSize uint64 // in bytes
	Access   Access
	Flags    Flags
}

// Translate follows va through the tables of mmu. The error says that the
// registers stand for no translation, as with Walk; a translation that fails is
// no error.
func Translate(mem Phys, mmu MMU, va uint64) (*Path, error) {
	r, err := mmu.regime()
	if err != nil {
		return nil, err
	}
	if r.strip != nil {
		va = r.strip(va)
	}
	path := &Path{Mode: r.mode, VA: va, End: OutsideRange, Notes: r.notes}
	for i := range r.parts {
		p := &r.parts[i]
		off := va - p.base
		if off < p.lo || off > p.hi {
			continue
		}
		if p.off != "" {
			path.Why = p.off
			return path, nil
		}
		path.follow(mem, p, off)
		if domain, ok := path.Flags.domain(); ok && r.domains != nil {
			path.Notes = append(path.Notes, r.domains(1<<domain)...)
		}
		return path, nil
	}
	path.Why = fmt.Sprintf("%#x is no address that %s translates", va, r.mode)
	return path, nil
}

func (path *Path) follow(mem Phys, p *part, off uint64) {
	pa, in := p.root, inherited(0)
	for level := p.top; ; level-- {
		index := int(off>>p.shift(level)) & (p.entries(level) - 1)
		name := p.name(level)
		s := Step{Name: name, Table: pa, Index: index, Addr: pa + uint64(index*p.entryBytes())}
		var buf [8]byte
		if err := mem.ReadPhys(buf[:p.entryBytes()], s.Addr); err != nil {
			path.End, path.Err = NotReadable, err
			path.Why = fmt.Sprintf("the %s entry at %#x cannot be read: %v", name, s.Addr, err)
			return
		}
		s.Value = p.entryAt(buf[:])
		s.Flags = p.describe(level, s.Value)
		path.Steps = append(path.Steps, s)
		d := p.decode(level, index, s.Value, in)
		switch d.kind {
		case absent:
			path.End = NotPresent
			path.Why = fmt.Sprintf("the %s entry is not present", name)
			return
		case reserved:
			path.End = Reserved
			path.Why = fmt.Sprintf("the %s entry is reserved: %s (%#x)", name, d.why, d.bad)
			return
		case denied:
			path.End = NoAccess
			path.Why = fmt.Sprintf("the %s entry lets nobody access its page: %s", name, d.why)
			return
		case leaf:
			size := uint64(1) << p.shift(level)
			path.End = Mapped
			path.Phys, path.PageSize = d.pa|off&(size-1), size
			path.Access, path.Flags = d.access, d.flags
			path.Notes = append(path.Notes, d.flags.notes()...)
			path.Why = fmt.Sprintf("the %s entry maps a page of %s", name, sizeName(size))
			return
		}
		pa, in = d.pa, d.in
	}
}

// sizeName is a power of two in the largest unit that it is a multiple of.
func sizeName(size uint64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for size >= 1<<10 && i < len(units)-1 {
		size >>= 10
		i++
	}
	return fmt.Sprintf("%d %s", size, units[i])
}
