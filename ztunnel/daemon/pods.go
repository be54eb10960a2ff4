package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/config"
	"github.com/tulle-mesh/tulle/ztunnel/enroll"
)

// pods are the pods of the node that are served now.
type pods struct {
	shared
	counts *telemetry.Pods

	ending sync.WaitGroup // what is left of pods that were stopped

	mu         sync.Mutex
	serving    map[string]*pod // by uid
	identities []identity.Workload
}

func newPods(s shared, counts *telemetry.Pods) *pods {
	return &pods{shared: s, counts: counts, serving: map[string]*pod{}}
}

// start serves a pod from now on.
func (p *pods) start(info enroll.Pod) error {
	if err := p.add(info, false); err != nil {
		return err
	}
	p.counts.Started.Inc()
	p.log.Info("pod enrolled", "pod", info.Namespace+"/"+info.Name, "uid", info.UID)
	return nil
}

// startOwn serves ztunnel's own pod, so that meshed clients can ask for its metrics.
func (p *pods) startOwn(self config.Self) error {
	info := enroll.Pod{UID: "ztunnel's own pod", Name: self.Name, Namespace: self.Namespace, ServiceAccount: self.ServiceAccount}
	if err := p.add(info, true); err != nil {
		return fmt.Errorf("serve ztunnel's own pod (POD_NAME, POD_NAMESPACE, SERVICE_ACCOUNT): %w", err)
	}
	return nil
}

func (p *pods) add(info enroll.Pod, own bool) error {
	pod, err := startPod(p.shared, info, own)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.serving[info.UID] = pod
	p.mu.Unlock()
	p.refresh()
	return nil
}

// stop ends a pod at once.
func (p *pods) stop(uid string) {
	p.mu.Lock()
	pod := p.serving[uid]
	delete(p.serving, uid)
	p.mu.Unlock()
	if pod == nil {
		return
	}
	pod.shut()
	p.endSoon(pod)
	p.counts.Stopped.Inc()
	p.log.Info("pod gone", "pod", pod.info.Namespace+"/"+pod.info.Name, "uid", uid)
	p.refresh()
}

// share returns duplicates of a pod's listeners.
func (p *pods) share(uid string) (socket.Given, error) {
	if pod := p.get(uid); pod != nil {
		return pod.share()
	}
	return nil, nil
}

// leave tells the peers of a pod that it ends.
func (p *pods) leave(uid string) {
	if pod := p.get(uid); pod != nil {
		pod.leave()
		p.log.Info("pod ends", "pod", pod.info.Namespace+"/"+pod.info.Name, "uid", uid)
	}
}

func (p *pods) get(uid string) *pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.serving[uid]
}

// farewell is how long a stopped pod is waited for: long enough that its peers are told while it still has its interface, and
// not as long as they may take to answer, since the agent has other pods to tell of.
const farewell = 100 * time.Millisecond

// endSoon waits for the rest of a pod that was shut, and leaves it alone if that takes longer.
func (p *pods) endSoon(pod *pod) {
	ended := make(chan struct{})
	p.ending.Go(func() {
		pod.rest()
		close(ended)
	})
	select {
	case <-ended:
	case <-time.After(farewell):
	}
}

// drain lets all connections of all pods finish until ctx ends, then cuts them. No pod may be started any more.
func (p *pods) drain(ctx context.Context) {
	var group sync.WaitGroup
	for _, pod := range p.list() {
		group.Go(func() { pod.drain(ctx) })
	}
	group.Wait()
	p.ending.Wait()
}

// follow reacts to every change of the mesh's state, until ctx ends: it asks running connections' policies again, lets tunnels go
// whose other end is gone, and sees to certificates.
func (p *pods) follow(ctx context.Context) {
	before := p.store.Load()
	for {
		changed := p.store.Changed()
		table := p.store.Load()
		pods := p.list()
		for _, pod := range pods {
			pod.recheck(table)
		}
		if table.Turnover() != before.Turnover() {
			p.retain(pods, before, table)
		}
		before = table
		p.refresh()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// cutRevoked ends the tunnels whose peers' certificates have been revoked meanwhile.
func (p *pods) cutRevoked() {
	for _, pod := range p.list() {
		for i, w := range pod.workers {
			_ = w.Post(func() { // fails only when ztunnel has ended
				pod.servers[i].Cut(p.tls.Revocations.Check)
				pod.pools[i].Cut(p.tls.Revocations.Check)
			})
		}
	}
}

// retain keeps the pooled tunnels whose address belongs to the same workload as before. Peers that can't be reached any more would
// only be found out by their silence, and an address may belong to another pod by then.
func (p *pods) retain(pods []*pod, before, now *state.Table) {
	stays := func(target hbone.Target) bool {
		was, is := before.WorkloadAt(p.cfg.Network, target.Addr.Addr()), now.WorkloadAt(p.cfg.Network, target.Addr.Addr())
		return was == nil || (is != nil && is.UID == was.UID && is.Identity == was.Identity)
	}
	for i, w := range p.workers {
		_ = w.Post(func() { // fails only when ztunnel ends
			for _, pod := range pods {
				pod.pools[i].Retain(stays)
			}
		})
	}
}

// refresh tells the certificate manager which identities the pods have.
func (p *pods) refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	unique := map[identity.Workload]struct{}{}
	for _, pod := range p.serving {
		unique[pod.identity()] = struct{}{}
	}
	delete(unique, identity.Workload{})
	ids := slices.SortedFunc(maps.Keys(unique), func(a, b identity.Workload) int { return strings.Compare(a.String(), b.String()) })
	if !slices.Equal(ids, p.identities) {
		p.identities = ids
		p.certs.Set(ids)
	}
}

// list returns the pods ordered by uid.
func (p *pods) list() []*pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.Collect(maps.Values(p.serving))
	slices.SortFunc(list, func(a, b *pod) int { return strings.Compare(a.info.UID, b.info.UID) })
	return list
}
