package commands

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"dbgsh/target"
	"dbgsh/vm"
)

// dyingDebuggee exits when its memory has been read so many times.
type dyingDebuggee struct {
	*fakeDebuggee
	reads int
}

func (d *dyingDebuggee) Memory(context.Context) (target.Memory, error) { return d, nil }

func (d *dyingDebuggee) ReadMemory(ctx context.Context, p []byte, addr uint64) (int, error) {
	if d.reads--; d.reads < 0 {
		return 0, vm.ErrProcessGone
	}
	return d.fakeDebuggee.ReadMemory(ctx, p, addr)
}

func TestRefineKeepsWhatWasNotLookedAt(t *testing.T) {
	s, d := newSession(t)
	anon := d.bytes[0x7ffffffde000]
	const n = 8
	for i := range n {
		binary.LittleEndian.PutUint32(anon[i*0x2000:], 100)
	}
	last := func() string {
		t.Helper()
		return fmt.Sprint(s.last.Len())
	}
	if _, err := run(t, s, "search -4 100 [stack]"); err != nil || last() != "8" {
		t.Fatal(last(), err)
	}
	// A limit: the rest stay.
	got, err := run(t, s, "search -4 --next -l 3 100")
	if err != nil || last() != "8" || !strings.Contains(got, "5 hits of the last search not looked at") {
		t.Errorf("%s hits, %v\n%s", last(), err, got)
	}
	// An end in the middle: all stay.
	dying := &dyingDebuggee{d, 3}
	s.Debuggee = dying
	got, err = run(t, s, "search --unchanged")
	if !errors.Is(err, vm.ErrProcessGone) || last() != "8" || !strings.Contains(got, "all kept") {
		t.Errorf("%s hits, %v\n%s", last(), err, got)
	}
	s.Debuggee = d
	// What cannot be read for a time stays.
	d.bytes[0x7ffffffde000] = anon[:0x3000]
	got, err = run(t, s, "search --unchanged")
	if err != nil || last() != "8" || !strings.Contains(got, "6 hits of the last search not looked at") {
		t.Errorf("%s hits, %v\n%s", last(), err, got)
	}
	d.bytes[0x7ffffffde000] = anon
	anon[0] = 1
	if got, err = run(t, s, "search --unchanged"); err != nil || last() != "7" || strings.Contains(got, "not looked at") {
		t.Errorf("%s hits, %v\n%s", last(), err, got)
	}
	// Outside the region: dropped, and said.
	if got, err = run(t, s, "search --unchanged [heap]"); err != nil || last() != "0" || !strings.Contains(got, "7 hits of the last search dropped") {
		t.Errorf("%s hits, %v\n%s", last(), err, got)
	}
}
