package commands

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/internal/testkit/testgdb"
	"dbgsh/target"
	"dbgsh/target/gdb"
)

func TestMain(m *testing.M) { testgdb.Main(m) }

// sweep is a debuggee on which GDB's settings are tried.
type sweep struct {
	t     testing.TB
	d     *target.Target
	gdb   *testgdb.GDB
	s     *Session
	lines []string // of dbgsh's, whose answers no setting may change
	want  []string

	symbols []string // what GDB completes an expression to

	settings, values int
}

func newSweep(t testing.TB, cfg gdb.Config) *sweep {
	w := &sweep{t: t}
	w.gdb = testgdb.Run(t, 10*time.Minute, cfg, func(cfg gdb.Config) (*gdb.GDB, func(context.Context) error, error) {
		d, err := target.New(target.Config{Config: cfg})
		if err != nil {
			return nil, nil, err
		}
		w.d = d
		return d.GDB, d.Close, nil
	})
	registry, err := NewRegistry(All()...)
	if err != nil {
		t.Fatal(err)
	}
	w.s = NewSession(w.d, registry, NewSettings())
	return w
}

// answers are what the lines show, or their errors.
func (w *sweep) answers() []string {
	var all []string
	for _, line := range w.lines {
		text, err := run(w.t, w.s, line)
		if err != nil {
			text += "error: " + err.Error()
		}
		all = append(all, text)
	}
	return all
}

// set gives GDB a line; ok is whether it takes it.
func (w *sweep) set(line string) (ok bool) {
	err := w.d.Console(w.gdb.Ctx, line, w.gdb.Out)
	if gone := new(target.LostError); errors.As(err, &gone) {
		w.t.Fatalf("%s: %v\n%s", line, err, w.gdb.Out)
	}
	return err == nil
}

// show is what GDB/MI tells of a setting: its value, or that it is a prefix of
// others. ok is false for what is none.
func (w *sweep) show(name string) (value string, prefix, ok bool) {
	res, err := w.d.Send(w.gdb.Ctx, "gdb-show", strings.Fields(name)...)
	if err != nil {
		return "", false, false
	}
	value, ok = res["value"].(string)
	_, prefix = res["showlist"]
	return value, prefix, ok
}

// complete is the words that GDB completes a line to.
func (w *sweep) complete(line string) (words []string) {
	all, err := w.d.Complete(w.gdb.Ctx, line)
	if err != nil {
		w.t.Fatal(line, err, w.gdb.Out.String())
	}
	for _, l := range all {
		if word, ok := strings.CutPrefix(l, line); ok && word != "" && !strings.Contains(word, " ") {
			words = append(words, word)
		}
	}
	return words
}

// names are all settings below a prefix, which ends with a blank.
func (w *sweep) names(prefix string) (names []string) {
	for _, word := range w.complete("set " + prefix) {
		_, isPrefix, ok := w.show(prefix + word)
		if ok {
			names = append(names, prefix+word)
		}
		if isPrefix {
			names = append(names, w.names(prefix+word+" ")...)
		}
	}
	return names
}

// manyValues bounds how many of a setting's values are tried: there are more than
// a thousand names of character sets.
const manyValues = 10

// valuesOf is what to set a setting to.
func (w *sweep) valuesOf(name string) []string {
	values := w.complete("set " + name + " ")
	if len(values) == 0 || slices.Equal(values, w.symbols) { // an expression completes to symbols
		return []string{"auto", "0", "1", "16", "unlimited", "x"}
	}
	if len(values) <= manyValues {
		return values
	}
	var some []string
	for i := range manyValues {
		some = append(some, values[i*len(values)/manyValues])
	}
	return some
}

// try sets a setting to what it may be, and back.
func (w *sweep) try(name string) {
	before, _, _ := w.show(name)
	w.settings++
	for _, v := range w.valuesOf(name) {
		if !w.set("set " + name + " " + v) {
			continue
		}
		if now, _, _ := w.show(name); now == before {
			continue
		}
		w.values++
		for i, got := range w.answers() {
			if got != w.want[i] {
				w.t.Errorf("set %s %s, %s:\n%s\nwant\n%s", name, v, w.lines[i], got, w.want[i])
			}
		}
		again := before
		if name == "input-radix" {
			again = "0xa" // in any radix
		}
		w.set("set " + name + " " + again)
		if now, _, _ := w.show(name); now != before && before == "" {
			w.set("unset " + name)
		}
		if now, _, _ := w.show(name); now != before {
			w.t.Errorf("set %s is %q, and was %q", name, now, before)
		}
	}
}

// mayChange is the settings that are not tried, with why.
func mayChange() map[string]string {
	return map[string]string{
		"architecture":               "says what registers and pointers are",
		"endian":                     "says what registers and pointers are",
		"breakpoint always-inserted": "puts breakpoints into the code that is searched, of which search tells",
		"osabi":                      "GDB 13 ends itself over some values (gdb/osabi.c: Updating OS ABI failed)",
		"remote threads-packet":      "GDB refuses all that has to do with threads of a stub that does not know the packet",
		"remotelogfile":              "cannot be set back",
		"tdesc filename":             "cannot be set back",
	}
}

// all tries every setting that GDB lists, or those of some that are wanted.
func (w *sweep) all(only ...string) {
	w.t.Helper()
	w.gdb.Lines("set max-completions unlimited", "set confirm off", "cd "+w.t.TempDir()) // where it may write files
	w.want, w.symbols = w.answers(), w.complete("set annotate ")
	names := only
	if len(names) == 0 {
		names = w.names("")
	}
	for _, name := range names {
		if _, no := mayChange()[name]; !no {
			w.try(name)
		}
	}
	w.t.Logf("%d settings, %d values", w.settings, w.values)
	if w.settings < 200 && w.settings != len(only) || w.values < w.settings/2 {
		w.t.Error("GDB has more settings")
	}
	if !slices.Equal(w.answers(), w.want) {
		w.t.Errorf("in the end: %q, want %q", w.answers(), w.want)
	}
}

// TestSettingsOfGDB is that no setting of GDB's changes what is shown of a process.
func TestSettingsOfGDB(t *testing.T) {
	t.Parallel()
	w := newSweep(t, gdb.Config{Program: testkit.BuildC(t, "tour", "-static")}) // the less there is to search
	w.gdb.Lines("break checkpoint", "run", "set var secret = (char *)$sp")
	w.lines = []string{"vmmap $pc", "search -p $sp", "pagewalk $pc"}
	w.all()
	for i, part := range []string{"r-xp", "1 hit; searched", "the debuggee is a process"} {
		if !strings.Contains(w.want[i], part) {
			t.Errorf("%s: %q", w.lines[i], w.want[i])
		}
	}
}

// TestSettingsOfGDBBehindGDBServer is how memory is read through GDB.
func TestSettingsOfGDBBehindGDBServer(t *testing.T) {
	prog := testkit.BuildC(t, "tour")
	addr, _ := testkit.GDBServer(t, prog)
	w := newSweep(t, gdb.Config{Program: prog})
	w.gdb.Lines("target remote "+addr, "break checkpoint", "continue")
	w.lines = []string{"vmmap $pc", "search flag{ [heap]", "search --regex flag.maps [heap]"}
	w.all("language", "input-radix", "output-radix", "trace-commands", "annotate", "debug remote", "debug serial")
	for i, part := range []string{"r-xp", "1 hit; searched", "1 hit; searched"} {
		if !strings.Contains(w.want[i], part) {
			t.Errorf("%s: %q", w.lines[i], w.want[i])
		}
	}
}

// TestSettingsOfGDBWithMachine is the same of a machine, whose page tables map 2 MiB.
func TestSettingsOfGDBWithMachine(t *testing.T) {
	t.Parallel()
	tables := make([]byte, 3*4096) // PML4, PDPT and PD (Intel SDM, 4.5 "4-level paging")
	binary.LittleEndian.PutUint64(tables, 0x101003)
	binary.LittleEndian.PutUint64(tables[4096:], 0x102003)
	binary.LittleEndian.PutUint64(tables[2*4096:], 0x83)
	file := filepath.Join(t.TempDir(), "tables")
	if err := os.WriteFile(file, tables, 0o600); err != nil {
		t.Fatal(err)
	}
	addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-m", "16", "-S", "-device", "loader,file="+file+",addr=0x100000,force-raw=on")
	w := newSweep(t, gdb.Config{GDB: "gdb-multiarch"})
	w.gdb.Lines("target remote "+addr, "set $cr3=0x100000ULL", "set $cr4=0x20ULL", "set $efer=0xd00ULL", "set $cr0=0x80050033ULL")
	w.lines = []string{"pagewalk $pc", "search --phys -8 0x102003 0x100000-0x104000"} // the others ask nothing else
	w.all()
	for i, part := range []string{"physical 0xfff0", "1 hit; searched 16.0 KiB"} {
		if !strings.Contains(w.want[i], part) {
			t.Errorf("%s: %q", w.lines[i], w.want[i])
		}
	}
}
