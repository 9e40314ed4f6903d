package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// shown is what each script of scripts/ has to show, at the least.
func shown() map[string][]string {
	return map[string][]string{
		"tour.dbgsh": {
			`(?m)^ +0x\w+ +0x\w+ r-xp .*/tour$`,                       // the map
			`(?m)^► .*\[stack\] \+0x\w+$`,                             // a filter
			`(?m)^► +0x20000000 +0x20008000 rw-. +8000 +0 sram$`,      // an added page
			`(?m)^\[heap\] .*  flag\{maps are tr\n1 hit; searched `,   // a search
			`(?m)^tour +0x\w+ [^\n]*\n(.*\n)*\d+ hits?; searched .*$`, // the two chained
			`(?m)^ +\d+ r-xp$`,                                        // the shell's tools
		},
	}
}

// TestShippedScripts runs each script on the program that it names.
func TestShippedScripts(t *testing.T) {
	scripts, err := filepath.Glob("../../scripts/*")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts", err)
	}
	programLine := regexp.MustCompile(`(?m)^# program: (testdata/\S+)$`)
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) {
			wants := shown()[filepath.Base(script)]
			if wants == nil {
				t.Fatal("say in shown what it has to show")
			}
			text, err := os.ReadFile(script)
			if err != nil {
				t.Fatal(err)
			}
			source := programLine.FindSubmatch(text)
			if source == nil {
				t.Fatal(`no line "# program: testdata/FILE"`)
			}
			var stderr strings.Builder
			cmd := dbgsh(t, "-n", "-x", script, program(t, filepath.Join("../..", string(source[1]))))
			cmd.Stderr = &stderr
			stdout, err := cmd.Output()
			if err != nil || stderr.Len() > 0 {
				t.Fatalf("%v\n%s\n%s", err, stderr.String(), stdout)
			}
			for _, want := range wants {
				if !regexp.MustCompile(want).Match(stdout) {
					t.Errorf("nothing like %q in the output:\n%s", want, stdout)
				}
			}
		})
	}
}
