package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"dbgsh/internal/testkit"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// countedFile is a file that counts what is read of it.
type countedFile struct {
	*os.File
	reads, bytes atomic.Int64
}

func (f *countedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.reads.Add(1)
	f.bytes.Add(int64(n))
	return n, err
}

// bytesAt are bytes at an offset.
type bytesAt struct {
	off int64
	b   []byte
}

// sparseFile is a file of size bytes with these bytes, one after the other as far
// as there is room, and nothing else.
func sparseFile(t testing.TB, path string, size int64, bodies []bytesAt) *countedFile {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		testkit.Missing(t, "a sparse file: %v", err)
	}
	for _, at := range bodies {
		if _, err := f.WriteAt(at.b[:max(0, min(int64(len(at.b)), size-at.off))], at.off); err != nil {
			t.Fatal(err)
		}
	}
	return &countedFile{File: f}
}

// TestSparseCore searches a core that announces a thousand times what a machine
// has: nearly all of it is holes of the file, or not in it at all.
func TestSparseCore(t *testing.T) {
	const (
		rw      = elf.PF_R | elf.PF_W
		at, off = 0x1000_0000_0000, 1 << 20
		size    = 1 << 40
	)
	absent := []vm.Range{{Start: 0x2000_0000_0000, Size: 50 << 40}, {Start: 0x6000_0000_0000, Size: 20 << 40}}
	f := elfFile{class: elf.ELFCLASS64, order: kinds()[0].order, machine: elf.EM_X86_64, typ: elf.ET_CORE}
	f.progs = []elf.ProgHeader{
		{Type: elf.PT_LOAD, Flags: rw, Off: off, Vaddr: at, Memsz: size, Filesz: size},
		load(rw, absent[0].Start, absent[0].Size), load(0, absent[1].Start, absent[1].Size),
	}
	needle := []byte("needle")
	places := []uint64{0, 3<<30 - 3, 700<<30 + 5, size - 6}
	bodies := []bytesAt{{0, f.bytes()}}
	for _, p := range places {
		bodies = append(bodies, bytesAt{int64(off + p), needle})
	}
	file := sparseFile(t, filepath.Join(t.TempDir(), "core"), off+size, bodies)
	c, err := OpenCore(t.Context(), file, off+size, CoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	matcher, err := search.NewBytes(needle)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	// As it is searched, and as memory that somebody added by hand over it is.
	ms := c.plain(t)
	res, err := search.Scan(ctx, c, ms, search.Options{Matcher: matcher, Workers: 2})
	if err != nil || res.Partial != nil {
		t.Fatalf("%v, %v", err, res.Partial)
	}
	if res.Hits.Len() != len(places) || res.SearchedBytes != size {
		t.Errorf("%d hits in %#x bytes", res.Hits.Len(), res.SearchedBytes)
	}
	for i, h := range res.Hits.All() {
		if h.Address != at+places[i] {
			t.Errorf("a hit at %#x, not at %#x", h.Address, at+places[i])
		}
	}
	un := res.UnreadMappings(ms)
	if len(un) != 2 || !un[0].Whole || !un[1].Whole {
		t.Errorf("unread: %+v", un)
	}
	if reads, n := file.reads.Load(), file.bytes.Load(); reads > 100 || n > 4<<20 {
		t.Errorf("%d reads of %d bytes", reads, n)
	}
	for i := range ms {
		ms[i].Kept = vm.Kept{}
	}
	if res, err = search.Scan(ctx, c, ms[1:], search.Options{Matcher: matcher}); err != nil || res.Partial != nil || res.SearchedBytes != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestCoreHoles compares what a core says of its holes with its bytes.
func TestCoreHoles(t *testing.T) {
	dir := t.TempDir()
	const block = 64 << 10 // more than a file system's
	rapid.Check(t, func(rt *rapid.T) {
		f := elfFile{class: elf.ELFCLASS64, order: kinds()[0].order, machine: elf.EM_X86_64, typ: elf.ET_CORE}
		at, off := uint64(0x10000), uint64(block)
		var want []byte // of memory from 0x10000 on
		var there []bool
		var bodies []bytesAt
		grow := func(n uint64, has bool) {
			want = append(want, make([]byte, n)...)
			for range n {
				there = append(there, has)
			}
			at += n
		}
		for range rapid.IntRange(1, 4).Draw(rt, "segments") {
			grow(rapid.Uint64Range(0, 3*block).Draw(rt, "gap"), false)
			p := elf.ProgHeader{Type: elf.PT_LOAD, Flags: elf.PF_R, Off: off, Vaddr: at}
			p.Filesz = rapid.Uint64Range(0, 20*block).Draw(rt, "in the file")
			p.Memsz = p.Filesz + rapid.Uint64Range(1, 2*block).Draw(rt, "beyond it")
			grow(p.Filesz, true)
			grow(p.Memsz-p.Filesz, false)
			f.progs = append(f.progs, p)
			for range rapid.IntRange(0, 3).Draw(rt, "bodies") {
				if p.Filesz == 0 {
					break
				}
				b := bytes.Repeat([]byte{7}, rapid.IntRange(1, 2*block).Draw(rt, "body"))
				to := rapid.Uint64Range(0, p.Filesz-1).Draw(rt, "body at")
				b = b[:min(uint64(len(b)), p.Filesz-to)]
				bodies = append(bodies, bytesAt{int64(off + to), b})
				copy(want[p.Vaddr-0x10000+to:], b)
			}
			off += p.Filesz + rapid.Uint64Range(0, block).Draw(rt, "file gap")
		}
		head := f.bytes()
		bodies = append(bodies, bytesAt{0, head})
		// Some end before they should.
		size := int64(off - rapid.Uint64Range(0, 2*block).Draw(rt, "cut")%off)
		size = max(size, int64(len(head)))
		file := sparseFile(t, filepath.Join(dir, "core"), size, bodies)
		defer file.Close()
		for _, p := range f.progs {
			for i := range p.Filesz {
				if int64(p.Off+i) >= size {
					there[p.Vaddr-0x10000+i] = false
				}
			}
		}
		c, err := OpenCore(t.Context(), file, size, CoreOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		into := make([]vm.Extent, rapid.IntRange(1, 5).Draw(rt, "extents"))
		start := rapid.Uint64Range(0, uint64(len(want))-1).Draw(rt, "from")
		buf := make([]byte, len(want))
		for start < uint64(len(want)) {
			r := vm.Range{Start: 0x10000 + start, Size: rapid.Uint64Range(1, uint64(len(want))-start).Draw(rt, "size")}
			n, known, err := c.Populated(t.Context(), r, into)
			if err != nil || known == 0 || known > r.Size || n > len(into) {
				rt.Fatalf("%v: %d, %d, %v", r, n, known, err)
			}
			done := start
			for _, e := range append(into[:n:n], vm.Extent{Range: vm.Range{Start: r.Start + known}}) {
				from := e.Start - 0x10000
				if from < done || from > start+known {
					rt.Fatalf("%v: extent %v", r, e)
				}
				for ; done < from; done++ {
					if !there[done] || want[done] != 0 {
						rt.Fatalf("%#x is called zero", 0x10000+done)
					}
				}
				got, err := c.ReadMemory(t.Context(), buf[:e.Size], e.Start)
				if e.Unreadable {
					if got != 0 || !errors.Is(err, ErrNotInCore) {
						rt.Fatalf("%v: %d, %v", e, got, err)
					}
				} else if uint64(got) != e.Size || !bytes.Equal(buf[:got], want[from:from+e.Size]) {
					rt.Fatalf("%v: other bytes, %d, %v", e, got, err)
				}
				for i := range e.Size {
					if there[from+i] == e.Unreadable {
						rt.Fatalf("%#x of %+v", e.Start+i, e)
					}
				}
				done += e.Size
			}
			start += known
		}
	})
}
