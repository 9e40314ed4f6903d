package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Path is the path of a file that procfs has for a process or a thread.
func Path(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// LiveThread finds a thread of a process that still has its memory, and reads
// its maps. All threads share one address space, but the files of a thread
// that has exited are empty, the first thread's as well (proc_pid_maps(5)).
func LiveThread(pid int) (tid int, maps []byte, err error) {
	maps, err = os.ReadFile(Path(pid, "maps"))
	if err == nil && len(maps) > 0 {
		return pid, maps, nil
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
		if text, readErr := os.ReadFile(Path(pid, "task/"+task.Name()+"/maps")); readErr == nil && len(text) > 0 {
			return tid, text, nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, err
	}
	return 0, nil, fmt.Errorf("process %d has no memory any more: it has exited", pid)
}
