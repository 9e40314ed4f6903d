package repl

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dbgsh/internal/testkit"
)

// gdbBatch runs GDB on a file of commands and is what it prints.
func gdbBatch(tb testing.TB, args ...string) string {
	tb.Helper()
	testkit.Need(tb, "gdb")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "gdb", append([]string{"-nx", "-batch"}, args...)...).CombinedOutput()
	return string(out)
}

// gdbComplete asks a real GDB for completions, all words in one run.
func gdbComplete(tb testing.TB, words ...string) func(string) []string {
	var args []string
	for _, w := range words {
		args = append(args, "-ex", "echo >"+w+"\\n", "-ex", "complete "+w)
	}
	got := make(map[string][]string)
	word := ""
	for l := range strings.Lines(gdbBatch(tb, args...)) {
		l = strings.TrimSpace(l)
		if w, ok := strings.CutPrefix(l, ">"); ok {
			word = w
		} else if l != "" {
			got[word] = append(got[word], l)
		}
	}
	return func(word string) []string { return got[word] }
}

// TestBlockEndsWhereGDBEndsIt gives blocks, with a line behind them, to GDB
// and to the collector: the line must be the first that GDB runs by itself.
func TestBlockEndsWhereGDBEndsIt(t *testing.T) {
	complete := gdbComplete(t, "comm", "whil", "doc", "actio", "defin", "els", "ech", "en", "sil", "comman")
	blocks := []string{
		"define foo\necho x\n\nend",
		"define foo\ndefine bar\necho bar\n\nend\necho foo\n\nend",
		"define foo\ndocument foo\nthe text\nend\nend",
		"define foo\ndocument foo\ndoc of foo\nend\nend\nend",
		"define foo\ncomm\nsilent\nend\nend",
		"define foo\nwhile $x\nif $y\npython\nif 1:\n  while_ = 1\nend\nelse\nend\nend\nend",
		"define foo\npython print(1)\nend",
		"document zz\nif this is text\nwhile that is\nend",
		"if 0\n  end",
		"if 0\nend\t",
		"if 0\n# if 1\nend",
		"if 0\necho a\\\nend\nend",
		"python\nx = 1\nif x:\n  pass\n  end",
		"python\nx = 'a \\\nend'\nend",
		"if(0)\nwhile(1)\nend\nend",
		"while 0\nwhile-stepping\nend\nend",
		"define foo\nwhil 0\nend",
		"define foo\nactions\ncollect $regs\nend",
		"define foo\ncompile code\nif 1\nend\nend",
		"define foo\ncompile code -r\nif 1\nend\nend",
		"define foo\ncompile file x.c\nend",
		"define foo\nguile\n(if 1 2)\nif\nend\nend",
		"define foo\nends\n end of it\nend",
	}
	dir := t.TempDir()
	c := classifier{classes(), complete}
	for i, text := range blocks {
		lines := strings.Split(text+"\n"+`echo --after--\n`, "\n")
		k, _ := c.classify(lines[0])
		b := newBlock(lines[0], k)
		n := 1
		for n < len(lines) && !b.add(lines[n], c.classify) {
			n++
		}
		if n != len(lines)-2 {
			t.Errorf("%q ended at line %d of %d", text, n+1, len(lines)-1)
		}
		file := filepath.Join(dir, string(rune('a'+i))+".gdb")
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := gdbBatch(t, "-ex", "define-prefix zz", "-x", file); !strings.HasSuffix(out, "--after--\n") {
			t.Errorf("GDB does not end %q there: %s", text, out)
		}
	}
}

func TestClassify(t *testing.T) {
	complete := gdbComplete(t, "comm", "com", "def", "doc", "whi", "pyth", "ed", "interp", "expl", "qui", "sh", "mak", "wh", "tu")
	tests := []struct {
		line string
		want kind
	}{
		{"print 1", plain}, {"commands", opens}, {"commands 1", opens}, {"comm 1", opens}, {"com 1", plain},
		{"define foo", opens}, {"define", plain}, {"define-prefix foo", plain}, {"def foo", plain},
		{"document foo", opensRaw}, {"doc foo", opensRaw}, {"if 1", opens}, {"if(1)", opens}, {"if", plain},
		{"while $x < 3", opens}, {"whi 1", plain}, {"wh 3", plain}, {"while-stepping", opens}, {"ws 3", opens}, {"stepping", opens},
		{"python", opensRaw}, {"py", opensRaw}, {"  py  ", opensRaw}, {"python print(1)", plain}, {"pyth", plain},
		{"python-interactive", refused}, {"pi", refused}, {"pi 1+1", plain}, {"guile", opensRaw}, {"gu 1", plain}, {"gr", refused},
		{"compile code", opensRaw}, {"compile", opensRaw}, {"compile code -r --", opensRaw}, {"compile print", opensRaw},
		{"compile print /x", opensRaw}, {"compile code f(1)", plain}, {"compile file x", plain}, {"expression", opensRaw},
		{"edit", refused}, {"ed 3", refused}, {"interpreter-exec mi -x", refused}, {"interp mi x", refused},
		{"shell ls", refused}, {"!ls", refused}, {"mak all", refused}, {"quit", refused}, {"q", refused}, {"qui", refused}, {"sh", plain},
		{"with print pretty -- python", refused}, {"w language c -- quit", refused}, {"with print pretty -- print x", plain},
		{"thread apply all if 1", refused}, {"thread apply 1 2-3 $x -q print 1", plain}, {"t a all py", refused}, {"thread 1", plain},
		{"frame apply level 0 edit", refused}, {"taas shell ls", refused}, {"faas p x", plain}, {"pipe python | cat", refused},
		{"| if 1 | cat", refused}, {"pipe p 1 | cat", plain}, {"actions 1", opens}, {"x/4x $sp", plain}, {"", plain},
	}
	c := classifier{classes(), complete}
	for _, tt := range tests {
		if got, why := c.classify(tt.line); got != tt.want || (why != "") != (got == refused) {
			t.Errorf("classify(%q) = %d %q, want %d", tt.line, got, why, tt.want)
		}
	}
}

// FuzzBlock checks against a description of the rules that is as simple as it
// can be, for bodies of lines out of a small alphabet.
func FuzzBlock(f *testing.F) {
	f.Add("if 1\npython\nif 1\nend\nend\nend\nend")
	f.Add("py\n\\\nend\nend")
	f.Add("while 1\n  # if\nif 1\\\nend\nend\nend")
	f.Fuzz(func(t *testing.T, text string) {
		c := classifier{classes(), func(string) []string { return nil }}
		lines := strings.Split(text, "\n")
		k, _ := c.classify(lines[0])
		if k != opens && k != opensRaw {
			return
		}
		b := newBlock(lines[0], k)
		end := -1
		for i, l := range lines[1:] {
			if b.add(l, c.classify) {
				end = i + 1
				break
			}
		}
		// In the joined text the block ends at an "end", with as many
		// openers before it as ends, or is open still.
		body := lines[1:]
		if end >= 0 {
			body = lines[1 : end+1]
		}
		depth, raw := 1, k == opensRaw
		joined := strings.Split(strings.ReplaceAll(strings.Join(body, "\n"), "\\\n", ""), "\n")
		for i, l := range joined {
			l = strings.Trim(l, blanks)
			kk, _ := c.classify(l)
			switch {
			case l == "end" && !(strings.HasSuffix(body[len(body)-1], `\`) && i == len(joined)-1):
				depth--
				raw = false
			case raw || strings.HasPrefix(l, "#"):
			case (kk == opens || kk == opensRaw) && l != "actions" && !strings.HasPrefix(l, "actions "):
				depth++
				raw = kk == opensRaw && !strings.HasPrefix(l, "doc")
			}
			if depth == 0 && i != len(joined)-1 {
				t.Fatalf("%q goes on behind its end", text)
			}
		}
		if (depth == 0) != (end >= 0) {
			t.Fatalf("%q: %d are open, ended at %d", text, depth, end)
		}
		if strings.Join(b.lines, "\n") != strings.Join(lines[:len(b.lines)], "\n") {
			t.Fatalf("lines of %q were changed", text)
		}
	})
}
