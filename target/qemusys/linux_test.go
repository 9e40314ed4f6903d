package qemusys

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// kernelFile is an unpacked Debian kernel by the name that .ci/kernels has for it.
func kernelFile(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("DBGSH_TEST_KERNELS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "dbgsh-kernels")
	}
	found, err := filepath.Glob(filepath.Join(dir, name, "boot", "vmlinu[xz]-*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		testkit.Missing(t, "no kernel in %s: .ci/kernels fetches those of Debian", filepath.Join(dir, name))
	}
	return found[len(found)-1]
}

// goarch is the GOARCH of the programs that a kernel of kernelFile runs.
func goarch(kernel string) string {
	switch {
	case strings.HasPrefix(kernel, "686"):
		return "386"
	case strings.HasPrefix(kernel, "armmp"):
		return "arm"
	}
	return kernel
}

// initramfs is a root file system of nothing but /init, in cpio's new ASCII
// format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
func initramfs(t testing.TB, arch string) string {
	t.Helper()
	testkit.Need(t, "go")
	dir := t.TempDir()
	prog := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", prog, testkit.Testdata(t, "kernelinit.go"))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	body, err := os.ReadFile(prog)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	entry := func(name string, mode int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		pad := func() { b.Write(make([]byte, -b.Len()&3)) }
		pad()
		b.Write(data)
		pad()
	}
	entry("init", 0o100755, body)
	entry("TRAILER!!!", 0, nil)
	path := filepath.Join(dir, "initrd.gz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// bootLinux boots a kernel and returns where its stub listens when init runs.
// What the kernel tests of its own ciphers would take a third of the time.
func bootLinux(t testing.TB, qemu, kernel, addr, line string, args ...string) string {
	t.Helper()
	testkit.Need(t, qemu)
	console := filepath.Join(t.TempDir(), "console")
	args = append(slices.Clone(args), "-kernel", kernelFile(t, kernel), "-initrd", initramfs(t, goarch(kernel)), "-append", line+" quiet panic=-1 cryptomgr.notests", "-serial", "file:"+console, "-no-reboot")
	addr = testkit.QEMU(t, qemu, addr, args...)
	testkit.WaitFor(t, "end of the boot", func() bool {
		text, _ := os.ReadFile(console)
		return bytes.Contains(text, []byte("guest is up"))
	})
	return addr
}

// tlbEntry is a line of info tlb on x86.
var tlbEntry = regexp.MustCompile(`(?m)^([0-9a-f]{16}): ([0-9a-f]{16}) ([-X][-G][-P][-D][-A][-C][-T])`)

// tlbEntries is the pages that info tlb lists, with their flags; nx says whether
// NX is among them. The levels above may forbid execution, too, which info tlb
// does not tell.
func tlbEntries(text string, nx bool) []string {
	var rows []string
	for _, m := range tlbEntry.FindAllStringSubmatch(text, -1) {
		var va, pa uint64
		_, _ = fmt.Sscanf(m[1]+" "+m[2], "%x %x", &va, &pa)
		flags := m[3]
		if !nx {
			flags = "-" + flags[1:]
		}
		rows = append(rows, fmt.Sprintf("%x: %x %s", va, pa&^(1<<63), flags)) // with PAE NX is left in the address
	}
	return rows
}

// entriesOf is rows in the form of tlbEntries.
func entriesOf(ms []vm.Mapping, nx bool) []string {
	var rows []string
	for _, m := range ms {
		words := strings.Fields(m.Paged.Flags)
		flags := []byte("-------")
		for i, set := range []bool{
			nx && !m.Perm.Is(vm.Exec), slices.Contains(words, "G"), m.Paged.PageSize > 0x1000 || slices.Contains(words, "PAT"),
			slices.Contains(words, "D"), slices.Contains(words, "A"), slices.Contains(words, "PCD"), slices.Contains(words, "PWT"),
		} {
			if set {
				flags[i] = "XGPDACT"[i]
			}
		}
		for off := uint64(0); off < m.Size; off += m.Paged.PageSize {
			rows = append(rows, fmt.Sprintf("%x: %x %s", m.Start+off, m.Paged.Phys+off, flags))
		}
	}
	return rows
}

// agree compares a map with the monitor's info tlb and, where mem is set, info mem.
func (d *debuggee) agree(m *vm.Map, cpu int, mem bool) {
	d.T.Helper()
	text, err := d.machine().monitorOf(d.Ctx, cpu, "info tlb")
	if err != nil {
		d.T.Fatal(err)
	}
	pages, err := d.PageTables(d.Ctx, TableOptions{PTE: true})
	if err != nil {
		d.T.Fatal(err)
	}
	leaves := tlbEntries(text, mem)
	if len(leaves) < 100 {
		d.T.Errorf("info tlb lists %d pages", len(leaves))
	}
	same(d.T, "info tlb", entriesOf(pages.Mappings, mem), leaves)
	if !mem {
		return
	}
	if text, err = d.machine().monitorOf(d.Ctx, cpu, "info mem"); err != nil {
		d.T.Fatal(err)
	}
	oracle, _, err := ParseMonitorMem(text)
	if err != nil {
		d.T.Fatal(err)
	}
	same(d.T, "info mem", withoutExec(m.Mappings), withoutExec(oracle))
}

// alike compares a map with what physical mode makes of the same tables.
func (d *debuggee) alike(m *vm.Map) {
	d.T.Helper()
	d.throughStub(true)
	defer d.throughStub(false)
	slow, err := d.Map(d.Ctx)
	if err != nil {
		d.T.Fatal(err)
	}
	same(d.T, "physical mode", shown(slow), shown(m))
	if mode := d.physMode(); mode != "0" {
		d.T.Errorf("physical mode is %s", mode)
	}
}

func TestLinuxX86(t *testing.T) {
	addr := bootLinux(t, "qemu-system-x86_64", "amd64", "", "console=ttyS0", "-cpu", "max,la57=off", "-m", "512")
	wish := Auto
	d := connect(t, addr, &wish)
	m, err := d.Map(d.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	d.agree(m, 0, true)
	text := 0
	for _, r := range m.Mappings {
		if r.Start>>31 == 0x1ffffffff && r.Perm.Is(vm.Exec) {
			text++
			if r.Perm.Is(vm.Write) {
				t.Errorf("kernel text is writable: %+v", r)
			}
		}
	}
	if text == 0 {
		t.Error("no kernel text")
	}
	d.searches(m)
	d.regions(m)
	d.alike(m)
	d.Lines("kill")
}

// i386 without and with PAE, which brings NX.
func TestLinux386(t *testing.T) {
	for _, machine := range []struct{ kernel, qemu, cpu string }{
		{"686", "qemu-system-i386", "qemu32"}, {"686-pae", "qemu-system-x86_64", "max"},
	} {
		t.Run(machine.kernel, func(t *testing.T) {
			addr := bootLinux(t, machine.qemu, machine.kernel, "", "console=ttyS0 noisapnp", "-cpu", machine.cpu, "-m", "512")
			wish := Auto
			d := connect(t, addr, &wish)
			m, err := d.Map(d.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			d.agree(m, 0, true)
			// Where the text is, KASLR or not: interrupt gate 14 leads there.
			regs, err := d.Query(d.Ctx, "monitor info registers")
			if err != nil {
				t.Fatal(err)
			}
			_, idt, _ := strings.Cut(regs, "IDT=")
			idt, _, _ = strings.Cut(strings.TrimSpace(idt), " ")
			handler := fmt.Sprintf("*(unsigned short *)(0x%s+14*8)+(*(unsigned short *)(0x%[1]s+14*8+6)<<16)", idt)
			at, err := d.machine().registersOf(d.Ctx, "(unsigned int)("+handler+")", "(unsigned long)$cr4>>5&1") // CR4.PAE
			if err != nil {
				t.Fatal(err)
			}
			pae := machine.kernel == "686-pae"
			text := false
			for _, r := range m.Mappings {
				if r.Contains(at[0]) {
					text = r.Paged.Kernel == "r-x" && r.Paged.User == "---" && r.Size > 4<<20
				}
				if pae && r.Paged.Kernel == "rwx" && r.Paged.User == "---" {
					t.Errorf("the kernel may write and execute %+v", r)
				}
			}
			if !text {
				t.Errorf("%#x is in no text of the kernel's:\n%s", at[0], strings.Join(shown(m), "\n"))
			}
			if m.AddressBits != 32 || pae != (at[1] == 1) {
				t.Errorf("%d bits, CR4.PAE is %d", m.AddressBits, at[1])
			}
			d.alike(m)
			d.Lines("kill")
		})
	}
}

func TestLinuxX86KPTI(t *testing.T) {
	addr := bootLinux(t, "qemu-system-x86_64", "amd64", "", "console=ttyS0 pti=on", "-cpu", "max", "-smp", "2", "-m", "6G")
	wish := Auto
	d := connect(t, addr, &wish)
	// The one that runs init may be in the kernel for a moment, on the same tables
	// as the idle one. CR3's bit 12 tells.
	testkit.WaitFor(t, "CPU in user mode", func() bool {
		for cpu := range 2 {
			d.Lines(fmt.Sprintf("thread %d", cpu+1))
			cr3, err := d.machine().registersOf(d.Ctx, "(unsigned long)$cr3")
			if err != nil {
				t.Fatal(err)
			}
			if cr3[0]>>12&1 != 0 {
				return true
			}
		}
		d.Lines("detach", "target remote "+addr)
		return false
	})
	var sizes []string
	for cpu := range 2 {
		d.Lines(fmt.Sprintf("thread %d", cpu+1))
		m, err := d.Map(d.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		d.agree(m, cpu, false)
		sizes = append(sizes, strings.Join(shown(m), "\n"))
	}
	if sizes[0] == sizes[1] {
		t.Error("one CPU is in user mode and the other idle, and both have one map")
	}
	d.Lines("kill")
}

// reader is a vm.Reader and nothing more.
type reader struct{ vm.Reader }

// searches looks for init's marker in all that is mapped: the search that reads
// each physical page once finds what reading every mapping does.
func (d *debuggee) searches(m *vm.Map) {
	d.T.Helper()
	mem, err := d.Memory(d.Ctx)
	if err != nil {
		d.T.Fatal(err)
	}
	defer mem.Close()
	for _, needle := range []string{"dbgsh-guest-marker", "Linux version ", "\x7fELF"} {
		matcher, err := search.NewBytes([]byte(needle))
		if err != nil {
			d.T.Fatal(err)
		}
		var found [2][]string
		for i, r := range []vm.Reader{mem, reader{mem}} {
			res, err := search.Scan(d.Ctx, r, m.Mappings, search.Options{Matcher: matcher})
			if err != nil || res.Partial != nil {
				d.T.Fatal(err, res.Partial)
			}
			for _, h := range res.Hits.All() {
				found[i] = append(found[i], fmt.Sprintf("%x", h.Address))
			}
			found[i] = append(found[i], fmt.Sprint(res.SearchedBytes, " bytes"))
		}
		if len(found[0]) < 3 {
			d.T.Errorf("%q: %d hits", needle, len(found[0])-1)
		}
		same(d.T, needle, found[0], found[1])
	}
}

// regions checks what the names of regions rest on: the direct map's rows are as
// far from physical memory as its first one, and the text is the kernel's, whose
// banner is in its image.
func (d *debuggee) regions(m *vm.Map) {
	d.T.Helper()
	sizes := map[string]uint64{}
	for _, r := range m.Mappings {
		sizes[r.Paged.Region] += r.Size
		if r.Paged.Region == "kernel text" && (r.Perm.String()[:3] != "r-x" || r.Paged.User != "---") {
			d.T.Errorf("kernel text is %+v", r)
		}
	}
	for region, least := range map[string]uint64{"direct map": 400 << 20, "kernel text": 4 << 20, "kernel image": 4 << 20, "cpu_entry_area": 0x1000, "fixmap": 0x1000} {
		if sizes[region] < least {
			d.T.Errorf("%s has %#x bytes: %v", region, sizes[region], sizes)
		}
	}
	d.T.Log(sizes)
}
