package qemusys

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dbgsh/pt"
)

// BenchmarkKernel measures what a user waits for with a Linux guest of 512 MiB,
// round by round, so that what is compared has met the same load: the walk
// alone; dbgsh itself with vmmap as the first line after connecting, and after
// a stop; the map through the stub's physical mode; and what the monitor takes
// to list the pages, and we to make ranges of them. Medians.
func BenchmarkKernel(b *testing.B) {
	dbgsh := filepath.Join(b.TempDir(), "dbgsh")
	if text, err := exec.Command("go", "build", "-o", dbgsh, "../../cmd/dbgsh").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, text)
	}
	addr := bootLinux(b, "qemu-system-x86_64", "amd64", "", "console=ttyS0", "-cpu", "max,la57=off", "-m", "512")
	const rounds = 15
	var walk, physical, tlb, first, stop []time.Duration
	rows, ranges := 0, 0
	for range rounds {
		shell := startShell(b, dbgsh, "target remote "+addr)
		_, took := shell.run("vmmap")
		first = append(first, took)
		shell.run("stepi")
		text, took := shell.run("vmmap")
		stop = append(stop, took)
		rows = strings.Count(text, "[pt_0x")
		shell.end("disconnect")

		wish := Auto
		d := connect(b, addr, &wish)
		l, _, err := d.look().walk(d.Ctx, TableOptions{}, false)
		if err != nil {
			b.Fatal(err)
		}
		ram, err := l.hostRAM()
		if err != nil {
			b.Fatal(err)
		}
		timed := func(into *[]time.Duration, f func() error) {
			start := time.Now()
			if err := f(); err != nil {
				b.Fatal(err)
			}
			*into = append(*into, time.Since(start))
		}
		timed(&walk, func() error {
			_, err := pt.Walk(d.Ctx, newRAMPhys(d.Ctx, ram), l.c.mmu, pt.Options{})
			return err
		})
		d.throughStub(true)
		if _, err := d.Map(d.Ctx); err != nil { // the layout is known
			b.Fatal(err)
		}
		for range 3 {
			timed(&physical, func() error {
				_, err := d.Map(d.Ctx)
				return err
			})
		}
		d.throughStub(false)
		timed(&tlb, func() error {
			text, err := d.LongQuery(d.Ctx, "monitor info tlb")
			ranges = 0
			last := uint64(0)
			for line := range strings.Lines(text) {
				if len(line) > 34 && line[16] == ':' {
					va, err := strconv.ParseUint(line[:16], 16, 64)
					if err != nil {
						return err
					}
					if va != last+0x1000 {
						ranges++
					}
					last = va
				}
			}
			return err
		})
		if err := ram.Close(); err != nil {
			b.Error(err)
		}
		d.Lines("disconnect")
	}
	base := median(tlb)
	report := func(name string, all []time.Duration, goal float64, extra map[string]float64) {
		b.Run(name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			ms := median(all).Seconds() * 1000
			b.ReportMetric(ms, "ms")
			b.ReportMetric(base.Seconds()*1000/ms, "x-quicker-than-info-tlb")
			if goal > 0 {
				b.ReportMetric(goal, "ms-goal")
			}
			for unit, v := range extra {
				b.ReportMetric(v, unit)
			}
		})
	}
	report("walk", walk, 1, nil)
	report("vmmap-after-stop", stop, 5, map[string]float64{"rows": float64(rows)})
	report("vmmap-first", first, 25, nil)
	report("physical-mode", physical, 60, nil)
	report("info-tlb-parsed", tlb, 0, map[string]float64{"ranges": float64(ranges)})
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// shell is a dbgsh that reads lines from a pipe.
type shell struct {
	b   *testing.B
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	n   int // lines run
}

func startShell(b *testing.B, dbgsh string, line string) *shell {
	b.Helper()
	s := &shell{b: b, cmd: exec.Command(dbgsh, "-n", "-gdb", "gdb-multiarch")}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	s.out = bufio.NewReaderSize(out, 1<<20)
	s.run(line)
	return s
}

// run runs a line and takes the time until all that it prints is here.
func (s *shell) run(line string) (text string, took time.Duration) {
	s.b.Helper()
	s.n++
	end := fmt.Sprintf("<end %d>", s.n)
	var all strings.Builder
	start := time.Now()
	if _, err := fmt.Fprintf(s.in, "%s\necho %s\\n\n", line, end); err != nil {
		s.b.Fatal(err)
	}
	for {
		row, err := s.out.ReadString('\n')
		if err != nil {
			s.b.Fatalf("%s: %v", line, err)
		}
		if strings.HasSuffix(row, end+"\n") {
			return all.String(), time.Since(start)
		}
		all.WriteString(row)
	}
}

// end runs a last line.
func (s *shell) end(line string) {
	s.b.Helper()
	s.run(line)
	s.in.Close()
	if err := s.cmd.Wait(); err != nil {
		s.b.Error(err)
	}
}
