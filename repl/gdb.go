package repl

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"dbgsh/commands"
)

// gdbError is an error in GDB's own words.
type gdbError struct{ err error }

func (e *gdbError) Error() string { return e.err.Error() }
func (e *gdbError) Unwrap() error { return e.err }

// console is what GDB printed, as a result.
type console struct {
	Console string `json:"console"`
}

// WriteText shows what GDB printed.
func (c *console) WriteText(t *commands.Text) { t.Print(commands.Plain, c.Console) }

// runGDB runs a line in GDB and shows what it prints: as it comes, or as one
// document of JSON.
func (sh *Shell) runGDB(ctx context.Context, line string) error {
	sh.last = true
	res, err := sh.gdbResult(ctx, line)
	if res == nil {
		return err
	}
	return errors.Join(err, sh.show(ctx, res, sh.JSON))
}

// gdbResult runs a line in GDB. Where a later stage or JSON wants what GDB
// prints, that is the result, also beside an error; else it is shown as it comes.
func (sh *Shell) gdbResult(ctx context.Context, line string) (commands.Result, error) {
	if sh.last && !sh.JSON {
		return nil, sh.handOver(ctx, line, sh.Output)
	}
	var b bytes.Buffer
	err := sh.handOver(ctx, line, &b)
	if b.Len() == 0 && sh.last {
		return nil, err
	}
	return &console{b.String()}, err
}

// handOver runs a line in GDB, with the lines that it reads, if any.
func (sh *Shell) handOver(ctx context.Context, line string, out io.Writer) error {
	line = strings.Trim(line, blanks)
	if line == "" {
		return nil
	}
	word, _ := cutGDBWord(line)
	k, why := sh.classifier(ctx).classify(line)
	switch k {
	case refused:
		return &lineError{word, errors.New(why)}
	case opens, opensRaw:
		b, err := sh.collect(ctx, line, k)
		if err != nil {
			return err
		}
		return sh.viaFile(ctx, b.lines, func(line string) error { return sh.inGDB(ctx, line, out) })
	}
	if err := sh.confirm(ctx, line); err != nil {
		return err
	}
	return sh.inGDB(ctx, line, out)
}

// inGDB runs a line in GDB; while the target runs, Stdin is the inferior's.
func (sh *Shell) inGDB(ctx context.Context, line string, out io.Writer) error {
	stop := sh.forwardInput(ctx)
	defer func() {
		stop()
		if context.Cause(ctx) == errInterrupted {
			sh.typed.drop() // as the kernel drops what was typed before Ctrl-C
		}
	}()
	err := sh.Debugger.Console(ctx, line, out)
	if err != nil {
		return &gdbError{err}
	}
	return nil
}
