package mi

import "unicode/utf8"

// maxDepth bounds the nesting of tuples and lists in a record. GDB's deepest
// documented record has fewer than ten levels.
const maxDepth = 200

// record is one line of GDB/MI output, taken apart by scan.
type record struct {
	token   []byte // digits before '^'
	kind    byte   // one of "^*+=~@&"
	class   string // result or async class
	text    []byte // decoded text of a stream record
	body    []byte // canonical form of everything after the class, with its comma
	payload Tuple  // only when built
}

// scanner reads one line by the grammar of the GDB manual, "GDB/MI Output
// Syntax", and no more than that: what it accepts the library's parser accepts
// too. It either rewrites what it reads into out, with every escape decoded
// that the library does not know, or builds the value.
type scanner struct {
	in    []byte
	pos   int
	build bool
	out   []byte
	depth int
}

// scan takes line (without its newline) apart. ok is false when it is not
// exactly one MI record. With build the payload is made, else body.
func scan(line []byte, build bool) (r record, ok bool) {
	s := &scanner{in: line, build: build}
	for s.pos < len(line) && line[s.pos] >= '0' && line[s.pos] <= '9' {
		s.pos++
	}
	r.token = line[:s.pos]
	if s.pos == len(line) {
		return r, false
	}
	r.kind = line[s.pos]
	s.pos++
	switch r.kind {
	case '~', '@', '&':
		if len(r.token) > 0 {
			return r, false
		}
		r.text, ok = s.cstring()
		return r, ok && s.pos == len(line)
	case '^', '*', '+', '=':
	default:
		return r, false
	}
	if r.class = s.name(); r.class == "" {
		return r, false
	}
	if s.pos == len(line) {
		return r, true
	}
	if s.peek() != ',' {
		return r, false
	}
	s.take()
	// "+download,{section=...}": the one record whose tuple has no name.
	if r.kind == '+' && s.peek() == '{' {
		var v any
		if v, ok = s.value(); ok {
			r.payload, _ = v.(Tuple)
		}
	} else {
		r.payload, ok = s.results()
	}
	r.body = s.out
	return r, ok && s.pos == len(line)
}

// peek returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.in) {
		return s.in[s.pos]
	}
	return 0
}

// take steps over one byte and copies it.
func (s *scanner) take() {
	if !s.build {
		s.out = append(s.out, s.in[s.pos])
	}
	s.pos++
}

// name reads a class or a variable; "" when there is none.
func (s *scanner) name() string {
	start := s.pos
	for s.pos < len(s.in) && isNameByte(s.in[s.pos]) {
		s.pos++
	}
	return string(s.in[start:s.pos])
}

func isNameByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_' || b == '.'
}

// result reads "name=value".
func (s *scanner) result() (name string, v any, ok bool) {
	if name = s.name(); name == "" || s.peek() != '=' {
		return "", nil, false
	}
	if !s.build {
		s.out = append(s.out, name...)
	}
	s.take()
	v, ok = s.value()
	return name, v, ok
}

// results reads "name=value,name=value...", at least one.
func (s *scanner) results() (Tuple, bool) {
	var t Tuple
	if s.build {
		t = Tuple{}
	}
	for {
		name, v, ok := s.result()
		if !ok {
			return nil, false
		}
		if s.build {
			t[name] = v
		}
		if s.peek() != ',' {
			return t, true
		}
		s.take()
	}
}

// value reads a string, a tuple or a list.
func (s *scanner) value() (any, bool) {
	switch s.peek() {
	case '"':
		text, ok := s.cstring()
		if !ok {
			return nil, false
		}
		if s.build {
			return string(text), true
		}
		s.out = append(s.out, '"')
		s.out = appendEscaped(s.out, text)
		s.out = append(s.out, '"')
		return nil, true
	case '{':
		if s.depth++; s.depth > maxDepth {
			return nil, false
		}
		s.take()
		t, ok := Tuple{}, true
		if s.peek() != '}' {
			t, ok = s.results()
		}
		if !ok || s.peek() != '}' {
			return nil, false
		}
		s.take()
		s.depth--
		return t, true
	case '[':
		if s.depth++; s.depth > maxDepth {
			return nil, false
		}
		s.take()
		l, ok := s.list()
		if !ok || s.peek() != ']' {
			return nil, false
		}
		s.take()
		s.depth--
		return l, true
	}
	return nil, false
}

// list reads the inside of a list: nothing, values, or results. A result
// becomes a tuple of one entry, as the library has it.
func (s *scanner) list() ([]any, bool) {
	l := []any{}
	if s.peek() == ']' {
		return l, true
	}
	named := isNameByte(s.peek())
	for {
		var v any
		var ok bool
		if named {
			var name string
			var inner any
			name, inner, ok = s.result()
			if s.build {
				v = Tuple{name: inner}
			}
		} else {
			v, ok = s.value()
		}
		if !ok {
			return nil, false
		}
		if s.build {
			l = append(l, v)
		}
		if s.peek() != ',' {
			return l, true
		}
		s.take()
	}
}

// cstring reads a quoted string and decodes it.
func (s *scanner) cstring() ([]byte, bool) {
	if s.peek() != '"' {
		return nil, false
	}
	start := s.pos + 1
	escaped := false
	for i := start; i < len(s.in); i++ {
		switch s.in[i] {
		case '\\':
			escaped = true
			i++
		case '"':
			s.pos = i + 1
			raw := s.in[start:i]
			if !escaped {
				return raw, true
			}
			return unescape(make([]byte, 0, len(raw)), raw), true
		}
	}
	return nil, false
}

// unescape appends the bytes that raw stands for. The escapes are those of
// GDB's printchar (gdb/utils.c): the C ones, \e, and up to three octal digits
// with a value below 256. A backslash before anything else stands for it.
func unescape(dst, raw []byte) []byte {
	for i := 0; i < len(raw); i++ {
		b := raw[i]
		if b != '\\' || i+1 == len(raw) {
			dst = append(dst, b)
			continue
		}
		i++
		switch b = raw[i]; b {
		case 'a':
			b = '\a'
		case 'b':
			b = '\b'
		case 'e':
			b = 0x1b
		case 'f':
			b = '\f'
		case 'n':
			b = '\n'
		case 'r':
			b = '\r'
		case 't':
			b = '\t'
		case 'v':
			b = '\v'
		case '0', '1', '2', '3', '4', '5', '6', '7':
			n := int(b - '0')
			for range 2 {
				if i+1 == len(raw) || raw[i+1] < '0' || raw[i+1] > '7' || n*8+int(raw[i+1]-'0') > 255 {
					break
				}
				i++
				n = n*8 + int(raw[i]-'0')
			}
			b = byte(n)
		}
		dst = append(dst, b)
	}
	return dst
}

// appendEscaped appends text in the form that the library's lexer turns back
// into the same bytes: only what would end the string or the line is escaped.
func appendEscaped(dst, text []byte) []byte {
	for _, b := range text {
		switch b {
		case '"', '\\':
			dst = append(dst, '\\', b)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, b)
		}
	}
	return dst
}

// appendLines appends text as one or more lines prefix+text+suffix+"\n", each
// no longer than maxLine bytes. It cuts between runes where text is UTF-8.
func appendLines(dst []byte, prefix, suffix string, text []byte) []byte {
	room := maxLine - len(prefix) - len(suffix) - 1
	for {
		n, size := 0, 0 // bytes of text that fit, and their escaped size
		for n < len(text) {
			w := 1
			switch text[n] {
			case '"', '\\', '\n', '\r':
				w = 2
			}
			if size+w > room {
				break
			}
			n++
			size += w
		}
		if n < len(text) {
			n = runeCut(text, n)
		}
		dst = append(dst, prefix...)
		dst = appendEscaped(dst, text[:n])
		dst = append(dst, suffix...)
		dst = append(dst, '\n')
		if text = text[n:]; len(text) == 0 {
			return dst
		}
	}
}

// runeCut returns the greatest cut <= n that does not divide a UTF-8 encoded
// rune of text, or n where there is no such rune.
func runeCut(text []byte, n int) int {
	for i := n; i > 0 && i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(text[i]) {
			if r, w := utf8.DecodeRune(text[i:]); i < n && i+w > n && (r != utf8.RuneError || w > 1) {
				return i
			}
			return n
		}
	}
	return n
}
