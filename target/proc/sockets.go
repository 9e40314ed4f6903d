package proc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoPeer says that nobody on this machine is seen at the other end of a
// connection.
var ErrNoPeer = errors.New("the process at the other end of the connection is not seen: it runs on another machine, in another PID namespace, or as another user; run dbgsh where it is, as its user or as root")

// Peer is the other end of a connection, as far as it is seen from here.
type Peer struct {
	PID  int  // of the process there, 0 where it is not seen
	Unix bool // over a unix socket
}

// PeerOf is who is at the other end of the connection of process pid to an
// address, host:port or the path of a unix socket. The sockets of processes whose
// names begin with prefix are looked at first: there may be thousands. For a
// unix socket, own is called with a copy of pid's descriptor of it. With an error
// the process is not known, but the peer says what is.
func PeerOf(pid int, address, prefix string, own func(sock int)) (Peer, error) {
	inodes := map[uint64]int{} // the process's sockets, with their descriptors
	dir := Path(pid, "fd")
	fds, err := os.ReadDir(dir)
	if err != nil {
		return Peer{Unix: true}, err
	}
	for _, fd := range fds {
		if inode, ok := socketInode(filepath.Join(dir, fd.Name())); ok {
			inodes[inode], _ = strconv.Atoi(fd.Name())
		}
	}
	// A table may take milliseconds, and the second one is rarely needed: for
	// IPv6, and where a socket for it serves IPv4.
	var socks []TCPSocket
	found := false
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		text, err := os.ReadFile(Path(pid, name))
		if err != nil {
			continue
		}
		socks = append(socks, ParseNetTCP(string(text), binary.NativeEndian)...)
		var peer uint64
		if peer, found, err = tcpPeer(socks, inodes, address); err != nil {
			return Peer{}, err
		}
		if owner := socketOwner(peer, prefix); owner != 0 {
			return Peer{PID: owner}, nil
		}
	}
	if found {
		return Peer{}, ErrNoPeer
	}
	return unixPeer(pid, inodes, address, own)
}

// tcpPeer is the inode of the other end of the connection to addr, 0 where it
// is not among socks; found says that the process's own is, which is one of own.
func tcpPeer(socks []TCPSocket, own map[uint64]int, addr string) (peer uint64, found bool, err error) {
	var ours TCPSocket
	for _, s := range socks {
		if _, ok := own[s.Inode]; !ok || !strings.HasSuffix(addr, fmt.Sprintf(":%d", s.Remote.Port())) {
			continue
		}
		if found {
			return 0, true, fmt.Errorf("two connections lead to port %d", s.Remote.Port())
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
// Those whose names begin with prefix are looked at first.
func socketOwner(inode uint64, prefix string) int {
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
		if strings.HasPrefix(Name(pid), prefix) {
			likely = append(likely, pid)
		} else {
			others = append(others, pid)
		}
	}
	want := fmt.Sprintf("socket:[%d]", inode)
	for _, pid := range append(likely, others...) {
		dir, err := os.Open(Path(pid, "fd"))
		if err != nil {
			continue
		}
		fds, _ := dir.Readdirnames(-1) // an error leaves those that were read
		dir.Close()
		for _, fd := range fds {
			if text, err := os.Readlink(Path(pid, "fd/"+fd)); err == nil && text == want {
				return pid
			}
		}
	}
	return 0
}

// unixPeer is the process that listened at the unix socket that another one is
// connected to (SO_PEERCRED, unix(7)). /proc/net/unix does not tell which two ends
// are one connection, so the process's own descriptor is asked.
func unixPeer(pid int, inodes map[uint64]int, address string, own func(sock int)) (Peer, error) {
	peer := Peer{Unix: true}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return peer, fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	found := false
	for _, fd := range inodes {
		sock, err := unix.PidfdGetfd(pidfd, fd, 0)
		if err != nil {
			return peer, fmt.Errorf("look at the sockets of process %d: %w", pid, err)
		}
		name, nameErr := unix.Getpeername(sock)
		at, isUnix := name.(*unix.SockaddrUnix)
		// The path is as the listener gave it, so only its end is compared.
		if nameErr != nil || !isUnix || at.Name == "" || filepath.Base(at.Name) != filepath.Base(address) {
			unix.Close(sock)
			continue
		}
		own(sock)
		cred, credErr := unix.GetsockoptUcred(sock, unix.SOL_SOCKET, unix.SO_PEERCRED)
		unix.Close(sock)
		switch {
		case credErr != nil:
			return peer, fmt.Errorf("SO_PEERCRED: %w", credErr)
		case found && int(cred.Pid) != peer.PID:
			return Peer{Unix: true}, fmt.Errorf("two connections lead to sockets named %s", filepath.Base(address))
		}
		peer.PID, found = int(cred.Pid), true
	}
	if peer.PID == 0 {
		return peer, ErrNoPeer
	}
	return peer, nil
}
