package vm

import (
	"bytes"
	"fmt"
	"strconv"
)

// ParseError says which line of a text could not be read as a mapping.
type ParseError struct {
	Line int    // counted from 1
	Text string // the line
	Why  string
}

func (e *ParseError) Error() string {
	text := e.Text
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return fmt.Sprintf("line %d: %s: %q", e.Line, e.Why, text)
}

// ParseMaps reads the text of /proc/PID/maps, proc_pid_maps(5). Every name is
// kept byte for byte as the kernel wrote it (it writes a newline in a name as
// \012). The error is a *ParseError.
func ParseMaps(text []byte) ([]Mapping, error) {
	ms := make([]Mapping, 0, bytes.Count(text, []byte{'\n'}))
	for line := 1; len(text) > 0; line++ {
		row, rest, _ := bytes.Cut(text, []byte{'\n'})
		m, why := parseMapsLine(row)
		if why != "" {
			return nil, &ParseError{Line: line, Text: string(row), Why: why}
		}
		ms = append(ms, m)
		text = rest
	}
	return ms, nil
}

// parseMapsLine reads one line; why is not empty where it cannot.
func parseMapsLine(row []byte) (m Mapping, why string) {
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
	m.Range = Range{Start: start, Size: end - start}
	if m.Perm, why = parsePermLetters(f[1]); why != "" {
		return m, why
	}
	var err error
	if m.Offset, err = strconv.ParseUint(string(f[2]), 16, 64); err != nil {
		return m, "no offset"
	}
	if m.Inode, err = strconv.ParseUint(string(f[4]), 10, 64); err != nil {
		return m, "no inode"
	}
	// The kernel pads with spaces up to the name, and no name of its making
	// begins with one: a path is absolute (fs/proc/task_mmu.c, show_map_vma).
	m.Name = string(bytes.TrimLeft(rest, " "))
	m.Source = SourceProcfs
	return m, ""
}

// parsePermLetters reads the four letters of the permission field.
func parsePermLetters(f []byte) (p Perm, why string) {
	if len(f) != 4 {
		return 0, "no permissions"
	}
	p = KnownAll
	for i, c := range f {
		switch {
		case c == "rwxs"[i]:
			p |= Read << i
		case c != "---p"[i]:
			return 0, "no permissions"
		}
	}
	return p, ""
}
