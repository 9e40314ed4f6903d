package repl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/fatih/color"
	"golang.org/x/sys/unix"

	"dbgsh/commands"
)

// useColor decides whether results are coloured, terminal being whether they
// go to one (https://no-color.org).
func useColor(mode string, terminal bool) bool {
	switch mode {
	case "always":
		return true
	case "auto":
		return terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return false
}

// painter colours text by its meaning.
func painter() func(commands.Style, string) string {
	colors := map[commands.Style]*color.Color{
		commands.Stack:  color.New(color.FgYellow),
		commands.Heap:   color.New(color.FgBlue),
		commands.Code:   color.New(color.FgRed),
		commands.Data:   color.New(color.FgMagenta),
		commands.RWX:    color.New(color.FgRed, color.Bold, color.Underline),
		commands.Title:  color.New(color.Bold),
		commands.Faint:  color.New(color.Faint),
		commands.Strong: color.New(color.Bold),
	}
	for _, c := range colors {
		c.EnableColor() // whatever the package thinks of the environment
	}
	return func(s commands.Style, text string) string {
		if c := colors[s]; c != nil {
			return c.Sprint(text)
		}
		return text
	}
}

// render writes a result: as JSON, a line of its own, or as text.
func render(ctx context.Context, w io.Writer, res commands.Result, asJSON bool, screen commands.Screen, paint func(commands.Style, string) string) error {
	w = whileWanted{ctx, w}
	if long, ok := res.(commands.JSONWriter); ok && asJSON {
		if err := long.WriteJSON(w); err != nil {
			return err
		}
		_, err := io.WriteString(w, "\n")
		return err
	}
	if asJSON {
		text, err := json.Marshal(res)
		if err != nil {
			return fmt.Errorf("give the result as JSON: %w", err)
		}
		_, err = w.Write(append(text, '\n'))
		return err
	}
	t := commands.NewText(w, paint).On(screen)
	res.WriteText(t)
	return t.Flush()
}

// whileWanted is a writer that fails once ctx is done.
type whileWanted struct {
	ctx context.Context
	w   io.Writer
}

func (w whileWanted) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// show renders a result to the user, through the pager where it is taller
// than the window. That nobody reads standard output is no error of the line.
func (sh *Shell) show(ctx context.Context, res commands.Result, asJSON bool) error {
	set := sh.Session.Settings
	var paint func(commands.Style, string) string
	if useColor(set.Get("color"), sh.Output.terminal) {
		paint = sh.paint
	}
	if !sh.atPrompt() || !sh.Output.terminal || !set.On("pager") {
		return sh.unlessBroken(render(ctx, sh.Output, res, asJSON, sh.screen(), paint))
	}
	var b bytes.Buffer
	if err := render(ctx, &b, res, asJSON, sh.screen(), paint); err != nil {
		return err
	}
	if sh.tall(b.Bytes()) {
		if shown := sh.page(ctx, b.Bytes()); shown {
			if s, ok := res.(commands.Summarizer); ok && !asJSON {
				_, err := io.WriteString(sh.Output, s.Summary()+"\n") // the pager may have been left early
				return sh.unlessBroken(err)
			}
			return nil
		}
	}
	_, err := sh.Output.Write(b.Bytes())
	return sh.unlessBroken(err)
}

// screen is the window that standard output shows text in, if it does.
func (sh *Shell) screen() commands.Screen {
	f, ok := sh.Output.stdout.(*os.File)
	if !ok || !sh.Output.terminal {
		return commands.Screen{}
	}
	s := commands.Screen{ASCII: !utf8Locale()}
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
		s.Columns = int(size.Col)
	}
	return s
}

// utf8Locale reports whether the user's characters are UTF-8 (locale(7): the first
// of these variables that is set decides).
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := os.Getenv(name); value != "" {
			value = strings.ToLower(value)
			return strings.Contains(value, "utf-8") || strings.Contains(value, "utf8")
		}
	}
	return false
}

// unlessBroken is err, or nil where standard output is gone: the shell is left
// then, with nothing to say.
func (sh *Shell) unlessBroken(err error) error {
	if broken, _ := sh.Output.broken(); broken {
		return nil
	}
	return err
}

// tall reports whether text fills the window, where a long line takes several rows.
func (sh *Shell) tall(text []byte) bool {
	size, err := unix.IoctlGetWinsize(int(sh.Stdin.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row == 0 {
		return false
	}
	rows := 0
	for line := range bytes.Lines(text) {
		rows++
		// A byte or more for each column: a line that is short in bytes needs no look.
		if size.Col > 0 && len(line) > int(size.Col) {
			width := utf8.RuneCount(colours.ReplaceAll(bytes.TrimRight(line, "\n"), nil))
			rows += max(0, width-1) / int(size.Col)
		}
		if rows >= int(size.Row) {
			return true
		}
	}
	return false
}

// colours matches what a painter puts into text (ECMA-48, SGR).
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// isTerminal reports whether w is a terminal.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok || f == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
