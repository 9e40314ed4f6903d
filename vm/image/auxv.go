package image

import (
	"encoding/binary"
	"fmt"
)

// AuxType is the type of an entry of the auxiliary vector.
type AuxType uint64

// The types that matter here (getauxval(3), linux/auxvec.h).
const (
	AuxNull        AuxType = 0
	AuxPhdr        AuxType = 3  // address of the program headers
	AuxPhent       AuxType = 4  // bytes of one program header
	AuxPhnum       AuxType = 5  // number of program headers
	AuxPageSize    AuxType = 6  // bytes
	AuxBase        AuxType = 7  // address of the interpreter
	AuxEntry       AuxType = 9  // entry point of the program
	AuxRandom      AuxType = 25 // address of 16 bytes on the first stack
	AuxExecFn      AuxType = 31 // address of the file name given to execve
	AuxSysinfoEhdr AuxType = 33 // address of the vDSO's ELF header
)

// AuxValue is one entry of the auxiliary vector.
type AuxValue struct {
	Type  AuxType
	Value uint64
}

// Auxv is an auxiliary vector without its AT_NULL.
type Auxv []AuxValue

// ParseAuxv reads an auxiliary vector of a machine with words of 4 or 8 bytes,
// up to AT_NULL. It fails where the bytes end before; what was whole is handed
// over all the same.
func ParseAuxv(b []byte, word int, order binary.ByteOrder) (Auxv, error) {
	if word != 4 && word != 8 {
		return nil, fmt.Errorf("auxiliary vector: words of %d bytes", word)
	}
	read := func(b []byte) uint64 {
		if word == 4 {
			return uint64(order.Uint32(b))
		}
		return order.Uint64(b)
	}
	var v Auxv
	for ; len(b) >= 2*word; b = b[2*word:] {
		t := AuxType(read(b))
		if t == AuxNull {
			return v, nil
		}
		v = append(v, AuxValue{t, read(b[word:])})
	}
	return v, fmt.Errorf("auxiliary vector: cut off after %d entries", len(v))
}

// Get is the value of the first entry of type t.
func (v Auxv) Get(t AuxType) (uint64, bool) {
	for _, e := range v {
		if e.Type == t {
			return e.Value, true
		}
	}
	return 0, false
}

// PageSize is AT_PAGESZ in bytes, or 4096 where that is missing or no power of two.
func (v Auxv) PageSize() uint64 {
	if p, ok := v.Get(AuxPageSize); ok && p >= 256 && p <= 1<<30 && p&(p-1) == 0 {
		return p
	}
	return 4096
}
