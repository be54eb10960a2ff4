package enroll

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// errProtocol marks a violation after which agent and ztunnel can't know what the other means.
var errProtocol = errors.New("protocol violation by the node agent")

// pods is the state of the conversation: what runs, what waits, and what the snapshot named. One goroutine owns it.
type pods struct {
	cfg     Config
	running map[string]socket.NetnsID
	pending map[string]Pod      // could not be started; tried again later
	named   map[string]struct{} // by the snapshot; nil when the snapshot is complete
}

func newPods(cfg Config) *pods {
	return &pods{cfg: cfg, running: map[string]socket.NetnsID{}}
}

// connected begins a snapshot; what runs goes on.
func (p *pods) connected() {
	p.dropPending()
	p.named = map[string]struct{}{}
}

// handle does what a request says. The error goes back to the agent; one that is errProtocol ends us.
func (p *pods) handle(packet packet) error {
	switch payload := packet.request.GetPayload().(type) {
	case *zds.WorkloadRequest_Add:
		return p.add(payload.Add, packet)
	case *zds.WorkloadRequest_Keep:
		return p.keep(payload.Keep.GetUid())
	case *zds.WorkloadRequest_Del:
		p.del(payload.Del.GetUid())
		return nil
	default:
		return p.snapshotSent()
	}
}

func (p *pods) add(add *zds.AddWorkload, packet packet) error {
	info := add.GetWorkloadInfo()
	if info == nil || add.GetUid() == "" {
		packet.netns.Close()
		return fmt.Errorf("%w: add %q without uid or workload info", errProtocol, add.GetUid())
	}
	netns, err := socket.NetnsFromFile(packet.netns)
	if err != nil {
		return fmt.Errorf("add %s: %w", add.GetUid(), err) // trying again would not help
	}
	pod := Pod{UID: add.GetUid(), Name: info.GetName(), Namespace: info.GetNamespace(), ServiceAccount: info.GetServiceAccount(), Netns: netns, Resolver: resolver(info)}
	if p.named != nil {
		p.named[pod.UID] = struct{}{}
	}
	p.forget(pod.UID)
	if id, runs := p.running[pod.UID]; runs {
		if id == netns.ID() {
			netns.Close()
			return nil
		}
		p.stop(pod.UID) // the pod's sandbox was made anew
	}
	return p.start(pod)
}

func resolver(info *zds.WorkloadInfo) *Resolver {
	r := info.GetResolver()
	if r == nil {
		return nil
	}
	return &Resolver{Nameservers: r.GetNameservers(), Searches: r.GetSearches(), Ndots: int(r.GetNdots())}
}

func (p *pods) keep(uid string) error {
	if p.named == nil {
		return fmt.Errorf("%w: keep %q after the snapshot", errProtocol, uid)
	}
	p.named[uid] = struct{}{}
	return nil
}

// del during a snapshot only takes the name out: the snapshot's end stops the pod.
func (p *pods) del(uid string) {
	p.forget(uid)
	if p.named != nil {
		delete(p.named, uid)
		return
	}
	if _, runs := p.running[uid]; runs {
		p.stop(uid)
	}
}

// snapshotSent stops what the agent no longer knows.
func (p *pods) snapshotSent() error {
	if p.named == nil {
		return fmt.Errorf("%w: second end of the snapshot", errProtocol)
	}
	for _, uid := range slices.Sorted(maps.Keys(p.running)) {
		if _, named := p.named[uid]; !named {
			p.stop(uid)
		}
	}
	p.named = nil
	return nil
}

// start hands the pod on, or keeps it for another try.
func (p *pods) start(pod Pod) error {
	if err := p.cfg.Start(pod); err != nil {
		if p.pending == nil {
			p.pending = map[string]Pod{}
		}
		p.pending[pod.UID] = pod
		return fmt.Errorf("start the proxy of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	p.running[pod.UID] = pod.Netns.ID()
	return nil
}

func (p *pods) stop(uid string) {
	delete(p.running, uid)
	p.cfg.Stop(uid)
}

// retry tries to start what couldn't be started.
func (p *pods) retry() {
	for _, uid := range slices.Sorted(maps.Keys(p.pending)) {
		pod := p.pending[uid]
		delete(p.pending, uid)
		if err := p.start(pod); err != nil {
			p.cfg.Log.Warn("pod still pending", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		}
	}
}

// forget gives up on a pending pod.
func (p *pods) forget(uid string) {
	if pod, pending := p.pending[uid]; pending {
		pod.Netns.Close()
		delete(p.pending, uid)
	}
}

func (p *pods) dropPending() {
	for uid := range p.pending {
		p.forget(uid)
	}
}

// waiting lists the pods that are pending.
func (p *pods) waiting() (list []Pod) {
	for _, uid := range slices.Sorted(maps.Keys(p.pending)) {
		list = append(list, p.pending[uid])
	}
	return list
}

// ready tells that all pods of a complete snapshot run.
func (p *pods) ready() bool { return p.named == nil && len(p.pending) == 0 }
