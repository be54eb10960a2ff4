package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// The pods. All are meshed; the guest leaves the mesh and comes back.
const (
	client = "client" // node1; its connections are counted
	near   = "near"   // node1
	far    = "far"    // node2
	guest  = "guest"  // node1
)

const (
	port      = 9000
	secretTTL = 40 * time.Second // certificates are renewed at half of it

	// mayClash is the share of connections that a pod may lose that leaves the mesh and comes back: in the server's namespace one of
	// its own ports may be in use by ztunnel for a connection in its name, or the other way round.
	mayClash = 0.02

	filesSlack      = 24 // pooled tunnels that differ from one calm to the next
	goroutinesSlack = 24
	memorySlack     = 1.35
	memoryFloor     = 8 << 20     // bytes by which memory may always grow
	givesBack       = time.Minute // how long programs may take to give back what they held
)

// clusterName is in the name of everything that this process makes.
var clusterName = fmt.Sprintf("soak%d", os.Getpid())

type options struct {
	duration, round time.Duration
	calm            time.Duration // before what programs hold is compared
	epoch           int           // rounds from one interruption to the next; what programs hold is compared over them
	dir             string
	env             []string // of ztunnels, beside what this is about
	say             func(string)
}

// soak is one run.
type soak struct {
	options
	cluster *demo.Cluster
	pause   time.Duration // between disturbances
	window  atomic.Uint64 // odd while failures are allowed
	counted *traffic      // of the client
	others  *traffic      // of the guest
	servers sync.WaitGroup
	closers []func()

	disturbed, interrupted int
	first                  map[string]usage // of each program at the first calm of an epoch
	last                   map[string]usage // and at the latest
	counts                 struct{ connections, failed, clashed, excused, bytes uint64 }
	wrong                  []string
}

// run goes through the whole of it. What it leaves behind is an error as well.
func run(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root to make network namespaces: sudo env \"PATH=$PATH\" make soak")
	}
	if _, err := demo.CleanUp(ctx, filepath.Join(o.dir, "cluster")); err != nil {
		return err
	}
	s := &soak{options: o, pause: o.round / 8, first: map[string]usage{}, last: map[string]usage{}}
	err := s.up(ctx)
	if err == nil {
		if err = s.rounds(ctx); ctx.Err() != nil {
			err = nil // whoever ended it early wants to know as well
		}
		s.summary()
	}
	err = errors.Join(err, s.down())
	if len(s.wrong) > 0 {
		err = errors.Join(err, errors.New("\n  "+strings.Join(s.wrong, "\n  ")))
	}
	return err
}

func (s *soak) up(ctx context.Context) error {
	programs, err := s.build(ctx)
	if err != nil {
		return err
	}
	pod := func(name, node string) demo.Pod {
		return demo.Pod{Name: name, Namespace: "app", Account: name, Node: node, Labels: map[string]string{"app": name}}
	}
	service := func(name string) demo.Service {
		return demo.Service{Name: name, Namespace: "app", Selector: map[string]string{"app": name}, Ports: map[uint16]uint16{80: port}}
	}
	s.cluster, err = demo.Up(ctx, demo.Spec{
		Name: clusterName, Dir: filepath.Join(s.dir, "cluster"), Programs: programs, Say: s.say,
		Env: append([]string{"SECRET_TTL=" + secretTTL.String()}, s.env...), Nodes: []string{"node1", "node2"},
		Pods:     []demo.Pod{pod(client, "node1"), pod(near, "node1"), pod(far, "node2"), pod(guest, "node1")},
		Services: []demo.Service{service(near), service(far)},
	})
	if err != nil {
		return err
	}
	if err := s.cluster.LabelNamespace("app", demo.Label, demo.Ambient); err != nil {
		return err
	}
	if err := s.cluster.AwaitMeshed(ctx, true, client, near, far, guest); err != nil {
		return err
	}
	var to []netip.AddrPort
	for _, server := range []string{near, far} {
		if err := s.listen(server); err != nil {
			return err
		}
		to = append(to, netip.AddrPortFrom(s.cluster.VIPs(server)[0], 80))
		for _, addr := range s.cluster.PodAddrs(server) {
			to = append(to, netip.AddrPortFrom(addr, port))
		}
	}
	s.counted, s.others = s.from(client, to), s.from(guest, to)
	return nil
}

// build makes the programs as they would be released.
func (s *soak) build(ctx context.Context) (p demo.Programs, err error) {
	for from, path := range map[string]*string{"ztunnel": &p.Ztunnel, "istiod-lite": &p.Istiod, "cni-plugin/node-agent": &p.Agent, "cli": &p.Tulle} {
		*path = filepath.Join(s.dir, "bin", filepath.Base(from))
		cmd := exec.CommandContext(ctx, "go", "build", "-tags=grpcnotrace", "-o", *path, "github.com/tulle-mesh/tulle/"+from)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return p, fmt.Errorf("build %s: %w\n%s", from, err, out)
		}
	}
	return p, nil
}

func (s *soak) from(pod string, to []netip.AddrPort) *traffic {
	return &traffic{pod: pod, to: to, window: &s.window, dial: func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
		return s.cluster.Dial(ctx, pod, to)
	}}
}

// listen serves in a pod until down.
func (s *soak) listen(pod string) error {
	netns, err := s.cluster.Netns(pod)
	if err != nil {
		return err
	}
	listener, err := netns.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port)})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { _ = listener.Close() })
	s.servers.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			s.servers.Go(func() {
				window := s.window.Load()
				if err := serve(conn); err != nil && window%2 == 0 && s.window.Load() == window {
					s.counted.fail(fmt.Sprintf("%s: %v", pod, err))
				}
			})
		}
	})
	return nil
}

// start starts all traffic and returns what ends it and waits.
func (s *soak) start() (end func()) {
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { s.counted.run(stop) })
	running.Go(func() { s.others.run(stop) })
	return func() {
		close(stop)
		running.Wait()
	}
}

// rounds goes on until time is over or something can't go on.
func (s *soak) rounds(ctx context.Context) error {
	began := time.Now()
	for n := 0; time.Since(began) < s.duration && ctx.Err() == nil; n++ {
		if err := s.turn(ctx, n%s.epoch); err != nil {
			return fmt.Errorf("round %d: %w", n+1, err)
		}
		s.say(fmt.Sprintf("%6s · %d connections, %d failed, %d clashed, %d excused · %.1f GB · %d disturbances, %d interruptions · ztunnels: %v · %v",
			time.Since(began).Round(time.Second), s.counts.connections, s.counts.failed, s.counts.clashed, s.counts.excused, float64(s.counts.bytes)/1e9,
			s.disturbed, s.interrupted, s.last[demo.Ztunnel("node1")], s.last[demo.Ztunnel("node2")]))
		if len(s.wrong) > 20 {
			return errors.New("too much is wrong to go on")
		}
	}
	return ctx.Err()
}

// turn is a round. In the last of an epoch connections are interrupted once they were counted, which begins everything anew.
func (s *soak) turn(ctx context.Context, n int) error {
	before, err := s.settled(ctx)
	if err != nil {
		return err
	}
	opened := s.counted.opened.Load()
	stop, ended := make(chan struct{}), make(chan error, 1)
	end := s.start()
	go func() { ended <- s.disturb(ctx, stop) }()
	select {
	case <-time.After(s.round):
	case <-ctx.Done():
	}
	close(stop)
	err = <-ended
	end()
	if err != nil {
		return err
	}
	after, err := s.settled(ctx)
	if err != nil {
		return err
	}
	s.account(s.counted.opened.Load()-opened, before, after)
	last := n == s.epoch-1
	if n == 0 || last {
		err = s.leaks(ctx, n)
	}
	if err == nil && last {
		err = s.interrupt(ctx)
	}
	return err
}

// settled waits until metrics know of no open connection of the client, and returns what they say.
func (s *soak) settled(ctx context.Context) (t tally, err error) {
	err = demo.AwaitWithin(ctx, patience, "every connection to be counted as closed", func(ctx context.Context) error {
		if t, err = s.tally(ctx); err != nil {
			return err
		}
		for reporter, opened := range t.opened {
			if closed := t.closed[reporter]; closed != opened {
				return fmt.Errorf("by the %s %d were opened and %d closed", reporter, opened, closed)
			}
		}
		return nil
	})
	return t, err
}

// account compares what the client has done with what metrics say of it.
func (s *soak) account(made uint64, before, after tally) {
	for _, reporter := range []string{"source", "destination"} {
		if n := after.opened[reporter] - before.opened[reporter]; n != made {
			s.complain(fmt.Sprintf("the client made %d connections, by metrics of the %s it were %d", made, reporter, n))
		}
	}
	guests, clashed := s.others.opened.Swap(0), s.others.failed.Swap(0)
	s.counts.connections += made + guests
	s.counts.clashed += clashed
	s.counts.failed += s.counted.failed.Swap(0)
	for _, t := range []*traffic{s.counted, s.others} {
		s.counts.bytes += t.bytes.Swap(0)
		s.counts.excused += t.excused.Swap(0)
	}
	s.complain(s.counted.told()...)
	if told := s.others.told(); float64(clashed) > mayClash*float64(guests)+5 {
		s.complain(append(told, fmt.Sprintf("%d of %d connections of the pod that leaves the mesh and comes back have failed", clashed, guests))...)
	}
}

// complain notes what is wrong.
func (s *soak) complain(lines ...string) {
	for _, line := range lines {
		s.say("WRONG: " + line)
	}
	s.wrong = append(s.wrong, lines...)
}

// leaks compares what programs hold in calm with the first calm of the epoch. What is given back late is no leak: on a machine with other
// work it takes a while.
func (s *soak) leaks(ctx context.Context, n int) error {
	names := []string{demo.Ztunnel("node1"), demo.Ztunnel("node2"), demo.Istiod}
	for deadline, wait := time.Now().Add(s.calm+givesBack), s.calm; ; wait = time.Second {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		leaking := ""
		for _, name := range names {
			now, err := s.usageOf(ctx, name)
			if err != nil {
				return err
			}
			s.last[name] = now
			if was, ok := s.first[name]; n == 0 || !ok || (name == demo.Istiod && now.files < was.files) {
				s.first[name] = now
			} else if now.above(was) {
				leaking = fmt.Sprintf("%s holds %v in calm, %d rounds before it were %v", name, now, n, was)
			}
		}
		if leaking == "" {
			return nil
		}
		if time.Now().After(deadline) {
			s.complain(leaking)
			return nil
		}
	}
}

func (s *soak) summary() {
	s.say(fmt.Sprintf("%d connections, %d failed, %d clashed, %d excused during interruptions; %.1f GB; %d disturbances, %d interruptions",
		s.counts.connections, s.counts.failed, s.counts.clashed, s.counts.excused, float64(s.counts.bytes)/1e9, s.disturbed, s.interrupted))
	for name, now := range s.last {
		s.say(fmt.Sprintf("%s in calm: first %v, last %v", name, s.first[name], now))
	}
}

// down removes everything and looks for what is left.
func (s *soak) down() error {
	for _, closer := range s.closers {
		closer()
	}
	var err error
	if s.cluster != nil {
		err = s.complaints()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = errors.Join(err, s.cluster.Down(ctx))
	}
	if left := traces(s.dir); len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  ")))
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// complaints are panics in the programs' logs.
func (s *soak) complaints() error {
	var errs []error
	for _, p := range s.cluster.Processes() {
		log, err := os.ReadFile(s.cluster.LogFile(p.Name))
		errs = append(errs, err)
		for _, word := range []string{"panic: ", "fatal error: "} {
			if at := strings.Index(string(log), word); at >= 0 {
				errs = append(errs, fmt.Errorf("%s: %.3000s", p.Name, log[at:]))
			}
		}
	}
	return errors.Join(errs...)
}
