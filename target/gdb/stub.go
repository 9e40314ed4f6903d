package gdb

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// received is how GDB shows the answer to a packet.
var received = regexp.MustCompile(`(?m)^received: "(.*)"$`)

// Packet sends a packet to the stub and returns its answer, "" where the stub
// does not know it.
func (g *GDB) Packet(ctx context.Context, p string) (string, error) {
	turn, err := g.Turn(ctx)
	if err != nil {
		return "", err
	}
	defer turn.Release()
	return turn.Packet(ctx, p)
}

// answerOf is the stub's answer in what maint packet prints.
func answerOf(text string) string {
	if m := received.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// RemoteFile is the contents of a file on the stub's side.
func (g *GDB) RemoteFile(ctx context.Context, path string) ([]byte, error) {
	f, err := os.CreateTemp("", "dbgsh-remote-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := g.Query(ctx, "remote get "+path+" "+quoteArg(f.Name())); err != nil {
		return nil, err
	}
	// GDB may have made the file anew, so it is read by its name.
	return os.ReadFile(f.Name())
}

// Connection is how GDB reaches the stub of an inferior; the zero value is none.
type Connection struct {
	Key     string // differs between connections of one GDB, and between GDBs
	Address string // as GDB shows it: host:port, the path of a socket, |command ...
}

// connectionLine is the row of GDB's "info connections" that belongs to the
// selected inferior: its number, its target, and where it leads.
var connectionLine = regexp.MustCompile(`(?m)^\* +(\d+) +(?:extended-)?remote (.*?)(?:  +.*)?$`)

// parseConnection reads "info connections" of the GDB with that process id.
func parseConnection(text string, gdb int) Connection {
	m := connectionLine.FindStringSubmatch(text)
	if m == nil {
		return Connection{}
	}
	return Connection{Key: fmt.Sprintf("%d %s %s", gdb, m[1], m[2]), Address: strings.TrimSpace(m[2])}
}
