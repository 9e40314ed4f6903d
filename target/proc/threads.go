package proc

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Path is the path of a file that procfs has for a process or a thread.
func Path(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// LiveThread finds a thread of a process that still has its memory. All threads
// share one address space, but the files of a thread that has exited are empty,
// the first thread's as well (proc_pid_maps(5)).
func LiveThread(pid int) (tid int, err error) {
	tid, _, err = liveMaps(pid, 1)
	return tid, err
}

// ReadMaps reads the maps of a process, those of a thread that LiveThread finds,
// and is also the path of the file with them.
func ReadMaps(pid int) (text []byte, path string, err error) {
	tid, text, err := liveMaps(pid, math.MaxInt)
	if path = Path(pid, "maps"); tid != pid {
		path = Path(pid, "task/"+strconv.Itoa(tid)+"/maps")
	}
	return text, path, err
}

// liveMaps finds a thread that has its memory, and reads up to limit bytes of its maps.
func liveMaps(pid, limit int) (tid int, text []byte, err error) {
	text, err = readUpTo(Path(pid, "maps"), limit)
	if err == nil && len(text) > 0 {
		return pid, text, nil
	}
	tasks, dirErr := os.ReadDir(Path(pid, "task"))
	if dirErr != nil {
		return 0, nil, fmt.Errorf("process %d: %w", pid, errors.Join(err, dirErr))
	}
	for _, task := range tasks {
		tid, convErr := strconv.Atoi(task.Name())
		if convErr != nil || tid == pid {
			continue
		}
		if text, readErr := readUpTo(Path(pid, "task/"+task.Name()+"/maps"), limit); readErr == nil && len(text) > 0 {
			return tid, text, nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, err
	}
	return 0, nil, fmt.Errorf("process %d has no memory any more: it has exited", pid)
}

// Parent is the id of a process's parent, field 4 of proc_pid_stat(5).
func Parent(pid int) (int, error) {
	stat, err := os.ReadFile(Path(pid, "stat"))
	if err != nil {
		return 0, err
	}
	// The second field is a name in brackets, which may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return 0, fmt.Errorf("%s has no parent in it", Path(pid, "stat"))
	}
	return strconv.Atoi(fields[1])
}

// readUpTo reads a file to its end, or to limit bytes. What procfs makes has no
// size to be asked for, so that os.ReadFile would begin small and copy a large
// map over and over.
func readUpTo(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text := make([]byte, 0, min(64<<10, limit))
	for len(text) < limit {
		if len(text) == cap(text) {
			text = slices.Grow(text, len(text))
		}
		n, err := f.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return text, nil
}
