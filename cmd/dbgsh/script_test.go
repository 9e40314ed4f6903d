package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"dbgsh/internal/testkit"
)

// With DBGSH_TEST_UPDATE=1 what cmp compares with is written anew.
func TestScripts(t *testing.T) {
	testkit.Need(t, "gdb", "gcc", "g++", "gdbserver")
	calls := testkit.CanCall(t, "gdb")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("DBGSH_TEST_UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, ".home")
			env.Vars = append(env.Vars, homeEnv(home)...)
			env.Setenv(programsVar, os.Getenv(programsVar))
			return makeHome(home)
		},
		Condition: func(cond string) (bool, error) {
			if cond != "gdbcalls" {
				return false, fmt.Errorf("no condition %q", cond)
			}
			return calls, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"json":   cmdJSON,
			"status": cmdStatus,
			"live":   cmdLive,
		},
	})
}

// cmdStatus runs a program that is to end with an exit status:
//
//	status N program [arg ...]
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program [arg ...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// cmdLive starts a program that lives until the script ends, waits for its
// first line of output, and puts its process id into the variable NAME:
//
//	live NAME program [arg ...]
func cmdLive(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: live NAME program [arg ...]")
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Dir = ts.Getenv("WORK")
	stdin, err := cmd.StdinPipe()
	ts.Check(err)
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	_, err = stdout.Read(make([]byte, 1))
	ts.Check(err)
	ts.Setenv(args[0], strconv.Itoa(cmd.Process.Pid))
}

// cmdJSON checks JSON documents, which FILE (or stdout) holds one after the
// other:
//
//	[!] json FILE PATH [REGEXP]
//
// PATH is keys and indices with dots between them, of which the first is the
// document's index. The key len counts what an array or object holds. Without REGEXP
// the value must be there; with it, the whole of its text must match.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: [!] json FILE PATH [REGEXP]")
	}
	docs, err := documents(ts.ReadFile(args[0]))
	ts.Check(err)
	value, ok := lookUp(docs, strings.Split(args[1], "."))
	if ok && len(args) == 3 {
		re, err := regexp.Compile("(?s)^(?:" + args[2] + ")$")
		ts.Check(err)
		ok = re.MatchString(textOf(value))
	}
	if ok == neg {
		ts.Fatalf("%s is %s", args[1], textOf(value))
	}
}

// documents reads JSON documents; numbers keep all of their digits.
func documents(text string) ([]any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	docs := []any{}
	for {
		var doc any
		switch err := d.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return nil, err
		}
		docs = append(docs, doc)
	}
}

func lookUp(v any, path []string) (any, bool) {
	for _, key := range path {
		switch at := v.(type) {
		case []any:
			if key == "len" {
				v = len(at)
				continue
			}
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(at) {
				return nil, false
			}
			v = at[i]
		case map[string]any:
			if key == "len" {
				v = len(at)
				continue
			}
			one, ok := at[key]
			if !ok {
				return nil, false
			}
			v = one
		default:
			return nil, false
		}
	}
	return v, true
}

// textOf is a string as it is, and every other value as JSON.
func textOf(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err.Error()
	}
	return strings.TrimRight(b.String(), "\n")
}
