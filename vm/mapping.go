// Package vm says what the memory map of a debuggee is: permissions, mappings,
// ranges, maps, the filters that select from them, the pages that are added by hand,
// and what a reader of memory is and may be able to do. It is pure: it knows no
// GDB, no terminal, and keeps no state of its own but in the values it hands out.
package vm

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Source says where a mapping was read from.
type Source string

// The sources of mappings.
const (
	SourceProcfs   Source = "procfs"   // /proc/TID/maps, proc_pid_maps(5)
	SourceRemote   Source = "remote"   // /proc/TID/maps on the far side of a stub
	SourceGDB      Source = "gdb"      // GDB's "info proc mappings"
	SourceCore     Source = "core"     // a core file, core(5)
	SourceStub     Source = "stub"     // the memory regions that a stub declares
	SourceExplored Source = "explored" // found by reading
	SourceUser     Source = "user"     // added by vmmap_add
	SourceELF      Source = "elf"      // the headers of an ELF file, or of one in memory
	SourceQEMU     Source = "qemu"     // the map of the QEMU process that a program runs in
	SourceRule     Source = "rule"     // what every machine of its kind has there
	SourceNone     Source = "none"     // nothing: the address space as it is

	SourcePageTables Source = "page tables" // a CPU's page tables
	SourceMonitor    Source = "monitor"     // "info mem" of QEMU's monitor, page tables as well
	SourceMachine    Source = "machine"     // the physical memory of a machine in QEMU, or of one that was dumped
)

// Rank says which of two overlapping mappings knows more of a byte, its name
// above all: what was read of the debuggee, what the user says, or nothing.
func (s Source) Rank() int {
	switch s {
	case SourceNone:
		return 0
	case SourceUser, SourceELF, SourceExplored:
		return 1
	}
	return 2
}

// Range is the half-open range of Size bytes from Start. It never wraps;
// Start+Size may be 2^64.
type Range struct {
	Start, Size uint64
}

// Contains reports whether the byte at addr is in the range.
func (r Range) Contains(addr uint64) bool { return addr-r.Start < r.Size }

// Last is the address of the range's last byte; the range must not be empty.
func (r Range) Last() uint64 { return r.Start + (r.Size - 1) }

// Overlaps reports whether both ranges have a byte in common.
func (r Range) Overlaps(o Range) bool {
	return r.Size > 0 && o.Size > 0 && (r.Contains(o.Start) || o.Contains(r.Start))
}

// Valid reports whether the range ends at 2^64 or below.
func (r Range) Valid() bool { return r.Size == 0 || r.Last() >= r.Start }

// EndHex is the range's exclusive end in hex digits without 0x; it can show 2^64.
func (r Range) EndHex() string {
	end, carry := bits.Add64(r.Start, r.Size, 0)
	if carry != 0 {
		return fmt.Sprintf("1%016x", end)
	}
	return strconv.FormatUint(end, 16)
}

// String is 0xSTART-0xEND, the end exclusive.
func (r Range) String() string { return fmt.Sprintf("%#x-0x%s", r.Start, r.EndHex()) }

// Mapping is one line of a memory map: Size bytes of the debuggee's address
// space from Start. It never wraps; its end may be 2^64.
type Mapping struct {
	Range
	Perm   Perm
	Offset uint64 // into the file behind it, in bytes
	Inode  uint64 // of the file behind it; 0 for none or unknown
	Name   string // raw bytes, as the source gave them; "" for none
	// Derived says that the source does not give Name, which is concluded from
	// what else is known.
	Derived bool
	Source  Source
	Kept    Kept
	Paged   *Paged // what page tables say beside; nil for other sources
}

// Paged is what page tables say of a mapping beside its bounds. Its Perm is
// the user's where the user may access it at all, else the kernel's.
type Paged struct {
	Kernel string // the kernel's permissions as three letters, ? for unknown
	User   string // the user's
	// Phys is the physical address of the first page; what follows is
	// contiguous only where PageSize is not 0.
	Phys     uint64
	PageSize uint64 // of the pages in bytes; 0 where they were not kept apart
	Flags    string // of the pages' entries, such as "G A D"
	// Region is the part of the system's documented layout, "" for unknown. It
	// is derived from the address, not read.
	Region string
}

// Remark is Paged in words, for behind the mapping's name.
func (p *Paged) Remark() string {
	if p == nil {
		return ""
	}
	var words []string
	if p.User != "---" {
		word := "user"
		if p.Kernel != p.User {
			word += ", kernel " + p.Kernel
		}
		words = append(words, word)
	}
	if p.Region != "" {
		words = append(words, "derived: "+p.Region)
	}
	if p.PageSize != 0 {
		words = append(words, strings.TrimSpace(fmt.Sprintf("at %#x, pages of %#x %s", p.Phys, p.PageSize, p.Flags)))
	}
	return strings.Join(words, "; ")
}

// Kept says where the bytes of a mapping are when the process is no more: the
// first InCore in the core file, the FromFile that follow in the mapped file,
// which is known to be the same one, and the rest nowhere.
type Kept struct {
	Known            bool // false for memory that is alive
	InCore, FromFile uint64
}

// Absent is how many bytes of a mapping of size bytes are nowhere: its last ones.
func (k Kept) Absent(size uint64) uint64 {
	if !k.Known {
		return 0
	}
	return size - k.InCore - k.FromFile
}

// Clip is the part of the mapping that lies in r, which must overlap it.
func (m Mapping) Clip(r Range) Mapping {
	part := m.Intersect(r)
	skip := part.Start - m.Start
	if m.Inode != 0 || m.Offset != 0 {
		m.Offset += skip
	}
	if m.Kept.Known {
		core, file := m.Kept.InCore, m.Kept.FromFile
		m.Kept.InCore = min(core-min(core, skip), part.Size)
		skip -= min(core, skip)
		m.Kept.FromFile = min(file-min(file, skip), part.Size-m.Kept.InCore)
	}
	if m.Paged != nil && m.Paged.PageSize != 0 && part.Start != m.Start {
		paged := *m.Paged
		paged.Phys += part.Start - m.Start
		m.Paged = &paged
	}
	m.Range = part
	return m
}

// Anonymous reports whether the mapping is known to be private memory with no
// file behind it, so that its pages that do not exist read as zeros.
func (m Mapping) Anonymous() bool {
	switch m.Source {
	case SourceProcfs, SourceRemote, SourceQEMU:
	default:
		return false
	}
	if m.Inode != 0 || !m.Perm.IsNot(Shared) {
		return false
	}
	// Special mappings of the kernel have no inode but pages of their own.
	switch m.Name {
	case "[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[vectors]", "[sigpage]", "[uprobes]":
		return false
	}
	return m.Name == "" || strings.HasPrefix(m.Name, "[")
}

// KernelsOwn reports whether the mapping is one of those through which Linux shows
// a process memory of its own that other processes may not read: the timekeeping
// data behind the vDSO, and the page of old system calls (vdso(7)).
func (m Mapping) KernelsOwn() bool {
	switch m.Name {
	case "[vvar]", "[vvar_vclock]", "[vsyscall]":
		return true
	}
	return false
}

// Sparse reports whether a reader that is Sparse is to be asked what of the
// mapping can hold anything but zeros: private anonymous memory, and memory that
// a core keeps.
func (m Mapping) Sparse() bool { return m.Kept.Known || m.Anonymous() }

// Title is the name to show: the mapping's own, escaped so that it cannot
// drive a terminal, or for a mapping without one [anon_0xN] or, from page
// tables, [pt_0xN], and of physical memory [phys_0xN], N being its start above
// the low 12 bits.
func (m Mapping) Title() string {
	if m.Name == "" {
		return m.anonName()
	}
	return Escape(m.Name)
}

// AppendTitle appends Title to b.
func (m *Mapping) AppendTitle(b []byte) []byte {
	if m.Name == "" {
		return m.appendAnonName(b)
	}
	return append(b, Escape(m.Name)...)
}

func (m *Mapping) anonName() string { return string(m.appendAnonName(nil)) }

func (m *Mapping) appendAnonName(b []byte) []byte {
	kind := "[anon_0x"
	switch m.Source {
	case SourcePageTables, SourceMonitor:
		kind = "[pt_0x"
	case SourceMachine:
		kind = "[phys_0x"
	}
	return append(strconv.AppendUint(append(b, kind...), m.Start>>12, 16), ']')
}

// ShortTitle is Title without the directories of a file name.
func (m Mapping) ShortTitle() string {
	t := m.Title()
	if i := strings.LastIndexByte(t, '/'); i >= 0 && i+1 < len(t) && strings.HasPrefix(t, "/") {
		return t[i+1:]
	}
	return t
}

// Escape shows raw bytes as text that cannot drive a terminal: control and
// other unprintable characters, and bytes that are no UTF-8, come as \xNN for
// each of their bytes; everything else is unchanged.
func Escape(raw string) string {
	i := 0
	for i < len(raw) && ' ' <= raw[i] && raw[i] <= '~' {
		i++
	}
	if i == len(raw) {
		return raw
	}
	var b strings.Builder
	b.WriteString(raw[:i])
	for i < len(raw) {
		r, n := utf8.DecodeRuneInString(raw[i:])
		if (r == utf8.RuneError && n == 1) || !unicode.IsPrint(r) {
			for _, c := range []byte(raw[i : i+n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		} else {
			b.WriteString(raw[i : i+n])
		}
		i += n
	}
	return b.String()
}
