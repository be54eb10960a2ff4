package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/demand"
	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
	"github.com/tulle-mesh/tulle/ztunnel/config"
	"github.com/tulle-mesh/tulle/ztunnel/dns"
	"github.com/tulle-mesh/tulle/ztunnel/enroll"
	"github.com/tulle-mesh/tulle/ztunnel/inbound"
	"github.com/tulle-mesh/tulle/ztunnel/outbound"
	"github.com/tulle-mesh/tulle/ztunnel/socks"
)

// selfTimeout is how long a connection waits for the control plane to name the pod that it belongs to.
const selfTimeout = 5 * time.Second

var errStopped = errors.New("the pod is stopping")

// shared is what all pods use together.
type shared struct {
	cfg      config.Config
	store    *state.Store
	certs    *certs.Manager
	tls      mtls.Policy // of all tunnels
	metrics  *telemetry.Metrics
	workers  []*worker.Worker
	reserves []*h2.Reserve      // of each worker's tunnels
	demand   *demand.Cache      // nil where the whole mesh is known
	open     *balance.Open      // connections to workloads
	sockets  *loop.Supply       // of all pods
	refused  prometheus.Counter // of the sockets that pods wanted beyond their share
	node     *dns.Node          // resolves names
	log      *slog.Logger
}

// pod is one enrolled pod: its listeners, its tunnels both ways, its connections.
type pod struct {
	shared
	info  enroll.Pod
	own   bool            // ztunnel's own pod: there is no capture in it, only tunnels arrive
	guess *state.Workload // what the node agent's word alone makes of it

	ctx       context.Context // ends when the pod stops
	cancel    context.CancelFunc
	quota     *loop.Quota // of sockets
	registry  *capture.Registry
	pools     []*hbone.Pool   // one on each worker
	servers   []*hbone.Server // one on each worker
	listeners *capture.Listeners
	names     *dns.Pod
	socks     *socks.Server // nil without SOCKS5

	judged judgement // only pods.follow uses it
}

// judgement is everything of the mesh's state that policies decide by for one pod.
type judgement struct {
	self              *state.Workload
	global, namespace *state.PolicySet
	listed            []*state.Policy // nil for one that isn't known
}

// startPod opens the pod's listeners. After an error nothing of it is left, and info.Netns is still the caller's.
func startPod(s shared, info enroll.Pod, own bool) (*pod, error) {
	id, err := identity.New(s.cfg.Self.TrustDomain, info.Namespace, info.ServiceAccount)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	p := &pod{shared: s, info: info, own: own, guess: &state.Workload{
		UID: info.UID, Name: info.Name, Namespace: info.Namespace, ServiceAccount: info.ServiceAccount, TrustDomain: id.TrustDomain(),
		Network: s.cfg.Network, Node: s.cfg.Node, ClusterID: s.cfg.ClusterID, Type: state.Pod, Protocol: state.HBONE, Identity: id,
	}}
	p.log = s.log.With("pod", info.Namespace+"/"+info.Name)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.quota = p.newQuota()
	p.registry = capture.NewRegistry(p.quota)
	p.makeTunnels()
	if err := p.openNames(); err != nil {
		p.closeTunnels(context.Background())
		return nil, err
	}
	p.demand.Keep(p.key())
	if p.listeners, err = p.listen(); err == nil && s.cfg.SOCKS && !own {
		if p.socks, err = p.serveSOCKS(); err != nil {
			p.listeners.Close()
		}
	}
	if err != nil {
		p.demand.Release(p.key())
		p.names.Close()
		p.closeTunnels(context.Background())
		return nil, err
	}
	return p, nil
}

// listen wires listeners and decisions.
func (p *pod) listen() (*capture.Listeners, error) {
	cfg := capture.Config{
		Workers: p.workers, Netns: p.info.Netns, Listener: listener(p.cfg.Sockets, p.info.Given), Log: p.log,
		HBONE: func(w *worker.Worker, fd int, local, remote netip.AddrPort) {
			p.servers[w.Index].Serve(fd, local, remote)
		},
	}
	if !p.own {
		in, out := p.inbound(), p.outbound()
		cfg.Outbound = func(conn capture.Conn) { out.Handle(p.ctx, conn) }
		cfg.Inbound = func(conn capture.Conn) { in.HandlePlain(p.ctx, conn) }
	}
	return capture.Open(cfg)
}

func (p *pod) outbound() *outbound.Handler {
	return outbound.New(outbound.Config{
		Demand: p.demand, Known: p.known, Self: p.selfOrGuess, Table: p.store.Load, Network: p.cfg.Network, Dial: p.dial,
		Pool:     func(w *worker.Worker) *hbone.Pool { return p.pools[w.Index] },
		Registry: p.registry, Metrics: p.metrics, Open: p.open,
		Resolve: p.resolve,
	})
}

func (p *pod) inbound() *inbound.Handler {
	level := slog.LevelDebug
	if p.cfg.Log.Policies {
		level = slog.LevelInfo
	}
	return inbound.New(inbound.Config{
		Demand: p.demand, Self: p.self, Known: p.known, Table: p.store.Load, Wait: p.store.Wait, Dial: p.dialApp, Network: p.cfg.Network, Baggage: p.cfg.Tunnels.ResponseBaggage,
		Loopback: p.cfg.LocalhostAppTunnel, SOCKS: p.cfg.SOCKS,
		Registry: p.registry, Metrics: p.metrics, Log: p.log.With("scope", "rbac"), Policies: level,
	})
}

// key is what the control plane is asked for to learn of the pod.
func (p *pod) key() demand.Key {
	return demand.Workload(p.cfg.ClusterID + "//Pod/" + p.info.Namespace + "/" + p.info.Name)
}

// known returns the pod as the control plane describes it, or nil. A pod of that name on another node is another one: an
// older or newer incarnation.
func (p *pod) known(t *state.Table) *state.Workload {
	w := t.ByPod(p.info.Namespace, p.info.Name, p.info.ServiceAccount)
	if w == nil || (p.cfg.Node != "" && w.Node != "" && w.Node != p.cfg.Node) {
		return nil
	}
	return w
}

// self waits for the control plane to name the pod.
func (p *pod) self(ctx context.Context) (*state.Workload, error) {
	if w := p.known(p.store.Load()); w != nil {
		return w, nil
	}
	ctx, cancel := context.WithTimeout(ctx, selfTimeout)
	defer cancel()
	p.demand.Want(p.key())
	t, err := p.store.Wait(ctx, func(t *state.Table) bool { return p.known(t) != nil })
	if err != nil {
		return nil, fmt.Errorf("the control plane has not named pod %s/%s yet: %w", p.info.Namespace, p.info.Name, err)
	}
	return p.known(t), nil
}

// recheck asks the policies about running connections again, if anything that they decide by has changed.
func (p *pod) recheck(t *state.Table) {
	now := judgement{self: p.known(t)}
	if now.self == nil {
		now.self = p.judged.self // as the connections do
	}
	if now.self != nil { // else it may have been known in between, when we didn't look
		now.global, now.namespace = t.PolicySets(now.self)
		for _, policy := range t.ListedPolicies(now.self) {
			now.listed = append(now.listed, policy)
		}
		if now.equal(&p.judged) {
			return
		}
	}
	p.judged = now
	p.registry.Recheck()
}

func (j *judgement) equal(other *judgement) bool {
	return j.self == other.self && j.global == other.global && j.namespace == other.namespace && slices.Equal(j.listed, other.listed)
}

// selfOrGuess makes do with the node agent's word. For what the pod sends that is safe: the identity is only worth
// something if the certificate authority agrees that the pod runs here.
func (p *pod) selfOrGuess(ctx context.Context) (*state.Workload, error) {
	w, err := p.self(ctx)
	if err != nil && ctx.Err() == nil {
		return p.guess, nil
	}
	return w, err
}

// identity returns what the pod proves to be now.
func (p *pod) identity() identity.Workload {
	if w := p.known(p.store.Load()); w != nil {
		return w.Identity
	}
	return p.guess.Identity
}

// drain takes nothing new, lets what runs finish until ctx ends, and stops.
func (p *pod) drain(ctx context.Context) {
	defer context.AfterFunc(ctx, p.cut)() // before anything that waits
	if p.socks != nil {
		p.socks.Close()
	}
	p.listeners.Drain(ctx)
	idle := p.onWorkers(func(i int, done func()) { p.servers[i].Shutdown(done) })
	p.listeners.Wait(ctx)
	if err := p.registry.Wait(ctx); err != nil {
		p.log.Warn("cut connections at the drain deadline")
	}
	idle(ctx)
	p.drainNames(ctx)
	p.stop()
}

// share returns duplicates of the pod's listeners.
func (p *pod) share() (socket.Given, error) {
	given := socket.Given{}
	if err := errors.Join(p.listeners.Share(given), p.names.Share(given)); err != nil {
		given.Close()
		return nil, err
	}
	return given, nil
}

// leave tells the peers of the pod's tunnels that it takes no more connections and won't make any on those, and returns when the
// tunnels are closed, or after the time for a farewell. What they carry goes on until stop.
func (p *pod) leave() {
	ctx, cancel := context.WithTimeout(p.ctx, farewell)
	defer cancel()
	left := p.onWorkers(func(i int, done func()) {
		p.pools[i].Retain(func(hbone.Target) bool { return false })
		p.servers[i].Shutdown(done)
	})
	left(ctx)
}

// stopTimeout bounds the wait for what takes a second at most, on workers that are never busy for long.
const stopTimeout = 10 * time.Second

// stop ends everything at once, and waits for it.
func (p *pod) stop() {
	p.shut()
	p.rest()
}

// shut ends what the pod does, and doesn't wait.
func (p *pod) shut() {
	p.cut()
	p.listeners.Close()
	if p.socks != nil {
		p.socks.Close()
	}
	p.names.Close()
}

// rest waits for the ends of what was cut: peers of tunnels have a second to hear of it, and those of a pod whose interface is
// gone never do.
func (p *pod) rest() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if p.socks != nil {
		p.socks.Wait()
	}
	p.listeners.Wait(ctx)
	if err := p.registry.Wait(ctx); err != nil {
		p.log.Error("connections of a stopped pod don't end", "err", err)
	}
	p.closeTunnels(ctx)
	p.demand.Release(p.key())
	p.info.Netns.Close()
}

// cut ends connections, and then decisions, so that the log has the reason.
func (p *pod) cut() {
	p.registry.Close(errStopped)
	p.cancel()
}

func listener(s config.Sockets, given socket.Given) socket.ListenConfig {
	addr := netip.IPv6Unspecified()
	if !s.IPv6 {
		addr = netip.IPv4Unspecified()
	}
	return socket.ListenConfig{
		Addr: netip.AddrPortFrom(addr, 0), Mark: s.Mark, ReusePort: s.ReusePort, KeepAlive: s.KeepAlive, UserTimeout: s.UserTimeout,
		Transparent: true, // else IPv4 answers from foreign addresses never leave
		Given:       given,
	}
}
