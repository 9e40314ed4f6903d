package target

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dbgsh/vm"
)

// kernelFile is an unpacked Debian kernel for an architecture, as
// .ci/kernels leaves it.
func kernelFile(t testing.TB, arch string) string {
	t.Helper()
	dir := os.Getenv("DBGSH_TEST_KERNELS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "dbgsh-kernels")
	}
	found, err := filepath.Glob(filepath.Join(dir, arch, "boot", "vmlinu[xz]-*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		why := fmt.Sprintf("no kernel in %s: .ci/kernels fetches those of Debian", filepath.Join(dir, arch))
		if os.Getenv("DBGSH_TEST_REQUIRE") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	return found[len(found)-1]
}

// initramfs is a root file system of nothing but /init, in cpio's new ASCII
// format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
func initramfs(t testing.TB, arch string) string {
	t.Helper()
	need(t, "go")
	dir := t.TempDir()
	prog := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", prog, "../testdata/kernelinit.go")
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
func bootLinux(t testing.TB, qemu, arch, addr, line string, args ...string) string {
	t.Helper()
	need(t, qemu)
	kernel := kernelFile(t, arch)
	console := filepath.Join(t.TempDir(), "console")
	args = append(slices.Clone(args), "-kernel", kernel, "-initrd", initramfs(t, arch), "-append", line+" quiet panic=-1", "-serial", "file:"+console, "-no-reboot")
	addr = startQEMU(t, qemu, addr, args...)
	waitFor(t, func() bool {
		text, _ := os.ReadFile(console)
		return bytes.Contains(text, []byte("guest is up"))
	})
	return addr
}

// agree compares a map with the monitor's info tlb and, where mem is set, info mem.
func (d *debuggee) agree(m *vm.Map, cpu int, mem bool) {
	d.t.Helper()
	text, err := d.monitorOf(d.ctx, cpu, "info tlb")
	if err != nil {
		d.t.Fatal(err)
	}
	pages, err := d.PageTables(d.ctx, PageTableOptions{PTE: true})
	if err != nil {
		d.t.Fatal(err)
	}
	leaves := tlbLeaves(text)
	if len(leaves) < 100 {
		d.t.Errorf("info tlb lists %d pages", len(leaves))
	}
	same(d.t, "info tlb", leavesOf(pages.Mappings), leaves)
	if !mem {
		return
	}
	if text, err = d.monitorOf(d.ctx, cpu, "info mem"); err != nil {
		d.t.Fatal(err)
	}
	oracle, _, err := vm.ParseMonitorMem(text)
	if err != nil {
		d.t.Fatal(err)
	}
	same(d.t, "info mem", withoutExec(m.Mappings), withoutExec(oracle))
}

func TestLinuxX86(t *testing.T) {
	addr := bootLinux(t, "qemu-system-x86_64", "amd64", "", "console=ttyS0", "-cpu", "max,la57=off", "-m", "512")
	wish := KernelMapAuto
	d := connect(t, addr, &wish)
	m, err := d.Map(d.ctx)
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
	d.physicalOnly = true
	slow, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "physical mode", shown(slow), shown(m))
	if mode := d.physMode(); mode != "0" {
		t.Errorf("physical mode is %s", mode)
	}
	d.physicalOnly = false
	d.gdbLines("kill")
}

func TestLinuxX86KPTI(t *testing.T) {
	addr := bootLinux(t, "qemu-system-x86_64", "amd64", "", "console=ttyS0 pti=on", "-cpu", "max", "-smp", "2", "-m", "6G")
	wish := KernelMapAuto
	d := connect(t, addr, &wish)
	var sizes []string
	for cpu := range 2 {
		d.gdbLines(fmt.Sprintf("thread %d", cpu+1))
		m, err := d.Map(d.ctx)
		if err != nil {
			t.Fatal(err)
		}
		d.agree(m, cpu, false)
		sizes = append(sizes, strings.Join(shown(m), "\n"))
	}
	if sizes[0] == sizes[1] {
		t.Error("one CPU is in user mode and the other idle, and both have one map")
	}
	d.gdbLines("kill")
}

// reader is a vm.Reader and nothing more.
type reader struct{ vm.Reader }

// searches looks for init's marker in all that is mapped: the search that reads
// each physical page once finds what reading every mapping does.
func (d *debuggee) searches(m *vm.Map) {
	d.t.Helper()
	mem, err := d.Memory(d.ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	defer mem.Close()
	for _, needle := range []string{"dbgsh-guest-marker", "Linux version ", "\x7fELF"} {
		matcher, err := vm.NewBytes([]byte(needle))
		if err != nil {
			d.t.Fatal(err)
		}
		var found [2][]string
		for i, r := range []vm.Reader{mem, reader{mem}} {
			res, err := vm.Scan(d.ctx, r, m.Mappings, vm.ScanOptions{Matcher: matcher})
			if err != nil || res.Partial != nil {
				d.t.Fatal(err, res.Partial)
			}
			for _, h := range res.Hits.All() {
				found[i] = append(found[i], fmt.Sprintf("%x", h.Address))
			}
			found[i] = append(found[i], fmt.Sprint(res.SearchedBytes, " bytes"))
		}
		if len(found[0]) < 3 {
			d.t.Errorf("%q: %d hits", needle, len(found[0])-1)
		}
		same(d.t, needle, found[0], found[1])
	}
}

// regions checks what the names of regions rest on: the direct map's rows are as
// far from physical memory as its first one, and the text is the kernel's, whose
// banner is in its image.
func (d *debuggee) regions(m *vm.Map) {
	d.t.Helper()
	sizes := map[string]uint64{}
	for _, r := range m.Mappings {
		sizes[r.Paged.Region] += r.Size
		if r.Paged.Region == "kernel text" && (r.Perm.String()[:3] != "r-x" || r.Paged.User != "---") {
			d.t.Errorf("kernel text is %+v", r)
		}
	}
	for region, least := range map[string]uint64{"direct map": 400 << 20, "kernel text": 4 << 20, "kernel image": 4 << 20, "cpu_entry_area": 0x1000, "fixmap": 0x1000} {
		if sizes[region] < least {
			d.t.Errorf("%s has %#x bytes: %v", region, sizes[region], sizes)
		}
	}
	d.t.Log(sizes)
}
