package qemuuser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/internal/testkit/testgdb"
	"dbgsh/target/gdb"
	"dbgsh/target/proc"
	"dbgsh/vm"
	"dbgsh/vm/image"
	"dbgsh/vm/search"
)

// machine is what guests are built and run for.
type machine struct {
	arch   string // in QEMU's words
	triple string // of the compiler and of the sysroot
	goarch string
}

func (m machine) gcc() string {
	if m.arch == "x86_64" {
		return "gcc"
	}
	return m.triple + "-gcc"
}

var machines = []machine{
	{"x86_64", "x86_64-linux-gnu", "amd64"},
	{"aarch64", "aarch64-linux-gnu", "arm64"},
	{"arm", "arm-linux-gnueabihf", "arm"},
	{"riscv64", "riscv64-linux-gnu", "riscv64"},
	{"mips", "mips-linux-gnu", "mips"}, // big endian
	{"ppc64", "powerpc64-linux-gnu", "ppc64"},
	{"s390x", "s390x-linux-gnu", "s390x"},
}

func machineOf(arch string) machine {
	return machines[slices.IndexFunc(machines, func(m machine) bool { return m.arch == arch })]
}

// guestPrograms builds guests, each once.
type guestPrograms struct {
	dir   string
	built sync.Map // of name: func() (path string, err error)
}

// c builds testdata/qemuguest.c.
func (ps *guestPrograms) c(t testing.TB, m machine, flags ...string) string {
	t.Helper()
	testkit.Need(t, m.gcc())
	if m.arch != "x86_64" {
		if _, err := os.Stat("/usr/" + m.triple + "/lib/libc.so"); err != nil {
			testkit.Missing(t, "%v", err)
		}
	}
	path := filepath.Join(ps.dir, m.arch+strings.Join(flags, ""))
	args := slices.Concat([]string{"-pthread", "-o", path, testkit.Testdata(t, "qemuguest.c")}, flags)
	return ps.build(t, path, exec.Command(m.gcc(), args...))
}

// golang builds testdata/qemuguest.go.
func (ps *guestPrograms) golang(t testing.TB, m machine) string {
	t.Helper()
	testkit.Need(t, "go")
	path := filepath.Join(ps.dir, m.arch+"-go")
	cmd := exec.Command("go", "build", "-o", path, testkit.Testdata(t, "qemuguest.go"))
	cmd.Env = append(os.Environ(), "GOARCH="+m.goarch, "GOOS=linux", "CGO_ENABLED=0")
	return ps.build(t, path, cmd)
}

func (ps *guestPrograms) build(t testing.TB, path string, cmd *exec.Cmd) string {
	t.Helper()
	build, _ := ps.built.LoadOrStore(path, sync.OnceValue(func() error {
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd, err, text)
		}
		return nil
	}))
	if err := build.(func() error)(); err != nil {
		t.Fatal(err)
	}
	return path
}

// qemuGuest is a guest that waits for GDB.
type qemuGuest struct {
	cmd     *exec.Cmd
	program string
	socket  string
	log     string // QEMU's page table
	out     *testkit.Buffer
	exited  chan struct{}
}

// runGuest starts QEMU with a guest. It ends with the test.
func runGuest(t testing.TB, qemu string, m machine, options []string, program ...string) *qemuGuest {
	t.Helper()
	g := prepareGuest(t, qemu, m, options, program...)
	g.start(t)
	return g
}

// prepareGuest prepares what runGuest starts.
func prepareGuest(t testing.TB, qemu string, m machine, options []string, program ...string) *qemuGuest {
	t.Helper()
	testkit.Need(t, qemu)
	dir := t.TempDir()
	g := &qemuGuest{
		socket: filepath.Join(dir, "gdb"), log: filepath.Join(dir, "pages"),
		program: program[0], out: &testkit.Buffer{}, exited: make(chan struct{}),
	}
	args := slices.Concat([]string{"-g", g.socket, "-L", "/usr/" + m.triple}, options, program)
	g.cmd = exec.Command(qemu, args...)
	g.cmd.Env = append(os.Environ(), "QEMU_LOG=page", "QEMU_LOG_FILENAME="+g.log)
	g.cmd.Stdout, g.cmd.Stderr = g.out, g.out
	return g
}

// start starts QEMU; it ends with the test.
func (g *qemuGuest) start(t testing.TB) {
	t.Helper()
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		g.cmd.Wait()
		close(g.exited)
	}()
	t.Cleanup(func() {
		g.cmd.Process.Kill()
		<-g.exited
	})
}

// qemuDebuggee is a guest under test.
type qemuDebuggee struct {
	*testgdb.GDB
	qemu *qemuGuest
	wish Wish

	source *Source
	made   Wish      // what the source was made for
	stamp  gdb.Stamp // when
}

// look is the guest as it is now.
func (d *qemuDebuggee) look() *Source {
	d.T.Helper()
	if d.source == nil || d.made != d.wish || d.stamp != d.Stamp() {
		d.made, d.stamp = d.wish, d.Stamp()
		inf, err := d.Inferior(d.Ctx)
		if err != nil {
			d.T.Fatal(err)
		}
		d.source = New(Config{GDB: d.GDB.GDB, Thread: inf.Thread, Wish: d.wish, Arch: d.arch})
	}
	return d.source
}

// arch is what GDB says, which knows it from the program's file.
func (d *qemuDebuggee) arch(ctx context.Context) (ptr int, order binary.ByteOrder, err error) {
	ptr, big, err := d.Arch(ctx)
	if big {
		return ptr, binary.BigEndian, err
	}
	return ptr, binary.LittleEndian, err
}

func (d *qemuDebuggee) Map(ctx context.Context) (*vm.Map, error)      { return d.look().Map(ctx) }
func (d *qemuDebuggee) Memory(ctx context.Context) (vm.Memory, error) { return d.look().Memory(ctx) }

// attach connects a GDB to the guest and lets it run up to ready.
func (g *qemuGuest) attach(t testing.TB, program, ready string) *qemuDebuggee {
	t.Helper()
	testkit.Need(t, "gdb-multiarch")
	d := &qemuDebuggee{qemu: g, wish: Auto}
	d.GDB = testgdb.Start(t, time.Minute, gdb.Config{GDB: "gdb-multiarch", Program: program})
	d.Lines("set auto-solib-add off")
	// QEMU listens a little after it was started.
	testkit.WaitFor(t, "QEMU that listens", func() bool {
		err := d.Console(d.Ctx, "target remote "+g.socket, io.Discard)
		var said *gdb.Error
		if err != nil && !errors.As(err, &said) {
			t.Fatal(err)
		}
		select {
		case <-g.exited:
			t.Fatalf("QEMU ended: %s", g.out)
		default:
		}
		return err == nil
	})
	d.Lines("break "+ready, "continue")
	return d
}

// pageTable is the access of each page in the last table in QEMU's log.
func (g *qemuGuest) pageTable(t testing.TB) map[uint64]string {
	t.Helper()
	text, err := os.ReadFile(g.log)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(text, []byte("start "))
	if at < 0 {
		t.Fatal("QEMU's log has no page table")
	}
	pages := map[uint64]string{}
	lines := bufio.NewScanner(bytes.NewReader(text[at:]))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 3 {
			if len(pages) > 0 {
				break
			}
			continue
		}
		lo, hi, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(lo, 16, 64)
		end, err2 := strconv.ParseUint(hi, 16, 64)
		if err1 != nil || err2 != nil {
			t.Fatal(lines.Text())
		}
		for ; start != end; start += 4096 {
			pages[start] = f[2]
		}
	}
	return pages
}

// difference counts the pages that a map has wrong.
type difference struct {
	missing int // which the guest can read, write or execute
	idle    int // missing too, but without any access
	extra   int
	rw, x   int
	first   string // of those that are wrong
}

func compare(m *vm.Map, truth map[uint64]string) (d difference, unknownX int) {
	say := func(format string, args ...any) {
		if d.first == "" {
			d.first = fmt.Sprintf(format, args...)
		}
	}
	differs := func(got, want byte) bool { return got != want && got != '?' }
	seen := make(map[uint64]bool, len(truth))
	for _, mp := range m.Mappings {
		perm := mp.Perm.String()
		for off := uint64(0); off < mp.Size; off += 4096 {
			a := mp.Start + off
			want, ok := truth[a]
			seen[a] = true
			if !ok {
				d.extra++
				say("%#x of %v %s %s is extra", a, mp.Range, perm, mp.Title())
				continue
			}
			if differs(perm[0], want[0]) || differs(perm[1], want[1]) {
				d.rw++
				say("%#x of %v %s %s is %s", a, mp.Range, perm, mp.Title(), want)
			}
			if differs(perm[2], want[2]) {
				d.x++
				say("%#x of %v %s %s is %s", a, mp.Range, perm, mp.Title(), want)
			}
			if perm[2] == '?' {
				if unknownX++; mp.Inode != 0 && want[2] == 'x' {
					d.x++
					say("x of %#x of %v %s is not known", a, mp.Range, mp.Title())
				}
			}
		}
	}
	for a, want := range truth {
		switch {
		case seen[a]:
		case want == "---":
			d.idle++
		default:
			d.missing++
			say("%#x %s is missing", a, want)
		}
	}
	return d, unknownX
}

// mapFrom reads the map from a source.
func (d *qemuDebuggee) mapFrom(t testing.TB, wish Wish) *vm.Map {
	t.Helper()
	d.wish = wish
	m, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// newQEMU is where .ci/qemu-user unpacks a QEMU that is newer than 8.1.
func newQEMU(t testing.TB, m machine) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		testkit.Missing(t, "%v", err)
	}
	path := filepath.Join(cache, "dbgsh", "qemu-user", "qemu-"+m.arch)
	if _, err := os.Stat(path); err != nil {
		testkit.Missing(t, "%v; .ci/qemu-user gets it", err)
	}
	return path
}

// guestKinds are the kinds of programs in C.
var guestKinds = []struct {
	name  string
	flags []string
	arg   string // thread gives it a second thread
}{
	{"static", []string{"-static"}, ""},
	{"pie", []string{"-fPIE", "-pie"}, "thread"},
	{"fixed", []string{"-no-pie"}, ""},
}

func TestQEMUUser(t *testing.T) {
	t.Parallel()
	programs := &guestPrograms{dir: t.TempDir()}
	for _, m := range machines {
		for _, k := range guestKinds {
			t.Run(m.arch+"/"+k.name, func(t *testing.T) {
				t.Parallel()
				p := programs.c(t, m, k.flags...)
				d := runGuest(t, "qemu-"+m.arch, m, nil, p, k.arg).attach(t, p, "ready")
				d.sameAsPageTable(t, k.arg == "thread" && (m.arch == "arm" || m.arch == "mips"))
				d.sameGuestMemory(t)
				if k.name == "pie" && slices.Contains([]string{"x86_64", "aarch64", "mips"}, m.arch) {
					d.truthfulGuess(t)
				}
			})
			if k.name == "fixed" {
				continue
			}
			t.Run("new/"+m.arch+"/"+k.name, func(t *testing.T) {
				t.Parallel()
				p := programs.c(t, m, k.flags...)
				d := runGuest(t, newQEMU(t, m), m, nil, p, k.arg).attach(t, p, "ready")
				d.sameAsOwn(t)
				d.sameGuestMemory(t)
			})
		}
	}
	for _, v := range []struct {
		arch    string
		options []string
		filled  bool // QEMU reserves the address space
	}{
		{"arm", []string{"-B", "0x10000000"}, true},
		{"mips", []string{"-R", "0x40000000"}, true},
		{"aarch64", []string{"-B", "0x1000000000"}, false},
		{"s390x", []string{"-R", "0x10000000000"}, true},
	} {
		m := machineOf(v.arch)
		for _, k := range guestKinds[:2] {
			t.Run(v.arch+v.options[0]+"/"+k.name, func(t *testing.T) {
				t.Parallel()
				p := programs.c(t, m, k.flags...)
				d := runGuest(t, "qemu-"+m.arch, m, v.options, p, k.arg).attach(t, p, "ready")
				d.sameAsPageTable(t, k.arg == "thread" && v.filled)
				d.sameGuestMemory(t)
			})
		}
	}
	t.Run("go", func(t *testing.T) {
		t.Parallel()
		m := machineOf("x86_64")
		p := programs.golang(t, m)
		g := prepareGuest(t, "qemu-"+m.arch, m, nil, p)
		// Each preemption is a signal that goes to GDB, and where one thread's comes
		// while another stops, QEMU's answers are for the wrong question (7.2).
		g.cmd.Env = append(g.cmd.Env, "GODEBUG=asyncpreemptoff=1")
		g.start(t)
		g.attach(t, p, "main.ready").sameAsPageTable(t, false)
	})
	t.Run("elsewhere", func(t *testing.T) {
		t.Parallel()
		m := machineOf("riscv64")
		p := programs.c(t, m, "-static")
		g := prepareGuest(t, "qemu-"+m.arch, m, nil, p)
		// The stub names a thread as it is known in another PID namespace.
		g.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		if os.Getuid() != 0 {
			g.cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		}
		g.start(t)
		d := g.attach(t, p, "ready")
		m1 := d.mapFrom(t, Auto)
		if len(m1.Unlisted()) == 0 || !strings.HasPrefix(m1.From.Place, "a guess by ELF headers") || !strings.HasPrefix(m1.From.Instead, "QEMU's process cannot be read: ") {
			t.Errorf("%+v, lacks %q", m1.From, m1.Partial)
		}
		if got := d.find(t, gdb.NewMemory(d.GDB.GDB, true), m1, "a needle in the data"); !slices.Contains(got, d.needle(t)) {
			t.Errorf("the needle is found at %#x", got)
		}
		d.wish = Host
		if m, err := d.Map(d.Ctx); err == nil {
			t.Errorf("%+v", m)
		}
	})
	t.Run("wishes", func(t *testing.T) {
		t.Parallel()
		for _, v := range []struct {
			arch string
			all  vm.Range
		}{
			{"aarch64", vm.Range{Size: 1<<64 - 1}},
			{"mips", vm.Range{Size: 1 << 32}},
		} {
			m := machineOf(v.arch)
			p := programs.c(t, m, "-static")
			d := runGuest(t, "qemu-"+m.arch, m, nil, p).attach(t, p, "ready")
			none := d.mapFrom(t, None)
			if len(none.Mappings) != 1 || none.Mappings[0] != (vm.Mapping{Range: v.all, Name: "[qemu]", Source: vm.SourceNone}) ||
				len(none.Unlisted()) != 1 {
				t.Errorf("%+v", none)
			}
			d.wish = Stub
			if m, err := d.Map(d.Ctx); err == nil || !strings.Contains(err.Error(), "/proc/self/maps") {
				t.Errorf("an old stub gives %v, %v", m, err)
			}
			d.sameProbes(t)
			// The map stays as it is until something may have changed.
			host := d.mapFrom(t, Host)
			if again := d.mapFrom(t, Host); &again.Mappings[0] != &host.Mappings[0] {
				t.Error("the map is read again")
			}
			d.Lines("set var *(char *)&needle = 'A'")
			if again := d.mapFrom(t, Host); &again.Mappings[0] == &host.Mappings[0] {
				t.Error("the map is not read again")
			}
		}
	})
}

// sameProbes asks with GDB's Python and without.
func (d *qemuDebuggee) sameProbes(t testing.TB) {
	t.Helper()
	g, err := newGuest(d.Ctx, &d.look().cfg)
	if err != nil {
		t.Fatal(err)
	}
	phdr, _ := g.aux.Get(image.AuxPhdr)
	addrs := []uint64{phdr, 0, d.needle(t), g.last(), phdr}
	want := []bool{true, false, true, false, true}
	for _, g.noPython = range []bool{false, true} {
		if got, err := g.readable(d.Ctx, addrs...); err != nil || !slices.Equal(got, want) {
			t.Errorf("without Python %v: %v, %v", g.noPython, got, err)
		}
	}
}

// sameAsPageTable compares the map that QEMU's process gives with QEMU's own
// page table. Where the address space is filled, memory that a second thread's
// allocator keeps without access looks as what fills it.
func (d *qemuDebuggee) sameAsPageTable(t testing.TB, idle bool) {
	t.Helper()
	m := d.mapFrom(t, Auto)
	diff, unknownX := compare(m, d.qemu.pageTable(t))
	if idle && diff.idle > 0 {
		diff.idle = 0
	}
	if diff != (difference{}) {
		t.Errorf("%+v", diff)
	}
	t.Logf("x of %d pages is not known", unknownX)
	if m.From.Source != vm.SourceQEMU || !strings.HasPrefix(m.From.Place, "QEMU's own memory map (pid ") || m.From.Instead != "" || len(m.Partial) == 0 {
		t.Errorf("%+v, lacks %q", m.From, m.Partial)
	}
	named := map[string]string{}
	for _, mp := range m.Mappings {
		if mp.Name != "" && (mp.Source != vm.SourceQEMU) != (mp.Name == "[vsyscall]") {
			t.Errorf("%v %s from %s", mp.Range, mp.Name, mp.Source)
		}
		named[filepath.Base(mp.Name)] = mp.Perm.String()
	}
	for _, name := range []string{"[heap]", "[stack]"} {
		if perm := named[name]; !strings.HasPrefix(perm, "rw") && !(name == "[heap]" && d.isGo()) {
			t.Errorf("%s is %q", name, perm)
		}
	}
}

func (d *qemuDebuggee) isGo() bool { return strings.HasSuffix(d.qemu.program, "-go") }

// sameGuestMemory compares what is read from QEMU's process with what its stub
// says, at the ends of every mapping.
func (d *qemuDebuggee) sameGuestMemory(t testing.TB) {
	t.Helper()
	m := d.mapFrom(t, Auto)
	mem, err := d.Memory(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	q, ok := mem.(*guestMemory)
	if !ok {
		t.Fatalf("memory is %T", mem)
	}
	stub := gdb.NewMemory(d.GDB.GDB, true)
	read := 0
	for i, mp := range m.Mappings {
		if !mp.Perm.Is(vm.Read) || mp.Name == "[vsyscall]" {
			continue
		}
		for _, at := range []uint64{mp.Start, mp.Start + mp.Size - 64} {
			got, want := make([]byte, 64), make([]byte, 64)
			n, err := mem.ReadMemory(d.Ctx, got, at)
			if err != nil || n != len(got) {
				t.Fatalf("%#x in %v %s: %d, %v", at, mp.Range, mp.Title(), n, err)
			}
			if n, err := stub.Read(d.Ctx, want, at); err != nil || n != len(want) || !bytes.Equal(got, want) {
				t.Errorf("%#x in %v %s: %d, %v\ngot  %x\nwant %x", at, mp.Range, mp.Title(), n, err, got, want)
			}
			read++
		}
		// Nothing outside the guest's mappings is read, QEMU's own least of all.
		if end := mp.Start + mp.Size; i+1 < len(m.Mappings) && end < m.Mappings[i+1].Start {
			if n, err := mem.ReadMemory(d.Ctx, make([]byte, 2*64), end-64); n != 64 || err != nil {
				t.Errorf("behind %v %s: %d, %v", mp.Range, mp.Title(), n, err)
			}
		}
	}
	if read < 10 {
		t.Errorf("only %d places were read", read)
	}
	if want, n := d.needle(t), d.find(t, q, m, "a needle in the data"); !slices.Contains(n, want) {
		t.Errorf("the needle at %#x is found at %#x", want, n)
	}
	if n := d.find(t, q, m, "a needle in anonymous memory"); len(n) == 0 {
		t.Error("the needle in anonymous memory is not found")
	}
}

// needle is where the guest has its needle.
func (d *qemuDebuggee) needle(t testing.TB) uint64 {
	t.Helper()
	at, _, err := d.Evaluate(d.Ctx, "&needle")
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// find searches the memory.
func (d *qemuDebuggee) find(t testing.TB, mem vm.Reader, m *vm.Map, text string) (at []uint64) {
	t.Helper()
	matcher, err := search.NewBytes([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	res, err := search.Scan(d.Ctx, mem, m.Mappings, search.Options{Matcher: matcher})
	if err != nil || res.Partial != nil || len(res.Notes) > 0 {
		t.Errorf("search: %v, %+v", err, res)
	}
	for _, h := range res.Hits.All() {
		at = append(at, h.Address)
	}
	return at
}

// truthfulGuess holds what is guessed against QEMU's page table: nothing that
// it says is wrong, and it finds what the linker loaded.
func (d *qemuDebuggee) truthfulGuess(t testing.TB) {
	t.Helper()
	m := d.mapFrom(t, Guess)
	diff, _ := compare(m, d.qemu.pageTable(t))
	if diff.extra+diff.rw+diff.x > 0 {
		t.Errorf("%+v", diff)
	}
	t.Logf("%d pages missing, and %d without access", diff.missing, diff.idle)
	found := map[string]bool{}
	for _, mp := range m.Mappings {
		name := filepath.Base(mp.Name)
		found[name] = true
		want := vm.SourceELF
		switch name {
		case "[stack]", "[heap]", ".":
			continue
		case "[vsyscall]":
			want = vm.SourceRule
		}
		if mp.Source != want {
			t.Errorf("%v %s from %s", mp.Range, mp.Title(), mp.Source)
		}
	}
	for _, name := range []string{filepath.Base(d.qemu.program), "libc.so.6", "[stack]"} {
		if !found[name] {
			t.Errorf("%s is not found: %v", name, found)
		}
	}
	mem, err := d.Memory(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := mem.(gdb.Memory); !ok {
		t.Errorf("memory is %T", mem)
	}
	mem.Close()
}

// sameAsOwn compares the map with the one that the guest has printed.
func (d *qemuDebuggee) sameAsOwn(t testing.TB) {
	t.Helper()
	m := d.mapFrom(t, Auto)
	const end = "end of map\n"
	maps := strings.Split(d.qemu.out.String(), end)
	if len(maps) != 3 {
		t.Fatalf("the guest printed\n%s", d.qemu.out)
	}
	own, err := proc.ParseMaps([]byte(maps[1]))
	if err != nil {
		t.Fatal(err)
	}
	for i := range own {
		own[i].Source = vm.SourceRemote
	}
	if !slices.Equal(own, m.Mappings) {
		t.Errorf("got  %v\nwant %v", m.Mappings, own)
	}
	if diff, _ := compare(m, d.qemu.pageTable(t)); diff != (difference{}) {
		t.Errorf("%+v", diff)
	}
	if m.From != (vm.Origin{Source: vm.SourceRemote, Place: "/proc/self/maps as QEMU's stub has it"}) || m.About() != nil {
		t.Errorf("%+v, %q", m.From, m.About())
	}
}
