// Package dns answers the DNS questions of pods' applications: those for names of the mesh from the mesh's state, all
// others by asking the name servers that the pod would have asked.
//
// The steps of a question, in order:
//
//  1. serve      a datagram or a TCP message in the pod's namespace          serve.go
//  2. parse      the question, and what its transport can carry              query.go
//  3. look up    the names it may mean, a service, its addresses             name.go, lookup.go: pure, from the table
//  4. forward    else: the cache, a question on its way, or the servers      cache.go, forward.go, exchange.go
//  5. pack       the reply, cut to what the client takes                     query.go
//
// Steps 2, 3 and 5 are done at once where the packet was read; only what is forwarded has a goroutine.
package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

const (
	podEntries, podBytes   = 1024, 256 << 10 // bounds of the cache of pods with one identity
	nodeEntries, nodeBytes = 4096, 1 << 20   // bounds of the cache of endpoints' names

	// selfTimeout is how long a question waits for the control plane to name the pod: less than resolvers wait.
	selfTimeout = 4 * time.Second
)

// Config is what all pods of the node use together.
type Config struct {
	Store   *state.Store
	Metrics *telemetry.DNS
	Log     *slog.Logger
	// ResolvConf is the path of the file that lists the servers to ask, ztunnel's own.
	ResolvConf string
	Domain     string // of the cluster
	Preferred  string // namespace whose services come before those of others; "" for none
	IPv6       bool   // false: names of the mesh have no IPv6 addresses
	Mark       uint32 // of the packets we send
	ReusePort  bool   // share ports with another ztunnel that takes our place
}

// Node is the DNS proxy of a node: what its pods share. Its methods may be called from any goroutine.
type Node struct {
	cfg     Config
	servers follower
	own     *forwarder // asks from ztunnel's own namespace

	mu     sync.Mutex
	caches map[string]*sharedCache // by the identity of the pods that use it
}

// sharedCache is for pods of one identity. It isn't for all pods, since a pod can forge what arrives in its own network
// namespace: it must not lie to others.
type sharedCache struct {
	*cache
	pods int
}

// NewNode makes a proxy without pods.
func NewNode(cfg Config) *Node {
	return &Node{
		cfg: cfg, servers: follower{path: cfg.ResolvConf, log: cfg.Log}, caches: map[string]*sharedCache{},
		own: &forwarder{exchanger: exchanger{mark: cfg.Mark}, cache: newCache(nodeEntries, nodeBytes)},
	}
}

func (n *Node) useCache(identity string) *cache {
	n.mu.Lock()
	defer n.mu.Unlock()
	shared := n.caches[identity]
	if shared == nil {
		shared = &sharedCache{cache: newCache(podEntries, podBytes)}
		n.caches[identity] = shared
	}
	shared.pods++
	return shared.cache
}

func (n *Node) releaseCache(identity string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	shared := n.caches[identity]
	if shared.pods--; shared.pods == 0 {
		delete(n.caches, identity)
	}
}

// PodConfig is what one pod's questions depend on.
type PodConfig struct {
	Name, Namespace string
	Identity        string        // pods of one identity share a cache
	Netns           *socket.Netns // nil for our own
	// Known returns the pod as the control plane describes it, or nil.
	Known func(*state.Table) *state.Workload
	// Own is the pod's own resolv.conf; nil if it isn't known. A pod that we live in has ours.
	Own *ResolvConf
}

// Pod answers the questions of one pod. Its methods may be called from any goroutine.
type Pod struct {
	node   *Node
	cfg    PodConfig
	log    *slog.Logger
	names  names
	others *forwarder

	ctx     context.Context // ends when the pod is closed
	cancel  context.CancelFunc
	serving sync.WaitGroup // read loops, connections, questions that are forwarded
	close   sync.Once

	sockets sockets // set by Listen
	voices  voices
}

// Pod makes the proxy of a pod. It must be closed.
func (n *Node) Pod(cfg PodConfig) *Pod {
	if cfg.Own == nil && cfg.Netns == nil {
		ours := n.servers.load()
		cfg.Own = &ours
	}
	p := &Pod{
		node: n, cfg: cfg, log: n.cfg.Log.With("pod", cfg.Namespace+"/"+cfg.Name),
		names:  names{search: clusterSearch(cfg.Namespace, n.cfg.Domain), namespace: cfg.Namespace, domain: n.cfg.Domain},
		others: &forwarder{exchanger: exchanger{netns: cfg.Netns, mark: n.cfg.Mark}, cache: n.useCache(cfg.Identity)},
	}
	if cfg.Own != nil {
		p.names.search = Search{Domains: cfg.Own.Search, Ndots: cfg.Own.Ndots, Own: true}
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Close ends everything at once, and waits for it.
func (p *Pod) Close() {
	p.close.Do(func() {
		p.cancel()
		p.sockets.close()
		p.serving.Wait()
		p.voices.close()
		p.node.releaseCache(p.cfg.Identity)
	})
}

// known returns the pod as a workload, or nil, and the table that says so.
func (p *Pod) known() (*state.Table, *state.Workload) {
	t := p.node.cfg.Store.Load()
	return t, p.cfg.Known(t)
}

// wait is known after a while.
func (p *Pod) wait(ctx context.Context) (*state.Table, *state.Workload, error) {
	ctx, cancel := context.WithTimeout(ctx, selfTimeout)
	defer cancel()
	t, err := p.node.cfg.Store.Wait(ctx, func(t *state.Table) bool { return p.cfg.Known(t) != nil })
	if err != nil {
		return nil, nil, fmt.Errorf("the control plane has not named pod %s/%s yet: %w", p.cfg.Namespace, p.cfg.Name, err)
	}
	return t, p.cfg.Known(t), nil
}

func (p *Pod) view(t *state.Table, self *state.Workload) view {
	return view{names: p.names, table: t, network: self.Network, preferred: p.node.cfg.Preferred, ipv6: p.node.cfg.IPv6}
}

// upstream returns the servers to ask: the pod's own if they are known, else ztunnel's.
func (p *Pod) upstream() []netip.AddrPort {
	if p.cfg.Own != nil {
		if servers := p.cfg.Own.reachable(); len(servers) > 0 {
			return servers
		}
	}
	if p.cfg.Netns == nil {
		return p.node.servers.load().Servers
	}
	return p.node.servers.load().reachable()
}

// ask forwards a message with one question, and counts it if it is really asked.
func (p *Pod) ask(ctx context.Context, msg *dns.Msg, labels telemetry.DNSRequest) (*dns.Msg, error) {
	return p.others.forward(ctx, p.upstream(), msg, func(took time.Duration, err error) {
		p.node.cfg.Metrics.Forwarded(labels, took, err)
	})
}
