package gdb

import (
	"slices"
	"testing"
)

func TestParseBFDs(t *testing.T) {
	const list = "Refcount Address            Filename                               \n" +
		"2          0x555d11c85dd0     /lib64/ld-linux-x86-64.so.2            \n" +
		"1          0x55               /a core of 'x'                         \n" +
		"13         0x555d121aae00     system-supplied DSO at 0x7ff63b6c8000  \n" +
		"\n1 2\n1 0x5\n1 0x5 \nx 0x5 y\n"
	want := []string{"/lib64/ld-linux-x86-64.so.2", "/a core of 'x'", "system-supplied DSO at 0x7ff63b6c8000"}
	if got := parseBFDs(list); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
