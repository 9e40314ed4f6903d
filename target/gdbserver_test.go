package target

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/target/proc"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// serve starts gdbserver on a program and returns where it listens.
func serve(t testing.TB, args ...string) string {
	t.Helper()
	addr, _ := testkit.GDBServer(t, args...)
	return addr
}

func TestMapBehindGDBServer(t *testing.T) {
	prog := testkit.BuildC(t, "oddmaps")
	for _, how := range []string{"remote", "extended-remote"} {
		t.Run(how, func(t *testing.T) {
			d := start(t, prog)
			d.gdbLines("target "+how+" "+serve(t, prog, t.TempDir()), "break ready", "continue")
			d.sameMap()
			v, err := d.View(d.ctx)
			if err != nil || v.Kind != KindGDBServer {
				t.Errorf("kind is %v, %v", v.Kind, err)
			}
			m, err := d.Map(d.ctx)
			if err != nil || m.Mappings[0].Source != vm.SourceRemote {
				t.Fatalf("%+v, %v", m, err)
			}
			d.sameMemory(m)
		})
	}
}

// sameMemory compares what is read through the target with /proc/PID/mem.
func (d *debuggee) sameMemory(m *vm.Map) {
	d.t.Helper()
	mem, err := d.Memory(d.ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	defer mem.Close()
	truth, err := os.Open(fmt.Sprintf("/proc/%d/mem", d.pid()))
	if err != nil {
		d.t.Fatal(err)
	}
	defer truth.Close()
	read := 0
	for _, mp := range m.Mappings {
		if !mp.Perm.Is(vm.Read) || mp.Name == "[vsyscall]" || strings.HasPrefix(mp.Name, "[vvar") {
			continue
		}
		want, got := make([]byte, mp.Size), make([]byte, mp.Size)
		if n, err := truth.ReadAt(want, int64(mp.Start)); err != nil || uint64(n) != mp.Size {
			d.t.Fatalf("%v: %d, %v", mp, n, err)
		}
		n, err := mem.ReadMemory(d.ctx, got, mp.Start)
		if err != nil || uint64(n) != mp.Size || !bytes.Equal(got, want) {
			d.t.Errorf("%v %s: read %d of %d bytes, %v, equal: %v", mp.Range, mp.Title(), n, mp.Size, err, bytes.Equal(got, want))
		}
		read++
	}
	if read < 10 {
		d.t.Errorf("only %d mappings were read", read)
	}
}

func TestMemoryOfProcess(t *testing.T) {
	d := start(t, testkit.BuildC(t, "oddmaps"), t.TempDir())
	d.gdbLines("break ready", "run")
	m, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	d.sameMemory(m)
}

func TestSearchBehindGDBServer(t *testing.T) {
	prog := testkit.BuildC(t, "oddmaps")
	d := start(t, prog)
	d.gdbLines("target remote "+serve(t, prog, t.TempDir()), "break ready", "continue")
	m, err := d.Map(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := d.Memory(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	local, err := proc.OpenMemory(d.pid(), proc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	// What the guard in oddmaps separates; bytes that a packet has to escape; and
	// the first bytes of files, which lie beside memory that cannot be read.
	for _, needle := range []string{"the guard", "\x7fELF", "d\x00", "x)", "x*", "\x05\x00\x00\x00\x00\x00\x00\x00", "end of the ", "\x00\x00\x00\x00\x7d", "#$}*", "\xff\xff\xff\xff\xff\xff\xff\xff"} {
		matcher, err := search.NewBytes([]byte(needle))
		if err != nil {
			t.Fatal(err)
		}
		o := search.Options{Matcher: matcher, Limit: 500}
		got, err := search.Scan(d.ctx, mem, m.Mappings, o)
		if err != nil || got.Partial != nil {
			t.Fatal(err, got.Partial)
		}
		want, err := search.Scan(d.ctx, local, m.Mappings, o)
		if err != nil || want.Partial != nil {
			t.Fatal(err, want.Partial)
		}
		if got.Count != want.Count || needle == "the guard" && got.Count != 2 {
			t.Errorf("%q: %d hits, want %d", needle, got.Count, want.Count)
			continue
		}
		for i, h := range got.Hits.All() {
			if w := want.Hits.At(i); h.Address != w.Address || !bytes.Equal(h.Preview, w.Preview) {
				t.Errorf("%q: hit %d is %#x %x, want %#x %x", needle, i, h.Address, h.Preview, w.Address, w.Preview)
			}
		}
		if got.SearchedBytes != want.SearchedBytes {
			t.Errorf("%q: searched %d bytes, want %d (%v, %v)", needle, got.SearchedBytes, want.SearchedBytes, got.Unread, want.Unread)
		}
	}
}

func TestServerDiesWhileTheTargetRuns(t *testing.T) {
	prog := testkit.BuildC(t, "oddmaps") // waits for its input
	for _, line := range []string{"continue", "stepi"} {
		d := start(t, prog)
		addr, server := testkit.GDBServer(t, prog, t.TempDir())
		d.gdbLines("target remote "+addr, "break ready", "continue")
		died := make(chan error, 1)
		go func() {
			for running, changed := d.Running(); !running && line == "continue"; running, changed = d.Running() {
				<-changed
			}
			died <- server.Process.Kill()
		}()
		if line != "continue" {
			if err := <-died; err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		err := d.Console(d.ctx, line, &out)
		var lost *LostError
		aborted := strings.Contains(out.String(), "internal-error") // GDB's own (thread.c of 13)
		switch {
		case !errors.As(err, &lost), lost.What != "the target" && !aborted:
			t.Errorf("%s: got %v\n%s", line, err, out.String())
		case aborted && !strings.Contains(lost.Reason, "when the target was lost: Remote co"):
			t.Errorf("%s: GDB aborted: %v\n%s", line, err, out.String())
		}
	}
}
