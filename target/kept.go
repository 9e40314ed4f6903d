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

	mu        sync.Mutex
	processes uint64 // how many had come and gone when it was last pruned
	stubs     map[processKey]Kind
	regions   map[processKey][]vm.Mapping // found by reading, in the order in which they were
	grown     int                         // counts the changes of regions

	coreMu sync.Mutex  // held while a core is read
	core   *openedCore // the core file read last, nil for none; guarded by coreMu
}

// processKey is a process, or what stands for one behind a stub.
type processKey struct {
	conn          string // differs between connections, and between GDBs
	inferior, pid int
}

func keyOf(inf *gdb.Inferior) processKey { return processKey{inf.Conn.Key, inf.ID, inf.PID} }

// prune drops what belonged to what the inferior of the view was before. Where
// processes have come or gone, what stubs and machines are is asked again, too.
func (k *kept) prune(v *View, stamp gdb.Stamp) error {
	key := v.key()
	k.mu.Lock()
	if k.processes != stamp.Processes {
		k.processes, k.stubs = stamp.Processes, map[processKey]Kind{key: v.Kind}
		k.machines.Forget()
	}
	for old := range k.regions {
		if old.inferior == key.inferior && old != key {
			delete(k.regions, old)
			k.grown++
		}
	}
	k.mu.Unlock()
	k.coreMu.Lock()
	defer k.coreMu.Unlock()
	if k.core == nil || k.core.owner.inferior != key.inferior || v.Kind == KindCore {
		return nil
	}
	core := k.core
	k.core = nil
	return core.Close()
}

// stub is the kind of a stub, which probe finds out once.
func (k *kept) stub(key processKey, probe func() (Kind, error)) (Kind, error) {
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
		k.stubs = map[processKey]Kind{}
	}
	k.stubs[key] = kind
	return kind, nil
}

// addExplored adds what was found by reading in a process. What it overlaps of
// what was found before becomes one with it.
func (k *kept) addExplored(key processKey, m vm.Mapping) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var regions []vm.Mapping
	for _, old := range k.regions[key] {
		if old.Overlaps(m.Range) {
			m.Range = vm.Union([]vm.Range{m.Range, old.Range})[0]
		} else {
			regions = append(regions, old)
		}
	}
	if k.regions == nil {
		k.regions = map[processKey][]vm.Mapping{}
	}
	k.regions[key] = append(regions, m)
	k.grown++
}

// explored is what was found by reading in a process, and how often what is known
// of any changed.
func (k *kept) explored(key processKey) (regions []vm.Mapping, grown int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.regions[key], k.grown
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
