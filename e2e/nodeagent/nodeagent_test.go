package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeproxy"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

const (
	in  = "enrolled nft capture label on the namespace"
	out = "out - removed neither pod nor namespace has the label istio.io/dataplane-mode=ambient"
)

// until waits until a pod's annotation and what the agent says of it are as wanted.
func (p *pod) until(says, status string) {
	p.world.t.Helper()
	p.world.eventually(says, p.says)
	p.world.eventually(status, p.status)
}

func TestRunningPodsFollowTheLabels(t *testing.T) {
	w := newWorld(t, "")
	w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	cart, loner := w.pod("cart", podSpec{}), w.pod("loner", podSpec{labels: "istio.io/dataplane-mode: none"})
	cart.until("", out)
	w.label(ambient)
	cart.until("enabled", in)
	loner.until("", "out - removed opted out by label on the pod")
	loner.apply(podSpec{labels: ambient})
	loner.until("enabled", "enrolled nft capture label on the pod")
	w.label("")
	cart.until("", out)
	loner.until("enabled", "enrolled nft capture label on the pod")
}

func TestTheRuntimesPodsAreEnrolledBeforeTheyStart(t *testing.T) {
	w := newWorld(t, ambient)
	w.start()
	proxy := fakeproxy.Connect(t, w.zds(), nil)
	cart := w.pod("cart", podSpec{waiting: true})
	w.must(cart.cni("ADD"))
	if got := cart.says(); got != "enabled" { // at once: the app starts now
		t.Errorf("the pod says %q", got)
	}
	if got := cart.status(); got != in {
		t.Errorf("the agent says %q", got)
	}
	if got := strings.Join(proxy.Log(), "\n"); !strings.Contains(got, "add "+cart.uid) {
		t.Errorf("the proxy was told: %s", got)
	}
	w.must(cart.cni("CHECK"))
	listener, err := cart.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:15001")})
	w.must(err)
	defer listener.Close()
	if text, err := cart.verify(); err != nil || !strings.Contains(text, "is captured") {
		t.Errorf("verify: %v, %s", err, text)
	}
	w.must(cart.cni("DEL"))
	w.eventually("", cart.says)
	if text, err := cart.verify(); err == nil {
		t.Errorf("verify after the end: %s", text)
	}
}

func TestAPodNobodyKnowsDoesntStart(t *testing.T) {
	w := newWorld(t, "")
	w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	known := w.pod("known", podSpec{})
	w.eventually(out, known.status)
	w.must(known.cni("ADD")) // it isn't in the mesh, and may start
	stranger := &pod{Namespace: known.Namespace, world: w, name: "stranger", addr: "10.80.0.9"}
	if err := stranger.cni("ADD"); err == nil || !strings.Contains(err.Error(), "isn't known to the node agent") {
		t.Errorf("error is %v", err)
	}
}

func TestAPodThatCantBeEnrolledSaysWhy(t *testing.T) {
	w := newWorld(t, ambient)
	w.start()
	cart := w.pod("cart", podSpec{annotations: `ambient.istio.io/dns-capture: "maybe"`})
	w.contains("NotInMesh: ", cart.events)
	w.contains("is ztunnel running on this node?", cart.events)
	w.contains(`AnnotationIgnored: ambient.istio.io/dns-capture is "maybe": want true or false`, cart.events)
	if err := cart.cni("ADD"); err == nil || !strings.Contains(err.Error(), "is ztunnel running on this node?") {
		t.Errorf("ADD without a proxy: %v", err)
	}
	w.eventually("pending", cart.says)
	fakeproxy.Connect(t, w.zds(), nil)
	w.eventually("enabled", cart.says)
}

func TestAnnotationsChangeHowARunningPodIsCaptured(t *testing.T) {
	w := newWorld(t, ambient)
	w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	gate := w.pod("gate", podSpec{annotations: `ambient.istio.io/bypass-inbound-capture: "true"`})
	gate.until("enabled", "enrolled nft capture without inbound label on the namespace")
	gate.apply(podSpec{annotations: `ambient.istio.io/bypass-inbound-capture: "false", istio.io/reroute-virtual-interfaces: "tap0"`})
	gate.until("enabled", "enrolled nft capture and of tap0 label on the namespace")
}

func TestDamageIsRepairedAndSaid(t *testing.T) {
	w := newWorld(t, ambient)
	w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	cart := w.pod("cart", podSpec{})
	cart.until("enabled", in)
	w.must(flush(cart))
	if got := cart.status(); got == in {
		t.Fatalf("the agent says %q", got)
	}
	w.eventually(in, cart.status)
	w.contains("CaptureRepaired: ", cart.events)
	w.contains("tulle_cni_repairs_total 1\n", func() string { return w.ask("/metrics") })
}

// Neither who evicts a pod nor who deletes it by force waits for its processes.
func TestAPodThatEndsStaysInTheMeshUntilItsNetworkIsGone(t *testing.T) {
	w := newWorld(t, ambient)
	w.start()
	proxy := fakeproxy.Connect(t, w.zds(), nil)
	evicted, forced := w.pod("evicted", podSpec{}), w.pod("forced", podSpec{})
	for _, p := range []*pod{evicted, forced} {
		p.until("enabled", in)
	}
	evicted.apply(podSpec{failed: true})
	w.must(w.Delete(t.Context(), fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: forced, namespace: %s}}", w.namespace)))
	w.eventually("out nft capture it has ended", evicted.status)
	w.eventually("out nft capture pod deleted", forced.status)
	if got := strings.Join(proxy.Log(), "\n"); strings.Contains(got, "del ") {
		t.Errorf("the proxy lets go of a pod whose processes run: %s", got)
	}
	forgotten := func(p *pod) {
		p.end()
		w.contains("del "+p.uid, func() string { return strings.Join(proxy.Log(), "\n") })
	}
	forgotten(evicted)
	w.eventually("", evicted.says)
	forgotten(forced)
	w.eventually("not listed", forced.status)
}

func TestAnotherAgentTakesOver(t *testing.T) {
	w := newWorld(t, ambient)
	_, kill := w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	stays, leaves, dies := w.pod("stays", podSpec{}), w.pod("leaves", podSpec{}), w.pod("dies", podSpec{})
	for _, p := range []*pod{stays, leaves, dies} {
		p.until("enabled", in)
	}
	kill()
	leaves.apply(podSpec{labels: "istio.io/dataplane-mode: none"})
	w.must(w.Delete(t.Context(), fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: dies, namespace: %s}}", w.namespace)))
	if err := stays.cni("ADD"); err == nil || !strings.Contains(err.Error(), "cannot contact the node agent") {
		t.Errorf("ADD without an agent: %v", err)
	}
	w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	leaves.until("", "out - removed opted out by label on the pod")
	stays.until("enabled", in)
}

// After a reboot the annotations are still there, but the network namespaces are new. That of a pod that is still wanted stays: its peers'
// tunnels fail until it's enrolled anew, but they say nothing in plain text.
func TestAnnotationsAreNotBelieved(t *testing.T) {
	w := newWorld(t, ambient)
	const stale = "ambient.istio.io/redirection: enabled"
	wanted := w.pod("wanted", podSpec{annotations: stale})
	unwanted := w.pod("unwanted", podSpec{annotations: stale, labels: "istio.io/dataplane-mode: none"})
	w.start()
	w.contains("enrolling - removed label on the namespace; ", wanted.status)
	if got := wanted.says(); got != "enabled" {
		t.Errorf("the pod says %q", got)
	}
	unwanted.until("", "out - removed opted out by label on the pod")
	fakeproxy.Connect(t, w.zds(), nil)
	wanted.until("enabled", in)
	if got := wanted.events(); strings.Contains(got, "CaptureRepaired") {
		t.Errorf("events:\n%s", got)
	}
}

func TestWhenTheAPIIsAwayWhatIsKnownStaysInForce(t *testing.T) {
	w := newWorld(t, ambient)
	w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	cart, late := w.pod("cart", podSpec{}), w.pod("late", podSpec{waiting: true})
	cart.until("enabled", in)
	w.eventually("listed", func() string { return map[bool]string{true: "listed"}[late.status() != "not listed"] })
	w.KillAPI()
	if err := late.cni("ADD"); err == nil || !strings.Contains(err.Error(), "annotate pod") {
		t.Errorf("ADD without an API: %v", err)
	}
	if got := cart.status(); got != in {
		t.Errorf("the agent says %q", got)
	}
	w.must(w.StartAPI(t.Context()))
	w.must(late.cni("ADD"))
	late.until("enabled", in)
	w.label("")
	cart.until("", out)
}

func TestAPodsOwnWishForDNSCounts(t *testing.T) {
	w := newWorld(t, ambient)
	w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	cart := w.pod("cart", podSpec{annotations: `ambient.istio.io/dns-capture: "true"`})
	cart.until("enabled", "enrolled nft capture with DNS label on the namespace")
	cart.apply(podSpec{annotations: `ambient.istio.io/dns-capture: "false"`})
	cart.until("enabled", in)
}

func TestTheNodeOpensOnceThePluginIsThere(t *testing.T) {
	w := newWorld(t, ambient)
	folders := w.runtime()
	w.apply(daemonSet)
	w.start()
	w.contains("pending: CNI plugin in the runtime's configuration", func() string { return w.ask("/readyz") })
	folders.network()
	w.eventually("ready\n", func() string { return w.ask("/readyz") })
	w.contains(`"pod_namespace": "istio-system"`, folders.configuration)
	w.contains("istio_cni_install_ready 1\n", func() string { return w.ask("/metrics") })
	w.eventually("other", func() string {
		node, err := w.Client().CoreV1().Nodes().Get(t.Context(), w.node, metav1.GetOptions{})
		w.must(err)
		var taints []string
		for _, taint := range node.Spec.Taints {
			if taint.Key != "node.kubernetes.io/not-ready" { // the API server's own
				taints = append(taints, taint.Key)
			}
		}
		return strings.Join(taints, " ")
	})
}

func TestThePluginStaysForTheNextAgentAndGoesWithTheLast(t *testing.T) {
	for name, uninstall := range map[string]func(w *world){
		"DaemonSet deleted": func(w *world) { w.must(w.Delete(t.Context(), daemonSet)) },
		"rights taken away": func(w *world) {
			const binding = "{apiVersion: rbac.authorization.k8s.io/v1, kind: %sRoleBinding, metadata: {name: istio-cni%s}}"
			w.must(w.Delete(t.Context(), fmt.Sprintf(binding, "Cluster", "")))
			w.must(w.Delete(t.Context(), fmt.Sprintf(binding, "", ", namespace: istio-system")))
			w.eventually("true", func() string {
				_, err := w.Client().CoreV1().RESTClient().Get().SetHeader("Impersonate-User", "system:serviceaccount:istio-system:istio-cni").
					AbsPath("/apis/apps/v1/namespaces/istio-system/daemonsets/istio-cni-node").DoRaw(t.Context())
				return fmt.Sprint(apierrors.IsForbidden(err))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ambient)
			folders := w.runtime()
			folders.network()
			account, err := os.ReadFile(manifest)
			w.must(err)
			t.Cleanup(func() {
				if err := w.Apply(context.Background(), string(account)); err != nil {
					t.Error(err)
				}
			})
			w.apply(daemonSet)
			looked := func() string {
				return fmt.Sprint(strings.Count(w.logs.String(), "the CNI plugin goes with its DaemonSet"))
			}
			stop, _ := w.start()
			w.eventually("ready\n", func() string { return w.ask("/readyz") })
			w.eventually("1", looked)
			stop()
			if got := folders.configuration(); !strings.Contains(got, "tulle-cni") {
				t.Errorf("after an agent's end: %s", got)
			}
			stop, _ = w.start()
			w.eventually("ready\n", func() string { return w.ask("/readyz") })
			w.eventually("2", looked)
			uninstall(w)
			stop()
			if got := strings.Join(strings.Fields(folders.configuration()), ""); got != network {
				t.Errorf("after the last one's end: %s", got)
			}
			if left, err := os.ReadDir(folders.bin); err != nil || len(left) > 0 {
				t.Errorf("programs left: %v, %v", left, err)
			}
			if left, err := os.ReadDir(filepath.Join(w.dir, "run")); err != nil || len(left) > 0 {
				t.Errorf("sockets and notes left: %v, %v", left, err)
			}
			if _, err := os.Stat(w.zds()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("ztunnel's socket is left: %v", err)
			}
		})
	}
}
