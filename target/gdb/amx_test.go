package gdb_test

import (
	"io"
	"testing"

	"dbgsh/internal/testkit"
	"dbgsh/target/gdb"
)

// A GDB that cannot write registers says what helps.
func TestCallsOnAMX(t *testing.T) {
	d := start(t, gdb.Config{GDB: testkit.GDBWithoutCalls(t), Program: testkit.BuildText(t, "gcc", "one.c",
		"int one(void) { return 1; }\nint main(void) { return one() - 1; }\n")})
	d.Lines("break main", "run")
	const want = "Couldn't write extended state status: Bad address. GDB before 14 cannot write the registers of a CPU with AMX; GDB 14 or newer can."
	if err := d.Console(d.Ctx, "print one()", io.Discard); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}
