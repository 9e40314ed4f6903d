package qemusys

import (
	"testing"

	"dbgsh/internal/testkit/testgdb"
)

func TestMain(m *testing.M) { testgdb.Main(m) }
