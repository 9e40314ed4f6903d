package commands

import (
	"fmt"
	"slices"
	"strings"
)

// Registry is the set of commands that a shell knows. It is not safe to
// register while another goroutine looks up.
type Registry struct {
	commands []*Command
	byName   map[string]*Command // names and aliases
}

// All is the commands of this package. A new one takes a file beside the
// others and a line here.
func All() []Command {
	return []Command{
		vmmap(),
		vmmapAdd(),
		vmmapClear(),
		vmmapLoad(),
		vmmapExplore(),
		pagewalk(),
		searchCommand(),
		status(),
		help(),
		set(),
		show(),
	}
}

// NewRegistry is a registry of cs.
func NewRegistry(cs ...Command) (*Registry, error) {
	r := &Registry{byName: make(map[string]*Command)}
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Register adds a command. It is an error if it has no name or nothing to run,
// or if one of its names is taken; nothing is registered then.
func (r *Registry) Register(c Command) error {
	switch {
	case c.Name == "":
		return fmt.Errorf("register command: it has no name")
	case (c.Run == nil) == (c.Setup == nil):
		return fmt.Errorf("register command %s: it needs either Run or Setup", c.Name)
	case c.Verbatim && c.Run == nil:
		return fmt.Errorf("register command %s: a verbatim command has no flags to set up", c.Name)
	}
	names := append([]string{c.Name}, c.Aliases...)
	for i, n := range names {
		if strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' || r == '|' }) {
			return fmt.Errorf("register command %s: the name %q holds a blank or a bar", c.Name, n)
		}
		if old := r.byName[n]; old != nil {
			return fmt.Errorf("register command %s: the name %q is taken by %s", c.Name, n, old.Name)
		}
		if slices.Contains(names[:i], n) {
			return fmt.Errorf("register command %s: the name %q is given twice", c.Name, n)
		}
	}
	for _, n := range names {
		r.byName[n] = &c
	}
	r.commands = append(r.commands, &c)
	return nil
}

// Lookup is the command with that name or alias, or nil.
func (r *Registry) Lookup(name string) *Command { return r.byName[name] }

// WithPrefix is the commands that have a name or alias beginning with prefix,
// in the order of registration.
func (r *Registry) WithPrefix(prefix string) []*Command {
	var cs []*Command
	for _, c := range r.commands {
		if strings.HasPrefix(c.Name, prefix) ||
			slices.ContainsFunc(c.Aliases, func(a string) bool { return strings.HasPrefix(a, prefix) }) {
			cs = append(cs, c)
		}
	}
	return cs
}

// Commands is every command, in the order of registration.
func (r *Registry) Commands() []*Command { return slices.Clone(r.commands) }
