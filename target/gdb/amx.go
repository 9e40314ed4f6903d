package gdb

import (
	"errors"
	"strings"

	"dbgsh/target/mi"
)

// explained is err with what to do about it, where GDB's words do not say.
//
// The state of a CPU with AMX is larger than what GDB before 14 has room for
// (gdb/amd64-linux-nat.c), and the kernel takes it as a whole or not at all.
func explained(err error) error {
	var said *mi.Error
	if errors.As(err, &said) && strings.HasPrefix(said.Msg, "Couldn't write extended state status") {
		return &mi.Error{
			Msg:  strings.TrimSuffix(said.Msg, ".") + ". GDB before 14 cannot write the registers of a CPU with AMX; GDB 14 or newer can.",
			Code: said.Code,
		}
	}
	return err
}
