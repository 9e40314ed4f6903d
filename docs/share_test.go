package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"dbgsh/internal/testkit"
)

// shared is the folder with what writeShare makes of the pages.
func shared(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := writeShare("..", dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shownBy runs a program that is to write nothing to standard error.
func shownBy(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	testkit.Need(t, name)
	var stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Errorf("%v: %v\n%s", cmd, err, stderr.String())
	}
	return string(out)
}

// TestManual holds dbgsh(1), as man shows it, against the pages that it is made of.
func TestManual(t *testing.T) {
	file := filepath.Join(shared(t), "dbgsh.1.gz")
	man := func(locale, width string) string {
		return shownBy(t, []string{"LC_ALL=" + locale, "MANWIDTH=" + width, "MANROFFOPT=-ww", "MAN_KEEP_FORMATTING="}, "man", "--warnings=w", "-l", file)
	}
	man("C", "80")
	narrow := man("C.UTF-8", "80")
	for _, line := range strings.Split(narrow, "\n") {
		if strings.HasSuffix(line, "\u2010") || strings.Contains(line, "] [") && utf8.RuneCountInString(line) > 80 {
			t.Errorf("on 80 columns there is a word that is hyphenated, or a usage that does not fit: %s", line)
		}
	}
	if link := regexp.MustCompile(`⟨[^:⟩]*⟩`).FindString(narrow); link != "" {
		t.Errorf("a link leads out of the manual: %s", link)
	}
	// One line for each paragraph, so that what belongs together stands together.
	shown := man("C.UTF-8", "4000")
	if got := shownBy(t, nil, "lexgrog", file); !strings.Contains(got, `"dbgsh - `) {
		t.Errorf("apropos would not find it: %s", got)
	}
	blank := regexp.MustCompile(`\s+`)
	shown = blank.ReplaceAllString(shown, " ")
	has := func(text string) {
		t.Helper()
		if !strings.Contains(shown, blank.ReplaceAllString(text, " ")) {
			t.Errorf("the manual page does not show %q", text)
		}
	}
	all := pages(t)
	for _, line := range strings.Split(all["docs/usage.md"], "\n") {
		if flags, use, isFlag := strings.Cut(strings.TrimPrefix(line, "  "), "  "); isFlag && strings.HasPrefix(line, "  -") {
			for _, word := range strings.Fields(flags) {
				has(" " + strings.TrimSuffix(word, ","))
			}
			has(use)
		}
	}
	for _, m := range regexp.MustCompile("`(-[a-z-]+)` for `-").FindAllStringSubmatch(all["docs/usage.md"], -1) {
		has(", " + m[1] + " ")
	}
	// Every heading, flag, example and word of code.
	for _, name := range []string{"docs/usage.md", "docs/commands.md"} {
		prose := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(all[name], "")
		found := code(prose)
		for _, c := range found {
			has(strings.ReplaceAll(c, `\|`, "|"))
		}
		for _, m := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(prose, -1) {
			has(" " + m[1] + " ")
		}
		if len(found) < 20 {
			t.Errorf("%s has hardly any code: %q", name, found)
		}
	}
}

// offer is what is to be offered at the end of a line.
type offer struct {
	line string
	want string // names, with blanks between them; = before them for these alone
	not  string
}

// offers is the same for every shell, in the folder that offered makes.
func offers() []offer {
	self := fmt.Sprint(os.Getpid())
	return []offer{
		{"dbgsh ", "=prog folder/", ""},
		{"dbgsh -", "-p -pid -core -init-eval-command -version -color -silent", "prog"},
		{"dbgsh -col", "=-color", ""},
		{"dbgsh -color ", "=auto always never", ""},
		{"dbgsh -color n", "=never", ""},
		{"dbgsh -p ", self, "prog plain.txt -p"},
		{"dbgsh -q -pid ", self, "prog plain.txt"},
		{"dbgsh -x ", "=script.dbgsh plain.txt prog folder/", ""},
		{"dbgsh -core pl", "=plain.txt", ""},
		{"dbgsh -log folder/", "folder/below", "prog"},
		{"dbgsh -cd ", "=folder/", ""},
		{"dbgsh -directory ", "=folder/", ""},
		{"dbgsh -gdb ", "gdb plain.txt", "sh"},
		{"dbgsh -ex ", "", "prog plain.txt -p"},
		{"dbgsh -x - -ex run p", "=prog", ""},
		{"dbgsh -cd folder -q ", "=prog folder/", ""},
		{"dbgsh -x script.dbgsh -b", "=-batch", ""},
		{"dbgsh pl", "=plain.txt", ""}, // no program is called so
		{"dbgsh prog ", self + " plain.txt", "-p"},
		{"dbgsh prog -", "", "-p -core"},
		{"dbgsh -args prog ", "=script.dbgsh plain.txt prog folder/", ""},
		{"dbgsh -args prog -", "", "-p -core"},
		{"dbgsh -- ", "=prog folder/", ""},
		{"dbgsh -- prog ", self + " plain.txt", "-p"},
	}
}

// completions is how each shell comes to what it offers.
func completions() map[string]func(t *testing.T, dir, share string, lines []string) [][]string {
	return map[string]func(t *testing.T, dir, share string, lines []string) [][]string{
		"bash": bashOffers,
		"zsh":  zshOffers,
		"fish": fishOffers,
	}
}

func TestCompletion(t *testing.T) {
	share := shared(t)
	var lines []string
	for _, o := range offers() {
		lines = append(lines, o.line)
	}
	for shell, complete := range completions() {
		t.Run(shell, func(t *testing.T) {
			testkit.Need(t, shell, "gdb")
			dir := t.TempDir()
			for name, mode := range map[string]os.FileMode{"prog": 0o755, "plain.txt": 0o644, "script.dbgsh": 0o644, "folder/below": 0o644} {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
					t.Fatal(err)
				}
			}
			got := complete(t, dir, share, lines)
			for i, o := range offers() {
				// Of a folder one shell says that it is one, another not.
				for j, g := range got[i] {
					if info, err := os.Stat(filepath.Join(dir, g)); err == nil && info.IsDir() && g != "" {
						got[i][j] = strings.TrimSuffix(g, "/") + "/"
					}
				}
				want, alone := strings.CutPrefix(o.want, "=")
				for _, w := range strings.Fields(want) {
					if !slices.Contains(got[i], w) {
						t.Errorf("%q: %s is not offered, but %q", o.line, w, got[i])
					}
				}
				for _, w := range strings.Fields(o.not) {
					if slices.Contains(got[i], w) {
						t.Errorf("%q: %s is offered", o.line, w)
					}
				}
				slices.Sort(got[i])
				got[i] = slices.Compact(got[i])
				if alone && len(got[i]) != len(strings.Fields(want)) {
					t.Errorf("%q: offered is %q, want %s alone", o.line, got[i], want)
				}
			}
		})
	}
}

// each splits what a shell wrote for one line after the other.
func each(t *testing.T, text string, lines []string) [][]string {
	t.Helper()
	parts := strings.Split(text, "--\n")
	if len(parts) != len(lines)+1 {
		t.Fatalf("%d parts for %d lines:\n%s", len(parts)-1, len(lines), text)
	}
	var list [][]string
	for _, p := range parts[1:] {
		list = append(list, strings.Fields(p))
	}
	return list
}

func bashOffers(t *testing.T, dir, share string, lines []string) [][]string {
	shownBy(t, nil, "bash", "-n", filepath.Join(share, "dbgsh.bash"))
	script := `cd "$1" && . "$2/dbgsh.bash" && shift 2 && for line; do
		read -ra COMP_WORDS <<<"$line"
		[[ $line == *" " ]] && COMP_WORDS+=("")
		COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
		_dbgsh
		printf -- '--\n'
		printf '%s\n' "${COMPREPLY[@]}"
	done`
	return each(t, shownBy(t, nil, "bash", append([]string{"-c", script, "bash", dir, share}, lines...)...), lines)
}

func fishOffers(t *testing.T, dir, share string, lines []string) [][]string {
	shownBy(t, nil, "fish", "-n", filepath.Join(share, "dbgsh.fish"))
	script := `cd $argv[1]; and source $argv[2]/dbgsh.fish; and for line in $argv[3..]
		echo -- --
		complete -C $line | string replace -r '\t.*' ''
	end`
	return each(t, shownBy(t, []string{"HOME=" + t.TempDir()}, "fish", append([]string{"-N", "-c", script, dir, share}, lines...)...), lines)
}

// zshOffers asks the line editor, since nothing else completes: what is added to
// the matches is written to a file, too.
func zshOffers(t *testing.T, dir, share string, lines []string) [][]string {
	shownBy(t, nil, "zsh", "-n", filepath.Join(share, "_dbgsh"))
	log := filepath.Join(t.TempDir(), "offered")
	cmd := exec.Command("zsh", "-f", "-i")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PS1=> ", "TERM=dumb", "SHARE="+share, "LOG="+log)
	x := testkit.OpenTerminal(t, cmd, 200, 200)
	x.Type("fpath=($SHARE $fpath); autoload -Uz compinit && compinit -D -u; LISTMAX=10000\r")
	x.Type(`compadd() { local -a all; case $* in *-[OAD]*) ;; *) builtin compadd -O all "$@"; print -rl -- $all >>$LOG; esac; builtin compadd "$@"; }` + "\r")
	x.Type(`offer() { echo -- >>$LOG; zle complete-word; BUFFER=; }; zle -N offer; bindkey '^T' offer` + "\r")
	x.Type("echo set up: $((1 + 1))\r")
	x.Expect("set up: 2\n")
	for _, line := range lines {
		x.Type(line + "\x14")
	}
	x.Type("echo all is $((1 + 1))\r")
	x.Expect("all is 2\n")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	list := each(t, string(text), lines)
	for i, line := range lines { // it adds the last part of a path alone
		if dir := line[strings.LastIndexByte(line, ' ')+1:]; strings.HasSuffix(dir, "/") {
			for j := range list[i] {
				list[i][j] = dir + list[i][j]
			}
		}
	}
	return list
}

// TestCompletionQuotes is what only bash's line editor can show: how words that
// are quoted, and those behind a =, come together again.
func TestCompletionQuotes(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "two words", "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "--norc", "--noprofile", "-i")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PS1=> ", "TERM=dumb", "SHARE="+shared(t))
	x := testkit.OpenTerminal(t, cmd, 24, 200)
	x.Type(". $SHARE/dbgsh.bash; dbgsh() { printf '<%s>\\n' \"$@\"; }\r")
	for _, c := range []struct{ typed, word string }{
		{`-x two\ w` + "\t", "two words/"},
		{`-cd "tw` + "\t\t", "two words/inner/"},
		{"-color=n\t", "-color=never"},
		{"-core=tw\t", "-core=two words/"},
		{"-cd=\t", "-cd=two words/"},
		{"-ke\t", "-keep-going"},
	} {
		x.Type("dbgsh " + c.typed + "\r")
		x.Expect("<" + c.word + ">\n")
	}
}
