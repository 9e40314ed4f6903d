package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
)

// manual is dbgsh(1), of what README.md, docs/usage.md and docs/commands.md say.
func manual(h help, pages map[string]string) ([]byte, error) {
	version := regexp.MustCompile(`(?m)^const version = "(.*)"$`).FindStringSubmatch(pages["cmd/dbgsh/version.go"])
	about := strings.Split(pages["README.md"], "\n\n")
	_, commands, titled := strings.Cut(pages["docs/commands.md"], "-->\n")
	if version == nil || len(about) < 2 || !titled {
		return nil, errors.New("README.md, docs/commands.md or cmd/dbgsh/version.go does not begin as it did")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%% DBGSH 1 \"\" \"dbgsh %s\" \"User Commands\"\n", version[1])
	b.WriteString("# NAME\n\ndbgsh - a shell around GDB that knows the memory map\n\n# SYNOPSIS\n\n")
	for _, line := range h.usage {
		b.WriteString(synopsis(line) + "  \n")
	}
	b.WriteString("\n# DESCRIPTION\n\n" + about[1] + "\n\n# OPTIONS\n\n")
	for _, f := range h.flags {
		b.WriteString("**" + strings.Join(f.names, "**, **") + "**")
		if f.arg != "" {
			b.WriteString(" *" + f.arg + "*")
		}
		b.WriteString("\n: " + f.use + "\n\n")
	}
	b.WriteString(page(h.rest, strings.ToUpper))
	b.WriteString("\n# COMMANDS\n" + page(commands, func(string) string { return "" }))
	b.WriteString("\n# SEE ALSO\n\n**gdb**(1), **gdbserver**(1), **proc**(5)\n")
	return literal(md2man.Render([]byte(b.String()))), nil
}

// synopsis is a usage line with what is to be typed in bold.
func synopsis(line string) string {
	return regexp.MustCompile(`-?[a-z]+`).ReplaceAllStringFunc(line, func(word string) string {
		if word == "dbgsh" || word[0] == '-' {
			return "**" + word + "**"
		}
		return "*" + word + "*"
	})
}

// page is a page of docs/ in the Markdown of manual pages. The headings of its
// second level become sections named by what section says of them, and none for "".
// Tables become lists, since a manual's tables do not break their lines, and of links
// within docs/ the text alone is kept.
func page(text string, section func(heading string) string) string {
	var (
		heading = regexp.MustCompile(`(?m)^## (.*)$`)
		link    = regexp.MustCompile(`\[([^]]+)\]\([^:)]+\)`)
		table   = regexp.MustCompile(`(?m)^\|.*\n\| ---.*\n(?:\|.*(?:\n|\z))*`)
	)
	pieces := strings.Split(usageLine.ReplaceAllStringFunc(text, unfolded), "```")
	for i := 0; i < len(pieces); i += 2 { // else code
		p := heading.ReplaceAllStringFunc(pieces[i], func(h string) string {
			if h = section(strings.TrimPrefix(h, "## ")); h == "" {
				return ""
			}
			return "# " + h
		})
		pieces[i] = table.ReplaceAllStringFunc(link.ReplaceAllString(p, "$1"), list)
	}
	return strings.Join(pieces, "```")
}

// list is a table as a list: a line with what heads its columns, and then for each
// row its first cell, and below that the others.
func list(table string) string {
	rows := strings.Split(strings.TrimSuffix(table, "\n"), "\n")
	var b strings.Builder
	if head := slices.DeleteFunc(cells(rows[0]), func(s string) bool { return s == "" }); len(head) > 0 {
		b.WriteString(strings.Join(head, ", ") + ":\n\n")
	}
	for _, r := range rows[2:] {
		b.WriteString(strings.Join(cells(r), "\n: ") + "\n\n")
	}
	return b.String()
}

// cells is a row of a table, in which \| is a bar in a cell.
func cells(row string) []string {
	list := strings.Split(strings.Trim(strings.ReplaceAll(row, `\|`, "\x00"), "|"), "|")
	for i, c := range list {
		list[i] = strings.ReplaceAll(strings.TrimSpace(c), "\x00", "|")
	}
	return list
}

// usageLine is the usage of a command in docs/commands.md, below its heading and
// the line that says what it does, where it is broken for a wide screen.
var usageLine = regexp.MustCompile(`(?m)^### .+\n\n.+\n\n` + "```\\n(?:.+\\n)+```$")

// unfolded is a usageLine that breaks where the manual does, but not in brackets.
func unfolded(section string) string {
	head, usage, _ := strings.Cut(strings.TrimSuffix(section, "\n```"), "```\n")
	usage = strings.Join(strings.Fields(usage), " ")
	usage = regexp.MustCompile(`\[[^]]*\]`).ReplaceAllStringFunc(usage, func(in string) string {
		return strings.ReplaceAll(in, " ", "\u00a0")
	})
	return head + "`" + usage + "`"
}

// literal is a manual page in which the characters that programs read are shown as
// they are typed, and not as a printer would set them (groff_char(7)), and no
// word is hyphenated.
func literal(roff []byte) []byte {
	lines := strings.Split(string(roff), "\n")
	set := strings.NewReplacer("'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "-", `\-`, `\-`, `\-`, "\u00a0", `\~`)
	for i, l := range lines {
		switch {
		case l == ".nh": // which .TH undoes, but for this (groff_man(7))
			lines[i] = ".nr HY 0"
		case !strings.HasPrefix(l, ".") && !strings.HasPrefix(l, `'\"`):
			lines[i] = set.Replace(l)
		}
	}
	return []byte(strings.Join(lines, "\n"))
}
