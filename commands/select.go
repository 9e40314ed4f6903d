package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"dbgsh/target"
	"dbgsh/vm"
)

// Selector is a Result that stands for mappings: the next stage of a pipeline
// works on them alone.
type Selector interface {
	Result
	// Selected is a map of nothing but what was selected. Mappings of which
	// only a part was asked for are cut to it. It is nil where what was
	// selected has no virtual addresses.
	Selected() *vm.Map
}

// emptier is a Selector that knows why it selected nothing.
type emptier interface {
	// Empty is why, as a sentence; "" where something was selected.
	Empty() string
}

// selection is how vmmap, search and others choose mappings by flags and REGIONs.
type selection struct {
	writable, executable bool
	perm                 string
	byAddr, byName       bool
	physical             bool // REGIONs are physical memory
}

// flags declares the flags of a selection; execShort is the letter for
// executable mappings.
func (o *selection) flags(f *pflag.FlagSet, execShort string) {
	f.BoolVarP(&o.writable, "writable", "w", false, "only writable mappings")
	f.BoolVarP(&o.executable, "executable", execShort, false, "only executable mappings")
	f.StringVar(&o.perm, "perm", "", "only mappings with permissions like `PATTERN`: four places of r w x p/s, - must not, ? any")
	f.BoolVar(&o.byAddr, "addr", false, "read each REGION as an expression")
	f.BoolVar(&o.byName, "name", false, "read each REGION as a part of a name")
}

// filter is the filter that the flags and the REGION words ask for.
func (o *selection) filter(ctx context.Context, s *Session, words []Word) (vm.Filter, error) {
	var f vm.Filter
	if o.byAddr && o.byName {
		return f, usagef("--addr and --name exclude each other; give one")
	}
	if o.perm != "" {
		p, err := vm.ParsePermPattern(o.perm)
		if err != nil {
			return f, &UsageError{err}
		}
		f.Perm = p
	}
	if o.writable {
		f.Perm = f.Perm.And(vm.RequirePerm(vm.Write))
	}
	if o.executable {
		f.Perm = f.Perm.And(vm.RequirePerm(vm.Exec))
	}
	for _, w := range words {
		r, err := o.region(ctx, s, w)
		if err != nil {
			return f, err
		}
		f.Regions = append(f.Regions, r)
	}
	return f, nil
}

// region reads one REGION.
func (o *selection) region(ctx context.Context, s *Session, w Word) (vm.Region, error) {
	if o.byName {
		return vm.NameRegion(w.Text), nil
	}
	if !o.byAddr {
		if w.Text == "" {
			return vm.Region{}, usagef("a REGION is empty; give an address, a range, /regexp/ or a part of a name")
		}
		if r, ok, err := vm.ParseRegion(w.Literal()); ok || err != nil {
			return r, err
		}
		if w.Text == "@last" {
			if err := s.checkLast(o.physical); err != nil {
				return vm.Region{}, fmt.Errorf("@last: %w", err)
			}
			return vm.SetRegion(s.last, "the hits of the last search ("+w.Text+")"), nil
		}
	}
	addr, _, err := s.Eval.Evaluate(ctx, w.Expr())
	var noValue *target.ValueError
	var gone *target.LostError
	switch {
	case err == nil:
		return vm.AddrRegion(addr, w.Text), nil
	case o.byAddr:
	case errors.As(err, &gone):
		// A name needs no GDB, so pages that were added can be found without it.
		return vm.NameRegion(w.Text), nil
	case !errors.As(err, &noValue):
	case noValue.Kind == target.ValueNoExpression:
		return vm.NameRegion(w.Text), nil
	case noValue.Kind == target.ValueNoNumber:
		return vm.Region{}, fmt.Errorf("%w; --name reads it as a part of a name", err)
	}
	return vm.Region{}, err
}

// checkLast refuses to use the hits of the last search where there are none, or
// where their addresses are of the other kind.
func (s *Session) checkLast(physical bool) error {
	switch {
	case s.last == nil:
		return usagef("nothing has been searched for yet, so there are no hits to look at again")
	case s.lastPhysical && !physical:
		return usagef("the hits of the last search are physical addresses, which only search --phys takes")
	case !s.lastPhysical && physical:
		return usagef("the hits of the last search are virtual addresses, and --phys asks for physical ones")
	}
	return nil
}

// choose applies the selection to what the stage before handed over, or else
// to the whole map.
func choose(ctx context.Context, s *Session, f vm.Filter, pipe Result) (*vm.Map, vm.Selection, error) {
	var m *vm.Map
	switch p := pipe.(type) {
	case nil:
		var err error
		if m, err = s.Maps.Map(ctx); err != nil {
			return nil, vm.Selection{}, err
		}
	case Selector:
		if m = p.Selected(); m == nil {
			return nil, vm.Selection{}, usagef("the stage before hands over physical addresses, of which there is no mapping")
		}
		if e, ok := p.(emptier); ok && e.Empty() != "" {
			m = m.Like(nil)
			m.Notes = append(slices.Clip(m.Notes), "the stage before hands over nothing: "+e.Empty())
		}
	default:
		return nil, vm.Selection{}, usagef("the stage before hands over no mappings; vmmap and search do")
	}
	return m, f.Select(m), nil
}

// noneNote says that a filter lets nothing of m through, of which lister shows all.
func noneNote(m *vm.Map, f vm.Filter, lister string) string {
	var b strings.Builder
	b.WriteString("no mapping ")
	if len(f.Regions) == 0 {
		fmt.Fprintf(&b, "has permissions like %v", f.Perm)
	}
	for i, r := range f.Regions {
		if i > 0 {
			b.WriteString(" or ")
		}
		b.WriteString(r.String())
	}
	if len(f.Regions) > 0 && !f.Perm.Any() {
		fmt.Fprintf(&b, ", with permissions like %v", f.Perm)
	}
	fmt.Fprintf(&b, ` (%s; %q lists them)`, count(len(m.Mappings), "mapping"), lister)
	return b.String()
}

// undecidedNote says how many mappings were left out for want of knowledge.
func undecidedNote(n int) string {
	return fmt.Sprintf("%s left out: a permission that was asked for is unknown", count(n, "mapping"))
}

// oneAddr is the value of the one word that a command takes, an address.
func oneAddr(ctx context.Context, s *Session, words []Word) (uint64, error) {
	if len(words) != 1 {
		return 0, usagef("takes one ADDR, but got %s", count(len(words), "word"))
	}
	addr, _, err := s.Eval.Evaluate(ctx, words[0].Expr())
	return addr, err
}

// count is n with a noun in the right number.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
