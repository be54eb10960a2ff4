package enroll

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/handover"
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
	leaving map[string]struct{} // of those that run: they take no more tunnels
}

func newPods(cfg Config) *pods {
	return &pods{cfg: cfg, running: map[string]socket.NetnsID{}, leaving: map[string]struct{}{}}
}

// connected begins a snapshot; what runs goes on.
func (p *pods) connected() {
	p.dropPending()
	p.named = map[string]struct{}{}
}

// handle does what a request says, and returns the listeners that go back with a success. The error goes back to the agent; one
// that is errProtocol ends us.
func (p *pods) handle(packet packet) (along socket.Given, err error) {
	switch payload := packet.request.GetPayload().(type) {
	case *zds.WorkloadRequest_Add:
		if err := p.add(payload.Add, packet); err != nil || !payload.Add.GetHandOver() {
			return nil, err
		}
		return p.share(payload.Add.GetUid()), nil
	case *zds.WorkloadRequest_Keep:
		return nil, p.keep(payload.Keep.GetUid())
	case *zds.WorkloadRequest_Del:
		p.del(payload.Del.GetUid())
		return nil, nil
	case *zds.WorkloadRequest_Stop:
		p.leave(payload.Stop.GetUid())
		return nil, nil
	default:
		return nil, p.snapshotSent()
	}
}

// share returns the listeners of a running pod. Without them it is served as well, so what goes wrong there is only logged.
func (p *pods) share(uid string) socket.Given {
	given, err := p.cfg.Share(uid)
	if err == nil && len(given) > handover.MaxListeners {
		err = fmt.Errorf("%d listeners are more than %d", len(given), handover.MaxListeners)
		given.Close()
	}
	if err != nil {
		p.cfg.Log.Warn("listeners can't be handed over, the next ztunnel opens new ones", "uid", uid, "err", err)
		return nil
	}
	return given
}

func (p *pods) leave(uid string) {
	if _, runs := p.running[uid]; runs {
		p.leaving[uid] = struct{}{}
		p.cfg.Leave(uid)
	}
}

func (p *pods) add(add *zds.AddWorkload, packet packet) error {
	info := add.GetWorkloadInfo()
	if info == nil || add.GetUid() == "" {
		packet.netns.Close()
		packet.given.Close()
		return fmt.Errorf("%w: add %q without uid or workload info", errProtocol, add.GetUid())
	}
	netns, err := socket.NetnsFromFile(packet.netns)
	if err != nil {
		packet.given.Close()
		return fmt.Errorf("add %s: %w", add.GetUid(), err) // trying again would not help
	}
	if err := packet.given.Verify(netns.ID()); err != nil {
		p.cfg.Log.Warn("listeners from the node agent don't fit, open new ones", "uid", add.GetUid(), "err", err)
	}
	pod := Pod{UID: add.GetUid(), Name: info.GetName(), Namespace: info.GetNamespace(), ServiceAccount: info.GetServiceAccount(), Netns: netns, Resolver: resolver(info), Given: packet.given}
	if p.named != nil {
		p.named[pod.UID] = struct{}{}
	}
	p.forget(pod.UID)
	if id, runs := p.running[pod.UID]; runs {
		if _, leaving := p.leaving[pod.UID]; id == netns.ID() && !leaving {
			netns.Close()
			packet.given.Close() // we have our own, perhaps the same
			return nil
		}
		p.stop(pod.UID) // the pod's sandbox was made anew, or it stays after all
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
	pod.Given.Close()
	return nil
}

func (p *pods) stop(uid string) {
	delete(p.running, uid)
	delete(p.leaving, uid)
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
		pod.Given.Close()
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
