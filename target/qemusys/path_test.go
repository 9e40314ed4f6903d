package qemusys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dbgsh/internal/testkit"
	"dbgsh/pt"
	"dbgsh/target/proc"
	"dbgsh/vm"
)

// tablesAt starts a machine with x86Tables and connects to it, with 4 levels.
func tablesAt(t testing.TB, addr string) (*debuggee, string) {
	t.Helper()
	tables := x86Tables()
	addr = testkit.QEMU(t, "qemu-system-x86_64", addr, "-cpu", "max", "-m", "128", "-S", "-device", tables.file(t))
	wish := Auto
	d := connect(t, addr, &wish)
	d.fourLevels()
	return d, addr
}

func (d *debuggee) fourLevels() {
	d.Lines("set $cr3=0x100000ULL", "set $cr4=0x20ULL", "set $efer=0xd00ULL", "set $cr0=0x80050033ULL")
}

// tableRows is what tablesAt shows.
func tableRows(t testing.TB) []string {
	const pml4 = 1 << 39
	var want []string
	want = append(want, pdptRows(0, false, true, true)...)
	want = append(want, pdptRows(pml4, true, true, true)...)
	want = append(want, pdptRows(2*pml4, true, true, true)...)
	want = append(want, pdptRows(0xffff800000000000, true, true, false)...)
	return append(want, selfRows(t, x86Tables())...)
}

// Over a unix socket only so much of the monitor's output gets through as there
// is room for, which root can make.
func TestMachineOverUnixSocket(t *testing.T) {
	d, _ := tablesAt(t, filepath.Join(t.TempDir(), "gdb.sock"))
	m := d.machine()
	if m.why != "" {
		t.Fatal(m.why)
	}
	if os.Getuid() == 0 {
		if m.peer.Lines != anyLines {
			t.Errorf("room for %d lines", m.peer.Lines)
		}
		if text, err := d.Query(d.Ctx, "monitor xp /10000gx 0"); err != nil || strings.Count(text, "\n") != 5000 {
			t.Errorf("%d lines, %v", strings.Count(text, "\n"), err)
		}
	}
	for _, lines := range []int{noLines, someLines, anyLines} {
		d.lines, d.machines = &lines, &Machines{}
		for _, only := range []bool{false, true} {
			d.throughStub(only)
			m, err := d.Map(d.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "rows", shown(m), tableRows(t))
			if mode := d.physMode(); mode != "0" {
				t.Errorf("physical mode is %s", mode)
			}
		}
		d.throughStub(false)
		if known := d.machine().layout().views != nil; known != (lines > noLines) {
			t.Errorf("%d lines: layout known %v", lines, known)
		}
		if _, err := d.look().monitorMap(d.Ctx); lines < anyLines && (err == nil || !strings.Contains(err.Error(), "TCP")) {
			t.Errorf("info mem: %v", err)
		}
		mem, err := d.Memory(d.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		var b [8]byte
		if n, err := mem.ReadMemory(d.Ctx, b[:], 0xffff800001200000); n != 8 || err != nil {
			t.Errorf("read %d, %v", n, err)
		}
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
		p, err := d.Physical(d.Ctx)
		if (err == nil) != (lines > noLines) {
			t.Errorf("%d lines: physical memory: %v", lines, err)
		}
		if err == nil {
			p.Close()
		}
	}
	none := noLines
	d.lines, d.machines = &none, &Machines{}
	d.Lines("set $cr0=0x50033ULL")
	if m, err := d.Map(d.Ctx); err != nil || len(m.Mappings) != 0 || len(m.About()) != 2 {
		t.Errorf("paging off: %+v, %v", m, err)
	}
}

// Each GDB is led to its own QEMU.
func TestTwoMachines(t *testing.T) {
	d1, addr1 := tablesAt(t, "")
	d2, addr2 := tablesAt(t, "")
	d2.Lines("set $cr3=0x120000ULL", "set $cr0=0x50033ULL", "set $efer=0x800ULL", "set $cr0=0x80050033ULL")
	m1, err1 := d1.Map(d1.Ctx)
	m2, err2 := d2.Map(d2.Ctx)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	same(t, "first", shown(m1), tableRows(t))
	if m2.AddressBits != 32 {
		t.Errorf("second: %+v", m2)
	}
	p1, p2 := d1.machine().peer.PID, d2.machine().peer.PID
	for addr, pid := range map[string]int{addr1: p1, addr2: p2} {
		line, err := os.ReadFile(proc.Path(pid, "cmdline"))
		if err != nil || !strings.Contains(string(line), addr) {
			t.Errorf("%s leads to process %d: %q, %v", addr, pid, line, err)
		}
	}
	d1.Lines("kill")
	d2.Lines("kill")
}

// A machine with clusters of CPUs has several architectures behind one connection:
// each is asked for itself, whichever inferior it is.
func TestClusters(t *testing.T) {
	addr := testkit.QEMU(t, "qemu-system-aarch64", "", "-M", "xlnx-zcu102,virtualization=on", "-smp", "6", "-m", "512", "-S")
	wish := Auto
	d := newDebuggee(t, &wish)
	says := func(when, want string) {
		t.Helper()
		m, err := d.Map(d.Ctx)
		if err != nil || len(m.About()) == 0 || !strings.HasPrefix(m.About()[0], want) ||
			!slices.ContainsFunc(m.Mappings, func(r vm.Mapping) bool { return r.Name == "[ddr-ram]" }) {
			t.Errorf("%s: %q, %+v, %v", when, m.About(), m.Mappings, err)
		}
	}
	const a53, r5 = "SCTLR_EL2.M is 0: paging is off", "the CPU has a memory protection unit"
	d.Lines("target extended-remote "+addr, "add-inferior", "inferior 2", "attach 2")
	says("the R5", r5)
	for range 2 {
		d.Lines("inferior 1")
		says("the A53", a53)
		d.Lines("inferior 2")
		says("the R5 again", r5)
	}
	d.Lines("detach", "inferior 1", "detach", "attach 2")
	says("the R5 in place of the A53", r5)
	d.Lines("inferior 2", "attach 1")
	says("the A53 in place of the R5", a53)
	d.Lines("detach", "inferior 1", "detach")
}

// A CPU without an MMU translates nothing, and one whose tables are not known is
// said to be such.
func TestOtherCPUs(t *testing.T) {
	for _, tt := range []struct {
		qemu, machine, says string
		args                []string
	}{
		{"qemu-system-arm", "mps2-an385", "the CPU is one of ARM's M profile, which translates nothing: paging is off", []string{"-kernel", "/dev/null"}},
		{"qemu-system-arm", "integratorcp", "SCTLR.M is 0: paging is off", nil},
		{"qemu-system-s390x", "s390-ccw-virtio", "page tables of this architecture are not known to dbgsh", nil},
	} {
		t.Run(tt.machine, func(t *testing.T) {
			addr := testkit.QEMU(t, tt.qemu, "", append(tt.args, "-M", tt.machine, "-S")...)
			wish := Auto
			d := connect(t, addr, &wish)
			m, err := d.Map(d.Ctx)
			if err != nil || !strings.Contains(strings.Join(m.About(), "\n"), tt.says) {
				t.Errorf("%q, %v", m.About(), err)
			}
			d.Lines("disconnect")
		})
	}
}

// relay listens, and hands one connection on to addr; what comes back waits.
func relay(t testing.TB, addr string, delay time.Duration) string {
	t.Helper()
	return testkit.AcceptOne(t, func(from net.Conn) {
		to, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(to, from); to.Close() }() // ends with the connection
		_, _ = io.Copy(writerFunc(func(p []byte) (int, error) {
			time.Sleep(delay)
			return from.Write(p)
		}), to)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Somebody in between hands the connection on: he is not QEMU.
func TestMachineBehindProxy(t *testing.T) {
	tables := x86Tables()
	addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-cpu", "max", "-m", "128", "-S", "-device", tables.file(t))
	wish := Auto
	d := connect(t, relay(t, addr, 0), &wish)
	d.fourLevels()
	m, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "rows", shown(m), tableRows(t))
	if d.machine().peer.PID != os.Getpid() {
		t.Errorf("the other end is process %d", d.machine().peer.PID)
	}
	if mode := d.physMode(); mode != "0" {
		t.Errorf("physical mode is %s", mode)
	}
	// Paging off: no table has shown yet whose memory it is.
	d.Lines("set $cr0=0x50033ULL")
	mem, err := d.Memory(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	p, err := d.Physical(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, r := range []vm.Memory{mem, p} {
		var b [8]byte
		if n, err := r.ReadMemory(d.Ctx, b[:], 0x100000); n != 8 || err != nil || b[0] != xP|xU {
			t.Errorf("read %d, % x, %v", n, b, err)
		}
		notes := r.(interface{ Notes() []string }).Notes()
		if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, "read through the stub") }) {
			t.Errorf("notes %q", notes)
		}
	}
	d.Lines("kill")
}

// Whoever does not want to wait for a slow line does not have to, and the mode
// is set back.
func TestPhysicalModeOnASlowLine(t *testing.T) {
	tables := &fakeImage{base: 0x100000}
	tables.put(0x100000, 0, 0x101000|xP|xW)
	tables.put(0x101000, 0, 0x102000|xP|xW)
	for i := range 200 {
		tables.put(0x102000, i, uint64(0x200000+i*guestPage)|xP|xW)
	}
	addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-cpu", "max", "-m", "16", "-S", "-device", tables.file(t))
	wish := PageTables
	d := connect(t, relay(t, addr, 30*time.Millisecond), &wish)
	d.fourLevels()
	m := d.machine() // the layout is known
	ctx, cancel := context.WithCancel(d.Ctx)
	defer cancel()
	batches := 0
	err := (&look{m: m, c: &cpu{}}).inPhysicalMode(ctx, func(s *stubPhys) error {
		return s.rounds(func(mem pt.Phys) error {
			if batches++; batches == 3 {
				cancel()
			}
			_, err := pt.Walk(ctx, mem, pt.X86{CR0: 1 << 31, CR3: 0x100000, CR4: 0x20, EFER: 0xd00}, pt.Options{})
			if s.batch > 4 {
				t.Errorf("%d pages at once, though each takes long", s.batch)
			}
			return err
		})
	})
	if !errors.Is(err, context.Canceled) || batches != 3 {
		t.Errorf("%d rounds: %v", batches, err)
	}
	if mode := d.physMode(); mode != "0" {
		t.Errorf("physical mode is %s", mode)
	}
	d.Lines("disconnect")
}

// farLine is a line to addr on which every byte is under way for a while, both
// ways, and any number of them at once. It counts the packets that GDB sends.
func farLine(t testing.TB, addr string, oneWay time.Duration) (at string, packets *atomic.Int64) {
	t.Helper()
	packets = new(atomic.Int64)
	type piece struct {
		b    []byte
		when time.Time
	}
	return testkit.AcceptOne(t, func(from net.Conn) {
		to, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		carry := func(from, to net.Conn, seen func([]byte)) {
			line := make(chan piece, 1<<16)
			go func() {
				for p := range line {
					time.Sleep(time.Until(p.when))
					_, _ = to.Write(p.b) // the reader sees the end
				}
				to.Close()
			}()
			defer close(line)
			for {
				b := make([]byte, 1<<14)
				n, err := from.Read(b)
				if err != nil {
					return
				}
				seen(b[:n])
				line <- piece{b[:n], time.Now().Add(oneWay)}
			}
		}
		go carry(to, from, func([]byte) {})
		carry(from, to, func(b []byte) { packets.Add(int64(bytes.Count(b, []byte("$")))) })
	}), packets
}

// On a slow line it is answers that take time: a map takes few of them.
func TestSlowLine(t *testing.T) {
	const tables = 64
	m := &fakeImage{base: 0x100000}
	m.put(0x100000, 0, 0x101000|xP|xW)
	m.put(0x101000, 0, 0x102000|xP|xW)
	var want []string
	for i := range tables {
		m.put(0x102000, i, uint64(0x200000+i*guestPage)|xP|xW)
		m.put(0x200000+uint64(i*guestPage), 2*i, 0x5000|xP|xW)
		want = append(want, fmt.Sprintf("%x-%x rwx kernel", i<<21+2*i<<12, i<<21+(2*i+1)<<12))
	}
	copy(m.b[0x300:], "<the needle>")
	qemu := testkit.StartQEMU(t, "qemu-system-x86_64", "", "-cpu", "max", "-m", "16", "-S", "-device", m.file(t))
	at, packets := farLine(t, qemu.Addr, 10*time.Millisecond)
	wish := PageTables
	d := connect(t, at, &wish)
	d.fourLevels()
	machine := d.machine()
	if machine.answer < slowAnswer {
		t.Errorf("an answer takes %v", machine.answer)
	}
	// How long the monitor takes here hangs on what else runs: it is to be used.
	machine.answer = time.Hour
	for range 2 {
		before := packets.Load()
		out, err := d.Map(d.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "rows", shown(out), want)
		if n := packets.Load() - before; n > 25 { // 2 for each table else
			t.Errorf("%d packets", n)
		} else {
			t.Logf("%d packets for %d tables", n, tables+3)
		}
	}
	before := packets.Load()
	p, err := d.Physical(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	part := vm.Mapping{Range: vm.Range{Start: 0x100000, Size: 1 << 18}}
	if got, res := d.hitsOf(p, []vm.Mapping{part}, "<the needle>"); !slices.Equal(got, []uint64{0x100300}) {
		t.Errorf("found at %x: %+v", got, res)
	}
	if n := packets.Load() - before; n > 40 { // 128 else, and those for the tables
		t.Errorf("%d packets for 256 KiB", n)
	}
	if mode := d.physMode(); mode != "0" {
		t.Errorf("physical mode is %s", mode)
	}
	// A line that is narrow as well: what the monitor prints takes longer than
	// packets.
	machine.answer = slowAnswer
	s := newStubPhys(d.Ctx, machine)
	l := &look{m: machine, c: &cpu{}}
	s.physView, s.batch = l.see(d.Query), dumpAhead
	s.m = &Machine{g: d.GDB.GDB} // answers take no time
	if err := s.dumpAll([]uint64{0x100000}); !errors.Is(err, errNoDump) {
		t.Errorf("a narrow line: %v", err)
	}
	d.Lines("kill")
}

// What the monitor prints gets through, however much that is.
func TestDumpOverTCP(t *testing.T) {
	d, _ := tablesAt(t, "")
	d.throughStub(true)
	d.machine().answer = time.Hour
	m, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "rows", shown(m), tableRows(t))
	s := newStubPhys(d.Ctx, d.machine())
	s.physView = (&look{m: d.machine(), c: &cpu{}}).see(d.Query)
	for range 4 {
		if err := s.dump(0x100000, dumpMost); err != nil {
			t.Fatal(err)
		}
	}
	want := make([]byte, dumpMost*guestPage)
	copy(want, x86Tables().b)
	for i := range dumpMost {
		if got := s.pages[0x100000+uint64(i)*guestPage]; !bytes.Equal(got, want[i*guestPage:][:guestPage]) {
			t.Errorf("page %d is not as it was loaded", i)
		}
	}
	d.Lines("kill")
}

// TestParseDump: what is not of the form is told from memory.
func TestParseDump(t *testing.T) {
	const good = "0000000000001000: 0x0000000000102063 0xffffffffffffffff\r\n0000000000001010: 0x0000000000000001 0x0000000000000002\r\n"
	if b, ok := parseDump(good, 0x1000); !ok || len(b) != 32 || b[0] != 0x63 || b[8] != 0xff || b[16] != 1 || b[24] != 2 {
		t.Errorf("% x, %v", b, ok)
	}
	for _, bad := range []string{
		"", "unknown command: 'xp'\n", "0000000000001008: 0x0000000000000001\n", good + "0000000000001030: 0x0000000000000001\n",
		"0000000000001000: 0x00000001\n", "0000000000001000: Cannot access memory\n",
	} {
		if b, ok := parseDump(bad, 0x1000); ok {
			t.Errorf("%q: % x", bad, b)
		}
	}
}

func FuzzParseDump(f *testing.F) {
	f.Add("0000000000001000: 0x0000000000102063 0xffffffffffffffff\r\n", uint64(0x1000))
	f.Add("ffffffffffffffff: 0x0000000000102063\n", ^uint64(0))
	f.Fuzz(func(t *testing.T, text string, first uint64) {
		if b, ok := parseDump(text, first); ok && (len(b) == 0 || len(b)%8 != 0 || len(b) > len(text)) {
			t.Errorf("%d bytes of %d", len(b), len(text))
		}
	})
}

// A mode that somebody left on outlives his connection.
func TestPhysicalModeLeftOn(t *testing.T) {
	d, _ := tablesAt(t, "")
	d.Lines("maint packet Qqemu.PhyMemMode:1")
	for _, want := range []int{1, 1, 0} {
		if want == 0 {
			d.Lines("maint packet Qqemu.PhyMemMode:0")
		}
		m, err := d.Map(d.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "rows", shown(m), tableRows(t))
		notes := slices.DeleteFunc(m.About(), func(n string) bool { return !strings.Contains(n, "in physical mode") })
		if len(notes) != want {
			t.Errorf("notes %q, want %d", notes, want)
		}
	}
	d.Lines("kill")
}

// The mode is set back when the user gives up in the middle, and after an error.
func TestPhysicalModeEnds(t *testing.T) {
	d, _ := tablesAt(t, "")
	l := &look{m: d.machine(), c: &cpu{}}
	for reads := range 12 {
		ctx, cancel := context.WithCancel(d.Ctx)
		err := l.inPhysicalMode(ctx, func(s *stubPhys) error {
			var res *pt.Result
			mem := &countdown{nil, reads, cancel}
			err := s.rounds(func(phys pt.Phys) (err error) {
				mem.Phys = phys
				res, err = pt.Walk(ctx, mem, pt.X86{CR0: 1 << 31, CR3: 0x100000, CR4: 0x20, EFER: 0xd00}, pt.Options{})
				return err
			})
			if err == nil && mem.left < 0 {
				t.Errorf("after %d reads: %+v", reads, res)
			}
			return err
		})
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("after %d reads: %v", reads, err)
		}
		if mode := d.physMode(); mode != "0" {
			t.Fatalf("after %d reads the physical mode is %s", reads, mode)
		}
	}
	broken := errors.New("broken")
	if err := l.inPhysicalMode(d.Ctx, func(*stubPhys) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	// Ctrl-C at any time.
	d.throughStub(true)
	for at, lines := 1, 1; lines >= at; at++ {
		ctx, cancel := context.WithCancel(d.Ctx)
		lines = 0
		d.talk.each(func() {
			if lines++; lines == at {
				cancel()
			}
		})
		_, err := d.Map(ctx)
		d.talk.each(nil)
		cancel()
		if mode := d.physMode(); mode != "0" {
			t.Fatalf("after line %d to and from GDB the physical mode is %s (%v)", at, mode, err)
		}
	}
	m2, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "rows", shown(m2), tableRows(t))
	d.Lines("kill")
}

// countdown cancels after some reads.
type countdown struct {
	pt.Phys
	left   int
	cancel func()
}

func (c *countdown) ReadPhys(p []byte, pa uint64) error {
	if c.left--; c.left < 0 {
		c.cancel()
	}
	return c.Phys.ReadPhys(p, pa)
}

// Another user, and root in a PID namespace of his own, see nothing of QEMU's process.
func TestMachineOfAnotherUser(t *testing.T) {
	if addr := os.Getenv("DBGSH_TEST_STRANGER"); addr != "" {
		wish := Auto
		d := connect(t, addr, &wish)
		d.fourLevels()
		m, err := d.Map(d.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "rows", shown(m), tableRows(t))
		if mode := d.physMode(); mode != "0" || d.machine().why == "" {
			t.Errorf("mode %s, QEMU %d: %q", mode, d.machine().peer.PID, d.machine().why)
		}
		d.Lines("kill")
		return
	}
	if os.Getuid() != 0 {
		t.Skip("becoming another user takes root")
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "stranger.test")
	if err := os.WriteFile(copied, self, 0o755); err != nil {
		t.Fatal(err)
	}
	testkit.Need(t, "unshare")
	for _, words := range [][]string{{"unshare", "--pid", "--fork", "--mount-proc"}, nil} {
		tables := x86Tables()
		addr := testkit.QEMU(t, "qemu-system-x86_64", "", "-cpu", "max", "-m", "128", "-S", "-device", tables.file(t))
		words = append(words, copied, "-test.run=^TestMachineOfAnotherUser$", "-test.v")
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "DBGSH_TEST_STRANGER="+addr, "HOME=/", "TMPDIR="+os.TempDir(), "DBGSH_TEST_REQUIRE=1")
		if len(words) == 3 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%q: %v\n%s", words, err, text)
		}
	}
}
