package gdb

import (
	"context"
	"fmt"
	"strings"
)

// found is what GDB's own find would leave in convenience variables (GDB manual,
// "Searching Memory").
type found struct {
	last  uint64 // address of the last hit
	count uint64
}

// Found keeps the number of hits of a search in $numfound and the address of the
// last one, if there is one, in $_. GDB is told before the next line that it is
// given, or the next expression that names one of them.
func (g *GDB) Found(last, count uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.found = &found{last, count}
}

// tellFound sets the variables, if they are to be set. What GDB says to that
// matters to nobody: a GDB that does not answer says so to the next line, too.
func (g *GDB) tellFound(ctx context.Context) {
	g.mu.Lock()
	f := g.found
	g.found = nil
	g.mu.Unlock()
	if f == nil {
		return
	}
	lines := []string{fmt.Sprintf("with language c -- set $numfound = %d", f.count)}
	if f.count > 0 {
		lines = append(lines, fmt.Sprintf("with language c -- set $_ = (void *) %#x", f.last))
	}
	_, _ = g.QueryAll(ctx, lines...)
}

// namesFound reports whether an expression names one of the variables.
func namesFound(expr string) bool {
	return strings.Contains(expr, "$_") || strings.Contains(expr, "$numfound")
}
