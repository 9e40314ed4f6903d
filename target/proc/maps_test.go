package proc

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"dbgsh/vm"
)

// line writes a mapping as proc_pid_maps(5) does, without device and inode.
func line(m *vm.Mapping) string {
	return fmt.Sprintf("%08x-%08x %v %08x %d %s", m.Start, m.Start+m.Size, m.Perm, m.Offset, m.Inode, m.Name)
}

// wantLine is a line of maps in the form of line.
func wantLine(t *testing.T, raw string) string {
	t.Helper()
	f := strings.SplitN(raw, " ", 6)
	if len(f) < 5 {
		t.Fatalf("no line of maps: %q", raw)
	}
	name := ""
	if len(f) == 6 {
		name = strings.TrimLeft(f[5], " ")
	}
	return strings.Join([]string{f[0], f[1], f[2], f[4], name}, " ")
}

func TestParseMapsOfThisProcess(t *testing.T) {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	ms, err := ParseMaps(text)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(ms) != len(lines) {
		t.Fatalf("%d mappings of %d lines", len(ms), len(lines))
	}
	for i := range ms {
		if got, want := line(&ms[i]), wantLine(t, lines[i]); got != want {
			t.Errorf("line %d: got %q, want %q", i+1, got, want)
		}
	}
}

func TestParseMaps(t *testing.T) {
	const pad = "                          "
	text := "00400000-00401000 r--p 00000000 fe:00 17" + pad + "  /tmp/ a  b \n" +
		"7ffff7dd2000-7ffff7dd3000 -w-s 140000000 00:01 18446744073709551615 /x\xff\\012y (deleted)\n" +
		"7ffff7dd3000-7ffff7dd4000 ---p 00000000 00:00 0 \n" +
		"7ffff7dd4000-7ffff7dd5000 rwxp 00000000 00:00 0\n" +
		"7ffff7dd5000-7ffff7dd6000 rwxp 00000000 00:00 0" + pad + "[heapless]\n" +
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0" + pad + "[vsyscall]\n"
	ms, err := ParseMaps([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []vm.Mapping{
		{Range: vm.Range{Start: 0x400000, Size: 0x1000}, Perm: vm.KnownAll | vm.Read, Offset: 0, Inode: 17, Name: "/tmp/ a  b ", Source: vm.SourceProcfs},
		{Range: vm.Range{Start: 0x7ffff7dd2000, Size: 0x1000}, Perm: vm.KnownAll | vm.Write | vm.Shared, Offset: 0x140000000, Inode: 1<<64 - 1, Name: "/x\xff\\012y (deleted)", Source: vm.SourceProcfs},
		{Range: vm.Range{Start: 0x7ffff7dd3000, Size: 0x1000}, Perm: vm.KnownAll, Offset: 0, Inode: 0, Name: "", Source: vm.SourceProcfs},
		{Range: vm.Range{Start: 0x7ffff7dd4000, Size: 0x1000}, Perm: vm.KnownAll | vm.Read | vm.Write | vm.Exec, Offset: 0, Inode: 0, Name: "", Source: vm.SourceProcfs},
		{Range: vm.Range{Start: 0x7ffff7dd5000, Size: 0x1000}, Perm: vm.KnownAll | vm.Read | vm.Write | vm.Exec, Offset: 0, Inode: 0, Name: "[heapless]", Source: vm.SourceProcfs},
		{Range: vm.Range{Start: 0xffffffffff600000, Size: 0x1000}, Perm: vm.KnownAll | vm.Exec, Offset: 0, Inode: 0, Name: "[vsyscall]", Source: vm.SourceProcfs},
	}
	for i := range want {
		if i >= len(ms) || ms[i] != want[i] {
			t.Fatalf("mapping %d: got %+v, want %+v", i, ms[min(i, len(ms)-1)], want[i])
		}
	}
}

func TestParseMapsErrors(t *testing.T) {
	good := "00400000-00401000 r--p 00000000 fe:00 17 /x\n"
	for _, bad := range []string{
		"", "nonsense", "00400000-00401000 r--p 00000000 fe:00", "00401000-00400000 r--p 00000000 fe:00 17",
		"00400000-00400000 r--p 00000000 fe:00 17", "0040000g-00401000 r--p 00000000 fe:00 17",
		"00400000-00401000 rw 00000000 fe:00 17", "00400000-00401000 qw-p 00000000 fe:00 17",
		"00400000-00401000 r--p x fe:00 17", "00400000-00401000 r--p 00000000 fe:00 x",
		"10000000000000000-10000000000001000 r--p 00000000 fe:00 1",
	} {
		_, err := ParseMaps([]byte(good + bad + "\n" + good))
		var pe *vm.ParseError
		if !errors.As(err, &pe) || pe.Line != 2 || pe.Text != bad {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

// naiveParse is ParseMaps in the plainest way.
func naiveParse(text string) ([]vm.Mapping, error) {
	ms := []vm.Mapping{}
	for i, row := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if text == "" {
			break
		}
		bad := func(why string) ([]vm.Mapping, error) {
			return nil, &vm.ParseError{Line: i + 1, Text: row, Why: why}
		}
		f := strings.SplitN(row, " ", 6)
		if len(f) < 5 {
			return bad("fewer than five fields")
		}
		lo, hi, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(lo, 16, 64)
		end, err2 := strconv.ParseUint(hi, 16, 64)
		if err1 != nil || err2 != nil || end <= start {
			return bad("no range of addresses")
		}
		m := vm.Mapping{Range: vm.Range{Start: start, Size: end - start}, Source: vm.SourceProcfs}
		var err error
		if m.Perm, err = vm.ParsePerm([]byte(f[1])); err != nil {
			return bad(err.Error())
		}
		if m.Offset, err = strconv.ParseUint(f[2], 16, 64); err != nil {
			return bad("no offset")
		}
		if m.Inode, err = strconv.ParseUint(f[4], 10, 64); err != nil {
			return bad("no inode")
		}
		if len(f) == 6 {
			m.Name = strings.TrimLeft(f[5], " ")
		}
		ms = append(ms, m)
	}
	return ms, nil
}

// TestParseMapsAgainstNaive parses lines as the kernel writes them, unusual ones,
// and both with some bytes changed.
func TestParseMapsAgainstNaive(t *testing.T) {
	hex := rapid.OneOf(
		rapid.Map(rapid.Uint64(), func(v uint64) string { return fmt.Sprintf("%08x", v) }),
		rapid.StringMatching(`0{0,20}[0-9a-fA-F]{0,18}`),
		rapid.SampledFrom([]string{"", "ffffffffffffffff", "10000000000000000", "0x1", "1/", "1:", "1@", "1G", "1`", "1g"}),
	)
	names := rapid.SampledFrom([]string{"", " ", "                 /lib/a.so", "  /lib/a.so", "/lib/b.so", "/lib/b c  d", "[heap]", "/x\xff\\012 (deleted)"})
	row := rapid.Custom(func(t *rapid.T) string {
		lo, hi := hex.Draw(t, "start"), hex.Draw(t, "end")
		if rapid.Bool().Draw(t, "in order") {
			start := rapid.Uint64Max(1<<48).Draw(t, "start")
			lo, hi = fmt.Sprintf("%08x", start), fmt.Sprintf("%08x", start+rapid.Uint64Range(1, 1<<32).Draw(t, "size"))
		}
		fields := []string{
			lo + "-" + hi,
			rapid.StringMatching(`[r-][w-][x-][ps]`).Draw(t, "perm"),
			hex.Draw(t, "offset"),
			rapid.SampledFrom([]string{"00:00", "fe:01", "", "x"}).Draw(t, "device"),
			rapid.SampledFrom([]string{"0", "17", "4711", "18446744073709551615", "18446744073709551616", "a", ""}).Draw(t, "inode"),
			names.Draw(t, "name"),
		}
		return strings.Join(fields[:rapid.SampledFrom([]int{6, 6, 6, 6, 5, 4, 3}).Draw(t, "fields")], " ")
	})
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(strings.Join(rapid.SliceOfN(row, 0, 4).Draw(t, "rows"), "\n"))
		text = append(text, rapid.SampledFrom([]string{"", "\n", "\n\n"}).Draw(t, "end")...)
		for range rapid.IntRange(0, 2).Draw(t, "changes") {
			at := rapid.IntRange(0, len(text)).Draw(t, "at")
			end := min(at+rapid.IntRange(0, 1).Draw(t, "drop"), len(text))
			add := rapid.SliceOfN(rapid.SampledFrom([]byte(" -0f\ng\x10\x00\xff")), 0, 1).Draw(t, "add")
			text = slices.Replace(text, at, end, add...)
		}
		want, wantErr := naiveParse(string(text))
		got, err := ParseMaps(text)
		if !slices.Equal(got, want) || !reflect.DeepEqual(err, wantErr) {
			t.Fatalf("%q:\ngot  %+v, %v\nwant %+v, %v", text, got, err, want, wantErr)
		}
	})
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte("00400000-00401000 r--p 00000000 fe:00 17   /x\n"))
	f.Add([]byte("-  \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		ms, err := ParseMaps(text)
		if want, wantErr := naiveParse(string(text)); !slices.Equal(ms, want) || !reflect.DeepEqual(err, wantErr) {
			t.Fatalf("got %+v, %v, want %+v, %v", ms, err, want, wantErr)
		}
		for i := range ms {
			if ms[i].Size == 0 || !ms[i].Valid() || strings.ContainsRune(ms[i].Name, '\n') {
				t.Fatalf("mapping %+v", ms[i])
			}
		}
	})
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"/usr/lib/libc.so.6": "/usr/lib/libc.so.6",
		"/tmp/été":           "/tmp/été",
		"\x1b[31mred":        `\x1b[31mred`,
		"a\xff\xfeb":         `a\xff\xfeb`,
		"tab\t":              `tab\x09`,
		"\u202eright":        `\xe2\x80\xaeright`, // right-to-left override
		"\u0085":             `\xc2\x85`,          // a C1 control character
		"\ufffd":             "\ufffd",
		"sp ace":             "sp ace",
		"nb\u00a0sp":         `nb\xc2\xa0sp`,
	} {
		if got := vm.Escape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("a\x1b\xff")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range vm.Escape(s) {
			if r < ' ' || r >= 0x7f && r < 0xa0 {
				t.Fatalf("%q lets %U through", s, r)
			}
		}
	})
}
