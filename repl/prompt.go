package repl

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/go-delve/liner"
	"golang.org/x/sys/unix"

	"dbgsh/commands"
)

const (
	promptText = "(dbgsh) "
	moreText   = "> "
)

// prompt is the source that reads what is typed.
type prompt struct {
	sh      *Shell
	liner   *liner.State
	history *history
	reading chan answer // a read that was left waiting
	repeat  string      // what an empty line runs
}

type answer struct {
	line string
	err  error
}

// atPrompt reports whether the line being run was typed.
func (sh *Shell) atPrompt() bool {
	_, ok := sh.src.(*prompt)
	return ok
}

// Prompt reads lines from the terminal and runs them, until the user leaves.
// Errors are shown and end nothing. The exit status starts anew.
func (sh *Shell) Prompt(ctx context.Context) {
	original, err := unix.IoctlGetTermios(int(sh.Stdin.Fd()), unix.TCGETS)
	p := &prompt{sh: sh, liner: liner.NewLiner()}
	defer p.liner.Close()
	if err == nil && liner.TerminalSupported() {
		if t, err := newTTY(sh.Stdin, original); err == nil {
			sh.tty.Store(t)
			defer func() {
				sh.tty.Store(nil)
				t.lend()
			}()
		}
	}
	p.liner.SetCtrlCAborts(true)
	p.liner.SetCtrlZStop(true)
	p.liner.SetBeep(false)
	p.liner.SetTabCompletionStyle(liner.TabPrints)
	p.liner.SetWordCompleter(sh.completeWord(ctx))
	p.history = openHistory(sh.HistoryFile)
	for _, l := range p.history.old {
		p.liner.AppendHistory(l)
	}
	defer p.history.save()

	sh.status = 0
	outer := sh.src
	sh.src = p
	defer func() { sh.src = outer }()
	if sh.Banner != "" {
		sh.Output.startLine()
		sh.Output.Write([]byte(sh.Banner + "\n"))
	}
	for !sh.left && ctx.Err() == nil {
		p.one(ctx)
		if broken, _ := sh.Output.broken(); broken {
			sh.left = true
		}
	}
}

// one reads and runs one line.
func (p *prompt) one(ctx context.Context) {
	sh := p.sh
	var line string
	sh.signals.foreign.Store(p.editor(promptText) != nil)
	err := sh.attend(ctx, func(ctx context.Context) (err error) {
		line, _, err = next(ctx, p)
		return err
	})
	switch {
	case errors.Is(err, errDropped), sh.left:
		return
	case isEOF(err):
		sh.Output.Write([]byte("\n"))
		if sh.attend(ctx, p.leave) == nil {
			sh.left = true
		}
		return
	case err != nil: // the terminal is gone
		sh.left = true
		return
	}
	if strings.Trim(line, blanks) == "" {
		line = p.repeat
	}
	err = sh.attend(ctx, func(ctx context.Context) (err error) {
		defer rescue(&err)
		p.repeat = sh.repeatOf(ctx, line)
		return sh.runLine(ctx, line)
	})
	if err != nil && !sh.left && !errors.Is(err, errDropped) && !errors.Is(err, errReported) {
		sh.fail("", "", err)
	}
	if !sh.left { // what fails at the prompt is seen there, and is no failure of the session
		sh.status = 0
	}
}

// leave asks before a process that dbgsh started is lost; the error says that
// the user stays.
func (p *prompt) leave(ctx context.Context) error {
	if !p.sh.Debugger.Started() {
		return nil
	}
	return p.ask(ctx, "A process that dbgsh started is alive; kill it and leave? (y or n) ")
}

// ask asks until it gets a y, or the end of input, or a reason not to.
func (p *prompt) ask(ctx context.Context, question string) error {
	for {
		line, err := p.read(ctx, question)
		switch {
		case isEOF(err):
			p.sh.Output.Write([]byte("\n"))
			return nil
		case err != nil:
			return err
		}
		switch strings.ToLower(strings.Trim(line, blanks)) {
		case "y", "yes":
			return nil
		case "n", "no":
			return errDropped
		}
		p.sh.Output.Complain("Please answer y or n.")
	}
}

func (p *prompt) place() string { return "" }

func (p *prompt) line(ctx context.Context, more bool) (string, error) {
	text := promptText
	if more {
		text = moreText
	}
	line, err := p.read(ctx, text)
	if err == nil && strings.Trim(line, blanks) != "" {
		p.liner.AppendHistory(line)
		p.history.add(line)
	}
	return line, err
}

// editor is the terminal, if liner edits lines behind a prompt there: without
// room for ten characters more it reads them as they come.
func (p *prompt) editor(text string) *tty {
	t := p.sh.tty.Load()
	if t == nil {
		return nil
	}
	size, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ)
	if err != nil || int(size.Col) < len(text)+10 {
		return nil
	}
	return t
}

// read reads a line. One that ctx leaves waiting is what the next call reads.
func (p *prompt) read(ctx context.Context, text string) (string, error) {
	p.sh.Output.startLine()
	if t := p.editor(text); t != nil {
		// Ctrl-C is a key from before the prompt shows until after the line is
		// read; a SIGINT is a late one for what ended before.
		p.sh.signals.foreign.Store(true)
		t.prompting(true)
		defer t.prompting(false) // from here on the key is a SIGINT, which then is ours
		defer p.sh.signals.foreign.Store(false)
		p.sh.Output.prompting(redraw)
		defer p.sh.Output.prompting(nil)
	}
	if p.reading == nil {
		got := make(chan answer, 1)
		p.reading = got
		go func() {
			line, err := p.liner.Prompt(text)
			got <- answer{line, err}
		}()
	} else {
		p.sh.Output.Write([]byte(text))
	}
	select {
	case a := <-p.reading:
		p.reading = nil
		if errors.Is(a.err, liner.ErrPromptAborted) {
			a.err = errDropped
		}
		return a.line, a.err
	case <-ctx.Done():
		if context.Cause(ctx) == errInterrupted { // a terminal that cannot be edited on
			return "", errDropped
		}
		return "", ctx.Err()
	}
}

// unrepeated are the GDB commands that an empty line does not run again (they
// call dont_repeat in GDB's sources, or start the target anew), with the
// length from which a word stands for them.
func unrepeated() map[string]int {
	return map[string]int{
		"run": 1, "start": 4, "starti": 6, "attach": 2, "detach": 3, "disconnect": 4, "kill": 1,
		"file": 3, "exec-file": 5, "core-file": 3, "symbol-file": 2, "add-symbol-file": 3, "remove-symbol-file": 3,
		"target": 2, "load": 2, "delete": 1, "define": 3, "document": 3, "source": 2, "directory": 3,
		"sharedlibrary": 3, "nosharedlibrary": 4, "restore": 5, "restart": 5, "generate-core-file": 2, "gcore": 2,
		"commands": 4, "signal": 3, "queue-signal": 3,
	}
}

// shortened is the one of unrepeated that word stands for, or "".
func shortened(word string) string {
	for name, from := range unrepeated() {
		if len(word) >= from && strings.HasPrefix(name, word) {
			return name
		}
	}
	return ""
}

// repeatOf is what an empty line runs after line, "" for nothing.
func (sh *Shell) repeatOf(ctx context.Context, line string) string {
	p, err := parse(line, func(word string) *commands.Command { return sh.lookup(ctx, word) })
	if err != nil {
		return ""
	}
	for _, st := range p.stages {
		if st.command.NoRepeat {
			return ""
		}
	}
	switch {
	case p.gdb != "":
		return sh.repeatOfGDB(ctx, p.gdb)
	case len(p.stages) == 1 && p.stages[0].command.Name == gdbName:
		if r := sh.repeatOfGDB(ctx, strings.Trim(p.stages[0].tail, blanks)); r != "" {
			return gdbName + " " + r
		}
		return ""
	}
	return line
}

func (sh *Shell) repeatOfGDB(ctx context.Context, line string) string {
	word, args := cutGDBWord(line)
	if word == "" {
		return line
	}
	if shortened(word) != "" {
		return ""
	}
	if k, _ := sh.classifier(ctx).classify(line); k != plain {
		return ""
	}
	switch {
	case word == "x":
		return "x" // goes on behind what was shown, as in GDB
	case strings.HasPrefix("list", word) && args != "-":
		return "list"
	}
	return line
}

// completions is complete, of which a bug is an error.
func (sh *Shell) completions(ctx context.Context, left string) (head string, list []string, err error) {
	defer rescue(&err)
	head, list = sh.complete(ctx, left)
	return head, list, nil
}

// completeWord is liner's view of complete. pos counts runes.
func (sh *Shell) completeWord(ctx context.Context) liner.WordCompleter {
	var mu sync.Mutex // liner calls it from the goroutine of each prompt
	return func(line string, pos int) (head string, list []string, tail string) {
		mu.Lock()
		defer mu.Unlock()
		runes := []rune(line)
		left, tail := string(runes[:pos]), string(runes[pos:])
		head, list, err := sh.completions(ctx, left)
		if err != nil {
			sh.Output.Complain(reason(err))
			return left, nil, tail
		}
		if len(list) == 1 && tail == "" && !strings.HasSuffix(list[0], "/") {
			list[0] += " "
		}
		return head, list, tail
	}
}
