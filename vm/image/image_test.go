package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dbgsh/vm"
)

// procMem reads /proc/PID/mem.
type procMem struct{ f *os.File }

func (m procMem) ReadMemory(_ context.Context, p []byte, addr uint64) (int, error) {
	return m.f.ReadAt(p, int64(addr))
}

// TestImageLive compares images of a process's memory with its files.
func TestImageLive(t *testing.T) {
	for _, v := range []struct {
		name  string
		flags []string
	}{{"pie", nil}, {"no-pie", []string{"-no-pie"}}, {"static", []string{"-static"}}} {
		t.Run(v.name, func(t *testing.T) {
			dir := t.TempDir()
			p := startLive(t, dir, nil, buildC(t, "gcc", v.flags...))
			b, err := os.ReadFile(p.proc("auxv"))
			if err != nil {
				t.Fatal(err)
			}
			auxv, err := ParseAuxv(b, 8, kinds()[0].order)
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(p.proc("mem"))
			if err != nil {
				t.Skip(err)
			}
			defer f.Close()
			mem := procMem{f}
			maps := p.maps(t)
			ctx := t.Context()

			phdr, _ := auxv.Get(AuxPhdr)
			num, _ := auxv.Get(AuxPhnum)
			exe, err := ReadImagePhdrs(ctx, mem, elf.ELFCLASS64, kinds()[0].order, phdr, num)
			if err != nil {
				t.Fatal(err)
			}
			// Every file that is mapped from its start, with where.
			start := map[string]uint64{}
			for _, m := range maps {
				if strings.HasPrefix(m.Name, "/") && m.Offset == 0 {
					start[m.Name] = m.Start
				}
			}
			images := 0
			for path, at := range start {
				img, err := ReadImage(ctx, mem, at)
				if errors.Is(err, ErrNotELF) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				images++
				file, err := elf.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				if s := file.Section(".note.gnu.build-id"); s != nil {
					want, _ := s.Data()
					if got := img.BuildID(ctx); !bytes.Equal(got, want[16:]) {
						t.Errorf("%s: build-id %x, want %x", path, got, want[16:])
					}
				}
				_ = file.Close()
				// Each segment's text is where the image says.
				parts, err := img.Mappings(Loaded{Bias: img.Bias, Page: 4096, Name: path})
				if err != nil {
					t.Fatal(err)
				}
				for _, part := range parts {
					i := slices.IndexFunc(maps, func(m vm.Mapping) bool { return m.Contains(part.Start) })
					switch {
					case i < 0 || maps[i].Name != part.Name:
						t.Errorf("%s: %v %v is not so mapped", path, part.Range, part.Perm)
					case part.Name != "" && (maps[i].Start != part.Start || maps[i].Offset != part.Offset):
						t.Errorf("%s: %v from %#x, not %v from %#x", path, part.Range, part.Offset, maps[i].Range, maps[i].Offset)
					case part.Perm.Is(vm.Exec) != maps[i].Perm.Is(vm.Exec):
						t.Errorf("%s: %v %v, not %v", path, part.Range, part.Perm, maps[i].Perm)
					}
				}
				if path == p.exe && img.Bias != exe.Bias {
					t.Errorf("bias %#x and %#x", img.Bias, exe.Bias)
				}
			}
			links, err := exe.LinkMap(ctx)
			if v.name == "static" {
				if !errors.Is(err, ErrNoLinkMap) || exe.Interp(ctx) != "" {
					t.Errorf("link map of a static program: %v, %v", links, err)
				}
				return
			}
			if err != nil || len(links) < 3 || links[0].Name != "" || links[0].Bias != exe.Bias {
				t.Fatalf("link map: %v, %v", links, err)
			}
			found := 1
			for _, l := range links[1:] {
				if !strings.HasPrefix(l.Name, "/") {
					continue // the vDSO
				}
				real, err := os.Readlink(l.Name)
				for err == nil {
					l.Name = real
					real, err = os.Readlink(l.Name)
				}
				for path, at := range start {
					if strings.HasSuffix(path, l.Name[strings.LastIndexByte(l.Name, '/'):]) && at == l.Bias {
						found++
					}
				}
			}
			if found != images {
				t.Errorf("%d of %d images in the link map %v", found, images, links)
			}
			if !strings.Contains(exe.Interp(ctx), "ld-linux") {
				t.Errorf("interpreter %q", exe.Interp(ctx))
			}
		})
	}
}

// linkImage is memory with a dynamic program and a list of n objects, the last
// of which leads on to next.
func linkImage(f elfFile, tag elf.DynTag, n int, next uint64) (mem coreExtents, base uint64) {
	base = 0x100000
	f.typ = elf.ET_DYN
	f.progs = []elf.ProgHeader{
		{Type: elf.PT_LOAD, Flags: elf.PF_R, Filesz: 0x10000, Memsz: 0x10000},
		{Type: elf.PT_DYNAMIC, Vaddr: 0x1000, Memsz: 0x1000},
	}
	b := make([]byte, 0x10000)
	copy(b, f.bytes())
	put := func(at uint64, vs ...uint64) { copy(b[at:], f.words(vs...)) }
	w := uint64(len(f.words(0)))
	const debug = 0x2000
	switch tag {
	case dtMIPSRldMapRel:
		put(0x1000, 1, 1, uint64(tag), 0x3000-(0x1000+2*w), 0)
	case dtMIPSRldMap:
		put(0x1000, 1, 1, uint64(tag), base+0x3000, 0)
	default:
		put(0x1000, 1, 1, uint64(tag), base+debug, 0)
	}
	put(0x3000, base+debug)
	copy(b[debug:], f.order.AppendUint32(nil, 1))
	put(debug+w, base+0x4000)
	for i := range uint64(n) {
		at, to := 0x4000+0x100*i, base+0x4000+0x100*(i+1)
		if i == uint64(n-1) {
			to = next
		}
		name := fmt.Sprintf("/lib/%d.so\x00", i)
		copy(b[at+0x40:], name)
		put(at, 0x1000*i, base+at+0x40, 0x77, to)
	}
	return coreExtents{{vm.Range{Start: base, Size: uint64(len(b))}, bytes.NewReader(b), 0}}, base
}

func TestLinkMap(t *testing.T) {
	for _, f := range kinds() {
		for _, tag := range []elf.DynTag{elf.DT_DEBUG, dtMIPSRldMap, dtMIPSRldMapRel} {
			mem, base := linkImage(f, tag, 3, 0)
			img, err := ReadImage(t.Context(), mem, base)
			if err != nil {
				t.Fatal(err)
			}
			links, err := img.LinkMap(t.Context())
			want := []LinkEntry{{0, "/lib/0.so", 0x77}, {0x1000, "/lib/1.so", 0x77}, {0x2000, "/lib/2.so", 0x77}}
			if diff := cmp.Diff(want, links); err != nil || diff != "" {
				t.Errorf("%v %v %#x: %v\n%s", f.class, f.order, int(tag), err, diff)
			}
		}
	}
}

func TestLinkMapBroken(t *testing.T) {
	f := kinds()[0]
	for name, next := range map[string]uint64{"loop to the first": 0x104000, "loop to itself": 0x104200, "into nothing": 0x666, "at the end of memory": 1<<64 - 3} {
		mem, base := linkImage(f, elf.DT_DEBUG, 3, next)
		img, err := ReadImage(t.Context(), mem, base)
		if err != nil {
			t.Fatal(err)
		}
		links, err := img.LinkMap(t.Context())
		if len(links) != 3 || strings.HasPrefix(name, "loop") != (err == nil) {
			t.Errorf("%s: %v, %v", name, links, err)
		}
	}
	mem, base := linkImage(f, elf.DT_NEEDED, 3, 0)
	img, err := ReadImage(t.Context(), mem, base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.LinkMap(t.Context()); !errors.Is(err, ErrNoLinkMap) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadImage(ctx, mem, base); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := ReadImage(t.Context(), mem, base+1); !errors.Is(err, ErrNotELF) {
		t.Errorf("no image: %v", err)
	}
	if _, err := ReadImage(t.Context(), mem, 5); err == nil {
		t.Error("no memory, no error")
	}
}
