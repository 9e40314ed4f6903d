package commands

import (
	"context"
	"encoding/json"
	"slices"

	"dbgsh/target"
	"dbgsh/vm"
)

func status() Command {
	return Command{
		Name:     "status",
		Group:    Memory,
		Short:    "Show what is debugged, and where its memory map comes from.",
		Examples: []Example{{"status", "kind of debuggee, process, program, GDB, source of the map"}},
		Run: func(ctx context.Context, s *Session, _ Input) (Result, error) {
			st, err := s.Status.Status(ctx)
			if err != nil {
				return nil, err
			}
			res := &statusResult{Status: st, added: s.Maps.Added()}
			if st.Map != nil {
				res.notes = slices.Concat(st.Map.Caveats(), st.Map.Rules)
			}
			return res, nil
		},
	}
}

// Statuser knows what is debugged.
type Statuser interface {
	// Status is what is known of the debuggee and its GDB.
	Status(ctx context.Context) (target.Status, error)
}

// statusResult is what is known of the target.
type statusResult struct {
	target.Status
	added int      // mappings added by hand
	notes []string // what the map does not tell
}

// WriteText is a line for each thing known.
func (r *statusResult) WriteText(t *Text) {
	line := func(name, format string, args ...any) {
		t.Printf(Faint, "%-9s", name)
		t.Printf(Plain, format+"\n", args...)
	}
	state := "stopped"
	if r.Running {
		state = "running"
	}
	if r.PID != 0 {
		line("debuggee", "%v, pid %d, %s", r.Kind, r.PID, state)
	} else {
		line("debuggee", "%v", r.Kind)
	}
	if r.Program != "" {
		line("program", "%s", vm.Escape(r.Program))
	}
	line("GDB", "%s, pid %d", r.GDB, r.GDBPID)
	line("map from", "%s", vm.Escape(r.MapFrom))
	if r.added > 0 {
		line("added", "%s, by vmmap_add or vmmap_load", count(r.added, "mapping"))
	}
	for _, n := range r.notes {
		line("note", "%s", vm.Escape(n))
	}
}

// MarshalJSON is an object of what is known; map is there only where there is one.
func (r *statusResult) MarshalJSON() ([]byte, error) {
	out := struct {
		Kind    string     `json:"kind"`
		PID     int        `json:"pid"`
		Running bool       `json:"running"`
		Program string     `json:"program"`
		GDB     string     `json:"gdb"`
		GDBPID  int        `json:"gdb_pid"`
		MapFrom string     `json:"map_from"`
		Map     *jsonAbout `json:"map,omitempty"`
		Added   int        `json:"added"`
		Notes   []string   `json:"notes"`
	}{
		r.Kind.String(), r.PID, r.Running, r.Program, r.GDB, r.GDBPID, r.MapFrom, nil, r.added, append([]string{}, r.notes...),
	}
	if r.Map != nil {
		about := aboutOf(r.Map)
		out.Map = &about
	}
	return json.Marshal(out)
}
