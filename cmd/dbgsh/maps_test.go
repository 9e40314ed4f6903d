package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"dbgsh/internal/testkit"
)

// live starts a program that lives until the test ends, and waits for the
// first line that it writes.
func live(t *testing.T, name string, args ...string) (pid int) {
	t.Helper()
	return testkit.Start(t, exec.Command(name, args...), testkit.FirstLine).Process.Pid
}

// A python3 and a node that wait, and every odd mapping there is: the text and
// the JSON of vmmap are /proc/PID/maps, line by line.
func TestMapsAreTheKernels(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		argv func(t *testing.T) []string
	}{
		{"python3", func(t *testing.T) []string {
			testkit.Need(t, "python3")
			return []string{"python3", "-c", "import sys, json, ssl; print(1, flush=True); sys.stdin.read()"}
		}},
		{"node", func(t *testing.T) []string {
			testkit.Need(t, "node")
			return []string{"node", "-e", "console.log(1); process.stdin.resume()"}
		}},
		{"oddmaps", func(t *testing.T) []string {
			return []string{program(t, "testdata/oddmaps.c"), t.TempDir()}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testkit.Need(t, "gdb")
			argv := c.argv(t)
			checkMaps(t, live(t, argv[0], argv[1:]...))
		})
	}
}

// checkMaps attaches dbgsh, and compares while the process stands still: the
// copy of its map is made by a command of the same script.
func checkMaps(t *testing.T, pid int) {
	truth := filepath.Join(t.TempDir(), "maps")
	cmd := dbgsh(t, "-p", strconv.Itoa(pid),
		"-ex", fmt.Sprintf("!cat /proc/%d/maps >%s", pid, truth), // of the first thread, which lives
		"-ex", "echo TEXT\\n", "-ex", "vmmap", "-ex", "echo JSON\\n", "-ex", "vmmap --json", "-ex", "echo END\\n")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	_, rest, _ := strings.Cut(string(out), "TEXT\n")
	text, rest, _ := strings.Cut(rest, "JSON\n")
	json, _, found := strings.Cut(rest, "END\n")
	if !found {
		t.Fatalf("output ends early:\n%s", out)
	}
	maps, err := os.ReadFile(truth)
	if err != nil {
		t.Fatal(err)
	}
	var rows []mapsRow
	for line := range strings.Lines(string(maps)) {
		rows = append(rows, readRow(t, strings.TrimSuffix(line, "\n")))
	}
	want := fmt.Sprintf("%18s %18s Perm %8s %*s File\n", "Start", "End", "Size", offsetWidth(rows), "Offset")
	for _, r := range rows {
		want += fmt.Sprintf("%#18x %#18x %s %8x %*x %s\n", r.start, r.end, r.perm, r.end-r.start, offsetWidth(rows), r.offset, r.title())
	}
	equalLines(t, text, want)

	docs, err := documents(json)
	if err != nil || len(docs) != 1 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	for i, r := range rows {
		for key, want := range map[string]string{
			"start": fmt.Sprintf("%#x", r.start), "end": fmt.Sprintf("%#x", r.end), "size": fmt.Sprint(r.end - r.start),
			"perm": r.perm, "offset": fmt.Sprint(r.offset), "name": r.title(), "source": "procfs", "match": "true",
		} {
			if got, ok := lookUp(docs, []string{"0", "mappings", strconv.Itoa(i), key}); !ok || textOf(got) != want {
				t.Errorf("row %d: %s is %s, want %s", i, key, textOf(got), want)
			}
		}
		wantHex, escaped := hex.EncodeToString([]byte(r.name)), r.name != "" && r.title() != r.name
		if got, ok := lookUp(docs, []string{"0", "mappings", strconv.Itoa(i), "name_bytes"}); ok != escaped || ok && got != wantHex {
			t.Errorf("row %d, %q: name_bytes is %v, want %s", i, r.name, got, wantHex)
		}
	}
	if n, _ := lookUp(docs, []string{"0", "mappings", "len"}); n != len(rows) {
		t.Errorf("JSON has %v mappings, want %d", n, len(rows))
	}
	if n, _ := lookUp(docs, []string{"0", "notes", "len"}); n != 0 {
		t.Errorf("JSON has notes")
	}
}

// mapsRow is a line of proc_pid_maps(5).
type mapsRow struct {
	start, end, offset uint64
	perm, name         string
}

func readRow(t *testing.T, line string) (r mapsRow) {
	t.Helper()
	var dev string
	var inode uint64
	if n, err := fmt.Sscanf(line, "%x-%x %4s %x %s %d", &r.start, &r.end, &r.perm, &r.offset, &dev, &inode); n != 6 {
		t.Fatalf("%q: %v", line, err)
	}
	fields := line
	for range 5 { // what is left of the sixth field's beginning
		_, fields, _ = strings.Cut(fields, " ")
	}
	r.name = strings.TrimLeft(fields, " ")
	return r
}

// title is how vmmap shows the name: what is not printable UTF-8 as \xNN for
// each byte, and no name by the address.
func (r mapsRow) title() string {
	if r.name == "" {
		return fmt.Sprintf("[anon_%#x]", r.start>>12)
	}
	var b strings.Builder
	for i, c := range r.name {
		_, n := utf8.DecodeRuneInString(r.name[i:])
		if raw := r.name[i : i+n]; c == utf8.RuneError && n == 1 || !unicode.IsPrint(c) {
			fmt.Fprintf(&b, strings.Repeat(`\x%02x`, n), bytesOf(raw)...)
		} else {
			b.WriteString(raw)
		}
	}
	return b.String()
}

func bytesOf(s string) (values []any) {
	for _, c := range []byte(s) {
		values = append(values, c)
	}
	return values
}

func offsetWidth(rows []mapsRow) int {
	width := 6
	for _, r := range rows {
		width = max(width, len(fmt.Sprintf("%x", r.offset)))
	}
	return width
}

// equalLines reports the first line in which two texts differ.
func equalLines(t *testing.T, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Errorf("line %d of %d:\ngot  %q\nwant %q", i+1, len(w), a, b)
			return
		}
	}
}
