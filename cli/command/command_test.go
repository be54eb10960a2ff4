package command

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"tulle": func() { os.Exit(Main("v1.2.3-test", os.Args, os.Stdout, os.Stderr)) },
	})
}

// Each script is what somebody types at a terminal, and what they see.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "../testdata/script"})
}
