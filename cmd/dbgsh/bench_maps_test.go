package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"dbgsh/target/proc"
)

// BenchmarkVmmapReading compares vmmap, from the line given to the last row, with
// reading /proc/PID/maps to its end, which it cannot do without. They take turns
// at each of some stops of a process with 20,000 mappings.
func BenchmarkVmmapReading(b *testing.B) {
	const mappings, stops = 20_000, 21
	x := newBench(b)
	s := x.start(x.dbgsh, "-n", "-gdb", "gdb", x.program("manymaps"))
	s.run("break stop")
	s.run(fmt.Sprintf("run %d %d", mappings, stops))
	text, _ := s.run("info proc")
	var pid int
	if _, err := fmt.Sscanf(text, "process %d", &pid); err != nil {
		b.Fatalf("%v in %q", err, text)
	}
	lines, _ := x.readMaps(pid)
	if lines < mappings {
		b.Fatalf("%d lines of maps", lines)
	}
	var showing, reading, ratio []float64
	for stop := range stops {
		var show, read time.Duration
		if stop%2 == 0 { // neither is always the first after a stop
			_, read = x.readMaps(pid)
		}
		show = s.lines("vmmap", lines+1) // with the heading
		if stop%2 != 0 {
			_, read = x.readMaps(pid)
		}
		showing, reading = append(showing, milliseconds(show)), append(reading, milliseconds(read))
		ratio = append(ratio, show.Seconds()/read.Seconds())
		s.run("continue")
	}
	x.report(fmt.Sprint(mappings), map[string]float64{
		"dbgsh-ms": median(showing), "read-ms": median(reading), "dbgsh/read": median(ratio),
	})
}

// readMaps reads a process's maps to their end, and counts the lines.
func (x *bench) readMaps(pid int) (lines int, took time.Duration) {
	x.Helper()
	piece := make([]byte, 64<<10)
	start := time.Now()
	f, err := os.Open(proc.Path(pid, "maps"))
	if err != nil {
		x.Fatal(err)
	}
	defer f.Close()
	for {
		n, err := f.Read(piece)
		lines += bytes.Count(piece[:n], []byte{'\n'})
		if errors.Is(err, io.EOF) {
			return lines, time.Since(start)
		}
		if err != nil {
			x.Fatal(err)
		}
	}
}

// lines runs a line and takes the time until n lines that it prints are here.
func (s *session) lines(line string, n int) (took time.Duration) {
	s.x.Helper()
	piece := make([]byte, 64<<10)
	start := time.Now()
	if _, err := fmt.Fprintln(s.in, line); err != nil {
		s.x.Fatal(err)
	}
	for n > 0 {
		k, err := s.out.Read(piece)
		if err != nil {
			s.x.Fatalf("%s: %v", line, err)
		}
		n -= bytes.Count(piece[:k], []byte{'\n'})
	}
	return time.Since(start)
}
