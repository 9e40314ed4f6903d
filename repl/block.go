package repl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// kind is what a line does to GDB's input.
type kind uint8

const (
	plain    kind = iota // GDB reads nothing but the line
	opens                // GDB reads on to the matching "end"
	opensRaw             // GDB reads on to the next "end", whatever stands before it
	refused              // GDB would read what is not there
)

// classes is what GDB commands do to its input, by name (GDB manual, "Canned
// Sequences of Commands", "Extending GDB", "Actions", "Compiling and Injecting
// Code"). Names that are no prefix of another's stand for themselves; see
// classifier.
func classes() map[string]func(args string) (kind, string) {
	always := func(k kind) func(string) (kind, string) {
		return func(string) (kind, string) { return k, "" }
	}
	withArgs := func(k kind) func(string) (kind, string) { // GDB complains by itself without
		return func(args string) (kind, string) {
			if args == "" {
				return plain, ""
			}
			return k, ""
		}
	}
	bare := func(k kind, why string) func(string) (kind, string) {
		return func(args string) (kind, string) {
			if args != "" {
				return plain, ""
			}
			return k, why
		}
	}
	never := func(why string) func(string) (kind, string) {
		return func(string) (kind, string) { return refused, why }
	}
	const (
		noPython = `an interactive Python needs GDB's own terminal; write "python CODE", or "python", lines and "end"`
		noGuile  = `an interactive Guile needs GDB's own terminal; write "guile CODE", or "guile", lines and "end"`
		noEdit   = `an editor needs GDB's own terminal; write !$EDITOR FILE`
		noInterp = `GDB's interpreter here is dbgsh's own; write the command itself`
		noShell  = `the shell is dbgsh's own; write it without what stands before it`
		noQuit   = `quit is dbgsh's own; write it without what stands before it`
	)
	return map[string]func(string) (kind, string){
		"commands":           always(opens),
		"actions":            always(opens),
		"define":             withArgs(opens),
		"document":           withArgs(opensRaw),
		"if":                 withArgs(opens),
		"while":              withArgs(opens),
		"while-stepping":     always(opens),
		"stepping":           always(opens),
		"ws":                 always(opens),
		"python":             bare(opensRaw, ""),
		"py":                 bare(opensRaw, ""),
		"guile":              bare(opensRaw, ""),
		"gu":                 bare(opensRaw, ""),
		"compile":            compileClass,
		"expression":         compileClass,
		"python-interactive": bare(refused, noPython),
		"pi":                 bare(refused, noPython),
		"guile-repl":         never(noGuile),
		"gr":                 never(noGuile),
		"edit":               never(noEdit),
		"interpreter-exec":   never(noInterp),
		"shell":              never(noShell),
		"make":               never(noShell),
		"quit":               never(noQuit),
		"exit":               never(noQuit),
		"q":                  never(noQuit),
	}
}

// compileClass is what "compile ARGS" does: it reads a body where neither
// code nor a file stands in it.
func compileClass(args string) (kind, string) {
	for i, f := range strings.Fields(args) {
		switch {
		case i == 0 && (f == "code" || f == "print"), f[0] == '-', f[0] == '/':
		default:
			return plain, ""
		}
	}
	return opensRaw, ""
}

// classifier says what a line does to GDB's input. complete is GDB's
// completion of a word; it is asked only for what may abbreviate such a command.
type classifier struct {
	classes  map[string]func(args string) (kind, string)
	complete func(word string) []string
}

// classify says what line does; why is the reason why it is refused.
func (c classifier) classify(line string) (k kind, why string) {
	line = strings.Trim(line, blanks)
	if strings.HasPrefix(line, "!") {
		return c.classes["shell"](line[1:])
	}
	if strings.HasPrefix(line, "|") { // GDB's pipe
		line = "pipe " + line[1:]
	}
	word, args := cutGDBWord(line)
	if f := c.classes[c.full(word)]; f != nil {
		return f(args)
	}
	if sub := nested(word, args); sub != "" {
		switch k, why := c.classify(sub); k {
		case opens, opensRaw:
			w, _ := cutGDBWord(sub)
			return refused, fmt.Sprintf("the lines that %s reads cannot be given behind %s; define a command for them first", w, word)
		default:
			return k, why
		}
	}
	return plain, ""
}

// full is the name that word abbreviates, where that is one of classes and
// GDB knows only that one; else word.
func (c classifier) full(word string) string {
	if len(word) < 2 || c.classes[word] != nil {
		return word
	}
	for name := range c.classes {
		if strings.HasPrefix(name, word) {
			if got := c.complete(word); len(got) == 1 && c.classes[got[0]] != nil {
				return got[0]
			}
			break
		}
	}
	return word
}

// cutGDBWord cuts line where GDB ends a command's name.
func cutGDBWord(line string) (word, args string) {
	i := strings.IndexFunc(line, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	})
	if i < 0 {
		return line, ""
	}
	return line[:i], strings.Trim(line[i:], blanks)
}

// nested is the command within a command that runs another one ("with",
// "thread apply" and their like), or "".
func nested(word, args string) string {
	switch word {
	case "with", "w":
		if _, sub, ok := strings.Cut(args, "-- "); ok {
			return sub
		}
		return ""
	case "thread", "t", "frame", "f":
		fields := strings.Fields(args)
		if len(fields) == 0 || !strings.HasPrefix("apply", fields[0]) {
			return ""
		}
		args = args[len(fields[0]):]
	case "pipe":
		sub, _, _ := strings.Cut(args, "|")
		return sub
	case "faas", "taas", "tfaas":
	default:
		return ""
	}
	// Flags, thread and frame numbers stand before the command.
	for args = strings.TrimLeft(args, blanks); args != ""; args = strings.TrimLeft(args, blanks) {
		f, rest := cutWord(args)
		if f != "all" && f != "level" && !strings.ContainsAny(f[:1], "-$*0123456789") {
			return args
		}
		args = rest
	}
	return ""
}

// block is a GDB command with the lines that belong to it.
type block struct {
	lines   []string // as they came
	raw     []bool   // for each opener that waits for its end, whether its body is raw
	partial string   // the beginning of a line that goes on
}

// newBlock is a block that first opens.
func newBlock(first string, k kind) *block {
	return &block{lines: []string{first}, raw: []bool{k == opensRaw}}
}

// add adds a line and reports whether it ends the block.
func (b *block) add(line string, classify func(string) (kind, string)) (done bool) {
	b.lines = append(b.lines, line)
	if strings.HasSuffix(line, `\`) { // GDB joins lines even in bodies of Python
		b.partial += line[:len(line)-1]
		return false
	}
	line = strings.Trim(b.partial+line, blanks)
	b.partial = ""
	if line == "end" {
		b.raw = b.raw[:len(b.raw)-1]
		return len(b.raw) == 0
	}
	if b.raw[len(b.raw)-1] || line == "" || line[0] == '#' {
		return false
	}
	word, _ := cutGDBWord(line)
	switch k, _ := classify(line); {
	case strings.HasPrefix("actions", word): // in a body GDB takes no lines for it
	case k == opens:
		b.raw = append(b.raw, false)
	case k == opensRaw:
		// GDB parses what stands in a document that is itself in a body.
		b.raw = append(b.raw, !strings.HasPrefix(word, "doc"))
	}
	return false
}

// errNoEnd says that the input ended within a block.
var errNoEnd = errors.New(`its "end" is missing`)

// collect reads the lines of the block that first opens from src.
func (sh *Shell) collect(ctx context.Context, first string, k kind) (*block, error) {
	b := newBlock(first, k)
	for {
		line, err := sh.src.line(ctx, true)
		if err != nil {
			if isEOF(err) {
				err = errNoEnd
			}
			return nil, err
		}
		if b.add(line, sh.classifier(ctx).classify) {
			return b, nil
		}
	}
}

// viaFile runs lines in GDB through a file that GDB sources.
func (sh *Shell) viaFile(ctx context.Context, lines []string, run func(line string) error) error {
	f, err := os.CreateTemp("", "dbgsh-*.gdb") // mode 0600
	if err != nil {
		return fmt.Errorf("write the lines for GDB: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(strings.Join(lines, "\n") + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the lines for GDB: %w", err)
	}
	return withoutFile(run("source "+f.Name()), f.Name())
}

// fileError is GDB's error without the name of a file that the user never saw.
type fileError struct {
	text string
	err  error
}

func (e *fileError) Error() string { return e.text }
func (e *fileError) Unwrap() error { return e.err }

// withoutFile takes "NAME:LINE: Error in sourced command file:" out of err.
// The line says nothing: it is that of the block's end.
func withoutFile(err error, name string) error {
	if err == nil {
		return nil
	}
	place := regexp.MustCompile(regexp.QuoteMeta(name) + `:\d+: Error in sourced command file:\s*`)
	if text := place.ReplaceAllLiteralString(err.Error(), ""); text != err.Error() {
		return &fileError{text, err}
	}
	return err
}

// classifier asks GDB within ctx.
func (sh *Shell) classifier(ctx context.Context) classifier {
	return classifier{sh.classes, func(word string) []string {
		got, err := sh.Debugger.Complete(ctx, word)
		if err != nil {
			return nil // GDB will say so when it is handed the line
		}
		slices.Sort(got)
		return slices.Compact(got)
	}}
}
