//go:build ignore

// Maps and unmaps memory in several threads and calls ready.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
)

var sink [][]byte

//go:noinline
func ready() {}

func main() {
	debug.SetGCPercent(-1)
	var started, stay sync.WaitGroup
	stay.Add(1)
	for range 3 {
		started.Add(1)
		go func() {
			runtime.LockOSThread()
			started.Done()
			stay.Wait()
		}()
	}
	started.Wait()
	for i := range 20 {
		sink = append(sink, make([]byte, 1<<i))
	}
	// QEMU writes its page table to its log at each mmap(2).
	b, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ready()
	_ = b
}
