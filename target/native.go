package target

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"dbgsh/vm"
)

// inferior is what GDB says of the selected inferior.
type inferior struct {
	pid        int      // 0 where there is no process
	executable string   // "" where no file is loaded
	stack      []string // GDB's target stack, the top first: native, core, remote ...
}

// inferior asks GDB for the selected inferior.
func (t *Target) inferior(ctx context.Context) (inferior, error) {
	num, err := t.send(ctx, "data-evaluate-expression", "$_inferior")
	if err != nil {
		return inferior{}, err
	}
	groups, err := t.send(ctx, "list-thread-groups")
	if err != nil {
		return inferior{}, err
	}
	var inf inferior
	id := "i" + num.Str("value")
	for _, g := range groups.Tuples("groups") {
		if g.Str("id") == id {
			inf.executable = g.Str("executable")
			inf.pid, _ = strconv.Atoi(g.Str("pid"))
		}
	}
	text, err := t.query(ctx, "maint print target-stack")
	if err != nil {
		return inferior{}, err
	}
	for line := range strings.Lines(text) {
		if layer, found := strings.CutPrefix(strings.TrimSpace(line), "- "); found {
			name, _, _ := strings.Cut(layer, " ")
			inf.stack = append(inf.stack, name)
		}
	}
	return inf, nil
}

// native reports whether the inferior is a process on this machine.
func (inf *inferior) native() bool { return inf.pid != 0 && slices.Contains(inf.stack, "native") }

// kind names what kind of target the inferior is, for people.
func (inf *inferior) kind() string {
	for _, k := range []struct{ layer, name string }{
		{"core", "a core file"}, {"extended-remote", "behind a remote stub"}, {"remote", "behind a remote stub"},
	} {
		if slices.Contains(inf.stack, k.layer) {
			return k.name
		}
	}
	return "no process on this machine"
}

// ErrNoSource says that dbgsh cannot read a map from this kind of target.
var ErrNoSource = errors.New("no memory map for this kind of target")

// process is the selected inferior, which is a process on this machine.
func (t *Target) process(ctx context.Context) (inferior, error) {
	inf, err := t.inferior(ctx)
	switch {
	case err != nil:
		return inf, err
	case inf.native():
		return inf, nil
	case inf.pid == 0 && !slices.Contains(inf.stack, "core"):
		return inf, vm.ErrNoProcess
	}
	return inf, fmt.Errorf("%w: the debuggee is %s, and maps are read of processes on this machine; vmmap_add and vmmap_load add pages by hand", ErrNoSource, inf.kind())
}

// Map is the memory map of the selected inferior as it is now.
func (t *Target) Map(ctx context.Context) (*vm.Map, error) {
	inf, err := t.process(ctx)
	if err != nil {
		return nil, err
	}
	_, text, err := liveThread(inf.pid)
	if err != nil {
		return nil, err
	}
	ms, err := vm.ParseMaps(text)
	if err != nil {
		return nil, fmt.Errorf("/proc/%d/maps: %w", inf.pid, err)
	}
	running, _ := t.Running()
	m := &vm.Map{Mappings: ms, AddressBits: 64, Live: running}
	if id, err := readIdent(procPath(inf.pid, "exe")); err == nil && id.class == elf.ELFCLASS32 {
		m.AddressBits = 32
	}
	return m, nil
}

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// liveThread finds a thread of a process that still has its memory, and reads
// its maps. All threads share one address space, but the files of a thread
// that has exited are empty, the first thread's as well (proc_pid_maps(5)).
func liveThread(pid int) (tid int, maps []byte, err error) {
	maps, err = os.ReadFile(procPath(pid, "maps"))
	if err == nil && len(maps) > 0 {
		return pid, maps, nil
	}
	tasks, dirErr := os.ReadDir(procPath(pid, "task"))
	if dirErr != nil {
		return 0, nil, fmt.Errorf("process %d: %w", pid, errors.Join(err, dirErr))
	}
	for _, task := range tasks {
		tid, convErr := strconv.Atoi(task.Name())
		if convErr != nil || tid == pid {
			continue
		}
		if text, readErr := os.ReadFile(procPath(pid, "task/"+task.Name()+"/maps")); readErr == nil && len(text) > 0 {
			return tid, text, nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, err
	}
	return 0, nil, fmt.Errorf("process %d has no memory any more: it has exited", pid)
}

// ident is what the first bytes of an ELF file say (elf(5), e_ident).
type ident struct {
	class elf.Class
	order binary.ByteOrder
}

func readIdent(path string) (ident, error) {
	f, err := os.Open(path)
	if err != nil {
		return ident{}, err
	}
	defer f.Close()
	var b [elf.EI_NIDENT]byte
	if _, err := io.ReadFull(f, b[:]); err != nil || string(b[:4]) != elf.ELFMAG {
		return ident{}, fmt.Errorf("%s: not an ELF file", path)
	}
	id := ident{class: elf.Class(b[elf.EI_CLASS]), order: binary.LittleEndian}
	if elf.Data(b[elf.EI_DATA]) == elf.ELFDATA2MSB {
		id.order = binary.BigEndian
	}
	return id, nil
}

// Arch is the size of the debuggee's pointers in bytes and its byte order:
// the process's, else the program's, else what GDB supposes.
func (t *Target) Arch(ctx context.Context) (ptr int, order binary.ByteOrder, err error) {
	inf, err := t.inferior(ctx)
	if err != nil {
		return 0, nil, err
	}
	path := inf.executable
	if inf.native() {
		path = procPath(inf.pid, "exe")
	}
	if id, err := readIdent(path); err == nil {
		if id.class == elf.ELFCLASS32 {
			return 4, id.order, nil
		}
		return 8, id.order, nil
	}
	size, _, err := t.Evaluate(ctx, "sizeof(void *)")
	if err != nil || size != 4 && size != 8 {
		size = 8
	}
	text, err := t.query(ctx, "show endian")
	if err != nil {
		return 0, nil, err
	}
	if strings.Contains(text, "big endian") {
		return int(size), binary.BigEndian, nil
	}
	return int(size), binary.LittleEndian, nil
}

// Program is the path of the program's file, "" where none is loaded.
func (t *Target) Program(ctx context.Context) (string, error) {
	inf, err := t.inferior(ctx)
	return inf.executable, err
}

// Started reports whether a process that GDB started, and would kill on
// leaving, is alive.
func (t *Target) Started() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := t.gdb()
	if err != nil {
		return false
	}
	select {
	case <-c.Done():
		return false
	default:
	}
	groups, err := t.send(ctx, "list-thread-groups")
	if err != nil {
		return false
	}
	for _, g := range groups.Tuples("groups") {
		pid, err := strconv.Atoi(g.Str("pid"))
		if err != nil {
			continue
		}
		// GDB is the parent of what it starts; field 4 of proc_pid_stat(5).
		stat, err := os.ReadFile(procPath(pid, "stat"))
		if err != nil {
			continue
		}
		if i := strings.LastIndexByte(string(stat), ')'); i >= 0 {
			if f := strings.Fields(string(stat[i+1:])); len(f) > 1 && f[1] == strconv.Itoa(c.PID()) {
				return true
			}
		}
	}
	return false
}

// Memory is the memory of the selected inferior: read from the process itself
// where it is one on this machine, else through GDB.
func (t *Target) Memory(ctx context.Context) (Memory, error) {
	inf, err := t.inferior(ctx)
	if err != nil {
		return nil, err
	}
	if !inf.native() {
		return gdbMemory{t}, nil
	}
	tid, _, err := liveThread(inf.pid)
	if err != nil {
		return nil, err
	}
	return OpenProcMem(tid, ProcMemOptions{})
}

// Memory is memory of a debuggee that can be read until it is closed.
type Memory interface {
	vm.Reader
	Close() error
}
