package commands

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/shlex"
	"github.com/spf13/pflag"
)

// Word is one word of a command line.
type Word struct {
	Text string // as a shell reads it: quotes and backslashes are gone
	Raw  string // as it was typed
	Pos  int    // where Raw begins, in bytes
}

// Quoted reports whether the word as a whole stood in one pair of quotes.
func (w Word) Quoted() bool {
	n := len(w.Raw)
	return n >= 2 && (w.Raw[0] == '"' || w.Raw[0] == '\'') && strings.IndexByte(w.Raw[1:], w.Raw[0]) == n-2
}

// Expr is the word as an expression for GDB: as it was typed, since quotes
// mean something there ('file.c'::x), unless all of it is quoted.
func (w Word) Expr() string {
	if w.Quoted() {
		return w.Text
	}
	return w.Raw
}

// Literal is the word with its quotes gone but its backslashes kept, save
// those that only keep the line from being cut: outside quotes before a blank,
// a quote, a bar or a #, and in double quotes before one. Text with escapes in
// it is read from this.
func (w Word) Literal() string {
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(w.Raw); i++ {
		c := w.Raw[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(w.Raw):
			i++
			keeps := " \t\"'|#"
			if quote != 0 {
				keeps = `"`
			}
			if strings.IndexByte(keeps, w.Raw[i]) < 0 {
				b.WriteByte(c)
			}
			b.WriteByte(w.Raw[i])
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Words cuts a line at its blanks, outside quotes. The only error is a quote
// that is not closed.
func Words(line string) ([]Word, error) {
	var words []Word
	for i := 0; i < len(line); {
		if isBlank(line[i]) {
			i++
			continue
		}
		end := wordEnd(line, i)
		w := Word{Raw: line[i:end], Pos: i}
		text := w.Raw
		if text[0] == '#' { // a comment only to a shell
			text = `\` + text
		}
		parts, err := shlex.Split(text)
		if err != nil || len(parts) > 1 {
			return words, errUnclosed(w.Raw)
		}
		if len(parts) == 1 {
			w.Text = parts[0]
		}
		words = append(words, w)
		i = end
	}
	return words, nil
}

func errUnclosed(raw string) error {
	q := `"`
	if i := strings.IndexAny(raw, `"'`); i >= 0 {
		q = raw[i : i+1]
	}
	if strings.HasSuffix(raw, `\`) && !strings.Contains(raw, q) {
		return errors.New(`the line ends in a backslash; write \\ for one`)
	}
	return errors.New("the quote " + q + " is not closed; write \\" + q + " for one that is meant")
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// wordEnd is the index behind the word that begins at i, by shlex's rules.
func wordEnd(line string, i int) int {
	quote := byte(0)
	for ; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && quote != '\'':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case isBlank(c):
			return i
		}
	}
	return len(line)
}

// flagSet is the flags of one command, for one line.
type flagSet struct {
	set  *pflag.FlagSet
	run  RunFunc
	json bool
	help bool
	args []Word
}

func (c *Command) flagSet() *flagSet {
	f := &flagSet{set: pflag.NewFlagSet(c.Name, pflag.ContinueOnError)}
	f.set.SortFlags = false
	f.set.Usage = func() {}
	f.run = c.Run
	if c.Setup != nil {
		f.run = c.Setup(f.set)
	}
	f.set.BoolVar(&f.json, "json", false, "give the result as JSON")
	f.set.BoolVarP(&f.help, "help", "h", false, "show this help")
	return f
}

// placeholder marks a word that is no flag while pflag sorts flags from the
// rest, so that each can be found again with all that is known of it.
const placeholder = "\x00word "

func (f *flagSet) parse(words []Word) error {
	texts := make([]string, len(words))
	byKey := make(map[string]Word, len(words))
	onlyArgs := false
	for i, w := range words {
		texts[i] = w.Text
		if isFlag := len(w.Raw) > 1 && w.Raw[0] == '-'; onlyArgs || !isFlag {
			texts[i] = placeholder + strconv.Itoa(i)
			byKey[texts[i]] = w
		}
		onlyArgs = onlyArgs || w.Raw == "--"
	}
	f.set.VisitAll(func(fl *pflag.Flag) { fl.Value = &wordValue{fl.Value, byKey} })
	if err := f.set.Parse(texts); err != nil {
		var bad *pflag.InvalidValueError
		if errors.As(err, &bad) {
			value := bad.GetValue()
			if w, ok := byKey[value]; ok {
				value = w.Text
			}
			return fmt.Errorf("%q for --%s: %w", value, bad.GetFlag().Name, bad.Unwrap())
		}
		return err
	}
	for _, a := range f.set.Args() {
		f.args = append(f.args, byKey[a])
	}
	return nil
}

// wordValue is a flag's value that finds the word behind a placeholder.
type wordValue struct {
	pflag.Value
	byKey map[string]Word
}

func (v *wordValue) Set(s string) error {
	if w, ok := v.byKey[s]; ok {
		s = w.Text
	}
	return v.Value.Set(s)
}
