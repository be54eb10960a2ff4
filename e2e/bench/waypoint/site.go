package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/mesh/status"
	"github.com/tulle-mesh/tulle/mesh/token"
)

const (
	namespace        = "bench"
	node             = "one"
	gate             = "gate" // the waypoint's account, its Gateway and its service
	proxyPod         = "proxies"
	controlPlaneName = demo.ControlPlaneName
	gatewayLabel     = "gateway.networking.k8s.io/gateway-name"

	readyLimit = 20 * time.Second
	callLimit  = 60 * time.Second
)

// site is the pods and what runs in them.
type site struct {
	options
	self, istiod   string // programs
	cluster        *demo.Cluster
	client, server *remote
	proxies        map[string]*process // by role
	waypoints      []*waypoint
}

// waypoint is one that is measured, in a pod of its own.
type waypoint struct {
	candidate
	pod     string
	process *process
}

// services are virtual addresses of the server, by the names of cases.
func services() []string {
	names := []string{"change"}
	for _, c := range cases() {
		if c.service != "" && !slices.Contains(names, c.service) {
			names = append(names, c.service)
		}
	}
	return names
}

// build makes everything but the waypoints. The caller calls down, also after an error.
func (s *site) build(ctx context.Context) (err error) {
	if s.self, err = os.Executable(); err != nil {
		return err
	}
	bin := filepath.Join(s.dir, "bin")
	s.istiod = filepath.Join(bin, "istiod-lite")
	for path, from := range map[string]string{s.istiod: "istiod-lite", filepath.Join(bin, "waypoint"): "waypoint"} {
		if err := buildProgram(ctx, path, from); err != nil {
			return err
		}
	}
	spec := demo.Spec{
		Name: fmt.Sprintf("wpbench%d", os.Getpid()), Dir: filepath.Join(s.dir, "run"), Bare: true, Nodes: []string{node}, Programs: demo.Programs{Tulle: s.self, Istiod: s.istiod},
	}
	for _, name := range []string{"client", "server", proxyPod} {
		spec.Pods = append(spec.Pods, demo.Pod{Name: name, Namespace: namespace, Account: name, Node: node, Labels: map[string]string{"app": name}})
	}
	for i, c := range append([]candidate{{ours, filepath.Join(bin, "waypoint")}}, s.with...) {
		w := &waypoint{candidate: c, pod: fmt.Sprintf("gate%d", i)}
		s.waypoints = append(s.waypoints, w)
		spec.Pods = append(spec.Pods, demo.Pod{Name: w.pod, Namespace: namespace, Account: gate, Node: node, Labels: map[string]string{gatewayLabel: gate, demo.Label: "none"}})
	}
	spec.Services = []demo.Service{{Name: gate, Namespace: namespace, Selector: map[string]string{gatewayLabel: gate}, Ports: map[uint16]uint16{tunnelPort: tunnelPort}}}
	for _, name := range services() {
		spec.Services = append(spec.Services, demo.Service{Name: name, Namespace: namespace, Selector: map[string]string{"app": "server"}, Ports: map[uint16]uint16{80: httpPort, 81: grpcPort}})
	}
	if s.cluster, err = demo.Up(ctx, spec); err != nil {
		return err
	}
	if err := s.describe(); err != nil {
		return err
	}
	if err := s.cluster.StartIstiod(ctx); err != nil {
		return err
	}
	return s.furnish()
}

// buildProgram builds what is measured as it would be released.
func buildProgram(ctx context.Context, path, from string) error {
	say("building %s", from)
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", path, "github.com/tulle-mesh/tulle/"+from)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", from, err, out)
	}
	return nil
}

// describe writes what a person would write of the mesh, and in place of the node's agent that the server's pod is enrolled.
func (s *site) describe() error {
	if err := s.cluster.Apply("gateway", gatewayYAML); err != nil {
		return err
	}
	for _, label := range [][2]string{{demo.Label, demo.Ambient}, {"istio.io/use-waypoint", gate}} {
		if err := s.cluster.LabelNamespace(namespace, label[0], label[1]); err != nil {
			return err
		}
	}
	enrolled := map[string]status.Pod{}
	for _, name := range []string{"client", "server"} {
		enrolled[namespace+"/"+name] = status.Pod{UID: namespace + "-" + name, State: status.Enabled}
	}
	dir := filepath.Join(s.dir, "run", "status")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, node+".yaml"), status.Encode(status.File{Node: node, Pods: enrolled}), 0o644)
}

// furnish starts the parties, and the proxies that aren't waypoints.
func (s *site) furnish() (err error) {
	if s.server, err = s.party("server"); err != nil {
		return err
	}
	if s.client, err = s.party("client"); err != nil {
		return err
	}
	server := "http://" + netip.AddrPortFrom(s.addr("server"), httpPort).String()
	s.proxies = map[string]*process{}
	for role := range plain {
		env := []string{roleVariable + "=" + role, serverVariable + "=" + server[len("http://"):]}
		if s.proxies[role], err = s.start(proxyPod, role, measuredCore, s.self, env); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) addr(pod string) netip.Addr { return s.cluster.PodAddrs(pod)[0] }

// token makes what proves a pod to the control plane.
func (s *site) token(pod, account string) (file string, err error) {
	text, err := s.cluster.MintToken(token.Claims{Node: node, Account: namespace + "/" + account, TTL: time.Hour})
	if err != nil {
		return "", err
	}
	file = filepath.Join(s.dir, "run", "tokens", pod)
	return file, os.WriteFile(file, []byte(text), 0o600)
}

// remote is a party, to talk to.
type remote struct {
	*process
	rpc *rpc.Client
}

func (s *site) party(pod string) (*remote, error) {
	file, err := s.token(pod, pod)
	if err != nil {
		return nil, err
	}
	p, err := s.start(pod, pod, otherCore, s.self, []string{
		roleVariable + "=" + roleParty, accountVariable + "=" + pod, planeVariable + "=" + s.cluster.ControlPlane().String(), rootVariable + "=" + s.cluster.RootFile(),
		tokenVariable + "=" + file,
	})
	if err != nil {
		return nil, err
	}
	return &remote{p, rpc.NewClient(p)}, nil
}

func (r *remote) call(method string, argument, reply any) error {
	call := r.rpc.Go("Party."+method, argument, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		return call.Error
	case <-time.After(callLimit):
		return fmt.Errorf("no answer to %s within %s", method, callLimit)
	}
}

// startWaypoint starts one, and waits until it is ready.
func (s *site) startWaypoint(ctx context.Context, w *waypoint) (time.Duration, error) {
	file, err := s.token(w.pod, gate)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	w.process, err = s.start(w.pod, w.name, measuredCore, w.binary, []string{
		`PROXY_CONFIG={"discoveryAddress":"` + s.cluster.ControlPlane().String() + `"}`,
		"XDS_ROOT_CA=" + s.cluster.RootFile(), "CA_ROOT_CA=" + s.cluster.RootFile(), "ALT_XDS_HOSTNAME=" + controlPlaneName, "ALT_CA_HOSTNAME=" + controlPlaneName,
		"AUTH_TOKEN=" + file, "NODE_NAME=" + node, "POD_NAME=" + w.pod, "POD_NAMESPACE=" + namespace, "SERVICE_ACCOUNT=" + gate,
		"GATEWAY_NAME=" + gate, "INSTANCE_IP=" + s.addr(w.pod).String(), "ISTIO_CPU_LIMIT=1",
	}, "proxy", "waypoint")
	if err != nil {
		return 0, err
	}
	for {
		if _, err = s.get(ctx, w.pod, "http://127.0.0.1:15021/healthz/ready"); err == nil {
			return time.Since(began), nil
		}
		if dead := w.process.alive(); dead != nil || time.Since(began) > readyLimit {
			return 0, errors.Join(fmt.Errorf("%s isn't ready: %w", w.name, err), dead)
		}
		time.Sleep(500 * time.Microsecond)
	}
}

// down ends everything.
func (s *site) down() error {
	for _, w := range s.waypoints {
		w.process.stop()
	}
	for _, p := range s.proxies {
		p.stop()
	}
	for _, r := range []*remote{s.client, s.server} {
		if r != nil {
			r.stop()
		}
	}
	if s.cluster == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	return s.cluster.Down(ctx)
}
