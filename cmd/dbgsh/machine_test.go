package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"dbgsh/internal/testkit"
)

// killsVar is how often QEMU is killed; a hundred times take a minute.
const killsVar = "DBGSH_TEST_KILLS"

// TestQEMUIsKilled: QEMU dies at any moment, while dbgsh reads its process or, as
// another user, asks its stub. That is the loss of the target, one line and the
// status for it, and nothing is asked after it.
func TestQEMUIsKilled(t *testing.T) {
	testkit.Need(t, "gdb-multiarch")
	kills := 24
	if v := os.Getenv(killsVar); v != "" {
		var err error
		if kills, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) { // also for another user
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe := filepath.Join(dir, "dbgsh")
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(exe, self, 0o755)
	}
	tables := filepath.Join(dir, "tables")
	if err == nil {
		err = os.WriteFile(tables, pageTables(), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(16, 2))
	for i := range kills {
		k := kill{
			exe: exe, tables: tables, dir: filepath.Join(dir, strconv.Itoa(i)),
			command: []string{"vmmap", "search needle", "search --phys needle"}[i%3],
			unix:    i/3%2 == 1,
			nobody:  i/6%2 == 1 && os.Getuid() == 0,
			after:   time.Duration(rng.Int64N(int64(150 * time.Millisecond))),
		}
		t.Run(fmt.Sprintf("%d %s unix=%v nobody=%v", i, k.command, k.unix, k.nobody), func(t *testing.T) {
			t.Parallel()
			k.run(t)
		})
	}
}

// pageTables is 64 MiB by 2 MiB pages at 0, and a table of single pages, from
// 0x100000 on (Intel SDM, chapter "Paging", "4-Level Paging").
func pageTables() []byte {
	const present, large = 7, 1 << 7
	b := make([]byte, 4<<12)
	put := func(page, i int, e uint64) { binary.LittleEndian.PutUint64(b[page<<12+8*i:], e) }
	put(0, 0, 0x101000|present)
	put(1, 0, 0x102000|present)
	put(2, 40, 0x103000|present)
	for i := range 32 {
		put(2, i, uint64(i)<<21|present|large)
	}
	for i := range 512 {
		put(3, i, uint64(0x200000+i<<12)|present-uint64(i&1)<<1)
	}
	return b
}

// kill is one end of a QEMU.
type kill struct {
	exe, tables, dir string
	command          string
	unix, nobody     bool
	after            time.Duration // of the first command
}

func (k *kill) run(t *testing.T) {
	for _, d := range []string{k.dir, filepath.Join(k.dir, "home")} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	addr := ""
	if k.unix {
		addr = filepath.Join(k.dir, "gdb.sock")
	}
	qemu := testkit.StartQEMU(t, "qemu-system-x86_64", addr, "-cpu", "max", "-m", "64", "-S", "-device", "loader,addr=0x100000,force-raw=on,file="+k.tables)
	if k.unix {
		if err := os.Chmod(addr, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	const commands = 400 // more than it will have time for
	script := "target remote " + qemu.Addr + "\n" +
		"set $cr3=0x100000ULL\nset $cr4=0x20ULL\nset $efer=0xd00ULL\nset $cr0=0x80050033ULL\necho ready\\n\n" +
		strings.Repeat(k.command+"\n", commands)
	log := filepath.Join(k.dir, "log")
	cmd := exec.Command(k.exe)
	cmd.Args = []string{"dbgsh", "-n", "-gdb", "gdb-multiarch", "-log", log, "-x", "-"}
	cmd.Dir, cmd.Stdin = k.dir, strings.NewReader(script)
	cmd.Env = append(os.Environ(), homeEnv(filepath.Join(k.dir, "home"))...)
	cmd.Env = append(cmd.Env, "TMPDIR="+os.TempDir())
	if k.nobody {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	var errs testkit.Buffer
	cmd.Stderr = &errs
	p := testkit.Start(t, cmd, func(line string) bool { return line == "ready" })
	time.Sleep(k.after) // the moment is what is tried out
	if err := qemu.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	hang := time.AfterFunc(testkit.Patience, func() { _ = cmd.Process.Kill() })
	defer hang.Stop()
	if _, err := p.Stdout.WriteTo(&testkit.Buffer{}); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // the status tells
	if said := errs.String(); cmd.ProcessState.ExitCode() != 3 || strings.Count(said, "\n") != 1 || !strings.Contains(said, "is lost: ") {
		t.Errorf("killed after %v: status %d\n%s", k.after, cmd.ProcessState.ExitCode(), said)
	}
	if n := askedAfterLoss(t, log); n > 10 { // to end GDB
		t.Errorf("killed after %v: %d commands to GDB after it had lost the target", k.after, n)
	}
}

// askedAfterLoss is how many commands GDB got after it had told of the loss.
func askedAfterLoss(t *testing.T, log string) (n int) {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lost := false
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		switch {
		case strings.Contains(lines.Text(), "=thread-group-exited"):
			lost = true
		case lost && strings.HasPrefix(lines.Text(), "> "):
			n++
		}
	}
	return n
}
