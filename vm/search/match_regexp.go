package search

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// DefaultRegexpLen is how far in bytes the matches of a regular expression are
// followed by default.
const DefaultRegexpLen = 4096

// byteRunes is where bytes from 0x80 on stand among the runes while an
// expression is parsed: in a private use area, where no rune has another case.
const byteRunes = 0xe000

// maxStates bounds the states that an automaton keeps, at about 2 KiB each.
const maxStates = 512

// stopSteps is how many steps of an automaton, about 1 ns each once its states
// are made, go by between two looks at whether to stop.
const stopSteps = 64 << 10

// regexpMatcher finds where matches start by one pass of an automaton for the
// mirrored expression from the end of the data to its beginning, and how long
// they are by another one from each start. The first pass takes a step for each
// byte; the second up to maxLen for each start, and many starts may turn out to
// have no match as short as that, as those of a.*b in text without a b. So it
// takes up to maxLen steps for each byte, and never more, whatever the expression.
type regexpMatcher struct {
	forward, backward *program
	prefix            []byte // every match starts with it
	maxLen, span      int
	asserts           bool
	unbounded         bool      // there are matches of more than maxLen bytes
	machines          sync.Pool // of *machine
}

// NewRegexp matches a regular expression in the syntax of package regexp, on
// bytes: \xff is the byte 0xff and . any one byte, newline included. Characters
// that are not ASCII stand for their bytes in UTF-8 and may not stand in a
// class; \p has no meaning here. (?i) is for ASCII letters. ^ and $ match at
// the ends of lines, and of what can be read; \A and \z are refused, as is what
// matches the empty string.
//
// A match is what package regexp would prefer among those of at most maxLen
// bytes (1 to MaxSpan-1; 0 stands for DefaultRegexpLen). Where there may be a
// longer one the search says so, see Result.Longer.
func NewRegexp(expr string, maxLen int) (Matcher, error) {
	if maxLen == 0 {
		maxLen = DefaultRegexpLen
	}
	if maxLen < 1 || maxLen >= MaxSpan {
		return nil, fmt.Errorf("matches of up to %d bytes; give 1 to %d", maxLen, MaxSpan-1)
	}
	m, err := newRegexp(expr, maxLen)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", expr, err)
	}
	return m, nil
}

func newRegexp(expr string, maxLen int) (*regexpMatcher, error) {
	translated, err := translate(expr)
	if err != nil {
		return nil, err
	}
	tree, err := syntax.Parse(translated, syntax.Perl&^syntax.OneLine|syntax.DotNL)
	if err != nil {
		// Its text would quote the translation.
		if e, ok := err.(*syntax.Error); ok {
			return nil, fmt.Errorf("%s: %s", e.Code, plain(e.Expr))
		}
		return nil, err
	}
	asserts, err := assertions(tree)
	if err != nil {
		return nil, err
	}
	tree = tree.Simplify()
	low, high := lengths(tree)
	switch {
	case low == 0:
		return nil, fmt.Errorf("it matches the empty string, so everywhere")
	case low > maxLen:
		return nil, fmt.Errorf("its matches have %d bytes and more, which is over the bound of %d", low, maxLen)
	}
	m := &regexpMatcher{maxLen: min(high, maxLen), asserts: asserts, unbounded: high > maxLen}
	m.span = m.maxLen
	if asserts || m.unbounded {
		m.span++
	}
	forward, err := syntax.Compile(tree)
	if err != nil {
		return nil, err
	}
	backward, err := syntax.Compile(mirror(tree))
	if err != nil {
		return nil, err
	}
	m.forward, m.backward = newProgram(forward), newProgram(backward)
	prefix, _ := forward.Prefix()
	for _, r := range prefix {
		m.prefix = append(m.prefix, byte(r))
	}
	m.machines.New = func() any {
		return &machine{
			ends:   automaton{program: m.forward, once: true, prefers: true},
			starts: automaton{program: m.backward},
			middle: automaton{program: m.backward, once: true},
		}
	}
	return m, nil
}

// translate makes bytes from 0x80 on, in whatever way they are written, runes
// from byteRunes on.
func translate(expr string) (string, error) {
	var b strings.Builder
	class := false
	for i := 0; i < len(expr); {
		switch c := expr[i]; {
		case c == '\\' && i+1 < len(expr):
			n, err := translateEscape(&b, expr[i:], class)
			if err != nil {
				return "", err
			}
			i += n
		case class && strings.HasPrefix(expr[i:], "[:"):
			// A named class has its own brackets; what it is not, the parser says.
			b.WriteString("[:")
			i += 2
			if end := strings.Index(expr[i:], ":]"); end >= 0 && isASCII(expr[i:i+end]) {
				b.WriteString(expr[i : i+end+2])
				i += end + 2
			}
		case !class && c == '[':
			class = true
			b.WriteByte(c)
			// A bracket that comes first is no end of the class.
			if i++; i < len(expr) && expr[i] == '^' {
				b.WriteByte('^')
				i++
			}
			if i < len(expr) && expr[i] == ']' {
				b.WriteByte(']')
				i++
			}
		case class && c == ']':
			class = false
			b.WriteByte(c)
			i++
		case c < utf8.RuneSelf:
			b.WriteByte(c)
			i++
		default:
			r, n := utf8.DecodeRuneInString(expr[i:])
			if class && n > 1 {
				return "", fmt.Errorf("%c in a class has several bytes; write alternatives, as in (?:%c|...)", r, r)
			}
			writeBytes(&b, expr[i:i+n])
			i += n
		}
	}
	return b.String(), nil
}

// translateEscape translates the escape that s starts with and returns its length.
func translateEscape(b *strings.Builder, s string, class bool) (int, error) {
	digits, n, base := "", 2, 16
	switch c := s[1]; {
	case c == 'p' || c == 'P':
		return 0, fmt.Errorf(`\%c: classes of Unicode have no meaning for bytes`, c)
	case c == 'Q' && !class:
		text, _, ended := strings.Cut(s[2:], `\E`)
		n += len(text)
		if ended {
			n += 2
		}
		for i := range len(text) {
			if text[i] < utf8.RuneSelf {
				fmt.Fprintf(b, `\x%02x`, text[i])
			} else {
				writeBytes(b, text[i:i+1])
			}
		}
		return n, nil
	case c == 'x' && len(s) > 2 && s[2] == '{':
		end := strings.IndexByte(s, '}')
		if end < 0 {
			b.WriteString(s[:n])
			return n, nil
		}
		digits, n = s[3:end], end+1
	case c == 'x' && len(s) > 3:
		digits, n = s[2:4], 4
	case c >= '0' && c <= '7':
		for n < min(4, len(s)) && s[n] >= '0' && s[n] <= '7' {
			n++
		}
		if c != '0' && n == 2 { // a back reference, which the parser refuses
			b.WriteString(s[:n])
			return n, nil
		}
		digits, base = s[1:n], 8
	default:
		_, size := utf8.DecodeRuneInString(s[1:])
		if size > 1 || c >= utf8.RuneSelf {
			return 0, fmt.Errorf(`unknown escape \%s`, s[1:1+size])
		}
		b.WriteString(s[:n])
		return n, nil
	}
	v, err := strconv.ParseUint(digits, base, 32)
	switch {
	case err != nil || digits[0] == '+':
		return 0, fmt.Errorf("unknown escape %s", s[:n])
	case v > 0xff:
		return 0, fmt.Errorf("%s is no byte", s[:n])
	case v < utf8.RuneSelf:
		fmt.Fprintf(b, `\x%02x`, v)
	default:
		b.WriteRune(byteRunes + rune(v))
	}
	return n, nil
}

// writeBytes writes bytes from 0x80 on so that they stand together.
func writeBytes(b *strings.Builder, s string) {
	if len(s) > 1 {
		b.WriteString("(?:")
		defer b.WriteByte(')')
	}
	for _, c := range []byte(s) {
		b.WriteRune(byteRunes + rune(c))
	}
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// plain shows a translated expression as it could have been written.
func plain(translated string) string {
	var b strings.Builder
	for _, r := range translated {
		if r >= byteRunes+0x80 && r <= byteRunes+0xff {
			fmt.Fprintf(&b, `\x%02x`, r-byteRunes)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// assertions reports whether there are any, and refuses those that memory
// cannot meet.
func assertions(re *syntax.Regexp) (some bool, err error) {
	switch re.Op {
	case syntax.OpBeginText, syntax.OpEndText:
		return false, fmt.Errorf(`memory has no beginning and no end for \A and \z; ^ and $ stand for those of a line`)
	case syntax.OpBeginLine, syntax.OpEndLine, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		some = true
	}
	for _, sub := range re.Sub {
		s, err := assertions(sub)
		if err != nil {
			return false, err
		}
		some = some || s
	}
	return some, nil
}

// lengths are the least and the greatest length of a match in bytes.
func lengths(re *syntax.Regexp) (low, high int) {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune), len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL, syntax.OpNoMatch:
		return 1, 1
	case syntax.OpCapture:
		return lengths(re.Sub[0])
	case syntax.OpStar:
		return 0, math.MaxInt
	case syntax.OpPlus:
		low, _ = lengths(re.Sub[0])
		return low, math.MaxInt
	case syntax.OpQuest:
		_, high = lengths(re.Sub[0])
		return 0, high
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			l, h := lengths(sub)
			low += l
			if high = high + h; high < 0 {
				high = math.MaxInt
			}
		}
	case syntax.OpAlternate:
		low = math.MaxInt
		for _, sub := range re.Sub {
			l, h := lengths(sub)
			low, high = min(low, l), max(high, h)
		}
	}
	return low, high
}

// mirror is the expression that matches the same backwards.
func mirror(re *syntax.Regexp) *syntax.Regexp {
	m := *re
	m.Rune = slices.Clone(re.Rune)
	m.Sub = make([]*syntax.Regexp, len(re.Sub))
	for i, sub := range re.Sub {
		m.Sub[i] = mirror(sub)
	}
	switch re.Op {
	case syntax.OpLiteral:
		slices.Reverse(m.Rune)
	case syntax.OpConcat:
		slices.Reverse(m.Sub)
	case syntax.OpBeginLine:
		m.Op = syntax.OpEndLine
	case syntax.OpEndLine:
		m.Op = syntax.OpBeginLine
	}
	return &m
}

// program is a compiled expression with the set of bytes that each of its
// instructions takes. It is not changed once made.
type program struct {
	*syntax.Prog
	takes []*[256]bool // nil for instructions that take none
}

func newProgram(p *syntax.Prog) *program {
	prog := &program{p, make([]*[256]bool, len(p.Inst))}
	for pc := range p.Inst {
		inst := &p.Inst[pc]
		switch inst.Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			set := new([256]bool)
			for b := range set {
				r := rune(b)
				if b >= utf8.RuneSelf {
					r += byteRunes
				}
				set[b] = inst.MatchRune(r)
			}
			prog.takes[pc] = set
		}
	}
	return prog
}

// machine is what one goroutine needs to match.
type machine struct {
	ends, starts, middle automaton

	at []uint64 // a bit for each place where a match starts
	on []uint64 // a bit for each place where one starts that goes on behind the data
}

func (m *regexpMatcher) Span() int { return m.span }

// LooksBehind reports whether the expression has assertions.
func (m *regexpMatcher) LooksBehind() bool { return m.asserts }

func (m *regexpMatcher) Find(data []byte, from, to int, align uint64, found func(at, length int) int) {
	m.findUntil(func() bool { return false }, func(uint64) {}, data, from, to, align, found)
}

// findUntil implements stoppable.
func (m *regexpMatcher) findUntil(stop func() bool, longer func(places uint64), data []byte, from, to int, align uint64, found func(at, length int) int) {
	to = min(to, len(data))
	if from >= to {
		return
	}
	end := min(len(data), to-1+m.span)
	if len(m.prefix) > 0 {
		i := bytes.Index(data[from:end], m.prefix)
		if i < 0 || i >= to-from {
			return
		}
	}
	x := m.machines.Get().(*machine)
	defer m.machines.Put(x)
	if !x.findStarts(stop, data, from, to, end) {
		return
	}
	if x.on = x.on[:0]; m.unbounded && !x.findOngoing(stop, data, from, min(to, end-m.maxLen), end) {
		return
	}
	steps := 0
	for at := from; at < to; {
		i, bit := (at-from)/64, (at-from)%64
		starts, ongoing := x.at[i]>>bit, uint64(0)
		if i < len(x.on) {
			ongoing = x.on[i] >> bit
		}
		switch {
		case starts == 0 && (ongoing == 0 || align == 1):
			if ongoing != 0 {
				longer(uint64(bits.OnesCount64(ongoing)))
			}
			at = candidate(from, at+64-bit, to, align)
			continue
		case starts&1 == 0:
			if ongoing&1 != 0 {
				longer(1)
			}
			at = candidate(from, at+1, to, align)
			continue
		}
		next := at + 1
		n, took, goesOn := x.length(data, at, m.maxLen)
		if steps += took; steps >= stopSteps {
			if steps = 0; stop() {
				return
			}
		}
		if goesOn {
			longer(1)
		}
		if n > 0 {
			next = found(at, n)
		}
		at = candidate(from, next, to, align)
	}
}

// findStarts sets a bit for each place in data[from:to] where a match starts
// that ends at or before end, whatever its length. It returns whether it came
// to its end before stop said so.
func (x *machine) findStarts(stop func() bool, data []byte, from, to, end int) bool {
	x.at = placeBits(x.at, from, to)
	return x.starts.backwards(x.at, x.starts.start(symbolAt(data, end)), stop, data, from, to, end)
}

// findOngoing sets a bit for each place in data[from:to] where a match may start
// that ends behind end, which is more than maxLen bytes away from all of them.
func (x *machine) findOngoing(stop func() bool, data []byte, from, to, end int) bool {
	if from >= to {
		return true
	}
	x.on = placeBits(x.on, from, to)
	a := &x.middle
	var all []uint32 // the instructions that what ends at end may come from
	for pc, set := range a.takes {
		if set != nil {
			all = append(all, uint32(pc))
		}
	}
	return a.backwards(x.on, a.state(all, sideOf(symbolAt(data, end)), false), stop, data, from, to, end)
}

// placeBits is a clear bit for each place from from up to to, in the memory of b.
func placeBits(b []uint64, from, to int) []uint64 {
	words := (to - from + 63) / 64
	b = slices.Grow(b[:0], words)[:words]
	clear(b)
	return b
}

// backwards runs from s and from the end over data[from:end], and sets a bit for each
// place before to where it matches, down to where it can go no further. It returns
// whether it came to its end before stop said so.
func (a *automaton) backwards(places []uint64, s *state, stop func() bool, data []byte, from, to, end int) bool {
	for p := end; p > from; p-- {
		s = a.step(s, int(data[p-1]))
		if s.matched && p < to {
			places[(p-from)/64] |= 1 << ((p - from) % 64)
		}
		if p%stopSteps == 0 && stop() {
			return false
		}
		if len(s.pcs) == 0 {
			return true
		}
	}
	if a.step(s, symbolAt(data, from-1)).matched {
		places[0] |= 1
	}
	return true
}

// length is that of the match at data[at:], 0 for none, and how many steps it took.
// GoesOn says that a longer one than maxLen would be preferred, if it is there.
func (x *machine) length(data []byte, at, maxLen int) (length, steps int, goesOn bool) {
	s := x.ends.start(symbolAt(data, at-1))
	for ; len(s.pcs) > 0 && steps <= maxLen; steps++ {
		s = x.ends.step(s, symbolAt(data, at+steps))
		if s.matched {
			length = steps
		}
	}
	return length, steps, len(s.pcs) > 0
}

// outside is the symbol for what lies before and behind the data.
const outside = 256

func symbolAt(data []byte, i int) int {
	if i < 0 || i >= len(data) {
		return outside
	}
	return int(data[i])
}

// automaton is a deterministic automaton that is made as it runs. A state
// knows what was seen last but not yet what is to come, so assertions are
// decided, and matches told, one step late.
type automaton struct {
	*program
	once    bool // start only once, else everywhere
	prefers bool // prefer matches as package regexp does, else tell of every one
	states  map[string]*state
	key     []byte
	mark    []bool // the instructions visited in a step
	stack   []uint32
}

// state is a set of instructions to go on with, in order of preference.
type state struct {
	pcs     []uint32
	last    side
	matched bool // on the way here, before the last symbol
	next    [outside + 1]*state
}

// side is what matters to assertions about the symbol on one side of a place.
type side byte

const (
	sideOther side = iota
	sideWord
	sideLine // a newline, or the outside
)

func sideOf(symbol int) side {
	switch {
	case symbol == '\n' || symbol == outside:
		return sideLine
	case syntax.IsWordChar(rune(symbol)):
		return sideWord
	}
	return sideOther
}

func (a *automaton) start(last int) *state {
	return a.state([]uint32{uint32(a.Start)}, sideOf(last), false)
}

// state is the one state with these properties.
func (a *automaton) state(pcs []uint32, last side, matched bool) *state {
	a.key = append(a.key[:0], byte(last), 0)
	if matched {
		a.key[1] = 1
	}
	for _, pc := range pcs {
		a.key = binary.NativeEndian.AppendUint32(a.key, pc)
	}
	if s := a.states[string(a.key)]; s != nil {
		return s
	}
	if a.states == nil || len(a.states) >= maxStates {
		// States still in use stay valid, they are only not found again.
		a.states = map[string]*state{}
	}
	s := &state{pcs: slices.Clone(pcs), last: last, matched: matched}
	a.states[string(a.key)] = s
	return s
}

// step is the state after a symbol.
func (a *automaton) step(s *state, symbol int) *state {
	if next := s.next[symbol]; next != nil {
		return next
	}
	return a.makeStep(s, symbol)
}

func (a *automaton) makeStep(s *state, symbol int) *state {
	after := sideOf(symbol)
	var holds syntax.EmptyOp
	if s.last == sideLine {
		holds |= syntax.EmptyBeginLine
	}
	if after == sideLine {
		holds |= syntax.EmptyEndLine
	}
	if (s.last == sideWord) != (after == sideWord) {
		holds |= syntax.EmptyWordBoundary
	} else {
		holds |= syntax.EmptyNoWordBoundary
	}
	if a.mark == nil {
		a.mark = make([]bool, len(a.Inst))
	}
	clear(a.mark)
	var (
		pcs     []uint32
		matched bool
	)
	a.stack = a.stack[:0]
	for _, pc := range slices.Backward(s.pcs) {
		a.stack = append(a.stack, pc)
	}
	for len(a.stack) > 0 {
		pc := a.stack[len(a.stack)-1]
		a.stack = a.stack[:len(a.stack)-1]
		if a.mark[pc] {
			continue
		}
		a.mark[pc] = true
		switch inst := &a.Inst[pc]; inst.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			a.stack = append(a.stack, inst.Arg, inst.Out)
		case syntax.InstCapture, syntax.InstNop:
			a.stack = append(a.stack, inst.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(inst.Arg)&^holds == 0 {
				a.stack = append(a.stack, inst.Out)
			}
		case syntax.InstMatch:
			matched = true
			if a.prefers {
				a.stack = a.stack[:0] // what follows is less preferred
			}
		case syntax.InstFail:
		default:
			if symbol != outside && a.takes[pc][symbol] && !slices.Contains(pcs, inst.Out) {
				pcs = append(pcs, inst.Out)
			}
		}
	}
	if start := uint32(a.Start); !a.once && !slices.Contains(pcs, start) {
		pcs = append(pcs, start)
	}
	if !a.prefers {
		slices.Sort(pcs)
	}
	next := a.state(pcs, after, matched)
	s.next[symbol] = next
	return next
}
