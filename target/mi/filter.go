package mi

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

const (
	// maxLine is the longest line, newline included, that the relay writes:
	// PIPE_BUF of Linux (pipe(7)). A pipe takes so much whole or not at all, so
	// that not even a SIGKILL leaves the library half a line to parse. It also
	// keeps every line below the 64 KiB at which its bufio.Scanner fails.
	maxLine = 4096
	// maxRecord is the longest result or async record that is kept, in bytes.
	maxRecord = 64 << 20
	// maxHeld is how much of an unfinished line is held, in bytes, when it can
	// be passed on piece by piece.
	maxHeld = 64 << 10
	// tokenDigits is the width of the client's token inside GDB's.
	tokenDigits = 12
	// nonceDigits is the width of the secret part of GDB's tokens.
	nonceDigits = 16

	// Classes of the relay's own records. No other record gets through with
	// this prefix.
	private      = "dbgsh-"
	classStarted = private + "started" // pid: GDB runs
	classGone    = private + "gone"    // reason: GDB has ended or could not be started
	classPart    = private + "part"    // text: a piece of the long record that follows
	classWhole   = private + "whole"   // stands for the pieces before it
	classLog     = private + "log"     // text: lines between the relay and GDB
	classExit    = private + "exit"    // the relay's last record but the answer to gdb-exit
	classSync    = private + "sync"    // written by the stand-in: all before has been read
	classLate    = private + "late"    // msg: the ^error of a command that ^running had answered

	// Codes of the relay's own ^error records.
	codeGone      = private + "gone"
	codeTooLong   = private + "too-long"
	codeMalformed = private + "malformed"
	codeLost      = private + "lost"
)

// asyncClasses are the async records of the GDB manual ("GDB/MI Async
// Records"). Only these are looked for behind text that shares their line.
var asyncClasses = [...]string{
	"*running", "*stopped",
	"=thread-group-added", "=thread-group-removed", "=thread-group-started", "=thread-group-exited",
	"=thread-created", "=thread-exited", "=thread-selected",
	"=library-loaded", "=library-unloaded", "=traceframe-changed",
	"=tsv-created", "=tsv-deleted", "=tsv-modified",
	"=breakpoint-created", "=breakpoint-modified", "=breakpoint-deleted",
	"=record-started", "=record-stopped", "=cmd-param-changed", "=memory-changed",
}

// filter turns what GDB writes into lines that the library reads well: whole
// records with all escapes decoded, none longer than maxLine, results only for
// commands that wait for one, everything else as target stream records.
type filter struct {
	nonce   string   // digits in front of the client's token in GDB's
	pending []string // client's tokens without an answer, oldest first
	resumed string   // client's token of the command answered with ^running last
	exit    string   // client's token of gdb-exit, which the relay answers itself
	line    []byte   // start of a line not yet ended
	skip    bool     // the rest of the line belongs to a record that is given up
	nudged  bool     // the answer to nudge's commands is due
	log     bool     // tell the client about every line
	out     []byte   // lines for the client
}

// command notes a command line of the client (without newline) and returns the
// line for GDB; op is the command's name. ok is false for a line without token.
func (f *filter) command(line []byte) (forGDB []byte, op string, ok bool) {
	token, rest, found := bytes.Cut(line, []byte("-"))
	if !found || len(token) == 0 || len(token) > tokenDigits {
		return nil, "", false
	}
	op, _, _ = strings.Cut(string(rest), " ")
	if op == "gdb-exit" {
		f.exit = string(token)
	} else {
		f.pending = append(f.pending, string(token))
	}
	return fmt.Appendf(nil, "%s%0*s-%s\n", f.nonce, tokenDigits, token, rest), op, true
}

// nudge returns lines for a GDB that does not answer. "end" ends what waits for
// more lines of input, as "python" without argument does, behind an empty line
// because Python loses a byte when it is interrupted. Anywhere else it is an
// error that does nothing. The probe has the token 0: its answer shows that GDB
// is past all earlier commands, so that no answer to them will come any more.
func (f *filter) nudge() []byte {
	f.nudged = true
	return fmt.Appendf(nil, "\nend\n%s%0*d-%s\n", f.nonce, tokenDigits, 0, barrier)
}

// refused is GDB's message about an "end" that ends nothing.
const refused = "This command cannot be used at the top level."

// nudgeEcho tells whether l answers the lines of nudge that are no commands.
func (f *filter) nudgeEcho(l []byte) bool {
	if !f.nudged {
		return false
	}
	switch string(l) {
	case `&"\n"`, "^done", `&"end\n"`, `&"` + refused + `\n"`, `^error,msg="` + refused + `"`:
		return true
	}
	return false
}

// write takes the next bytes of GDB's standard output.
func (f *filter) write(data []byte) {
	for {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			break
		}
		if f.skip {
			f.skip = false
		} else if len(f.line) == 0 {
			f.whole(data[:i], true)
		} else {
			f.line = append(f.line, data[:i]...)
			f.whole(f.line, true)
			f.line = f.line[:0]
		}
		data = data[i+1:]
	}
	if f.skip {
		return
	}
	f.line = append(f.line, data...)
	if len(f.line) > maxHeld {
		f.relieve()
	}
}

// finish passes on what is left when GDB writes no more.
func (f *filter) finish() {
	if len(f.line) > 0 {
		f.whole(f.line, false)
		f.line = nil
	}
}

// relieve passes on what it can of a long unfinished line.
func (f *filter) relieve() {
	l := f.line
	switch {
	case len(l) > 1 && strings.IndexByte("~@&", l[0]) >= 0 && l[1] == '"':
		// Cut where no escape is cut: it has at most four bytes.
		cut := len(l)
		for i := len(l) - 1; i > len(l)-4; i-- {
			if l[i] == '\\' {
				cut = i
			}
		}
		for cut > 2 && l[cut-1] == '\\' {
			cut--
		}
		text := unescape(nil, l[2:cut])
		keep := runeCutEnd(text)
		f.stream(l[0], text[:keep])
		rest := append([]byte{l[0], '"'}, appendEscaped(nil, text[keep:])...)
		f.line = append(rest, l[cut:]...)
	case bytes.Contains(l, []byte(f.nonce)) || l[0] == '=' || l[0] == '*' || l[0] == '+':
		if len(l) > maxRecord {
			f.giveUp(l)
			f.line, f.skip = nil, true
		}
	default:
		// The start of a record may be the last bytes: keep those back.
		cut := len(l) - maxHeld/2
		cut = runeCut(l, cut)
		f.stream('@', l[:cut])
		f.line = append(f.line[:0], l[cut:]...)
	}
}

// runeCutEnd returns the length of text without an unfinished rune at its end.
func runeCutEnd(text []byte) int {
	for i := len(text) - 1; i >= 0 && i >= len(text)-3; i-- {
		if text[i] >= 0xc0 {
			need := 2
			if text[i] >= 0xe0 {
				need = 3
			}
			if text[i] >= 0xf0 {
				need = 4
			}
			if len(text)-i < need {
				return i
			}
			return len(text)
		}
		if text[i] < 0x80 {
			return len(text)
		}
	}
	return len(text)
}

// whole handles one line; newline tells whether it had its end.
func (f *filter) whole(l []byte, newline bool) {
	if f.log {
		f.logLines("<", l)
	}
	if string(l) == "(gdb) " || f.nudgeEcho(l) {
		return
	}
	if f.record(l) {
		return
	}
	// Text without a newline stands before the record.
	if i := bytes.Index(l, []byte(f.nonce)); i >= 0 {
		if i > 0 {
			f.stream('@', l[:i])
		}
		if i == 0 || !f.record(l[i:]) {
			f.giveUp(l[i:])
		}
		return
	}
	if i := findRecord(l); i > 0 {
		f.stream('@', l[:i])
		f.record(l[i:])
		return
	}
	if newline {
		l = append(bytes.Clone(l), '\n')
	}
	f.stream('@', l)
}

// logLines tells the client what goes between the relay and GDB.
func (f *filter) logLines(direction string, data []byte) {
	for line := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")) {
		f.out = appendLines(f.out, "="+classLog+`,text="`, `"`, fmt.Appendf(nil, "%s %s\n", direction, line))
	}
}

// record passes l on if it is a whole record of GDB.
func (f *filter) record(l []byte) bool {
	r, ok := scan(l, false)
	if !ok {
		return false
	}
	switch r.kind {
	case '~', '@', '&':
		f.stream(r.kind, r.text)
		return true
	case '^':
		token, ok := f.take(r.token)
		switch {
		case ok && token != "":
			if r.class == "running" {
				f.resumed = token
			}
			f.long(token+"^", r)
		case ok && r.class == "error" && strings.TrimLeft(string(r.token[len(f.nonce):]), "0") == f.resumed:
			// A target that is lost while it runs.
			if whole, ok := scan(l, true); ok {
				f.note(classLate, "msg", whole.payload.Str("msg"))
			}
		}
		return ok
	}
	if strings.HasPrefix(r.class, private) {
		return false
	}
	f.long(string(r.kind), r)
	return true
}

// take finds the client's token in GDB's and takes it off the pending ones. It
// returns "" for a token that has had its answer, and for that of gdb-exit.
func (f *filter) take(gdbs []byte) (token string, ok bool) {
	if len(gdbs) != len(f.nonce)+tokenDigits || string(gdbs[:len(f.nonce)]) != f.nonce {
		return "", false
	}
	token = strings.TrimLeft(string(gdbs[len(f.nonce):]), "0")
	if token == "" && f.nudged {
		f.nudged = false
		for _, lost := range f.pending {
			f.fail(lost, codeLost, "GDB's answer was lost")
		}
		f.pending = nil
	}
	if i := slices.Index(f.pending, token); i >= 0 {
		f.pending = slices.Delete(f.pending, i, i+1)
		return token, true
	}
	return "", true
}

// giveUp answers the command of the unreadable record l, if it has one, and
// passes l on as text, if not.
func (f *filter) giveUp(l []byte) {
	n := 0
	for n < len(l) && l[n] >= '0' && l[n] <= '9' {
		n++
	}
	token, ok := f.take(l[:n])
	switch {
	case !ok && len(l) <= maxHeld:
		f.stream('@', append(bytes.Clone(l), '\n'))
	case !ok:
		f.stream('@', fmt.Appendf(nil, "[a record of more than %d bytes was dropped]\n", maxRecord))
	case token == "":
	case len(l) > maxRecord:
		f.fail(token, codeTooLong, fmt.Sprintf("GDB's answer is longer than %d bytes", maxRecord))
	default:
		f.fail(token, codeMalformed, "GDB's answer is not well-formed MI")
	}
}

// fail answers a command with an error.
func (f *filter) fail(token, code, msg string) {
	f.out = fmt.Appendf(f.out, `%s^error,msg="%s",code="%s"`+"\n", token, appendEscaped(nil, []byte(msg)), code)
}

// stream passes text on as one or more stream records.
func (f *filter) stream(kind byte, text []byte) {
	f.out = appendLines(f.out, string(kind)+`"`, `"`, text)
}

// long passes a result or async record on: at one go, or else in pieces and
// then a record that stands for them.
func (f *filter) long(prefix string, r record) {
	if len(prefix)+len(r.class)+len(r.body)+1 <= maxLine {
		f.out = append(f.out, prefix...)
		f.out = append(f.out, r.class...)
		f.out = append(f.out, r.body...)
		f.out = append(f.out, '\n')
		return
	}
	text := append([]byte{r.kind}, r.class...)
	f.out = appendLines(f.out, "="+classPart+`,text="`, `"`, append(text, r.body...))
	if r.kind != '^' {
		prefix = "="
	}
	f.out = append(f.out, prefix+classWhole+"\n"...)
}

// note writes a record of the relay's own. pairs are names and values; the
// values are cut so that the line is not too long.
func (f *filter) note(class string, pairs ...string) {
	f.out = append(f.out, "="+class...)
	for i := 0; i < len(pairs); i += 2 {
		v := pairs[i+1]
		v = v[:min(len(v), 1000)]
		f.out = fmt.Appendf(f.out, `,%s="%s"`, pairs[i], appendEscaped(nil, []byte(v)))
	}
	f.out = append(f.out, '\n')
}

// findRecord returns where in l a stream or async record starts that reaches to
// the end of l, or -1. It looks at the first hundred candidates only.
func findRecord(l []byte) int {
	for i, tries := 1, 0; i < len(l) && tries < 100; i++ {
		rest := l[i:]
		switch l[i] {
		case '~', '&', '@':
			if len(rest) < 3 || rest[1] != '"' {
				continue
			}
		case '*', '=':
			if !slices.ContainsFunc(asyncClasses[:], func(c string) bool {
				return len(rest) > len(c) && rest[len(c)] == ',' && string(rest[:len(c)]) == c
			}) {
				continue
			}
		default:
			continue
		}
		tries++
		if _, ok := scan(rest, false); ok {
			return i
		}
	}
	return -1
}
