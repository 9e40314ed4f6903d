package vm

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPermString(t *testing.T) {
	for _, c := range []struct {
		perm Perm
		want string
	}{
		{0, "????"},
		{KnownAll, "---p"},
		{KnownAll | Read | Write, "rw-p"},
		{KnownAll | Read | Exec | Shared, "r-xs"},
		{KnownAccess | Write, "-w-?"},
		{KnownRead | Read, "r???"},
		{Read | Write | Exec | Shared, "????"}, // set, but not known to be
	} {
		if got := c.perm.String(); got != c.want {
			t.Errorf("%#x: got %s, want %s", uint8(c.perm), got, c.want)
		}
	}
}

func TestParseAccess(t *testing.T) {
	for in, want := range map[string]string{"": "---?", "-": "---?", "rw": "rw-?", "xr": "r-x?", "rwx": "rwx?"} {
		p, err := ParseAccess(in)
		if err != nil || p.String() != want {
			t.Errorf("%q: got %v, %v, want %s", in, p, err, want)
		}
	}
	for _, in := range []string{"q", "rwp", "R", "rw x"} {
		if p, err := ParseAccess(in); err == nil {
			t.Errorf("%q: got %v, want an error", in, p)
		}
	}
}

func TestPermPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, perm    string
		match, undecided bool
	}{
		{"r", "r--p", true, false},
		{"r", "-w-p", false, false},
		{"rw-p", "rw-p", true, false},
		{"rw-p", "rw-s", false, false},
		{"rw-p", "rwxp", false, false},
		{"?w", "-w-p", true, false},
		{"--x", "--xp", true, false},
		{"--x", "r-xp", false, false},
		{"???s", "rw-s", true, false},
		{"????", "????", true, false},
		{"r", "????", false, true},
		{"-", "????", false, true},
		{"rw", "-???", false, false}, // r is known to be wrong
		{"rw-p", "rw-?", false, true},
	} {
		pat, err := ParsePermPattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		match, undecided := pat.Match(letters(c.perm))
		if match != c.match || undecided != c.undecided {
			t.Errorf("%s on %s: got %v, %v", c.pattern, c.perm, match, undecided)
		}
	}
	for _, bad := range []string{"", "rwxps", "w", "rr", "rwx-", "xwr", "r w"} {
		if pat, err := ParsePermPattern(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, pat)
		} else if !strings.Contains(err.Error(), "rw-p") {
			t.Errorf("%q: the error does not say what would be right: %v", bad, err)
		}
	}
}

// letters reads four letters, ? for what is unknown.
func letters(s string) Perm {
	var p Perm
	for i := range 4 {
		if s[i] != '?' {
			p |= KnownRead << i
		}
		if s[i] == "rwxs"[i] {
			p |= Read << i
		}
	}
	return p
}

func TestPermPatternLaws(t *testing.T) {
	places := []*rapid.Generator[string]{
		rapid.SampledFrom([]string{"r", "-", "?"}), rapid.SampledFrom([]string{"w", "-", "?"}),
		rapid.SampledFrom([]string{"x", "-", "?"}), rapid.SampledFrom([]string{"p", "s", "?"}),
	}
	word := func(t *rapid.T, label string) string {
		var s string
		for _, g := range places {
			s += g.Draw(t, label)
		}
		return s
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern, perm := word(t, "pattern"), word(t, "perm")
		pat, err := ParsePermPattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if pat.String() != pattern {
			t.Fatalf("%q comes back as %q", pattern, pat)
		}
		if p := letters(perm); p.String() != perm {
			t.Fatalf("%q comes back as %q", perm, p)
		}
		wantMatch, wantUndecided := true, false
		for i := range 4 {
			switch {
			case pattern[i] == '?' || pattern[i] == perm[i]:
			case perm[i] == '?':
				wantMatch, wantUndecided = false, true
			default:
				wantMatch = false
			}
		}
		for i := range 4 {
			if pattern[i] != '?' && perm[i] != '?' && pattern[i] != perm[i] {
				wantUndecided = false
			}
		}
		match, undecided := pat.Match(letters(perm))
		if match != wantMatch || undecided != wantUndecided {
			t.Fatalf("%s on %s: got %v, %v, want %v, %v", pattern, perm, match, undecided, wantMatch, wantUndecided)
		}
	})
}
