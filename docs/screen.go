package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// style is how a character looks. colour is one of the terminal's eight from
// 1, or 0 for the usual one.
type style struct {
	colour                 int
	bold, faint, underline bool
}

type cell struct {
	char  rune
	style style
}

// screen is what a terminal shows, as far as a prompt and text with colours
// need it (console_codes(4)). All characters are one column wide.
type screen struct {
	lines    [][]cell
	row, col int
	style    style
	rest     []byte // the beginning of a sequence or character
}

// write takes what a program writes to the terminal.
func (s *screen) write(p []byte) {
	p = append(s.rest, p...)
	s.rest = nil
	for len(p) > 0 {
		n := 1
		switch c := p[0]; {
		case c == '\r':
			s.col = 0
		case c == '\n':
			s.row++
		case c == '\b':
			s.col = max(0, s.col-1)
		case c == '\t':
			s.col = (s.col/8 + 1) * 8
		case c == 0x1b:
			n = s.escape(p)
		case c < ' ':
		case !utf8.FullRune(p):
			n = 0
		default:
			var r rune
			r, n = utf8.DecodeRune(p)
			s.put(r)
		}
		if n == 0 {
			s.rest = bytes.Clone(p)
			return
		}
		p = p[n:]
	}
}

func (s *screen) put(r rune) {
	if s.col == columns {
		s.col = 0
		s.row++
	}
	line := s.line()
	for len(*line) <= s.col {
		*line = append(*line, cell{char: ' '})
	}
	(*line)[s.col] = cell{r, s.style}
	s.col++
}

// line is the line that the cursor is in.
func (s *screen) line() *[]cell {
	for len(s.lines) <= s.row {
		s.lines = append(s.lines, nil)
	}
	return &s.lines[s.row]
}

// escape takes the escape sequence that p begins with and returns its length,
// 0 where it is not complete.
func (s *screen) escape(p []byte) int {
	if len(p) < 2 {
		return 0
	}
	if p[1] != '[' {
		return 2
	}
	end := bytes.IndexFunc(p[2:], func(r rune) bool { return r >= '@' && r <= '~' })
	if end < 0 {
		return 0
	}
	text, final := string(p[2:2+end]), p[2+end]
	number := func(usual int) int {
		if n, err := strconv.Atoi(text); err == nil {
			return n
		}
		return usual
	}
	switch final {
	case 'm':
		for _, n := range strings.Split(text, ";") {
			s.style.set(n)
		}
	case 'G':
		s.col = number(1) - 1
	case 'C':
		s.col += number(1)
	case 'D':
		s.col = max(0, s.col-number(1))
	case 'A':
		s.row = max(0, s.row-number(1))
	case 'B':
		s.row += number(1)
	case 'K':
		if line := s.line(); number(0) == 0 && s.col < len(*line) {
			*line = (*line)[:s.col]
		}
	}
	return 3 + end
}

// set changes the style by one parameter of the sequence SGR.
func (st *style) set(parameter string) {
	n, _ := strconv.Atoi(parameter)
	switch {
	case n == 0:
		*st = style{}
	case n == 1:
		st.bold = true
	case n == 2:
		st.faint = true
	case n == 4:
		st.underline = true
	case n == 22:
		st.bold, st.faint = false, false
	case n == 24:
		st.underline = false
	case n >= 30 && n <= 37:
		st.colour = n - 29
	case n == 39:
		st.colour = 0
	}
}

// clone is the screen as it is now.
func (s *screen) clone() *screen {
	c := *s
	c.lines = slices.Clone(s.lines)
	for i := range c.lines {
		c.lines[i] = slices.Clone(c.lines[i])
	}
	return &c
}

// waits reports whether the cursor stands right behind the prompt.
func (s *screen) waits(prompt string) bool {
	return s.row < len(s.lines) && s.col == len(prompt) && textOf(s.lines[s.row]) == prompt
}

func (s *screen) text() string {
	var b strings.Builder
	for _, l := range s.lines {
		b.WriteString(textOf(l) + "\n")
	}
	return b.String()
}

func textOf(line []cell) string {
	var b strings.Builder
	for _, c := range line {
		b.WriteRune(c.char)
	}
	return b.String()
}

// svg draws the screen up to the cursor.
func (s *screen) svg() []byte {
	const (
		charWidth, lineHeight = 7.8, 17 // of a monospaced font of 13 pixels
		margin                = 14
	)
	width := margin*2 + columns*charWidth
	height := margin*2 + (s.row+1)*lineHeight
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" viewBox="0 0 %.0f %d">
<style>
text { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #d4d4d8 }
.b { font-weight: bold } .f { opacity: .6 } .u { text-decoration: underline }
`, width, height, width, height)
	for i, c := range []string{"#52525b", "#f87171", "#4ade80", "#facc15", "#60a5fa", "#e879f9", "#22d3ee", "#f4f4f5"} {
		fmt.Fprintf(&b, ".c%d { fill: %s }\n", i+1, c)
	}
	fmt.Fprintf(&b, "</style>\n<rect width=\"100%%\" height=\"100%%\" rx=\"8\" fill=\"#18181b\"/>\n")
	for y, line := range s.lines[:min(len(s.lines), s.row+1)] {
		for x := 0; x < len(line); {
			end := x
			for end < len(line) && line[end].style == line[x].style {
				end++
			}
			if text := strings.TrimRight(textOf(line[x:end]), " "); text != "" {
				lead := len(text) - len(strings.TrimLeft(text, " "))
				text = text[lead:]
				// A length of its own keeps columns in line whatever the font.
				fmt.Fprintf(&b, `<text x="%.1f" y="%d" textLength="%.1f"%s>`, margin+float64(x+lead)*charWidth,
					margin+y*lineHeight+13, float64(utf8.RuneCountInString(text))*charWidth, line[x].style.class())
				// Not every reader keeps several blanks in a row, but for this kind.
				xml.EscapeText(&b, []byte(strings.ReplaceAll(text, " ", "\u00a0")))
				b.WriteString("</text>\n")
			}
			x = end
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// class is the attribute for the style's classes, if it has any.
func (st style) class() string {
	var names []string
	if st.colour > 0 {
		names = append(names, fmt.Sprintf("c%d", st.colour))
	}
	for _, c := range []struct {
		set  bool
		name string
	}{{st.bold, "b"}, {st.faint, "f"}, {st.underline, "u"}} {
		if c.set {
			names = append(names, c.name)
		}
	}
	if names == nil {
		return ""
	}
	return fmt.Sprintf(` class="%s"`, strings.Join(names, " "))
}
