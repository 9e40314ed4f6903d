package gdb

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Inferior is what GDB says of the selected inferior.
type Inferior struct {
	ID      int        // as GDB counts them
	PID     int        // of its process, 0 where there is none
	Program string     // the file that is debugged, "" where none is loaded
	Stack   []string   // GDB's target stack, the top first: native, core, remote ...
	Conn    Connection // to the stub, where there is one
	// Thread is the system's id of the selected thread behind a stub, "" where
	// GDB does not show it.
	Thread string
	// Running and Stopped say that there are such threads; of a process that is
	// stopped as a whole neither is set.
	Running, Stopped bool
}

// Has reports whether the target stack holds a layer of that name.
func (inf *Inferior) Has(layer string) bool { return slices.Contains(inf.Stack, layer) }

// threadID is how GDB shows a thread of a remote process: Thread PID.TID.
var threadID = regexp.MustCompile(`\(Thread \d+\.(\d+)`)

// Inferior asks GDB for the selected inferior, in two round trips.
func (g *GDB) Inferior(ctx context.Context) (Inferior, error) {
	texts, err := g.QueryAll(ctx,
		`with language c -- printf "%d", $_inferior`, // any language knows no more
		"maint print target-stack",
		"info connections",
		"thread", // the last: it fails where the thread has exited
	)
	if err != nil && (len(texts) < 3 || !errors.As(err, new(*Error))) {
		return Inferior{}, err
	}
	texts = append(texts, "")
	var inf Inferior
	if inf.ID, err = strconv.Atoi(lastLine(texts[0])); err != nil {
		return Inferior{}, fmt.Errorf("GDB does not number the inferior: %q", texts[0])
	}
	for line := range strings.Lines(texts[1]) {
		if layer, found := strings.CutPrefix(strings.TrimSpace(line), "- "); found {
			name, _, _ := strings.Cut(layer, " ")
			inf.Stack = append(inf.Stack, name)
		}
	}
	if m := threadID.FindStringSubmatch(texts[3]); m != nil {
		inf.Thread = m[1]
	}
	var threads []string
	stamp, live := g.Stamp(), g.Live()
	if live {
		threads = []string{"--recurse", "1"} // which costs a look at each
	}
	groups, err := g.Send(ctx, "list-thread-groups", threads...)
	if err != nil {
		return Inferior{}, err
	}
	running := false // in any inferior
	for _, group := range groups.Tuples("groups") {
		runs, stands := false, false
		for _, thread := range group.Tuples("threads") {
			runs = runs || thread.Str("state") == "running"
			stands = stands || thread.Str("state") == "stopped"
		}
		running = running || runs
		if group.Str("id") == "i"+strconv.Itoa(inf.ID) {
			inf.Program = group.Str("executable")
			inf.PID, _ = strconv.Atoi(group.Str("pid"))
			inf.Running, inf.Stopped = runs, stands
		}
	}
	if live && !running {
		g.allStopped(stamp)
	}
	inf.Conn = parseConnection(texts[2], g.PID())
	return inf, nil
}

// BreakpointsStay reports whether GDB leaves its breakpoints inserted at a stop.
func (g *GDB) BreakpointsStay(ctx context.Context) (bool, error) {
	text, err := g.Query(ctx, "show breakpoint always-inserted")
	return strings.Contains(text, " is on"), err
}

// PID is the process id of the GDB that was started last, 0 for none.
func (g *GDB) PID() int {
	c, err := g.alive()
	if err != nil {
		return 0
	}
	return c.PID()
}

// Alive reports whether a process is being debugged.
func (g *GDB) Alive() bool { return len(g.PIDs()) > 0 }

// PIDs is the ids of all processes that GDB debugs. A GDB that does not answer
// within a second has none.
func (g *GDB) PIDs() []int {
	c, err := g.alive()
	if err != nil {
		return nil
	}
	select {
	case <-c.Done():
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	groups, err := g.Send(ctx, "list-thread-groups")
	if err != nil {
		return nil
	}
	var pids []int
	for _, group := range groups.Tuples("groups") {
		if pid, err := strconv.Atoi(group.Str("pid")); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
