package testkit

import "testing"

func TestCanCall(t *testing.T) {
	if canCall(t, GDBWithoutCalls(t)) {
		t.Error("a GDB that cannot write registers can call")
	}
}
