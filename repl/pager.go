package repl

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
)

// page shows text in $PAGER, else in less, and reports whether one ran. That
// the user leaves it early is no error, nor is anything it says at its end.
func (sh *Shell) page(ctx context.Context, text []byte) (shown bool) {
	name, args := "less", []string{"-FRX"}
	if pager := os.Getenv("PAGER"); pager != "" {
		name, args = "/bin/sh", []string{"-c", pager}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = shellDelay
	cmd.Stdin = bytes.NewReader(text)
	err := sh.Output.lent(func(stdout, stderr io.Writer) error {
		cmd.Stdout, cmd.Stderr = stdout, stderr
		return sh.foreground(cmd.Run)
	})
	var exit *exec.ExitError
	return err == nil || errors.As(err, &exit) && exit.ExitCode() != 127 || errors.Is(err, exec.ErrWaitDelay)
}
