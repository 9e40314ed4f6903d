package vm

import (
	"errors"
	"fmt"
	"strings"
)

// Perm holds the permissions of a mapping. Each of read, write, execute and
// shared is known to be set, known to be clear, or unknown; the zero Perm
// knows nothing.
type Perm uint8

// The bits of a Perm. A permission bit is meaningful only where the matching
// Known bit is set.
const (
	Read Perm = 1 << iota
	Write
	Exec
	Shared
	KnownRead
	KnownWrite
	KnownExec
	KnownShared

	// KnownAccess says that read, write and execute are known.
	KnownAccess = KnownRead | KnownWrite | KnownExec
	// KnownAll says that everything is known.
	KnownAll = KnownAccess | KnownShared
)

// knownShift leads from a permission bit to its Known bit.
const knownShift = 4

// Is reports whether the single permission bit is known and set.
func (p Perm) Is(bit Perm) bool { return p&bit != 0 && p.Knows(bit) }

// IsNot reports whether the single permission bit is known and clear.
func (p Perm) IsNot(bit Perm) bool { return p&bit == 0 && p.Knows(bit) }

// Knows reports whether the single permission bit is known.
func (p Perm) Knows(bit Perm) bool { return p&(bit<<knownShift) != 0 }

// String is the four letters of proc_pid_maps(5), with ? for what is unknown.
func (p Perm) String() string { return string(p.Append(nil)) }

// Append appends String to b.
func (p Perm) Append(b []byte) []byte {
	for i, l := range [4]struct{ set, clear byte }{{'r', '-'}, {'w', '-'}, {'x', '-'}, {'s', 'p'}} {
		bit := Read << i
		switch {
		case !p.Knows(bit):
			b = append(b, '?')
		case p&bit != 0:
			b = append(b, l.set)
		default:
			b = append(b, l.clear)
		}
	}
	return b
}

// ParsePerm reads the four letters with which Linux and GDB show permissions that
// are all known, as in r-xp (proc_pid_maps(5)).
func ParsePerm(letters []byte) (Perm, error) {
	if len(letters) != 4 {
		return 0, errNoPerm
	}
	p := KnownAll
	for i, c := range letters {
		switch {
		case c == "rwxs"[i]:
			p |= Read << i
		case c != "---p"[i]:
			return 0, errNoPerm
		}
	}
	return p, nil
}

var errNoPerm = errors.New("no permissions")

// ParseAccess reads a set of the letters r, w and x, in any order, as a Perm
// whose access bits are known and whose sharing is not. The empty string and
// "-" mean no access at all.
func ParseAccess(s string) (Perm, error) {
	p := KnownAccess
	for _, c := range s {
		switch c {
		case 'r':
			p |= Read
		case 'w':
			p |= Write
		case 'x':
			p |= Exec
		case '-':
		default:
			return 0, fmt.Errorf("unknown permission %q; give letters out of rwx", c)
		}
	}
	return p, nil
}

// PermPattern selects permissions place by place.
type PermPattern struct {
	must, mustNot Perm // permission bits, without Known bits
}

// RequirePerm is the pattern in which every bit of set must be known and set.
func RequirePerm(set Perm) PermPattern {
	return PermPattern{must: set & (Read | Write | Exec | Shared)}
}

// ParsePermPattern reads up to four places: r, w, x and then p or s. In a
// place "-" means must not be set and "?" any; missing places are any.
func ParsePermPattern(s string) (PermPattern, error) {
	bad := func(why string) (PermPattern, error) {
		return PermPattern{}, fmt.Errorf("permission pattern %q: %s; give up to four places, like rw-p, r?x or --x", s, why)
	}
	if s == "" || len(s) > 4 {
		return bad(fmt.Sprintf("%d places", len(s)))
	}
	var pat PermPattern
	for i := range len(s) {
		c, bit := s[i], Read<<i
		switch {
		case c == '?':
		case c == "rwxs"[i]:
			pat.must |= bit
		case i < 3 && c == '-', i == 3 && c == 'p':
			pat.mustNot |= bit
		default:
			want := string("rwx"[min(i, 2)]) + ", - or ?"
			if i == 3 {
				want = "p, s or ?"
			}
			return bad(fmt.Sprintf("%q in place %d, where %s may stand", c, i+1, want))
		}
	}
	return pat, nil
}

// And is the pattern that selects what both select.
func (pat PermPattern) And(other PermPattern) PermPattern {
	return PermPattern{must: pat.must | other.must, mustNot: pat.mustNot | other.mustNot}
}

// Any reports whether the pattern selects everything.
func (pat PermPattern) Any() bool { return pat.must|pat.mustNot == 0 }

// Match reports whether p is known to be as the pattern says. Undecided
// reports that it may be, because a place the pattern asks for is unknown and
// no known place speaks against it.
func (pat PermPattern) Match(p Perm) (match, undecided bool) {
	known := p >> knownShift
	if p&known&pat.mustNot != 0 || ^p&known&pat.must != 0 {
		return false, false
	}
	if asked := pat.must | pat.mustNot; asked&^known&0xf != 0 {
		return false, true
	}
	return true, false
}

// String is the pattern in four places.
func (pat PermPattern) String() string {
	var b strings.Builder
	for i := range 4 {
		switch bit := Read << i; {
		case pat.must&bit != 0:
			b.WriteByte("rwxs"[i])
		case pat.mustNot&bit != 0:
			b.WriteByte("---p"[i])
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}
