package proc

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
)

// TestSharer is processes with memory of their own, and such as share it, by the
// kernel's word and by what stat tells.
func TestSharer(t *testing.T) {
	prog := testkit.BuildText(t, "gcc", "sharer.c", `#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
static char stack[65536] __attribute__((aligned(16)));
static int waits(void *p) { for (;;) pause(); }
int main(int n, char **v) {
	int child = clone(waits, stack + sizeof stack, SIGCHLD | atoi(v[1]), 0);
	/* what a forked child has not */
	mmap(0, 123 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	printf("%d\n", child);
	fflush(stdout);
	waits(0);
}
`)
	for flags, shares := range map[int]bool{0: false, unix.CLONE_VM: true} {
		child := 0
		p := testkit.Start(t, exec.Command(prog, strconv.Itoa(flags)), func(line string) bool {
			child, _ = strconv.Atoi(line)
			return child != 0
		})
		defer func() { _ = unix.Kill(child, unix.SIGKILL) }()
		pid := p.Process.Pid
		for name, same := range map[string]func(int) bool{"kcmp": sameByKernel(pid), "stat": sameByStat(pid)} {
			if same == nil {
				t.Logf("%s is not to be had", name)
				continue
			}
			if !same(pid) || same(child) != shares || same(os.Getpid()) || same(1) || same(1<<30) {
				t.Errorf("%s, flags %#x: %v %v %v %v", name, flags, same(pid), same(child), same(os.Getpid()), same(1))
			}
		}
		want := 0
		if shares {
			want = child
		}
		if got, err := Sharer(pid); err != nil || got != want {
			t.Errorf("flags %#x: %d, %v, want %d", flags, got, err, want)
		}
		if err := unix.Kill(child, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		testkit.WaitFor(t, "stop", func() bool { return testkit.State(child) == "T" })
		if got, err := Sharer(pid); err != nil || got != 0 {
			t.Errorf("flags %#x, stopped: %d, %v", flags, got, err)
		}
		if got := Name(child); got != "sharer" {
			t.Errorf("its name is %q", got)
		}
	}
}

func BenchmarkSharer(b *testing.B) {
	for b.Loop() {
		if _, err := Sharer(os.Getpid()); err != nil {
			b.Fatal(err)
		}
	}
}
