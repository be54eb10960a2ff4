package translate_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/istiod-lite/golden"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// tableOf is what a ztunnel knows after it was told all that becomes of the objects.
func tableOf(t *testing.T, text []byte) *state.Table {
	t.Helper()
	changes := golden.MustRead(t, text)
	m := model.New(cluster)
	var update state.Update
	for _, key := range m.Apply(changes) {
		for _, resource := range (translate.Mesh{ClusterID: "Kubernetes", DryRun: true}).Object(m, key).Resources {
			body, err := proto.Marshal(resource.Message)
			if err != nil {
				t.Fatal(err)
			}
			typeURL := state.AddressType
			if _, ok := resource.Message.(*security.Authorization); ok {
				typeURL = state.AuthorizationType
			}
			if err := update.Add(typeURL, resource.Name, body); err != nil {
				t.Errorf("ztunnel doesn't take %s: %v", resource.Name, err)
			}
		}
	}
	store := state.NewStore()
	if err := store.Apply(update); err != nil {
		t.Error(err)
	}
	return store.Load()
}

func TestZtunnelTakesAllThatIsMade(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no cases", err)
	}
	for _, input := range inputs {
		text, err := os.ReadFile(input)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(filepath.Base(input), func(t *testing.T) { tableOf(t, text) })
	}
}

// TestNothingGoesRoundAWaypointThatCannotBeUsed asks as a ztunnel does: of what names a waypoint, none is reached.
func TestNothingGoesRoundAWaypointThatCannotBeUsed(t *testing.T) {
	text, err := os.ReadFile("testdata/waypoints-unusable.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	table := tableOf(t, text)
	client := balance.Client{Table: table, From: table.Workload("Kubernetes//Pod/demo/reached")}
	refuses := func(what string, gw *state.Gateway) {
		t.Helper()
		if gw == nil {
			t.Errorf("%s goes without a waypoint", what)
		} else if _, err := client.Gateway(gw); !errors.Is(err, balance.ErrNoEndpoint) {
			t.Errorf("%s goes through %s: %v", what, gw, err)
		}
	}
	for host, namespace := range map[string]string{
		"missing.demo.svc.cluster.local": "demo", "waits.demo.svc.cluster.local": "demo", "denied.demo.svc.cluster.local": "demo",
		"not-admitted.demo.svc.cluster.local": "demo", "api.example.com": "demo", "inherits.typo.svc.cluster.local": "typo",
	} {
		refuses(host, balance.Waypoint(table.Service(namespace, host)))
	}
	for _, uid := range []string{
		"Kubernetes//Pod/demo/missing", "Kubernetes//Pod/demo/not-admitted", "Kubernetes//Pod/typo/inherits", "Kubernetes//Pod/lost/refused",
		"Kubernetes/networking.istio.io/WorkloadEntry/demo/denied",
	} {
		refuses(uid, table.Workload(uid).Waypoint)
	}
}

// TestEntriesMeanToZtunnelWhatTheySay asks for the addresses of ServiceEntries.
func TestEntriesMeanToZtunnelWhatTheySay(t *testing.T) {
	text, err := os.ReadFile("testdata/entries.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	table := tableOf(t, text)
	client := balance.Client{Table: table, From: table.Workload("Kubernetes//Pod/other/legacy-1")}
	for address, c := range map[string]struct {
		host string
		port uint16
		err  error
		uids []string
	}{
		"192.0.2.1":    {"db.example.com", 5432, nil, []string{"static/10.9.0.1", "static/db-3.example.com", "static/fd00:9::1"}},
		"198.51.100.9": {"db.example.com", 443, nil, []string{"static/10.9.0.1", "static/db-3.example.com", "static/fd00:9::1"}},
		"240.240.0.1":  {"api.example.com", 443, nil, []string{"dns/api.example.com"}},
		"10.20.3.4":    {"*.mongodb.net", 27017, balance.ErrPassthrough, nil},
	} {
		_, svc := table.Find("", netip.MustParseAddr(address), "other")
		if svc == nil {
			t.Errorf("%s means nothing", address)
			continue
		}
		if svc.Hostname != c.host && svc.Name != "static" {
			t.Errorf("%s means %s", address, svc.Hostname)
		}
		choice, err := client.Pick(svc, c.port)
		if c.err != nil && !errors.Is(err, c.err) || c.err == nil && err != nil && !errors.Is(err, balance.ErrNeedsDNS) {
			t.Errorf("%s: %v", address, err)
		}
		if len(c.uids) > 0 && (choice.Workload == nil || !contains(c.uids, choice.Workload.UID)) {
			t.Errorf("%s leads to %+v", address, choice.Workload)
		}
	}
}

func contains(ends []string, uid string) bool {
	for _, end := range ends {
		if uid == "Kubernetes/networking.istio.io/ServiceEntry/demo/"+end {
			return true
		}
	}
	return false
}
