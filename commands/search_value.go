package commands

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"dbgsh/target"
	"dbgsh/vm"
	"dbgsh/vm/search"
)

// valueOptions are the flags that say how VALUE is to be read.
type valueOptions struct {
	typ                              string
	one, two, four, eight, asPointer bool
	hex                              bool
	regex                            bool
	icase                            bool
	mask                             string
	into                             string
}

func (o *valueOptions) flags(f *pflag.FlagSet) {
	f.StringVarP(&o.typ, "type", "t", "", "read VALUE as `TYPE`: bytes, string, utf16, byte, short, word, dword, qword or pointer")
	f.BoolVarP(&o.one, "byte", "1", false, "an integer of 1 byte")
	f.BoolVarP(&o.two, "short", "2", false, "an integer of 2 bytes")
	f.BoolVarP(&o.four, "dword", "4", false, "an integer of 4 bytes")
	f.BoolVarP(&o.eight, "qword", "8", false, "an integer of 8 bytes")
	f.BoolVarP(&o.asPointer, "pointer", "p", false, "a pointer")
	f.BoolVarP(&o.hex, "hex", "x", false, "VALUE is bytes in hex; ?? or .. is any byte")
	f.BoolVar(&o.regex, "regex", false, "VALUE is a regular expression over bytes")
	f.BoolVar(&o.icase, "icase", false, "upper and lower case of text are equal")
	f.StringVar(&o.mask, "mask", "", "compare only the bits that are set in `M`")
	f.StringVar(&o.into, "into", "", "pointers into what `REGION` selects, instead of VALUE")
}

// valueType is what kind of value is searched for.
type valueType struct {
	name string
	kind valueKind
	size int // of an integer in bytes; 0 for a pointer, whose size is the debuggee's
}

type valueKind uint8

const (
	textValue valueKind = iota
	intValue
	hexValue
	regexValue
)

func valueTypes() []valueType {
	return []valueType{
		{name: "bytes"}, {name: "string"}, {name: "utf16"},
		{"byte", intValue, 1}, {"short", intValue, 2}, {"word", intValue, 2},
		{"dword", intValue, 4}, {"qword", intValue, 8}, {"pointer", intValue, 0},
	}
}

// valueType is the one type that the flags ask for; it is bytes where they ask
// for none, and asked is false then.
func (o *valueOptions) valueType() (t valueType, asked bool, err error) {
	var names []string
	if o.typ != "" {
		names = append(names, o.typ)
	}
	for _, f := range []struct {
		set  bool
		name string
	}{
		{o.one, "byte"}, {o.two, "short"}, {o.four, "dword"}, {o.eight, "qword"}, {o.asPointer, "pointer"},
		{o.hex, "-x"}, {o.regex, "--regex"},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	switch {
	case len(names) > 1:
		return t, true, usagef("%s exclude each other; give one, and -- before a negative VALUE", strings.Join(names, " and "))
	case len(names) == 0:
		return valueTypes()[0], false, nil
	case o.hex:
		return valueType{name: "-x", kind: hexValue}, true, nil
	case o.regex:
		return valueType{name: "--regex", kind: regexValue}, true, nil
	}
	var known []string
	for _, t := range valueTypes() {
		if t.name == names[0] {
			return t, true, nil
		}
		known = append(known, t.name)
	}
	return t, true, usagef("unknown type %q; give one of %s", names[0], strings.Join(known, ", "))
}

// check refuses flags that do not go together; takesValue is whether there is a VALUE.
func (o *valueOptions) check(takesValue bool) error {
	t, asked, err := o.valueType()
	switch {
	case err != nil:
		return err
	case o.into != "" && (asked && t.name != "pointer" || o.icase || o.mask != ""):
		return usagef("--into finds pointers and takes no VALUE; leave out what says how to read one")
	case !takesValue && o.into == "" && (asked || o.icase || o.mask != ""):
		return usagef("--changed and --unchanged take no VALUE; add --next to look for one as well")
	case o.icase && t.kind == regexValue:
		return usagef("--icase is for text; in a regular expression write (?i) before it")
	case o.icase && (t.kind != textValue || t.name == "utf16"):
		return usagef("--icase is for text (-t bytes or string), not for %s", t.name)
	case o.mask != "" && t.kind != intValue && t.kind != hexValue:
		return usagef("--mask is for integers and for -x, not for %s", t.name)
	}
	return nil
}

// sought is what a search looks for.
type sought struct {
	search.Matcher
	as string // the value as it was understood, for people
}

// matcher finds what the word means as VALUE. The flags have been checked.
func (o *valueOptions) matcher(ctx context.Context, s *Session, w Word) (sought, error) {
	t, asked, err := o.valueType()
	if err != nil {
		return sought{}, err
	}
	if !asked && !o.icase {
		if t, err = untyped(ctx, s, w); err != nil {
			return sought{}, err
		}
	}
	var m search.Matcher
	as := ""
	switch t.kind {
	case textValue:
		m, err = o.text(ctx, s, t, w)
		parsed, _ := search.ParseText(w.Literal()) // the error is m's, too
		as = strings.TrimPrefix(t.name+" ", "bytes ") + "text " + strconv.Quote(string(parsed))
	case hexValue:
		m, err = o.hexBytes(w)
		as = "bytes " + w.Text
	case regexValue:
		m, err = search.NewRegexp(w.Literal(), 0)
		as = "matches of /" + w.Literal() + "/"
	case intValue:
		return o.integer(ctx, s, t, w) // its errors can be GDB's
	}
	if err != nil {
		return sought{}, &UsageError{fmt.Errorf("VALUE: %w", err)}
	}
	if o.mask != "" {
		as += " in the bits of " + o.mask
	}
	return sought{m, as}, nil
}

// untyped is the type of a VALUE for which no flag gives one: text, but for what
// nobody writes who means text: a number in hex, an address (&x), or a register
// or variable of GDB's. Where GDB knows no number behind these they are text, too.
func untyped(ctx context.Context, s *Session, w Word) (valueType, error) {
	text := valueTypes()[0]
	if w.Quoted() {
		return text, nil
	}
	switch expr := w.Expr(); {
	case isHexNumber(expr):
		v, err := search.ParseInt(expr)
		if err != nil {
			return text, nil // too long for a number: GDB would not take it, either
		}
		if v.BitLen() <= 32 {
			return valueType{name: "dword", kind: intValue, size: 4}, nil
		}
		return valueType{name: "qword", kind: intValue, size: 8}, nil
	case len(expr) > 1 && (expr[0] == '&' || expr[0] == '$'):
		_, _, err := s.Eval.Evaluate(ctx, expr)
		var none *target.ValueError
		switch {
		case err == nil:
			return valueType{name: "pointer", kind: intValue}, nil
		case ctx.Err() != nil:
			return text, err
		case errors.As(err, &none) && none.Kind != target.ValueNoExpression && none.Kind != target.ValueNoNumber:
			return text, fmt.Errorf("VALUE: %w; -t bytes looks for it as text", err)
		}
	}
	return text, nil
}

// isHexNumber reports whether s is a number as C writes it in hex.
func isHexNumber(s string) bool {
	digits, found := strings.CutPrefix(strings.ToLower(s), "0x")
	return found && digits != "" && strings.Trim(digits, "0123456789abcdef") == ""
}

// text is a matcher of text in one of its encodings.
func (o *valueOptions) text(ctx context.Context, s *Session, t valueType, w Word) (search.Matcher, error) {
	text, err := search.ParseText(w.Literal())
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("the text is empty")
	}
	switch t.name {
	case "string":
		text = append(text, 0)
	case "utf16":
		_, order, err := s.Program.Arch(ctx)
		if err != nil {
			return nil, err
		}
		if text, err = search.UTF16(text, order); err != nil {
			return nil, err
		}
	}
	if o.icase {
		return search.NewFold(text)
	}
	return search.NewBytes(text)
}

// hexBytes is a matcher of bytes given in hex.
func (o *valueOptions) hexBytes(w Word) (search.Matcher, error) {
	value, mask, err := search.ParseHex(w.Text)
	if err != nil {
		return nil, err
	}
	if o.mask == "" {
		return search.NewMasked(value, mask)
	}
	bits, _, err := search.ParseHex(o.mask)
	if err != nil {
		return nil, fmt.Errorf("--mask: %w", err)
	}
	if len(bits) != len(value) {
		return nil, fmt.Errorf("--mask has %s and VALUE %s; give as many", count(len(bits), "byte"), count(len(value), "byte"))
	}
	for i := range bits {
		mask[i] &= bits[i]
	}
	return search.NewMasked(value, mask)
}

// integer is a matcher of an integer, of a range of them, or of some of its bits.
func (o *valueOptions) integer(ctx context.Context, s *Session, t valueType, w Word) (sought, error) {
	size, order, err := s.Program.Arch(ctx)
	if err != nil {
		return sought{}, err
	}
	if t.size != 0 {
		size = t.size
	}
	asBytes := func(what, expr string) ([]byte, error) {
		v, err := evaluateInt(ctx, s, expr)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		b, err := search.IntBytes(v, size, order)
		if err != nil {
			return nil, &UsageError{err}
		}
		return b, nil
	}
	as := fmt.Sprintf("%d-byte %s", size, w.Expr())
	if lo, hi, ok := search.SplitIntRange(w.Expr()); ok {
		if o.mask != "" {
			return sought{}, usagef("--mask does not go with a range of integers; give one integer")
		}
		from, err := evaluateInt(ctx, s, lo)
		if err != nil {
			return sought{}, fmt.Errorf("VALUE: %w", err)
		}
		to, err := evaluateInt(ctx, s, hi)
		if err != nil {
			return sought{}, fmt.Errorf("VALUE: %w", err)
		}
		m, err := search.NewBigRange(size, order, from, to)
		if err != nil {
			return sought{}, &UsageError{err}
		}
		return sought{m, as}, nil
	}
	value, err := asBytes("VALUE", w.Expr())
	if err != nil {
		return sought{}, err
	}
	if v := number(value, order); !isHexNumber(w.Expr()) && v != w.Expr() {
		as += " (" + v + ")"
	}
	if o.mask == "" {
		m, err := search.NewBytes(value)
		return sought{m, as}, err
	}
	mask, err := asBytes("--mask", o.mask)
	if err != nil {
		return sought{}, err
	}
	m, err := search.NewMasked(value, mask)
	return sought{m, as + " in the bits of " + o.mask}, err
}

// number is bytes as a number in hex.
func number(b []byte, order binary.ByteOrder) string {
	if order == binary.LittleEndian {
		b = slices.Clone(b)
		slices.Reverse(b)
	}
	return "0x" + cmp.Or(strings.TrimLeft(hex.EncodeToString(b), "0"), "0")
}

// evaluateInt is the value of an integer expression.
func evaluateInt(ctx context.Context, s *Session, expr string) (*big.Int, error) {
	number, numberErr := search.ParseInt(expr)
	if numberErr == nil && strings.HasPrefix(strings.TrimLeft(expr, "+-"), "0") { // the same to everybody
		return number, nil
	}
	// GDB may be set to read digits otherwise (set input-radix).
	v, negative, err := s.Eval.Evaluate(ctx, expr)
	if gone := new(target.LostError); errors.As(err, &gone) && numberErr == nil {
		return number, nil
	}
	if err != nil {
		return nil, err
	}
	if negative {
		return big.NewInt(int64(v)), nil
	}
	return new(big.Int).SetUint64(v), nil
}

// pointers is a matcher of pointers into what --into selects of the whole map.
func (o *valueOptions) pointers(ctx context.Context, s *Session) (sought, error) {
	var sel selection
	r, err := sel.region(ctx, s, Word{Text: o.into, Raw: o.into})
	if err != nil {
		return sought{}, fmt.Errorf("--into: %w", err)
	}
	filter := vm.Filter{Regions: []vm.Region{r}}
	whole, chosen, err := choose(ctx, s, filter, nil)
	if err != nil {
		return sought{}, err
	}
	var into []vm.Range
	for _, mp := range partsOf(chosen.Rows) {
		into = append(into, mp.Range)
	}
	if len(into) == 0 {
		return sought{}, fmt.Errorf("--into: %s", noneNote(whole, filter, "vmmap"))
	}
	size, order, err := s.Program.Arch(ctx)
	if err != nil {
		return sought{}, err
	}
	m, err := search.NewPointers(size, order, into)
	return sought{m, "pointers into " + o.into}, err
}
