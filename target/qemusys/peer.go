package qemusys

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"dbgsh/target/gdb"
	"dbgsh/target/proc"
)

// How many lines of the monitor's output get through a connection.
const (
	noLines   = 0
	someLines = 700 // 800 were tried with the smallest room that widen takes for this
	anyLines  = math.MaxInt
)

// Peer is QEMU's process, as it is seen at the other end of GDB's connection.
type Peer struct {
	PID   int // 0 where it is not seen
	Lines int // how many lines of the monitor's output get through
}

// FindPeer is the process that a connection of GDB's leads to, by the owner of
// the socket's other end. With an error that is not known, but Lines is.
func FindPeer(gdbPID int, c gdb.Connection) (Peer, error) {
	lines, sockets := noLines, 0
	found, err := proc.PeerOf(gdbPID, c.Address, "qemu", func(sock int) { lines, sockets = widen(sock), sockets+1 })
	switch {
	case !found.Unix:
		lines = anyLines
	case err != nil && (sockets > 1 || !errors.Is(err, proc.ErrNoPeer)): // it is not known to be the one
		lines = noLines
	}
	return Peer{PID: found.PID, Lines: lines}, err
}

// widen makes room for what GDB writes to a unix socket, and returns for how
// many lines of the monitor's output there is room then. QEMU 7 reads nothing
// while a command of the monitor prints, and GDB acknowledges every line: when
// there is no room for an acknowledgement, at 600 lines with the buffer that
// sockets have by default, both wait for each other for ever.
func widen(sock int) (lines int) {
	const (
		wide  = 32 << 20 // bytes; the kernel doubles them
		usual = 212992   // net.core.wmem_default, socket(7)
	)
	if unix.SetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, wide) == nil { // takes CAP_NET_ADMIN
		return anyLines
	}
	if err := unix.SetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_SNDBUF, wide); err != nil {
		return noLines
	}
	if size, err := unix.GetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || size < 2*usual {
		return noLines
	}
	return someLines
}
