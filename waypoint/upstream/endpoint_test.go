package upstream

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

func world(t *testing.T, protocol workload.AppProtocol, pods int) (*state.Table, *state.Service, *state.Workload) {
	t.Helper()
	port := []*workload.Port{{ServicePort: 80, TargetPort: 8080, AppProtocol: protocol}}
	addresses := []*workload.Address{
		{Type: &workload.Address_Service{Service: &workload.Service{Name: "web", Namespace: "shop", Hostname: "web", Ports: port}}},
		{Type: &workload.Address_Workload{Workload: &workload.Workload{Uid: "self", Name: "wp", Namespace: "shop", Addresses: [][]byte{{10, 0, 0, 100}}}}},
	}
	for i := range pods {
		addresses = append(addresses, &workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{
			Uid: string(rune('a' + i)), Name: string(rune('a' + i)), Namespace: "shop", ServiceAccount: "web", TrustDomain: "td", TunnelProtocol: workload.TunnelProtocol_HBONE,
			Addresses: [][]byte{{10, 0, 0, byte(i + 1)}}, Services: map[string]*workload.PortList{"shop/web": {Ports: port}},
		}}})
	}
	store := state.NewStore()
	if err := store.Apply(state.Update{Addresses: addresses}); err != nil {
		t.Fatal(err)
	}
	table := store.Load()
	return table, table.Service("shop", "web"), table.Workload("self")
}

func TestEachTryIsAtAnotherEndpoint(t *testing.T) {
	table, svc, self := world(t, workload.AppProtocol_HTTP11, 5)
	choice := Choice{Service: svc, Port: 80}
	seen := map[string]bool{}
	for range MaxTries {
		e, err := choice.Next(table, self, Known{Open: new(balance.Open)})
		if err != nil || seen[e.Workload.UID] {
			t.Fatalf("%v, %v after %v", e.Workload, err, seen)
		}
		seen[e.Workload.UID] = true
		if !e.Tunnelled() || e.Dialled() != netip.AddrPortFrom(e.Addr.Addr(), 15008) || e.Addr.Port() != 8080 {
			t.Errorf("%s is reached at %s for %s", e.Workload.UID, e.Dialled(), e.Addr)
		}
	}
	if _, err := choice.Next(table, self, Known{}); !errors.Is(err, balance.ErrNoEndpoint) {
		t.Errorf("one more: %v", err)
	}
	if choice.Untried(); !choice.More(table, self) {
		t.Error("nothing is left though the last one counts as untried")
	}
}

// A single endpoint is tried again by a route's retries, which have waited a while.
func TestTheOnlyEndpointIsTriedAgain(t *testing.T) {
	table, svc, self := world(t, workload.AppProtocol_HTTP11, 1)
	choice := Choice{Service: svc, Port: 80}
	for range 10 {
		if _, err := choice.Next(table, self, Known{}); err != nil {
			t.Fatal(err)
		}
		choice.Again(table, self)
	}
}

func TestServersAreSpokenToAsTheirPortSays(t *testing.T) {
	for _, test := range []struct {
		port   workload.AppProtocol
		client exchange.Version
		grpc   bool
		want   exchange.Version
	}{
		{workload.AppProtocol_UNKNOWN, exchange.HTTP11, false, exchange.HTTP11},
		{workload.AppProtocol_UNKNOWN, exchange.HTTP2, false, exchange.HTTP2},
		{workload.AppProtocol_HTTP11, exchange.HTTP2, false, exchange.HTTP11},
		{workload.AppProtocol_HTTP11, exchange.HTTP2, true, exchange.HTTP2},
		{workload.AppProtocol_HTTP2, exchange.HTTP10, false, exchange.HTTP2},
		{workload.AppProtocol_GRPC, exchange.HTTP11, false, exchange.HTTP2},
	} {
		_, svc, _ := world(t, test.port, 0)
		if got := Version(svc, 80, test.client, test.grpc); got != test.want {
			t.Errorf("port %s, client of version %d, gRPC %t: %d, want %d", test.port, test.client, test.grpc, got, test.want)
		}
	}
}
