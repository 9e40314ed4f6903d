package proc

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// TCPSocket is a connected socket, a row of /proc/net/tcp or tcp6, proc_net(5).
type TCPSocket struct {
	Local, Remote netip.AddrPort // IPv4 in IPv6 is shown as IPv4
	Inode         uint64
}

// tcpEstablished is the state of a connected socket (include/net/tcp_states.h).
const tcpEstablished = "01"

// ParseNetTCP reads the rows of connected sockets. order is the byte order of
// the machine that wrote the text. Other rows are left out.
func ParseNetTCP(text string, order binary.ByteOrder) []TCPSocket {
	var socks []TCPSocket
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != tcpEstablished {
			continue
		}
		local, ok1 := parseTCPAddr(f[1], order)
		remote, ok2 := parseTCPAddr(f[2], order)
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if ok1 && ok2 && err == nil && inode != 0 {
			socks = append(socks, TCPSocket{local, remote, inode})
		}
	}
	return socks
}

// parseTCPAddr reads ADDRESS:PORT, both hex, the address in words of 32 bits of
// the machine's byte order.
func parseTCPAddr(s string, order binary.ByteOrder) (a netip.AddrPort, ok bool) {
	host, port, _ := strings.Cut(s, ":")
	b, err1 := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if err1 != nil || err2 != nil || len(b)%4 != 0 {
		return a, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], order.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(ip.Unmap(), uint16(p)), ok
}
