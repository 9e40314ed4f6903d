package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"dbgsh/internal/testkit"
	"dbgsh/target/proc"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// bench is what the benchmarks run: dbgsh as it is built for users, and
// programs of testdata.
type bench struct {
	*testing.B
	dbgsh string
	dir   string
	env   []string
}

func newBench(b *testing.B) *bench {
	b.Helper()
	testkit.Need(b, "gdb", "gcc")
	dir := b.TempDir()
	if err := makeHome(dir); err != nil {
		b.Fatal(err)
	}
	x := &bench{B: b, dbgsh: filepath.Join(dir, "dbgsh"), dir: dir, env: append(os.Environ(), homeEnv(dir)...)}
	if text, err := exec.Command("go", "build", "-o", x.dbgsh, ".").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, text)
	}
	return x
}

// program builds a program of testdata.
func (x *bench) program(name string) string {
	x.Helper()
	path := filepath.Join(x.dir, name)
	text, err := exec.Command("gcc", "-g", "-O2", "-o", path, "../../testdata/"+name+".c").CombinedOutput()
	if err != nil {
		x.Fatalf("gcc: %v\n%s", err, text)
	}
	return path
}

// report ends a sub-benchmark with these metrics, and no others.
func (x *bench) report(name string, metrics map[string]float64) {
	x.Run(name, func(b *testing.B) {
		b.ReportMetric(0, "ns/op")
		for unit, v := range metrics {
			b.ReportMetric(v, unit)
		}
	})
}

// session is a debugger that reads lines from a pipe.
type session struct {
	x   *bench
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	n   int    // lines run
	end func() // ends it and waits for that
}

func (x *bench) start(name string, args ...string) *session {
	x.Helper()
	s := &session{x: x, cmd: exec.Command(name, args...)}
	s.cmd.Env = x.env
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		x.Fatal(err)
	}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		x.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		x.Fatal(err)
	}
	s.out = bufio.NewReaderSize(out, 1<<20)
	s.end = sync.OnceFunc(func() {
		s.in.Close()
		if err := s.cmd.Wait(); err != nil {
			x.Errorf("%s: %v", name, err)
		}
	})
	x.Cleanup(s.end)
	return s
}

// run runs a line and takes the time until all that it prints is here.
func (s *session) run(line string) (text string, took time.Duration) {
	s.x.Helper()
	s.n++
	end := fmt.Sprintf("<end %d>", s.n)
	var b strings.Builder
	start := time.Now()
	if _, err := fmt.Fprintf(s.in, "%s\necho %s\\n\n", line, end); err != nil {
		s.x.Fatal(err)
	}
	for {
		row, err := s.out.ReadString('\n')
		if err != nil {
			s.x.Fatalf("%s: %v", line, err)
		}
		if strings.HasSuffix(row, end+"\n") {
			return b.String(), time.Since(start)
		}
		b.WriteString(row)
	}
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func median[T int64 | float64 | time.Duration](all []T) T {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkVmmap compares vmmap with GDB's info proc mappings, in plain GDB
// and in the GDB behind dbgsh, at each of some stops of a process with 20,000
// mappings. At each stop the map is asked for once.
func BenchmarkVmmap(b *testing.B) {
	const mappings, stops = 20_000, 7
	x := newBench(b)
	program := x.program("manymaps")
	plain := x.start("gdb", "-nx", "-q", program)
	plain.run("set height 0")
	plain.run("set width 0")
	ours := x.start(x.dbgsh, "-n", "-gdb", "gdb", program)
	for _, s := range []*session{plain, ours} {
		s.run("break stop")
		s.run(fmt.Sprintf("run %d %d", mappings, stops))
	}
	ask := func(s *session, line string) float64 {
		text, took := s.run(line)
		if rows := strings.Count(text, "\n"); rows < mappings {
			b.Fatalf("%s printed %d lines", line, rows)
		}
		return milliseconds(took)
	}
	for stop := 1; stop <= stops; stop++ {
		vmmap := ask(ours, "vmmap")
		same := ask(ours, "info proc mappings")
		gdb := ask(plain, "info proc mappings")
		x.report(fmt.Sprintf("stop=%d", stop), map[string]float64{
			"dbgsh-ms": vmmap, "gdb-ms": gdb, "gdb/dbgsh": gdb / vmmap, "same-process-gdb-ms": same, "same-process-gdb/dbgsh": same / vmmap,
		})
		ours.run("continue")
		plain.run("continue")
	}
}

// BenchmarkPrompt compares how long GDB and dbgsh take from their start to the
// first prompt on a terminal, in turns.
func BenchmarkPrompt(b *testing.B) {
	const rounds = 15
	x := newBench(b)
	program := x.program("manymaps")
	for name, args := range map[string][]string{"alone": nil, "program": {program}} {
		var gdb, ours, later []float64
		for range rounds {
			g := x.prompt("(gdb) ", "gdb", append([]string{"-nx", "-q"}, args...)...)
			o := x.prompt("(dbgsh) ", x.dbgsh, append([]string{"-n", "-gdb", "gdb"}, args...)...)
			gdb, ours, later = append(gdb, g), append(ours, o), append(later, o-g)
		}
		x.report(name, map[string]float64{"gdb-ms": median(gdb), "dbgsh-ms": median(ours), "later-ms": median(later)})
	}
}

// prompt starts a program on a terminal and returns the milliseconds until
// it shows the prompt.
func (x *bench) prompt(prompt, name string, args ...string) float64 {
	x.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = x.env
	start := time.Now()
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		x.Fatal(err)
	}
	var text []byte
	for piece := make([]byte, 4096); !bytes.Contains(text, []byte(prompt)); {
		n, err := terminal.Read(piece)
		if err != nil {
			x.Fatalf("%s: %v after %q", name, err, text)
		}
		text = append(text, piece[:n]...)
	}
	took := time.Since(start)
	if _, err := terminal.WriteString("quit\n"); err != nil {
		x.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, terminal) // ends with EIO when the program does
	if err := cmd.Wait(); err != nil {
		x.Fatalf("%s: %v", name, err)
	}
	terminal.Close()
	return milliseconds(took)
}

// bigmemNeedle is what testdata/bigmem.c puts last.
const bigmemNeedle = 0x1f2e3d4c5b6a7988

// BenchmarkSearch looks for 8 bytes in 1 GiB of random numbers in another
// process: with GDB's find, with the scanner of dbgsh, and, as the limit, with
// bytes.Index in a copy of our own. All take turns.
func BenchmarkSearch(b *testing.B) {
	const size, rounds = 1 << 30, 5
	x := newBench(b)
	cmd := exec.Command(x.program("bigmem"), strconv.Itoa(size>>20))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	var start uint64
	if _, err := fmt.Fscanf(stdout, "0x%x\n", &start); err != nil {
		b.Fatal(err)
	}
	last := uint64(start + size - 8)
	needle := binary.NativeEndian.AppendUint64(nil, bigmemNeedle)

	gdb := x.start("gdb", "-nx", "-q")
	gdb.run(fmt.Sprintf("attach %d", cmd.Process.Pid))
	memory, err := proc.OpenMemory(cmd.Process.Pid, proc.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer memory.Close()
	ctx := context.Background()
	mappings := []vm.Mapping{{
		Range: vm.Range{Start: start, Size: size}, Perm: vm.KnownAll | vm.Read | vm.Write, Source: vm.SourceProcfs,
	}}
	matcher, err := search.NewBytes(needle)
	if err != nil {
		b.Fatal(err)
	}
	scan := func(workers int) func() {
		return func() {
			res, err := search.Scan(ctx, memory, mappings, search.Options{Matcher: matcher, Workers: workers})
			if err != nil || res.Partial != nil || res.SearchedBytes != size || res.Hits.Len() != 1 || res.Hits.At(0).Address != last {
				b.Fatalf("the scan found %+v, %v", res, err)
			}
		}
	}
	own := make([]byte, size)
	if _, err := memory.ReadMemory(ctx, own, start); err != nil {
		b.Fatal(err)
	}

	ways := []struct {
		name string
		pid  int // whose CPU time counts
		do   func()
	}{
		{"gdb-find", gdb.cmd.Process.Pid, func() {
			text, _ := gdb.run(fmt.Sprintf("find /g %#x, +%d, %#x", start, size, uint64(bigmemNeedle)))
			if !strings.Contains(text, fmt.Sprintf("%#x\n1 pattern found.\n", last)) {
				b.Fatalf("GDB found %q", text)
			}
		}},
		{"dbgsh-1-worker", os.Getpid(), scan(1)},
		{"dbgsh-2-workers", os.Getpid(), scan(2)},
		{"bytes.Index-limit", os.Getpid(), func() {
			if at := bytes.Index(own, needle); at != size-8 {
				b.Fatalf("bytes.Index found %d", at)
			}
		}},
	}
	cpu, wall := make([][]float64, len(ways)), make([][]float64, len(ways))
	for range rounds {
		for i, way := range ways {
			before, start := x.cpuTime(way.pid), time.Now()
			way.do()
			wall[i] = append(wall[i], time.Since(start).Seconds())
			cpu[i] = append(cpu[i], (x.cpuTime(way.pid) - before).Seconds())
		}
	}
	gdbCPU, gdbWall := median(cpu[0]), median(wall[0])
	for i, way := range ways {
		c, w := median(cpu[i]), median(wall[i])
		x.report(way.name, map[string]float64{
			"cpu-s/GiB": c, "wall-s/GiB": w, "cpu/gdb": c / gdbCPU, "wall/gdb": w / gdbWall,
		})
	}
}

// BenchmarkCore compares the first map of a core, and the first search in it,
// with those of the process that it is of, which lives on as another one of its
// kind; all take turns.
func BenchmarkCore(b *testing.B) {
	const rounds = 5
	x := newBench(b)
	pattern := testkit.CorePattern(b)
	program := x.program("coremaps")
	for _, v := range []struct {
		name   string
		args   []string
		needle int // how often it is there
	}{
		{"60,000-mappings", []string{"1", "0", "60000"}, 17},
		{"64-GiB-sparse", []string{"65536", "0", "0"}, 17},
		{"100-TiB-reserved", []string{"64", "20480", "0"}, 17},
	} {
		var programs [2]*testkit.Program
		for i := range programs {
			cmd := exec.Command(program, v.args...)
			cmd.Dir = b.TempDir()
			programs[i] = testkit.Start(b, cmd, testkit.FirstLine)
		}
		core := programs[0].Abort(b, pattern)
		args := [2][]string{{"-c", core, program}, {"-p", strconv.Itoa(programs[1].Process.Pid), program}}
		var maps, searches, connects [2][]float64
		for range rounds {
			for i := range args {
				began := time.Now()
				s := x.start(x.dbgsh, append([]string{"-n", "-gdb", "gdb"}, args[i]...)...)
				s.run("print 1")
				connects[i] = append(connects[i], milliseconds(time.Since(began)))
				text, took := s.run("vmmap")
				if !strings.Contains(text, "coremaps") {
					b.Fatalf("vmmap said %.1000q", text)
				}
				maps[i] = append(maps[i], milliseconds(took))
				text, took = s.run(`search "needle in a" -w`)
				if n := strings.Count(text, "needle in a ha"); n != v.needle {
					b.Fatalf("%d hits: %.1000q", n, text)
				}
				searches[i] = append(searches[i], milliseconds(took))
				s.end()
			}
		}
		for what, took := range map[string][2][]float64{"start": connects, "map": maps, "search": searches} {
			core, live := median(took[0]), median(took[1])
			x.report(v.name+"/"+what, map[string]float64{"core-ms": core, "live-ms": live, "core/live": core / live})
		}
	}
}

// cpuTime is the CPU time that a process has used, user and system.
func (x *bench) cpuTime(pid int) time.Duration {
	x.Helper()
	// The process's CPU clock, MAKE_PROCESS_CPUCLOCK and CPUCLOCK_SCHED in
	// include/linux/posix-timers_types.h of the kernel.
	const sched = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &t); err != nil {
		x.Fatalf("CPU clock of process %d: %v", pid, err)
	}
	return time.Duration(t.Nano())
}
