package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"

	"dbgsh/target/gdb"
	"dbgsh/target/mi"
	"dbgsh/target/proc"
	"dbgsh/vm"
)

// threadID is how GDB shows a thread of a remote process: Thread PID.TID.
var threadID = regexp.MustCompile(`^Thread \d+\.(\d+)`)

// serverMap is the map of a process behind gdbserver: its thread's maps, which
// gdbserver hands over as a file, in one go.
func (t *Target) serverMap(ctx context.Context, inf *inferior) (*vm.Map, error) {
	path := fmt.Sprintf("/proc/%d/maps", inf.pid)
	if tid := t.selectedTID(ctx); tid != "" {
		path = "/proc/" + tid + "/maps"
	}
	text, err := t.remoteFile(ctx, path)
	var said *mi.Error
	if errors.As(err, &said) {
		return t.gdbMap(ctx, inf, fmt.Sprintf("get %s: %v", path, err))
	}
	if err != nil {
		return nil, fmt.Errorf("get %s from the stub: %w", path, err)
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("%s is empty on the stub's side: the process has no memory any more", path)
	}
	ms, err := proc.ParseMaps(text)
	if err != nil {
		return nil, fmt.Errorf("%s on the stub's side: %w", path, err)
	}
	for i := range ms {
		ms[i].Source = vm.SourceRemote
	}
	return &vm.Map{Mappings: ms, AddressBits: t.addressBits(ctx, inf)}, nil
}

func (t *Target) addressBits(ctx context.Context, inf *inferior) int {
	if ptr, _, err := t.archOf(ctx, inf); err == nil && ptr == 4 {
		return 32
	}
	return 64
}

// gdbMap is the map that GDB itself gets out of a stub which does not hand over
// the file with it, why being the reason; and what is declared where GDB gets none.
func (t *Target) gdbMap(ctx context.Context, inf *inferior, why string) (*vm.Map, error) {
	text, err := t.query(ctx, "info proc mappings")
	var said *mi.Error
	if err != nil && !errors.As(err, &said) {
		return nil, err
	}
	ms, err := gdb.ParseInfoProc(text)
	if err != nil {
		return nil, fmt.Errorf("info proc mappings: %w", err)
	}
	if len(ms) == 0 {
		return t.stubMap(ctx, inf)
	}
	return &vm.Map{
		Mappings: ms, AddressBits: t.addressBits(ctx, inf),
		Notes: []string{"from GDB's info proc mappings; " + why},
	}, nil
}

// selectedTID is the system's id of the selected thread, "" where GDB does not show it.
func (t *Target) selectedTID(ctx context.Context) string {
	num, err := t.send(ctx, "data-evaluate-expression", "$_thread")
	if err != nil {
		return ""
	}
	info, err := t.send(ctx, "thread-info", num.Str("value"))
	if err != nil {
		return ""
	}
	for _, th := range info.Tuples("threads") {
		if m := threadID.FindStringSubmatch(th.Str("target-id")); m != nil {
			return m[1]
		}
	}
	return ""
}

// remoteFile is the contents of a file on the stub's side.
func (t *Target) remoteFile(ctx context.Context, path string) ([]byte, error) {
	f, err := os.CreateTemp("", "dbgsh-remote-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := t.query(ctx, "remote get "+path+" "+quoteArg(f.Name())); err != nil {
		return nil, err
	}
	// GDB may have made the file anew, so it is read by its name.
	return os.ReadFile(f.Name())
}
