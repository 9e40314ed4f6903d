package gdb

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// ValueError says that GDB does not know an expression as an integer, a
// pointer, an array or a function.
type ValueError struct {
	Expr string
	Why  string // GDB's words, or what the expression is instead
}

func (e *ValueError) Error() string { return e.Expr + ": " + e.Why }

// Evaluate is the value of an expression that is an integer or a pointer; an
// array, a function or a symbol without a type counts as its address. A
// negative integer comes in two's complement, and negative is true. The error
// is a *ValueError where GDB does not know it as such.
//
// Nothing runs in the debuggee unless the expression itself calls it.
func (g *GDB) Evaluate(ctx context.Context, expr string) (value uint64, negative bool, err error) {
	if literal.MatchString(expr) {
		switch v, err := strconv.ParseUint(expr, 0, 64); {
		case err == nil:
			return v, false, nil
		case errors.Is(err, strconv.ErrRange): // GDB would take its low bits
			return 0, false, &ValueError{expr, "does not fit in 64 bits"}
		}
	}
	// Whatever radix the user has chosen for output.
	line := "with output-radix 10 -- output " + expr
	ask := []string{"ptype/mt " + expr} // which evaluates nothing
	if harmless.MatchString(expr) {
		ask = append(ask, line) // mostly it is a number or a pointer
	}
	texts, err := g.QueryAll(ctx, ask...)
	if len(texts) == 0 {
		return 0, false, asValueError(expr, err)
	}
	typ := classify(texts[0])
	switch typ.kind {
	case kindAggregate, kindFloat, kindVoid:
		return 0, false, &ValueError{expr, "is " + typ.name + ", no integer or pointer"}
	case kindScalar:
	case kindPlace:
		line = "output &(" + expr + ")"
	case kindNamed:
		line = "output/d " + expr
	}
	var text string
	switch {
	case !harmless.MatchString(expr):
		defer g.Changed() // it may have called or assigned
		text, err = g.call(ctx, line)
	case typ.kind != kindScalar:
		text, err = g.Query(ctx, line)
	case err == nil:
		text = texts[1]
	}
	if err != nil {
		return 0, false, asValueError(expr, err)
	}
	text = radixNoise.ReplaceAllString(text, "")
	if v, neg, ok := parseValue(text); ok {
		return v, neg, nil
	}
	return 0, false, &ValueError{expr, fmt.Sprintf("is %q, no integer or pointer", text)}
}

var (
	// literal is a decimal, octal or hexadecimal number as C writes it.
	literal = regexp.MustCompile(`^(0[xX][0-9a-fA-F]+|[0-9]+)$`)
	// radixNoise is what GDB says while the radix changes and changes back.
	radixNoise = regexp.MustCompile(`Output radix now set to [^\n]*\n`)
	// harmless is an expression that neither calls nor assigns, in any language:
	// a name, a register or a number, and a number more or less.
	harmless = regexp.MustCompile(`^[-&]?[$\w.]+([-+](0x[0-9a-fA-F]+|[0-9]+))?$`)
)

func asValueError(expr string, err error) error {
	var said *Error
	if errors.As(err, &said) {
		return &ValueError{expr, said.Msg}
	}
	return err
}

// parseValue reads how GDB prints an integer or a pointer: -5, 65 'A', 0x7ff0
// <main+4>, (char *) 0x0, {int (void)} 0x1139 <main>, @0x7ffc: 3.
func parseValue(text string) (value uint64, negative, ok bool) {
	s := text
	for {
		switch {
		case strings.HasPrefix(s, "("):
			s = skipBracketed(s, '(', ')')
		case strings.HasPrefix(s, "{"):
			s = skipBracketed(s, '{', '}')
		case strings.HasPrefix(s, "@0x"): // a reference
			_, after, found := strings.Cut(s, ": ")
			if !found {
				return 0, false, false
			}
			s = after
			continue
		default:
			s, _, _ = strings.Cut(s, " ")
			if v, err := strconv.ParseUint(s, 0, 64); err == nil {
				return v, false, true
			}
			v, err := strconv.ParseInt(s, 0, 64)
			return uint64(v), true, err == nil
		}
		after, found := strings.CutPrefix(s, " ")
		if !found {
			return 0, false, false
		}
		s = after
	}
}

// skipBracketed is s behind the bracket that closes its first one, else "".
func skipBracketed(s string, open, shut byte) string {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case open:
			depth++
		case shut:
			if depth--; depth == 0 {
				return s[i+1:]
			}
		}
	}
	return ""
}

// exprType is the type of an expression as far as Evaluate cares.
type exprType struct {
	kind typeKind
	name string
}

type typeKind uint8

const (
	kindScalar    typeKind = iota // an integer or a pointer
	kindNamed                     // an enumeration, a boolean or flags, shown by name
	kindPlace                     // an array, a function, a symbol without a type: its address counts
	kindAggregate                 // a structure, union or class
	kindFloat
	kindVoid
)

// classify reads what ptype prints.
func classify(text string) exprType {
	text = strings.TrimSpace(text)
	typ := strings.TrimPrefix(text, "type = ")
	first, _, _ := strings.Cut(typ, " {")
	x := exprType{name: first}
	end := strings.TrimSpace(strings.TrimRight(typ, "&"))
	for _, q := range []string{" const", " volatile", " restrict"} {
		end = strings.TrimSuffix(end, q)
	}
	isEnd := func(s string) bool { return strings.HasSuffix(end, s) }
	switch {
	case isEnd("*"), pointsToPlace(end):
	case isEnd("]"), isEnd(")"), strings.HasPrefix(typ, "<"):
		x.kind = kindPlace
	case isEnd("}"):
		for _, agg := range []string{"struct", "union", "class"} {
			if first == agg || strings.HasPrefix(first, agg+" ") {
				x.kind = kindAggregate
			}
		}
		if x.kind == kindScalar {
			x.kind = kindNamed
		}
	case isEnd("bool"), isEnd("_Bool"):
		x.kind = kindNamed
	case isEnd("void"):
		x.kind = kindVoid
	case strings.Contains(strings.ToLower(end), "float"), strings.Contains(end, "double"),
		isEnd("f32"), isEnd("f64"), isEnd("_ext"): // i387_ext is $st0's
		x.kind = kindFloat
	}
	return x
}

// pointsToPlace reports whether typ is a pointer to an array or a function,
// like "char (*)[32]" or "int (*(*)[2])(void)".
func pointsToPlace(typ string) bool {
	declarator := typ[strings.LastIndexByte(typ, '}')+1:] // behind the fields of a structure
	i := strings.IndexByte(declarator, '(')
	return i >= 0 && innermostPointer.MatchString(declarator[i:])
}

// innermostPointer matches brackets whose innermost ones hold stars alone.
var innermostPointer = regexp.MustCompile(`^(\(\*+ ?(const|volatile)? ?)+\)`)
