package image

import (
	"debug/elf"
	"encoding/binary"
	"io"
)

// Note types (elf.h; Go's in cmd/link/internal/ld/elf.go).
const (
	ntGNUBuildID = 3
	ntGoBuildID  = 4
	ntPRStatus   = 1
	ntPRPSInfo   = 3
	ntAuxv       = 6
	ntFile       = 0x46494c45
)

// note is the header of one note.
type note struct {
	name string
	typ  uint32
	off  uint64 // of its descriptor
	size uint64 // of its descriptor, as announced
}

// noteReader walks the notes between off and end of r. It holds a window of a
// few KiB, so descriptors that nobody asks for cost nothing.
type noteReader struct {
	r        io.ReaderAt
	order    binary.ByteOrder
	align    uint64 // 4 or 8
	off, end uint64
	err      error // of r
	win      []byte
	winOff   uint64
}

// noteAlign is the alignment of a segment's notes: 4, or 8 where the segment
// says so, as x86's .note.gnu.property does (System V gABI, note section).
func noteAlign(p elf.ProgHeader) uint64 {
	if p.Align == 8 {
		return 8
	}
	return 4
}

// next is the next note. A name that a reader of cores does not know may come
// cut; a header that is cut off or whose sizes lie ends the walk.
func (nr *noteReader) next() (n note, ok bool) {
	h := nr.peek(nr.off, 12)
	if len(h) < 12 {
		return note{}, false
	}
	namesz, descsz := uint64(nr.order.Uint32(h)), uint64(nr.order.Uint32(h[4:]))
	n.typ, n.size = nr.order.Uint32(h[8:]), descsz
	up := func(v uint64) uint64 { return (v + nr.align - 1) &^ (nr.align - 1) }
	n.off = nr.off + up(12+namesz)
	if n.off > nr.end {
		return note{}, false
	}
	name := nr.peek(nr.off+12, min(namesz, 16))
	for len(name) > 0 && name[len(name)-1] == 0 {
		name = name[:len(name)-1]
	}
	n.name = string(name)
	nr.off = n.off + up(descsz)
	return n, true
}

// desc is the first max bytes of a note's descriptor, fewer where it is cut off.
func (nr *noteReader) desc(n note, max uint64) []byte {
	b := make([]byte, min(n.size, max, nr.end-n.off))
	got, err := readAt(nr.r, b, n.off)
	if err != nil {
		nr.err = err
	}
	return b[:got]
}

// peek is size bytes at off, fewer at the end; they are valid until the next call.
func (nr *noteReader) peek(off, size uint64) []byte {
	if off >= nr.end {
		return nil
	}
	size = min(size, nr.end-off)
	if off < nr.winOff || off-nr.winOff+size > uint64(len(nr.win)) {
		if nr.win == nil {
			nr.win = make([]byte, 4096)
		}
		win := nr.win[:cap(nr.win)]
		win = win[:min(uint64(len(win)), nr.end-off)]
		n, err := readAt(nr.r, win, off)
		if err != nil {
			nr.err = err
		}
		nr.win, nr.winOff = win[:n], off
	}
	w := nr.win[min(off-nr.winOff, uint64(len(nr.win))):]
	return w[:min(size, uint64(len(w)))]
}
