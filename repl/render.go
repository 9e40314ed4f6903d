package repl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

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
func render(w io.Writer, res commands.Result, asJSON bool, paint func(commands.Style, string) string) error {
	if asJSON {
		text, err := json.Marshal(res)
		if err != nil {
			return fmt.Errorf("give the result as JSON: %w", err)
		}
		_, err = w.Write(append(text, '\n'))
		return err
	}
	t := commands.NewText(w, paint)
	res.WriteText(t)
	return t.Flush()
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
		return sh.unlessBroken(render(sh.Output, res, asJSON, paint))
	}
	var b bytes.Buffer
	if err := render(&b, res, asJSON, paint); err != nil {
		return err
	}
	if sh.tall(b.Bytes()) {
		if shown := sh.page(ctx, b.Bytes()); shown {
			return nil
		}
	}
	_, err := sh.Output.Write(b.Bytes())
	return sh.unlessBroken(err)
}

// unlessBroken is err, or nil where standard output is gone: the shell is left
// then, with nothing to say.
func (sh *Shell) unlessBroken(err error) error {
	if broken, _ := sh.Output.broken(); broken {
		return nil
	}
	return err
}

// tall reports whether text fills the window, a line being as long as it may.
func (sh *Shell) tall(text []byte) bool {
	size, err := unix.IoctlGetWinsize(int(sh.Stdin.Fd()), unix.TIOCGWINSZ)
	return err == nil && size.Row > 0 && bytes.Count(text, []byte("\n")) >= int(size.Row)
}

// isTerminal reports whether w is a terminal.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok || f == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
