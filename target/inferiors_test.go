package target

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/target/gdb"
	"dbgsh/vm"
)

// marked is a program that maps a page at the address that is its argument, with
// that address in it. With a second argument it forks, and the child maps that.
const marked = `#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
void ready(void) { }
static void mark(char *at) {
	unsigned long *p = (void *)strtoul(at, 0, 0);
	if (mmap(p, 4096, 3, MAP_FIXED|MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) != p) exit(1);
	*p = (unsigned long)p;
	ready();
}
int main(int n, char **v) {
	if (n > 2 && fork() == 0) { mark(v[2]); pause(); }
	mark(v[1]);
	pause();
}
`

// place is where the nth inferior maps its page.
func place(n int) uint64 { return uint64(n) << 32 }

// TestTwoInferiors is what is shown of each of two inferiors of any kinds, in any
// order, the truth being the kernel's for those that live.
func TestTwoInferiors(t *testing.T) {
	testkit.Need(t, "gdbserver")
	prog := testkit.BuildText(t, "gcc", "marked.c", marked)
	dir := t.TempDir()
	// Cores of the third and the fourth.
	cores := []string{3: filepath.Join(dir, "core3"), 4: filepath.Join(dir, "core4")}
	for n := 3; n <= 4; n++ {
		d := start(t, prog, fmt.Sprintf("%#x", place(n)))
		d.gdbLines("break ready", "run", "generate-core-file "+cores[n])
	}
	const (
		server = "target extended-remote | exec gdbserver --multi -"
		forks  = "set args 0x100000000 0x200000000"
		exe    = "set remote exec-file "
		args1  = "set args 0x100000000"
		args2  = "set args 0x200000000"
	)
	// guest is a program in QEMU's user mode that waits for GDB.
	guest := func(t *testing.T, d *debuggee, n int) {
		testkit.Need(t, "qemu-x86_64")
		socket := filepath.Join(t.TempDir(), "gdb")
		cmd := exec.Command("qemu-x86_64", "-g", socket, prog, fmt.Sprintf("%#x", place(n)))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		testkit.WaitFor(t, "connection to QEMU", func() bool {
			return d.Console(d.ctx, "target remote "+socket, io.Discard) == nil
		})
	}
	for _, c := range []struct {
		name  string
		lines []string
		kinds [2]Kind
		marks [2]int // the places of the inferiors 1 and 2
	}{
		{"two processes", []string{args1, "run", "add-inferior -exec " + prog, "inferior 2", args2, "run"},
			[2]Kind{KindNative, KindNative}, [2]int{1, 2}},
		{"a process and its child", []string{forks, "set detach-on-fork off", "run", "inferior 2", "continue"},
			[2]Kind{KindNative, KindNative}, [2]int{1, 2}},
		{"two behind a gdbserver", []string{server, exe + prog, args1, "run", "add-inferior -exec " + prog, "inferior 2", exe + prog, args2, "run"},
			[2]Kind{KindGDBServer, KindGDBServer}, [2]int{1, 2}},
		{"a process and its child behind a gdbserver", []string{server, exe + prog, forks, "set detach-on-fork off", "run", "inferior 2", "continue"},
			[2]Kind{KindGDBServer, KindGDBServer}, [2]int{1, 2}},
		{"behind two gdbservers", []string{server, exe + prog, args1, "run", "add-inferior -no-connection -exec " + prog, "inferior 2", server, exe + prog, args2, "run"},
			[2]Kind{KindGDBServer, KindGDBServer}, [2]int{1, 2}},
		{"two cores", []string{"core-file " + cores[3], "add-inferior -no-connection -exec " + prog, "inferior 2", "core-file " + cores[4]},
			[2]Kind{KindCore, KindCore}, [2]int{3, 4}},
		{"a process and a core", []string{args1, "run", "add-inferior -no-connection -exec " + prog, "inferior 2", "core-file " + cores[4]},
			[2]Kind{KindNative, KindCore}, [2]int{1, 4}},
		{"a core and a process", []string{"core-file " + cores[3], "add-inferior -no-connection -exec " + prog, "inferior 2", args2, "run"},
			[2]Kind{KindCore, KindNative}, [2]int{3, 2}},
		{"a process and one behind a gdbserver", []string{args1, "run", "add-inferior -no-connection -exec " + prog, "inferior 2", server, exe + prog, args2, "run"},
			[2]Kind{KindNative, KindGDBServer}, [2]int{1, 2}},
		{"one behind a gdbserver and a core", []string{server, exe + prog, args1, "run", "add-inferior -no-connection -exec " + prog, "inferior 2", "core-file " + cores[4]},
			[2]Kind{KindGDBServer, KindCore}, [2]int{1, 4}},
		{"two in QEMU's user mode", []string{"guest 1", "continue", "add-inferior -no-connection -exec " + prog, "inferior 2", "guest 2", "continue"},
			[2]Kind{KindQEMUUser, KindQEMUUser}, [2]int{1, 2}},
		{"one in QEMU's user mode and a process", []string{"guest 1", "continue", "add-inferior -no-connection -exec " + prog, "inferior 2", args2, "run"},
			[2]Kind{KindQEMUUser, KindNative}, [2]int{1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := start(t, prog)
			d.gdbLines("break ready")
			for _, line := range c.lines {
				if n, ok := strings.CutPrefix(line, "guest "); ok {
					guest(t, d, int(n[0]-'0'))
				} else {
					d.gdbLines(line)
				}
			}
			for _, n := range []int{1, 0, 1, 1, 0} {
				d.gdbLines(fmt.Sprintf("inferior %d", n+1))
				d.isMarked(c.kinds[n], c.marks[n], c.marks[1-n])
			}
		})
	}
}

// isMarked checks that the selected inferior is of a kind, and has the page of
// that place and not that of the other.
func (d *debuggee) isMarked(kind Kind, mark, other int) {
	d.t.Helper()
	v, err := d.View(d.ctx)
	if err != nil || v.Kind != kind {
		d.t.Fatalf("kind is %v, want %v; %v", v.Kind, kind, err)
	}
	m, err := d.Map(d.ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	holds := func(n int) bool {
		return slices.ContainsFunc(m.Mappings, func(m vm.Mapping) bool { return m.Contains(place(n)) })
	}
	if !holds(mark) || holds(other) {
		d.t.Errorf("the map is another inferior's: %v", mapLines(m))
	}
	process := kind == KindNative || kind == KindGDBServer
	if process {
		d.sameMap()
	}
	mem, err := d.Memory(d.ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	defer mem.Close()
	var b [8]byte
	want := binary.LittleEndian.AppendUint64(nil, place(mark))
	if n, err := mem.ReadMemory(d.ctx, b[:], place(mark)); n != len(b) || err != nil || !bytes.Equal(b[:], want) {
		d.t.Errorf("read %d bytes, % x, %v", n, b, err)
	}
	if n, err := mem.ReadMemory(d.ctx, b[:1], place(other)); n != 0 {
		d.t.Errorf("read what is another inferior's: %x, %v", b[0], err)
	}
	if at, _, err := d.Evaluate(d.ctx, fmt.Sprintf("*(unsigned long *)%#x", place(mark))); err != nil || at != place(mark) {
		d.t.Errorf("the value there is %#x, %v", at, err)
	}
	if st, err := d.Status(d.ctx); err != nil || st.Kind != kind || process && st.PID != v.Inferior.PID {
		d.t.Errorf("%+v, %v", st, err)
	}
}

// TestTwoMachines is two machines in QEMU, which have different amounts of memory.
func TestTwoMachines(t *testing.T) {
	sizes := []string{"16", "32"} // MiB
	d := launch(t, 5*time.Minute, Config{Config: gdb.Config{GDB: "gdb-multiarch"}})
	for i, size := range sizes {
		if i > 0 {
			d.gdbLines("add-inferior -no-connection", "inferior 2")
		}
		d.gdbLines("target remote " + testkit.QEMU(t, "qemu-system-x86_64", "", "-m", size, "-S"))
	}
	for _, n := range []int{1, 0, 1, 1, 0} {
		d.gdbLines(fmt.Sprintf("inferior %d", n+1))
		m, err := d.Map(d.ctx)
		if err != nil {
			t.Fatal(err)
		}
		end := uint64(0)
		for _, mp := range m.Mappings {
			if mp.Name == "[pc.ram]" {
				end = max(end, mp.Last()+1)
			}
		}
		if want := sizes[n]; fmt.Sprint(end>>20) != want {
			t.Errorf("inferior %d has %d MiB, want %s", n+1, end>>20, want)
		}
	}
}

// TestTwoStubs is two bare machines, of which each knows what was explored in it.
func TestTwoStubs(t *testing.T) {
	d := start(t, "")
	d.gdbLines("set architecture i386:x86-64")
	want := make([]vm.Range, 2)
	for i := range want {
		want[i] = vm.Range{Start: place(i + 1), Size: uint64(i+1) * 0x3000}
		if i > 0 {
			d.gdbLines("add-inferior -no-connection", "inferior 2")
		}
		s := &fakeStub{readable: want[i]}
		d.gdbLines("target remote " + s.listen(t))
		if m, _, err := d.Explore(d.ctx, want[i].Start+0x1000, 1<<20); err != nil || m.Range != want[i] {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	for _, n := range []int{1, 0, 1, 1, 0} {
		d.gdbLines(fmt.Sprintf("inferior %d", n+1))
		if m, err := d.Map(d.ctx); err != nil || len(m.Mappings) != 1 || m.Mappings[0].Range != want[n] {
			t.Errorf("inferior %d: %+v, %v", n+1, m, err)
		}
	}
}
