package qemuuser

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/target/proc"
	"dbgsh/vm"
)

// untouchedGuest maps files and shared memory of 64 MiB each, in which it has
// hardly touched anything, with a needle in every one that it prints the address of.
const untouchedGuest = `
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE (64 << 20)

static char *map(const char *what, int prot, int flags, int fd)
{
	char *p = mmap(NULL, SIZE, prot, flags, fd, 0);
	if (p == MAP_FAILED)
		err(1, "mmap");
	printf("%s %p\n", what, (void *)p);
	fflush(stdout);
	return p;
}

void ready(void) {}

int main(int argc, char **argv)
{
	int file = open(argv[1], O_RDWR), memory = memfd_create("memory", 0);
	if (file < 0 || memory < 0 || ftruncate(memory, SIZE) < 0)
		err(1, "%s", argv[1]);
	/* In the file alone: nobody touches the page. */
	if (pwrite(memory, "a needle in a memfd", 20, SIZE / 2) < 0)
		err(1, "pwrite");
	map("file", PROT_READ, MAP_PRIVATE, file);
	map("file", PROT_READ | PROT_WRITE, MAP_PRIVATE, file);
	map("file", PROT_READ | PROT_WRITE, MAP_SHARED, file);
	map("memfd", PROT_READ | PROT_WRITE, MAP_SHARED, memory);
	char *own = map("copied", PROT_READ | PROT_WRITE, MAP_PRIVATE, file);
	strcpy(own + SIZE / 4, "a needle in a copied page");
	char *shared = map("shared", PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	strcpy(shared + SIZE / 2, "a needle in shared memory");
	char *anon = map("anonymous", PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	strcpy(anon + SIZE / 2, "a needle in anonymous memory");
	ready();
	return 0;
}
`

// resident is what /proc/PID/status says of the memory that a process has, in KiB.
func resident(t testing.TB, pid int) map[string]int {
	t.Helper()
	text, err := os.ReadFile(proc.Path(pid, "status"))
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if slices.Contains([]string{"RssAnon", "RssFile", "RssShmem", "VmPTE"}, name) {
			if sizes[name], err = strconv.Atoi(strings.Fields(value)[0]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(sizes) != 4 {
		t.Fatalf("status has %v", sizes)
	}
	return sizes
}

// TestUntouched searches all memory of guests that have touched little of theirs:
// QEMU has no page more afterwards.
func TestUntouched(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, v := range []struct {
		arch    string
		options []string
		recent  bool // a QEMU whose stub has the map
	}{
		{arch: "x86_64"}, {arch: "aarch64"}, {arch: "arm"}, {arch: "mips"}, {arch: "aarch64", options: []string{"-B", "0x1000000000"}},
		{arch: "x86_64", recent: true}, {arch: "aarch64", recent: true}, {arch: "arm", recent: true},
	} {
		t.Run(fmt.Sprint(v.arch, v.options, v.recent), func(t *testing.T) {
			t.Parallel()
			m := machineOf(v.arch)
			qemu := "qemu-" + m.arch
			if v.recent {
				qemu = newQEMU(t, m)
			}
			program := testkit.BuildText(t, m.gcc(), "untouched.c", untouchedGuest)
			file := filepath.Join(dir, fmt.Sprint(v.arch, len(v.options), v.recent))
			b := make([]byte, 64<<20)
			for i := range b {
				b[i] = byte(i >> 12)
			}
			copy(b[48<<20:], "a needle in a file")
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			d := runGuest(t, qemu, m, v.options, program, file).attach(t, program, "ready")
			pid := d.qemu.cmd.Process.Pid
			// GDB and QEMU have read what they read for themselves.
			if _, err := d.Registers(d.Ctx); err != nil {
				t.Fatal(err)
			}
			if v.recent { // QEMU takes memory of its own to answer
				d.mapFrom(t, Auto)
				d.Lines("print 1")
			}
			before := resident(t, pid)
			mm := d.mapFrom(t, Auto)
			mem, err := d.Memory(d.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer mem.Close()
			got := d.find(t, mem, mm, "a needle in ")
			after := resident(t, pid)
			for name, size := range before {
				if after[name] > size {
					t.Errorf("%s grew from %d KiB to %d", name, size, after[name])
				}
			}
			if n, ok := mem.(vm.Noter); ok && len(n.Notes()) > 0 {
				t.Errorf("notes: %q", n.Notes())
			}
			// All the same everything is found, in files and in shared memory too.
			places := 0
			for line := range strings.Lines(d.qemu.out.String()) {
				var what string
				var at uint64
				if n, _ := fmt.Sscanf(line, "%s 0x%x", &what, &at); n != 2 {
					continue
				}
				for _, off := range map[string][]uint64{
					"file": {48 << 20}, "memfd": {32 << 20}, "copied": {16 << 20, 48 << 20}, "shared": {32 << 20}, "anonymous": {32 << 20},
				}[what] {
					if places++; !slices.Contains(got, at+off) {
						t.Errorf("nothing found at %#x in %s", off, what)
					}
				}
			}
			if places != 8 {
				t.Errorf("%d places to look for", places)
			}
			// What QEMU was not asked about is not known.
			empty := 0
			for _, m := range mm.Mappings {
				if m.Name == file && !m.Perm.Knows(vm.Read) {
					empty++
				}
			}
			if v.recent != (empty == 0) || v.recent != (len(mm.Notes) == 0) {
				t.Errorf("%d mappings of which nothing can be known, notes %q", empty, mm.Notes)
			}
		})
	}
}
