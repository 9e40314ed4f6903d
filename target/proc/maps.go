// Package proc is the processes of this machine without GDB: their memory and
// which pages of it exist, their threads and maps, their sockets and who owns
// them, as procfs and the kernel's calls tell of them (proc(5)).
package proc

import (
	"bytes"
	"strconv"

	"dbgsh/vm"
)

// ParseMaps reads the text of /proc/PID/maps, proc_pid_maps(5). Every name is
// kept byte for byte as the kernel wrote it (it writes a newline in a name as
// \012). The error is a *ParseError.
func ParseMaps(text []byte) ([]vm.Mapping, error) {
	ms := make([]vm.Mapping, 0, bytes.Count(text, []byte{'\n'}))
	for line := 1; len(text) > 0; line++ {
		row, rest, _ := bytes.Cut(text, []byte{'\n'})
		m, why := parseMapsLine(row)
		if why != "" {
			return nil, &vm.ParseError{Line: line, Text: string(row), Why: why}
		}
		ms = append(ms, m)
		text = rest
	}
	return ms, nil
}

// parseMapsLine reads one line; why is not empty where it cannot.
func parseMapsLine(row []byte) (m vm.Mapping, why string) {
	var f [5][]byte
	rest := row
	for i := range f {
		var found bool
		if f[i], rest, found = bytes.Cut(rest, []byte{' '}); !found && i < 4 {
			return m, "fewer than five fields"
		}
	}
	lo, hi, _ := bytes.Cut(f[0], []byte{'-'})
	start, err1 := strconv.ParseUint(string(lo), 16, 64)
	end, err2 := strconv.ParseUint(string(hi), 16, 64)
	if err1 != nil || err2 != nil || end <= start {
		return m, "no range of addresses"
	}
	m.Range = vm.Range{Start: start, Size: end - start}
	var err error
	if m.Perm, err = vm.ParsePerm(f[1]); err != nil {
		return m, err.Error()
	}
	if m.Offset, err = strconv.ParseUint(string(f[2]), 16, 64); err != nil {
		return m, "no offset"
	}
	if m.Inode, err = strconv.ParseUint(string(f[4]), 10, 64); err != nil {
		return m, "no inode"
	}
	// The kernel pads with spaces up to the name, and no name of its making
	// begins with one: a path is absolute (fs/proc/task_mmu.c, show_map_vma).
	m.Name = string(bytes.TrimLeft(rest, " "))
	m.Source = vm.SourceProcfs
	return m, ""
}
