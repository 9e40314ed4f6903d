package proc

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestParseNetTCP(t *testing.T) {
	text := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:A40F 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0000000000000000 100 0 0 10 0
   1: 0100007F:A40F 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0000000000000000 20 4 30 10 -1
   2: 0000000000000000FFFF00000100007F:D2F0 00000000000000000000000001000000:A40F 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 20 4 30 10 -1
`
	got := fmt.Sprint(ParseNetTCP(text, binary.LittleEndian))
	if want := "[{127.0.0.1:41999 127.0.0.1:54000 12} {127.0.0.1:54000 [::1]:41999 13}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// The kernel's own text.
	if text, err := os.ReadFile("/proc/net/tcp"); err == nil {
		want := strings.Count(string(text), " 01 0")
		if got := len(ParseNetTCP(string(text), binary.NativeEndian)); got > want {
			t.Errorf("%d sockets of %d", got, want)
		}
	}
}

func FuzzParseNetTCP(f *testing.F) {
	f.Add("   1: 0100007F:A40F 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000     0        0 12 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range ParseNetTCP(text, binary.LittleEndian) {
			if s.Inode == 0 || !s.Local.IsValid() || !s.Remote.IsValid() {
				t.Fatalf("%+v", s)
			}
		}
	})
}
