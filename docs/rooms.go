package main

import (
	"go/build"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// module is the path of the module, where the rooms are.
const module = "dbgsh"

// room is a package by the house's rules.
type room struct {
	path  string   // below the module
	floor int      // imports go to lower ones only
	may   []string // the rooms that it may import
	what  string   // what lives there, in Markdown
	// aside says that it is no room of dbgsh's: what the tests and the
	// documentation need.
	aside bool
}

// below, in room.may, stands for all rooms of lower floors.
const below = "all below"

// rooms is all packages, from the top down: a new one takes a line here.
func rooms() []room {
	return []room{
		{path: "cmd/dbgsh", floor: 7, may: []string{below}, what: "`main`: flags, wiring, exit status"},
		{path: "repl", floor: 6, may: []string{"commands"}, what: "lines in, results out: prompt, history, completion, scripts, pipelines, Ctrl-C, pager, rendering"},
		{path: "commands", floor: 5, may: []string{"target", "vm", "vm/search", "vm/image", "pt"}, what: "the registry, and one file for each command; a command prints nothing, it returns a result"},
		{path: "target", floor: 4, may: []string{below}, what: "what is debugged: its kind, one `source` for each kind in a file of its own, and the view"},
		{path: "target/qemusys", floor: 3, may: []string{"target/gdb", "target/proc", "vm", "pt"}, what: "a machine in QEMU: its CPU's registers, where its memory lies, page tables, the monitor's texts"},
		{path: "target/qemuuser", floor: 3, may: []string{"target/gdb", "target/proc", "vm", "vm/image"}, what: "a program in QEMU's user mode: the ways to its map, its memory in QEMU's process"},
		{path: "target/gdb", floor: 2, may: []string{"target/mi", "vm", "vm/image"}, what: "one GDB: start, turns, console, questions, packets, expressions, memory through it, the inferior's terminal; the texts GDB prints"},
		{path: "target/proc", floor: 2, may: []string{"vm"}, what: "processes of this machine without GDB: memory, pagemap, threads, sockets and their owners; procfs's texts"},
		{path: "target/mi", floor: 1, what: "the client of GDB/MI, which nothing that GDB prints, no death of it and no Ctrl-C may harm; alone imports `cyrus-and/gdb`"},
		{path: "vm/search", floor: 1, may: []string{"vm"}, what: "the search: matchers, scan, hits, searching again among hits"},
		{path: "vm/image", floor: 1, may: []string{"vm"}, what: "ELF files, core files, the auxiliary vector, the dynamic linker's list"},
		{path: "vm", floor: 0, what: "permissions, mappings, ranges, maps, filters, the overlay of added pages, and what a reader of memory is and may be able to do (`reader.go`)"},
		{path: "pt", floor: 0, what: "page tables of x86, arm, arm64 and riscv, over an interface that reads physical memory"},

		{path: "internal/testkit/testgdb", floor: 2, may: []string{"internal/testkit", "target/gdb", "target/mi"}, aside: true},
		{path: "internal/testkit", aside: true},
		{path: "docs", aside: true},
	}
}

// roomOf is the room of that path, or nil.
func roomOf(path string) *room {
	for _, r := range rooms() {
		if r.path == path {
			return &r
		}
	}
	return nil
}

// allows reports whether the room may import another.
func (r *room) allows(other *room) bool {
	return slices.Contains(r.may, other.path) || slices.Contains(r.may, below) && !other.aside && other.floor < r.floor
}

// packages is the packages of the module, by their paths below it. They are read
// in this process, and not by go list, so that go test knows what its result
// hangs on and does not show that of before a change.
func packages(root string) (map[string]*build.Package, error) {
	pkgs := map[string]*build.Package{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); path != root && (name[0] == '.' || name[0] == '_' || name == "testdata") {
			return fs.SkipDir
		}
		p, err := build.ImportDir(path, 0)
		if _, none := err.(*build.NoGoError); none {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		pkgs[filepath.ToSlash(rel)] = p
		return err
	})
	return pkgs, err
}

// within is the imports of the module's own packages, by their paths below it.
func within(imports []string) []string {
	var own []string
	for _, path := range imports {
		if rel, ok := strings.CutPrefix(path, module+"/"); ok {
			own = append(own, rel)
		}
	}
	return own
}
