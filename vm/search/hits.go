package search

import (
	"hash/maphash"
	"iter"
)

// PreviewSize is the greatest length of a hit's preview in bytes.
const PreviewSize = 16

// Hit is a place where the matcher matched.
type Hit struct {
	Address uint64
	Len     int    // of the match, in bytes
	Mapping int    // index into the mappings that were searched
	Preview []byte // the up to PreviewSize readable bytes from Address on
}

// Hits is a compact list of hits; the zero value is empty. It may be read
// concurrently.
type Hits struct {
	blocks [][]packedHit // all but the last hold hitBlock hits
	n      int
}

// hitBlock is the number of hits in a block: lists grow without being copied.
const hitBlock = 4 << 10

type packedHit struct {
	addr    uint64
	mapping uint32
	size    uint32 // length, at most MaxSpan, <<5 | bytes of preview
	sum     uint64 // see sumOf
	preview [PreviewSize]byte
}

// sumSeed is one for all, so that sums of different searches can be compared.
var sumSeed = maphash.MakeSeed()

// sumOf tells a match from others of its length where the preview does not
// hold all of it; else it is 0.
func sumOf(match []byte) uint64 {
	if len(match) <= PreviewSize {
		return 0
	}
	return maphash.Bytes(sumSeed, match)
}

// Len is the number of hits.
func (h *Hits) Len() int { return h.n }

func (h *Hits) packed(i int) *packedHit { return &h.blocks[i/hitBlock][i%hitBlock] }

// At is hit i, which must be in [0, Len). Its preview is the caller's.
func (h *Hits) At(i int) Hit {
	p := h.packed(i)
	preview := make([]byte, p.size&31)
	copy(preview, p.preview[:])
	return Hit{Address: p.addr, Len: int(p.size >> 5), Mapping: int(p.mapping), Preview: preview}
}

// All yields the hits in ascending order of address, with their indices.
func (h *Hits) All() iter.Seq2[int, Hit] {
	return func(yield func(int, Hit) bool) {
		for i := range h.n {
			if !yield(i, h.At(i)) {
				return
			}
		}
	}
}

// add appends a hit; sum is sumOf the match.
func (h *Hits) add(addr uint64, length, mapping int, preview []byte, sum uint64) {
	p := packedHit{addr: addr, mapping: uint32(mapping), sum: sum}
	p.size = uint32(length)<<5 | uint32(copy(p.preview[:], preview))
	h.addPacked(p)
}

func (h *Hits) addPacked(p packedHit) {
	if h.n%hitBlock == 0 {
		// Few hits are the rule: the first block grows, the others come whole.
		var b []packedHit
		if h.n > 0 {
			b = make([]packedHit, 0, hitBlock)
		}
		h.blocks = append(h.blocks, b)
	}
	last := len(h.blocks) - 1
	h.blocks[last] = append(h.blocks[last], p)
	h.n++
}
