package config

import (
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
	"time"
)

func TestFlags(t *testing.T) {
	c, err := Parse(strings.Fields("--source files /etc/mesh/objects --node node1 --withdraw-grace 5s --drain-timeout=1m --zds-socket /run/z.sock"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Dir, want.Node, want.Status = "/etc/mesh/objects", "node1", "/etc/mesh/status"
	want.WithdrawGrace, want.DrainTimeout, want.ZDSSocket = 5*time.Second, time.Minute, "/run/z.sock"
	if c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
	if c, err = Parse(strings.Fields("--source kubernetes --node n1 --exclude-namespaces kube-system,legacy"), io.Discard); err != nil || c.MetricsAddr != ":15014" || len(c.ExcludedNamespaces()) != 2 {
		t.Errorf("in a cluster: %+v, %v", c, err)
	}
	if c, err = Parse(strings.Fields("--node n1 objects/"), io.Discard); err != nil || c.Status != "status" {
		t.Errorf("status folder %q beside a relative folder, %v", c.Status, err)
	}
	if c, err = Parse(strings.Fields("objects --node n1 --status /run/status"), io.Discard); err != nil || c.Status != "/run/status" || c.Node != "n1" {
		t.Errorf("flags behind the folder: %+v, %v", c, err)
	}
}

func TestTheVersionIsSaidWithoutAnythingElse(t *testing.T) {
	if c, err := Parse([]string{"--version"}, io.Discard); err != nil || !c.Version {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestWhatCantWorkIsRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--node n1":                           "which folder?",
		"dir":                                 "want --node NAME",
		"dir --node a/b":                      "want --node NAME",
		"dir --node ..":                       "want --node NAME",
		"dir other --node n1":                 "two folders",
		"dir --node n1 --source consul":       "unknown source",
		"dir --node n1 --source kubernetes":   "for --source files only",
		"dir --node n1 --kubeconfig k":        "for --source kubernetes only",
		"--source kubernetes":                 "want --node NAME",
		"dir --node n1 --drain-timeout -1s":   "negative",
		"dir --node n1 --drain-timeout later": "invalid value",
		"dir --node n1 --log-format xml":      "unknown log format",
		"dir --node n1 --unheard-of":          "not defined",
	} {
		if _, err := Parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want %q", args, err, want)
		}
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var out strings.Builder
	if _, err := Parse([]string{"--help"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("error is %v", err)
	}
	for _, name := range []string{"usage: tulle-cni-agent", "-source", "-node", "-status", "-zds-socket", "-plugin-socket", "-withdraw-grace", "-drain-timeout", "-dns-capture", "-health-addr"} {
		if !strings.Contains(out.String(), name) {
			t.Errorf("help lacks %s:\n%s", name, out.String())
		}
	}
}
