package gdb

import (
	"fmt"
	"strconv"
	"strings"

	"dbgsh/vm"
)

// ParseInfoMem reads what GDB's "info mem" prints of the memory regions that a
// stub declares (GDB's manual, Memory Region Attributes): rows like
//
//	0   y  	0x08000000 0x08100000 flash blocksize 0x800 nocache
//
// in which a region that is not enabled has n for y, and one that reaches to the
// end of the address space has 0 for its end. The error is a *vm.ParseError.
func ParseInfoMem(text string) ([]vm.Mapping, error) {
	var ms []vm.Mapping
	n := 0
	for row := range strings.Lines(text) {
		n++
		row = strings.TrimRight(row, "\r\n")
		f := strings.Fields(row)
		if len(f) < 4 || f[1] != "y" && f[1] != "n" {
			continue // a sentence, or the heading
		}
		lo, err1 := strconv.ParseUint(f[2], 0, 64)
		hi, err2 := strconv.ParseUint(f[3], 0, 64)
		if err1 != nil || err2 != nil || hi != 0 && hi <= lo || hi == 0 && lo == 0 {
			return nil, &vm.ParseError{Line: n, Text: row, Why: "no range of addresses"}
		}
		if f[1] == "n" {
			continue
		}
		m := vm.Mapping{Range: vm.Range{Start: lo, Size: hi - lo}, Source: vm.SourceStub, Name: fmt.Sprintf("[region %s]", f[0])}
		for _, attr := range f[4:] {
			switch attr {
			case "rw":
				m.Perm = vm.KnownRead | vm.KnownWrite | vm.Read | vm.Write
			case "ro":
				m.Perm = vm.KnownRead | vm.KnownWrite | vm.Read
			case "wo":
				m.Perm = vm.KnownRead | vm.KnownWrite | vm.Write
			case "flash":
				m.Perm, m.Name = vm.KnownRead|vm.Read, "[flash]"
			}
		}
		ms = append(ms, m)
	}
	vm.Sort(ms)
	return ms, nil
}
