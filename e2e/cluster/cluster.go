// Package cluster runs a real Kubernetes of several nodes on this machine: etcd, the API server, controllers, scheduler, kubelets, kube-proxies,
// containerd and CoreDNS, each node in namespaces of its own. It needs root.
//
//	c, err := cluster.Up(ctx, cluster.Config{Name: "mine", Nodes: 3, Say: say})  // 15 s; the first time on a machine minutes
//	defer c.Down()                                                             // or it ends with this process, and the next Up cleans up
//	err = c.Load(ctx, "bin/images/ztunnel.tar")                                 // images that pods can run
//	out, err := c.Kubectl(ctx, yaml, "apply", "-f", "-")
//	err = c.Stop(2); err = c.Boot(ctx, 2)                                       // as a crash of a machine, and its boot from the same disk
//
// The nodes are joined by a network namespace, the fabric, from where everything of the cluster can be reached; the machine's own network isn't
// touched. What takes long to make is in the user's cache folder: Kubernetes' programs, built out of their Go modules, and containerd, runc
// and the like, out of the distribution's packages.
package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/cli/wire"
	"github.com/tulle-mesh/tulle/e2e/cluster/cgroup"
)

// Config says what cluster to make.
type Config struct {
	Name   string       // one or more small letters and digits; "" for one that no other has, which ends with this process
	Number int          // from 0 to 9, of its networks: those of different numbers don't overlap
	Nodes  int          // from 1 to 9; 0 for 3
	Keep   bool         // it stays when this process ends, until somebody takes it down by its name
	Logs   string       // folder for everything that is known, when it doesn't come up; "" for nowhere
	Say    func(string) // is told what takes long; nil for nobody

	Images func(context.Context) (archives []string, err error) // are made while it comes up, and given to every node; nil for none
}

// Cluster is a running one.
type Cluster struct {
	spec   Spec     // none of one that was given
	given  bool     // by a kubeconfig; nothing of it is ours
	others []string // the nodes of one that was given
	fabric *wire.Netns
	nodes  map[int]*exec.Cmd // those that this process has started
	unlock func()            // that it is ours; nil if nobody's
}

// Up makes a cluster, and waits until its nodes are ready and names are answered. What clusters of dead processes have left goes first.
func Up(ctx context.Context, config Config) (*Cluster, error) {
	if config.Say == nil {
		config.Say = func(string) {}
	}
	spec := Spec{Name: config.Name, Number: config.Number, Nodes: config.Nodes, Kept: config.Keep}
	if spec.Nodes == 0 {
		spec.Nodes = 3
	}
	if spec.Name == "" {
		spec.Name = fmt.Sprintf("t%dn%d", os.Getpid(), spec.Number)
	}
	if err := errors.Join(spec.check(), able()); err != nil {
		return nil, err
	}
	programs, err := Build(ctx, config.Say)
	if err != nil {
		return nil, err
	}
	spec.Programs = programs.dir
	if spec.Packages, err = packages(ctx, config.Say); err != nil {
		return nil, err
	}
	c, err := claim(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := c.upWith(ctx, config.Images); err != nil {
		err = fmt.Errorf("cluster %s: %w", spec.Name, err)
		if config.Logs != "" {
			err = errors.Join(err, c.Collect(config.Logs))
		}
		return nil, errors.Join(err, c.Down())
	}
	return c, nil
}

// able tells what this machine lacks.
func able() error {
	if os.Geteuid() != 0 {
		return errors.New(`nodes are made of namespaces, which needs root: sudo env "PATH=$PATH" make cluster-up`)
	}
	for _, tool := range []string{"go", "nsenter", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("a cluster needs the program %s: %w", tool, err)
		}
	}
	_, err := cgroup.List()
	return err
}

// upWith brings the cluster up while images are made: the one waits more than it works.
func (c *Cluster) upWith(ctx context.Context, images func(context.Context) ([]string, error)) error {
	if images == nil {
		return c.up(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var archives []string
	made := make(chan error, 1)
	go func() {
		var err error
		archives, err = images(ctx)
		made <- err
	}()
	err := c.up(ctx)
	if err != nil {
		cancel()
	}
	if err := errors.Join(err, <-made); err != nil {
		return err
	}
	return c.Load(ctx, archives...)
}

func (c *Cluster) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute) // a matter of seconds, unless other work is done on the machine
	defer cancel()
	if err := roomForWatches(); err != nil {
		return err
	}
	if err := c.spec.writeKeys(); err != nil {
		return err
	}
	if err := build(ctx, c.program(), Version, "e2e/cluster/command"); err != nil {
		return err
	}
	var err error
	if c.fabric, err = makeFabric(c.spec); err != nil {
		return err
	}
	for node := range c.each() {
		if err := c.start(node); err != nil {
			return err
		}
	}
	archive, err := TestImage(ctx)
	if err != nil {
		return err
	}
	if err := c.Load(ctx, archive); err != nil {
		return err
	}
	if err := c.await(ctx, "the API server", "get", "--raw", "/readyz"); err != nil {
		return err
	}
	names := strings.NewReplacer("PROGRAMS", c.spec.Programs, "ADDRESS", c.spec.DNS().String(), "IMAGE", Image("app")).Replace(coredns)
	if _, err := c.Kubectl(ctx, names, "apply", "-f", "-"); err != nil {
		return err
	}
	for node := range c.each() {
		if err := c.Ready(ctx, node); err != nil {
			return err
		}
	}
	_, err = c.Kubectl(ctx, "", "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s")
	return err
}

// coredns answers names. It is run from the programs that the nodes run themselves.
//
//go:embed coredns.yaml
var coredns string

// each are the numbers of the nodes.
func (c *Cluster) each() func(func(int) bool) {
	return func(yield func(int) bool) {
		for node := 1; node <= c.spec.Nodes && yield(node); node++ {
		}
	}
}

// program is what becomes a node.
func (c *Cluster) program() string { return filepath.Join(c.spec.Dir, "tulle-node") }

const module = "github.com/tulle-mesh/tulle/"

// build compiles programs of the project, which say that they are of a version, into a folder; or one into a file.
func build(ctx context.Context, to, version string, paths ...string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags=grpcnotrace", "-ldflags=-s -w -X main.version=" + version, "-o", to}
	for _, path := range paths {
		args = append(args, module+path)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return run(cmd)
}

// start is a node's life from power on: its network is new, its disk is what it was.
func (c *Cluster) start(node int) error {
	netns, err := plug(c.spec, c.fabric, node)
	if err != nil {
		return err
	}
	defer netns.Close()
	if err := os.MkdirAll(c.spec.NodeDir(node), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(c.spec.NodeDir(node), "node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(c.program(), "node", c.spec.Dir, fmt.Sprint(node))
	cmd.Env = []string{"HOME=/root", "PATH=" + c.spec.Programs + ":/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	if err := netns.Do(cmd.Start); err != nil {
		return fmt.Errorf("start node %s: %w", c.spec.NodeName(node), err)
	}
	c.nodes[node] = cmd
	return nil
}

// Stop pulls the plug of a node.
func (c *Cluster) Stop(node int) error {
	if c.given {
		return errGiven
	}
	err := cgroup.Remove(c.spec.NodeGroup(node))
	if cmd := c.nodes[node]; cmd != nil {
		cmd.Process.Kill() // if it hasn't come as far as to its group
		cmd.Wait()
		delete(c.nodes, node)
	}
	return errors.Join(err, unplug(c.spec, node))
}

// Boot starts a stopped node, and waits until it is ready again.
func (c *Cluster) Boot(ctx context.Context, node int) error {
	if c.given {
		return errGiven
	}
	if err := c.start(node); err != nil {
		return err
	}
	return c.Ready(ctx, node)
}

// Ready waits until a node's kubelet answers and Kubernetes finds the node ready, which it does for a while of one that is gone.
func (c *Cluster) Ready(ctx context.Context, node int) error {
	name := c.spec.NodeName(node)
	if err := c.await(ctx, "the kubelet of "+name, "get", "--raw", "/api/v1/nodes/"+name+"/proxy/healthz"); err != nil {
		return err
	}
	return c.await(ctx, "node "+name, "wait", "--for=condition=Ready", "--timeout=1s", "node/"+name)
}

// await repeats a command of kubectl until it succeeds.
func (c *Cluster) await(ctx context.Context, what string, args ...string) error {
	return demo.Await(ctx, what, func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "", args...)
		return err
	})
}

// Down ends a cluster and removes all that it has made. One that was given stays as it is.
func (c *Cluster) Down() error {
	if c.given {
		return nil
	}
	var errs []error
	for node := range c.each() {
		errs = append(errs, c.Stop(node))
	}
	if c.fabric != nil {
		c.fabric.Close()
	}
	errs = append(errs, clear(c.spec))
	if c.unlock != nil {
		c.unlock()
	}
	return errors.Join(errs...)
}

// clear removes whatever there is of a cluster, however far its making came. Its folder goes last, so that it can be repeated.
func clear(spec Spec) error {
	errs := []error{cgroup.Remove(spec.Group())}
	for node := range spec.Nodes {
		errs = append(errs, unplug(spec, node+1))
	}
	errs = append(errs, wire.Remove(place(spec, "fabric")))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.RemoveAll(spec.Dir); err != nil {
		return err
	}
	return leaveWatches()
}

// Find returns a cluster that is up already, by its name.
func Find(name string) (*Cluster, error) {
	base, err := cache("clusters")
	if err != nil {
		return nil, err
	}
	spec, err := ReadSpec(filepath.Join(base, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cluster %s is up: make cluster-up", name)
	}
	if err != nil {
		return nil, err
	}
	c := &Cluster{spec: spec, nodes: map[int]*exec.Cmd{}}
	if c.fabric, err = wire.Open(place(spec, "fabric")); err != nil {
		return c, nil // Down is all that can be done with it
	}
	return c, nil
}

// claim makes a cluster's folder and holds it, after what others have left is gone.
func claim(ctx context.Context, spec Spec) (*Cluster, error) {
	base, err := cache("clusters")
	if err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, base, func() {})
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := sweep(base); err != nil {
		return nil, fmt.Errorf("remove what an earlier cluster has left: %w", err)
	}
	spec.Dir = filepath.Join(base, spec.Name)
	if err := os.Mkdir(spec.Dir, 0o755); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("cluster %s is up already: make cluster-down", spec.Name)
	} else if err != nil {
		return nil, err
	}
	c := &Cluster{spec: spec, nodes: map[int]*exec.Cmd{}}
	if err := spec.write(); err != nil {
		return nil, err
	}
	c.unlock, err = tryLock(filepath.Join(spec.Dir, "owner"))
	return c, err
}

// sweep removes the clusters that should have ended with a process that is gone.
func sweep(base string) error {
	entries, err := os.ReadDir(base)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !e.IsDir() })
	var errs []error
	for _, entry := range entries {
		dir := filepath.Join(base, entry.Name())
		spec, err := ReadSpec(dir)
		if err != nil { // its maker was killed before it had made anything else
			errs = append(errs, os.RemoveAll(dir))
			continue
		}
		unlock, err := tryLock(filepath.Join(dir, "owner"))
		if spec.Kept || errors.Is(err, errLocked) {
			continue
		}
		if err == nil {
			err = clear(spec)
			unlock()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
