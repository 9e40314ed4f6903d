package mi

import (
	"fmt"
	"strings"
)

// command makes the text of an MI command, without token and dash, with its
// arguments quoted for GDB's own parser. It refuses what cannot be sent.
func command(op string, args []string) (string, error) {
	if op == "" {
		return "", fmt.Errorf("empty command name")
	}
	for _, b := range []byte(op) {
		if b < ' ' || b == 0x7f {
			return "", fmt.Errorf("command name %q holds a control character", op)
		}
	}
	var sb strings.Builder
	sb.WriteString(op)
	for _, a := range args {
		if strings.IndexByte(a, 0) >= 0 {
			return "", fmt.Errorf("%s: argument %q holds a NUL byte", op, a)
		}
		sb.WriteByte(' ')
		sb.WriteString(quote(a))
	}
	return sb.String(), nil
}

// quote returns arg as GDB's MI parser (mi_parse_argv and mi_parse_escape in
// gdb/mi/mi-parse.c) reads it back: a plain word as it is, since an option must
// not be quoted, and anything else as a C string. Only what has to be is
// escaped, because MI commands that are CLI commands underneath
// (-file-exec-and-symbols, -gdb-set) hand the text on undecoded.
func quote(arg string) string {
	if arg != "" && strings.IndexFunc(arg, func(r rune) bool {
		return r <= ' ' || r == '"' || r == '\'' || r == '\\' || r == 0x7f
	}) < 0 {
		return arg
	}
	return quoted(arg)
}

// quoted returns text as a C string.
func quoted(text string) string {
	var sb strings.Builder
	sb.WriteByte('"')
	for i := range len(text) {
		switch b := text[i]; {
		case b == '"' || b == '\\':
			sb.WriteByte('\\')
			sb.WriteByte(b)
		case b < ' ' || b == 0x7f:
			fmt.Fprintf(&sb, `\%03o`, b)
		default:
			sb.WriteByte(b)
		}
	}
	sb.WriteByte('"')
	return sb.String()
}
