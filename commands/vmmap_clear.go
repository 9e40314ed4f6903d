package commands

import "context"

func vmmapClear() Command {
	return Command{
		Name:     "vmmap_clear",
		Group:    Memory,
		Short:    "Drop the pages that were added by hand.",
		Examples: []Example{{"vmmap_clear", "forget what vmmap_add and vmmap_load added"}},
		NoRepeat: true,
		Run: func(_ context.Context, s *Session, _ Input) (Result, error) {
			n := s.Maps.ClearAdded()
			return Notef("%s dropped", count(n, "added mapping")), nil
		},
	}
}
