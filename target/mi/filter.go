package mi

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	// maxLine is the longest line, newline included, that the library is given:
	// its bufio.Scanner fails at 64 KiB.
	maxLine = 32 << 10
	// maxRecord is the longest result or async record that is kept, in bytes.
	maxRecord = 64 << 20
	// maxHeld is how much of an unfinished line is held, in bytes, when it can
	// be passed on piece by piece.
	maxHeld = 64 << 10
	// nonceDigits is the length of the secret that begins GDB's tokens. GDB reads
	// its input byte by byte, which is a good part of what a command costs.
	nonceDigits = 8
	// probeToken follows the nonce in the token of a command that is no client's,
	// whose tokens begin with 1.
	probeToken = "0"

	// Classes of the filter's own records. No other record gets through with
	// this prefix.
	private    = "dbgsh-"
	classGone  = private + "gone"  // reason: GDB has ended or could not be started
	classPart  = private + "part"  // text: a piece of the long record that follows
	classWhole = private + "whole" // stands for the pieces before it
	classLate  = private + "late"  // msg: the ^error of a command that ^running had answered

	// Codes of the filter's own ^error records.
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
	console string   // client's token of the console line in flight
	ran     bool     // something was set running or has stopped since then
	answer  []byte   // the console line's answer, until GDB's prompt follows
	kind    byte     // of text
	text    []byte   // of stream records, to go on as one
	out     []byte   // lines for the library; whole after flush

	log    io.Writer // gets every line, may be nil
	gone   string    // why GDB is gone, "" while it lives
	exited bool      // the library has the answer to gdb-exit
}

// command notes a command line of the library (without newline) and returns the
// line for GDB, nil for a line without token. When GDB is gone it is answered.
func (f *filter) command(line []byte) (forGDB []byte) {
	token, rest, found := bytes.Cut(line, []byte("-"))
	if !found || len(token) == 0 {
		return nil
	}
	switch op, _, _ := strings.Cut(string(rest), " "); op {
	case "gdb-exit":
		f.exit = string(token)
	case "interpreter-exec":
		f.console, f.ran = string(token), false
		fallthrough
	default:
		f.pending = append(f.pending, string(token))
	}
	if f.gone != "" {
		f.answerAll()
		return nil
	}
	forGDB = fmt.Appendf(nil, "%s%s-%s\n", f.nonce, token, rest)
	f.logLines(">", forGDB)
	return forGDB
}

// end tells the library that GDB is gone, and why.
func (f *filter) end(reason string) {
	f.finish()
	f.gone = reason
	f.note(classGone, "reason", reason)
	f.answerAll()
}

// answerAll answers every command that waits for a GDB that is gone.
func (f *filter) answerAll() {
	for _, token := range f.pending {
		f.fail(token, codeGone, "GDB is gone: "+f.gone)
	}
	f.pending = nil
	if f.exit != "" {
		f.out = fmt.Appendf(f.out, "%s^exit\n", f.exit)
		f.exited = true
	}
}

// errors takes the next bytes of GDB's standard error.
func (f *filter) errors(data []byte) {
	f.logLines("!", data)
	f.stream('@', data)
	f.flush()
}

// logLines logs lines between the link and GDB.
func (f *filter) logLines(direction string, data []byte) {
	if f.log == nil {
		return
	}
	for line := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")) {
		_, _ = fmt.Fprintf(f.log, "%s %s\n", direction, line) // there is nobody to tell
	}
}

// nudge returns lines for a GDB that does not answer. "end" ends what waits for
// more lines of input, as "python" without argument does, behind an empty line
// because Python loses a byte when it is interrupted. Anywhere else it is an
// error that does nothing. The answer to the probe shows that GDB is past all
// earlier commands, so that no answer to them will come any more.
func (f *filter) nudge() []byte {
	f.nudged = true
	lines := fmt.Appendf(nil, "\nend\n%s%s-%s\n", f.nonce, probeToken, barrier)
	f.logLines(">", lines)
	return lines
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
	defer f.flush()
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
	f.release()
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
	f.logLines("<", l)
	if string(l) == prompt {
		f.release()
		return
	}
	if f.nudgeEcho(l) {
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
	text, prompted := l, false
	if f.answer != nil {
		text, prompted = bytes.CutSuffix(l, []byte(prompt))
	}
	f.stream('@', text)
	if prompted {
		f.release()
	} else if newline {
		f.stream('@', []byte{'\n'})
	}
}

// prompt is the line after which GDB reads its next command. It comes after a
// result at once, unless the target has been set running in the foreground.
const prompt = "(gdb) "

// release passes on the answer that waited for the prompt.
func (f *filter) release() {
	f.flush()
	f.out = append(f.out, f.answer...)
	f.answer = nil
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
			f.result(token, r)
		case ok && r.class == "error" && string(r.token[len(f.nonce):]) == f.resumed:
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
	if r.kind == '*' {
		f.ran = true
		f.release()
	}
	return true
}

// result passes on the answer to a command. That to a console line waits for
// GDB's prompt, so that all that belongs to the line is before it, unless the
// line has set something running.
func (f *filter) result(token string, r record) {
	f.release()
	if r.class == "running" {
		f.resumed, f.ran = token, true
	}
	start := len(f.out)
	f.long(token+"^", r)
	if token == f.console && !f.ran {
		f.answer = bytes.Clone(f.out[start:])
		f.out = f.out[:start]
	}
}

// take finds the client's token in GDB's and takes it off the pending ones. It
// returns "" for a token that has had its answer, and for that of gdb-exit.
func (f *filter) take(gdbs []byte) (token string, ok bool) {
	token, ok = strings.CutPrefix(string(gdbs), f.nonce)
	if !ok || token == "" {
		return "", false
	}
	if token == probeToken && f.nudged {
		f.nudged = false
		f.release()
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
	f.flush()
	f.out = fmt.Appendf(f.out, `%s^error,msg="%s",code="%s"`+"\n", token, appendEscaped(nil, []byte(msg)), code)
}

// stream passes text on. GDB makes a record of every line; for the library a
// few long ones do.
func (f *filter) stream(kind byte, text []byte) {
	if kind != f.kind {
		f.flush()
		f.kind = kind
	}
	f.text = append(f.text, text...)
}

// flush makes stream records of the text so far.
func (f *filter) flush() {
	if len(f.text) > 0 {
		f.out = appendLines(f.out, string(f.kind)+`"`, `"`, f.text)
		f.text = f.text[:0]
	}
}

// long passes a result or async record on: at one go, or else in pieces and
// then a record that stands for them.
func (f *filter) long(prefix string, r record) {
	f.flush()
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

// note writes a record of the filter's own, with one value, which is cut so that
// the line is not too long.
func (f *filter) note(class, name, value string) {
	f.flush()
	value = value[:min(len(value), 1000)]
	f.out = fmt.Appendf(f.out, `=%s,%s="%s"`+"\n", class, name, appendEscaped(nil, []byte(value)))
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
