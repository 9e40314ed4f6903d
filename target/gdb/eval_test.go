package gdb

import "testing"

// TestAssigns is which expressions are taken for such that assign: any that do in
// a language of GDB's, and of those that do not only such as hold an operator
// that does in another.
func TestAssigns(t *testing.T) {
	for expr, want := range map[string]bool{
		"x": false, "$rax+8": false, "a == b": false, "a!=b": false, "a<=b": false, "a >= b": false, "a<b": false,
		"a<<2": false, "a>>2": false, "p->x": false, "a - -1": false, "-1": false, "a==b!=c": false, "!a": false,
		"x=1": true, "$rax = 5": true, "x+=1": true, "x<<=1": true, "x >>= 1": true, "x|=1": true, "x/=2": true, "x%=2": true,
		"x++": true, "--x": true, "$pc--": true, "x:=1": true, "a==b=c": true, "a=!b": true, "a===b": true,
	} {
		if got := assigns(expr); got != want {
			t.Errorf("%s: %v", expr, got)
		}
	}
}

// TestFloating is the types that ptype prints.
func TestFloating(t *testing.T) {
	for typ, want := range map[string]bool{
		"double": true, "float": true, "long double": true, "const double": true, "double &": true, "i387_ext": true,
		"_Float128": true, "complex double": true, "f64": true, "f32": true, "float64": true, "complex128": true,
		"real(kind=8)": true, "real*8": true, "complex(kind=4)": true, "REAL": true, "LONGREAL": true,
		"<8-byte float>": true, "long_float": true,
		"int": false, "double *": false, "double (*)[3]": false, "double [3]": false, "double (int)": false,
		"PTR TO -> ( double )": false, "access <8-byte float>": false, "^double": false, "*mut f64": false,
		"array (0 .. 3) of float": false, "array [0..3] of double": false, "double (0:3)": false,
		"struct real {\n    int a;\n}": false, "enum floating {A, B}": false, "<8-byte integer>": false, "unsigned long": false,
		"function   : double": false, "buf64": false, "_Bool": false,
	} {
		if got := floating.MatchString(typ); got != want {
			t.Errorf("%s: %v", typ, got)
		}
	}
}
