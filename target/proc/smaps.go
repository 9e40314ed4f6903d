package proc

import (
	"bytes"
	"strconv"
	"strings"

	"dbgsh/vm"
)

// Smap is one mapping of /proc/PID/smaps.
type Smap struct {
	vm.Mapping
	// VMFlags are the kernel's two-letter flags between single spaces, as in
	// "rd wr mr mw me ac sd"; "" where the kernel shows none.
	VMFlags string
	Rss     uint64 // bytes of it that are in RAM, the zero page aside
}

// HasFlag reports whether the kernel shows the two-letter flag.
func (s *Smap) HasFlag(flag string) bool {
	for rest := s.VMFlags; rest != ""; {
		var f string
		if f, rest, _ = strings.Cut(rest, " "); f == flag {
			return true
		}
	}
	return false
}

// ParseSmaps reads the text of /proc/PID/smaps, proc_pid_smaps(5). The error is
// a *vm.ParseError.
func ParseSmaps(text []byte) ([]Smap, error) {
	var ms []Smap
	for line := 1; len(text) > 0; line++ {
		row, rest, _ := bytes.Cut(text, []byte{'\n'})
		text = rest
		// A field is "Name:  value"; the first word of a mapping holds no colon.
		key, value, _ := bytes.Cut(row, []byte{' '})
		if !bytes.HasSuffix(key, []byte{':'}) {
			var m Smap
			if why := parseMapsLine(&m.Mapping, row, ""); why != "" {
				return nil, &vm.ParseError{Line: line, Text: string(row), Why: why}
			}
			ms = append(ms, m)
			continue
		}
		if len(ms) == 0 {
			return nil, &vm.ParseError{Line: line, Text: string(row), Why: "a field before any mapping"}
		}
		switch m := &ms[len(ms)-1]; string(key) {
		case "VmFlags:":
			m.VMFlags = string(bytes.TrimSpace(value))
		case "Rss:":
			kib, _ := bytes.CutSuffix(bytes.TrimSpace(value), []byte(" kB"))
			n, err := strconv.ParseUint(string(kib), 10, 54)
			if err != nil {
				return nil, &vm.ParseError{Line: line, Text: string(row), Why: "no size"}
			}
			m.Rss = n << 10
		}
	}
	return ms, nil
}
