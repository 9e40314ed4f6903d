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
	// From is where the map was read.
	From Origin
	// Partial is what the map is known not to tell, nil for a whole one.
	Partial []Lack
	// Live says that the map holds only for the moment in which it was read: the
	// debuggee ran, or somebody else in its memory.
	Live bool
	// Runner says who ran, to begin a sentence with; "" is the debuggee.
	Runner string
	// Notes say what else is to be known of the map, one sentence each.
	Notes []string
	// Rules say what else decides about accesses, which is not in the
	// permissions, one sentence each.
	Rules []string
}

// Origin says where a map was read.
type Origin struct {
	Source  Source // that of its mappings, "" for unknown
	Place   string // the file, process or command, as in /proc/7/maps
	Instead string // why it was not read from a better place, "" where there is none
}

// String is the origin as part of a sentence.
func (o Origin) String() string {
	s := o.Place
	if s == "" {
		s = string(o.Source)
	}
	if o.Instead != "" {
		s += ", since " + o.Instead
	}
	return s
}

// Lack is something that a map is known not to tell.
type Lack struct {
	Of  LackOf
	Why string // what it lacks, for people
}

// LackOf is the kind of a Lack.
type LackOf uint8

// The kinds of what maps lack.
const (
	LackMappings    LackOf = iota // more may be mapped than is listed
	LackPermissions               // permissions of some mappings
	LackDetails                   // other properties of mappings: inodes, sharing
)

// String names the kind.
func (l LackOf) String() string { return [...]string{"mappings", "permissions", "details"}[l] }

// Like is a map of other mappings for which the same holds as for m.
func (m *Map) Like(ms []Mapping) *Map {
	c := *m
	c.Mappings = ms
	return &c
}

// About is what is to be said of the map, one sentence each: where it was read
// where that is not the usual place, and its Caveats.
func (m *Map) About() []string {
	switch {
	case m.From.Instead != "", m.From.Source == SourceQEMU, m.From.Source == SourceMonitor, m.From.Source == SourceExplored:
		return append([]string{"from " + m.From.String()}, m.Caveats()...)
	}
	return m.Caveats()
}

// Caveats is what is to be known of the map wherever it was read, one sentence
// each: that it may not hold any more, its notes, and what it lacks.
func (m *Map) Caveats() []string {
	var caveats []string
	if who := m.Runs(); who != "" {
		caveats = append(caveats, who+", so that the map holds for one moment only")
	}
	caveats = append(caveats, m.Notes...)
	for _, l := range m.Partial {
		caveats = append(caveats, l.Why)
	}
	return caveats
}

// Runs says who runs in the memory of which this is the map, "" for nobody.
func (m *Map) Runs() string {
	if m.Live {
		return cmp.Or(m.Runner, "the debuggee runs")
	}
	return ""
}

// Unlisted is why more may be mapped than the map lists, one sentence each; it is
// empty where it lists everything.
func (m *Map) Unlisted() []string {
	var why []string
	for _, l := range m.Partial {
		if l.Of == LackMappings {
			why = append(why, l.Why)
		}
	}
	return why
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
