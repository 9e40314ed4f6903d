package image

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"dbgsh/vm"
)

// ErrNotCore says that a file is an ELF file but no core.
var ErrNotCore = errors.New("not a core file")

// CoreFile is a file that a core names, opened for reading.
type CoreFile interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// CoreOptions say what is at hand beside the core file itself.
type CoreOptions struct {
	// Open opens a file by the path that the core gives it; nil where no file
	// is to be opened. The path comes from the core and may name anything:
	// Open must refuse what is no regular file, and must not block.
	Open func(path string) (CoreFile, error)
	// Exe is the path to open for the program instead of the core's; "" for that.
	Exe string
}

// Core is the memory of a process, or of a machine, as a core file keeps it. It is a Mapper and a
// Reader. All but Close may be called concurrently. The program headers are not
// kept: Progs is nil.
type Core struct {
	*ELF
	// Auxv is the auxiliary vector; nil where the core has none.
	Auxv Auxv
	// Threads are in the core's order: the one that the signal hit comes first.
	Threads []CoreThread
	// Mappings are sorted by start and do not overlap.
	Mappings []CoreMapping
	// Files are the files that could supply bytes which the core has not, in
	// the order of their first mapping; nil without CoreOptions.Open.
	Files []CoreFileUse
	// Missing counts the bytes that the core announces and, being cut off,
	// does not hold.
	Missing uint64
	// Physical says that the core is not of a process but the physical memory of
	// a machine, by its physical addresses, as QEMU's monitor dumps it.
	Physical bool
	// Notes say what the core cannot tell, one sentence each.
	Notes []string

	r       io.ReaderAt
	size    uint64
	mem     coreExtents
	objects []object    // sorted by start
	exeName string      // the program's path as the core has it
	byGDB   bool        // written by gcore
	byQEMU  bool        // has a note of QEMU's
	fileMap []fileRange // NT_FILE
	hasFile bool        // there was an NT_FILE
	opened  map[string]CoreFile
}

// CoreThread is a thread as its NT_PRSTATUS shows it.
type CoreThread struct {
	ID int // the thread's id in its PID namespace
	SP uint64
	// HasSP is false where the layout of the machine's registers is not known.
	HasSP bool
}

// CoreMapping is a mapping of a core with where its bytes are: the first InCore
// in the core file, the FromFile that follow in the mapped file, the rest
// nowhere.
type CoreMapping struct {
	vm.Mapping
	// Backed says that the file Name is mapped here at Offset.
	Backed bool
	// InCore and FromFile are bytes; FromFile only counts bytes of files whose
	// build-id is the one in the core, as is what the core has of them.
	InCore, FromFile uint64

	off    uint64 // of the bytes in the core file
	loaded bool   // a PT_LOAD segment announces it
}

// Absent is how many of the mapping's bytes are nowhere: its last ones.
func (m *CoreMapping) Absent() uint64 { return m.Size - m.InCore - m.FromFile }

// CoreFileUse says whether a mapped file's bytes are used.
type CoreFileUse struct {
	Path string // as the core names it
	// Err is why they are not; nil where they are.
	Err error
}

// fileRange is a range that a file, or nothing, is known to be mapped to.
type fileRange struct {
	vm.Range
	offset uint64
	name   string
	backed bool
}

// OpenCore reads what a core file of size bytes says of its process; the core
// is read on as long as it is used. Any class, byte order and machine will do,
// and a core that is cut off gives what is left of it. Memory is bounded by what
// the file really holds, not by what it announces. The error wraps ErrNotELF,
// ErrNotCore or an *ELFError, or is r's or the context's own.
func OpenCore(ctx context.Context, r io.ReaderAt, size int64, opt CoreOptions) (*Core, error) {
	e, err := ReadELF(r)
	if err != nil {
		return nil, err
	}
	if e.Type != elf.ET_CORE {
		return nil, fmt.Errorf("%w: an ELF file of type %v", ErrNotCore, e.Type)
	}
	c := &Core{ELF: e, r: r, size: uint64(max(size, 0)), byGDB: e.shstrndx != 0}
	if err := c.readNotes(ctx); err != nil {
		return nil, err
	}
	if c.Physical = c.isDump(); c.Physical {
		c.byGDB, c.Threads, c.Notes = false, nil, nil // which are about processes
	}
	c.segments()
	c.mem = c.ownExtents()
	if c.Physical {
		return c, nil
	}
	if opt.Open != nil {
		c.opened = map[string]CoreFile{}
	}
	exe := c.name(ctx, opt)
	var files *mappedFiles
	if opt.Open != nil {
		files = c.newFiles(opt)
		files.useFiles(ctx)
	}
	c.nameHeap(ctx, exe, files)
	if err := ctx.Err(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Map is the core's map; it never fails.
func (c *Core) Map(context.Context) (*vm.Map, error) {
	m := &vm.Map{AddressBits: c.AddressBits(), Notes: c.Notes, Partial: c.partial(), From: vm.Origin{Source: c.source()}, Mappings: make([]vm.Mapping, len(c.Mappings))}
	for i := range c.Mappings {
		m.Mappings[i] = c.Mappings[i].Mapping
		m.Mappings[i].Kept = vm.Kept{Known: true, InCore: c.Mappings[i].InCore, FromFile: c.Mappings[i].FromFile}
	}
	return m, nil
}

// Close closes the mapped files; the core file stays open.
func (c *Core) Close() error {
	var errs []error
	for _, f := range c.opened {
		errs = append(errs, f.Close())
	}
	c.opened = nil
	return errors.Join(errs...)
}

// isDump reports whether the core is of a machine's physical memory, as QEMU writes
// it (dump/dump.c, write_elf64_loads and create_header64): p_flags says nothing,
// p_paddr is the address, and e_ehsize is the size of a pointer. On x86 each CPU has
// a note of QEMU's own too.
func (c *Core) isDump() bool {
	loads, placed, moved := 0, false, false
	for i := range c.Progs {
		if p := &c.Progs[i]; p.Type == elf.PT_LOAD {
			if p.Flags != 0 {
				return false
			}
			loads++
			placed = placed || p.Paddr != 0 // it is 0 in cores of processes
			moved = moved || p.Vaddr != p.Paddr
		}
	}
	return loads > 0 && (c.byQEMU || c.ehsize == 8 || placed && !moved && c.Auxv == nil)
}

// source is where the mappings are from.
func (c *Core) source() vm.Source {
	if c.Physical {
		return vm.SourceMachine
	}
	return vm.SourceCore
}

// segments makes c.Mappings of the PT_LOAD segments, sorted and disjoint, with
// the permissions and the bytes of each.
func (c *Core) segments() {
	var broken, overlapping int
	c.Mappings = make([]CoreMapping, 0, len(c.Progs))
	for _, p := range c.Progs {
		if p.Type != elf.PT_LOAD || p.Memsz == 0 {
			continue
		}
		m := CoreMapping{loaded: true, off: p.Off}
		m.Range = vm.Range{Start: p.Vaddr, Size: p.Memsz}
		if c.Physical {
			m.Start = p.Paddr
		}
		if m.Start > c.addressMask() || p.Memsz-1 > c.addressMask()-m.Start {
			broken++
			continue
		}
		m.Source = c.source()
		if !c.Physical {
			m.Perm = permOf(p.Flags)
		}
		if c.byGDB {
			// GDB's gcore gives every segment PF_R (gdb/gcore.c, make_output_phdrs).
			m.Perm &^= vm.Read | vm.KnownRead
		}
		want := min(p.Filesz, p.Memsz)
		if p.Off < c.size {
			m.InCore = min(want, c.size-p.Off)
		}
		c.Missing += want - m.InCore
		c.Mappings = append(c.Mappings, m)
	}
	// Progs are no longer needed, and of a large core they are large.
	c.Progs = nil
	slices.SortStableFunc(c.Mappings, func(a, b CoreMapping) int { return cmp.Compare(a.Start, b.Start) })
	out := c.Mappings[:0]
	for _, m := range c.Mappings {
		if n := len(out); n > 0 && m.Start <= out[n-1].Last() {
			// With -p QEMU writes a segment for each virtual address of the same bytes.
			if !c.Physical || m.off-m.Start != out[n-1].off-out[n-1].Start {
				overlapping++
			}
			if m.Last() <= out[n-1].Last() {
				continue
			}
			m = m.from(out[n-1].Last() + 1)
		}
		out = append(out, m)
	}
	c.Mappings = out
	if broken > 0 {
		c.notef("segments left out because they go beyond the end of the address space: %d", broken)
	}
	if overlapping > 0 {
		c.notef("segments that overlap one which begins earlier and is shown in their place: %d", overlapping)
	}
}

// from is m without what is below addr, which m contains.
func (m CoreMapping) from(addr uint64) CoreMapping {
	skip := addr - m.Start
	m.Start, m.Size = addr, m.Size-skip
	m.off += min(skip, m.InCore)
	m.InCore -= min(skip, m.InCore)
	if m.Backed {
		m.Offset += skip
	}
	return m
}

// to is m without what is from addr on, which m contains and does not begin at.
func (m CoreMapping) to(addr uint64) CoreMapping {
	m.Size = addr - m.Start
	m.InCore = min(m.InCore, m.Size)
	return m
}

// layFiles puts the names and offsets of rs, sorted and disjoint, on the
// mappings, which are split where a range ends inside one. With add, what no
// segment covers becomes a mapping of which only the file is known.
func (c *Core) layFiles(rs []fileRange, add bool) {
	if len(rs) == 0 {
		return
	}
	out := make([]CoreMapping, 0, len(c.Mappings)+len(rs))
	rest := c.Mappings
	for _, r := range rs {
		for len(rest) > 0 && rest[0].Last() < r.Start {
			out, rest = append(out, rest[0]), rest[1:]
		}
		for done := false; !done; {
			var next CoreMapping
			switch {
			case len(rest) > 0 && rest[0].Contains(r.Start):
				if rest[0].Start < r.Start {
					out = append(out, rest[0].to(r.Start))
					rest[0] = rest[0].from(r.Start)
				}
				next = rest[0]
				if next.Last() > r.Last() {
					next = next.to(r.Last() + 1)
					rest[0] = rest[0].from(r.Last() + 1)
				} else {
					rest = rest[1:]
				}
			default:
				next.Range, next.Source = r.Range, vm.SourceCore
				if len(rest) > 0 && rest[0].Start <= r.Last() {
					next.Size = rest[0].Start - r.Start
				}
			}
			next.Name, next.Offset, next.Backed = r.name, r.offset, r.backed
			if next.loaded || add {
				out = append(out, next)
			}
			if done = next.Size == r.Size; !done {
				r.Start, r.Size = r.Start+next.Size, r.Size-next.Size
				if r.backed {
					r.offset += next.Size
				}
			}
		}
	}
	c.Mappings = append(out, rest...)
}

// at is the index of the mapping that holds addr, or -1.
func (c *Core) at(addr uint64) int {
	i, _ := slices.BinarySearchFunc(c.Mappings, addr, func(m CoreMapping, a uint64) int {
		switch {
		case m.Contains(a):
			return 0
		case m.Start > a:
			return 1
		}
		return -1
	})
	if i < len(c.Mappings) && c.Mappings[i].Contains(addr) {
		return i
	}
	return -1
}

func (c *Core) notef(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

// partial is what the core is known not to tell of the map.
func (c *Core) partial() []vm.Lack {
	lacks := []vm.Lack{{Of: vm.LackDetails, Why: "a core does not say which mappings are shared, nor what inode a file had"}}
	if c.Physical {
		lacks = []vm.Lack{
			{Of: vm.LackMappings, Why: "a dump of a machine's physical memory, by physical addresses: page tables of dumps are not walked yet"},
			{Of: vm.LackPermissions, Why: "the dump does not say what may be accessed"},
		}
	}
	if c.byGDB {
		lacks = append(lacks, vm.Lack{Of: vm.LackMappings, Why: "the core was written by GDB, which keeps no read permission and leaves mappings out"})
	}
	if c.Cut > 0 {
		lacks = append(lacks, vm.Lack{Of: vm.LackMappings, Why: fmt.Sprintf("the core is cut off: segments missing: %d", c.Cut)})
	}
	if c.Missing > 0 {
		lacks = append(lacks, vm.Lack{Of: vm.LackDetails, Why: fmt.Sprintf("the core is cut off: bytes of memory missing: %d", c.Missing)})
	}
	return lacks
}
