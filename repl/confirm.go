package repl

import (
	"bytes"
	"context"
	"strings"
)

// confirm asks, where the line was typed and GDB would have asked, before the
// line ends a process or deletes all breakpoints: GDB/MI takes yes for an
// answer (GDB manual, "Optional Messages about Commands", set confirm). The
// error says that the line is not to be run.
func (sh *Shell) confirm(ctx context.Context, line string) error {
	p, ok := sh.src.(*prompt)
	if !ok {
		return nil
	}
	question := ""
	switch what := endangers(line); {
	case what == deletesAll:
		question = "Delete them all? (y or n) "
	case what == endsProcess && sh.Debugger.Alive():
		question = "The process being debugged would be lost; go on? (y or n) "
	}
	if question == "" || !sh.confirms(ctx) {
		return nil
	}
	return p.ask(ctx, question)
}

// confirms reports whether GDB is set to ask.
func (sh *Shell) confirms(ctx context.Context) bool {
	var said bytes.Buffer
	if err := sh.Debugger.Console(ctx, "show confirm", &said); err != nil {
		return false // the line itself gets the same error
	}
	return !strings.HasSuffix(strings.TrimSpace(said.String()), "is off.")
}

// danger is what a line of GDB's would do that cannot be taken back.
type danger uint8

const (
	harmless    danger = iota
	endsProcess        // a process being debugged is killed or let go
	deletesAll         // all breakpoints, displays or the like go
)

// endangers says what a line of GDB's would do, by the commands that call
// query in GDB's sources.
func endangers(line string) danger {
	line = strings.Trim(line, blanks)
	if strings.HasPrefix(line, "|") { // GDB's pipe
		line = "pipe " + line[1:]
	}
	word, args := cutGDBWord(line)
	switch name := shortened(word); name {
	case "run", "start", "starti", "attach", "core-file":
		return endsProcess
	case "target":
		if strings.HasPrefix(args, "record") { // stands on top of the process
			return harmless
		}
		return endsProcess
	case "kill":
		if args == "" { // "kill inferiors N" asks nothing
			return endsProcess
		}
		return harmless
	case "delete":
		// Without arguments, or with nothing but the name of what is deleted.
		if strings.Trim(args, "abcdefghijklmnopqrstuvwxyz-") == "" {
			return deletesAll
		}
		return harmless
	}
	if sub := nested(word, args); sub != "" {
		return endangers(sub)
	}
	return harmless
}
