package vm

import (
	"cmp"
	"context"
	"slices"
)

// Map is a memory map at one moment. It is not to be changed once handed out,
// so it may be shared between goroutines.
type Map struct {
	// Mappings are sorted by start, then by size. They may overlap only where
	// one was added by the user.
	Mappings []Mapping
	// AddressBits is the width of the debuggee's addresses: 32 or 64.
	AddressBits int
	// Live says that the debuggee ran while the map was read, so that the map
	// is not to be kept.
	Live bool
	// Notes say what the map cannot tell, one sentence each.
	Notes []string
	// Rules say what else decides about accesses, which is not in the
	// permissions, one sentence each.
	Rules []string
}

// Mapper hands over the memory map of a debuggee as it is now. An error means
// that there is none to be had; it wraps ErrNoProcess where that is the reason.
type Mapper interface {
	Map(ctx context.Context) (*Map, error)
}

// Sort brings mappings into the order of a Map.
func Sort(ms []Mapping) {
	slices.SortStableFunc(ms, func(a, b Mapping) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Size, b.Size))
	})
}
