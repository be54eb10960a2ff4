package controlplane

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

const shop = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: shop}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}
`

func healthy(w *workload.Workload) error {
	if w.Status != workload.WorkloadStatus_HEALTHY {
		return errors.New("it isn't healthy")
	}
	return nil
}

func enrolled(w *workload.Workload) error {
	if w.TunnelProtocol != workload.TunnelProtocol_HBONE {
		return fmt.Errorf("tunnel protocol %s", w.TunnelProtocol)
	}
	return nil
}

func TestAProxyLearnsWhatIsInTheCluster(t *testing.T) {
	w := newWorld(t)
	w.apply(shop + pod("shop", "web", "node1", "10.1.0.1", false))
	r := w.start(replicaSpec{}).ready()
	p := w.join(r, "node1").settled()
	p.workload(podName("shop", "web"), healthy)
	p.service(serviceName("shop", "web"), nil)
	p.policy("shop/only-web", nil)

	w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
	p.workload(podName("shop", "web"), enrolled)
	w.delete(pod("shop", "web", "node1", "10.1.0.1", true))
	p.gone(delta.Address, podName("shop", "web"))
	w.delete(shop)
	p.gone(delta.Address, serviceName("shop", "web"))
	p.gone(delta.Authorization, "shop/only-web")
}

func TestANodeProxyGetsCertificatesOfPodsOnItsNode(t *testing.T) {
	w := newWorld(t)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true) + pod("shop", "till", "node2", "10.1.0.2", true))
	r := w.start(replicaSpec{}).ready()
	conn, identity := w.dial(r), w.identity("node1")
	w.join(r, "node1").workload(podName(system, identity.Pod), nil) // it knows the proxy's pod
	request, err := delta.Request()
	if err != nil {
		t.Fatal(err)
	}
	if chain, err := identity.Sign(t.Context(), conn, request, "spiffe://cluster.local/ns/shop/sa/web"); err != nil || len(chain) < 2 {
		t.Errorf("a pod of this node: %v %d", err, len(chain))
	}
	if _, err := identity.Sign(t.Context(), conn, request, "spiffe://cluster.local/ns/shop/sa/till"); err == nil {
		t.Error("a certificate for a pod of another node")
	}
}

func TestOthersLearnNothing(t *testing.T) {
	w := newWorld(t)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true) + "---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}")
	r := w.start(replicaSpec{}).ready()
	good := w.identity("node1")
	stranger := delta.Identity{Pod: "web", Namespace: "shop", Account: "web", Node: "node1", Token: w.token(apiserver.Token{Namespace: "shop", Account: "web", Pod: "web"})}
	w.refused(r, stranger, codes.PermissionDenied)
	anonymous := good
	anonymous.Token = ""
	w.refused(r, anonymous, codes.Unauthenticated)
	foreign := good
	foreign.Token = w.token(apiserver.Token{Pod: good.Pod, Audiences: []string{"vault"}})
	w.refused(r, foreign, codes.Unauthenticated)
}
