package commands

import "dbgsh/vm"

// jsonAbout is how JSON shows what is known of a map as a whole, as "map" in
// every document that was made from one.
type jsonAbout struct {
	From    jsonOrigin `json:"from"`
	Partial []jsonLack `json:"partial"` // what it is known not to tell
	Running bool       `json:"running"` // somebody ran in it while it was read
}

type jsonOrigin struct {
	Source  vm.Source `json:"source"`
	Place   string    `json:"place"`
	Instead string    `json:"instead,omitempty"` // why it was not read from a better place
}

type jsonLack struct {
	Of  string `json:"of"` // mappings, permissions or details
	Why string `json:"why"`
}

func aboutOf(m *vm.Map) jsonAbout {
	a := jsonAbout{From: jsonOrigin(m.From), Partial: make([]jsonLack, len(m.Partial)), Running: m.Live}
	for i, l := range m.Partial {
		a.Partial[i] = jsonLack{l.Of.String(), l.Why}
	}
	return a
}
