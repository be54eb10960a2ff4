package daemon_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/push"
	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/demand"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/policy"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/xds"
)

// client is the part of a ztunnel that talks to the control plane, as it is.
type client struct {
	store *state.Store
	certs *certs.Manager
	ready <-chan struct{}
	need  *demand.Cache // of a client that asks by name
}

// join connects a client of node1, until the test ends. It asks for resources of some types by name.
func (w *world) join(byName ...string) *client {
	w.t.Helper()
	w.write("token", w.token(nil)+"\n")
	connection, err := controlplane.Dial(controlplane.Config{
		Address: "https://" + w.daemon.XDSAddr().String(), RootCA: filepath.Join(w.dir, "ca", "root-cert.pem"),
		ServerName: "istiod.istio-system.svc", Token: filepath.Join(w.dir, "token"), ClusterID: "Kubernetes",
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	c := &client{store: state.NewStore()}
	c.certs = certs.NewManager(certs.NewIstioCA(connection, true), slog.New(slog.DiscardHandler), time.Hour)
	stream := xds.NewClient(connection, xds.Config{
		Node: node("node1"), Types: []string{push.Authorization, push.Address}, ByName: byName, Log: slog.New(slog.DiscardHandler),
		Handle: func(p xds.Push) map[string]error {
			defer c.need.Settle()
			defer c.need.Absent(p.Removed)
			return w.take(c.store, p)
		},
	})
	if len(byName) > 0 {
		c.need = demand.New(demand.Config{
			Ask:    func(names ...string) { stream.Ask(push.Address, names...) },
			Forget: func(names ...string) { stream.Forget(push.Address, names...) },
			Table:  c.store.Load,
		})
	}
	c.ready = stream.Ready()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = stream.Run(ctx) })
	group.Go(func() { _ = c.certs.Run(ctx) })
	w.t.Cleanup(func() {
		cancel()
		group.Wait()
		connection.Close()
	})
	return c
}

// take applies a push. Whatever the store can't read is a failure: both sides are ours.
func (w *world) take(store *state.Store, p xds.Push) map[string]error {
	var update state.Update
	var failures []error
	for resource := range p.Resources {
		failures = append(failures, update.Add(p.TypeURL, resource.Name, resource.Body))
	}
	failures = append(failures, update.Remove(p.TypeURL, p.Removed...), store.Apply(update))
	if err := errors.Join(failures...); err != nil {
		w.t.Error(err)
	}
	return nil
}

func (c *client) until(t *testing.T, done func(*state.Table) bool) *state.Table {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	table, err := c.store.Wait(ctx, done)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestAZtunnelsClientUnderstandsIt(t *testing.T) {
	w := newWorld(t)
	w.write("objects/service.yaml", "{apiVersion: v1, kind: Service, metadata: {name: backend, namespace: demo}, spec: {clusterIP: 10.96.0.1, selector: {app: backend}, ports: [{port: 80, targetPort: 8080}]}}\n")
	w.write("status/node2.yaml", "{node: node2, pods: {demo/backend: {uid: demo/backend, state: enabled}}}\n")
	w.start()
	w.ready()
	c := w.join()
	select {
	case <-c.ready:
	case <-time.After(patience):
		t.Fatal("not ready")
	}
	table := c.store.Load()
	_, service := table.Find("", netip.MustParseAddr("10.96.0.1"), "demo")
	if service == nil || service.Hostname != "backend.demo.svc.cluster.local" {
		t.Fatalf("no service at its address: %+v", service)
	}
	if endpoints := table.Endpoints(service); len(endpoints) != 1 || endpoints[0].Workload.UID != backend || endpoints[0].Workload.Protocol != state.HBONE {
		t.Errorf("endpoints %+v", endpoints)
	}
	if pod := table.ByPod("demo", "frontend", "frontend"); pod == nil || pod.Identity.String() != frontendID || !pod.Healthy {
		t.Errorf("pod %+v", pod)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	id, err := identity.Parse(frontendID)
	if err != nil {
		t.Fatal(err)
	}
	credential, err := c.certs.Get(ctx, id)
	if err != nil || credential.Identity != id {
		t.Errorf("certificate %+v, %v", credential, err)
	}

	// Over a restart of the control plane the client keeps what it has, and follows what changes.
	w.stop()
	if c.store.Load().Workload(backend) == nil {
		t.Error("forgotten")
	}
	address := w.daemon.XDSAddr().String()
	if err := os.Remove(filepath.Join(w.dir, "objects/service.yaml")); err != nil {
		t.Fatal(err)
	}
	w.start("--tls-address", address)
	table = c.until(t, func(table *state.Table) bool { return table.Service("demo", "backend.demo.svc.cluster.local") == nil })
	if table.Workload(backend) == nil || table.Workload(frontend) == nil {
		t.Error("forgotten")
	}
}

func TestAZtunnelsClientAsksForWhatItNeeds(t *testing.T) {
	w := newWorld(t)
	w.write("objects/service.yaml", "{apiVersion: v1, kind: Service, metadata: {name: backend, namespace: demo}, spec: {clusterIP: 10.96.0.1, selector: {app: backend}, ports: [{port: 80, targetPort: 8080}]}}\n")
	w.start()
	w.ready()
	c := w.join(push.Address)
	table := c.until(t, func(table *state.Table) bool { return table.Workload(frontend) != nil }) // its own node's
	if table.Workload(backend) != nil || len(table.Services()) != 0 {
		t.Errorf("it has %v and %v, which it didn't ask for", table.Workloads(), table.Services())
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, to := range []string{"10.96.0.1", "10.1.0.2", "10.9.9.9"} {
		if err := c.need.Learn(ctx, table.Workload(frontend), netip.MustParseAddr(to)); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
	table = c.store.Load()
	_, service := table.Find("", netip.MustParseAddr("10.96.0.1"), "demo")
	if service == nil || len(table.Endpoints(service)) != 1 || table.WorkloadAt("", netip.MustParseAddr("10.1.0.2")) == nil {
		t.Errorf("it has %v and %v, want the service and its endpoint", table.Workloads(), table.Services())
	}
}

func TestPoliciesDecideAsTheyAreWritten(t *testing.T) {
	w := newWorld(t)
	w.write("objects/policy.yaml", `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-frontend, namespace: demo}
spec: {selector: {matchLabels: {app: backend}}, rules: [{from: [{source: {serviceAccounts: [frontend]}}], to: [{operation: {ports: ["8080"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-from-there, namespace: istio-system}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [10.9.0.0/16]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: excepted, namespace: demo}
spec: {selector: {matchLabels: {app: frontend}}, mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: PERMISSIVE}}}
`)
	w.start()
	w.ready()
	c := w.join()
	table := c.until(t, func(table *state.Table) bool {
		one := table.Workload(frontend)
		return one != nil && len(one.Policies) == 1
	})
	id, err := identity.Parse(frontendID)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := identity.Parse("spiffe://cluster.local/ns/demo/sa/stranger")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		to     string
		peer   identity.Workload
		source string
		port   uint16
		want   string // the policy that refuses, or empty
		refuse bool
	}{
		"who may":                     {backend, id, "10.1.0.1", 8080, "", false},
		"another account":             {backend, stranger, "10.1.0.1", 8080, "", true},
		"another port":                {backend, id, "10.1.0.1", 8081, "", true},
		"without identity":            {backend, identity.Workload{}, "10.1.0.1", 8080, "", true},
		"from where nobody may":       {backend, id, "10.9.0.1", 8080, "istio-system/not-from-there", true},
		"plain text":                  {frontend, identity.Workload{}, "10.1.0.2", 8080, "demo/converted_peer_authentication_excepted", true},
		"plain text at the exception": {frontend, identity.Workload{}, "10.1.0.2", 9090, "", false},
		"anybody with an identity":    {frontend, stranger, "10.1.0.2", 8080, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			to := table.Workload(c.to)
			verdict := policy.Evaluate(table, to, policy.Facts{
				Peer: c.peer, Source: netip.AddrPortFrom(netip.MustParseAddr(c.source), 40000), Destination: netip.AddrPortFrom(to.Addresses[0], c.port),
			})
			if verdict.Allowed == c.refuse || c.want != "" && verdict.Policy != c.want {
				t.Errorf("verdict %+v", verdict)
			}
		})
	}
}
