package commands

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

func help() Command {
	return Command{
		Name:    "help",
		Aliases: []string{"h"},
		Group:   Shell,
		Args:    "[COMMAND]",
		Short:   "List the commands, or explain one.",
		Long:    "What dbgsh has no command for, GDB's own help is asked.",
		Examples: []Example{
			{"help vmmap", "usage, flags and examples of vmmap"},
			{"help breakpoints", "a topic of GDB's help"},
		},
		Verbatim: true,
		Complete: CompleteCommand,
		Run: func(ctx context.Context, s *Session, in Input) (Result, error) {
			topic := strings.TrimSpace(in.Tail)
			if topic == "" {
				return &helpList{s.Registry}, nil
			}
			if c := s.Registry.Lookup(topic); c != nil {
				return &helpResult{c}, nil
			}
			words := strings.Fields(topic)
			if words[0] == "set" || words[0] == "show" {
				words = words[1:]
			}
			if one := s.Settings.find(strings.Join(words, " ")); one != nil {
				return &settingResult{*one}, nil
			}
			text, err := s.Help.Help(ctx, topic)
			if err != nil {
				if cs := s.Registry.WithPrefix(topic); len(cs) == 1 {
					return &helpResult{cs[0]}, nil
				}
				return nil, err
			}
			return &Notes{Lines: strings.Split(strings.TrimRight(text, "\n"), "\n")}, nil
		},
	}
}

// Helper explains what dbgsh has no command for.
type Helper interface {
	// Help is what GDB's help says of a topic.
	Help(ctx context.Context, topic string) (string, error)
}

// helpList is all commands by group.
type helpList struct{ registry *Registry }

// WriteText is a heading for each group and a line for each command.
func (h *helpList) WriteText(t *Text) {
	byGroup := make(map[Group][]*Command)
	order := groups()
	width := 0
	for _, c := range h.registry.Commands() {
		if _, known := byGroup[c.Group]; !known && !isOneOf(c.Group, order) {
			order = append(order, c.Group)
		}
		byGroup[c.Group] = append(byGroup[c.Group], c)
		width = max(width, len(names(c)))
	}
	for _, g := range order {
		if len(byGroup[g]) == 0 {
			continue
		}
		t.Printf(Title, "%s\n", g)
		for _, c := range byGroup[g] {
			t.Printf(Plain, "  %-*s  %s\n", width, names(c), c.Short)
		}
	}
	t.Print(Plain, "\"help COMMAND\" explains one. Every other line goes to GDB; \"gdb help\" lists what it knows.\n")
}

// MarshalJSON is {"commands":[{"name","group","short"}]}.
func (h *helpList) MarshalJSON() ([]byte, error) {
	type entry struct {
		Name    string   `json:"name"`
		Aliases []string `json:"aliases,omitempty"`
		Group   Group    `json:"group"`
		Short   string   `json:"short"`
	}
	var list []entry
	for _, c := range h.registry.Commands() {
		list = append(list, entry{c.Name, c.Aliases, c.Group, c.Short})
	}
	return json.Marshal(map[string][]entry{"commands": list})
}

func isOneOf(g Group, gs []Group) bool {
	for _, one := range gs {
		if g == one {
			return true
		}
	}
	return false
}

func names(c *Command) string { return strings.Join(append([]string{c.Name}, c.Aliases...), ", ") }

// helpResult is the help of one command.
type helpResult struct{ command *Command }

// WriteText is the usage, what the command does, its flags and its examples.
func (h *helpResult) WriteText(t *Text) {
	c := h.command
	t.Printf(Strong, "usage: %s\n", c.Usage())
	t.Printf(Plain, "\n%s\n", c.Short)
	if c.Long != "" {
		t.Printf(Plain, "\n%s\n", c.Long)
	}
	if len(c.Aliases) > 0 {
		t.Printf(Plain, "\nAlso: %s\n", strings.Join(c.Aliases, ", "))
	}
	if !c.Verbatim {
		t.Print(Plain, "\nFlags:\n")
		for _, f := range flagHelp(c.Flags()) {
			t.Printf(Plain, "  %-24s  %s\n", f.form, f.use)
		}
	}
	if len(c.Examples) > 0 {
		t.Print(Plain, "\nExamples:\n")
		width := 0
		for _, e := range c.Examples {
			width = max(width, len(e.Line))
		}
		for _, e := range c.Examples {
			t.Printf(Plain, "  %-*s  %s\n", width, e.Line, e.Does)
		}
	}
}

// MarshalJSON is {"name","usage","help"}.
func (h *helpResult) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{
		"name": h.command.Name, "usage": h.command.Usage(),
		"help": strings.TrimSpace(h.command.Short + "\n\n" + h.command.Long),
	})
}

// flagLine is one flag as help and the documentation show it.
type flagLine struct{ form, use string }

func flagHelp(set *pflag.FlagSet) []flagLine {
	var lines []flagLine
	set.VisitAll(func(f *pflag.Flag) {
		arg, use := pflag.UnquoteUsage(f)
		form := "    --" + f.Name
		if f.Shorthand != "" {
			form = "-" + f.Shorthand + ", --" + f.Name
		}
		if arg != "" {
			form += " " + arg
		}
		if d := f.DefValue; d != "" && d != "false" && d != "0" && d != "-1" && d != "[]" {
			use += fmt.Sprintf(" (default %s)", d)
		}
		lines = append(lines, flagLine{form, use})
	})
	return lines
}
