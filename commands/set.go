package commands

import (
	"context"
	"encoding/json"
	"fmt"
	"go/doc/comment"
	"strings"
)

func set() Command {
	return Command{
		Name:     "set",
		Group:    Shell,
		Args:     "SETTING VALUE",
		Short:    "Change a setting of dbgsh; other settings are GDB's.",
		Long:     settingsHelp(),
		Examples: []Example{{"set pager off", "never wait with long results"}},
		Verbatim: true,
		NoRepeat: true,
		Complete: CompleteSetting,
		Run: func(_ context.Context, s *Session, in Input) (Result, error) {
			name, value, _ := strings.Cut(strings.TrimSpace(in.Tail), " ")
			if s.Settings.find(name) == nil {
				return nil, ErrForGDB
			}
			if err := s.Settings.Set(name, strings.TrimSpace(value)); err != nil {
				return nil, &UsageError{err}
			}
			s.Changed() // a setting may say where the map comes from
			return nil, nil
		},
	}
}

// settingsHelp is a line for each setting.
func settingsHelp() string {
	var b strings.Builder
	b.WriteString("dbgsh's settings, what they may be (the first is what they start with), and what\nthey say:\n")
	wrap := comment.Printer{TextPrefix: "    ", TextWidth: 80}
	for _, one := range NewSettings().list {
		fmt.Fprintf(&b, "\n%s %s\n", one.Name, strings.Join(one.Values, "|"))
		b.Write(wrap.Text(new(comment.Parser).Parse(one.Short)))
	}
	return strings.TrimSpace(b.String())
}

func show() Command {
	return Command{
		Name:     "show",
		Group:    Shell,
		Args:     "SETTING",
		Short:    "Show a setting of dbgsh; other settings are GDB's.",
		Examples: []Example{{"show pager", "whether long results wait"}},
		Verbatim: true,
		Complete: CompleteSetting,
		Run: func(_ context.Context, s *Session, in Input) (Result, error) {
			name := strings.TrimSpace(in.Tail)
			one := s.Settings.find(name)
			if one == nil {
				return nil, ErrForGDB
			}
			return &settingResult{*one}, nil
		},
	}
}

// settingResult is one setting.
type settingResult struct{ Setting }

// WriteText is one line.
func (r *settingResult) WriteText(t *Text) {
	t.Printf(Plain, "%s is %s (of %s): %s\n", r.Name, r.value, strings.Join(r.Values, ", "), r.Short)
}

// MarshalJSON is {"setting","value"}.
func (r *settingResult) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"setting": r.Name, "value": r.value})
}
