package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// writeShare makes the manual page and the completion of each shell of the pages
// below root.
func writeShare(root, dir string) error {
	pages := map[string]string{}
	for _, name := range []string{"README.md", "docs/usage.md", "docs/commands.md", "cmd/dbgsh/version.go"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		pages[name] = string(text)
	}
	h, err := parseHelp(pages["docs/usage.md"])
	if err != nil {
		return fmt.Errorf("docs/usage.md: %w", err)
	}
	manual, err := manual(h, pages)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"dbgsh.1.gz": compressed(manual),
		"dbgsh.bash": []byte(bash(h)),
		"_dbgsh":     []byte(zsh(h)),
		"dbgsh.fish": []byte(fish(h)),
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// compressed is gzip's form of text without a name or a time, as gzip -9n has it.
func compressed(text []byte) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(text)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		panic(err) // a Buffer takes everything
	}
	return b.Bytes()
}

// help is what docs/usage.md says of the command line.
type help struct {
	usage []string // one line for each form
	flags []flagHelp
	rest  string // the page behind it
}

// flagHelp is a flag of the command line.
type flagHelp struct {
	names    []string // with their dashes
	arg, use string   // arg is what stands behind it, "" for nothing
}

// parseHelp reads the help, which stands in docs/usage.md with the names that it
// has no room for behind it; a test of cmd/dbgsh holds both against the program.
func parseHelp(page string) (help, error) {
	_, block, begins := strings.Cut(page, "```text\n")
	block, rest, ends := strings.Cut(block, "```\n")
	if !begins || !ends {
		return help{}, errors.New("no block of text")
	}
	h := help{rest: rest}
	form := regexp.MustCompile(`^  (-[a-z-]+(?:, -[a-z-]+)*)(?: ([A-Z]+))? +(.+)$`)
	for _, line := range strings.Split(strings.TrimSuffix(block, "\n"), "\n") {
		switch m := form.FindStringSubmatch(line); {
		case m != nil && m[2] != "" && !slices.Contains(args(), m[2]):
			return help{}, fmt.Errorf("%s: docs/completion.go does not know how to complete %s", m[1], m[2])
		case m != nil:
			h.flags = append(h.flags, flagHelp{strings.Split(m[1], ", "), m[2], m[3]})
		case len(h.flags) > 0:
			return help{}, fmt.Errorf("no flag: %q", line)
		default:
			h.usage = append(h.usage, strings.TrimPrefix(strings.TrimSpace(line), "usage: "))
		}
	}
	for _, m := range regexp.MustCompile("`(-[a-z-]+)` for `(-[a-z-]+)`").FindAllStringSubmatch(rest, -1) {
		i := slices.IndexFunc(h.flags, func(f flagHelp) bool { return f.names[0] == m[2] })
		if i < 0 {
			return help{}, fmt.Errorf("%s is another name of %s, which is no flag", m[1], m[2])
		}
		h.flags[i].names = append(h.flags[i].names, m[1])
	}
	if len(h.usage) == 0 || len(h.flags) == 0 {
		return help{}, errors.New("no usage, or no flags")
	}
	return h, nil
}
