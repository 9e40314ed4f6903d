package commands

import (
	"fmt"
	"slices"
	"strings"

	"dbgsh/target"
)

// Setting is a named value of the session that set changes and show shows.
type Setting struct {
	Name   string
	Short  string   // what it does, one sentence
	Values []string // what it may be
	value  string
}

// Settings are the session's own settings. They are not safe for concurrent use.
type Settings struct{ list []*Setting }

// NewSettings is the settings of a new session; each starts with its first value.
func NewSettings() *Settings {
	s := &Settings{list: []*Setting{
		{Name: "pager", Short: "whether results taller than the window go through a pager", Values: []string{"on", "off"}},
		{Name: "color", Short: "whether results are coloured; auto: on a terminal", Values: []string{"auto", "always", "never"}},
		{
			Name:   "auto-explore-pages",
			Short:  "whether vmmap explores what the registers point to where it has nothing else (yes), says that it could (warn), or neither",
			Values: []string{"warn", "yes", "no"},
		},
		{
			Name:   "qemu-user-vmmap",
			Short:  "where the map of a program in QEMU's user mode comes from; auto: the first of the others that has one",
			Values: []string{"auto", "stub", "host", "guess", "none"},
		},
		{
			Name:   "kernel-vmmap",
			Short:  "where the map of a machine in QEMU comes from: the CPU's page tables, QEMU's monitor, or neither; auto: the first that works",
			Values: []string{"auto", "page-tables", "monitor", "none"},
		},
		{
			Name:   "kernel-vmmap-via-page-tables",
			Short:  "whether kernel-vmmap auto reads page tables, which off leaves to QEMU's monitor",
			Values: []string{"on", "off"},
		},
	}}
	for _, one := range s.list {
		one.value = one.Values[0]
	}
	return s
}

// Get is the value of a setting, "" for one that does not exist.
func (s *Settings) Get(name string) string {
	if one := s.find(name); one != nil {
		return one.value
	}
	return ""
}

// On reports whether a setting is "on".
func (s *Settings) On(name string) bool { return s.Get(name) == "on" }

// KernelMap is where the map of a machine in QEMU is to come from.
func (s *Settings) KernelMap() target.KernelMap {
	wish := target.KernelMap(s.Get("kernel-vmmap"))
	if wish == target.KernelMapAuto && !s.On("kernel-vmmap-via-page-tables") {
		return target.KernelMapMonitor
	}
	return wish
}

// Set changes a setting. The error says what it may be.
func (s *Settings) Set(name, value string) error {
	one := s.find(name)
	if one == nil {
		return fmt.Errorf("there is no setting %q", name)
	}
	if !slices.Contains(one.Values, value) {
		return fmt.Errorf("%s is %s, not %q", name, strings.Join(one.Values, " or "), value)
	}
	one.value = value
	return nil
}

// Names are the names of all settings.
func (s *Settings) Names() []string {
	names := make([]string, len(s.list))
	for i, one := range s.list {
		names[i] = one.Name
	}
	return names
}

func (s *Settings) find(name string) *Setting {
	for _, one := range s.list {
		if one.Name == name {
			return one
		}
	}
	return nil
}

// Values are what a setting may be, nil where there is no such setting.
func (s *Settings) Values(name string) []string {
	if one := s.find(name); one != nil {
		return one.Values
	}
	return nil
}
