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
// \012). The error is a *vm.ParseError.
func ParseMaps(text []byte) ([]vm.Mapping, error) {
	ms := make([]vm.Mapping, bytes.Count(text, []byte{'\n'})+1) // the last line may lack its end
	n := 0
	name := "" // the last one: a file's mappings follow each other
	for ; len(text) > 0; n++ {
		row, rest, _ := bytes.Cut(text, []byte{'\n'})
		if why := parseMapsLine(&ms[n], row, name); why != "" {
			return nil, &vm.ParseError{Line: n + 1, Text: string(row), Why: why}
		}
		name = ms[n].Name
		text = rest
	}
	return ms[:n], nil
}

// parseMapsLine reads one line into m, which is zero; why is not empty where it
// cannot. A name equal to the one given is not made anew.
func parseMapsLine(m *vm.Mapping, row []byte, name string) (why string) {
	start, rest, ok1 := cutHex(row, '-')
	end, rest, ok2 := cutHex(rest, ' ')
	if !ok1 || !ok2 || end <= start {
		return whyNot(row, "no range of addresses")
	}
	m.Range = vm.Range{Start: start, Size: end - start}
	perm, rest := cutField(rest)
	var err error
	if m.Perm, err = vm.ParsePerm(perm); err != nil {
		return whyNot(row, err.Error())
	}
	var ok bool
	if m.Offset, rest, ok = cutHex(rest, ' '); !ok {
		return whyNot(row, "no offset")
	}
	_, rest = cutField(rest) // the device
	inode, rest := cutField(rest)
	if m.Inode, err = strconv.ParseUint(string(inode), 10, 64); err != nil {
		return whyNot(row, "no inode")
	}
	// The kernel pads with spaces up to the name, and no name of its making
	// begins with one: a path is absolute (fs/proc/task_mmu.c, show_map_vma).
	if rest = bytes.TrimLeft(rest, " "); string(rest) != name {
		name = string(rest)
	}
	m.Name = name
	m.Source = vm.SourceProcfs
	return ""
}

// whyNot says what is wrong with a row in which why was met first.
func whyNot(row []byte, why string) string {
	if bytes.Count(row, []byte{' '}) < 4 {
		return "fewer than five fields"
	}
	return why
}

// cutField is what stands before the first space, and what stands behind it.
func cutField(text []byte) (field, rest []byte) {
	for i, c := range text {
		if c == ' ' {
			return text[:i], text[i+1:]
		}
	}
	return text, nil
}

// cutHex reads the hex digits before the first sep as strconv.ParseUint does; rest
// is what stands behind it. Most of a map's text is such digits.
func cutHex(text []byte, sep byte) (v uint64, rest []byte, ok bool) {
	for i, c := range text {
		var digit byte
		switch {
		case c-'0' <= 9:
			digit = c - '0'
		case (c|0x20)-'a' <= 5:
			digit = (c | 0x20) - 'a' + 10
		default:
			return v, text[i+1:], c == sep && i > 0
		}
		if v>>60 != 0 {
			break
		}
		v = v<<4 | uint64(digit)
	}
	return 0, nil, false
}
