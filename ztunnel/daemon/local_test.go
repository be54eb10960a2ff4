package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/drain"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

const (
	everything = `
workloads: [{uid: a, name: a, namespace: demo}, {uid: b, name: b, namespace: demo}]
services: [{name: s, namespace: demo, hostname: s.demo, vips: [], ports: {80: 80}}]
policies: [{name: p, namespace: demo, scope: Namespace, action: Deny, rules: []}]
`
	less = `
workloads: [{uid: b, name: b, namespace: demo, canonicalName: changed}]
`
)

func TestFileReplacesTheWholeState(t *testing.T) {
	store := state.NewStore()
	for _, text := range []string{everything, less} {
		path := filepath.Join(t.TempDir(), "mesh.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (&local{path: path, store: store, log: slog.New(slog.DiscardHandler)}).load(); err != nil {
			t.Fatal(err)
		}
	}
	table := store.Load()
	if len(table.Workloads()) != 1 || table.Workload("b").CanonicalName != "changed" || len(table.Services()) != 0 || len(table.Policies()) != 0 {
		t.Errorf("after the second file: %d workloads, %d services, %d policies", len(table.Workloads()), len(table.Services()), len(table.Policies()))
	}
}

func TestStateFromAVariable(t *testing.T) {
	for text, want := range map[string]string{
		everything:                   "",
		"workloads: [":               "LOCAL_XDS",
		"workloads: [{nonsense: 1}]": "nonsense",
	} {
		cfg := config.Config{LocalXDS: settings.Local{Inline: text}, SecretTTL: time.Hour}
		z := newZtunnel(drain.New(time.Second), cfg, testca.New(t, "cluster.local"), nil, slog.New(slog.DiscardHandler))
		ready, err := z.followState(t.Context(), &sync.WaitGroup{})
		switch {
		case want == "" && err != nil:
			t.Error(err)
		case want == "":
			<-ready
			if len(z.store.Load().Workloads()) != 2 {
				t.Error("the state isn't there although it is said to be ready")
			}
		case err == nil || !strings.Contains(err.Error(), want):
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func TestPreferredServiceNamespace(t *testing.T) {
	cfg, err := config.FromEnv([]string{"NODE_NAME=n", "PREFERED_SERVICE_NAMESPACE=c", `LOCAL_XDS=
services:
- {name: s, namespace: a, hostname: s.a, vips: [], cidrVips: [/10.0.0.0/8], ports: {80: 80}}
- {name: s, namespace: b, hostname: s.b, vips: [], cidrVips: [/10.0.0.0/8], ports: {80: 80}, canonical: true}
- {name: s, namespace: c, hostname: s.c, vips: [], cidrVips: [/10.0.0.0/8], ports: {80: 80}}
`})
	if err != nil {
		t.Fatal(err)
	}
	z := newZtunnel(drain.New(time.Second), cfg, testca.New(t, "cluster.local"), nil, slog.New(slog.DiscardHandler))
	ready, err := z.followState(t.Context(), &sync.WaitGroup{})
	if err != nil {
		t.Fatal(err)
	}
	<-ready
	if svc := z.store.Load().VIP("", netip.MustParseAddr("10.1.2.3"), "client"); svc == nil || svc.Namespace != "c" {
		t.Errorf("the range means %v, want the service of the preferred namespace", svc)
	}
}
