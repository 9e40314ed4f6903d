package gdb

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"dbgsh/vm"
)

// ValueError says why an expression has no value that is an integer, a pointer,
// an array or a function.
type ValueError struct {
	Expr string
	Kind ValueErrorKind
	Why  string // GDB's words, or what the expression is instead
}

// ValueErrorKind is what is wrong with an expression.
type ValueErrorKind uint8

// The kinds of what may be wrong.
const (
	ValueFailed       ValueErrorKind = iota // it cannot be evaluated: memory that cannot be read, for one
	ValueNoExpression                       // it is none to GDB: a syntax error, or a name that GDB does not know
	ValueNoNumber                           // its value is something else: a structure, a floating-point number
	ValueHarmful                            // to evaluate it would change the debuggee
)

func (e *ValueError) Error() string { return e.Expr + ": " + e.Why }

// looking lets a command of GDB's change nothing in the debuggee's memory and
// call nothing in it, and puts back what the user has set, whatever becomes of
// the command (GDB's manual, Command Settings). may-write-registers cannot be
// changed while there is a process: see assigns.
const looking = "with may-call-functions off -- with may-write-memory off -- "

// Evaluate is the value of an expression, in the language that GDB is set to,
// that is an integer or a pointer; an array, a function or a symbol without a
// type counts as its address. A negative integer comes in two's complement, and
// negative is true. The error is a *ValueError where there is no such value, and
// wraps vm.ErrNoProcess where the expression needs a process and there is none.
//
// Nothing in the debuggee is called, assigned or otherwise changed: an
// expression that would do so is refused.
func (g *GDB) Evaluate(ctx context.Context, expr string) (value uint64, negative bool, err error) {
	if strings.TrimSpace(expr) == "" {
		return 0, false, &ValueError{expr, ValueNoExpression, "it is empty"}
	}
	local, localErr := strconv.ParseUint(expr, 0, 64)
	if hexadecimal.MatchString(expr) { // the same to everybody
		if localErr != nil {
			return 0, false, &ValueError{expr, ValueNoNumber, "does not fit in 64 bits"}
		}
		return local, false, nil
	}
	if namesFound(expr) {
		g.tellFound(ctx)
	}
	value, negative, err = g.evaluate(ctx, "", expr)
	var said *ValueError
	if errors.As(err, &said) && strings.Contains(said.Why, "not implemented for language") {
		// "set language unknown" knows no expressions at all.
		value, negative, err = g.evaluate(ctx, "with language c -- ", expr)
	}
	if gone := new(LostError); errors.As(err, &gone) && localErr == nil && ctx.Err() == nil {
		return local, false, nil // a number needs no GDB
	}
	return value, negative, err
}

var (
	hexadecimal = regexp.MustCompile(`^0[xX][0-9a-fA-F]+$`)
	// printed is the value in what number has GDB print; other lines may stand
	// around it, which tell of settings.
	printed = regexp.MustCompile(`=(-?\d+)=`)
)

// number is a command that prints an expression as a signed number of 64 bits,
// whatever GDB is set to print: an array or a function as its address, a
// floating-point number cut. Brackets keep a comma in the expression.
func number(expr string) string { return looking + `printf "=%lld=", (` + expr + ")" }

// evaluate is Evaluate with a prefix to each command.
func (g *GDB) evaluate(ctx context.Context, prefix, expr string) (value uint64, negative bool, err error) {
	lines := []string{prefix + "ptype/mt " + expr, prefix + number(expr)} // ptype evaluates nothing
	assigns := assigns(expr)
	if assigns {
		lines = lines[:1]
	}
	texts, err := g.QueryAll(ctx, lines...)
	if len(texts) == 0 {
		return 0, false, asValueError(expr, err)
	}
	// What GDB tells of a process that runs may stand before it.
	_, typ, found := strings.Cut(strings.TrimSpace(texts[0]), "type = ")
	if !found {
		typ = strings.TrimSpace(texts[0])
	}
	first, _, _ := strings.Cut(typ, "\n")
	notNumber := &ValueError{expr, ValueNoNumber, "is " + strings.TrimRight(first, " {") + ", no integer or pointer"}
	switch {
	case assigns:
		return 0, false, &ValueError{expr, ValueHarmful, "may assign to the debuggee, which looking never does; use print or set var"}
	case floating.MatchString(typ): // printf would cut it
		return 0, false, notNumber
	case noConversion(err) && mayBePlace(typ):
		// Not every language has an array stand for its address, nor is a symbol
		// without a type a number; and this is how most and how Pascal write it.
		for _, operator := range []string{"&", "@"} {
			var text string
			if text, err = g.Query(ctx, prefix+number(operator+"("+expr+")")); err == nil {
				texts = append(texts, text)
				break
			}
		}
		if said := new(Error); errors.As(err, &said) {
			return 0, false, notNumber
		}
	case noConversion(err):
		return 0, false, notNumber
	}
	if err != nil {
		return 0, false, asValueError(expr, err)
	}
	m := printed.FindStringSubmatch(texts[1])
	if m == nil {
		return 0, false, &ValueError{expr, ValueFailed, fmt.Sprintf("GDB prints it as %q", texts[1])}
	}
	v, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, false, &ValueError{expr, ValueFailed, err.Error()}
	}
	if v < 0 {
		// It may be unsigned, or a pointer; what is not compared is no integer.
		sign, err := g.Query(ctx, prefix+number("("+expr+") < 0"))
		if said := new(Error); err != nil && !errors.As(err, &said) {
			return 0, false, err
		}
		negative = strings.Contains(sign, "=1=")
	}
	return uint64(v), negative, nil
}

// assignment is the operators of all languages of GDB's that assign, and the
// longer ones that do not. All that assign hold one of =, ++ and --.
var assignment = regexp.MustCompile(`<<=|>>=|[=!<>]=|=|\+\+|--`)

// assigns reports whether an expression may assign, which GDB can be kept from
// only where that is to memory. = compares in some languages, and is taken for
// an assignment in all.
func assigns(expr string) bool {
	for _, op := range assignment.FindAllString(expr, -1) {
		switch op {
		case "==", "!=", "<=", ">=":
		default:
			return true
		}
	}
	return false
}

// noConversion reports whether GDB says that a value is no number (gdb/value.c,
// value_as_long and unpack_long; gdb/eval.c, error_unknown_type).
func noConversion(err error) bool {
	var said *Error
	return errors.As(err, &said) && notConverted.MatchString(said.Msg)
}

var (
	notConverted = regexp.MustCompile(`can't be converted to integer|not available on integers of more than|has unknown type`)
	// unknown is what GDB's parsers say of a text that is no expression, or whose
	// names mean nothing (gdb/*-exp.y, gdb/rust-parse.c, gdb/parse.c).
	unknown = regexp.MustCompile(`(?i)^(A syntax error in expression|Error in expression|Syntax error|` +
		`No (symbol|definition|type|struct|union|enum|class|file|package|function)\b|` +
		`Invalid (number|character|integer|operator)|Unmatched |Unterminated |Unbalanced |Unexpected |Numeric constant too large|` +
		`Attempt to use a type|Argument required|Could not find |'.*' expected|.*expected$)`)
	// harmful is what GDB says of what looking keeps it from (gdb/infcall.c,
	// gdb/target.c).
	harmfulCall  = regexp.MustCompile(`may-call-functions is off`)
	harmfulWrite = regexp.MustCompile(`^Writing to (memory|registers) is not allowed`)
	// noProcess is what GDB says of registers where there is no process.
	noProcess = regexp.MustCompile(`^(No registers\.|The program has no registers now\.)`)
)

// asValueError is what is wrong with an expression by an *Error of GDB's; other
// errors stay as they are.
func asValueError(expr string, err error) error {
	var said *Error
	if !errors.As(err, &said) {
		return err
	}
	switch {
	case harmfulCall.MatchString(said.Msg):
		return &ValueError{expr, ValueHarmful, "would call a function in the debuggee, which looking never does; use print"}
	case harmfulWrite.MatchString(said.Msg):
		return &ValueError{expr, ValueHarmful, "would write to the debuggee, which looking never does; use print or set var"}
	case unknown.MatchString(said.Msg):
		return &ValueError{expr, ValueNoExpression, said.Msg}
	case noProcess.MatchString(said.Msg):
		return fmt.Errorf("%s: %w", expr, vm.ErrNoProcess)
	}
	return &ValueError{expr, ValueFailed, said.Msg}
}

// floating is the types of floating-point and complex numbers as ptype prints
// them: the base types of the languages, and i387_ext, which $st0 has.
var floating = regexp.MustCompile(`(?i)^[\w ]*(float|double|real\b|complex|\bf(16|32|64|128)\b|i387_ext)[\w ]*(\(kind=\d+\)|\*\d+)?[ &]*$` +
	`|^<\d+-byte float>$`)

// mayBePlace reports whether the type of a value that is no number, as ptype
// prints it, may be one whose address counts: an array, or what has no type. Of a
// structure every field has a line.
func mayBePlace(typ string) bool {
	return !strings.Contains(typ, "\n") || strings.HasSuffix(typ, "]") || strings.HasSuffix(typ, ")")
}
