package vm

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Overlay is a Mapper that lays the mappings which the user added over those of
// another one. It keeps what it made as long as that one answers with the same
// Map, and has no rule of its own for how long a map holds. It is safe for
// concurrent use; its lock is not held while the source is asked.
type Overlay struct {
	source Mapper

	mu    sync.Mutex
	added []Mapping
	base  *Map // the answer that whole was made of
	whole *Map // with the added mappings; nil for not made
}

// NewOverlay is an overlay over source with nothing added.
func NewOverlay(source Mapper) *Overlay { return &Overlay{source: source} }

// Map is the source's map with the added mappings merged in. Where the source
// has none and mappings were added, these are the map, which says why there is
// no more.
func (o *Overlay) Map(ctx context.Context) (*Map, error) {
	base, err := o.source.Map(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err == nil:
	case len(o.added) > 0 && ctx.Err() == nil:
		base = &Map{
			AddressBits: 64, From: Origin{Source: SourceUser, Place: "what was added by hand"},
			Partial: []Lack{{LackMappings, "only added mappings: " + err.Error()}},
		}
	default:
		return nil, err
	}
	if len(o.added) == 0 {
		return base, nil
	}
	if o.whole == nil || o.base != base {
		o.base, o.whole = base, o.over(base)
	}
	return o.whole, nil
}

// Over is a map with the added mappings merged in, be it another than the source's.
func (o *Overlay) Over(m *Map) *Map {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.over(m)
}

// over is Over; o.mu is held.
func (o *Overlay) over(m *Map) *Map {
	whole := m.Like(slices.Concat(m.Mappings, o.added))
	Sort(whole.Mappings)
	return whole
}

// Overlap says that a mapping that was added lies over others.
type Overlap struct {
	Added Mapping
	Over  Mapping // the first of those it lies over
	Count int     // how many it lies over
}

// Add adds mappings, all of them or none, and says what of known, a map of this
// overlay or nil, they lie over.
func (o *Overlay) Add(known *Map, ms ...Mapping) ([]Overlap, error) {
	for _, m := range ms {
		if m.Size == 0 {
			return nil, fmt.Errorf("the mapping at %#x is empty", m.Start)
		}
		if !m.Valid() {
			return nil, fmt.Errorf("%#x bytes from %#x go beyond the end of the address space", m.Size, m.Start)
		}
	}
	var overlaps []Overlap
	for _, m := range ms {
		over := Overlap{Added: m}
		for i := 0; known != nil && i < len(known.Mappings); i++ {
			if m.Overlaps(known.Mappings[i].Range) {
				if over.Count++; over.Count == 1 {
					over.Over = known.Mappings[i]
				}
			}
		}
		if over.Count > 0 {
			overlaps = append(overlaps, over)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.added = append(slices.Clip(o.added), ms...)
	o.whole = nil
	return overlaps, nil
}

// Added is the number of added mappings.
func (o *Overlay) Added() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.added)
}

// ClearAdded drops the added mappings and says how many there were.
func (o *Overlay) ClearAdded() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.added)
	o.added, o.whole = nil, nil
	return n
}
