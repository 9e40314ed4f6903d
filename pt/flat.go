package pt

import "fmt"

// Flat is a CPU that translates nothing at all, such as one with a memory
// protection unit. It is its own reason.
type Flat struct{ Why string }

func (c Flat) regime() (*regime, error) { return nil, fmt.Errorf("%s: %w", c.Why, ErrPagingOff) }
