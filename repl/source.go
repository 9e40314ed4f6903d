package repl

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
)

// source is where lines come from.
type source interface {
	// line is the next line without its end. more says that it goes on with
	// the lines before it. The error is io.EOF at the end, errDropped where
	// the user dropped the lines, or ctx's.
	line(ctx context.Context, more bool) (string, error)
	// place says where the last line stood, "" for the prompt.
	place() string
}

// errDropped says that the user dropped what was being typed.
var errDropped = errors.New("dropped")

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// script is a source that reads a script.
type script struct {
	name   string
	single bool // a command of the command line: it has no line numbers
	r      *bufio.Reader
	n      int // lines read
}

func newScript(name string, r io.Reader) *script {
	return &script{name: name, r: bufio.NewReaderSize(r, 64<<10)}
}

func (s *script) place() string { return s.placeOf(s.n) }

func (s *script) placeOf(n int) string {
	if s.single || n == 0 {
		return s.name
	}
	return s.name + ":" + strconv.Itoa(n)
}

// line reads in a goroutine of its own: a pipe may have nothing to read for
// ever. After a cancelled ctx the script is not to be read again.
func (s *script) line(ctx context.Context, _ bool) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	type read struct {
		text string
		err  error
	}
	got := make(chan read, 1)
	go func() {
		text, err := s.r.ReadString('\n')
		got <- read{text, err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case r := <-got:
		if r.err != nil && (r.text == "" || !isEOF(r.err)) {
			return "", r.err
		}
		if s.n++; s.n == 1 { // a byte order mark is none of the first line (RFC 3629, 6)
			r.text = strings.TrimPrefix(r.text, "\ufeff")
		}
		return strings.TrimSuffix(strings.TrimSuffix(r.text, "\n"), "\r"), nil
	}
}

// next is the next line of src, joined with those it continues in, and the
// place where it began.
func next(ctx context.Context, src source) (line, place string, err error) {
	line, err = src.line(ctx, false)
	if err != nil {
		return "", src.place(), err
	}
	place = src.place()
	if !continues(line) {
		return line, place, nil
	}
	var b strings.Builder
	for continues(line) {
		b.WriteString(line[:len(line)-1])
		line, err = src.line(ctx, true)
		if isEOF(err) {
			return b.String(), place, nil
		}
		if err != nil {
			return "", place, err
		}
	}
	b.WriteString(line)
	return b.String(), place, nil
}
