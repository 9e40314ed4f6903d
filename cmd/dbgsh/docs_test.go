package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"dbgsh/commands"
	"dbgsh/repl"
)

// updateDocs is whether what the tests would check is written instead.
var updateDocs = flag.Bool("update-docs", false, "write what is generated in docs/ anew")

// TestCommandsDoc holds docs/commands.md against the registry.
func TestCommandsDoc(t *testing.T) {
	const file = "../../docs/commands.md"
	registry, err := commands.NewRegistry(append(commands.All(), repl.New(repl.Config{}).Commands()...)...)
	if err != nil {
		t.Fatal(err)
	}
	want := reference(registry)
	if *updateDocs {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf(`docs/commands.md is not what the commands say of themselves; "make docs" makes it so (%v)`, err)
	}
}

// TestUsageDoc holds the flags in docs/usage.md against those of the program.
func TestUsageDoc(t *testing.T) {
	const file = "../../docs/usage.md"
	var help bytes.Buffer
	if _, err := parseArgs([]string{"-h"}, &help); err != flag.ErrHelp {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const fence, alsoTaken = "```", "Also taken: "
	before, rest, begins := strings.Cut(string(text), fence+"text\n")
	_, rest, others := strings.Cut(rest, fence+"\n\n"+alsoTaken)
	_, after, ends := strings.Cut(rest, "\n\n")
	if !begins || !others || !ends {
		t.Fatalf("no block of text, or no %q behind it", alsoTaken)
	}
	want := before + fence + "text\n" + strings.ReplaceAll(help.String(), "\t", "    ") + fence + "\n\n" +
		alsoTaken + otherNames() + "\n\n" + after
	if *updateDocs {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(text) {
		t.Error(`docs/usage.md does not show the flags as "dbgsh -h" does; "make docs" makes it so`)
	}
}

// otherNames is the names of flags that the help has no room for.
func otherNames() string {
	var list []string
	for _, op := range allOptions() {
		_, others := op.form()
		for _, n := range others {
			list = append(list, fmt.Sprintf("`-%s` for `-%s`", n, op.names[0]))
		}
	}
	return strings.Join(list, ", ") + "; `-nw` and `-nowindows`, which\nchange nothing; two dashes for one; `=` in place of the blank before a value."
}

// reference is the commands of a registry as a document in Markdown.
func reference(registry *commands.Registry) []byte {
	var b bytes.Buffer
	b.WriteString(`# Commands

<!-- Made by "make docs" from the commands' own help. -->

These are dbgsh's own commands; every other line goes to GDB. A unique prefix of a name is enough unless GDB
has a command of that name. ` + "`help COMMAND`" + ` shows the same at the prompt. With ` + "`|`" + ` a command hands its result
to the next one, or with ` + "`| !`" + ` its text to a command of the shell. Where the usage shows them, ` + "`--json`" + ` gives
the result as JSON and ` + "`-h`, `--help`" + ` the command's help.
`)
	var groups []commands.Group
	members := make(map[commands.Group][]*commands.Command)
	for _, c := range registry.Commands() {
		if members[c.Group] == nil {
			groups = append(groups, c.Group)
		}
		members[c.Group] = append(members[c.Group], c)
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "\n| %s | |\n| --- | --- |\n", g)
		for _, c := range members[g] {
			fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", c.Name, c.Name, cell(c.Short))
		}
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "\n## %s\n", g)
		for _, c := range members[g] {
			section(&b, c)
		}
	}
	return b.Bytes()
}

// section is what there is to say of one command.
func section(b *bytes.Buffer, c *commands.Command) {
	fmt.Fprintf(b, "\n### %s\n\n%s\n\n```\n%s\n```\n", c.Name, c.Short, wrapped(c.Usage(), len(c.Name)+1))
	if len(c.Aliases) > 0 {
		fmt.Fprintf(b, "\nAlso: `%s`\n", strings.Join(c.Aliases, "`, `"))
	}
	if c.Long != "" {
		b.WriteString("\n" + prose(c.Long))
	}
	if !c.Verbatim {
		head := "\n| Flag | |\n| --- | --- |\n"
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name == "json" || f.Name == "help" { // every command has them
				return
			}
			b.WriteString(head)
			head = ""
			arg, use := pflag.UnquoteUsage(f)
			form := "`--" + f.Name
			if f.Shorthand != "" {
				form = "`-" + f.Shorthand + "`, " + form
			}
			if arg != "" {
				form += " " + arg
			}
			switch d := f.DefValue; d {
			case "", "false", "0", "[]":
			default:
				use += " (default " + d + ")"
			}
			fmt.Fprintf(b, "| %s` | %s |\n", form, cell(use))
		})
	}
	if len(c.Examples) > 0 {
		b.WriteString("\n| Example | |\n| --- | --- |\n")
		for _, e := range c.Examples {
			fmt.Fprintf(b, "| `%s` | %s |\n", strings.ReplaceAll(e.Line, "|", `\|`), cell(e.Does))
		}
	}
}

// cell is plain text for a cell of a table.
func cell(text string) string { return strings.ReplaceAll(escaped(text), "|", `\|`) }

// escaped is plain text that Markdown shows as it is.
func escaped(text string) string {
	return strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "<", `\<`).Replace(text)
}

// prose is the paragraphs of a help text, those that are indented as they are.
func prose(text string) string {
	var b strings.Builder
	for i, p := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			b.WriteString("\n")
		}
		if strings.HasPrefix(p, " ") {
			b.WriteString("```\n" + p + "\n```\n")
		} else {
			b.WriteString(escaped(p) + "\n")
		}
	}
	return b.String()
}

// wrapped breaks a usage line before its words in brackets, so that it is at
// most 100 columns wide where that can be.
func wrapped(usage string, indent int) string {
	const width = 100
	var b strings.Builder
	column := 0
	for i, part := range strings.Split(usage, " [") {
		if i > 0 {
			part = "[" + part
			if column+1+len(part) > width {
				b.WriteString("\n" + strings.Repeat(" ", indent))
				column = indent
			} else {
				b.WriteString(" ")
				column++
			}
		}
		b.WriteString(part)
		column += len(part)
	}
	return b.String()
}
