package gdb

import (
	"errors"
	"fmt"
	"testing"

	"dbgsh/vm"
)

func TestParseInfoMem(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"Using memory regions provided by the target.\nThere are no memory regions defined.\n", ""},
		{"Using memory regions provided by the target.\n" +
			"Num Enb Low Addr   High Addr  Attrs \n" +
			"1   y  \t0x20000000 0x20020000 rw nocache \n" +
			"0   y  \t0x08000000 0x08100000 flash blocksize 0x800 nocache \n" +
			"2   n  \t0x40000000 0x40001000 rw nocache \n" +
			"3   y  \t0xe0000000 0x0 ro nocache \n",
			"0x8000000-0x8100000 r??? [flash] 0x20000000-0x20020000 rw?? [region 1] 0xe0000000-0x10000000000000000 r-?? [region 3] "},
	} {
		ms, err := ParseInfoMem(c.text)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, m := range ms {
			got += fmt.Sprintf("%v %v %s ", m.Range, m.Perm, m.Name)
		}
		if got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	for _, bad := range []string{"0 y 0x2000 0x1000 rw", "0 y x 0x1000 rw", "0 y 0x0 0x0 rw"} {
		_, err := ParseInfoMem("Num Enb Low Addr High Addr Attrs\n" + bad + "\n")
		var pe *vm.ParseError
		if !errors.As(err, &pe) || pe.Line != 2 || pe.Text != bad {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func FuzzParseInfoMem(f *testing.F) {
	f.Add("0   y  \t0x08000000 0x08100000 flash blocksize 0x800 nocache \n")
	f.Fuzz(func(t *testing.T, text string) {
		ms, err := ParseInfoMem(text)
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
