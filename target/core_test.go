package target

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// TestMapOfCore compares the map of a core that GDB writes with that of the
// process it is written of. What the formats of cores can hold is tested with
// their parser.
func TestMapOfCore(t *testing.T) {
	prog := testkit.BuildC(t, "tour")
	d := start(t, prog)
	d.gdbLines("break checkpoint", "run")
	live, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "core of 'tour'")
	d.gdbLines("generate-core-file " + file)
	for _, program := range []string{"", prog} {
		c := start(t, program)
		c.gdbLines("core-file " + file)
		v, err := c.View(c.ctx)
		if err != nil || v.Kind != KindCore {
			t.Fatalf("kind is %v, %v", v.Kind, err)
		}
		m, err := c.Map(c.ctx)
		if err != nil {
			t.Fatal(err)
		}
		core := map[uint64]vm.Mapping{}
		for _, mp := range m.Mappings {
			core[mp.Start] = mp
		}
		for _, want := range live.Mappings {
			if strings.HasPrefix(want.Name, "[v") {
				continue // gcore leaves these out, or not
			}
			got, ok := core[want.Start]
			if !ok || got.Size != want.Size || got.Offset != want.Offset ||
				want.Name != "" && got.Name != want.Name || got.Perm.Is(vm.Write) != want.Perm.Is(vm.Write) {
				t.Errorf("with program %q: got %+v, want %+v", program, got, want)
			}
		}
		mem, err := c.Memory(c.ctx)
		if err != nil {
			t.Fatal(err)
		}
		matcher, err := search.NewBytes([]byte("flag{maps are true}"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := search.Scan(c.ctx, mem, m.Mappings, search.Options{Matcher: matcher, Workers: 2})
		if err != nil || res.Count == 0 {
			t.Errorf("%d hits, %v", res.Count, err)
		}
		st, err := c.Status(c.ctx)
		if err != nil || st.MapFrom != file {
			t.Errorf("%+v, %v", st, err)
		}
		if running, _ := c.Running(); running || fmt.Sprint(st.Kind) != "a core file" {
			t.Errorf("%+v", st)
		}
	}
}

// TestMemoryOfProgram compares what is read of a program that does not run with
// what GDB reads.
func TestMemoryOfProgram(t *testing.T) {
	d := start(t, testkit.BuildC(t, "tour"))
	mem, err := d.Memory(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for _, symbol := range []string{"main", "checkpoint", "&counter", "&secret"} {
		addr, _, err := d.Evaluate(d.ctx, symbol)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if n, err := mem.ReadMemory(d.ctx, got, addr); n != 4 || err != nil {
			t.Errorf("%s: %d, %v", symbol, n, err)
		}
		want := strings.TrimSpace(d.gdbLines(fmt.Sprintf("output/x *(unsigned int *) %#x", addr)))
		if v := fmt.Sprintf("%#x", binary.LittleEndian.Uint32(got)); v != want {
			t.Errorf("%s: got %s, GDB reads %s", symbol, v, want)
		}
	}
}

// TestWhichCore opens cores one after the other, and two at once: the map is
// always that of the one which GDB has open.
func TestWhichCore(t *testing.T) {
	prog := testkit.BuildC(t, "tour")
	dir := t.TempDir()
	d := start(t, prog)
	d.gdbLines("break checkpoint", "run")
	var files []string
	for _, name := range []string{"a", "b"} {
		files = append(files, filepath.Join(dir, name))
		d.gdbLines("generate-core-file " + filepath.Join(dir, name))
	}
	c := start(t, prog)
	is := func(what, want string) {
		t.Helper()
		for range 2 { // the second time what is known is used
			m, err := c.Map(c.ctx)
			switch {
			case want == "" && !errors.Is(err, vm.ErrNoProcess):
				t.Errorf("%s: %v, %v", what, m, err)
			case want != "" && err != nil:
				t.Errorf("%s: %v", what, err)
			case want != "" && m.From.Place != want:
				t.Errorf("%s: the map is from %s, not from %s", what, m.From.Place, want)
			}
			c.gdbLines("print 1") // and after a change too
		}
	}
	is("none", "")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(files[0], link); err != nil {
		t.Fatal(err)
	}
	c.gdbLines("core-file " + link)
	is("a link", link)
	c.gdbLines("core-file " + files[0])
	is("the first", files[0])
	c.gdbLines("core-file " + files[1])
	is("the second", files[1])
	c.gdbLines("add-inferior -no-connection", "inferior 2", "file "+prog, "core-file "+files[0])
	is("the first in another inferior", files[0])
	c.gdbLines("inferior 1")
	is("the second again", files[1])
	c.gdbLines("core-file")
	is("closed", "")
	c.gdbLines("inferior 2")
	is("the first again", files[0])
	// Another core under the same name.
	c.gdbLines("inferior 1", "core-file "+files[1])
	is("the second once more", files[1])
	before, err := c.Map(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	part, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(other, part[:64<<10], 0o600), os.Rename(other, files[1])); err != nil {
		t.Fatal(err)
	}
	c.gdbLines("print 1")
	if after, err := c.Map(c.ctx); err != nil || len(after.Partial) <= len(before.Partial) {
		t.Errorf("cut: %+v, %v", after, err)
	}
}

// TestDumpOfMachine opens what QEMU's monitor dumps, which GDB takes for a core.
func TestDumpOfMachine(t *testing.T) {
	const qemu = "qemu-system-x86_64"
	testkit.Need(t, qemu)
	cmd := exec.CommandContext(t.Context(), qemu, "-S", "-m", "16", "-accel", "tcg", "-display", "none", "-nic", "none", "-monitor", "stdio")
	cmd.Dir, cmd.Stdin = t.TempDir(), strings.NewReader("dump-guest-memory dump\nquit\n")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, text)
	}
	file := filepath.Join(cmd.Dir, "dump")
	d := start(t, "")
	d.gdbLines("core-file " + file)
	st, err := d.Status(d.ctx)
	if err != nil || st.Kind != KindCore || st.MapFrom != file+", a dump of a machine's physical memory" {
		t.Errorf("%+v, %v", st, err)
	}
	m, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, mp := range m.Mappings {
		if mp.Perm != 0 || mp.Source != vm.SourceMachine {
			t.Errorf("%+v", mp)
		}
	}
	// GDB reads the same; the reset vector is at the top of the first 4 GiB.
	mem, err := d.Memory(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var b [8]byte
	const reset = 0xfffffff0
	if n, err := mem.ReadMemory(d.ctx, b[:], reset); n != len(b) || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if want := strings.TrimSpace(d.gdbLines(fmt.Sprintf("output/x *(unsigned long long *) %#x", reset))); fmt.Sprintf("%#x", binary.LittleEndian.Uint64(b[:])) != want {
		t.Errorf("%x, GDB reads %s", b, want)
	}
}
