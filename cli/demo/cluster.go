// Package demo builds simulated nodes and pods out of network namespaces and runs the mesh's real programs on them: the
// one place that does, for `tulle demo` and for the end-to-end tests.
//
// Up makes, in this order: the run folder with its state file · the fabric, nodes and pods as namespaces · the links
// between them · the map of services on each node · the mesh folder, keys and tokens · istiod-lite in the fabric · an
// agent and a ztunnel on each node · the pods' programs. Everything is written down before it's done, so that a crash
// leaves nothing that CleanUp doesn't find.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// Cluster is a simulated cluster that is up. Its methods may be called from several goroutines.
type Cluster struct {
	spec Spec
	// nets are by the name of node or pod. After Up only Reboot changes them, under the lock, since others may look for theirs.
	nets     map[string]*wire.Netns
	netsLock sync.RWMutex
	owner    *os.File // the lock; nil for one that was found by Find

	mu     sync.Mutex // guards record, and the mesh folder's changes
	record *record
	labels map[string]map[string]string // of namespaces and "namespace/pod"s, set live
}

// Up builds the cluster and returns when all of it is ready. On an error, what was made is removed again.
func Up(ctx context.Context, spec Spec) (*Cluster, error) {
	if spec.Say == nil {
		spec.Say = func(string) {}
	}
	if err := spec.check(); err != nil {
		return nil, err
	}
	if err := Require(spec); err != nil {
		return nil, err
	}
	c, err := claim(ctx, spec)
	if err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{c.makeNamespaces, c.connect, c.writeFolder, c.startAll} {
		if err := step(ctx); err != nil {
			clearing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			defer cancel()
			return nil, errors.Join(err, c.Down(clearing))
		}
	}
	return c, nil
}

// claim takes the run folder, after it removed what a crashed cluster left in it.
func claim(ctx context.Context, spec Spec) (*Cluster, error) {
	if r, err := load(spec.Dir); err == nil && r.Kept && r.running() {
		return nil, ErrUp
	}
	found, err := CleanUp(ctx, spec.Dir)
	if err != nil {
		return nil, err
	}
	if found {
		spec.Say("removed what an earlier demo had left behind")
	}
	if entries, err := os.ReadDir(spec.Dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s has files that are not a demo's; name another folder", spec.Dir)
	}
	owner, err := lock(spec.Dir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{spec: spec, owner: owner, nets: map[string]*wire.Netns{}, record: &record{Spec: spec}, labels: map[string]map[string]string{}}
	for _, dir := range []string{c.MeshDir(), c.logDir(), c.path("tokens"), c.path("hosts"), c.path("run")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make the run folder: %w", err)
		}
	}
	return c, c.record.save()
}

// Find returns the cluster that another process left up in a folder; fs.ErrNotExist if there is none.
func Find(dir string) (*Cluster, error) {
	r, err := load(dir)
	if err != nil {
		return nil, err
	}
	if !r.running() {
		return nil, fs.ErrNotExist
	}
	c := &Cluster{spec: r.Spec, nets: map[string]*wire.Netns{}, record: r, labels: map[string]map[string]string{}}
	for _, name := range c.places() {
		if c.nets[name], err = wire.Open(c.netnsPath(name)); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

// Keep leaves the cluster up for other processes, which find it by its folder.
func (c *Cluster) Keep() error {
	c.mu.Lock()
	c.record.Kept = true
	err := c.record.save()
	c.mu.Unlock()
	c.close()
	return err
}

// Down ends every program and removes every trace.
func (c *Cluster) Down(ctx context.Context) error {
	c.mu.Lock()
	err := c.record.clear(ctx)
	c.mu.Unlock()
	c.close()
	return err
}

// close releases this process's hold on the cluster.
func (c *Cluster) close() {
	for _, netns := range c.nets {
		if netns != nil {
			netns.Close()
		}
	}
	if c.owner != nil {
		c.owner.Close()
	}
}

// places are the names of everything that has a namespace.
func (c *Cluster) places() []string {
	names := append([]string{fabric}, c.spec.Nodes...)
	for _, pod := range c.spec.Pods {
		names = append(names, pod.Name)
	}
	return names
}

func (c *Cluster) netnsName(place string) string { return "tulle-" + c.spec.Name + "-" + place }

func (c *Cluster) netnsPath(place string) string { return filepath.Join(wire.Dir, c.netnsName(place)) }

func (c *Cluster) path(name string) string { return filepath.Join(c.spec.Dir, name) }

func (c *Cluster) logDir() string { return c.path("log") }

// MeshDir is the folder of YAML that istiod-lite and the agents watch.
func (c *Cluster) MeshDir() string { return c.path("mesh") }

// Netns is the namespace of a node, of a pod, or of the fabric.
func (c *Cluster) Netns(place string) (*wire.Netns, error) {
	c.netsLock.RLock()
	netns, ok := c.nets[place]
	c.netsLock.RUnlock()
	if !ok {
		return nil, fmt.Errorf("no %q here; there are %v", place, c.places())
	}
	return netns, nil
}

// PodAddrs are a pod's addresses, IPv4 first. The pod must be one of the Spec's.
func (c *Cluster) PodAddrs(pod string) []netip.Addr {
	i, p, err := c.spec.pod(pod)
	if err != nil {
		return nil
	}
	return podAddrs(c.spec.nodeIndex(p.Node), i)
}

// VIPs are a service's virtual addresses, IPv4 first. The service must be one of the Spec's.
func (c *Cluster) VIPs(service string) []netip.Addr {
	i := slices.IndexFunc(c.spec.Services, func(s Service) bool { return s.Name == service })
	if i < 0 {
		return nil
	}
	return vips(i)
}

// Spec is what the cluster was made from.
func (c *Cluster) Spec() Spec { return c.spec }

func (c *Cluster) makeNamespaces(context.Context) error {
	c.spec.Say(fmt.Sprintf("making %d nodes and %d pods as network namespaces", len(c.spec.Nodes), len(c.spec.Pods)))
	var names []string
	for _, place := range c.places() {
		names = append(names, c.netnsName(place))
		// One that exists belongs to somebody else, and must not get into our state file, which removes it.
		if _, err := os.Lstat(c.netnsPath(place)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists: another demo is up from another folder, or its folder was deleted (then: ip netns delete %s)",
				c.netnsPath(place), c.netnsName(place))
		}
	}
	c.record.Namespaces = names
	if err := c.record.save(); err != nil {
		return err
	}
	for _, place := range c.places() {
		netns, err := wire.Make(c.netnsPath(place))
		if err != nil {
			return err
		}
		c.nets[place] = netns
	}
	return nil
}

func (c *Cluster) connect(context.Context) error {
	if err := makeFabric(c.nets[fabric]); err != nil {
		return err
	}
	for _, node := range c.spec.Nodes {
		if err := c.connectNode(node); err != nil {
			return err
		}
	}
	return nil
}

// connectNode connects a node with the fabric, and its pods with it.
func (c *Cluster) connectNode(node string) error {
	index := c.spec.nodeIndex(node)
	if err := joinFabric(c.nets[fabric], c.nets[node], node, index); err != nil {
		return err
	}
	var pods []netip.Addr
	for i, pod := range c.spec.Pods {
		addrs := podAddrs(c.spec.nodeIndex(pod.Node), i)
		pods = append(pods, addrs...)
		if pod.Node != node {
			continue
		}
		if err := joinNode(c.nets[node], c.nets[pod.Name], fmt.Sprintf("pod%d", i), gateway(index), addrs); err != nil {
			return fmt.Errorf("connect pod %s: %w", pod.Name, err)
		}
	}
	if err := routeNodes(c.nets[node], index, len(c.spec.Nodes)); err != nil {
		return err
	}
	return serveVIPs(c.nets[node], targets(c.spec), pods)
}

// run starts a program and writes it down.
func (c *Cluster) run(l launch) (*Process, error) {
	l.log = c.LogFile(l.name)
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := l.start()
	if err != nil {
		return nil, err
	}
	c.record.Processes = slices.DeleteFunc(c.record.Processes, func(old *Process) bool { return old.Name == p.Name && !old.Alive() })
	c.record.Processes = append(c.record.Processes, p)
	return p, c.record.save()
}

// Process finds a running program: istiod-lite, agent-NODE, ztunnel-NODE, or a pod's name.
func (c *Cluster) Process(name string) (*Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.record.Processes {
		if p.Name == name && p.Alive() {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%s doesn't run", name)
}

// Processes lists all programs that were started, also those that ended.
func (c *Cluster) Processes() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.record.Processes)
}

// Stop ends a program in order, and by force after the given patience. It returns when the program is gone.
func (c *Cluster) Stop(ctx context.Context, name string, patience time.Duration) error {
	p, err := c.Process(name)
	if err != nil {
		return err
	}
	return p.end(ctx, patience)
}

// Kill ends a program as a crash would, and returns when it is gone.
func (c *Cluster) Kill(ctx context.Context, name string) error {
	p, err := c.Process(name)
	if err != nil {
		return err
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	return p.wait(ctx)
}
