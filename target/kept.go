package target

import (
	"sync"

	"dbgsh/target/qemusys"
	"dbgsh/vm"
)

// kept is what outlives a change of the debuggee, each thing by what it belongs
// to. The zero value is empty. It may be used by several goroutines.
type kept struct {
	machines qemusys.Machines // by connection and inferior

	mu    sync.Mutex
	stubs map[stubKey]Kind // what stubs have said of themselves

	processes uint64       // how many had come and gone when what follows was found
	regions   []vm.Mapping // found by reading; sorted only by when they were found
	grown     int          // counts the changes of regions

	coreMu sync.Mutex  // held while a core is read
	core   *openedCore // the core file read last, nil for none; guarded by coreMu
}

// stubKey is a stub as far as what it is cannot change.
type stubKey struct {
	conn          string // differs between connections, and between GDBs
	inferior, pid int
}

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

// forget drops what belongs to a process that is gone; processes counts those
// that came and went.
func (k *kept) forget(processes uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.processes != processes {
		k.processes, k.regions = processes, nil
		k.grown++
	}
}

// addExplored adds what was found by reading. What it overlaps of what was found
// before becomes one with it.
func (k *kept) addExplored(m vm.Mapping) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var regions []vm.Mapping
	for _, old := range k.regions {
		if old.Overlaps(m.Range) {
			m.Range = vm.Union([]vm.Range{m.Range, old.Range})[0]
		} else {
			regions = append(regions, old)
		}
	}
	k.regions = append(regions, m)
	k.grown++
}

// all is what was found by reading in this process, and how often that changed.
func (k *kept) all() (regions []vm.Mapping, grown int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.regions, k.grown
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
