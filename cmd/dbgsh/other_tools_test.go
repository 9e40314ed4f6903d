package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFromOtherTools runs every line of ours in docs/from-other-tools.md on a
// program that is stopped: it works, and says something.
func TestFromOtherTools(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/from-other-tools.md")
	if err != nil {
		t.Fatal(err)
	}
	ours := regexp.MustCompile("`([^`]+)`")
	var lines []string
	for row := range strings.Lines(string(text)) {
		cells := strings.Split(strings.ReplaceAll(row, `\|`, "\x00"), "|")
		if len(cells) < 4 || strings.HasPrefix(strings.TrimSpace(cells[1]), "---") {
			continue
		}
		for _, m := range ours.FindAllStringSubmatch(cells[2], -1) {
			lines = append(lines, strings.ReplaceAll(m[1], "\x00", "|"))
		}
	}
	if len(lines) < 40 {
		t.Fatalf("only %d lines of ours in the table", len(lines))
	}
	script := "break checkpoint\nrun\n"
	for _, l := range lines {
		script += "echo ==\\n\n" + l + "\n"
	}
	file := filepath.Join(t.TempDir(), "ours.dbgsh")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := dbgsh(t, "-keep-going", "-x", file, program(t, "../../testdata/tour.c"))
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	said := strings.Split(stdout.String(), "==\n")[1:]
	if len(said) != len(lines) {
		t.Fatalf("%d lines, %d answers\n%s", len(lines), len(said), stdout.String())
	}
	for i, answer := range said {
		if strings.TrimSpace(answer) == "" {
			t.Errorf("%s says nothing", lines[i])
		}
	}
}
