package repl

import "context"

// Open runs f, which opens the debuggee, as lines are run: Ctrl-C cancels it.
// Its failure is reported, and the status then is that of a lost target. more
// is as for RunScript.
func (sh *Shell) Open(ctx context.Context, f func(ctx context.Context) error) (more bool) {
	return sh.attend(ctx, func(ctx context.Context) error {
		err := f(ctx)
		if broken, _ := sh.Output.broken(); broken {
			sh.left = true
			return errReported
		}
		if err != nil {
			sh.fail("", "", err)
			sh.status = 3
		}
		return err
	}) == nil && !sh.left
}
