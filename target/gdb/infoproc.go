package gdb

import (
	"strconv"
	"strings"

	"dbgsh/vm"
)

// ParseInfoProc reads the rows that GDB's "info proc mappings" prints: start,
// end, size, offset, since GDB 12 permissions, and a name. GDB cuts the blanks
// at the ends of a name. Text without rows gives none. The error is a *vm.ParseError.
func ParseInfoProc(text string) ([]vm.Mapping, error) {
	var ms []vm.Mapping
	n, perms := 0, false
	for row := range strings.Lines(text) {
		n++
		row = strings.TrimRight(row, "\r\n")
		rest := strings.TrimLeft(row, " \t")
		if strings.HasPrefix(rest, "Start Addr") {
			perms = strings.Contains(rest, "Perms")
			continue
		}
		if !strings.HasPrefix(rest, "0x") {
			continue // a sentence
		}
		var nums [4]uint64
		for i := range nums {
			var word string
			word, rest, _ = strings.Cut(rest, " ")
			rest = strings.TrimLeft(rest, " ")
			v, err := strconv.ParseUint(word, 0, 64)
			if err != nil {
				return nil, &vm.ParseError{Line: n, Text: row, Why: "fewer than four numbers"}
			}
			nums[i] = v
		}
		if nums[1] <= nums[0] || nums[1]-nums[0] != nums[2] {
			return nil, &vm.ParseError{Line: n, Text: row, Why: "no range of addresses"}
		}
		m := vm.Mapping{Range: vm.Range{Start: nums[0], Size: nums[2]}, Offset: nums[3], Source: vm.SourceGDB}
		if perms {
			word, after, _ := strings.Cut(rest, " ")
			p, err := vm.ParsePerm([]byte(word))
			if err != nil {
				return nil, &vm.ParseError{Line: n, Text: row, Why: err.Error()}
			}
			m.Perm, rest = p, strings.TrimLeft(after, " ")
		}
		m.Name = rest
		ms = append(ms, m)
	}
	vm.Sort(ms)
	return ms, nil
}
