package repl

import (
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progressDelay is how long work may take without a progress bar.
const progressDelay = time.Second

// progress shows how far work has come, on standard error where that is a
// terminal, once it has taken a while. finish takes the bar away.
func (sh *Shell) progress(what string) (update func(done, total uint64), finish func()) {
	stderr, ok := sh.Output.stderr.(*os.File)
	if !ok || !isTerminal(stderr) {
		return nil, func() {}
	}
	begun := time.Now()
	var bar *progressbar.ProgressBar
	// What the bar cannot write, the work does not need.
	update = func(done, total uint64) {
		if bar == nil {
			if time.Since(begun) < progressDelay {
				return
			}
			bar = progressbar.NewOptions64(int64(min(total, 1<<62)),
				progressbar.OptionSetWriter(stderr),
				progressbar.OptionSetDescription(what),
				progressbar.OptionShowBytes(true),
				progressbar.OptionUseIECUnits(true),
				progressbar.OptionThrottle(100*time.Millisecond),
				progressbar.OptionClearOnFinish())
		}
		_ = bar.Set64(int64(min(done, 1<<62)))
	}
	return update, func() {
		if bar != nil {
			_ = bar.Clear()
		}
	}
}
