// Package repl is the shell: lines in, results out. It reads lines from the
// prompt and from scripts, hands each to a command of dbgsh or to GDB, chains
// commands, renders results as text or JSON, and owns Ctrl-C and the terminal.
package repl
