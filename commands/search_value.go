package commands

import (
	"context"
	"fmt"
	"math/big"
	"runtime"
	"strings"

	"github.com/spf13/pflag"

	"dbgsh/vm"
)

// scanWorkers is how many goroutines a scan may keep busy: two, where there
// are processors for them.
func scanWorkers() int { return min(2, runtime.GOMAXPROCS(0)) }

// valueOptions are the flags that say how VALUE is to be read.
type valueOptions struct {
	typ                                 string
	byte1, short2, dword4, qword8, ptrP bool
	hex                                 bool
}

func (o *valueOptions) flags(f *pflag.FlagSet) {
	f.StringVarP(&o.typ, "type", "t", "", "read VALUE as `TYPE`: bytes, string, byte, short, word, dword, qword or pointer")
	f.BoolVarP(&o.byte1, "byte", "1", false, "an integer of 1 byte")
	f.BoolVarP(&o.short2, "short", "2", false, "an integer of 2 bytes")
	f.BoolVarP(&o.dword4, "dword", "4", false, "an integer of 4 bytes")
	f.BoolVarP(&o.qword8, "qword", "8", false, "an integer of 8 bytes")
	f.BoolVarP(&o.ptrP, "pointer", "p", false, "a pointer")
	f.BoolVarP(&o.hex, "hex", "x", false, "VALUE is bytes in hex")
}

// valueType is what kind of value is searched for.
type valueType struct {
	name string
	size int  // of an integer in bytes; 0 for text, -1 for a pointer
	nul  bool // a text that ends with a NUL
}

func valueTypes() []valueType {
	return []valueType{
		{name: "bytes"}, {name: "string", nul: true},
		{name: "byte", size: 1}, {name: "short", size: 2}, {name: "word", size: 2},
		{name: "dword", size: 4}, {name: "qword", size: 8}, {name: "pointer", size: -1},
	}
}

// valueType is the one type that the flags ask for.
func (o *valueOptions) valueType() (valueType, error) {
	var asked []string
	if o.typ != "" {
		asked = append(asked, o.typ)
	}
	for _, f := range []struct {
		set  bool
		name string
	}{{o.byte1, "byte"}, {o.short2, "short"}, {o.dword4, "dword"}, {o.qword8, "qword"}, {o.ptrP, "pointer"}} {
		if f.set {
			asked = append(asked, f.name)
		}
	}
	if len(asked) > 1 {
		return valueType{}, usagef("%s are two types; give one, and -- before a negative VALUE", strings.Join(asked, " and "))
	}
	want := "bytes"
	if len(asked) == 1 {
		want = asked[0]
	}
	var known []string
	for _, t := range valueTypes() {
		if t.name == want {
			return t, nil
		}
		known = append(known, t.name)
	}
	return valueType{}, usagef("unknown type %q; give one of %s", want, strings.Join(known, ", "))
}

// matcher finds what the word means as VALUE.
func (o *valueOptions) matcher(ctx context.Context, s *Session, w Word) (vm.Matcher, error) {
	typ, err := o.valueType()
	if err != nil {
		return nil, err
	}
	if o.hex {
		if typ.size != 0 || typ.nul {
			return nil, usagef("-x reads VALUE as bytes, not as %s; give one of the two", typ.name)
		}
		value, mask, err := vm.ParseHex(w.Text)
		if err != nil {
			return nil, &UsageError{err}
		}
		return vm.NewMasked(value, mask)
	}
	if typ.size == 0 {
		text, err := vm.ParseText(w.Literal())
		if err != nil {
			return nil, &UsageError{err}
		}
		if typ.nul {
			text = append(text, 0)
		}
		if len(text) == 0 {
			return nil, usagef("VALUE is empty; there is nothing to search for")
		}
		return vm.NewBytes(text)
	}
	ptr, order, err := s.Debuggee.Arch(ctx)
	if err != nil {
		return nil, err
	}
	size := typ.size
	if size < 0 {
		size = ptr
	}
	v, err := evaluateInt(ctx, s, w.Expr())
	if err != nil {
		return nil, err
	}
	b, err := vm.IntBytes(v, size, order)
	if err != nil {
		return nil, &UsageError{err}
	}
	return vm.NewBytes(b)
}

// evaluateInt is the value of an integer expression.
func evaluateInt(ctx context.Context, s *Session, expr string) (*big.Int, error) {
	if v, err := vm.ParseInt(expr); err == nil {
		return v, nil
	}
	v, negative, err := s.Debuggee.Evaluate(ctx, expr)
	if err != nil {
		return nil, fmt.Errorf("VALUE: %w", err)
	}
	if negative {
		return big.NewInt(int64(v)), nil
	}
	return new(big.Int).SetUint64(v), nil
}
