package gdb

import (
	"errors"
	"fmt"
	"testing"

	"dbgsh/vm"
)

func TestParseInfoProc(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"process 42\nwarning: unable to open /proc file '/proc/42/maps'\n", ""},
		{"process 42\nMapped address spaces:\n\n" +
			"          Start Addr           End Addr       Size     Offset  Perms  objfile\n" +
			"      0x555555554000     0x555555555000     0x1000        0x0  r--p   /tmp/a  b\n" +
			"      0x7ffff7dd2000     0x7ffff7dd3000     0x1000        0x0  rw-p   \n",
			"0x555555554000-0x555555555000 r--p 0 /tmp/a  b\n0x7ffff7dd2000-0x7ffff7dd3000 rw-p 0 \n"},
		{"  Start Addr   End Addr       Size     Offset objfile\n  0x8000 0xa000 0x2000 0x1000 /bin/x\n",
			"0x8000-0xa000 ???? 1000 /bin/x\n"},
	} {
		ms, err := ParseInfoProc(c.text)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, m := range ms {
			got += fmt.Sprintf("%v %v %x %s\n", m.Range, m.Perm, m.Offset, m.Name)
		}
		if got != c.want {
			t.Errorf("got\n%swant\n%s", got, c.want)
		}
	}
	for _, bad := range []string{"0x1000 0x2000", "0x2000 0x1000 0x1000 0x0", "0x1000 0x2000 0x1001 0x0", "0x1000 x 0x1000 0x0"} {
		_, err := ParseInfoProc("\n" + bad + "\n")
		var pe *vm.ParseError
		if !errors.As(err, &pe) || pe.Line != 2 {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func FuzzParseInfoProc(f *testing.F) {
	f.Add("Start Addr End Addr Size Offset Perms objfile\n 0x1000 0x2000 0x1000 0x0 r--p /x\n")
	f.Fuzz(func(t *testing.T, text string) {
		ms, err := ParseInfoProc(text)
		if err != nil {
			return
		}
		for _, m := range ms {
			if m.Size == 0 || !m.Valid() {
				t.Fatalf("%+v", m)
			}
		}
	})
}
