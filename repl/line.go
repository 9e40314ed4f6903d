package repl

import (
	"fmt"
	"strings"

	"dbgsh/commands"
)

// stage is one command of a line with the text after its name.
type stage struct {
	command *commands.Command
	tail    string
}

// plan is what a line asks for: nothing, a line for GDB, or stages.
type plan struct {
	word   string // the first word
	gdb    string
	stages []stage
}

// lineError is what is wrong with a line before any of it is run.
type lineError struct {
	word string // the word it is about
	err  error
}

func (e *lineError) Error() string { return e.err.Error() }
func (e *lineError) Unwrap() error { return e.err }

const blanks = " \t\r\n"

// parse says what a line asks for. lookup is the command that a word names, or
// nil where the word is GDB's.
func parse(line string, lookup func(word string) *commands.Command) (plan, error) {
	line = strings.Trim(line, blanks)
	if line == "" || line[0] == '#' {
		return plan{}, nil
	}
	word, tail := cutWord(line)
	c := lookup(word)
	if c == nil {
		return plan{word: word, gdb: line}, nil
	}
	p := plan{word: word}
	for {
		head, rest, next, err := cutStage(c, tail, lookup)
		if err != nil {
			return plan{word: word}, err
		}
		p.stages = append(p.stages, stage{c, head})
		if next == nil {
			return p, nil
		}
		c, tail = next, rest
	}
}

// cutWord cuts a line that begins with no blank behind its first word. A !
// needs no blank behind it.
func cutWord(line string) (word, tail string) {
	if strings.HasPrefix(line, "!") {
		return "!", line[1:]
	}
	if i := strings.IndexAny(line, blanks); i >= 0 {
		return line[:i], line[i:]
	}
	return line, ""
}

// cutStage cuts tail, the text after c's name, at the first bar that ends c's
// stage. next is the command behind the bar and rest the text after its name;
// next is nil where no bar does.
func cutStage(c *commands.Command, tail string, lookup func(string) *commands.Command) (head, rest string, next *commands.Command, err error) {
	if c.WholeLine {
		return tail, "", nil, nil
	}
	words, err := commands.Words(tail)
	for _, w := range words {
		if w.Raw != "|" {
			continue
		}
		after := strings.TrimLeft(tail[w.Pos+1:], blanks)
		word, rest := cutWord(after)
		if next := lookup(word); next != nil && word != "" {
			return strings.TrimRight(tail[:w.Pos], blanks), rest, next, nil
		}
		if c.Verbatim { // the bar is part of its text
			continue
		}
		switch word {
		case "":
			return "", "", nil, &lineError{c.Name, fmt.Errorf("nothing stands after the last |")}
		case "|":
			return "", "", nil, &lineError{c.Name, fmt.Errorf("nothing stands between | and |")}
		}
		return "", "", nil, &lineError{word, fmt.Errorf("no dbgsh command; for the shell's write | !%s", word)}
	}
	if err != nil && !c.Verbatim {
		return "", "", nil, &lineError{c.Name, err}
	}
	return tail, "", nil, nil
}

// continues reports whether a line goes on in the next one: it ends in a
// backslash that no other escapes.
func continues(line string) bool {
	n := len(line) - len(strings.TrimRight(line, `\`))
	return n%2 == 1
}
