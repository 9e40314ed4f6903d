package vm

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Cache is a Mapper that asks another one once and answers from memory until
// it is made stale, with the mappings that the user added merged in. It is
// safe for concurrent use; its lock is not held while the source is asked, so
// that what the source is waiting for may make it stale.
type Cache struct {
	source Mapper

	mu         sync.Mutex
	generation uint64 // counts the calls that made it stale
	fresh      *Map   // the source's last answer, nil when stale
	whole      *Map   // fresh with the added mappings, nil when stale
	added      []Mapping
	explored   []Mapping // found by reading in this process
}

// NewCache is an empty cache over source.
func NewCache(source Mapper) *Cache { return &Cache{source: source} }

// Invalidate makes what the source last said stale. Added mappings stay.
func (c *Cache) Invalidate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale()
}

func (c *Cache) stale() {
	c.generation++
	c.fresh, c.whole = nil, nil
}

// Map is the source's map with the added mappings merged in. Where the source
// has none and mappings were added, these are the map and a note says why
// there is no more.
func (c *Cache) Map(ctx context.Context) (*Map, error) {
	c.mu.Lock()
	generation, fresh, whole := c.generation, c.fresh, c.whole
	c.mu.Unlock()
	if whole != nil {
		return whole, nil
	}
	var err error
	if fresh == nil {
		fresh, err = c.source.Map(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
	case len(c.added)+len(c.explored) > 0 && ctx.Err() == nil:
		return c.merge(&Map{AddressBits: 64, Notes: []string{"only added mappings: " + err.Error()}}), nil
	default:
		return nil, err
	}
	whole = c.merge(fresh)
	if generation == c.generation && !fresh.Live {
		c.fresh, c.whole = fresh, whole
	}
	return whole, nil
}

// merge is base with the added mappings; base is not changed.
func (c *Cache) merge(base *Map) *Map {
	if len(c.added)+len(c.explored) == 0 {
		return base
	}
	m := *base
	m.Mappings = slices.Concat(base.Mappings, c.added, c.explored)
	Sort(m.Mappings)
	return &m
}

// Overlap says that a mapping that was added lies over others.
type Overlap struct {
	Added Mapping
	Over  Mapping // the first of those it lies over
	Count int     // how many it lies over
}

// Add adds mappings, all of them or none, and says what of known, a map of this
// cache or nil, they lie over.
func (c *Cache) Add(known *Map, ms ...Mapping) ([]Overlap, error) {
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
		o := Overlap{Added: m}
		for i := 0; known != nil && i < len(known.Mappings); i++ {
			if m.Overlaps(known.Mappings[i].Range) {
				if o.Count++; o.Count == 1 {
					o.Over = known.Mappings[i]
				}
			}
		}
		if o.Count > 0 {
			overlaps = append(overlaps, o)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.added = append(slices.Clip(c.added), ms...)
	c.whole = nil
	return overlaps, nil
}

// AddExplored adds what was found by reading; it is dropped when the process
// goes. What it overlaps of what was explored before becomes one with it.
func (c *Cache) AddExplored(m Mapping) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := []Mapping{}
	for _, old := range c.explored {
		if old.Overlaps(m.Range) {
			m.Range = Union([]Range{m.Range, old.Range})[0]
		} else {
			kept = append(kept, old)
		}
	}
	c.explored, c.whole = append(kept, m), nil
}

// ProcessGone drops what was known of a process only: the source's last answer
// and what was explored.
func (c *Cache) ProcessGone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale()
	c.explored = nil
}

// Added is the number of added mappings.
func (c *Cache) Added() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.added)
}

// ClearAdded drops the added mappings and says how many there were.
func (c *Cache) ClearAdded() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.added)
	c.added, c.whole = nil, nil
	return n
}
