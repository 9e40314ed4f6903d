package commands

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"dbgsh/target"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// searchResult is what a search found.
type searchResult struct {
	of       *vm.Map // what was searched is of this map
	sought   string  // what was looked for, "" for the places of the last search
	scan     *search.Result
	mappings []vm.Mapping // what was searched
	notes    []string
	physical *target.Physical // what was searched, where addresses are physical

	onlyCount bool // text is the number of hits alone
	qualified bool // that number would mislead without the rest
	shown     int  // how many hits text shows; negative is all
}

// Selected is the mappings that hold hits.
func (r *searchResult) Selected() *vm.Map {
	if r.physical != nil {
		return nil
	}
	m := r.of.Like(nil)
	last := -1
	for _, h := range r.scan.Hits.All() {
		if h.Mapping != last {
			m.Mappings = append(m.Mappings, r.mappings[h.Mapping])
			last = h.Mapping
		}
	}
	return m
}

// Empty implements emptier.
func (r *searchResult) Empty() string {
	if r.scan.Hits.Len() > 0 {
		return ""
	}
	return r.summary()
}

// Summary implements Summarizer.
func (r *searchResult) Summary() string { return r.summary() }

// WriteText is a row for each hit, the notes, and what was searched.
func (r *searchResult) WriteText(t *Text) {
	if r.onlyCount {
		t.Printf(Plain, "%d\n", r.scan.Count)
		if r.qualified { // the bare number would pass for an answer
			t.notes(append(r.notes, r.summary()))
		}
		return
	}
	width := 0 // of the addresses: the last is the longest
	if n := r.scan.Hits.Len(); n > 0 {
		width = len(fmt.Sprintf("%#x", r.scan.Hits.At(n-1).Address))
	}
	titles, titleWidth := r.titles()
	preview := previewFor(t.Screen().Columns, titleWidth, width)
	for i, h := range r.scan.Hits.All() {
		if i == r.shown {
			t.Printf(Plain, "%s more not shown\n", count(r.scan.Hits.Len()-i, "hit"))
			break
		}
		if t.Failed() {
			return
		}
		t.Printf(styleOf(&r.mappings[h.Mapping]), "%-*s", titleWidth, titles[h.Mapping])
		shown := h.Preview[:min(len(h.Preview), preview)]
		t.Printf(Plain, " %#-*x  %-*s  %s", width, h.Address, hexWidth(preview), hexPreview(shown), textPreview(shown))
		t.Print(Plain, r.mappedAt(h.Address)+"\n")
	}
	t.notes(r.notes)
	t.Print(Plain, r.summary()+"\n")
}

// The most virtual addresses of a hit in physical memory that text and JSON
// list: a page of zeros may be mapped at millions.
const (
	textMapped = 4
	jsonMapped = 1024
)

// mappedAt is where a hit in physical memory is mapped, in words; "" for others.
func (r *searchResult) mappedAt(pa uint64) string {
	if r.physical == nil {
		return ""
	}
	at, all := r.physical.MappedAt(pa, textMapped)
	switch {
	case all == 0 && r.physical.Incomplete:
		return "  not mapped where that was looked at"
	case all == 0:
		return "  not mapped"
	}
	var b strings.Builder
	for i, va := range at {
		b.WriteString([]string{"  at ", ", "}[min(i, 1)])
		fmt.Fprintf(&b, "%#x", va)
	}
	if all > len(at) {
		fmt.Fprintf(&b, " and at %d more", all-len(at))
	}
	return b.String()
}

// titles are the short names of the mappings that hold hits to show, and the
// width of their column in characters.
func (r *searchResult) titles() (titles map[int]string, width int) {
	titles, width = make(map[int]string), 15
	for i, h := range r.scan.Hits.All() {
		if i == r.shown {
			break
		}
		if _, ok := titles[h.Mapping]; !ok {
			title := r.mappings[h.Mapping].ShortTitle()
			titles[h.Mapping] = title
			width = min(max(width, utf8.RuneCountInString(title)), 32)
		}
	}
	return titles, width
}

// hexWidth is the columns that hexPreview takes for n bytes.
func hexWidth(n int) int { return len(hexPreview(make([]byte, n))) }

// previewFor is how many bytes of each hit a row has room for: all, or where the
// screen is too narrow a power of two, and not less than 4.
func previewFor(columns, title, address int) int {
	n := search.PreviewSize
	for columns > 0 && n > 4 && title+1+address+2+hexWidth(n)+2+n > columns {
		n /= 2
	}
	return n
}

// hexPreview is bytes in hex, in two halves.
func hexPreview(b []byte) string {
	var s strings.Builder
	for i, c := range b {
		switch {
		case i == search.PreviewSize/2:
			s.WriteString("  ")
		case i > 0:
			s.WriteByte(' ')
		}
		fmt.Fprintf(&s, "%02x", c)
	}
	return s.String()
}

// textPreview is bytes as ASCII, with a dot for what is not.
func textPreview(b []byte) string {
	text := make([]byte, len(b))
	for i, c := range b {
		if text[i] = c; c < ' ' || c > '~' {
			text[i] = '.'
		}
	}
	return string(text)
}

// summary is the line that says what was searched and what was not.
func (r *searchResult) summary() string {
	var b strings.Builder
	b.WriteString(count(int(r.scan.Count), "hit"))
	switch {
	case r.scan.LimitReached:
		b.WriteString(" (stopped there; -l sets the limit)")
	case r.scan.CapReached:
		b.WriteString(" (stopped there: no more are kept)")
	}
	fmt.Fprintf(&b, "; searched %s in %s", byteSize(r.scan.SearchedBytes), count(r.scan.SearchedMappings, "mapping"))
	if r.sought != "" {
		b.WriteString(" for " + vm.Escape(r.sought))
	}
	b.WriteString(r.unread())
	if why := r.partial(); why != "" {
		b.WriteString("; partial: " + why)
	}
	return b.String()
}

// unread says which mappings could not be read: those that the kernel keeps for
// itself by name, and of the others the first.
func (r *searchResult) unread() string {
	var kernels, whole []string
	var parts []search.UnreadMapping
	for _, u := range r.scan.UnreadMappings(r.mappings) {
		m := &r.mappings[u.Mapping]
		switch {
		case u.Whole && m.KernelsOwn():
			kernels = append(kernels, m.Title())
		case u.Whole:
			whole = append(whole, m.ShortTitle())
		default:
			parts = append(parts, u)
		}
	}
	var b strings.Builder
	if n := len(whole) + len(parts); n > 0 {
		fmt.Fprintf(&b, "; %d could not be read (", n)
		if len(whole) > 0 {
			b.WriteString(firstOf(whole) + " whole")
		}
		if len(parts) > 0 {
			if len(whole) > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%d from %#x", len(parts), parts[0].First)
		}
		b.WriteString(")")
	}
	if len(kernels) > 0 {
		b.WriteString("; none of the program's: " + strings.Join(kernels, ", "))
	}
	return b.String()
}

// firstOf is the first of some names, and how many more there are.
func firstOf(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
}

// partial is why the search ended early, "" where it did not.
func (r *searchResult) partial() string {
	switch why := r.scan.Partial; {
	case why == nil:
		return ""
	case errors.Is(why, context.Canceled):
		return "interrupted"
	default:
		return why.Error()
	}
}

// byteSize is a number of bytes for people: 512 bytes, 24.0 KiB, 1.5 GiB.
func byteSize(n uint64) string {
	if n < 1024 {
		return count(int(n), "byte")
	}
	v, unit := float64(n), 0
	for v >= 1024 && unit < 6 {
		v /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", v, " KMGTPE"[unit])
}

// jsonHit is how JSON shows a hit.
type jsonHit struct {
	Address hexNumber `json:"address"`
	Mapping string    `json:"mapping"`
	Preview string    `json:"preview"` // hex
	// Of a hit in physical memory: the virtual addresses where it is mapped, as
	// far as they are listed, and how many there are where that is known.
	Mapped      []hexNumber `json:"mapped_at,omitzero"`
	MappedCount *int        `json:"mapped_count,omitempty"`
}

// jsonSearch is what JSON shows of a search, beside its hits.
type jsonSearch struct {
	Sought           string       `json:"sought,omitempty"` // what was looked for, in words
	Count            uint64       `json:"count"`
	LongerMatches    uint64       `json:"longer_matches,omitempty"` // places where a match may be too long to be found
	SearchedBytes    uint64       `json:"searched_bytes"`
	SearchedMappings int          `json:"searched_mappings"`
	Unread           []jsonUnread `json:"unread"`
	LimitReached     bool         `json:"limit_reached"`
	Partial          string       `json:"partial,omitempty"` // why the search ended early
	Notes            []string     `json:"notes"`
	Map              jsonAbout    `json:"map"`
}

type jsonUnread struct {
	Start hexNumber `json:"start"`
	End   string    `json:"end"` // exclusive
	// It is in swap, and --swapped would have read it.
	Swapped bool `json:"swapped,omitempty"`
}

// WriteJSON is {"hits":[...],"count":N,...}, the hits one after the other, for
// they may be millions.
func (r *searchResult) WriteJSON(w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	out.WriteString(`{"hits":[`)
	for i, h := range r.scan.Hits.All() {
		if r.onlyCount || i == r.shown {
			break
		}
		if i > 0 {
			out.WriteByte(',')
		}
		hit := jsonHit{Address: hexNumber(h.Address), Mapping: r.mappings[h.Mapping].Title(), Preview: hex.EncodeToString(h.Preview)}
		if r.physical != nil {
			at, all := r.physical.MappedAt(h.Address, jsonMapped)
			hit.Mapped = make([]hexNumber, len(at))
			if !r.physical.Incomplete {
				hit.MappedCount = &all
			}
			for i, va := range at {
				hit.Mapped[i] = hexNumber(va)
			}
		}
		text, err := json.Marshal(hit)
		if err != nil {
			return err
		}
		if _, err := out.Write(text); err != nil {
			return err
		}
	}
	rest := jsonSearch{
		Sought: r.sought,
		Count:  r.scan.Count, LongerMatches: r.scan.Longer, SearchedBytes: r.scan.SearchedBytes, SearchedMappings: r.scan.SearchedMappings,
		Unread: []jsonUnread{}, LimitReached: r.scan.LimitReached || r.scan.CapReached,
		Notes: append([]string{}, r.notes...), Map: aboutOf(r.of),
	}
	for _, u := range r.scan.Unread {
		rest.Unread = append(rest.Unread, jsonUnread{hexNumber(u.Start), "0x" + u.EndHex(), u.Swapped})
	}
	rest.Partial = r.partial()
	text, err := json.Marshal(rest)
	if err != nil {
		return err
	}
	out.WriteString("],")
	out.Write(text[1:]) // the first failure stays with the writer
	return out.Flush()
}

// MarshalJSON is what WriteJSON writes.
func (r *searchResult) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	err := r.WriteJSON(&b)
	return b.Bytes(), err
}
