package proc

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kcmpVM asks kcmp(2) whether two processes have the same memory.
const kcmpVM = 1 // KCMP_VM, include/uapi/linux/kcmp.h

// Sharer finds another process that has the same memory as a thread (CLONE_VM
// without CLONE_THREAD, vfork(2)) and is not stopped, so that it may change what is
// mapped; 0 for none. Processes that may not be looked at are taken for others.
func Sharer(tid int) (pid int, err error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return 0, err
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return 0, err
	}
	same := sameByKernel(tid)
	if same == nil {
		same = sameByStat(tid)
	}
	self := threadGroup(tid)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err == nil && pid != self && same(pid) && mayRun(pid) {
			return pid, nil
		}
	}
	return 0, nil
}

// threadGroup is the process that a thread is of.
func threadGroup(tid int) int {
	status, _ := os.ReadFile(Path(tid, "status")) // where it has ended, it is no process
	_, rest, _ := strings.Cut(string(status), "\nTgid:\t")
	id, _, _ := strings.Cut(rest, "\n")
	pid, _ := strconv.Atoi(id)
	return pid
}

// sameByKernel tells which processes have the same memory as a thread; nil where
// the kernel does not say so: kcmp(2) may not be built in, or be filtered out.
func sameByKernel(tid int) func(pid int) bool {
	same := func(pid int) (bool, error) {
		order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(tid), uintptr(pid), kcmpVM, 0, 0, 0)
		if errno != 0 {
			return false, errno
		}
		return order == 0, nil
	}
	if is, err := same(tid); err != nil || !is {
		return nil
	}
	return func(pid int) bool {
		is, err := same(pid)
		return err == nil && is
	}
}

// sameByStat is sameByKernel by what proc_pid_stat(5) tells of the memory: its
// size and where its parts lie. A child just forked has the same.
func sameByStat(tid int) func(pid int) bool {
	memory := func(pid int) []string {
		stat, err := os.ReadFile(Path(pid, "stat"))
		if err != nil {
			return nil
		}
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the third on
		if len(f) < 49 {
			return nil
		}
		// vsize; startcode, endcode, startstack; start_data to env_end.
		return slices.Concat(f[23-3:23-2], f[26-3:28-2], f[45-3:51-2])
	}
	mine := memory(tid)
	return func(pid int) bool {
		its := memory(pid)
		return its != nil && slices.Equal(its, mine)
	}
}

// mayRun reports whether a thread of a process is neither stopped nor at its end.
func mayRun(pid int) bool {
	tasks, err := os.ReadDir(Path(pid, "task"))
	if err != nil {
		return false
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(Path(pid, "task/"+task.Name()+"/stat"))
		if err != nil {
			continue
		}
		state := strings.TrimSpace(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if state != "" && !strings.ContainsRune("tTZX", rune(state[0])) {
			return true
		}
	}
	return false
}

// Name is the name of a process, proc_pid_comm(5); "" where it has ended.
func Name(pid int) string {
	name, _ := os.ReadFile(Path(pid, "comm"))
	return strings.TrimSuffix(string(name), "\n")
}
