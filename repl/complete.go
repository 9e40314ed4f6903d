package repl

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"dbgsh/commands"
)

const (
	// completionTime bounds what Tab waits for.
	completionTime = time.Second
	// completionCap bounds what Tab offers: more is no help to anybody.
	completionCap = 200
)

// complete is what the text left of the cursor may become: head stays, and
// each of list may follow it.
func (sh *Shell) complete(ctx context.Context, left string) (head string, list []string) {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	at, list := sh.candidates(ctx, left)
	typed := left[at:]
	list = slices.DeleteFunc(list, func(s string) bool {
		return s == "" || !strings.HasPrefix(s, typed) || strings.ContainsFunc(s, unicode.IsControl) || !utf8.ValidString(s)
	})
	slices.Sort(list)
	list = slices.Compact(list)
	if n := len(list); n > completionCap {
		// The first and the last of sorted strings have the prefix that all have.
		list = append(list[:completionCap-1:completionCap-1], list[n-1])
	}
	return left[:at], list
}

// candidates is where the text begins that is to be completed, and what it
// may become; not all of it need fit.
func (sh *Shell) candidates(ctx context.Context, left string) (at int, list []string) {
	first := true
	for {
		at += len(left[at:]) - len(strings.TrimLeft(left[at:], blanks))
		word, tail := cutWord(left[at:])
		if tail == "" && word != "!" {
			list = sh.commandNames()
			if first {
				list = append(list, sh.gdbCompletions(ctx, word)...)
			}
			return at, list
		}
		c := sh.lookup(ctx, word)
		if c == nil {
			if first {
				return gdbWord(left, at, sh.gdbCompletions(ctx, left[at:]))
			}
			return at, nil
		}
		at += len(word)
		bar := -1
		var words []commands.Word
		if !c.WholeLine {
			words, _ = commands.Words(tail)
			bar = slices.IndexFunc(words, func(w commands.Word) bool { return w.Raw == "|" })
		}
		if bar < 0 {
			from := lastWord(tail, words, c.WholeLine || c.Verbatim)
			return at + from, sh.arguments(ctx, c, tail, from)
		}
		at += words[bar].Pos + 1
		first = false
	}
}

// lastWord is where the word at the end of tail begins; len(tail) if tail ends
// in a blank. raw says that quotes are nothing special.
func lastWord(tail string, words []commands.Word, raw bool) int {
	if raw {
		return strings.LastIndexAny(tail, blanks) + 1
	}
	end := 0
	if n := len(words); n > 0 {
		w := words[n-1]
		if end = w.Pos + len(w.Raw); end == len(tail) {
			return w.Pos
		}
	}
	rest := tail[end:] // blanks, then perhaps a word whose quote is open
	return end + len(rest) - len(strings.TrimLeft(rest, blanks))
}

// arguments is what the word from tail[from:] may become.
func (sh *Shell) arguments(ctx context.Context, c *commands.Command, tail string, from int) []string {
	word := tail[from:]
	if strings.HasPrefix(word, "-") && !c.Verbatim {
		var flags []string
		c.Flags().VisitAll(func(f *pflag.Flag) {
			flags = append(flags, "--"+f.Name)
			if f.Shorthand != "" && word == "-" {
				flags = append(flags, "-"+f.Shorthand)
			}
		})
		return flags
	}
	switch c.Complete {
	case commands.CompleteRegion:
		names := sh.mappingNames(ctx, word)
		if word != "" && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, word) }) {
			return names // a program has thousands of symbols
		}
		return append(names, sh.gdbTail(ctx, "print ", word)...)
	case commands.CompleteCommand:
		return append(sh.commandNames(), sh.gdbTail(ctx, "help ", word)...)
	case commands.CompleteSetting:
		set := sh.Session.Settings
		before := strings.Fields(tail[:from])
		switch len(before) {
		case 0:
			return append(set.Names(), sh.gdbTail(ctx, c.Name+" ", word)...)
		case 1:
			if v := set.Values(before[0]); v != nil {
				return v
			}
		}
		return sh.gdbTail(ctx, c.Name+" "+strings.TrimLeft(tail[:from], blanks), word)
	case commands.CompleteFile:
		return files(word)
	case commands.CompleteGDB:
		return sh.gdbTail(ctx, strings.TrimLeft(tail[:from], blanks), word)
	}
	return nil
}

func (sh *Shell) commandNames() []string {
	var names []string
	for _, c := range sh.Session.Registry.Commands() {
		names = append(names, c.Name)
		for _, a := range c.Aliases {
			if len(a) > 1 { // nothing to complete
				names = append(names, a)
			}
		}
	}
	return names
}

// mappingNames is the names of the mappings, quoted where word is, or where a
// blank asks for it.
func (sh *Shell) mappingNames(ctx context.Context, word string) []string {
	if sh.Session.Maps == nil {
		return nil
	}
	m, err := sh.Session.Maps.Map(ctx)
	if err != nil {
		return nil
	}
	quote := ""
	if word != "" && (word[0] == '"' || word[0] == '\'') {
		quote = word[:1]
	}
	var names []string
	for _, one := range m.Mappings {
		name := one.ShortTitle()
		switch {
		case quote != "":
			name = quote + name + quote
		case strings.ContainsAny(name, " \t\"'|#"):
			name = `"` + name + `"`
		}
		names = append(names, name)
	}
	return names
}

// gdbCompletions is GDB's completions of a line.
func (sh *Shell) gdbCompletions(ctx context.Context, line string) []string {
	list, err := sh.Debugger.Complete(ctx, line)
	if err != nil {
		return nil
	}
	return list
}

// gdbTail is what GDB completes word to, where it stands behind before.
func (sh *Shell) gdbTail(ctx context.Context, before, word string) []string {
	var list []string
	for _, l := range sh.gdbCompletions(ctx, before+word) {
		if rest, ok := strings.CutPrefix(l, before); ok {
			list = append(list, rest)
		}
	}
	return list
}

// gdbWord cuts GDB's completions of left[at:] to the last word of it, as far
// as they all keep what stands before.
func gdbWord(left string, at int, lines []string) (int, []string) {
	from := strings.LastIndexAny(left, " \t") + 1
	list := make([]string, 0, len(lines))
	for _, l := range lines {
		rest, ok := strings.CutPrefix(l, left[at:from])
		if !ok {
			return at, lines
		}
		list = append(list, rest)
	}
	return from, list
}

// files is the paths that begin with word; directories end in a slash.
func files(word string) []string {
	dir, base := filepath.Split(word)
	in := filepath.Clean(expandHome(dir)) // "" becomes "."
	entries, err := os.ReadDir(in)
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), base) || strings.HasPrefix(e.Name(), ".") && base == "" {
			continue
		}
		name := dir + e.Name()
		if st, err := os.Stat(filepath.Join(in, e.Name())); err == nil && st.IsDir() {
			name += "/"
		}
		list = append(list, name)
	}
	return list
}

// expandHome replaces a leading ~/ by the home folder.
func expandHome(path string) string {
	rest, ok := strings.CutPrefix(path, "~/")
	if !ok {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return path
	}
	return home + "/" + rest
}
