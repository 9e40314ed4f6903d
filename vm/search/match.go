package search

import (
	"bytes"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Matcher finds a needle in bytes. It may be used concurrently.
type Matcher interface {
	// Span is how many bytes from the start of a match on decide whether it is
	// one and how long it is, 1 to MaxSpan; no match is longer.
	Span() int
	// Find calls found with the matches that start in data[from:to], at a
	// distance from `from` that is a multiple of align (at least 1), in
	// ascending order, each with its length in bytes, more than zero. A match
	// ends within data and may end behind to. What found returns, more than
	// at, is the lowest place for the start of the next; Find returns when
	// that is to or more.
	Find(data []byte, from, to int, align uint64, found func(at, length int) (next int))
}

// Aligner is a Matcher with an alignment of its own.
type Aligner interface {
	// Align is the alignment to keep hits at where no other was asked for, in bytes.
	Align() uint64
}

// Lookbehind is a Matcher to which it may matter what stands before a match.
type Lookbehind interface {
	// LooksBehind reports whether it must see the byte before a match.
	LooksBehind() bool
}

// MaxSpan is the greatest span of a matcher in bytes.
const MaxSpan = 1 << 20

// zeroMatch is the length of the match at any place in memory that is all
// zeros for a span on and one byte before, 0 for none, and whether there may be a
// longer one than the matcher follows.
func zeroMatch(m Matcher) (length int, longer bool) {
	return matchAt(m, make([]byte, 1+m.Span()), 1)
}

// matchAt is the length of the match at data[at], 0 for none, and whether there
// may be a longer one than the matcher follows.
func matchAt(m Matcher, data []byte, at int) (length int, longer bool) {
	found := func(_, n int) int {
		length = n
		return at + 1
	}
	if s, ok := m.(stoppable); ok {
		s.findUntil(func() bool { return false }, func(uint64) { longer = true }, data, at, at+1, 1, found)
	} else {
		m.Find(data, at, at+1, 1, found)
	}
	return length, longer
}

var errEmptyNeedle = errors.New("nothing to search for")

func checkLen(n int) error {
	if n == 0 {
		return errEmptyNeedle
	}
	if n > MaxSpan {
		return fmt.Errorf("%d bytes to search for; at most %d", n, MaxSpan)
	}
	return nil
}

// candidate is the first place at or after `at` that is a multiple of align
// away from `from`, or to where that is not below it.
func candidate(from, at, to int, align uint64) int {
	if at >= to {
		return to
	}
	if rest := uint64(at-from) % align; rest != 0 {
		if align-rest >= uint64(to-at) {
			return to
		}
		at += int(align - rest)
	}
	return at
}

type bytesMatcher struct{ needle []byte }

// NewBytes matches exactly the needle, 1 to MaxSpan bytes.
func NewBytes(needle []byte) (Matcher, error) {
	if err := checkLen(len(needle)); err != nil {
		return nil, err
	}
	return bytesMatcher{bytes.Clone(needle)}, nil
}

func (m bytesMatcher) Span() int { return len(m.needle) }

func (m bytesMatcher) Find(data []byte, from, to int, align uint64, found func(at, length int) int) {
	n := len(m.needle)
	to = min(to, len(data)-n+1)
	for at := from; at < to; {
		i := bytes.Index(data[at:to+n-1], m.needle)
		if i < 0 {
			return
		}
		at += i
		if next := candidate(from, at, to, align); next != at {
			at = next
			continue
		}
		at = candidate(from, found(at, n), to, align)
	}
}

type patternMatcher struct {
	value, mask  []byte
	anchor, size int // where the longest run of bytes without wildcards stands; size 0: none
}

// NewMasked matches memory whose bits where the mask has ones equal those of
// the value; both have 1 to MaxSpan bytes, as many the one as the other.
func NewMasked(value, mask []byte) (Matcher, error) {
	if err := checkLen(len(value)); err != nil {
		return nil, err
	}
	if len(mask) != len(value) {
		return nil, fmt.Errorf("a mask of %d bytes for a value of %d; give as many", len(mask), len(value))
	}
	m := patternMatcher{value: bytes.Clone(value), mask: bytes.Clone(mask)}
	some, run := byte(0), 0
	for i, b := range mask {
		m.value[i] &= b
		some |= b
		if b != 0xff {
			run = 0
			continue
		}
		if run++; run > m.size {
			m.anchor, m.size = i+1-run, run
		}
	}
	if some == 0 {
		return nil, errors.New("everything matches a pattern of wildcards only; give at least one digit")
	}
	if m.size == len(value) {
		return bytesMatcher{m.value}, nil
	}
	return m, nil
}

func (m patternMatcher) Span() int { return len(m.value) }

func (m patternMatcher) Find(data []byte, from, to int, align uint64, found func(at, length int) int) {
	n := len(m.value)
	to = min(to, len(data)-n+1)
	anchor := m.value[m.anchor : m.anchor+m.size]
	for at := from; at < to; {
		i := bytes.Index(data[at+m.anchor:to-1+m.anchor+m.size], anchor)
		if i < 0 {
			return
		}
		at += i
		next := candidate(from, at, to, align)
		if next == at {
			if next++; m.equal(data[at : at+n]) {
				next = found(at, n)
			}
			next = candidate(from, next, to, align)
		}
		at = next
	}
}

func (m patternMatcher) equal(b []byte) bool {
	for i, mask := range m.mask {
		if b[i]&mask != m.value[i] {
			return false
		}
	}
	return true
}

type foldMatcher struct {
	runes [][][]byte // for each rune its encodings, all of one length
	first [256]bool  // the bytes with which a match can start
	span  int
}

// NewFold matches text in UTF-8 without regard to case, by Unicode's simple
// folding; letters whose other case takes another number of bytes (the Kelvin
// sign for k) match only as they are. Bytes that are no UTF-8 match as they are.
func NewFold(text []byte) (Matcher, error) {
	if err := checkLen(len(text)); err != nil {
		return nil, err
	}
	m := &foldMatcher{span: len(text)}
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		forms := [][]byte{bytes.Clone(text[i : i+n])}
		if r != utf8.RuneError || n > 1 {
			for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
				if utf8.RuneLen(f) == n {
					forms = append(forms, utf8.AppendRune(nil, f))
				}
			}
		}
		m.runes = append(m.runes, forms)
		i += n
	}
	for _, f := range m.runes[0] {
		m.first[f[0]] = true
	}
	return m, nil
}

func (m *foldMatcher) Span() int { return m.span }

func (m *foldMatcher) Find(data []byte, from, to int, align uint64, found func(at, length int) int) {
	to = min(to, len(data)-m.span+1)
	for at := from; at < to; {
		if m.first[data[at]] && m.equal(data[at:]) {
			at = candidate(from, found(at, m.span), to, align)
		} else if align < uint64(to-at) {
			at += int(align)
		} else {
			return
		}
	}
}

func (m *foldMatcher) equal(b []byte) bool {
	for _, forms := range m.runes {
		n := len(forms[0])
		same := false
		for _, f := range forms {
			same = same || bytes.Equal(b[:n], f)
		}
		if !same {
			return false
		}
		b = b[n:]
	}
	return true
}
