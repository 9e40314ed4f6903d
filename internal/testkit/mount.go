package testkit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// InMountNamespace calls do where mounts are seen by nobody else but by the programs
// that do starts; they go with the last of these. It returns false, and logs why,
// where this user may not do so: that is then left out, for no tool is missing.
func InMountNamespace(t testing.TB, do func() error) bool {
	t.Helper()
	var refused, failed error
	done := make(chan struct{})
	go func() {
		defer close(done) // also where do ends the test
		// The thread is not unlocked, and so ends with this goroutine.
		runtime.LockOSThread()
		if refused = unix.Unshare(unix.CLONE_NEWNS); refused == nil {
			refused = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if refused == nil {
			failed = do()
		}
	}()
	<-done
	if errors.Is(refused, unix.EPERM) {
		t.Logf("left out: what needs a mount, which takes root: %v", refused)
		return false
	}
	if err := errors.Join(refused, failed); err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	return true
}

// FUSE is a file system in this process, of one file named "file".
type FUSE struct {
	dev int // its end of /dev/fuse

	mu     sync.Mutex
	moving sync.Cond
	stuck  bool // no request is answered
	late   *time.Timer
	seen   []string // see Requests
	text   []byte   // of the file
}

// NewFUSE mounts a file system in dir, to be called in InMountNamespace. Like one
// whose files change behind the kernel's back, it lets no page be kept when the file is
// opened again. It goes with the last that sees it.
func NewFUSE(t testing.TB, dir string, text []byte) (*FUSE, error) {
	// Without the runtime's poller: before it is mounted the device is in error.
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/fuse", Err: err}
	}
	f := &FUSE{dev: dev, text: text}
	f.moving.L = &f.mu
	t.Cleanup(func() { f.Stall(false) })
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev)
	if err := unix.Mount("dbgsh-test", dir, "fuse", unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		unix.Close(dev)
		return nil, fmt.Errorf("mount -t fuse: %w", err)
	}
	go f.serve()
	return f, nil
}

// Stall makes the file system answer nothing, or again. It answers after Patience in any
// case: a process that waits for it cannot be killed, not even this one.
func (f *FUSE) Stall(stuck bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.late != nil {
		f.late.Stop()
	}
	if f.stuck = stuck; stuck {
		f.late = time.AfterFunc(Patience, func() { f.Stall(false) })
	}
	f.moving.Broadcast()
}

// Requests are the requests so far that ask for something: lookup, getattr, open and
// read, those that have no answer yet included.
func (f *FUSE) Requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[:len(f.seen):len(f.seen)]
}

// Of include/uapi/linux/fuse.h in the kernel.
const (
	fuseLookup  = 1
	fuseForget  = 2
	fuseGetattr = 3
	fuseOpen    = 14
	fuseRead    = 15
	fuseRelease = 18
	fuseFlush   = 25
	fuseInit    = 26
	fuseIntr    = 36
	fuseForgets = 42

	fuseHeader = 40 // bytes of struct fuse_in_header
	fuseNode   = 2  // of the file
)

type fuseAttr struct {
	Ino, Size, Blocks, Atime, Mtime, Ctime              uint64
	AtimeNS, MtimeNS, CtimeNS                           uint32
	Mode, Nlink, UID, GID, Rdev, Blksize, AttributeFlag uint32
}

func (f *FUSE) attr(node uint64) fuseAttr {
	if node == fuseNode {
		return fuseAttr{Ino: node, Size: uint64(len(f.text)), Mode: unix.S_IFREG | 0o644, Nlink: 1, Blksize: 4096}
	}
	return fuseAttr{Ino: node, Mode: unix.S_IFDIR | 0o755, Nlink: 2, Blksize: 4096}
}

// serve answers until the file system is gone.
func (f *FUSE) serve() {
	defer unix.Close(f.dev)
	buf := make([]byte, 1<<20)
	for {
		n, err := unix.Read(f.dev, buf)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) { // the asker has gone
			continue
		}
		if err != nil || n < fuseHeader {
			return
		}
		le := binary.NativeEndian
		code, unique, node := le.Uint32(buf[4:]), le.Uint64(buf[8:]), le.Uint64(buf[16:])
		body := bytes.Clone(buf[fuseHeader:n])
		f.mu.Lock()
		if name, ok := map[uint32]string{
			fuseLookup: "lookup", fuseGetattr: "getattr", fuseOpen: "open", fuseRead: "read",
		}[code]; ok {
			f.seen = append(f.seen, name)
		}
		for f.stuck {
			f.moving.Wait()
		}
		f.mu.Unlock()
		var out bytes.Buffer
		errno := unix.Errno(0)
		put := func(vs ...any) {
			for _, v := range vs {
				_ = binary.Write(&out, le, v) // into memory
			}
		}
		switch code {
		case fuseInit:
			put(uint32(7), uint32(31), uint32(1<<17), uint32(0), uint16(8), uint16(8), uint32(1<<17), uint32(1), [9]uint32{})
		case fuseLookup:
			if strings.TrimRight(string(body), "\x00") != "file" {
				errno = unix.ENOENT
				break
			}
			put(uint64(fuseNode), uint64(0), uint64(0), uint64(0), uint64(0), f.attr(fuseNode))
		case fuseGetattr:
			put(uint64(0), uint64(0), f.attr(node))
		case fuseOpen:
			put(uint64(1), uint64(0)) // without FOPEN_KEEP_CACHE
		case fuseRead:
			off := min(le.Uint64(body[8:]), uint64(len(f.text)))
			out.Write(f.text[off:min(uint64(len(f.text)), off+uint64(le.Uint32(body[16:])))])
		case fuseForget, fuseForgets, fuseIntr:
			continue
		case fuseRelease, fuseFlush:
		default:
			errno = unix.ENOSYS
		}
		answer := le.AppendUint32(nil, uint32(16+out.Len()))
		answer = le.AppendUint32(answer, uint32(-int32(errno)))
		answer = append(le.AppendUint64(answer, unique), out.Bytes()...)
		_, _ = unix.Write(f.dev, answer) // the asker may have gone
	}
}

// Swap gives this machine some swap for the time of the test. It returns false, and
// logs why, where that cannot be: that is then left out, for no tool is missing.
func Swap(t testing.TB, size int64) bool {
	t.Helper()
	Need(t, "mkswap", "swapon")
	path := filepath.Join(t.TempDir(), "swap")
	// Written, for swap may have no holes.
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	// A program of its own takes it away again, whatever becomes of this one.
	cmd := exec.Command("sh", "-c", `mkswap "$1" >&2 && swapon "$1" || exit 1; echo on; read x; swapoff "$1"`, "sh", path)
	var said Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // where there was none it has failed
	})
	var on [2]byte
	if _, err := out.Read(on[:]); err != nil {
		t.Logf("left out: swap, which this machine does not take: %s", strings.TrimSpace(said.String()))
		return false
	}
	return true
}
