package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

const version = "0.1.0"

// commit returns what the program was built from, as far as it was noted: by the
// linker (-X main.built=...) or by the go command.
func commit() string {
	if built != "" {
		return built
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	revision, changed := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " with changes"
		}
	}
	if revision == "" {
		return ""
	}
	return revision[:min(len(revision), 12)] + changed
}

// built is set by the linker.
var built string

// gdbPatience bounds how long a GDB may take to say its version.
const gdbPatience = 10 * time.Second

// showVersion writes dbgsh's version, and that of the GDB that it would start.
func showVersion(w io.Writer, gdb string) {
	about := []string{runtime.Version()}
	if c := commit(); c != "" {
		about = append([]string{"commit " + c}, about...)
	}
	fmt.Fprintf(w, "dbgsh %s (%s)\n", version, strings.Join(about, ", "))
	path, err := exec.LookPath(gdb)
	if err != nil {
		fmt.Fprintf(w, "no GDB: %v\n", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), gdbPatience)
	defer cancel()
	text, err := exec.CommandContext(ctx, path, "--version").Output()
	first, _, _ := strings.Cut(string(text), "\n")
	if err != nil || first == "" {
		first = fmt.Sprintf("does not say its version (%v)", err)
	}
	fmt.Fprintf(w, "%s: %s\n", path, first)
}
