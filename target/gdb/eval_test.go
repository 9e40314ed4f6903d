package gdb

import "testing"

func FuzzClassify(f *testing.F) {
	for _, s := range []string{"type = int\n", "type = struct {\n    int a;\n} *\n", "type = char [16]\n", "type = <data variable, no debug info>\n"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) { classify(s) })
}

func FuzzParseValue(f *testing.F) {
	for _, s := range []string{"-5", "65 'A'", "(char *) 0x0", "{int (void)} 0x1139 <main>", "@0x7ffc: 3", "(", "{{"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) { parseValue(s) })
}
