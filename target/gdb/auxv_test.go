package gdb

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"dbgsh/vm/image"
)

func TestParseInfoAuxv(t *testing.T) {
	const text = `33   AT_SYSINFO_EHDR      System-supplied DSO's ELF header 0x7ffff7fc1000
6    AT_PAGESZ            System page size               4096
23   AT_SECURE            Boolean, was exec setuid-like? 0
44   ???                                                 0xffffffffffffffff
31   AT_EXECFN            File name of executable        0x5502827fea "./a \"b 0x1"
15   AT_PLATFORM          String identifying platform    0x5502827a58 "aarch64"
0    AT_NULL              End of vector                  0x0
`
	want := image.Auxv{
		{Type: image.AuxSysinfoEhdr, Value: 0x7ffff7fc1000}, {Type: image.AuxPageSize, Value: 4096}, {Type: 23}, {Type: 44, Value: 1<<64 - 1},
		{Type: image.AuxExecFn, Value: 0x5502827fea}, {Type: 15, Value: 0x5502827a58},
	}
	if got := parseInfoAuxv(text); !slices.Equal(got, want) {
		t.Errorf("%#x", got)
	}
	for _, bad := range []string{"", "The program has no auxiliary information now.\n", "x y z\n", "1 2\n", "\n\n \n", `3 AT_PHDR "0x1`} {
		if got := parseInfoAuxv(bad); len(got) != 0 {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func FuzzInfoAuxv(f *testing.F) {
	f.Add("6    AT_PAGESZ            System page size               4096\n")
	f.Add("31   AT_EXECFN            File name of executable        0x5502827fea \"./a\"\n0    AT_NULL  End of vector 0x0")
	f.Fuzz(func(t *testing.T, text string) {
		aux := parseInfoAuxv(text)
		if len(aux) > strings.Count(text, "\n")+1 {
			t.Errorf("%d entries", len(aux))
		}
		var again strings.Builder
		for _, a := range aux {
			fmt.Fprintf(&again, "%d ??? %#x\n", a.Type, a.Value)
		}
		if got := parseInfoAuxv(again.String()); !slices.Equal(got, aux) {
			t.Errorf("%v, not %v", got, aux)
		}
	})
}
