package target

import (
	"sync"

	"dbgsh/target/gdb"
	"dbgsh/target/qemusys"
	"dbgsh/vm"
)

// kept is what outlives a change of the debuggee, each thing by what it belongs
// to. The zero value is empty. It may be used by several goroutines.
type kept struct {
	machines qemusys.Machines // by connection and inferior

	mu    sync.Mutex
	stubs map[stubKey]Kind // what stubs have said of themselves

	found map[stubKey]foundIn
	grown int // counts the changes of found

	coreMu sync.Mutex  // held while a core is read
	core   *openedCore // the core file read last, nil for none; guarded by coreMu
}

// stubKey is a stub as far as what it is cannot change.
type stubKey struct {
	conn          string // differs between connections, and between GDBs
	inferior, pid int
}

// foundIn is what was found by reading in a process.
type foundIn struct {
	process uint64       // tells it from others behind the stub
	regions []vm.Mapping // sorted only by when they were found
}

// keyOf is the stub behind an inferior.
func keyOf(inf *gdb.Inferior) stubKey { return stubKey{inf.Conn.Key, inf.ID, inf.PID} }

// stub is the kind of a stub, which probe finds out once.
func (k *kept) stub(key stubKey, probe func() (Kind, error)) (Kind, error) {
	k.mu.Lock()
	kind, ok := k.stubs[key]
	k.mu.Unlock()
	if ok {
		return kind, nil
	}
	kind, err := probe()
	if err != nil {
		return 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stubs == nil {
		k.stubs = map[stubKey]Kind{}
	}
	k.stubs[key] = kind
	return kind, nil
}

// addExplored adds what was found by reading in a process behind a stub. What it
// overlaps of what was found before becomes one with it.
func (k *kept) addExplored(key stubKey, process uint64, m vm.Mapping) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var regions []vm.Mapping
	for _, old := range k.in(key, process) {
		if old.Overlaps(m.Range) {
			m.Range = vm.Union([]vm.Range{m.Range, old.Range})[0]
		} else {
			regions = append(regions, old)
		}
	}
	if k.found == nil {
		k.found = map[stubKey]foundIn{}
	}
	k.found[key] = foundIn{process, append(regions, m)}
	k.grown++
}

// explored is what was found by reading in a process behind a stub, and how often
// that changed.
func (k *kept) explored(key stubKey, process uint64) (regions []vm.Mapping, grown int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.in(key, process), k.grown
}

// in is what was found in a process behind a stub; k.mu is held.
func (k *kept) in(key stubKey, process uint64) []vm.Mapping {
	if f := k.found[key]; f.process == process {
		return f.regions
	}
	return nil
}

// Close closes what is open.
func (k *kept) Close() error {
	k.coreMu.Lock()
	defer k.coreMu.Unlock()
	if k.core == nil {
		return nil
	}
	core := k.core
	k.core = nil
	return core.Close()
}
