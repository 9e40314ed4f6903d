// Docs draws the pictures in docs/ and writes the table of rooms. For
// docs/session.svg it types at dbgsh on a terminal of its own and draws what that
// shows; docs/architecture.svg is the imports of the packages. It runs in the
// repository's root.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/creack/pty"
)

// typed is what is typed after each prompt.
func typed() []string {
	return []string{
		"dbgsh ./tour",
		"break checkpoint",
		"run",
		"vmmap $sp",
		"vmmap -w libc",
		"search flag{ [heap]",
		"vmmap -w | search -p secret",
		"vmmap_add 0x20000000 0x8000 rw 0 sram",
	}
}

// The size of the terminal. It is high, so that nothing scrolls or is paged.
const rows, columns = 200, 108

func main() {
	if err := errors.Join(writeArchitecture("."), draw("docs/session.svg")); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

func draw(file string) error {
	// The map shows the folder's name, so it is always the same.
	dir := filepath.Join(os.TempDir(), "demo")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source, err := os.ReadFile("testdata/tour.c")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "tour.c"), source, 0o600); err != nil {
		return err
	}
	compile := exec.Command("gcc", "-g", "-O0", "-o", "tour", "tour.c")
	compile.Dir = dir
	for _, cmd := range []*exec.Cmd{compile, exec.Command("go", "build", "-o", filepath.Join(dir, "bin", "dbgsh"), "./cmd/dbgsh")} {
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, text)
		}
	}
	s, err := record(dir)
	if err != nil {
		return err
	}
	return os.WriteFile(file, s.svg(), 0o644)
}

// record types at a shell in dir and returns what the terminal shows then.
func record(dir string) (*screen, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh")
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"), "HOME=" + dir, "PS1=$ ",
		"TERM=xterm-256color", "LC_ALL=C.UTF-8", "SHELL=/bin/sh",
	}
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: rows, Cols: columns})
	if err != nil {
		return nil, err
	}
	defer terminal.Close()
	s := &screen{}
	// until reads until the prompt stands below the row from.
	until := func(prompt string, from int) error {
		for piece := make([]byte, 4096); s.row <= from || !s.waits(prompt); {
			n, err := terminal.Read(piece)
			if err != nil {
				return fmt.Errorf("no prompt %q: %w; the terminal shows\n%s", prompt, err, s.text())
			}
			s.write(piece[:n])
		}
		return nil
	}
	// enter types a line and waits for the prompt that comes then.
	enter := func(line, prompt string) error {
		if _, err := terminal.WriteString(line + "\r"); err != nil {
			return err
		}
		return until(prompt, s.row)
	}
	if err := until("$ ", -1); err != nil {
		return nil, err
	}
	for _, line := range typed() {
		if err := enter(line, "(dbgsh) "); err != nil {
			return nil, err
		}
	}
	shown := s.clone()
	if err := errors.Join(enter("kill", "The process being debugged would be lost; go on? (y or n) "), enter("y", "(dbgsh) "), enter("quit", "$ ")); err != nil {
		return nil, err
	}
	if _, err := terminal.WriteString("exit\r"); err != nil {
		return nil, err
	}
	return shown, cmd.Wait()
}
