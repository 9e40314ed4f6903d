package commands

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"dbgsh/vm"
)

// defaultExplore is how many bytes are explored at the most, unless asked otherwise.
const defaultExplore = 16 << 20

func vmmapExplore() Command {
	return Command{
		Name:  "vmmap_explore",
		Group: Memory,
		Args:  "ADDR",
		Short: "Find the bounds of readable memory by reading it.",
		Long: `For a target that tells of no memory map, as on bare metal. From the page that
holds ADDR, an expression, one byte of each page is read upwards and downwards
until one cannot be read. What is found is shown as <explored> until the process
goes. Reading a device's registers may do something to the device: this is the
only command that reads what nobody has declared, beside set auto-explore-pages
yes.`,
		Examples: []Example{
			{"vmmap_explore $sp", "the memory around the stack pointer"},
			{"vmmap_explore 0x20000000 --max 0x10000", "64 KiB of it at the most"},
		},
		NoRepeat: true,
		Complete: CompleteRegion,
		Setup: func(f *pflag.FlagSet) RunFunc {
			var most string
			f.StringVar(&most, "max", "", "stop after `SIZE` bytes, an expression (default 16 MiB)")
			return func(ctx context.Context, s *Session, in Input) (Result, error) {
				addr, err := oneAddr(ctx, s, in.Args)
				if err != nil {
					return nil, err
				}
				limit := uint64(defaultExplore)
				if most != "" {
					n, negative, err := s.Eval.Evaluate(ctx, most)
					if err != nil {
						return nil, fmt.Errorf("--max: %w", err)
					}
					if negative || n == 0 {
						return nil, usagef("--max is %d; give a number of bytes, e.g. 0x10000", int64(n))
					}
					limit = n
				}
				return explore(ctx, s, addr, limit)
			}
		},
	}
}

// Explorer finds out by reading what is mapped.
type Explorer interface {
	// Explore finds the bounds of the readable memory around addr, at most limit
	// bytes, and adds it to the map; cut says that there may be more. The mapping
	// is empty where nothing can be read at addr.
	Explore(ctx context.Context, addr, limit uint64) (m vm.Mapping, cut bool, err error)
	// Registers is the values of the selected thread's registers.
	Registers(ctx context.Context) ([]uint64, error)
}

func explore(ctx context.Context, s *Session, addr, limit uint64) (Result, error) {
	m, cut, err := s.Explorer.Explore(ctx, addr, limit)
	if err != nil {
		return nil, err
	}
	if m.Size == 0 {
		return nil, fmt.Errorf("read %#x: nothing can be read there", addr)
	}
	res := &addResult{added: []vm.Mapping{m}, from: "what was found by reading", bits: 64}
	if ptr, _, err := s.Program.Arch(ctx); err == nil {
		res.bits = 8 * ptr
	}
	if cut {
		res.notes = append(res.notes, fmt.Sprintf("stopped after %s; --max goes on", byteSize(m.Size)))
	}
	return res, nil
}
