package search

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ParseText turns text with escapes into the bytes it stands for: \n, \t, \r,
// \a, \b, \e (escape), \f, \v, \0 (NUL), \\, \", \' and \xNN (two hex digits).
// Everything else stands for itself.
func ParseText(s string) ([]byte, error) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		if i++; i == len(s) {
			return nil, errors.New(`text ends in the middle of an escape; write \\ for a backslash`)
		}
		switch c := s[i]; c {
		case 'n':
			b = append(b, '\n')
		case 't':
			b = append(b, '\t')
		case 'r':
			b = append(b, '\r')
		case 'a':
			b = append(b, '\a')
		case 'b':
			b = append(b, '\b')
		case 'e':
			b = append(b, 0x1b)
		case 'f':
			b = append(b, '\f')
		case 'v':
			b = append(b, '\v')
		case '0':
			// An octal escape would be read differently from how it looks.
			if i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '7' {
				return nil, fmt.Errorf(`escape \0%c: octal is not understood; write \xNN, or \x00%c for a NUL and a digit`, s[i+1], s[i+1])
			}
			b = append(b, 0)
		case '\\', '"', '\'':
			b = append(b, c)
		case 'x':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return nil, errors.New(`escape \x: two hex digits must follow`)
			}
			b = append(b, hexValue(s[i+1])<<4|hexValue(s[i+2]))
			i += 2
		default:
			r, _ := utf8.DecodeRuneInString(s[i:])
			return nil, fmt.Errorf(`unknown escape \%c; there are \n \t \r \a \b \e \f \v \0 \xNN \\ \" \'`, r)
		}
	}
	return b, nil
}

// ParseHex reads hex digits as bytes and a mask of the bits that are given: ?
// or . stands for any digit, so that ?? and .. stand for any one byte
// (48??c7..0f has five bytes, the second and the fourth of them any) and 4?
// for 0x40 to 0x4f. Blanks and commas may separate bytes, and a group of
// digits may start with 0x.
func ParseHex(s string) (value, mask []byte, err error) {
	for _, group := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' }) {
		digits := group
		if strings.HasPrefix(digits, "0x") || strings.HasPrefix(digits, "0X") {
			digits = digits[2:]
		}
		for _, c := range digits {
			if c != '?' && c != '.' && (c > 'f' || !isHex(byte(c))) {
				return nil, nil, fmt.Errorf("hex bytes %q: %q is no hex digit and no wildcard (? or .)", s, c)
			}
		}
		if len(digits) == 0 || len(digits)%2 != 0 {
			return nil, nil, fmt.Errorf("hex bytes %q: %q has %d digits; two make a byte", s, group, len(digits))
		}
		for i := 0; i < len(digits); i += 2 {
			var v, m byte
			for _, c := range []byte(digits[i : i+2]) {
				v, m = v<<4, m<<4
				if isHex(c) {
					v, m = v|hexValue(c), m|0xf
				}
			}
			value, mask = append(value, v), append(mask, m)
		}
	}
	if len(value) == 0 {
		return nil, nil, errors.New("no hex bytes; give some like 48 8b ?? c7")
	}
	return value, mask, nil
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// hexValue is the value of a hex digit.
func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// ParseInt reads an integer: decimal, or with a prefix 0x, 0o or 0b, with an
// optional sign before.
func ParseInt(s string) (*big.Int, error) {
	digits := strings.TrimLeft(s, "+-")
	// A leading 0 would mean octal to some and decimal to others.
	if len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
		return nil, fmt.Errorf("integer %q: leading zero; write 0o... for octal", s)
	}
	// 2^64 has 64 binary digits: anything much longer is not worth parsing.
	if v, ok := new(big.Int).SetString(s, 0); ok && len(s) <= 128 {
		return v, nil
	}
	return nil, fmt.Errorf("%q is no integer; give one like 1234, -1 or 0x4d2", s)
}

// IntBytes is v as size bytes (1, 2, 4 or 8) in the byte order, in two's
// complement where negative. What neither a signed nor an unsigned integer of
// that size can hold is an error that says which size would do.
func IntBytes(v *big.Int, size int, order binary.ByteOrder) ([]byte, error) {
	if err := fits(v, size); err != nil {
		return nil, err
	}
	var u uint64
	if v.Sign() < 0 {
		u = uint64(v.Int64())
	} else {
		u = v.Uint64()
	}
	b := make([]byte, size)
	switch size {
	case 1:
		b[0] = byte(u)
	case 2:
		order.PutUint16(b, uint16(u))
	case 4:
		order.PutUint32(b, uint32(u))
	case 8:
		order.PutUint64(b, u)
	}
	return b, nil
}

// fits reports with an error that v is neither a signed nor an unsigned
// integer of size bytes.
func fits(v *big.Int, size int) error {
	if size != 1 && size != 2 && size != 4 && size != 8 {
		return fmt.Errorf("integers of %d bytes; give 1, 2, 4 or 8", size)
	}
	if intFits(v, size) {
		return nil
	}
	text := v.String()
	if v.BitLen() > 7 {
		text = fmt.Sprintf("%#x", v)
	}
	plural := "s"
	if size == 1 {
		plural = ""
	}
	for _, larger := range []int{2, 4, 8} {
		if larger > size && intFits(v, larger) {
			return fmt.Errorf("%s does not fit in %d byte%s (use -%d)", text, size, plural, larger)
		}
	}
	return fmt.Errorf("%s does not fit in %d byte%s", text, size, plural)
}

func intFits(v *big.Int, size int) bool {
	if v.Sign() < 0 {
		// -2^(n-1) has as many bits as 2^(n-1)-1 when inverted.
		return new(big.Int).Not(v).BitLen() < 8*size
	}
	return v.BitLen() <= 8*size
}

// SplitIntRange cuts LO..HI in two; ok is false where s has no "..".
func SplitIntRange(s string) (lo, hi string, ok bool) {
	lo, hi, ok = strings.Cut(s, "..")
	return strings.TrimSpace(lo), strings.TrimSpace(hi), ok
}

// NewBigRange matches integers of size bytes from lo to hi: signed ones where
// lo is negative, else unsigned ones.
func NewBigRange(size int, order binary.ByteOrder, lo, hi *big.Int) (Matcher, error) {
	for _, v := range [2]*big.Int{lo, hi} {
		if err := fits(v, size); err != nil {
			return nil, err
		}
	}
	if lo.Cmp(hi) > 0 {
		return nil, fmt.Errorf("range %v..%v is empty; give the lower value first", lo, hi)
	}
	if lo.Sign() >= 0 {
		return NewUintRange(size, order, lo.Uint64(), hi.Uint64())
	}
	if !hi.IsInt64() {
		return nil, fmt.Errorf("range %v..%v: no integer of %d bytes holds both ends", lo, hi, size)
	}
	return NewIntRange(size, order, lo.Int64(), hi.Int64())
}

// UTF16 is UTF-8 text in UTF-16 of the byte order, without a byte order mark.
func UTF16(text []byte, order binary.ByteOrder) ([]byte, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("bytes that are no UTF-8 have no form in UTF-16; search for bytes instead")
	}
	units := utf16.Encode([]rune(string(text)))
	b := make([]byte, 2*len(units))
	for i, u := range units {
		order.PutUint16(b[2*i:], u)
	}
	return b, nil
}
