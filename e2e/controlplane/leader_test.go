package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/delta"
)

// families are what only one replica writes.
var families = []string{"addresses", "events", "roots", "statuses", "webhooks"}

// term is how long others wait for a leader that isn't heard of any more.
const term = 15 * time.Second

// holder reads who has the lock of an election; nobody is "".
func (w *world) holder(ctx context.Context, election string) (string, error) {
	lease, err := w.Client().CoordinationV1().Leases(system).Get(ctx, election, metav1.GetOptions{})
	if err == nil {
		if lease.Spec.HolderIdentity == nil {
			return "", nil
		}
		return *lease.Spec.HolderIdentity, nil
	}
	lock, err := w.Client().CoreV1().ConfigMaps(system).Get(ctx, election, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	_, after, _ := strings.Cut(lock.Annotations["control-plane.alpha.kubernetes.io/leader"], `"holderIdentity":"`)
	name, _, _ := strings.Cut(after, `"`)
	return name, nil
}

var elections = []string{"istio-status-leader", "istio-ip-autoallocate", "istio-namespace-controller-election", "istio-gateway-deployment", "istio-validation-controller-election"}

// written waits for something new of each family but webhooks.
func (w *world) written(name string) {
	w.t.Helper()
	w.apply(allow(name) + entry(name, name+".example.com") + fmt.Sprintf("---\n{apiVersion: v1, kind: Namespace, metadata: {name: %s}}\n", name))
	w.condition(policyKind, name, "ZtunnelAccepted", isTrue)
	w.addresses(name)
	w.rooted(name)
}

func TestOneOfThreeReplicasWritesAndAnotherTakesOver(t *testing.T) {
	spec := everything()
	spec.Audit = true
	w := ownWorld(t, spec)
	w.authorize()
	at := freeAddr(t)
	w.apply(installed(byDefault, at) + "---\n" + fmt.Sprintf(wrongPolicy, ""))
	var all []*replica
	for i := range 3 {
		address := freeAddr(t)
		if i == 0 {
			address = at
		}
		all = append(all, w.replica(fmt.Sprintf("istiod-%d", i), "--webhook-address", address))
	}
	w.closed(byDefault)
	for i := range 5 {
		w.written(fmt.Sprint("early-", i))
	}
	w.eventually("an event", func(context.Context) error {
		if len(w.writers("events")) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	for _, family := range families {
		if writers := w.writers(family); len(writers) != 1 {
			t.Errorf("%s are written by %q, want one replica", family, writers)
		}
	}

	// All serve the same, whoever leads.
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
	var versions []string
	var clients []*proxy
	for _, r := range all {
		p := w.join(r, "node1").settled()
		p.workload(podName("shop", "web"), healthy)
		if _, err := w.signed(p.conn, w.identity("node1"), webID); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
		p.lock.Lock()
		versions = append(versions, p.known[delta.Address][podName("shop", "web")].version)
		p.lock.Unlock()
		clients = append(clients, p)
	}
	if len(slices.Compact(versions)) != 1 {
		t.Errorf("replicas give one resource several versions: %q", versions)
	}

	// In a cluster, the API server finds the others that answer it by the Service; here it has the address of one.
	w.delete(installed(byDefault, at))
	leader := slices.IndexFunc(all, func(r *replica) bool { return r.name == w.writers("statuses")[0] })
	all[leader].kill()
	killed := time.Now()
	w.eventually("another leader", func(ctx context.Context) error {
		holder, err := w.holder(ctx, "istio-status-leader")
		if err == nil && strings.HasPrefix(holder, all[leader].name+"_") {
			err = fmt.Errorf("%s leads", holder)
		}
		return err
	})
	t.Logf("another leads after %s", time.Since(killed).Round(100*time.Millisecond))
	w.written("late")
	for i, r := range all {
		if i == leader {
			continue
		}
		if err := r.alive(); err != nil {
			t.Error(err)
		}
		clients[i].undisturbed()
	}
	if refused := w.forbidden(); len(refused) > 0 {
		t.Errorf("refused: %q", refused)
	}
}

func TestALeaderThatStopsIsFollowedAtOnce(t *testing.T) {
	w := newWorld(t)
	w.authorize()
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n" + installed(byDefault, freeAddr(t)))
	a := w.replica("istiod-a", "--webhook-address", freeAddr(t))
	for _, election := range elections {
		w.eventually("istiod-a to lead "+election, func(ctx context.Context) error {
			holder, err := w.holder(ctx, election)
			if err == nil && !strings.HasPrefix(holder, "istiod-a_") {
				err = fmt.Errorf("%q leads", holder)
			}
			return err
		})
	}
	b := w.replica("istiod-b", "--webhook-address", freeAddr(t))
	w.written("first")
	a.stop()
	stopped := time.Now()
	w.written("second")
	if took := time.Since(stopped); took > term/2 {
		t.Errorf("istiod-b took over after %s: the lock wasn't let go", took)
	}
	b.stop()
	for _, election := range elections {
		if holder, err := w.holder(t.Context(), election); err != nil || holder != "" {
			t.Errorf("%q still holds %s (%v)", holder, election, err)
		}
	}
}

func TestALeaderOfIstiosIsLeftAlone(t *testing.T) {
	spec := everything()
	spec.Audit = true
	w := ownWorld(t, spec)
	w.authorize()
	now := metav1.NowMicro().Format(metav1.RFC3339Micro)
	w.apply(fmt.Sprintf(`
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: istio-status-leader, namespace: istio-system}
spec: {holderIdentity: istiod-foreign, leaseDurationSeconds: 600, acquireTime: %[1]q, renewTime: %[1]q, leaseTransitions: 1}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: istio-ip-autoallocate
  namespace: istio-system
  annotations:
    control-plane.alpha.kubernetes.io/leader: '{"holderIdentity":"istiod-foreign","holderKey":"default","leaseDurationSeconds":600,"acquireTime":"2026-01-01T00:00:00Z","renewTime":"2026-01-01T00:00:00Z","leaderTransitions":1}'
`, now))
	w.apply(allow("p") + entry("e", "e.example.com"))
	w.replica("istiod")
	w.rooted("shop") // that lock is free
	w.eventually("the locks to be looked at again and again", func(context.Context) error {
		looks := map[string]int{}
		for _, r := range w.requests() {
			if r.Verb == "get" {
				looks[r.ObjectRef.Name]++
			}
		}
		if looks["istio-status-leader"] < 3 || looks["istio-ip-autoallocate"] < 3 {
			return fmt.Errorf("looks: %v", looks)
		}
		return nil
	})
	for _, family := range []string{"addresses", "statuses"} {
		if writers := w.writers(family); len(writers) > 0 {
			t.Errorf("%s are written by %q", family, writers)
		}
	}
	for _, election := range []string{"istio-status-leader", "istio-ip-autoallocate"} {
		if holder, err := w.holder(t.Context(), election); err != nil || holder != "istiod-foreign" {
			t.Errorf("%s is held by %q, %v", election, holder, err)
		}
	}
}

func TestWhatIsAsItShouldBeIsNotWrittenAgain(t *testing.T) {
	spec := everything()
	spec.Audit = true
	w := ownWorld(t, spec)
	w.authorize()
	first := w.replica("istiod-a")
	w.written("early")
	held := w.addresses("early")
	first.stop()
	w.replica("istiod-b")
	w.written("later")
	w.eventually("istiod-b to lead all", func(ctx context.Context) error {
		for _, election := range elections[:4] {
			if holder, err := w.holder(ctx, election); err != nil || !strings.HasPrefix(holder, "istiod-b_") {
				return errors.Join(err, fmt.Errorf("%q leads %s", holder, election))
			}
		}
		return nil
	})
	for _, r := range w.requests() {
		if about := r.ObjectRef; by(r) == "istiod-b" && r.Verb == "patch" && (about.Name == "early" || about.Namespace == "early") {
			t.Errorf("written again: %s", r)
		}
	}
	if again := w.addresses("early"); !slices.Equal(held, again) {
		t.Errorf("addresses were %v, are %v", held, again)
	}
}
