package outbound

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/state"
)

func TestDecide(t *testing.T) {
	world := tableOf(t, world)
	const (
		server   = "cluster.local/ns/demo/sa/server"
		waypoint = "cluster.local/ns/demo/sa/waypoint,cluster.local/ns/demo/sa/waypoint-too"
		lone     = "cluster.local/ns/demo/sa/lone"
		gateway  = "cluster.local/ns/demo/sa/gateway"
	)
	for _, test := range []struct {
		name, to, want string
		err            error
	}{
		{"unknown address passes through", "192.0.2.1:443", "passthrough 192.0.2.1:443", nil},
		{"unknown IPv6 address passes through", "[2001:db8::1]:443", "passthrough [2001:db8::1]:443", nil},
		{"ztunnel's own ports elsewhere pass through", "192.0.2.1:15008", "passthrough 192.0.2.1:15008", nil},
		{"outbound port on loopback", "127.0.0.1:15001", "", errSelfCall},
		{"inbound port on loopback", "127.0.0.1:15006", "", errSelfCall},
		{"tunnel port on loopback", "[::1]:15008", "", errSelfCall},
		{"SOCKS5 port on loopback", "127.0.0.1:15080", "", errSelfCall},
		{"outbound port at its own address", "10.0.0.1:15001", "", errSelfCall},
		{"other ports on loopback", "127.0.0.1:8080", "passthrough 127.0.0.1:8080", nil},

		{"pod with a tunnel", "10.0.0.2:9000", "direct 10.0.0.2:15008 for 10.0.0.2:9000 as " + server, nil},
		{"pod with a tunnel by IPv6", "[fd00::2]:9000", "direct [fd00::2]:15008 for [fd00::2]:9000 as " + server, nil},
		{"oneself by address", "10.0.0.1:9000", "direct 10.0.0.1:15008 for 10.0.0.1:9000 as cluster.local/ns/demo/sa/client", nil},
		{"pod without a tunnel", "10.0.0.3:9000", "plain 10.0.0.3:9000", nil},
		{"pod with a tunnel on the same node", "10.0.0.11:80", "direct 10.0.0.11:15008 for 10.0.0.11:80 as cluster.local/ns/demo/sa/neighbour", nil},
		{"pod without a tunnel on the same node", "10.0.0.12:80", "plain 10.0.0.12:80", nil},
		{"pod on the host's network has no address of its own", "10.0.0.7:80", "passthrough 10.0.0.7:80", nil},
		{"two workloads at one address, the pod is meant", "10.0.0.10:80", "direct 10.0.0.10:15008 for 10.0.0.10:80 as cluster.local/ns/demo/sa/twin", nil},
		{"pod address of another network is unknown here", "10.0.0.5:9000", "passthrough 10.0.0.5:9000", nil},
		{"pod that can't prove who it is", "10.0.0.6:80", "", errNoIdentity},

		{"service", "10.1.0.1:80", "direct 10.0.0.2:15008 for 10.0.0.2:8080 as " + server, nil},
		{"service by IPv6", "[fd01::1]:80", "direct [fd00::2]:15008 for [fd00::2]:8080 as " + server, nil},
		{"service's other names are accepted too", "10.1.0.2:80", "direct 10.0.0.2:15008 for 10.0.0.2:8080 as " + server + ",cluster.local/ns/other/sa/also", nil},
		{"service's names are enough for a pod without one", "10.1.0.22:80", "direct 10.0.0.6:15008 for 10.0.0.6:8080 as cluster.local/ns/demo/sa/known", nil},
		{"service without tunnels", "10.1.0.3:80", "plain 10.0.0.3:8080", nil},
		{"service's port that isn't there", "10.1.0.1:81", "", balance.ErrNoEndpoint},
		{"service without endpoints", "10.1.0.7:80", "", balance.ErrNoEndpoint},
		{"service with a named port", "10.1.0.19:80", "direct 10.0.0.2:15008 for 10.0.0.2:7070 as " + server, nil},
		{"service with a named port that no endpoint has", "10.1.0.19:81", "", balance.ErrNoEndpoint},
		{"service that passes through", "10.1.0.8:80", "passthrough 10.1.0.8:80", nil},
		{"service which the client may not see", "10.1.0.9:80", "passthrough 10.1.0.9:80", nil},
		{"service of IPv4 only, dialled by IPv6", "[fd01::11]:80", "direct 10.0.0.2:15008 for 10.0.0.2:8080 as " + server, nil},
		{"service of IPv6 only, dialled by IPv4", "10.1.0.12:80", "direct [fd00::2]:15008 for [fd00::2]:8080 as " + server, nil},
		{"service with a range", "10.9.9.9:80", "direct 10.0.0.2:15008 for 10.0.0.2:8080 as " + server, nil},
		{"range yields to a virtual address in it", "10.1.0.3:80", "plain 10.0.0.3:8080", nil},
		{"range yields to a pod in it", "10.0.0.3:80", "plain 10.0.0.3:80", nil},
		{"range of the client's namespace before a longer one", "10.2.3.4:80", "direct 10.0.0.2:15008 for 10.0.0.2:8080 as " + server, nil},
		{"range of another namespace if it is the only one that fits", "10.3.0.1:80", "direct 10.0.0.2:15008 for 10.0.0.2:9090 as " + server, nil},
		{"endpoint with a hostname", "10.1.0.4:443", "plain invalid AddrPort of api.example.com", nil},
		{"endpoint with a hostname and a tunnel", "10.1.0.17:443", "direct invalid AddrPort of vm.example.com for  as cluster.local/ns/demo/sa/named", nil},
		{"virtual address that is a pod's own, port of the service", "10.0.0.8:80", "direct 10.0.0.8:15008 for 10.0.0.8:8080 as cluster.local/ns/demo/sa/both", nil},
		{"virtual address that is a pod's own, another port", "10.0.0.8:9000", "direct 10.0.0.8:15008 for 10.0.0.8:9000 as cluster.local/ns/demo/sa/both", nil},

		{"waypoint of a service", "10.1.0.5:80", "waypoint 10.0.0.20:15018 for 10.1.0.5:80 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.1.0.5:80 as " + waypoint, nil},
		{"waypoint of a service, for a port that the service lacks", "10.1.0.5:81", "waypoint 10.0.0.20:15018 for 10.1.0.5:81 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.1.0.5:81 as " + waypoint, nil},
		{"waypoint of a service by IPv6, an instance may have IPv4 only", "[fd01::5]:80", "waypoint 10.0.0.20:15018 for [fd01::5]:80 as " + waypoint + " | waypoint [fd00::21]:15018 for [fd01::5]:80 as " + waypoint, nil},
		{"waypoint of a service that passes through", "10.1.0.10:80", "waypoint 10.0.0.20:15018 for 10.1.0.10:80 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.1.0.10:80 as " + waypoint, nil},
		{"waypoint that isn't there is not gone round", "10.1.0.14:80", "", errWaypoint},
		{"waypoint that can't prove who it is is not gone round", "10.1.0.16:80", "", errNoIdentity},
		{"waypoint behind a proxy needs no port of its own", "10.1.0.15:80", "waypoint 10.0.0.23:15008 for 10.1.0.15:80 as cluster.local/ns/demo/sa/sandwich", nil},
		{"waypoint of a virtual address that is a pod's own", "10.0.0.9:80", "waypoint 10.0.0.20:15018 for 10.0.0.9:80 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.0.0.9:80 as " + waypoint, nil},
		{"waypoint of a pod, by the service's hostname", "10.0.0.4:80", "waypoint 10.0.0.20:15018 for 10.0.0.4:80 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.0.0.4:80 as " + waypoint, nil},
		{"waypoint of a pod, by the service's address", "10.0.0.14:80", "waypoint 10.0.0.20:15018 for 10.0.0.14:80 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.0.0.14:80 as " + waypoint, nil},
		{"waypoint of a pod, by its own address", "10.0.0.15:80", "waypoint 10.0.0.22:15008 for 10.0.0.15:80 as " + lone, nil},
		{"waypoint of a pod, by its own hostname", "10.0.0.16:80", "waypoint 10.0.0.22:15008 for 10.0.0.16:80 as " + lone, nil},
		{"waypoint of a pod, to be resolved", "10.0.0.18:80", "waypoint invalid AddrPort of external.example for 10.0.0.18:80 as cluster.local/ns/demo/sa/external", nil},
		{"waypoint of a pod that isn't there", "10.0.0.17:80", "", errWaypoint},
		{"waypoint of a pod is not for its service", "10.1.0.13:80", "direct 10.0.0.4:15008 for 10.0.0.4:8080 as cluster.local/ns/demo/sa/default", nil},

		{"service in another network", "10.1.0.6:80", "double 1.2.3.4:15009 for far.demo:80 as " + gateway + " within for far.demo:80 as west/ns/demo/sa/far", nil},
		{"service here and in another network that prefers the client's own", "10.1.0.27:80", "direct 10.0.0.11:15008 for 10.0.0.11:8080 as cluster.local/ns/demo/sa/neighbour,west/ns/demo/sa/far", nil},
		{"service that fails over to another network", "10.1.0.28:80", "double 1.2.3.4:15009 for over.demo:80 as " + gateway + " within for over.demo:80 as west/ns/demo/sa/far", nil},
		{"service in another network that names nobody to expect", "10.1.0.23:80", "", errNoIdentity},
		{"service in another network whose gateway is unknown", "10.1.0.24:80", "", errRemoteNetwork},
		{"service in another network without a gateway", "10.1.0.25:80", "", balance.ErrNoEndpoint},
		{"service in two other networks, one of whose gateways is unknown", "10.1.0.26:80", "double 1.2.3.4:15009 for two-ways.demo:80 as " + gateway + " within for two-ways.demo:80 as west/ns/demo/sa/far", nil},
		{"waypoint in another network, gateway by hostname", "10.1.0.18:80", "double 1.2.3.4:15010 for viafar.demo:80 as " + gateway + ",west/ns/demo/sa/gateway-too within for viafar.demo:80 as west/ns/demo/sa/far-waypoint", nil},
		{"waypoint in another network is for services only", "10.0.0.19:80", "", errWaypoint},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := outcomes(t, callTo(world, "client", test.to), test.err); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// A pod has addresses that the table doesn't know: before the control plane has named the pod, or because it gave itself more.
func TestCallOfOnesOwnPortAtAnUnknownAddress(t *testing.T) {
	call := callTo(tableOf(t, world), "client", "[2001:db8::7]:15001")
	call.Client.AddrPort = netip.MustParseAddrPort("[2001:db8::7]:40000")
	outcomes(t, call, errSelfCall)
	call.Client.AddrPort = netip.MustParseAddrPort("[2001:db8::8]:40000")
	if got := outcomes(t, call, nil); got != "passthrough [2001:db8::7]:15001" {
		t.Errorf("the port of another pod: %s", got)
	}
}

func TestRefusalSaysWhatToDo(t *testing.T) {
	world := tableOf(t, world)
	for to, want := range map[string]string{
		"10.1.0.14:80": "service demo/vialost.demo: waypoint demo/nothing.demo: it can't be reached, and traffic never goes round a waypoint: " +
			"see that it is deployed and ready, or take the label istio.io/use-waypoint away: no healthy upstream: gateway demo/nothing.demo is unknown",
		"10.1.0.24:80": "service demo/lost.demo: it is in another network, and the way there can't be taken: network \"north\": no healthy upstream: gateway north/1.2.3.5 is unknown",
		"10.1.0.7:80":  "service demo/empty.demo: no healthy upstream: none of the 0 endpoints of service demo/empty.demo can take port 80",
	} {
		if _, err := callTo(world, "client", to).Decide(); err == nil || err.Error() != want {
			t.Errorf("to %s:\ngot  %v\nwant %s", to, err, want)
		}
	}
}

func TestIdentityOfAPeerIsNeverMissing(t *testing.T) {
	w := &state.Workload{UID: "w", Protocol: state.HBONE}
	if _, err := direct(w, nil, netip.MustParseAddrPort("10.0.0.1:80")); !errors.Is(err, errNoIdentity) {
		t.Errorf("a tunnel to nobody in particular: %v", err)
	}
	id, err := identity.New("cluster.local", "demo", "also")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := direct(w, &state.Service{SANs: []identity.Workload{id}}, netip.MustParseAddrPort("10.0.0.1:80")); err != nil || len(r.Expected) != 1 {
		t.Errorf("the service's names are %v, %v", r.Expected, err)
	}
	w.Identity = id
	if r, err := direct(w, &state.Service{SANs: []identity.Workload{id}}, netip.MustParseAddrPort("10.0.0.1:80")); err != nil || len(r.Expected) != 1 {
		t.Errorf("the workload's own name among the service's is expected twice: %v, %v", r.Expected, err)
	}
}
