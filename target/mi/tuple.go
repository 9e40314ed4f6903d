package mi

import "strconv"

// Tuple is an MI tuple: each value is a string, a Tuple or a
// map[string]any of the same meaning, or a []any. Its methods accept a nil
// Tuple and absent keys.
type Tuple map[string]any

// Str returns the string at key, "" when there is none.
func (t Tuple) Str(key string) string {
	s, _ := t[key].(string)
	return s
}

// Int returns the number at key, read in base 10, or in the base that its
// prefix (0x, 0) tells. ok is false when there is no number that fits.
func (t Tuple) Int(key string) (n int64, ok bool) {
	n, err := strconv.ParseInt(t.Str(key), 0, 64)
	return n, err == nil
}

// Uint is like Int for addresses and other numbers up to 2^64-1.
func (t Tuple) Uint(key string) (n uint64, ok bool) {
	n, err := strconv.ParseUint(t.Str(key), 0, 64)
	return n, err == nil
}

// Tuple returns the tuple at key, nil when there is none.
func (t Tuple) Tuple(key string) Tuple {
	return asTuple(t[key])
}

// List returns the list at key, nil when there is none.
func (t Tuple) List(key string) []any {
	l, _ := t[key].([]any)
	return l
}

// Tuples returns the elements of the list at key that are tuples. A list of
// results (stack=[frame={...},frame={...}]) gives tuples of one entry each.
func (t Tuple) Tuples(key string) []Tuple {
	var ts []Tuple
	for _, v := range t.List(key) {
		if e := asTuple(v); e != nil {
			ts = append(ts, e)
		}
	}
	return ts
}

// Strings returns the elements of the list at key that are strings.
func (t Tuple) Strings(key string) []string {
	var ss []string
	for _, v := range t.List(key) {
		if s, ok := v.(string); ok {
			ss = append(ss, s)
		}
	}
	return ss
}

func asTuple(v any) Tuple {
	switch v := v.(type) {
	case Tuple:
		return v
	case map[string]any:
		return v
	}
	return nil
}
