package main

import (
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages is the documents that people write, below the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join("..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			texts[filepath.ToSlash(strings.TrimPrefix(name, ".."+string(filepath.Separator)))] = string(text)
		}
	}
	return texts
}

// code is what stands between single backticks.
func code(text string) []string {
	var list []string
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// TestPaths looks for the files and folders that the documents name.
func TestPaths(t *testing.T) {
	// A path in the repository, without a word in capitals that stands for others.
	inside := regexp.MustCompile(`^(\.ci|cmd|commands|docs|internal|pt|repl|scripts|target|testdata|vm)/[a-z0-9_./-]*$`)
	link := regexp.MustCompile(`\]\(([^):]+)\)`)
	for name, text := range pages(t) {
		var named []string
		for _, span := range code(text) {
			if inside.MatchString(span) {
				named = append(named, span)
			}
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if file, _, _ := strings.Cut(m[1], "#"); file != "" {
				named = append(named, path.Join(path.Dir(name), file))
			}
		}
		for _, n := range named {
			if _, err := os.Stat(filepath.Join("..", n)); err != nil {
				t.Errorf("%s names %s: %v", name, n, err)
			}
		}
	}
}

// TestNames looks for what docs/architecture.md names of the code: PACKAGE.NAME
// and PACKAGE.TYPE.NAME.
func TestNames(t *testing.T) {
	declared := map[string][]string{}
	for _, p := range ours(t) {
		declared[p.Name] = append(declared[p.Name], names(files(t, p))...)
	}
	form := regexp.MustCompile(`^([a-z]+)\.([A-Za-z.]+)$`)
	found := 0
	for _, span := range code(pages(t)[architecturePage]) {
		m := form.FindStringSubmatch(span)
		if m == nil || declared[m[1]] == nil {
			continue
		}
		if found++; !slices.Contains(declared[m[1]], m[2]) {
			t.Errorf("there is no %s", span)
		}
	}
	if found == 0 {
		t.Error("no names were found")
	}
}

// TestLocks looks in docs/architecture.md for a row of every lock and every turn
// that a type of the rooms has, and for rows of what is no such thing.
func TestLocks(t *testing.T) {
	page := pages(t)[architecturePage]
	rows := map[string]bool{}
	_, table, _ := strings.Cut(page, "\n## Who waits\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, m := range regexp.MustCompile("(?m)^\\| `[^`]+` \\| `[^`]+` \\| ").FindAllString(table, -1) {
		rows[m] = true
	}
	for at, p := range ours(t) {
		if r := roomOf(at); r == nil || r.aside {
			continue
		}
		for _, f := range files(t, p) {
			ast.Inspect(f, func(n ast.Node) bool {
				typ, ok := n.(*ast.TypeSpec)
				if !ok {
					return true
				}
				for _, field := range fields(typ.Type) {
					for _, name := range field.Names {
						if !isLock(field.Type) && !isTurn(name.Name, field.Type) {
							continue
						}
						row := "| `" + at + "` | `" + typ.Name.Name + "." + name.Name + "` | "
						if !rows[row] {
							t.Errorf("%s has no row for %s.%s of %s", architecturePage, typ.Name.Name, name.Name, at)
						}
						delete(rows, row)
					}
				}
				return true
			})
		}
	}
	for row := range rows {
		t.Errorf("%s has a row for what is no lock: %s", architecturePage, row)
	}
}

// isLock reports whether e is a mutex.
func isLock(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	in, ok := s.X.(*ast.Ident)
	return ok && in.Name == "sync" && (s.Sel.Name == "Mutex" || s.Sel.Name == "RWMutex")
}

// isTurn reports whether a field is a channel that is called a turn.
func isTurn(name string, e ast.Expr) bool {
	_, ok := e.(*ast.ChanType)
	return ok && strings.HasSuffix(strings.ToLower(name), "turn")
}

// TestShortestCommand holds the example of a new command against the command.
func TestShortestCommand(t *testing.T) {
	_, rest, begins := strings.Cut(pages(t)["CONTRIBUTING.md"], "```go\n")
	example, _, ends := strings.Cut(rest, "```")
	if !begins || !ends {
		t.Fatal("CONTRIBUTING.md shows no command")
	}
	text, err := os.ReadFile("../commands/vmmap_clear.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), example) {
		t.Errorf("CONTRIBUTING.md shows a command that commands/vmmap_clear.go is not:\n%s", example)
	}
}
