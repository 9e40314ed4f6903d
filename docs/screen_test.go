package main

import (
	"encoding/xml"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestScreen(t *testing.T) {
	for _, c := range []struct{ written, shown string }{
		{"one\r\ntwo", "one\ntwo\n"},
		{"prompt\x1b[7Gtext\x1b[1G\x1b[0Kgone\b\b\x1b[2Ck", "gonek\n"},
		{"a\tb", "a       b\n"},
		{"\x1b[?2004h\x1b[1;31mr\x1b[0md►\x1b=", "rd►\n"},
		{"up\r\n\x1b[1A\x1b[1Cs", "us\n"},
		{strings.Repeat("w", columns) + "w", strings.Repeat("w", columns) + "\nw\n"},
	} {
		whole, pieces := &screen{}, &screen{}
		whole.write([]byte(c.written))
		for _, b := range []byte(c.written) {
			pieces.write([]byte{b})
		}
		if whole.text() != c.shown || pieces.text() != c.shown {
			t.Errorf("%q shows %q, byte by byte %q, want %q", c.written, whole.text(), pieces.text(), c.shown)
		}
	}
}

func TestSVG(t *testing.T) {
	s := &screen{}
	s.write([]byte("plain <&> \x1b[31mred\x1b[1m bold\x1b[22m\x1b[4mline\x1b[0m\r\n$ "))
	var texts, classes []string
	d := xml.NewDecoder(strings.NewReader(string(s.svg())))
	for class := ""; ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			class = "none"
			for _, a := range e.Attr {
				if a.Name.Local == "class" {
					class = a.Value
				}
			}
			if e.Name.Local != "text" {
				class = ""
			}
		case xml.CharData:
			if class != "" {
				texts, classes = append(texts, string(e)), append(classes, class)
			}
		case xml.EndElement:
			class = ""
		}
	}
	wantTexts := []string{"plain\u00a0<&>", "red", "bold", "line", "$"}
	wantClasses := []string{"none", "c2", "c2 b", "c2 u", "none"}
	if !slices.Equal(texts, wantTexts) || !slices.Equal(classes, wantClasses) {
		t.Errorf("got %q as %q", texts, classes)
	}
}
