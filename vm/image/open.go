package image

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// OpenRegular opens a regular file for reading. Nothing else is opened, and no
// FIFO is waited for.
func OpenRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("open %s: not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// IsCore reports whether a file can be read and says in its header that it is an
// ELF core (elf(5)).
func IsCore(path string) bool {
	f, err := OpenRegular(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var b [ehdrSize32]byte
	if _, err := io.ReadFull(f, b[:]); err != nil || string(b[:4]) != elf.ELFMAG {
		return false
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if elf.Data(b[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	return elf.Type(order.Uint16(b[elf.EI_NIDENT:])) == elf.ET_CORE // e_type
}

// ReadArch is the size of pointers in bytes and the byte order of an ELF file, as
// its first bytes say (elf(5), e_ident). The error wraps ErrNotELF for another file.
func ReadArch(path string) (ptr int, order binary.ByteOrder, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	var b [elf.EI_NIDENT]byte
	if _, err := io.ReadFull(f, b[:]); err != nil || string(b[:4]) != elf.ELFMAG {
		return 0, nil, fmt.Errorf("%s: %w", path, ErrNotELF)
	}
	ptr, order = 8, binary.LittleEndian
	if elf.Class(b[elf.EI_CLASS]) == elf.ELFCLASS32 {
		ptr = 4
	}
	if elf.Data(b[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	return ptr, order, nil
}
