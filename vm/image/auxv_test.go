package image

import (
	"encoding/binary"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseAuxv(t *testing.T) {
	want := Auxv{{AuxPageSize, 65536}, {AuxRandom, 0x7fff1234}, {AuxPageSize, 1}}
	for _, f := range kinds() {
		whole := f.words(6, 65536, 25, 0x7fff1234, 6, 1, 0, 0, 3, 3)
		w := len(whole) / 10
		v, err := ParseAuxv(whole, w, f.order)
		if diff := cmp.Diff(want, v); err != nil || diff != "" {
			t.Errorf("%v %v: %v %s", f.class, f.order, err, diff)
		}
		if p := v.PageSize(); p != 65536 {
			t.Errorf("page size %d", p)
		}
		if _, ok := v.Get(AuxBase); ok {
			t.Error("AT_BASE found")
		}
		for n := range 6 * w {
			v, err := ParseAuxv(whole[:n], w, f.order)
			if err == nil || len(v) != n/(2*w) {
				t.Errorf("%d bytes: %v, %v", n, v, err)
			}
		}
	}
	if _, err := ParseAuxv(nil, 2, binary.LittleEndian); err == nil {
		t.Error("words of 2 bytes are taken")
	}
	for _, p := range []uint64{0, 3, 128, 1 << 31} {
		if got := (Auxv{{AuxPageSize, p}}).PageSize(); got != 4096 {
			t.Errorf("page size %d for %d", got, p)
		}
	}
}

func TestParseAuxvSelf(t *testing.T) {
	b, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		t.Skip(err)
	}
	v, err := ParseAuxv(b, 8, binary.NativeEndian)
	if err != nil || v.PageSize() != uint64(os.Getpagesize()) {
		t.Errorf("%v, page size %d, want %d", err, v.PageSize(), os.Getpagesize())
	}
}

func FuzzAuxv(f *testing.F) {
	for _, k := range kinds() {
		f.Add(k.words(6, 4096, 0, 0), k.class == kinds()[0].class)
	}
	f.Fuzz(func(t *testing.T, b []byte, wide bool) {
		w := 4
		if wide {
			w = 8
		}
		v, _ := ParseAuxv(b, w, binary.BigEndian)
		if len(v)*2*w > len(b) {
			t.Fatalf("%d entries of %d bytes", len(v), len(b))
		}
		v.PageSize()
	})
}
