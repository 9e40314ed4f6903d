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
	"strconv"
	"strings"
	"time"

	"dbgsh/target/proc"
	"dbgsh/vm"
)

// nativeMap is the map of a process on this machine.
func nativeMap(inf *inferior) (*vm.Map, error) {
	_, text, err := liveThread(inf.pid)
	if err != nil {
		return nil, err
	}
	ms, err := proc.ParseMaps(text)
	if err != nil {
		return nil, fmt.Errorf("/proc/%d/maps: %w", inf.pid, err)
	}
	m := &vm.Map{Mappings: ms, AddressBits: 64}
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
	return t.archOf(ctx, &inf)
}

func (t *Target) archOf(ctx context.Context, inf *inferior) (ptr int, order binary.ByteOrder, err error) {
	path := inf.executable
	if inf.kind == KindNative {
		path = procPath(inf.pid, "exe")
	}
	if id, err := readIdent(path); err == nil {
		if id.class == elf.ELFCLASS32 {
			return 4, id.order, nil
		}
		return 8, id.order, nil
	}
	// What GDB supposes; in a language without sizeof it is asked in C.
	text, err := t.query(ctx, "with language c -- output sizeof(void *)")
	if err != nil {
		return 0, nil, err
	}
	if ptr = 8; strings.TrimSpace(text) == "4" {
		ptr = 4
	}
	if text, err = t.query(ctx, "show endian"); err != nil {
		return 0, nil, err
	}
	if strings.Contains(text, "big endian") {
		return ptr, binary.BigEndian, nil
	}
	return ptr, binary.LittleEndian, nil
}

// Program is the path of the program's file, "" where none is loaded.
func (t *Target) Program(ctx context.Context) (string, error) {
	inf, err := t.inferior(ctx)
	return inf.executable, err
}

// Alive reports whether a process is being debugged.
func (t *Target) Alive() bool { return len(t.processes()) > 0 }

// Started reports whether a process that GDB started, and would kill on
// leaving, is alive.
func (t *Target) Started() bool {
	c, err := t.gdb()
	if err != nil {
		return false
	}
	for _, pid := range t.processes() {
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

// processes is the ids of all processes that GDB debugs. A GDB that does not
// answer within a second has none.
func (t *Target) processes() []int {
	c, err := t.gdb()
	if err != nil {
		return nil
	}
	select {
	case <-c.Done():
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	groups, err := t.send(ctx, "list-thread-groups")
	if err != nil {
		return nil
	}
	var pids []int
	for _, g := range groups.Tuples("groups") {
		if pid, err := strconv.Atoi(g.Str("pid")); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
