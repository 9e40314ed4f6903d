package target

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"dbgsh/target/proc"
)

// connection is how GDB reaches the stub of the selected inferior.
type connection struct {
	key  string // differs between connections of this GDB and others
	addr string // as GDB shows it: host:port, the path of a socket, |command ...
}

// connectionLine is the row of GDB's "info connections" that belongs to the
// selected inferior: its number, its target, and where it leads.
var connectionLine = regexp.MustCompile(`(?m)^\* +(\d+) +(?:extended-)?remote (.*?)(?:  +.*)?$`)

func parseConnection(text string, gdb int) connection {
	m := connectionLine.FindStringSubmatch(text)
	if m == nil {
		return connection{}
	}
	return connection{key: fmt.Sprintf("%d %s %s", gdb, m[1], m[2]), addr: strings.TrimSpace(m[2])}
}

// errNoPeer says that nobody on this machine is seen at the other end.
var errNoPeer = errors.New("the process at the other end of the connection is not seen: it runs on another machine, in another PID namespace, or as another user; run dbgsh where it is, as its user or as root")

// How many lines of the monitor's output get through a connection.
const (
	noLines   = 0
	someLines = 700 // 800 were tried with the smallest room that widen takes for this
	anyLines  = math.MaxInt
)

// peerOf is the process that GDB's connection leads to, by the owner of the
// socket's other end, and how many lines of output get through.
func peerOf(gdb int, c connection) (pid, lines int, err error) {
	inodes := map[uint64]int{} // GDB's sockets, with their descriptors
	dir := procPath(gdb, "fd")
	fds, err := os.ReadDir(dir)
	if err != nil {
		return 0, noLines, err
	}
	for _, fd := range fds {
		if inode, ok := socketInode(filepath.Join(dir, fd.Name())); ok {
			inodes[inode], _ = strconv.Atoi(fd.Name())
		}
	}
	// A table may take milliseconds, and the second one is rarely needed: for
	// IPv6, and where a socket for it serves IPv4.
	var socks []proc.TCPSocket
	found := false
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		text, err := os.ReadFile(procPath(gdb, name))
		if err != nil {
			continue
		}
		socks = append(socks, proc.ParseNetTCP(string(text), binary.NativeEndian)...)
		var peer uint64
		if peer, found, err = tcpPeer(socks, inodes, c.addr); err != nil {
			return 0, anyLines, err
		}
		if pid := socketOwner(peer); pid != 0 {
			return pid, anyLines, nil
		}
	}
	if found {
		return 0, anyLines, errNoPeer
	}
	return unixPeer(gdb, inodes, c.addr)
}

// tcpPeer is the inode of the other end of the connection to addr, 0 where it
// is not among socks; found says that GDB's own is, which is one of own.
func tcpPeer(socks []proc.TCPSocket, own map[uint64]int, addr string) (peer uint64, found bool, err error) {
	var ours proc.TCPSocket
	for _, s := range socks {
		if _, ok := own[s.Inode]; !ok || !strings.HasSuffix(addr, fmt.Sprintf(":%d", s.Remote.Port())) {
			continue
		}
		if found {
			return 0, true, fmt.Errorf("two connections of GDB's lead to port %d", s.Remote.Port())
		}
		ours, found = s, true
	}
	for _, s := range socks {
		if found && s.Local == ours.Remote && s.Remote == ours.Local {
			return s.Inode, true, nil
		}
	}
	return 0, found, nil
}

// socketInode is the inode of the socket that a link in /proc/PID/fd shows.
func socketInode(link string) (uint64, bool) {
	text, err := os.Readlink(link)
	if err != nil {
		return 0, false
	}
	digits, found := strings.CutPrefix(text, "socket:[")
	inode, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 64)
	return inode, found && err == nil
}

// socketOwner is a process that has the socket open, 0 for none that is seen
// and for inode 0.
// Processes named like QEMU are looked at first: there may be thousands.
func socketOwner(inode uint64) int {
	if inode == 0 {
		return 0
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	var likely, others []int
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		// A process may be gone by now.
		if name, _ := os.ReadFile(procPath(pid, "comm")); strings.HasPrefix(string(name), "qemu") {
			likely = append(likely, pid)
		} else {
			others = append(others, pid)
		}
	}
	want := fmt.Sprintf("socket:[%d]", inode)
	for _, pid := range append(likely, others...) {
		dir, err := os.Open(procPath(pid, "fd"))
		if err != nil {
			continue
		}
		fds, _ := dir.Readdirnames(-1) // an error leaves those that were read
		dir.Close()
		for _, fd := range fds {
			if text, err := os.Readlink(procPath(pid, "fd/"+fd)); err == nil && text == want {
				return pid
			}
		}
	}
	return 0
}

// unixPeer is the process that listened at the unix socket GDB is connected to
// (SO_PEERCRED, unix(7)). /proc/net/unix does not tell which two ends are one
// connection, so GDB's own descriptor is asked.
func unixPeer(gdb int, inodes map[uint64]int, addr string) (pid, lines int, err error) {
	pidfd, err := unix.PidfdOpen(gdb, 0)
	if err != nil {
		return 0, noLines, fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	found := false
	for _, fd := range inodes {
		sock, err := unix.PidfdGetfd(pidfd, fd, 0)
		if err != nil {
			return 0, noLines, fmt.Errorf("look at GDB's sockets: %w", err)
		}
		name, nameErr := unix.Getpeername(sock)
		at, isUnix := name.(*unix.SockaddrUnix)
		// The path is as the listener gave it, so only its end is compared.
		if nameErr != nil || !isUnix || at.Name == "" || filepath.Base(at.Name) != filepath.Base(addr) {
			unix.Close(sock)
			continue
		}
		n := widen(sock)
		cred, credErr := unix.GetsockoptUcred(sock, unix.SOL_SOCKET, unix.SO_PEERCRED)
		unix.Close(sock)
		switch {
		case credErr != nil:
			return 0, n, fmt.Errorf("SO_PEERCRED: %w", credErr)
		case found && int(cred.Pid) != pid:
			return 0, noLines, fmt.Errorf("two connections of GDB's lead to sockets named %s", filepath.Base(addr))
		}
		pid, lines, found = int(cred.Pid), n, true
	}
	if pid == 0 {
		return 0, lines, errNoPeer
	}
	return pid, lines, nil
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
