package commands

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"dbgsh/vm"
	"dbgsh/vm/image"
)

func vmmapLoad() Command {
	return Command{
		Name:  "vmmap_load",
		Group: Memory,
		Args:  "[FILE]",
		Short: "Add the segments of an ELF file to the map.",
		Long: `The PT_LOAD segments of FILE, or of the program that is debugged, are added as
pages, as vmmap_add would. A file that can be loaded anywhere (a PIE, a shared
library) is placed where the debuggee has it mapped, else at the address it was
linked for. --base places the page of its lowest segment.`,
		Examples: []Example{
			{"vmmap_load", "the program's own segments"},
			{"vmmap_load firmware.elf", "the segments of a firmware image, where it was linked"},
			{"vmmap_load module.so --base 0x7f0000000000", "a library at a given address"},
		},
		NoRepeat: true,
		Complete: CompleteFile,
		Setup: func(f *pflag.FlagSet) RunFunc {
			var base string
			f.StringVar(&base, "base", "", "place the lowest segment's page at `ADDR`, an expression")
			return func(ctx context.Context, s *Session, in Input) (Result, error) {
				return runVmmapLoad(ctx, s, base, in)
			}
		},
	}
}

// Program is the program that is debugged.
type Program interface {
	// Program is the path of the program's file, "" where none is loaded.
	Program(ctx context.Context) (string, error)
	// Arch is the pointer size in bytes and the byte order of the debuggee.
	Arch(ctx context.Context) (ptr int, order binary.ByteOrder, err error)
}

// loadPage is the size in bytes that segments are rounded to, the smallest
// that the architectures of Linux use.
const loadPage = 4096

func runVmmapLoad(ctx context.Context, s *Session, base string, in Input) (Result, error) {
	path, err := fileToLoad(ctx, s, in.Args)
	if err != nil {
		return nil, err
	}
	f, err := image.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	file, err := image.ReadELF(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	load := image.Loaded{Page: loadPage, Name: path}
	var note string
	switch {
	case base != "":
		addr, _, err := s.Eval.Evaluate(ctx, base)
		if err != nil {
			return nil, fmt.Errorf("--base: %w", err)
		}
		load.Bias = file.Bias(addr, loadPage)
	case file.Type == elf.ET_DYN:
		if start, ok := mappedAt(ctx, s, path); ok {
			load.Bias = file.Bias(start, loadPage)
		} else {
			note = "placed where it was linked; --base ADDR places it elsewhere"
		}
	}
	ms, err := file.Mappings(load)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	res, err := addMappings(ctx, s, ms...)
	if err != nil {
		return nil, err
	}
	if n := len(res.notes); n > 1 {
		res.notes = []string{fmt.Sprintf("%d of them overlap mappings that are known; the first: %s", n, res.notes[0])}
	}
	if note != "" {
		res.notes = append(res.notes, note)
	}
	return res, nil
}

// fileToLoad is the absolute path of the file named, or of the program.
func fileToLoad(ctx context.Context, s *Session, words []Word) (string, error) {
	switch len(words) {
	case 0:
		path, err := s.Program.Program(ctx)
		if err != nil {
			return "", err
		}
		if path == "" {
			return "", usagef("no program is loaded; name an ELF file")
		}
		if strings.HasPrefix(path, "target:") {
			return "", usagef("the program, %s, is on the stub's side; name an ELF file on this one", path)
		}
		return path, nil
	case 1:
		path := words[0].Text
		if rest, ok := strings.CutPrefix(path, "~/"); ok {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", err
			}
			path = filepath.Join(home, rest)
		}
		return filepath.Abs(path)
	}
	return "", usagef("takes one FILE, but got %s", count(len(words), "word"))
}

// mappedAt is where the debuggee has the beginning of a file mapped.
func mappedAt(ctx context.Context, s *Session, path string) (start uint64, ok bool) {
	m, err := s.Maps.Map(ctx)
	if err != nil {
		return 0, false
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for i := range m.Mappings {
		mp := &m.Mappings[i]
		if mp.Offset == 0 && mp.Source != vm.SourceUser && mp.Source != vm.SourceELF &&
			strings.TrimSuffix(mp.Name, " (deleted)") == path {
			return mp.Start, true
		}
	}
	return 0, false
}
