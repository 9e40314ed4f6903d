package commands

import (
	"context"
	"encoding/json"
	"fmt"

	"dbgsh/vm"
)

func vmmapAdd() Command {
	return Command{
		Name:  "vmmap_add",
		Group: Memory,
		Args:  "START SIZE [FLAGS] [OFFSET] [NAME]",
		Short: "Add pages to the map by hand.",
		Long: `START, SIZE (in bytes) and OFFSET are expressions. FLAGS are letters out of
rwx, or - for no access; without them the permissions are unknown and shown as
?. The pages stay in the map, over stops and runs, until vmmap_clear drops
them. They are shown by vmmap and searched by search, with and without a
process.`,
		Examples: []Example{
			{"vmmap_add 0x20000000 0x8000 rw 0 sram", "32 KiB of RAM"},
			{"vmmap_add $sp-0x100 0x200", "what lies around the stack pointer, permissions unknown"},
		},
		NoRepeat: true,
		Run:      runVmmapAdd,
	}
}

func runVmmapAdd(ctx context.Context, s *Session, in Input) (Result, error) {
	if len(in.Args) < 2 || len(in.Args) > 5 {
		return nil, usagef("takes START SIZE [FLAGS] [OFFSET] [NAME], but got %s", count(len(in.Args), "word"))
	}
	var nums [4]uint64
	for i, what := range []string{"START", "SIZE", "", "OFFSET"} {
		if what == "" || i >= len(in.Args) {
			continue
		}
		v, negative, err := s.Eval.Evaluate(ctx, in.Args[i].Expr())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if negative && i > 0 {
			return nil, usagef("%s is negative: %s is %d", what, in.Args[i].Text, int64(v))
		}
		nums[i] = v
	}
	m := vm.Mapping{Range: vm.Range{Start: nums[0], Size: nums[1]}, Offset: nums[3], Source: vm.SourceUser}
	if m.Size == 0 {
		return nil, usagef("size is 0; give the number of bytes, e.g. 0x1000")
	}
	if len(in.Args) > 2 {
		p, err := vm.ParseAccess(in.Args[2].Text)
		if err != nil {
			return nil, &UsageError{err}
		}
		m.Perm = p
	}
	if len(in.Args) > 4 {
		m.Name = in.Args[4].Text
	}
	res, err := addMappings(ctx, s, m)
	if err != nil {
		return nil, err
	}
	return res, nil
}

// addMappings adds pages to the map and tells what they lie over.
func addMappings(ctx context.Context, s *Session, ms ...vm.Mapping) (*addResult, error) {
	// What is known of the debuggee is only needed for the notes.
	m, err := s.Maps.Map(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	res := &addResult{added: ms, from: "what was added by hand", bits: 64}
	if err == nil {
		res.bits, res.live, res.runner = m.AddressBits, m.Live, m.Runner
	}
	overlaps, err := s.Maps.Add(m, ms...)
	if err != nil {
		return nil, err
	}
	for _, o := range overlaps {
		note := fmt.Sprintf("%v overlaps %v %s", o.Added.Range, o.Over.Range, o.Over.Title())
		if o.Count > 1 {
			note += fmt.Sprintf(" and %d more", o.Count-1)
		}
		res.notes = append(res.notes, note)
	}
	return res, nil
}

// addResult is mappings that were added by hand.
type addResult struct {
	added []vm.Mapping // at least one
	from  string       // where they are from
	bits  int
	notes []string

	live   bool // of the debuggee's map
	runner string
}

// Selected is the mappings that were added.
func (r *addResult) Selected() *vm.Map {
	return &vm.Map{
		Mappings: r.added, AddressBits: r.bits, From: vm.Origin{Source: r.added[0].Source, Place: r.from},
		Live: r.live, Runner: r.runner,
	}
}

// WriteText is a line for each mapping.
func (r *addResult) WriteText(t *Text) {
	for i := range r.added {
		m := &r.added[i]
		t.Printf(Plain, "added %v %v %s\n", m.Range, m.Perm, m.Title())
	}
	t.notes(r.notes)
}

// MarshalJSON is {"added":[...],"notes":[...]}.
func (r *addResult) MarshalJSON() ([]byte, error) {
	out := struct {
		Added []jsonMapping `json:"added"`
		Notes []string      `json:"notes"`
	}{make([]jsonMapping, len(r.added)), append([]string{}, r.notes...)}
	for i := range r.added {
		out.Added[i] = jsonOf(&r.added[i], true)
	}
	return json.Marshal(out)
}
