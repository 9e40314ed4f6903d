package main

import (
	"bytes"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ours is the packages of the module.
func ours(t *testing.T) map[string]*build.Package {
	t.Helper()
	pkgs, err := packages("..")
	if err != nil {
		t.Fatal(err)
	}
	return pkgs
}

// TestRooms holds the imports of every package against the table of rooms.
func TestRooms(t *testing.T) {
	pkgs := ours(t)
	for _, r := range rooms() {
		for _, path := range r.may {
			other := roomOf(path)
			if path != below && (other == nil || !other.aside && !r.aside && other.floor >= r.floor) {
				t.Errorf("the table lets %s import %s, which is not below it", r.path, path)
			}
		}
		if pkgs[r.path] == nil {
			t.Errorf("%s is in the table of rooms, and no package is there", r.path)
		}
	}
	for path, p := range pkgs {
		r := roomOf(path)
		if r == nil {
			t.Errorf("%s is not in the table of rooms", path)
			continue
		}
		for _, to := range within(p.Imports) {
			switch other := roomOf(to); {
			case other == nil: // said above
			case !r.allows(other):
				t.Errorf("%s imports %s", path, to)
			case other.aside && !r.aside:
				t.Errorf("%s imports %s, which is for tests", path, to)
			}
		}
		for _, to := range within(slices.Concat(p.TestImports, p.XTestImports)) {
			other := roomOf(to)
			if other == nil || to == path || r.allows(other) {
				continue
			}
			// A test may show that two rooms of one floor work together: a search
			// of a core. What is for tests may be used from the floor on of what
			// it imports.
			if other.floor > r.floor {
				t.Errorf("a test of %s imports %s, which is above it", path, to)
			}
		}
	}
}

// TestPackagesOfOthers holds who imports what of other modules.
func TestPackagesOfOthers(t *testing.T) {
	const mi = "github.com/cyrus-and/gdb"
	used := map[string]bool{}
	for path, p := range ours(t) {
		for _, to := range p.Imports {
			used[to] = true
		}
		if all := slices.Concat(p.Imports, p.TestImports, p.XTestImports); slices.Contains(all, mi) && path != "target/mi" {
			t.Errorf("%s imports %s, which only target/mi knows how to survive", path, mi)
		}
	}
	for _, fixed := range []string{"github.com/go-delve/liner", mi, "github.com/google/shlex", "github.com/fatih/color"} {
		if !used[fixed] {
			t.Errorf("nothing but tests imports %s", fixed)
		}
	}
}

// TestArchitecture holds docs/architecture.svg against the imports, and the table
// in docs/architecture.md against that of rooms.
func TestArchitecture(t *testing.T) {
	picture, page, err := architecture("..")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{architectureSVG: picture, architecturePage: page} {
		if got, err := os.ReadFile(filepath.Join("..", name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the packages are; \"make docs\" makes it so (%v)", name, err)
		}
	}
}

// files is the files of a package that are no tests, parsed.
func files(t *testing.T, p *build.Package) []*ast.File {
	t.Helper()
	var list []*ast.File
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, f)
	}
	return list
}

// stateless is the package variables that cannot be seen to be constant, and why
// they may stand.
func stateless() map[string]string {
	return map[string]string{
		"cmd/dbgsh.built":        "set by the linker when a release is built, and by nobody else",
		"target/mi.asyncClasses": "an array of strings that nothing assigns to",
		"vm/search.sumSeed":      "made at random once, and never changed: sums of different searches are compared",
	}
}

// TestNoState refuses variables of packages: all state hangs on values.
func TestNoState(t *testing.T) {
	reasons := stateless()
	for path, p := range ours(t) {
		for _, f := range files(t, p) {
			for _, d := range f.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.VAR {
					continue
				}
				for _, s := range g.Specs {
					v := s.(*ast.ValueSpec)
					if embedded(g.Doc) || embedded(v.Doc) {
						continue
					}
					for i, name := range v.Names {
						key := path + "." + name.Name
						if name.Name == "_" || i < len(v.Values) && fixed(v.Values[i]) {
							continue
						}
						if reasons[key] == "" {
							t.Errorf("%s is a variable of the package", key)
						}
						delete(reasons, key)
					}
				}
			}
		}
	}
	for key := range reasons {
		t.Errorf("%s has a reason to stand, and does not", key)
	}
}

// fixed reports whether e makes what nobody can change: an error or a regular expression.
func fixed(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	in, ok := f.X.(*ast.Ident)
	return ok && slices.Contains([]string{"errors.New", "fmt.Errorf", "regexp.MustCompile"}, in.Name+"."+f.Sel.Name)
}

// embedded reports whether a comment embeds files.
func embedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// names is what the files declare: NAME, and TYPE.NAME for methods and fields.
func names(files []*ast.File) []string {
	var list []string
	for _, f := range files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				name := d.Name.Name
				if d.Recv != nil {
					name = receiver(d.Recv.List[0].Type) + "." + name
				}
				list = append(list, name)
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.ValueSpec:
						for _, n := range s.Names {
							list = append(list, n.Name)
						}
					case *ast.TypeSpec:
						list = append(list, s.Name.Name)
						for _, f := range fields(s.Type) {
							for _, n := range f.Names {
								list = append(list, s.Name.Name+"."+n.Name)
							}
						}
					}
				}
			}
		}
	}
	return list
}

// receiver is the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}

// fields is the fields of a struct or the methods of an interface.
func fields(e ast.Expr) []*ast.Field {
	switch e := e.(type) {
	case *ast.StructType:
		return e.Fields.List
	case *ast.InterfaceType:
		return e.Methods.List
	}
	return nil
}

// TestNamesDiffer refuses exported names that differ in the case of letters only.
func TestNamesDiffer(t *testing.T) {
	for path, p := range ours(t) {
		seen := map[string]string{}
		for _, name := range names(files(t, p)) {
			if last := name[strings.LastIndexByte(name, '.')+1:]; !ast.IsExported(last) {
				continue
			}
			lower := strings.ToLower(name)
			if old := seen[lower]; old != "" && old != name {
				t.Errorf("%s has %s and %s", path, old, name)
			}
			seen[lower] = name
		}
	}
}
