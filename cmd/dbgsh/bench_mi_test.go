package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkCommands compares how long a line takes that GDB has nearly nothing to
// do for: in a batch script of dbgsh, and over a bare pipe to a GDB/MI that is
// given each command when the one before is answered. They take turns.
func BenchmarkCommands(b *testing.B) {
	const commands, rounds = 1000, 25
	x := newBench(b)
	script := filepath.Join(x.dir, "prints")
	text := "echo begin\\n\n" + strings.Repeat("print 1\n", commands) + "echo end\\n\n"
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	var bare, ours, ratio []float64
	for range rounds {
		p := x.barePipe(commands).Seconds() / commands * 1e6
		o := x.batch(script).Seconds() / commands * 1e6
		bare, ours, ratio = append(bare, p), append(ours, o), append(ratio, o/p)
	}
	x.report("print", map[string]float64{
		"bare-µs": median(bare), "dbgsh-µs": median(ours), "dbgsh/bare": median(ratio), "load": load(b),
	})
}

// barePipe times commands in a GDB/MI that is talked to without any help. It has
// a session of its own, as the GDB behind dbgsh has: on a busy machine Linux shares
// the CPUs out between sessions (autogroup, sched(7)), which counts for more.
func (x *bench) barePipe(commands int) time.Duration {
	x.Helper()
	cmd := exec.Command("gdb", "-nx", "-q", "--interpreter=mi4")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		x.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		x.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		x.Fatal(err)
	}
	answers := bufio.NewReader(out)
	command := func() {
		if _, err := io.WriteString(in, "1-interpreter-exec console \"print 1\"\n"); err != nil {
			x.Fatal(err)
		}
		for {
			line, err := answers.ReadString('\n')
			if err != nil {
				x.Fatal(err)
			}
			if line == "1^done\n" {
				return
			}
		}
	}
	command()
	start := time.Now()
	for range commands {
		command()
	}
	took := time.Since(start)
	in.Close()
	_, _ = io.Copy(io.Discard, answers)
	if err := cmd.Wait(); err != nil {
		x.Fatal(err)
	}
	return took
}

// batch times a script of dbgsh, between the lines begin and end of its output.
func (x *bench) batch(script string) time.Duration {
	x.Helper()
	cmd := exec.Command(x.dbgsh, "-n", "-gdb", "gdb", "-x", script)
	cmd.Env, cmd.Stderr = x.env, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		x.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		x.Fatal(err)
	}
	var start time.Time
	var took time.Duration
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch lines.Text() {
		case "begin":
			start = time.Now()
		case "end":
			took = time.Since(start)
		}
	}
	if err := cmd.Wait(); err != nil || took == 0 {
		x.Fatalf("dbgsh: %v", err)
	}
	return took
}

// BenchmarkOutput compares how long 10,000 lines of one command take to come out
// of GDB at a pipe and out of dbgsh, in turns.
func BenchmarkOutput(b *testing.B) {
	const lines, rounds = 10_000, 15
	x := newBench(b)
	need(b, "setsid")
	script := filepath.Join(x.dir, "lines.gdb")
	text := fmt.Sprintf("set $i = 0\nwhile $i < %d\nprintf \"line %%d of the long output of one command\\n\", $i\nset $i = $i + 1\nend\n", lines)
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	plain := x.start("setsid", "gdb", "-nx", "-q") // see barePipe
	plain.run("set height 0")
	plain.run("set width 0")
	ours := x.start(x.dbgsh, "-n", "-gdb", "gdb")
	time := func(s *session) float64 {
		text, took := s.run("source " + script)
		if n := strings.Count(text, "\n"); n != lines {
			b.Fatalf("%d lines", n)
		}
		return milliseconds(took)
	}
	var gdb, dbgsh, ratio []float64
	for range rounds {
		g, o := time(plain), time(ours)
		gdb, dbgsh, ratio = append(gdb, g), append(dbgsh, o), append(ratio, o/g)
	}
	x.report("lines", map[string]float64{
		"gdb-ms": median(gdb), "dbgsh-ms": median(dbgsh), "dbgsh/gdb": median(ratio), "load": load(b),
	})
}

// load is the load average of the last minute.
func load(b *testing.B) (average float64) {
	b.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := fmt.Sscan(string(text), &average); err != nil {
		b.Fatal(err)
	}
	return average
}
