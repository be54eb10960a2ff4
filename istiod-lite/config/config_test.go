package config

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestDefaultsGoByTheFolder(t *testing.T) {
	got, err := Parse([]string{"--source", "files", "/mesh/objects/"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Source: "/mesh/objects", State: "/mesh/ca", Status: "/mesh/status", TokenKey: "/mesh/token-key.pub", CACerts: "/etc/cacerts",
		XDSAddr: ":15012", DebugAddr: ":15014", TrustDomain: "cluster.local", ClusterID: "Kubernetes", RootNamespace: "istio-system",
		ServerNames:         []string{"istiod.istio-system.svc", "istiod-remote.istio-system.svc", "istio-pilot.istio-system.svc", "localhost"},
		TrustedNodeAccounts: []string{"istio-system/ztunnel"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("want %+v\nhave %+v", want, got)
	}
}

func TestEverythingCanBeSet(t *testing.T) {
	got, err := Parse([]string{
		"objects", "--source=files", "--state", "s", "--status", "u", "--token-key", "k", "--cacerts", "c", "--xds-addr", "1", "--debug-addr", "2",
		"--trust-domain", "td", "--cluster-id", "c1", "--root-namespace", "root", "--server-name", "a,b", "--server-name", "c",
		"--trusted-node-accounts", "x/y,z/w",
	}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Source: "objects", State: "s", Status: "u", TokenKey: "k", CACerts: "c", XDSAddr: "1", DebugAddr: "2", TrustDomain: "td", ClusterID: "c1",
		RootNamespace: "root", ServerNames: []string{"istiod.root.svc", "istiod-remote.root.svc", "istio-pilot.root.svc", "localhost", "a", "b", "c"},
		TrustedNodeAccounts: []string{"x/y", "z/w"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("want %+v\nhave %+v", want, got)
	}
}

func TestMistakesAreExplained(t *testing.T) {
	for want, args := range map[string]string{
		"want one folder: istiod-lite --source files DIR": "--source files",
		"want one folder": "a b",
		`source "kubernetes" is not known: use files`:         "--source kubernetes a",
		"unknown flag: --sauce":                               "--sauce a",
		`trusted node account "ztunnel": want namespace/name`: "--trusted-node-accounts ztunnel a",
		`trusted node account "x/": want namespace/name`:      "--trusted-node-accounts x/ a",
		"--trust-domain must not be empty":                    "--trust-domain= a",
		`--trust-domain "Bad_Domain/"`:                        "--trust-domain Bad_Domain/ a",
	} {
		if _, err := Parse(strings.Fields(args), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nwant %s\nhave %v", args, want, err)
		}
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var help bytes.Buffer
	if _, err := Parse([]string{"--help"}, &help); !errors.Is(err, pflag.ErrHelp) {
		t.Error(err)
	}
	for _, want := range []string{"istiod-lite --source files DIR", "--status", "--token-key", "--trusted-node-accounts", "default :15012", "default ca beside DIR"} {
		if !strings.Contains(strings.ReplaceAll(help.String(), `"`, ""), want) {
			t.Errorf("no %q in\n%s", want, help.String())
		}
	}
}
