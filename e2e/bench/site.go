package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/cli/wire"
	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/e2e/bench/load"
	"github.com/tulle-mesh/tulle/e2e/bench/relay"
)

// side is one of a site's two nodes, with its pod.
type side struct {
	node, pod string
	podNetns  *wire.Netns
	nodeNetns *wire.Netns
	program   *process     // in the pod
	load      *load.Remote // the same, to talk to
	proxy     *process     // nil: none
	agent     *agent       // of a ztunnel's side
}

// site is a column that is built: two nodes with a pod each, a client and a server, and what is between them.
type site struct {
	column
	options options
	built   binaries
	cluster *demo.Cluster
	client  *side
	server  *side
	to      netip.Addr // the server pod's
}

// binaries are the programs that are built for the benchmark.
type binaries struct{ self, ztunnel, istiod string }

const (
	namespace  = "bench"
	readyLimit = 20 * time.Second
	downLimit  = 20 * time.Second
)

// build makes everything of a site but the proxies. The caller calls down, also after an error.
func (s *site) build(ctx context.Context) error {
	name := "bench" + fmt.Sprint(os.Getpid()) + strings.Map(letters, s.name)
	spec := demo.Spec{
		Name: name, Dir: filepath.Join(s.options.dir, s.name), Bare: true, Nodes: []string{"one", "two"},
		Programs: demo.Programs{Tulle: s.built.self, Istiod: s.built.istiod},
		Pods: []demo.Pod{
			{Name: "client", Namespace: namespace, Account: "client", Node: "one"},
			{Name: "server", Namespace: namespace, Account: "server", Node: "two"},
		},
	}
	var err error
	if s.cluster, err = demo.Up(ctx, spec); err != nil {
		return err
	}
	s.client, s.server = &side{node: "one", pod: "client"}, &side{node: "two", pod: "server"}
	s.to = s.cluster.PodAddrs("server")[0]
	for _, side := range s.sides() {
		if err := s.furnish(side); err != nil {
			return err
		}
	}
	if s.role == roleTLSRelay {
		return relay.WriteCredential(s.credential())
	}
	if s.ztunnel() {
		return s.buildMesh(ctx)
	}
	return nil
}

func letters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
		return r
	}
	return -1
}

// sides are the client's and the server's; none before build has begun.
func (s *site) sides() []*side {
	if s.client == nil {
		return nil
	}
	return []*side{s.client, s.server}
}

func (s *site) file(name string) string { return filepath.Join(s.options.dir, s.name, name) }

// furnish gives a pod its kernel parameters, its rules and its load program.
func (s *site) furnish(side *side) (err error) {
	if side.nodeNetns, err = s.cluster.Netns(side.node); err != nil {
		return err
	}
	if side.podNetns, err = s.cluster.Netns(side.pod); err != nil {
		return err
	}
	if !s.direct() {
		// The candidates may be foreign ones, so it is what works with all.
		engines, err := redirect.New(redirect.Config{Engine: string(redirect.NFT), Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			err = engines.Set(side.podNetns.Netns, redirect.Desired{State: redirect.Capture})
		}
		if err != nil {
			return err
		}
	}
	if err := widen(side.podNetns); err != nil {
		return err
	}
	side.program, err = launch{
		netns: side.podNetns, path: s.built.self, env: []string{roleVariable + "=" + roleLoad}, log: s.file("log/load-" + side.pod), talks: true,
	}.start()
	if err == nil {
		side.load = load.NewRemote(side.program.stdin, side.program.stdout)
	}
	return err
}

// down removes everything.
func (s *site) down() error {
	if s.cluster == nil {
		return nil
	}
	s.stop()
	for _, side := range s.sides() {
		if side.agent != nil {
			side.agent.end()
		}
		if side.program != nil {
			side.load.Close()
			side.program.stop(syscall.SIGTERM)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), downLimit)
	defer cancel()
	return s.cluster.Down(ctx)
}

// start starts the proxies, without waiting for them.
func (s *site) start() error {
	for _, side := range s.sides() {
		var err error
		switch {
		case s.direct():
		case s.ztunnel():
			side.proxy, err = s.startZtunnel(side)
		default: // in the pod itself, so that it need not enter it for each socket
			side.proxy, err = launch{
				netns: side.podNetns, path: s.built.self, log: s.file("log/relay-" + side.pod),
				env: []string{roleVariable + "=" + s.role, credentialVariable + "=" + s.credential()},
			}.start()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *site) credential() string { return s.file("relay.pem") }

// stop ends the proxies, whose connections should have ended.
func (s *site) stop() {
	for _, side := range s.sides() {
		if side.proxy != nil {
			side.proxy.stop(syscall.SIGTERM)
			side.proxy = nil
		}
	}
}

// ready starts the proxies and returns when a byte has come through.
func (s *site) ready() error {
	if err := s.start(); err != nil {
		return err
	}
	_, err := s.client.load.First(s.to)
	return errors.Join(err, s.alive())
}

// alive tells whether all of the site's programs run.
func (s *site) alive() error {
	var errs []error
	for _, p := range append(s.proxies(), s.client.program, s.server.program) {
		if err := p.alive(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *site) proxies() []*process {
	var all []*process
	for _, side := range s.sides() {
		if side.proxy != nil {
			all = append(all, side.proxy)
		}
	}
	return all
}

// running is what both proxies ran.
func (s *site) running() (running, error) {
	var sum running
	for _, p := range s.proxies() {
		r, err := p.running()
		if err != nil {
			return sum, errors.Join(err, s.alive())
		}
		sum.time += r.time
		sum.turns += r.turns
	}
	return sum, nil
}

// usage is the CPU time of both proxies.
func (s *site) usage() (usage, error) {
	var sum usage
	for _, p := range s.proxies() {
		u, err := p.usage()
		if err != nil {
			return sum, errors.Join(err, s.alive())
		}
		sum = sum.plus(u)
	}
	return sum, nil
}
