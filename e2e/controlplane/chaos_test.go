package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
)

// undisturbed fails the test if the proxy has lost its stream.
func (p *proxy) undisturbed() {
	p.w.t.Helper()
	p.lock.Lock()
	defer p.lock.Unlock()
	if p.streams > 0 {
		p.w.t.Errorf("the proxy lost its stream: %v", p.last)
	}
}

// stays checks that a control plane goes on to be ready.
func (r *replica) stays() {
	r.w.t.Helper()
	if code, body, err := r.page(r.w.t.Context(), "/ready"); err != nil || code != http.StatusOK {
		r.w.t.Errorf("%s isn't ready any more: %d %s %v", r.name, code, body, err)
	}
}

func TestWhatChangedWhileTheAPIServerWasOutOfReachIsNoticed(t *testing.T) {
	w := newWorld(t)
	w.apply(shop + pod("shop", "web", "node1", "10.1.0.1", true) + pod("shop", "till", "node2", "10.1.0.2", true))
	link, err := w.Link()
	if err != nil {
		t.Fatal(err)
	}
	r := w.start(replicaSpec{User: apiserver.User{Through: link}}).ready()
	p := w.join(r, "node1").settled()
	p.workload(podName("shop", "till"), healthy)
	for round := range 3 {
		link.Block()
		w.delete(pod("shop", "till", "node2", "10.1.0.2", true) + "---\n" + shop)
		w.apply(pod("shop", fmt.Sprintf("new-%d", round), "node1", fmt.Sprintf("10.1.1.%d", round), true))
		r.stays()
		link.Unblock()
		p.workload(podName("shop", fmt.Sprintf("new-%d", round)), healthy)
		p.gone(delta.Address, podName("shop", "till"))
		p.gone(delta.Address, serviceName("shop", "web"))
		p.gone(delta.Authorization, "shop/only-web")
		w.apply(pod("shop", "till", "node2", "10.1.0.2", true) + "---\n" + shop)
		p.workload(podName("shop", "till"), healthy)
		p.policy("shop/only-web", nil)
	}
	p.undisturbed()
}

func TestConnectionsThatAreCutAgainAndAgainLoseNothing(t *testing.T) {
	w := newWorld(t)
	link, err := w.Link()
	if err != nil {
		t.Fatal(err)
	}
	r := w.start(replicaSpec{User: apiserver.User{Through: link}}).ready()
	p := w.join(r, "node1").settled()
	for i := range 20 {
		link.Cut()
		w.apply(pod("shop", fmt.Sprintf("web-%d", i), "node1", fmt.Sprintf("10.1.0.%d", i+1), true))
	}
	for i := range 20 {
		p.workload(podName("shop", fmt.Sprintf("web-%d", i)), healthy)
	}
	p.undisturbed()
}

func TestTheMeshOutlivesARestartOfTheAPIServer(t *testing.T) {
	w := ownWorld(t, everything())
	w.apply(shop + pod("shop", "web", "node1", "10.1.0.1", true))
	r := w.start(replicaSpec{}).ready()
	p := w.join(r, "node1").settled()
	p.workload(podName("shop", "web"), healthy)
	for _, end := range []func(){w.StopAPI, w.KillAPI} {
		end()
		r.stays()
		if err := w.StartAPI(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.delete(pod("shop", "web", "node1", "10.1.0.1", true))
		p.gone(delta.Address, podName("shop", "web"))
		w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
		p.workload(podName("shop", "web"), healthy)
	}
	p.undisturbed()
}

// TestAnAPIServerThatHasForgottenIsReadAnew is about changes that a new API server only knows the outcome of.
func TestAnAPIServerThatHasForgottenIsReadAnew(t *testing.T) {
	w := ownWorld(t, everything())
	w.apply(shop + pod("shop", "web", "node1", "10.1.0.1", true) + pod("shop", "till", "node2", "10.1.0.2", true))
	link, err := w.Link()
	if err != nil {
		t.Fatal(err)
	}
	r := w.start(replicaSpec{User: apiserver.User{Through: link}}).ready()
	p := w.join(r, "node1").settled()
	p.workload(podName("shop", "till"), healthy)
	link.Block()
	w.delete(pod("shop", "till", "node2", "10.1.0.2", true) + "---\n" + shop)
	w.apply(pod("shop", "new", "node1", "10.1.0.3", true))
	w.KillAPI()
	if err := w.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	link.Unblock()
	p.workload(podName("shop", "new"), healthy)
	p.gone(delta.Address, podName("shop", "till"))
	p.gone(delta.Address, serviceName("shop", "web"))
	p.gone(delta.Authorization, "shop/only-web")
	p.undisturbed()
}

func TestAPausedEtcdDelaysChangesAndLosesNone(t *testing.T) {
	w := ownWorld(t, everything())
	w.apply(shop + pod("shop", "web", "node1", "10.1.0.1", true))
	r := w.start(replicaSpec{}).ready()
	p := w.join(r, "node1").settled()
	p.workload(podName("shop", "web"), healthy)
	if err := w.PauseEtcd(); err != nil {
		t.Fatal(err)
	}
	if err := pauseFor(t.Context(), 20*time.Second); err != nil { // longer than leases and requests wait
		t.Fatal(err)
	}
	r.stays()
	p.undisturbed()
	if err := w.ResumeEtcd(); err != nil {
		t.Fatal(err)
	}
	w.eventually("etcd to serve again", w.Ready)
	w.apply(pod("shop", "late", "node1", "10.1.0.9", true))
	p.workload(podName("shop", "late"), healthy)
	p.undisturbed()
}

func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func TestOptionalDefinitionsAreTakenUpWhenTheyCome(t *testing.T) {
	w := ownWorld(t, worldSpec{})
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
	r := w.start(replicaSpec{}).ready()
	p := w.join(r, "node1").settled()
	p.workload(podName("shop", "web"), healthy)
	if err := w.Install(t.Context(), apiserver.IstioCRDs, apiserver.GatewayCRDs); err != nil {
		t.Fatal(err)
	}
	w.apply(shop)
	p.policy("shop/only-web", nil)
	if err := w.Uninstall(t.Context(), apiserver.IstioCRDs); err != nil {
		t.Fatal(err)
	}
	p.gone(delta.Authorization, "shop/only-web")
	if err := w.Install(t.Context(), apiserver.IstioCRDs); err != nil {
		t.Fatal(err)
	}
	w.apply(shop)
	p.policy("shop/only-web", nil)
	p.undisturbed()
}
