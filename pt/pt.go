// Package pt walks page tables: those of x86, arm64, arm and RISC-V, as the
// architecture manuals define them, over an interface that reads physical
// memory. It is pure: it knows no debugger, keeps no state between calls, and
// takes the CPU's set-up as plain register values.
//
// [Walk] lists everything that the tables map, [Translate] follows one address
// level by level.
package pt

import (
	"errors"
	"fmt"
	"strings"
)

// Phys reads physical memory.
type Phys interface {
	// ReadPhys fills p from physical address pa on, or fails. A page table
	// read is at most 64 KiB and never crosses a boundary of its own size.
	ReadPhys(p []byte, pa uint64) error
}

// MMU is the set-up of a CPU's address translation: [X86], [ARM64], [ARM32],
// [RISCV] or [Flat].
type MMU interface {
	// regime is what the registers say; the error wraps ErrPagingOff where
	// they say that nothing is translated.
	regime() (*regime, error)
}

// ErrPagingOff says that the CPU translates nothing: virtual addresses are
// physical ones.
var ErrPagingOff = errors.New("paging is off")

// Access says who may do what with a page. It holds what the tables of all
// levels say together, with the rules that are bound to them (arm64: WXN, no
// privileged execution of what EL0 may write, E0PD; RISC-V: S-mode executes no
// user page). Switches of the CPU that a system flips around single accesses,
// or that override tables as a whole (x86: CR0.WP, SMEP, SMAP, protection
// keys; arm64: PAN; arm: domains; RISC-V: SUM, MXR) are not applied;
// [Result].Notes names those that count. Nor is a clear accessed or dirty flag, upon which a CPU may
// fault to have software set it.
type Access uint8

// alsoDecide begins a note on switches that are not applied.
const alsoDecide = "not in the permissions: "

// The bits of an Access. Kernel is the privileged mode (x86: CPL 0 to 2,
// arm64: EL1 or EL2, arm: PL1, RISC-V: S-mode), user the unprivileged one (CPL 3,
// EL0, PL0, U-mode).
const (
	KernelRead Access = 1 << iota
	KernelWrite
	KernelExec
	UserRead
	UserWrite
	UserExec

	kernelAll = KernelRead | KernelWrite | KernelExec
	userAll   = UserRead | UserWrite | UserExec
)

// userShift leads from a kernel bit to the user bit of the same kind.
const userShift = 3

// Kernel is the kernel's permissions as three letters, "rwx" or less.
func (a Access) Kernel() string { return a.letters() }

// User is the user's permissions as three letters, "rwx" or less.
func (a Access) User() string { return (a >> userShift).letters() }

// UserAccessible reports whether the user may do anything with the page.
func (a Access) UserAccessible() bool { return a&userAll != 0 }

// String is KERNEL/USER, such as "rw-/---".
func (a Access) String() string { return a.Kernel() + "/" + a.User() }

func (a Access) letters() string {
	b := [3]byte{'-', '-', '-'}
	for i := range b {
		if a&(KernelRead<<i) != 0 {
			b[i] = "rwx"[i]
		}
	}
	return string(b[:])
}

// Flags is what a leaf entry says about its page beside address, size and
// permissions. Bits that only software uses are not in it.
type Flags uint32

// The single flags.
const (
	Global     Flags = 1 << iota // x86 G; arm64 and arm nG clear; RISC-V G at any level
	Accessed                     // x86 A; arm64 AF; arm AF, or AP[0] with SCTLR.AFE; RISC-V A
	Dirty                        // x86 D; RISC-V D
	PWT                          // x86: page-level write-through
	PCD                          // x86: page-level cache disable
	PAT                          // x86: bit 7 of a PTE, bit 12 of a large page's entry
	Contiguous                   // arm64, arm: one of a contiguous set of entries
	DBM                          // arm64: dirty bit modifier
	Guarded                      // arm64: GP, for branch target identification
	NonSecure                    // arm64, arm: NS
	NAPOT                        // RISC-V Svnapot: one of 16 entries that map 64 KiB

	hasAttrIndex // the three bits of attrIndex count, be they 0

	hasTEX Flags = 1 << 30 // those of arm's short descriptors count, be they 0
)

// The places of the fields with several bits.
const (
	shareShift  = 12 // two bits
	pbmtShift   = 14 // two bits
	attrShift   = 16 // three bits
	keyShift    = 20 // four bits; of arm the domain
	hasKeyShift = 24 // one bit: the key counts, be it 0
	texShift    = 25 // five bits: B, C, TEX
)

// shareability is arm64's SH field: 0 non-shareable, 2 outer, 3 inner; of arm's
// short descriptors S.
func (f Flags) shareability() int { return int(f >> shareShift & 3) }

// pbmt is RISC-V's page-based memory type: 0 PMA, 1 NC, 2 IO.
func (f Flags) pbmt() int { return int(f >> pbmtShift & 3) }

// attrIndex is the index into arm64's MAIR_ELx, 0 to 7; ok is false elsewhere.
func (f Flags) attrIndex() (index int, ok bool) {
	return int(f >> attrShift & 7), f&hasAttrIndex != 0
}

// protectionKey is x86's protection key, 0 to 15; ok is false where keys are off.
func (f Flags) protectionKey() (key int, ok bool) {
	return int(f >> keyShift & 15), f>>hasKeyShift&1 != 0
}

// domain is the domain of arm's short descriptors, 0 to 15; ok is false elsewhere.
func (f Flags) domain() (domain int, ok bool) { return int(f >> keyShift & 15), f&hasTEX != 0 }

// String names the flags that are set, such as "G A D PCD", in the manuals'
// short names.
func (f Flags) String() string {
	var w words
	// In the order of the single flags.
	for i, name := range [...]string{"G", "A", "D", "PWT", "PCD", "PAT", "CONT", "DBM", "GP", "NS", "NAPOT"} {
		w.add(f&(1<<i) != 0, name)
	}
	if d, ok := f.domain(); ok {
		w.add(f.shareability() != 0, "S")
		w.num(true, "TEX", uint64(f>>(texShift+2)&7))
		w.add(f>>(texShift+1)&1 != 0, "C")
		w.add(f>>texShift&1 != 0, "B")
		w.num(true, "DOMAIN", uint64(d))
		return w.String()
	}
	w.num(f.shareability() != 0, "SH", uint64(f.shareability()))
	w.add(f.pbmt() != 0, pbmtName(uint64(f.pbmt())))
	if i, ok := f.attrIndex(); ok {
		w.num(true, "ATTR", uint64(i))
	}
	if k, ok := f.protectionKey(); ok {
		w.num(true, "KEY", uint64(k))
	}
	return w.String()
}

// notes says what of the flags hangs on something that no register tells.
func (f Flags) notes() []string {
	if f&NAPOT == 0 {
		return nil
	}
	return []string{"there are NAPOT entries: a hart without Svnapot faults on them"}
}

// words collects what an entry has set.
type words struct{ list []string }

func (w *words) add(set bool, word string) {
	if set {
		w.list = append(w.list, word)
	}
}

func (w *words) num(set bool, word string, n uint64) {
	if set {
		w.list = append(w.list, fmt.Sprintf("%s=%d", word, n))
	}
}

func (w *words) String() string { return strings.Join(w.list, " ") }

// Row is one range of virtual addresses that are mapped alike.
//
// With Options.PTE it is one physically contiguous run of pages of one size,
// one access and the same flags; of a page of which another root table translates
// a part, as can be on arm, it is the other part. Without, it is one range of equal access, in
// which sizes, flags and physical addresses may vary.
type Row struct {
	Start, Size uint64 // in bytes; Start+Size may be 2^64; Size is never 0
	Phys        uint64 // where the first page lies
	Flags       Flags  // 0 without Options.PTE
	Access      Access
	PageShift   uint8 // log2 of the page size in bytes; 0 where sizes vary
}

// PageSize is the size in bytes of the pages that one entry each maps, or 0
// where the row's pages have several sizes. Members of a set that the flags
// call Contiguous or NAPOT count by themselves.
func (r Row) PageSize() uint64 {
	if r.PageShift == 0 {
		return 0
	}
	return 1 << r.PageShift
}

// Options say what Walk lists, and when it gives up. The zero value is a good one.
type Options struct {
	// PTE keeps apart what differs in physical address, page size or flags.
	PTE bool

	// First and Last, both included, bound the walk to what overlaps them;
	// pages are not cut in two. Last = 0 stands for the last address of all.
	First, Last uint64

	// maxRows bounds the rows; 0 stands for defaultMaxRows.
	maxRows int

	// maxWork bounds the work, in table entries looked at; entries that are
	// unlike their neighbours or lead to tables count for several. 0 stands for
	// defaultMaxWork. Tables can be made, by accident too, that take centuries.
	maxWork int
}

// The bounds when Options name none.
const (
	defaultMaxRows = 1 << 20 // 32 MiB of rows
	defaultMaxWork = 1 << 29 // the tables of nearly 2 TiB in 4 KiB pages; a few seconds
)

// Result is what a walk found.
type Result struct {
	Bits  int      // width of a virtual address: 32 or 64
	Rows  []Row    // by address; no two overlap, none could be merged further
	Notes []string // what else decides about accesses, one line each

	tables     int          // how many were read
	Unreadable []Unreadable // the first of the tables that could not be read
	Unread     int          // how many could not be read
	Cut        *Cut         // where the rows end too early; nil when they are all there
}

// Unreadable is a table that could not be read; nothing below it is listed.
type Unreadable struct {
	VA    uint64 // the first address that it would have translated
	Table uint64 // where the table should be
	Entry string // the kind of its entries, such as "PTE" or "level 3"
	Err   error
}

func (u Unreadable) Error() string {
	return fmt.Sprintf("read the table of %s entries at %#x, for address %#x on: %v", u.Entry, u.Table, u.VA, u.Err)
}

// Unwrap is why it could not be read.
func (u Unreadable) Unwrap() error { return u.Err }

// maxUnreadable bounds Result.Unreadable.
const maxUnreadable = 16

// Cut says that a walk stopped before the end: what is mapped at VA and above
// is not listed.
type Cut struct {
	VA     uint64
	ByRows bool // there were too many rows, else too much work
	Limit  int  // the bound that was reached
}

func (c *Cut) String() string {
	what := "table entries looked at"
	if c.ByRows {
		what = "rows"
	}
	return fmt.Sprintf("the walk stopped at %#x after %d %s: what is mapped from there on is not listed", c.VA, c.Limit, what)
}
