// Package story is what `tulle demo` tells: a small web application on two simulated nodes, six steps, and for each the
// evidence that what is said is so.
package story

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// DefaultDir is where a demo lives unless told.
const DefaultDir = "/run/tulle-demo"

// Config says how to tell it.
type Config struct {
	Out        io.Writer
	Invocation // Dir is the run folder, which Tell makes and removes
	Programs   demo.Programs
	Keep       bool // leave the cluster up
}

// Namespaces, pods and accounts of the story. The frontend and the visitor live on node1, the backends on node2, so that
// every call crosses from node to node.
const (
	shopNamespace  = "shop"
	guestNamespace = "guest"
	frontend       = "frontend"
	visitor        = "visitor"
	backendURL     = "http://backend.shop:8080/"
	backendPort    = 8080
)

// Cluster is the story's scene.
func Cluster(dir string, programs demo.Programs) demo.Spec {
	backend := func(version string) demo.Pod {
		return demo.Pod{
			Name: "backend-" + version, Namespace: shopNamespace, Account: "backend", Node: "node2",
			Labels:  map[string]string{"app": "backend", "version": version},
			Command: []string{programs.Tulle, "app", "backend", "--version", version},
		}
	}
	return demo.Spec{
		Name: name(dir), Dir: dir, Programs: programs,
		Nodes: []string{"node1", "node2"},
		Pods: []demo.Pod{
			{
				Name: frontend, Namespace: shopNamespace, Account: "frontend", Node: "node1",
				Labels:  map[string]string{"app": "frontend"},
				Command: []string{programs.Tulle, "app", "frontend", "--backend", backendURL},
			},
			backend("v1"), backend("v2"),
			{Name: visitor, Namespace: guestNamespace, Account: "visitor", Node: "node1", Labels: map[string]string{"app": "visitor"}},
		},
		Services: []demo.Service{
			{Name: "frontend", Namespace: shopNamespace, Selector: map[string]string{"app": "frontend"}, Ports: map[uint16]uint16{80: 8080}},
			{Name: "backend", Namespace: shopNamespace, Selector: map[string]string{"app": "backend"}, Ports: map[uint16]uint16{backendPort: 8080}},
		},
	}
}

// name tells demos in different folders apart, so that they can be up at the same time.
func name(dir string) string {
	if filepath.Clean(dir) == DefaultDir {
		return "demo"
	}
	return fmt.Sprintf("demo%08x", crc32.ChecksumIEEE([]byte(dir)))
}

// Story is one run of the demo: the cluster with the traffic that goes on through all steps.
type Story struct {
	cluster *demo.Cluster
	say     *teller
	load    *demo.Load
	plain   *demo.Held // opened before anything is meshed
	carried *demo.Held // opened through the mesh
	curl    string     // path of curl, or ""
}

// Step is one part of the story. Run returns an error for the first thing that doesn't hold.
type Step struct {
	Title string
	Run   func(*Story, context.Context) error
}

// Steps are the story in order.
func Steps() []Step {
	return []Step{
		{"Unmeshed: whoever sits between the nodes can read everything", (*Story).unmeshed},
		{"Two namespaces are labelled: running pods join the mesh", (*Story).meshed},
		{"A policy lets the frontend alone call the backend", (*Story).policy},
		{"STRICT: who is not in the mesh is refused", (*Story).strict},
		{"The control plane dies and comes back", (*Story).outage},
		{"The labels are removed: plain again", (*Story).unlabelled},
	}
}

// Tell builds the cluster, runs the steps and removes everything, unless it's to be kept. Its error says which steps
// don't hold.
func Tell(ctx context.Context, cfg Config) (err error) {
	say := &teller{out: cfg.Out}
	spec := Cluster(cfg.Dir, cfg.Programs)
	spec.Say = say.note
	began := time.Now()
	cluster, err := demo.Up(ctx, spec)
	if err != nil {
		return err
	}
	kept := false
	defer func() {
		if kept {
			return
		}
		say.note("removing everything")
		clearing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		err = errors.Join(err, cluster.Down(clearing))
	}()
	err = tell(ctx, cluster, say)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err == nil {
		say.note(fmt.Sprintf("all six steps hold, after %.0f s", time.Since(began).Seconds()))
	}
	if cfg.Keep {
		kept = true
		return errors.Join(err, keep(ctx, cluster, cfg))
	}
	if err != nil {
		err = fmt.Errorf("%w (to look around: %s)", err, cfg.Line("--keep"))
	}
	return err
}

// tell runs the steps with the traffic around them.
func tell(ctx context.Context, cluster *demo.Cluster, say *teller) error {
	s, err := Begin(ctx, cluster, say.out)
	if err != nil {
		return err
	}
	defer s.End()
	for i, step := range Steps() {
		began := time.Now()
		say.title(i+1, step.Title)
		err := step.Run(s, ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			say.fails(err)
			return fmt.Errorf("step %d doesn't hold: %w", i+1, err)
		}
		say.line("  (%.1f s)", time.Since(began).Seconds())
	}
	return s.Sum(ctx)
}

// Begin starts the traffic that goes on through all steps.
func Begin(ctx context.Context, cluster *demo.Cluster, out io.Writer) (*Story, error) {
	s := &Story{cluster: cluster, say: &teller{out: out}}
	s.curl, _ = exec.LookPath("curl")
	vip := cluster.VIPs("backend")[0]
	url := fmt.Sprintf("http://%s:%d/", vip, backendPort)
	for _, pod := range []string{frontend, "backend-v1", "backend-v2"} {
		err := demo.AwaitWithin(ctx, 10*time.Second, pod+" to answer", func(ctx context.Context) error {
			_, err := cluster.Get(ctx, visitor, fmt.Sprintf("http://%s:8080/", cluster.PodAddrs(pod)[0]))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	var err error
	if s.load, err = cluster.StartLoad(ctx, frontend, url, 2, 20*time.Millisecond); err != nil {
		return nil, err
	}
	if s.plain, err = cluster.Hold(ctx, frontend, s.backend(), 100*time.Millisecond); err != nil {
		s.End()
		return nil, err
	}
	return s, nil
}

// End stops the traffic.
func (s *Story) End() {
	s.load.Stop()
	for _, held := range []*demo.Held{s.plain, s.carried} {
		if held != nil {
			held.Close()
		}
	}
}

// backend is the backend's virtual address.
func (s *Story) backend() netip.AddrPort {
	return netip.AddrPortFrom(s.cluster.VIPs("backend")[0], backendPort)
}

// Sum says what became of the traffic of all steps.
func (s *Story) Sum(ctx context.Context) error {
	s.say.line("\nIn all:")
	if err := s.noneFailed(0, 0); err != nil {
		return err
	}
	return errors.Join(s.lives(ctx, s.plain, "opened before step 2"), s.lives(ctx, s.carried, "opened in step 2, through the mesh"))
}
