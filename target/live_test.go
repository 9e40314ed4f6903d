package target

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
)

// mapper reads bytes, and for each maps a page and says so.
const mapper = `#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
static char stack[65536] __attribute__((aligned(16)));
void ready(void) { }
static int maps(void *p) {
	char c;
	for (unsigned long at = 0x100000000; read(0, &c, 1) == 1; at += 0x10000)
		if (c != '\n') {
			mmap((void *)at, 4096, 3, MAP_FIXED|MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);
			write(1, "mapped\n", 7);
		}
	return 0;
}
static void *thread(void *p) { ready(); for (;;) pause(); }
int main(int n, char **v) {
	if (n > 1) { /* a thread maps, and another one stops */
		pthread_t t;
		pthread_create(&t, 0, thread, 0);
		maps(0); /* behind gdbserver there is nothing to read */
		for (;;) pause();
	}
	int child = clone(maps, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
	printf("%d\n", child);
	fflush(stdout);
	for (;;) pause();
}
`

// TestSharedMemory is a process that is stopped while another one, which has the
// same memory, goes on to map.
func TestSharedMemory(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "mapper.c", mapper, "-pthread")
	child := 0
	p := testkit.Start(t, exec.Command(prog), func(line string) bool {
		child, _ = strconv.Atoi(line)
		return child != 0
	})
	t.Cleanup(func() { _ = unix.Kill(child, unix.SIGKILL) })
	d := start(t, "")
	d.gdbLines("attach " + strconv.Itoa(p.Process.Pid))
	for range 3 {
		d.sameMap()
		d.isLive(fmt.Sprintf("process %d (mapper)", child))
		if _, err := p.Stdin.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if line, err := p.Stdout.ReadString('\n'); err != nil || line != "mapped\n" {
			t.Fatal(line, err)
		}
	}
	d.sameMap()
	if err := unix.Kill(child, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testkit.WaitFor(t, "stop", func() bool { return testkit.State(child) == "T" })
	d.isLive("")
}

// isLive checks who the map says runs, and that it is kept where nobody does.
func (d *debuggee) isLive(who string) {
	d.t.Helper()
	m, err := d.Map(d.ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	st, err := d.Status(d.ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	if m.Live != (who != "") || !strings.HasPrefix(m.Runs(), who) || st.Map.Runs() != m.Runs() || st.Running != (who == "the debuggee runs") {
		d.t.Errorf("%q runs by the map, %q and %v by the status; want %q", m.Runs(), st.Map.Runs(), st.Running, who)
	}
	if again, err := d.Map(d.ctx); err != nil || !m.Live && again != m {
		d.t.Errorf("the map is read anew: %v", err)
	}
}

// TestNonStop is a process of which one thread is stopped while another one goes
// on to map.
func TestNonStop(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "mapper.c", mapper, "-pthread")
	for _, kind := range []Kind{KindNative, KindGDBServer} {
		t.Run(kind.String(), func(t *testing.T) {
			d := start(t, prog, "threads")
			d.gdbLines("set non-stop on", "break ready")
			if kind == KindNative {
				d.gdbLines("run &")
			} else {
				testkit.Need(t, "gdbserver")
				d.gdbLines("target extended-remote | exec gdbserver --multi -", "set remote exec-file "+prog, "set args threads", "run &")
			}
			stopped := func(thread string) func() bool {
				return func() bool { return threadState(d.gdbLines("info threads"), thread) == "stopped" }
			}
			testkit.WaitFor(t, "stop of the second thread", stopped("2"))
			d.gdbLines("thread 2")
			d.sameMap()
			d.isLive("some threads of the debuggee run")
			if kind == KindNative {
				if _, err := d.Keyboard(d.ctx, []byte("x\n")); err != nil {
					t.Fatal(err)
				}
				testkit.WaitFor(t, "another mapping", func() bool { return strings.Contains(d.out.String(), "mapped") })
				d.sameMap()
			}
			d.gdbLines("interrupt -a")
			testkit.WaitFor(t, "stop of the first thread", stopped("1"))
			d.sameMap()
			d.isLive("")
			d.gdbLines("continue -a &")
			testkit.WaitFor(t, "run", func() bool { return threadState(d.gdbLines("info threads"), "2") == "running" })
			d.isLive("the debuggee runs")
			d.gdbLines("interrupt -a")
			testkit.WaitFor(t, "stop of both", func() bool { return stopped("1")() && stopped("2")() })
		})
	}
}

// threadState is stopped or running for a thread in GDB's info threads, else "".
func threadState(text, thread string) string {
	for line := range strings.Lines(text) {
		f := strings.Fields(strings.TrimPrefix(line, "*"))
		switch {
		case len(f) == 0 || f[0] != thread:
		case strings.Contains(line, "(running)"):
			return "running"
		default:
			return "stopped"
		}
	}
	return ""
}

// TestBreakpointsStay is whether breakpoints stand in the code that is read, by the
// bytes of /proc/PID/mem, as GDB is set in between.
func TestBreakpointsStay(t *testing.T) {
	d := start(t, testkit.BuildC(t, "tour"))
	d.gdbLines("break checkpoint", "run")
	at, _, err := d.Evaluate(d.ctx, "$pc")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.Open(fmt.Sprintf("/proc/%d/mem", d.pid()))
	if err != nil {
		t.Fatal(err)
	}
	defer code.Close()
	read := func() byte {
		var b [1]byte
		if _, err := code.ReadAt(b[:], int64(at)); err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	before := read()
	for _, value := range []string{"off", "on", "on", "off"} {
		d.gdbLines("set breakpoint always-inserted "+value, "stepi", "tbreak *$pc") // which has GDB look at its breakpoints
		mem, err := d.Memory(d.ctx)
		if err != nil {
			t.Fatal(err)
		}
		told := slices.ContainsFunc(mem.(vm.Noter).Notes(), func(n string) bool { return strings.Contains(n, "keeps its breakpoints inserted") })
		if inserted := read() != before; told != inserted || told != (value == "on") {
			t.Errorf("%s: told %v, inserted %v", value, told, inserted)
		}
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
	}
}
