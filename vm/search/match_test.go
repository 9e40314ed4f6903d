package search

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/big"
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"dbgsh/vm"
)

// findAll is where m matches in data, one step further after each match.
func findAll(m Matcher, data []byte) (at, lengths []int) {
	m.Find(data, 0, len(data), 1, func(i, n int) int {
		at, lengths = append(at, i), append(lengths, n)
		return i + 1
	})
	return at, lengths
}

func matches(m Matcher, data string) bool {
	at, _ := findAll(m, []byte(data))
	return len(at) > 0
}

func TestMatchers(t *testing.T) {
	le, be := binary.LittleEndian, binary.BigEndian
	must := func(m Matcher, err error) Matcher {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, c := range []struct {
		name    string
		m       Matcher
		yes, no []string
	}{
		{"fold", must(NewFold([]byte("Straße k"))), []string{"STRAßE K", "straße k"}, []string{"strasse k", "straße \u212a"}},
		{"fold latin", must(NewFold([]byte("ÿé"))), []string{"Ÿé"[:2] + "É", "ÿÉ"}, []string{"\xc3\xb8\xc3\xa9"}},
		{"fold no UTF-8", must(NewFold([]byte("a\xff"))), []string{"A\xff"}, []string{"A\xfe", "A\uFFFD"}},
		{"signed", must(NewIntRange(2, le, -2, 1)), []string{"\xfe\xff", "\x01\x00", "\x00\x00"}, []string{"\xfd\xff", "\x02\x00"}},
		{"unsigned", must(NewUintRange(4, be, 0x1000, 0x2000)), []string{"\x00\x00\x10\x00", "\x00\x00\x20\x00"}, []string{"\x00\x00\x0f\xff", "\x00\x00\x20\x01"}},
		{"byte", must(NewUintRange(1, be, 250, 255)), []string{"\xfa", "\xff"}, []string{"\xf9"}},
		{"all", must(NewUintRange(8, le, 0, math.MaxUint64)), []string{"12345678"}, []string{"1234567"}},
		{"signed 64", must(NewIntRange(8, be, math.MinInt64, -1)), []string{"\x80\x00\x00\x00\x00\x00\x00\x00"}, []string{"\x7f\x00\x00\x00\x00\x00\x00\x00"}},
		{"top pointers", must(NewPointers(8, be, []vm.Range{{Start: math.MaxUint64, Size: 1}, {Start: 4, Size: 0}, {Start: 5, Size: 2}})), []string{"\xff\xff\xff\xff\xff\xff\xff\xff", "\x00\x00\x00\x00\x00\x00\x00\x06"}, []string{"\x00\x00\x00\x00\x00\x00\x00\x07", "\x00\x00\x00\x00\x00\x00\x00\x04"}},
		{"overlapping ranges", must(NewPointers(4, be, []vm.Range{{Start: 0, Size: 0x100}, {Start: 0x10, Size: 4}, {Start: 0x80, Size: 0x100}})), []string{"\x00\x00\x00\x14", "\x00\x00\x01\x7f"}, []string{"\x00\x00\x01\x80"}},
		{"nibbles", must(NewMasked([]byte{0x4f, 0xff}, []byte{0xf0, 0x0f})), []string{"\x41\x0f"}, []string{"\x51\x0f", "\x41\x0e"}},
	} {
		if n, _ := zeroMatch(c.m); (n > 0) != matches(c.m, strings.Repeat("\x00", c.m.Span())) {
			t.Errorf("%s: matches zeros: %d", c.name, n)
		}
		for _, s := range c.yes {
			if !matches(c.m, s) {
				t.Errorf("%s: no match in %q", c.name, s)
			}
		}
		for _, s := range c.no {
			if matches(c.m, s) {
				t.Errorf("%s: match in %q", c.name, s)
			}
		}
	}
}

func TestMatcherErrors(t *testing.T) {
	le := binary.LittleEndian
	for name, make := range map[string]func() (Matcher, error){
		"empty":           func() (Matcher, error) { return NewBytes(nil) },
		"too long":        func() (Matcher, error) { return NewBytes(make([]byte, MaxSpan+1)) },
		"empty text":      func() (Matcher, error) { return NewFold(nil) },
		"wildcards only":  func() (Matcher, error) { return NewMasked([]byte{1}, []byte{0}) },
		"short mask":      func() (Matcher, error) { return NewMasked([]byte{1, 2}, []byte{255}) },
		"size":            func() (Matcher, error) { return NewUintRange(3, le, 0, 1) },
		"no order":        func() (Matcher, error) { return NewUintRange(2, nil, 0, 1) },
		"too large":       func() (Matcher, error) { return NewUintRange(1, le, 0, 256) },
		"empty range":     func() (Matcher, error) { return NewUintRange(1, le, 2, 1) },
		"too low":         func() (Matcher, error) { return NewIntRange(1, le, -129, 1) },
		"too high signed": func() (Matcher, error) { return NewIntRange(1, le, -1, 128) },
		"empty signed":    func() (Matcher, error) { return NewIntRange(1, le, 1, -1) },
		"pointer size":    func() (Matcher, error) { return NewPointers(2, le, []vm.Range{{Start: 1, Size: 1}}) },
		"into nothing":    func() (Matcher, error) { return NewPointers(8, le, []vm.Range{{Start: 1, Size: 0}}) },
		"out of reach":    func() (Matcher, error) { return NewPointers(4, le, []vm.Range{{Start: 1 << 32, Size: 1}}) },
		"wrapping":        func() (Matcher, error) { return NewPointers(8, le, []vm.Range{{Start: math.MaxUint64, Size: 2}}) },
		"big, both ends":  func() (Matcher, error) { return NewBigRange(1, le, big.NewInt(-1), big.NewInt(255)) },
		"big, empty":      func() (Matcher, error) { return NewBigRange(1, le, big.NewInt(5), big.NewInt(4)) },
		"big, too large":  func() (Matcher, error) { return NewBigRange(1, le, big.NewInt(5), big.NewInt(256)) },
	} {
		if m, err := make(); err == nil {
			t.Errorf("%s: %v", name, m)
		}
	}
}

func TestRegexp(t *testing.T) {
	for _, c := range []struct {
		expr, data string
		at, length int // of the first match; length 0 for none
	}{
		{`\xff+`, "a\xff\xff", 1, 2},
		{`.`, "\n", 0, 1},
		{`é+x`, "\xc3\xa9\xc3\xa9x", 0, 5},
		{`\Qé.\E`, "\xc3\xa9a\xc3\xa9.", 3, 3},
		{`[\x80-\xff]{2}`, "a\xc3\xa9", 1, 2},
		{`[^a]`, "a\x80", 1, 1},
		{`\377\0`, "\xff\x00", 0, 2},
		{`\x{e9}`, "\xe9", 0, 1},
		{`(?i)k\xe9`, "K\xe9", 0, 2},
		{`(?i)\xe9`, "\xc9", 0, 0},
		{`(?i:[\xe9])`, "\xc9", 0, 0},
		{`[[:alpha:]\]]+`, "1]a", 1, 2},
		{`[]a]+`, "1]a", 1, 2},
		{`[^]a]+`, "]ab", 2, 1},
		{`^root:`, "x\nroot:", 2, 5},
		{`\bcat\b`, "concat cat", 7, 3},
		{`a(?:|b)`, "ab", 0, 1},
		{`a(?:b|)`, "ab", 0, 2},
		{`x*y`, "xxy", 0, 3},
		{`\pL?`, "", -1, 0},
		{`a*`, "", -1, 0},
		{`\A\x00`, "", -1, 0},
		{`a\z`, "", -1, 0},
		{`[é]`, "", -1, 0},
		{`\x{100}`, "", -1, 0},
		{`\x{+f}`, "", -1, 0},
		{`(`, "", -1, 0},
		{`\xff(`, "", -1, 0},
		{`\é`, "", -1, 0},
		{`\1`, "", -1, 0},
		{`a{30}`, "", -1, 0},
	} {
		m, err := NewRegexp(c.expr, 20)
		if c.at < 0 {
			if err == nil {
				t.Errorf("%s: no error", c.expr)
			} else if strings.ContainsFunc(err.Error(), func(r rune) bool { return r >= byteRunes && r < byteRunes+256 }) {
				t.Errorf("%s: error shows the translation: %v", c.expr, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		at, n := findAll(m, []byte(c.data))
		switch {
		case c.length == 0:
			if len(at) > 0 {
				t.Errorf("%s in %q: %d, %d", c.expr, c.data, at, n)
			}
		case len(at) == 0 || at[0] != c.at || n[0] != c.length:
			t.Errorf("%s in %q: %d, %d; want %d, %d", c.expr, c.data, at, n, c.at, c.length)
		}
	}
}

func TestRegexpManyStates(t *testing.T) {
	// The automaton has 2^14 states, more than are kept.
	m, err := NewRegexp(`[ab]{13}a[ab]{13}`, 0)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.SampledFrom([]byte("abab ")), 0, 2000).Draw(t, "data")
		at, _ := findAll(m, data)
		found := map[int]bool{}
		for _, i := range at {
			found[i] = true
		}
		for i := range data {
			want := len(data)-i >= 27 && !bytes.ContainsRune(data[i:i+27], ' ') && data[i+13] == 'a'
			if found[i] != want {
				t.Fatalf("match at %d: %v", i, found[i])
			}
		}
	})
}

// FuzzRegexp compares with package regexp on a character for each byte.
func FuzzRegexp(f *testing.F) {
	for _, expr := range regexps {
		f.Add(expr, []byte("ab\x00aA\xffb\n"))
	}
	f.Add(`\bé|[\x80-\xff]+$`, []byte("\xc3\xa9"))
	f.Add(`(?i)\Qk\Es|[[:^alpha:]]\pL`, []byte("KS"))
	f.Add(`(a*)*b{2,}(?U)a*(?:^|b)`, []byte("aaabbb"))
	f.Fuzz(func(t *testing.T, expr string, data []byte) {
		if len(expr) > 60 || len(data) > 60 {
			return
		}
		m, err := NewRegexp(expr, 100)
		if err != nil {
			return
		}
		// What a byte means outside ASCII is ours to say.
		if strings.ContainsFunc(expr, func(r rune) bool { return r >= utf8.RuneSelf }) {
			return
		}
		want, err := regexp.Compile(`\A(?sm:` + expr + `)`)
		if err != nil {
			if _, alone := regexp.Compile(expr); alone != nil {
				t.Fatalf("%q is accepted, but %v", expr, alone)
			}
			return // a \Q without \E, which quotes what is put around it
		}
		tree, err := syntax.Parse(expr, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		if folds(tree) {
			data = bytes.Map(func(r rune) rune { return r & 0x7f }, data)
		}
		text := latin1(data)
		var got [61]int
		at, n := findAll(m, data)
		for i := range at {
			got[at[i]] = n[i]
		}
		before := regexp.MustCompile(`\A(?s:.)(?sm:(` + expr + `))`)
		runes := []rune(text)
		for i := range runes {
			length := 0
			if i == 0 {
				if x := want.FindStringIndex(text); x != nil {
					length = len([]rune(text[:x[1]]))
				}
			} else if x := before.FindStringSubmatchIndex(string(runes[i-1:])); x != nil {
				length = len([]rune(string(runes[i-1:])[x[2]:x[3]]))
			}
			if got[i] != length {
				t.Fatalf("%q in %q at %d: length %d, want %d", expr, data, i, got[i], length)
			}
		}
	})
}

// folds reports whether case is ignored anywhere.
func folds(re *syntax.Regexp) bool {
	if re.Flags&syntax.FoldCase != 0 {
		return true
	}
	for _, sub := range re.Sub {
		if folds(sub) {
			return true
		}
	}
	return false
}

func TestParseText(t *testing.T) {
	for in, want := range map[string]string{
		``: "", `abc`: "abc", `a\n\t\r\0\\\"\'`: "a\n\t\r\x00\\\"'", `\x00\xfF`: "\x00\xff",
		`\a\b\e\f\v`: "\a\b\x1b\f\v", `é\x41`: "éA", `\08`: "\x008", "\xff": "\xff",
	} {
		if got, err := ParseText(in); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{`\`, `\x`, `\x4`, `\xg0`, `\q`, `\é`, `\1`, `\01`, `a\`} {
		if got, err := ParseText(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// FuzzParseText checks that what is escaped comes back.
func FuzzParseText(f *testing.F) {
	f.Add(`a\n\x00\\`)
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseText(s)
		if err != nil {
			return
		}
		if len(b) > len(s) {
			t.Fatalf("%q became longer: %q", s, b)
		}
		var again strings.Builder
		for _, c := range b {
			again.WriteString(`\x` + hex.EncodeToString([]byte{c}))
		}
		if c, err := ParseText(again.String()); err != nil || !bytes.Equal(b, c) {
			t.Fatalf("%q: %q, then %q, %v", s, b, c, err)
		}
		if !strings.Contains(s, `\`) && string(b) != s {
			t.Fatalf("%q: %q", s, b)
		}
	})
}

func TestParseHex(t *testing.T) {
	for in, want := range map[string][2]string{
		"48 8b ?? c7": {"488b00c7", "ffff00ff"}, "48??c7..0f": {"4800c7000f", "ff00ff00ff"},
		"0x488B": {"488b", "ffff"}, "0x48, 0x8b": {"488b", "ffff"}, "4? .8": {"4008", "f00f"},
		"488b??c7": {"488b00c7", "ffff00ff"},
	} {
		v, m, err := ParseHex(in)
		if err != nil || hex.EncodeToString(v) != want[0] || hex.EncodeToString(m) != want[1] {
			t.Errorf("%q: %x %x %v", in, v, m, err)
		}
	}
	for _, in := range []string{"", " ", "4", "48 8", "0x", "gg", "48-8b", "4é", "0x0x48", "48\n", "4\u0130"} {
		if v, m, err := ParseHex(in); err == nil {
			t.Errorf("%q: %x %x", in, v, m)
		}
	}
}

// FuzzParseHex compares with encoding/hex where there are no wildcards.
func FuzzParseHex(f *testing.F) {
	f.Add("48 8b ?? c7")
	f.Add("0x4?..")
	f.Fuzz(func(t *testing.T, s string) {
		want, wantErr := hex.DecodeString(s)
		v, m, err := ParseHex(s)
		if wantErr == nil && len(s) > 0 && (err != nil || !bytes.Equal(v, want)) {
			t.Fatalf("%q: %x, %v", s, v, err)
		}
		if err != nil {
			return
		}
		if len(v) != len(m) || len(v) == 0 || 2*len(v) > len(s) {
			t.Fatalf("%q: %x %x", s, v, m)
		}
		for i := range v {
			if v[i]&^m[i] != 0 {
				t.Fatalf("%q: %x outside %x", s, v, m)
			}
		}
	})
}

func TestIntBytes(t *testing.T) {
	for _, c := range []struct {
		in   string
		size int
		want string // hex, or the error
	}{
		{"0x1234", 2, "3412"}, {"-1", 4, "ffffffff"}, {"-128", 1, "80"}, {"255", 1, "ff"}, {"0", 8, "0000000000000000"},
		{"18446744073709551615", 8, "ffffffffffffffff"}, {"-9223372036854775808", 8, "0000000000000080"}, {"0b101", 1, "05"},
		{"+7", 1, "07"},
		{"0x123456789", 4, "0x123456789 does not fit in 4 bytes (use -8)"},
		{"-129", 1, "-0x81 does not fit in 1 byte (use -2)"},
		{"256", 1, "0x100 does not fit in 1 byte (use -2)"},
		{"0x10000000000000000", 4, "0x10000000000000000 does not fit in 4 bytes"},
		{"-9223372036854775809", 8, "-0x8000000000000001 does not fit in 8 bytes"},
		{"5", 3, "integers of 3 bytes; give 1, 2, 4 or 8"},
	} {
		v, err := ParseInt(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		b, err := IntBytes(v, c.size, binary.LittleEndian)
		got := hex.EncodeToString(b)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s in %d bytes: %s, want %s", c.in, c.size, got, c.want)
		}
	}
	for _, in := range []string{"", "x", "0x", "010", "--1", "1.5", "1 2", strings.Repeat("1", 200)} {
		if v, err := ParseInt(in); err == nil {
			t.Errorf("%q: %v", in, v)
		}
	}
}

// FuzzParseInt checks that what is parsed and stored reads back as the number.
func FuzzParseInt(f *testing.F) {
	f.Add("0x1234", uint8(2))
	f.Add("-5", uint8(8))
	f.Fuzz(func(t *testing.T, s string, size uint8) {
		v, err := ParseInt(s)
		if err != nil {
			return
		}
		b, err := IntBytes(v, int(size), binary.BigEndian)
		if err != nil {
			return
		}
		got := new(big.Int).SetBytes(b)
		if v.Sign() < 0 {
			got.Sub(got, new(big.Int).Lsh(big.NewInt(1), 8*uint(size)))
		}
		if got.Cmp(v) != 0 {
			t.Fatalf("%q in %d bytes: %x", s, size, b)
		}
	})
}

func TestBigRangeAndUTF16(t *testing.T) {
	m, err := NewBigRange(1, binary.LittleEndian, big.NewInt(-3), big.NewInt(2))
	if err != nil || !matches(m, "\xfd") || matches(m, "\xfc") || !matches(m, "\x02") {
		t.Errorf("%v, %v", m, err)
	}
	top := new(big.Int).SetUint64(math.MaxUint64)
	if m, err = NewBigRange(8, binary.LittleEndian, top, top); err != nil || !matches(m, "\xff\xff\xff\xff\xff\xff\xff\xff") {
		t.Errorf("%v, %v", m, err)
	}
	if lo, hi, ok := SplitIntRange("0x1 .. 0x2"); lo != "0x1" || hi != "0x2" || !ok {
		t.Error(lo, hi, ok)
	}
	for text, want := range map[string]string{"aé": "6100e900", "😀": "3dd800de"} {
		if b, err := UTF16([]byte(text), binary.LittleEndian); err != nil || hex.EncodeToString(b) != want {
			t.Errorf("%s: %x, %v", text, b, err)
		}
	}
	if b, err := UTF16([]byte("\xff"), binary.LittleEndian); err == nil {
		t.Errorf("%x", b)
	}
}

// BenchmarkMatchers is the speed over memory of random bytes.
func BenchmarkMatchers(b *testing.B) {
	data := random(64 << 20)
	le := binary.LittleEndian
	for _, c := range []struct {
		name string
		make func() (Matcher, error)
	}{
		{"bytes", func() (Matcher, error) { return NewBytes([]byte("needle in a haystack")) }},
		{"fold", func() (Matcher, error) { return NewFold([]byte("needle in a haystack")) }},
		{"masked", func() (Matcher, error) { return NewMasked([]byte("n..dle"), []byte{255, 0, 0, 255, 255, 255}) }},
		{"regexp", func() (Matcher, error) { return NewRegexp(`flag\{[a-z]{4,20}\}`, 0) }},
		{"regexp without prefix", func() (Matcher, error) { return NewRegexp(`[a-z]{6,20}@[a-z]{6,20}\.com`, 0) }},
		{"range", func() (Matcher, error) { return NewUintRange(8, le, 0x1000, 0x2000) }},
		{"pointers", func() (Matcher, error) { return NewPointers(8, le, []vm.Range{{Start: 0x7f0000000000, Size: 1 << 30}}) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			m, err := c.make()
			if err != nil {
				b.Fatal(err)
			}
			align := uint64(1)
			if a, ok := m.(Aligner); ok {
				align = a.Align()
			}
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				m.Find(data, 0, len(data), align, func(at, _ int) int { return at + 1 })
			}
		})
	}
}

// random is n bytes that are the same at every call.
func random(n int) []byte {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := 0; i+8 <= n; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	return b
}
