package commands

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/pflag"

	"dbgsh/pt"
	"dbgsh/target"
	"dbgsh/vm"
)

func pagewalk() Command {
	return Command{
		Name:  "pagewalk",
		Group: Memory,
		Args:  "ADDR",
		Short: "Follow an address through the page tables, level by level.",
		Long: `For a machine in QEMU. ADDR, an expression, is translated by the tables of the
selected thread's CPU, or of those at the physical address that --root names. Each
line is an entry: its name, where it stands, its value and its flags. The line
after them says where the walk ends and why, what the address is mapped to, and
what kernel and user may do there by all entries together. Notes follow where
more than the entries decides.`,
		Examples: []Example{
			{"pagewalk $sp", "where the top of the stack lies in physical memory"},
			{"pagewalk --root 0x2a10000 0x400000", "an address of another process's"},
		},
		Complete: CompleteRegion,
		Setup: func(f *pflag.FlagSet) RunFunc {
			var root string
			f.StringVar(&root, "root", "", "walk the page tables at the physical address `PA`")
			return func(ctx context.Context, s *Session, in Input) (Result, error) {
				addr, err := oneAddr(ctx, s, in.Args)
				if err != nil {
					return nil, err
				}
				at, err := rootAt(ctx, s, root)
				if err != nil {
					return nil, err
				}
				path, err := s.Machine.PageWalk(ctx, addr, at)
				if err != nil {
					return nil, err
				}
				return &walkResult{path}, nil
			}
		},
	}
}

// Machine is a machine in QEMU. The errors of its methods wrap
// target.ErrNoPageTables where the debuggee is none.
type Machine interface {
	// PageTables is the map that the page tables of the selected CPU make.
	PageTables(ctx context.Context, o target.TableOptions) (*vm.Map, error)
	// PageWalk follows an address through page tables: those of another root
	// than the selected CPU's where root is not nil.
	PageWalk(ctx context.Context, addr uint64, root *uint64) (*pt.Path, error)
	// Physical is the physical memory; close it after use.
	Physical(ctx context.Context) (*target.Physical, error)
}

// rootAt is the value of --root, nil where it is not given.
func rootAt(ctx context.Context, s *Session, expr string) (*uint64, error) {
	if expr == "" {
		return nil, nil
	}
	pa, _, err := s.Eval.Evaluate(ctx, expr)
	if err != nil {
		return nil, fmt.Errorf("--root: %w", err)
	}
	return &pa, nil
}

// walkResult is the way of an address through page tables.
type walkResult struct{ path *pt.Path }

// WriteText is a line for each entry, then where that leads, then the notes.
func (r *walkResult) WriteText(t *Text) {
	p := r.path
	t.Printf(Title, "%#x by %s\n", p.VA, p.Mode)
	for _, s := range p.Steps {
		t.Printf(Plain, "%-7s %#x[%d] at %#x: 0x%016x %s\n", s.Name, s.Table, s.Index, s.Addr, s.Value, s.Flags)
	}
	if p.End != pt.Mapped {
		t.Printf(Strong, "%v: %s\n", p.End, p.Why)
		t.notes(p.Notes)
		return
	}
	t.Printf(Strong, "physical %#x: %s, kernel %s, user %s", p.Phys, p.Why, p.Access.Kernel(), p.Access.User())
	if f := p.Flags.String(); f != "" {
		t.Print(Plain, ", "+f)
	}
	t.Print(Plain, "\n")
	t.notes(p.Notes)
}

// stepJSON is how JSON shows an entry.
type stepJSON struct {
	Name  string    `json:"name"`
	Table hexNumber `json:"table"`
	Index int       `json:"index"`
	Addr  hexNumber `json:"address"`
	Value hexNumber `json:"value"`
	Flags string    `json:"flags"`
}

// MarshalJSON is the entries and where they lead; what is about the page is
// there only for an address that is mapped.
func (r *walkResult) MarshalJSON() ([]byte, error) {
	p := r.path
	out := struct {
		Address  hexNumber  `json:"address"`
		Mode     string     `json:"mode"`
		Steps    []stepJSON `json:"steps"`
		Mapped   bool       `json:"mapped"`
		End      string     `json:"end"`
		Why      string     `json:"why"`
		Phys     *hexNumber `json:"physical,omitempty"`
		PageSize uint64     `json:"page_size,omitempty"`
		Kernel   string     `json:"kernel,omitempty"`
		User     string     `json:"user,omitempty"`
		Flags    string     `json:"flags,omitempty"`
		Notes    []string   `json:"notes"`
	}{Address: hexNumber(p.VA), Mode: p.Mode, Steps: make([]stepJSON, len(p.Steps)), Mapped: p.End == pt.Mapped, End: p.End.String(), Why: p.Why, Notes: append([]string{}, p.Notes...)}
	for i, s := range p.Steps {
		out.Steps[i] = stepJSON{s.Name, hexNumber(s.Table), s.Index, hexNumber(s.Addr), hexNumber(s.Value), s.Flags}
	}
	if out.Mapped {
		phys := hexNumber(p.Phys)
		out.Phys, out.PageSize = &phys, p.PageSize
		out.Kernel, out.User, out.Flags = p.Access.Kernel(), p.Access.User(), p.Flags.String()
	}
	return json.Marshal(out)
}
