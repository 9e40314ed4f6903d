package gdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"dbgsh/target/mi"
	"dbgsh/vm"
	"dbgsh/vm/image"
)

// LongQuery is Query for hundreds of lines that come one by one, which costs
// thirty times less by way of a file. GDB's pipe (since 10) also sets
// $_shell_exitcode. What GDB logs gets into the file, too, whole lines of it but
// for what goes over a connection.
func (g *GDB) LongQuery(ctx context.Context, line string) (string, error) {
	line = "with language c -- with debug serial 0 -- " + line // 0 is an expression
	text, err := ThroughFile(func(name string) error {
		_, err := g.Query(ctx, "pipe "+line+" | cat >"+name)
		return err
	})
	var said *Error
	if errors.As(err, &said) || err == nil && len(text) == 0 {
		return g.Query(ctx, line)
	}
	return mi.Untraced(string(text), line), err
}

// ThroughFile gives write the name of a file for GDB to write to, which has no
// characters that would have to be quoted, and returns what GDB wrote.
func ThroughFile(write func(name string) error) ([]byte, error) {
	fd, err := unix.MemfdCreate("dbgsh", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	defer f.Close()
	if err := write(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)); err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
}

// coreLine is how "info files" names the core (gdb/exec.c, print_section_info).
var coreLine = regexp.MustCompile("(?m)^Local core dump file:\n\t`(.*)', file type ")

// CoreFile is the path of the core file that GDB has open.
func (g *GDB) CoreFile(ctx context.Context) (string, error) {
	// "info files" lists all segments too, of some cores tens of thousands.
	text, err := g.Query(ctx, "maint info bfds")
	var said *Error
	if err != nil && !errors.As(err, &said) {
		return "", err
	}
	if path, ok := onlyCore(text, g.PID()); ok {
		return path, nil
	}
	if text, err = g.LongQuery(ctx, "info files"); err != nil {
		return "", err
	}
	m := coreLine.FindStringSubmatch(text)
	if m == nil {
		return "", errors.New("GDB does not say which core file it has open")
	}
	return m[1], nil
}

// onlyCore is the only core among the files that GDB knows, which it lists; ok is
// false where there is none, or more than one, or where the one is no file that
// GDB has open, so that the list must have been understood wrongly.
func onlyCore(list string, gdbPID int) (path string, ok bool) {
	for _, name := range parseBFDs(list) {
		if name == path || !image.IsCore(name) {
			continue
		}
		if path != "" {
			return "", false
		}
		path = name
	}
	st, err := os.Stat(path)
	if err != nil {
		return "", false
	}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", gdbPID))
	return path, slices.ContainsFunc(fds, func(fd string) bool {
		opened, err := os.Stat(fd)
		return err == nil && os.SameFile(opened, st)
	})
}

// parseBFDs is the names in GDB's list of files (gdb/gdb_bfd.c,
// maintenance_info_bfds), of which blanks fill the rows up:
//
//	1        0x55f0f453d680     /tmp/core
func parseBFDs(list string) []string {
	var names []string
	for line := range strings.Lines(list) {
		count, rest, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
		addr, name, found := strings.Cut(strings.TrimLeft(rest, " "), " ")
		if _, err := strconv.Atoi(count); err != nil || !found || !strings.HasPrefix(addr, "0x") {
			continue // the heading
		}
		if name = strings.Trim(name, " \r\n"); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// DeclaredRegions is the memory regions that the stub or the user declares.
func (g *GDB) DeclaredRegions(ctx context.Context) ([]vm.Mapping, error) {
	text, err := g.Query(ctx, "info mem")
	if err != nil {
		return nil, err
	}
	ms, err := ParseInfoMem(text)
	if err != nil {
		return nil, fmt.Errorf("info mem: %w", err)
	}
	return ms, nil
}

// ProcMappings is the map that GDB itself gets out of a stub, empty where it
// gets none.
func (g *GDB) ProcMappings(ctx context.Context) ([]vm.Mapping, error) {
	text, err := g.Query(ctx, "info proc mappings")
	var said *Error
	if err != nil && !errors.As(err, &said) {
		return nil, err
	}
	ms, err := ParseInfoProc(text)
	if err != nil {
		return nil, fmt.Errorf("info proc mappings: %w", err)
	}
	return ms, nil
}

// Auxv is the auxiliary vector of the selected inferior, empty where GDB gets none.
func (g *GDB) Auxv(ctx context.Context) (image.Auxv, error) {
	text, err := g.Query(ctx, "info auxv")
	var said *Error
	if err != nil && !errors.As(err, &said) {
		return nil, err
	}
	return parseInfoAuxv(text), nil
}

// parseInfoAuxv reads what GDB's info auxv prints: a line for each entry, with
// its type, the type's name, a description, the value, and the string behind
// it where that is one.
func parseInfoAuxv(text string) image.Auxv {
	var aux image.Auxv
	for line := range strings.Lines(text) {
		// No description has a quote.
		entry, _, _ := strings.Cut(line, ` "`)
		f := strings.Fields(entry)
		if len(f) < 3 {
			continue
		}
		typ, err1 := strconv.ParseUint(f[0], 10, 64)
		value, err2 := strconv.ParseUint(f[len(f)-1], 0, 64)
		if err1 == nil && err2 == nil && image.AuxType(typ) != image.AuxNull {
			aux = append(aux, image.AuxValue{Type: image.AuxType(typ), Value: value})
		}
	}
	return aux
}

// Registers is the values of the selected thread's registers that are numbers
// the size of a pointer or less. The error is vm.ErrNoProcess where there are none.
func (g *GDB) Registers(ctx context.Context) ([]uint64, error) {
	res, err := g.Send(ctx, "data-list-register-values", "--skip-unavailable", "x")
	var said *Error
	if errors.As(err, &said) && strings.Contains(said.Msg, "No registers") {
		return nil, vm.ErrNoProcess
	}
	if err != nil {
		return nil, err
	}
	var values []uint64
	for _, r := range res.Tuples("register-values") {
		if v, err := strconv.ParseUint(r.Str("value"), 0, 64); err == nil {
			values = append(values, v)
		}
	}
	return values, nil
}

// lastLine is what GDB printed last without a newline. Before it may stand what GDB
// told meanwhile, in lines: of a process that runs, or of an interrupt that came late.
func lastLine(text string) string { return text[strings.LastIndexByte(text, '\n')+1:] }

// Arch is the size of pointers in bytes and the byte order that GDB supposes.
func (g *GDB) Arch(ctx context.Context) (ptr int, bigEndian bool, err error) {
	// In a language without sizeof it is asked in C.
	texts, err := g.QueryAll(ctx, `with language c -- printf "%d", sizeof(void *)`, "show endian")
	if err != nil {
		return 0, false, err
	}
	if ptr = 8; lastLine(texts[0]) == "4" {
		ptr = 4
	}
	return ptr, strings.Contains(texts[1], "big endian"), nil
}

// Refresh has GDB read the debuggee's registers anew, which it keeps until it
// hears of a change: whoever else stops and runs the debuggee, or resets it, does
// not tell. Nothing is read yet, and the selected frame stays so. It returns that
// frame's pc as GDB had it; ok is false where there is none.
func (g *GDB) Refresh(ctx context.Context) (pc uint64, ok bool, err error) {
	turn, err := g.Turn(ctx)
	if err != nil {
		return 0, false, err
	}
	defer turn.Release()
	var said *Error
	frame, err := turn.send(ctx, "stack-info-frame")
	if err != nil && !errors.As(err, &said) {
		return 0, false, err
	}
	pc, ok = frame.Tuple("frame").Uint("addr")
	// Since GDB 11, and before (gdb/NEWS, "maint flush register-cache").
	for _, flush := range [...]string{"maint flush register-cache", "flushregs"} {
		if _, err = turn.Query(ctx, flush); !errors.As(err, &said) {
			break
		}
	}
	if err != nil {
		return 0, false, err
	}
	// The flush drops the choice of a frame, and this tells nobody of a change.
	if level := frame.Tuple("frame").Str("level"); level != "" && level != "0" {
		if _, err := turn.send(ctx, "stack-select-frame", level); err != nil && !errors.As(err, &said) {
			return 0, false, err
		}
	}
	return pc, ok, nil
}
