package scenario

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

//go:embed testdata/entry.yaml
var entry string

// balancer is the address that a load balancer has given to the service of namespace entry: one for documentation, which nobody else has.
const balancer = "203.0.113.80"

// balanced stands for a load balancer: it says in the service's status which address it has, and brings what comes there to the first node,
// which has none of the service's pods.
func balanced(t *testing.T) {
	t.Helper()
	must(t, "-n", "entry", "patch", "service", "door", "--subresource=status", "--patch", `{"status":{"loadBalancer":{"ingress":[{"ip":"`+balancer+`"}]}}}`)
	via, err := netip.ParseAddr(must(t, "get", "node", nodes[0], "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`))
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{Dst: &net.IPNet{IP: net.ParseIP(balancer), Mask: net.CIDRMask(32, 32)}, Gw: via.AsSlice()}
	if err := mesh.Do(func() error { return netlink.RouteAdd(route) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mesh.Do(func() error { return netlink.RouteDel(route) }); err != nil {
			t.Error(err)
		}
	})
}

func TestALoadBalancerBringsWhoIsLetIn(t *testing.T) {
	t.Parallel()
	ownNodes(t)
	with(t, entry)
	if err := settled(t.Context(), "entry"); err != nil {
		t.Fatal(err)
	}
	balanced(t)
	answered := func(ctx context.Context) error {
		answer, err := outside(ctx, balancer+":80", "/")
		if err == nil && !strings.HasPrefix(answer, "pod=door ") {
			err = errors.New("answer " + answer)
		}
		return err
	}
	eventually(t, "the load balancer", answered)
	tallied(t, nodes[1], requests, []string{`reporter="destination"`, fromNobody, `destination_workload="door"`, inPlain}, func() {
		for range requests {
			if err := answered(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	const byIt = "http://" + balancer + "/"
	counted(t, "meshed", "client", byIt, nodes[1], `reporter="destination"`, fromNobody, `destination_workload="door"`, inPlain)
	// Who comes by it has no identity, whoever that is.
	with(t, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: known, namespace: entry}, spec: {rules: [{from: [{source: {namespaces: [meshed]}}]}]}}`)
	eventually(t, "those from outside to be refused", func(ctx context.Context) error {
		if answered(ctx) == nil {
			return errors.New("they are answered")
		}
		return nil
	})
	refused(t, "meshed", "client", byIt)
	counted(t, "meshed", "client", "http://door.entry/", nodes[1], `reporter="destination"`, from("meshed", "client"), to("entry", "door"), byTunnel)
}

// beyond serves where no pod and no node is, and returns its address.
func beyond(t *testing.T) (addr string) {
	t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "pod=beyond from="+r.RemoteAddr) })}
	err := mesh.Do(func() error {
		listener, err := net.Listen("tcp4", ":0")
		if err != nil {
			return err
		}
		go server.Serve(listener)
		t.Cleanup(func() { server.Close() })
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return err
		}
		for _, each := range addrs {
			if ip := each.(*net.IPNet).IP; ip.To4() != nil && !ip.IsLoopback() {
				addr = fmt.Sprintf("%s:%d", ip, listener.Addr().(*net.TCPAddr).Port)
				return nil
			}
		}
		return fmt.Errorf("no address in %v", addrs)
	})
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestWhatIsNotInTheClusterIsReachedInPlain(t *testing.T) {
	ownNodes(t)
	counted(t, "meshed", "client", "http://"+beyond(t)+"/", nodes[0], `reporter="source"`, `source_workload="client"`, `destination_workload="unknown"`, inPlain)
}
