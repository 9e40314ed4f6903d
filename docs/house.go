package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/build"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What is made of the rooms and their imports, below the root.
const (
	architectureSVG  = "docs/architecture.svg"
	architecturePage = "docs/architecture.md"
)

// architecture is the picture of the rooms, and the page with the table of rooms
// as it should be.
func architecture(root string) (picture, page []byte, err error) {
	pkgs, err := packages(root)
	if err != nil {
		return nil, nil, err
	}
	text, err := os.ReadFile(filepath.Join(root, architecturePage))
	if err != nil {
		return nil, nil, err
	}
	const head = "| Floor | Room | What lives there | May import |\n| --- | --- | --- | --- |\n"
	before, rest, begins := strings.Cut(string(text), head)
	_, after, ends := strings.Cut(rest, "\n\n")
	if !begins || !ends {
		return nil, nil, fmt.Errorf("%s has no table of rooms", architecturePage)
	}
	return house(pkgs), []byte(before + head + table() + "\n" + after), nil
}

func writeArchitecture(root string) error {
	picture, page, err := architecture(root)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(root, architectureSVG), picture, 0o644),
		os.WriteFile(filepath.Join(root, architecturePage), page, 0o644),
	)
}

// table is a row for each room.
func table() string {
	var b strings.Builder
	for _, r := range rooms() {
		if r.aside {
			continue
		}
		may := "nothing"
		switch {
		case slices.Contains(r.may, below):
			may = below
		case len(r.may) > 0:
			may = "`" + strings.Join(r.may, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| %d | `%s` | %s | %s |\n", r.floor, r.path, r.what, may)
	}
	return b.String()
}

// house draws the rooms, each below and to the right of those that may import
// it. A line goes right from a room, and down to those it imports, with a dot
// where it turns: so no line crosses a room.
func house(pkgs map[string]*build.Package) []byte {
	const (
		margin    = 14
		label     = 64  // width of the column with the floors
		boxWidth  = 138 // the longest name is 15 characters of 7.8
		boxHeight = 26
		right     = 40 // from a room to the next one's left side
		down      = 40
		entry     = boxWidth - 10 // where the line from above comes in
	)
	var list []room
	for _, r := range rooms() {
		if !r.aside {
			list = append(list, r)
		}
	}
	x := func(i int) int { return margin + label + i*right }
	y := func(i int) int { return margin + i*down }
	width := x(len(list)-1) + boxWidth + margin
	height := y(len(list)-1) + down + margin
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">
<!-- Made by "make docs" from the imports of the packages. -->
<style>
text { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #d4d4d8 }
.f { opacity: .6 }
.floor { fill: #27272a }
.room { fill: #1e3a5f; stroke: #60a5fa }
.line { fill: none; stroke: #a1a1aa }
.end { fill: #facc15 }
</style>
<rect width="100%%" height="100%%" rx="8" fill="#18181b"/>
`, width, height, width, height)
	for i := 0; i < len(list); {
		end := i
		for end < len(list) && list[end].floor == list[i].floor {
			end++
		}
		if list[i].floor%2 == 1 {
			fmt.Fprintf(&b, `<rect class="floor" x="0" y="%d" width="%d" height="%d"/>`+"\n", y(i), width, (end-i)*down)
		}
		fmt.Fprintf(&b, `<text class="f" x="%d" y="%d">floor %d</text>`+"\n", margin, y(i)+(end-i)*down/2+4, list[i].floor)
		i = end
	}
	imports := func(i, j int) bool {
		return slices.Contains(pkgs[list[i].path].Imports, module+"/"+list[j].path)
	}
	var dots bytes.Buffer
	for j := range list {
		first, last := j, j // the uppermost room that imports j, the rightmost that j imports
		for i := range list {
			switch {
			case i < j && imports(i, j):
				first = min(first, i)
				fmt.Fprintf(&dots, `<circle class="end" cx="%d" cy="%d" r="3.5"/>`+"\n", x(j)+entry, y(i)+down/2)
			case i > j && imports(j, i):
				last = i
			}
		}
		top := y(j) + (down-boxHeight)/2
		if first < j {
			fmt.Fprintf(&b, `<path class="line" d="M%d %dV%d"/><path class="end" d="M%[1]d %[4]dl-4 -8h8z"/>`+"\n",
				x(j)+entry, y(first)+down/2, top-6, top)
		}
		if last > j {
			fmt.Fprintf(&b, `<path class="line" d="M%d %dH%d"/>`+"\n", x(j)+boxWidth, y(j)+down/2, x(last)+entry)
		}
		fmt.Fprintf(&b, `<rect class="room" x="%d" y="%d" width="%d" height="%d" rx="4"/>`+"\n", x(j), top, boxWidth, boxHeight)
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`+"\n", x(j)+8, y(j)+down/2+4, list[j].path)
	}
	b.Write(dots.Bytes())
	for i, line := range []string{"From each room a line goes right,", "and at each dot down to a room", "that it imports."} {
		fmt.Fprintf(&b, `<text class="f" x="%d" y="%d">%s</text>`+"\n", margin+label, y(len(list)-2)+24+i*20, line)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
