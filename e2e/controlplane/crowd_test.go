package controlplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
)

// What a control plane may do: all but follow pods, and that.
const allButPods = `
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: all-but-pods}, rules: [
  {apiGroups: [""], resources: [namespaces, nodes, services, configmaps, secrets, events], verbs: ["*"]},
  {apiGroups: [discovery.k8s.io, security.istio.io, networking.istio.io, gateway.networking.k8s.io, coordination.k8s.io, authentication.k8s.io, apps, policy, autoscaling],
   resources: ["*"], verbs: ["*"]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: all-but-pods},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: all-but-pods}, subjects: [{kind: ServiceAccount, name: istiod, namespace: istio-system}]}
`

const pods = `
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: pods}, rules: [{apiGroups: [""], resources: [pods], verbs: [get, list, watch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: pods},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: pods}, subjects: [{kind: ServiceAccount, name: istiod, namespace: istio-system}]}
`

func TestNobodyIsServedBeforeEverythingWasReadOnce(t *testing.T) {
	w := newWorld(t)
	w.apply(shop + pod("shop", "web", "node1", "10.1.0.1", true) + "---" + allButPods)
	r := w.start(replicaSpec{User: apiserver.User{Namespace: system, Account: "istiod"}})
	w.eventually("word of what is missing", func(ctx context.Context) error {
		code, body, err := r.page(ctx, "/ready")
		if err == nil && (code == 200 || !containsAll(body, []string{"pods", "forbidden"}) || strings.Contains(body, "services")) {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	})
	identity := w.identity("node1")
	w.refused(r, identity, codes.Unavailable)
	w.apply(pods)
	r.ready()
	stream, err := delta.Open(t.Context(), w.dial(r), identity)
	if err == nil {
		err = stream.Subscribe(delta.Address, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Receive()
	if err != nil || len(first.Resources) < 3 { // the service, its pod, the proxy's own
		t.Errorf("the first answer has %d resources, and %v", len(first.Resources), err)
	}
}

func TestWhatAProxyRejectsIsSeen(t *testing.T) {
	w := newWorld(t)
	w.apply(shop + pod("shop", "web", "node1", "10.1.0.1", true))
	r := w.start(replicaSpec{}).ready()
	other := w.join(r, "node2").settled()
	identity := w.identity("node1")
	stream, err := delta.Open(t.Context(), w.dial(r), identity)
	if err == nil {
		err = stream.Subscribe(delta.Authorization, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Receive()
	if err == nil {
		err = stream.Reject(answer, "policy shop/only-web: no such field")
	}
	if err != nil {
		t.Fatal(err)
	}
	r.logged("warn", "policy shop/only-web: no such field", "wads", "shop/only-web", identity.Pod)
	r.shows("/metrics", `pilot_total_xds_rejects{type="wads"} 1`)
	r.shows("/debug/syncz", identity.Pod, `"reason": "policy shop/only-web: no such field"`, `"shop/only-web"`)

	// It is told of the next state, and so is everybody.
	w.apply(strings.Replace(shop, "sa/web", "sa/till", 1))
	answer, err = stream.Receive()
	if err != nil || len(answer.Resources) != 1 || answer.Resources[0].Name != "shop/only-web" {
		t.Fatalf("%d resources, and %v", len(answer.Resources), err)
	}
	version := answer.Resources[0].Version
	other.until("the policy's new version", func() error {
		if have := other.known[delta.Authorization]["shop/only-web"].version; have != version {
			return fmt.Errorf("it has %q", have)
		}
		return nil
	})
	other.undisturbed()
	if err := stream.Accept(answer); err != nil {
		t.Fatal(err)
	}
	w.eventually("the rejection to be over", func(ctx context.Context) error {
		_, page, err := r.page(ctx, "/debug/syncz")
		if err == nil && strings.Contains(page, "no such field") {
			err = errors.New(page)
		}
		return err
	})
}

// shows waits for a page with all of the words.
func (r *replica) shows(path string, words ...string) {
	r.w.t.Helper()
	r.w.eventually(fmt.Sprintf("%q on %s", words, path), func(ctx context.Context) error {
		_, page, err := r.page(ctx, path)
		if err == nil && !containsAll(page, words) {
			err = errors.New(page)
		}
		return err
	})
}

// The metrics that dashboards and alerts for Istio's control plane ask for, as far as they mean anything here.
func TestIstiosDashboardsFindTheirMetrics(t *testing.T) {
	w := newWorld(t)
	w.apply(shop + pod("shop", "web", "node1", "10.1.0.1", true))
	at := freeAddr(t)
	r := w.start(replicaSpec{Args: []string{"--webhook-address", at}}).ready()
	p := w.join(r, "node1").settled()
	w.apply(pod("shop", "till", "node1", "10.1.0.2", true))
	p.workload(podName("shop", "till"), healthy)
	request, err := delta.Request()
	if err == nil {
		_, err = w.identity("node1").Sign(t.Context(), w.dial(r), request, webID)
	}
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for name, kind := range map[string]string{
		"pilot_xds": "gauge", "pilot_xds_pushes": "counter", "pilot_xds_push_time": "histogram", "pilot_xds_send_time": "histogram",
		"pilot_xds_config_size_bytes": "histogram", "pilot_xds_recv_max": "gauge", "pilot_xds_expired_nonce": "counter", "pilot_xds_write_timeout": "counter",
		"pilot_proxy_convergence_time": "histogram", "pilot_proxy_queue_time": "histogram", "pilot_push_triggers": "counter", "pilot_debounce_time": "histogram",
		"pilot_pushcontext_init_seconds": "histogram", "pilot_inbound_updates": "counter", "pilot_services": "gauge", "pilot_info": "gauge",
		"pilot_total_xds_internal_errors": "counter", "pilot_k8s_reg_events": "counter", "pilot_k8s_cfg_events": "counter",
		"citadel_server_csr_count": "counter", "citadel_server_success_cert_issuance_count": "counter", "citadel_server_authentication_failure_count": "counter",
		"citadel_server_id_extraction_err_count": "counter", "citadel_server_csr_parsing_err_count": "counter",
		"citadel_server_root_cert_expiry_timestamp": "gauge", "citadel_server_cert_chain_expiry_timestamp": "gauge",
		"istiod_managed_clusters": "gauge", "istiod_uptime_seconds": "gauge", "go_goroutines": "gauge", "process_resident_memory_bytes": "gauge",
	} {
		types = append(types, fmt.Sprintf("# TYPE %s %s\n", name, kind))
	}
	r.shows("/metrics", types...)
	r.shows("/metrics", "\ncitadel_server_success_cert_issuance_count 1\n", `pilot_xds{version="`)
}

func TestReplicasTellTheSame(t *testing.T) {
	w := newWorld(t)
	w.apply(shop)
	for i := range 30 {
		w.apply(pod("shop", fmt.Sprintf("web-%d", i), "node1", fmt.Sprintf("10.1.0.%d", i+1), true))
	}
	a, b := w.start(replicaSpec{Name: "istiod-a"}).ready(), w.start(replicaSpec{Name: "istiod-b"}).ready()
	p := w.join(a, "node1").settled()
	p.workload(podName("shop", "web-29"), healthy)
	q := w.join(b, "node1").settled()
	q.workload(podName("shop", "web-29"), healthy)
	for typeURL, versions := range p.versions() {
		if !maps.Equal(versions, q.versions()[typeURL]) {
			t.Errorf("%s: versions differ:\n%v\n%v", typeURL, versions, q.versions()[typeURL])
		}
	}
}

// anyOf dials the first that answers, as a service's address would lead to one that lives.
func anyOf(replicas ...*replica) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		var errs []error
		for _, each := range replicas {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", each.tls)
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	})
}

func TestProxiesOfAKilledReplicaGoOnAtAnotherAndGetOnlyWhatChanged(t *testing.T) {
	const crowd = 20
	w := newWorld(t)
	w.apply(shop)
	for i := range 30 {
		w.apply(pod("shop", fmt.Sprintf("web-%d", i), "node1", fmt.Sprintf("10.1.0.%d", i+1), true))
	}
	a, b := w.start(replicaSpec{Name: "istiod-a"}).ready(), w.start(replicaSpec{Name: "istiod-b"}).ready()
	var all []*proxy
	for i := range crowd {
		all = append(all, w.joinOver(w.dial(a, anyOf(a, b)), w.identity(fmt.Sprintf("node%d", i)), delta.Authorization, delta.Address))
	}
	type count struct{ resources, removed int }
	counts := func(p *proxy) count {
		p.lock.Lock()
		defer p.lock.Unlock()
		return count{p.resources, len(p.removed)}
	}
	before := make([]count, crowd)
	for i, p := range all {
		p.settled().workload(podName(system, fmt.Sprintf("ztunnel-node%d", crowd-1)), nil)
		before[i] = counts(p)
	}
	a.kill()
	w.delete(pod("shop", "web-0", "node1", "10.1.0.1", true))
	w.apply(pod("shop", "web-30", "node1", "10.1.0.31", true))
	for i, p := range all {
		p.workload(podName("shop", "web-30"), healthy)
		p.gone(delta.Address, podName("shop", "web-0"))
		p.until("answers of the other replica", func() error {
			if p.streams != 1 || p.answers[delta.Authorization] != 2 {
				return fmt.Errorf("%d streams lost, %d answers", p.streams, p.answers[delta.Authorization])
			}
			return nil
		})
		if got := counts(p); got.resources-before[i].resources != 1 || got.removed-before[i].removed != 1 {
			t.Errorf("proxy %d was sent %d resources and %d removals, want one of each", i, got.resources-before[i].resources, got.removed-before[i].removed)
		}
	}
}
