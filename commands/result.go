package commands

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"dbgsh/vm"
)

// Result is what a command hands to the next stage or to the user. It also
// marshals itself as JSON.
type Result interface {
	// WriteText shows the result as lines of text.
	WriteText(t *Text)
}

// JSONWriter is a Result whose JSON may be too long to be made at once.
type JSONWriter interface {
	Result
	// WriteJSON writes the document without a line end.
	WriteJSON(w io.Writer) error
}

// Summarizer is a Result whose last line says what all of it comes to, which is
// to be seen also by those who leave before the end.
type Summarizer interface {
	Result
	// Summary is that line, without its end.
	Summary() string
}

// Style is the meaning of a piece of text, for whoever colours it.
type Style uint8

// The styles. What is mapped is shown by its kind.
const (
	Plain  Style = iota
	Stack        // the stack of a thread
	Heap         // the heap
	Code         // executable memory
	Data         // writable memory
	RWX          // memory both writable and executable
	ROData       // memory that is neither
	Title        // a heading
	Faint        // what matters less
	Strong       // what matters more
)

// Text is where results write their text. The first error of the writer
// behind it stays, and later text is dropped.
type Text struct {
	w      *bufio.Writer
	paint  func(Style, string) string
	plain  bool
	screen Screen
}

// Screen is the window that text is shown in; the zero value is none, as in a
// pipe, where nothing is cut and every character can be shown.
type Screen struct {
	Columns int  // of characters, 0 for no bound
	ASCII   bool // nothing else is sure to show
}

// NewText writes to w. paint colours a piece of text; nil means no colours.
func NewText(w io.Writer, paint func(Style, string) string) *Text {
	t := &Text{w: bufio.NewWriterSize(w, 64<<10), paint: paint, plain: paint == nil}
	if t.plain {
		t.paint = func(_ Style, s string) string { return s }
	}
	return t
}

// On says that the text is shown on a screen.
func (t *Text) On(s Screen) *Text {
	t.screen = s
	return t
}

// Screen is where the text is shown.
func (t *Text) Screen() Screen { return t.screen }

// Coloured reports whether styles show.
func (t *Text) Coloured() bool { return !t.plain }

// Printf writes formatted text in a style.
func (t *Text) Printf(s Style, format string, args ...any) {
	t.Print(s, fmt.Sprintf(format, args...))
}

// Print writes text in a style. The text is kept together with no blanks or
// line ends coloured at its ends.
func (t *Text) Print(s Style, text string) {
	if s == Plain || t.plain {
		t.w.WriteString(text)
		return
	}
	core := strings.TrimRight(text, "\n")
	t.w.WriteString(t.paint(s, core))
	t.w.WriteString(text[len(core):])
}

// Write writes text in no style. The text is not kept.
func (t *Text) Write(text []byte) (int, error) { return t.w.Write(text) }

// notes writes sentences, a line each, that may hold names of files.
func (t *Text) notes(notes []string) {
	for _, n := range notes {
		t.Print(Plain, vm.Escape(n)+"\n")
	}
}

// Failed reports whether what is written is lost, so that a long result can stop.
func (t *Text) Failed() bool {
	_, err := t.w.Write(nil)
	return err != nil
}

// Flush writes out what is buffered and returns the first error.
func (t *Text) Flush() error { return t.w.Flush() }

// Notef is a result that is one sentence.
func Notef(format string, args ...any) Result {
	return &Notes{Lines: []string{fmt.Sprintf(format, args...)}}
}

// Notes is a result that is sentences, a line each.
type Notes struct {
	Lines []string `json:"notes"`
}

// WriteText shows the sentences.
func (n *Notes) WriteText(t *Text) {
	for _, l := range n.Lines {
		t.Print(Plain, l+"\n")
	}
}

// hexNumber is a number that JSON shows as "0x..".
type hexNumber uint64

func (h hexNumber) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprintf("%#x", uint64(h))) }
