package target

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/target/gdb"
	"dbgsh/vm"
)

// mapLines is a map as /proc/PID/maps writes it, without devices and inodes.
func mapLines(m *vm.Map) []string {
	var lines []string
	for i := range m.Mappings {
		mp := &m.Mappings[i]
		lines = append(lines, fmt.Sprintf("%08x-%08x %v %08x %s", mp.Start, mp.Start+mp.Size, mp.Perm, mp.Offset, mp.Name))
	}
	return lines
}

// kernelLines is /proc/PID/maps in the form of mapLines.
func kernelLines(t testing.TB, pid int) []string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for l := range strings.SplitSeq(strings.TrimSuffix(string(text), "\n"), "\n") {
		f := strings.SplitN(l, " ", 6)
		name := ""
		if len(f) == 6 {
			name = strings.TrimLeft(f[5], " ")
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %s", f[0], f[1], f[2], name))
	}
	return lines
}

func sameMap(t testing.TB, m *vm.Map, pid int) {
	t.Helper()
	got, want := mapLines(m), kernelLines(t, pid)
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("line %d: got %q, want %q", i+1, g, w)
		}
	}
}

func (d *debuggee) pid() int {
	d.t.Helper()
	v, err := d.View(d.ctx)
	if err != nil || v.Inferior.PID == 0 {
		d.t.Fatalf("no inferior: %+v, %v", v, err)
	}
	return v.Inferior.PID
}

func (d *debuggee) sameMap() {
	d.t.Helper()
	m, err := d.Map(d.ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	sameMap(d.t, m, d.pid())
}

func TestMapOfOddMappings(t *testing.T) {
	d := start(t, testkit.BuildC(t, "oddmaps"), t.TempDir())
	d.gdbLines("break ready", "run")
	d.sameMap()
	if n := len(kernelLines(t, d.pid())); n < 35 {
		t.Errorf("only %d mappings", n)
	}
}

// The map is read anew after whatever may have changed it: the program itself,
// and a call of the user's.
func TestMapAfterCall(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "maps.c", `#include <stdio.h>
#include <sys/mman.h>
void ready(void) { }
int main(void) {
	ready();
	mmap(0, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);
	ready();
	puts("done");
}
`)
	d := launch(t, time.Minute, Config{Config: gdb.Config{GDB: "gdb", Program: prog}})
	if _, err := d.Map(d.ctx); !errors.Is(err, vm.ErrNoProcess) {
		t.Fatalf("before run: %v", err)
	}
	d.gdbLines("break ready", "run")
	d.sameMap()
	changes := [][]string{{"continue"}}
	if testkit.CanCall(t, "gdb") {
		changes = append(changes, []string{"call (void *) mmap(0, 4096, 1, 0x22, -1, 0)", "call (void *) mmap(0x10000, 4096, 3, 0x22, -1, 0)"})
	}
	for _, lines := range changes {
		before := kernelLines(t, d.pid())
		d.gdbLines(lines...)
		d.sameMap()
		if after := kernelLines(t, d.pid()); slices.Equal(before, after) {
			t.Errorf("%q changed nothing", lines)
		}
	}
	d.gdbLines("delete", "continue")
	if _, err := d.Map(d.ctx); !errors.Is(err, vm.ErrNoProcess) {
		t.Fatalf("after the end: %v", err)
	}
	if got, want := d.out.String(), "done\n"; got != want {
		t.Errorf("the inferior wrote %q, want %q", got, want)
	}
}

func TestMapOfAttached(t *testing.T) {
	for _, program := range []string{"python3", "node"} {
		t.Run(program, func(t *testing.T) {
			testkit.Need(t, program)
			code := map[string][]string{
				"python3": {"-c", "import sys; print('up', flush=True); sys.stdin.read()"},
				"node":    {"-e", "console.log('up'); process.stdin.resume()"},
			}
			p := testkit.Start(t, exec.Command(program, code[program]...), testkit.FirstLine)
			t.Cleanup(func() {
				p.Stdin.Close()
				if err := p.Wait(); err != nil {
					t.Errorf("%s did not live on: %v", program, err)
				}
			})
			d := start(t, "")
			d.gdbLines("attach " + strconv.Itoa(p.Process.Pid))
			d.sameMap()
			if d.Started() {
				t.Error("an attached process counts as started")
			}
		})
	}
}

// TestMapOfLeaderless reads the map of a process whose first thread has ended.
func TestMapOfLeaderless(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "leaderless.c", `#include <pthread.h>
#include <unistd.h>
#include <stdio.h>
void ready(void) { }
static void *other(void *p) {
	char state = 0, path[32];
	snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
	while (state != 'Z') { /* until the first thread has ended */
		FILE *f = fopen(path, "r");
		if (f) {
			fscanf(f, "%*d (%*[^)]) %c", &state);
			fclose(f);
		}
	}
	ready();
	return p;
}
int main(void) { pthread_t t; pthread_create(&t, 0, other, 0); pthread_exit(0); }
`, "-pthread")
	d := start(t, prog)
	d.gdbLines("break ready", "run")
	pid := d.pid()
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid)); err != nil || len(text) > 0 {
		t.Fatalf("the first thread still has its memory: %d bytes, %v", len(text), err)
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	m, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil && tid != pid {
			sameMap(t, m, tid)
		}
	}
}

func TestArch(t *testing.T) {
	d := start(t, testkit.BuildC(t, "tour"))
	ptr, order, err := d.Arch(d.ctx)
	if err != nil || ptr != 8 || order != binary.LittleEndian {
		t.Errorf("got %d, %v, %v", ptr, order, err)
	}
	empty := start(t, "")
	supposed := strings.TrimSpace(empty.gdbLines("output sizeof(void *)"))
	if ptr, order, err = empty.Arch(empty.ctx); err != nil || strconv.Itoa(ptr) != supposed || order != binary.LittleEndian {
		t.Errorf("without a program: got %d, %v, %v; GDB supposes %s", ptr, order, err, supposed)
	}
}

func TestGDBDies(t *testing.T) {
	d := start(t, testkit.BuildC(t, "tour"))
	d.gdbLines("break checkpoint", "run")
	pid := d.pid()
	d.Kill()
	err := d.Console(d.ctx, "print 1", io.Discard)
	var gone *LostError
	if !errors.As(err, &gone) {
		t.Fatalf("got %v", err)
	}
	// The process that GDB had started dies with it.
	testkit.WaitGone(t, pid)
	// The next run brings a new GDB, with the same program.
	d.gdbLines("run")
	if _, err := d.Map(d.ctx); !errors.Is(err, vm.ErrNoProcess) {
		t.Errorf("after a run without breakpoints: %v", err)
	}
}

func TestContinueIsCancelled(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "spin.c", `#include <unistd.h>
int main(void) { for (;;) pause(); }
`)
	d := start(t, prog)
	ctx, cancel := context.WithCancel(d.ctx)
	go func() {
		for running, changed := d.Running(); !running; running, changed = d.Running() {
			<-changed
		}
		cancel()
	}()
	var b bytes.Buffer
	if err := d.Console(ctx, "run", &b); err != nil || !strings.Contains(b.String(), "SIGINT") {
		t.Errorf("got %v\n%s", err, b.String())
	}
	if running, _ := d.Running(); running {
		t.Error("still running")
	}
	d.sameMap()
	if !d.Started() {
		t.Error("the process counts as not started")
	}
}
