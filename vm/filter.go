package vm

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Region is one condition on mappings: an address that they hold, a range that
// they have a byte of, or a name. The zero Region selects nothing.
type Region struct {
	kind  regionKind
	addr  uint64
	rng   Range
	re    *regexp.Regexp
	sub   string
	set   AddressSet
	given string // as the user wrote it
}

type regionKind uint8

const (
	regionNone regionKind = iota
	regionAddr
	regionRange
	regionRegexp
	regionName
	regionSet
)

// AddrRegion selects the mappings that hold addr; given is the user's word for it.
func AddrRegion(addr uint64, given string) Region {
	return Region{kind: regionAddr, addr: addr, given: given}
}

// RangeRegion selects the mappings that have a byte of r.
func RangeRegion(r Range) Region {
	return Region{kind: regionRange, rng: r, given: r.String()}
}

// NameRegion selects the mappings whose name contains sub.
func NameRegion(sub string) Region {
	return Region{kind: regionName, sub: sub, given: sub}
}

// AddressSet is many addresses, such as those that a search found.
type AddressSet interface {
	// AnyIn reports whether one of the addresses lies in r.
	AnyIn(r Range) bool
}

// SetRegion selects the mappings that hold one of the addresses; given names
// them, as part of a sentence.
func SetRegion(set AddressSet, given string) Region {
	return Region{kind: regionSet, set: set, given: given}
}

// RegexpRegion selects the mappings in whose name expr, in the syntax of
// package regexp, finds a match.
func RegexpRegion(expr string) (Region, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return Region{}, fmt.Errorf("regular expression /%s/: %w", expr, err)
	}
	return Region{kind: regionRegexp, re: re, given: expr}, nil
}

// ParseRegion reads the forms of a REGION that need no debuggee: 0xA-0xB (the
// end exclusive) and /regexp/. ok is false where s is neither.
func ParseRegion(s string) (r Region, ok bool, err error) {
	if len(s) > 2 && s[0] == '/' && s[len(s)-1] == '/' {
		r, err = RegexpRegion(s[1 : len(s)-1])
		return r, err == nil, err
	}
	rng, ok, err := ParseRange(s)
	if !ok || err != nil {
		return Region{}, false, err
	}
	r = RangeRegion(rng)
	r.given = s
	return r, true, nil
}

// ParseRange reads 0xA-0xB as the half-open range from A to B, where B may be
// 2^64. ok is false where s is no such text.
func ParseRange(s string) (r Range, ok bool, err error) {
	a, b, found := strings.Cut(s, "-")
	if !found || !isHexLiteral(a) || !isHexLiteral(b) {
		return Range{}, false, nil
	}
	lo, err := strconv.ParseUint(a[2:], 16, 64)
	if err != nil {
		return Range{}, false, fmt.Errorf("range %s: the start does not fit in 64 bits", s)
	}
	digits := strings.TrimLeft(b[2:], "0")
	if digits == "10000000000000000" && lo > 0 { // 2^64
		return Range{Start: lo, Size: -lo}, true, nil
	}
	hi, err := strconv.ParseUint(cmp.Or(digits, "0"), 16, 64)
	switch {
	case err != nil:
		return Range{}, false, fmt.Errorf("range %s: the end does not fit in 64 bits", s)
	case hi <= lo:
		return Range{}, false, fmt.Errorf("range %s: the end is not above the start", s)
	}
	return Range{Start: lo, Size: hi - lo}, true, nil
}

func isHexLiteral(s string) bool {
	if len(s) < 3 || s[0] != '0' || s[1] != 'x' && s[1] != 'X' {
		return false
	}
	for _, c := range []byte(s[2:]) {
		if c-'0' > 9 && c|0x20-'a' > 5 {
			return false
		}
	}
	return true
}

// String says what the region selects, as part of a sentence.
func (r Region) String() string {
	switch r.kind {
	case regionAddr:
		if hex := fmt.Sprintf("%#x", r.addr); hex != r.given {
			return fmt.Sprintf("holds %s (%s)", hex, r.given)
		}
		return "holds " + r.given
	case regionRange:
		return "lies in " + r.given
	case regionRegexp:
		return fmt.Sprintf("has a name that matches /%s/", r.given)
	case regionName:
		return fmt.Sprintf("has a name that contains %q", r.given)
	case regionSet:
		return "holds one of " + r.given
	}
	return "is selected"
}

// Addr is the address that the region asks for, where it is one.
func (r Region) Addr() (addr uint64, ok bool) { return r.addr, r.kind == regionAddr }

// Part is the part of m that the region selects: the whole of it, or what lies
// in the region's range. An empty part means that m is not selected.
func (r Region) Part(m *Mapping) Range {
	switch r.kind {
	case regionAddr:
		if m.Contains(r.addr) {
			return m.Range
		}
	case regionRange:
		return m.Intersect(r.rng)
	case regionRegexp:
		if r.re.MatchString(m.Name) || m.Name == "" && r.re.MatchString(m.anonName()) {
			return m.Range
		}
	case regionName:
		if m.named(r.sub) {
			return m.Range
		}
	case regionSet:
		if r.set.AnyIn(m.Range) {
			return m.Range
		}
	}
	return Range{}
}

// named reports whether the mapping's name contains sub. An unnamed one is
// found by the name it is shown with, and also without the 0x in it.
func (m *Mapping) named(sub string) bool {
	if m.Name != "" {
		return strings.Contains(m.Name, sub)
	}
	if m.Paged != nil && sub != "" && strings.Contains(m.Paged.Region, sub) {
		return true
	}
	anon := m.anonName()
	return strings.Contains(anon, sub) || strings.Contains(strings.Replace(anon, "_0x", "_", 1), sub)
}

// Filter selects mappings: those of any of its regions (all, where it has
// none) whose permissions match.
type Filter struct {
	Regions []Region
	Perm    PermPattern
	// Before and After are how many neighbours of each match, lower and
	// higher in the map, go with it. They count only where there are Regions.
	Before, After int
}

// MaxNeighbours is the most that Before and After may be.
const MaxNeighbours = 64

// Check reports a filter that cannot be used.
func (f *Filter) Check() error {
	if f.Before < 0 || f.After < 0 {
		return errors.New("a number of neighbouring mappings is negative; give 0 or more")
	}
	if f.Before > MaxNeighbours || f.After > MaxNeighbours {
		return fmt.Errorf("more than %d neighbouring mappings asked for; give 0 to %d", MaxNeighbours, MaxNeighbours)
	}
	return nil
}

// Row is a mapping that a filter lets through.
type Row struct {
	*Mapping // in the map, which is not to be changed
	// Match is false for a neighbour of a match, which has no Parts and no Addrs.
	Match bool
	// Parts are what the filter selects of a match, in order: the whole
	// mapping, or the parts that lie in the ranges asked for.
	Parts []Range
	// Addrs are the addresses asked for that the mapping holds.
	Addrs []uint64
}

// Selection is what a filter lets through, in the map's order.
type Selection struct {
	Rows []Row
	// Undecided counts the mappings that were left out because a permission
	// that the filter asks for is not known.
	Undecided int
}

// Select applies the filter to a map.
func (f *Filter) Select(m *Map) Selection {
	var sel Selection
	before, after := f.Before, f.After
	var wholes []Range // where every mapping may match, its Parts: one allocation for all
	if len(f.Regions) == 0 {
		before, after = 0, 0
		sel.Rows, wholes = make([]Row, 0, len(m.Mappings)), make([]Range, len(m.Mappings))
	}
	next, until := 0, 0 // the first mapping not handed over, and the end of the last match's neighbours
	for i := range m.Mappings {
		var parts []Range
		if wholes != nil {
			wholes[i] = m.Mappings[i].Range
			parts = wholes[i : i+1 : i+1]
		}
		row, undecided := f.match(&m.Mappings[i], parts)
		if undecided {
			sel.Undecided++
		}
		switch {
		case row.Match:
			for j := max(next, i-before); j < i; j++ {
				sel.Rows = append(sel.Rows, Row{Mapping: &m.Mappings[j]})
			}
			until = i + 1 + after
		case i < until:
			row = Row{Mapping: &m.Mappings[i]}
		default:
			continue
		}
		sel.Rows = append(sel.Rows, row)
		next = i + 1
	}
	return sel
}

// match is the row of a mapping; its Match says whether the filter selects it.
// The parts are those of a filter without regions, else nil.
func (f *Filter) match(m *Mapping, parts []Range) (row Row, undecided bool) {
	match, undecided := f.Perm.Match(m.Perm)
	if !match && !undecided {
		return row, false
	}
	row.Mapping, row.Parts = m, parts
	for _, r := range f.Regions {
		part := r.Part(m)
		if part.Size == 0 {
			continue
		}
		row.Parts = append(row.Parts, part)
		if a, ok := r.Addr(); ok {
			row.Addrs = append(row.Addrs, a)
		}
	}
	if len(row.Parts) == 0 {
		return row, false
	}
	if len(row.Parts) > 1 {
		row.Parts = Union(row.Parts)
	}
	row.Match = match
	return row, undecided
}
