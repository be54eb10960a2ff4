package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"text/template"

	"github.com/tulle-mesh/tulle/cni-plugin/zds"
)

// agent hands the pods of a node to its ztunnel.
type agent struct {
	socket string
	cancel context.CancelFunc
	ended  chan error
}

// startAgent serves a node's ztunnel, which comes and goes.
func startAgent(pod zds.Workload, netns *os.File, socket, log string) (*agent, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		netns.Close()
		return nil, err
	}
	server := zds.NewServer(slog.New(slog.NewTextHandler(file, nil)))
	server.Register(pod, netns)
	ctx, cancel := context.WithCancel(context.Background())
	a := &agent{socket: socket, cancel: cancel, ended: make(chan error, 1)}
	go func() {
		defer file.Close()
		a.ended <- server.Serve(ctx, socket)
	}()
	return a, nil
}

func (a *agent) end() {
	a.cancel()
	<-a.ended
}

// local is the configuration of a ztunnel, the form of which all ztunnels share: two pods and a policy that has to be
// evaluated for each connection.
var local = template.Must(template.New("").Parse(`workloads:
{{- range .}}
- uid: Kubernetes//Pod/bench/{{.Pod}}
  name: {{.Pod}}
  namespace: bench
  serviceAccount: {{.Pod}}
  workloadIps: [{{range $i, $addr := .Addrs}}{{if $i}}, {{end}}"{{$addr}}"{{end}}]
  protocol: HBONE
  node: {{.Node}}
  trustDomain: cluster.local
  canonicalName: {{.Pod}}
  canonicalRevision: v1
  workloadName: {{.Pod}}
  clusterId: Kubernetes
{{- end}}
policies:
- name: allow-client
  namespace: bench
  scope: Namespace
  action: Allow
  rules:
  - - - principals: [{Exact: cluster.local/ns/bench/sa/client}]
`))

// buildMesh makes what ztunnels need around them: an authority, an agent on each node, a file of configuration.
func (s *site) buildMesh(ctx context.Context) error {
	if err := s.cluster.StartIstiod(ctx); err != nil {
		return err
	}
	for _, side := range s.sides() {
		netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", side.program.pid()))
		if err != nil {
			return err
		}
		pod := zds.Workload{UID: namespace + "-" + side.pod, Namespace: namespace, Name: side.pod, ServiceAccount: side.pod}
		if side.agent, err = startAgent(pod, netns, s.file("run/"+side.node+".sock"), s.file("log/agent-"+side.node)); err != nil {
			return err
		}
		if err := s.describe(side); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) localFile(side *side) string { return s.file(side.node + ".yaml") }

func (s *site) describe(side *side) error {
	type pod struct{ Pod, Node, Addrs any }
	var pods []pod
	for _, other := range s.sides() {
		pods = append(pods, pod{other.pod, other.node, s.cluster.PodAddrs(other.pod)})
	}
	var text strings.Builder
	if err := local.Execute(&text, pods); err != nil {
		return err
	}
	return os.WriteFile(s.localFile(side), []byte(text.String()), 0o644)
}

// startZtunnel starts the ztunnel of a node. How many threads it has is left to it.
func (s *site) startZtunnel(side *side) (*process, error) {
	binary := s.binary
	if binary == "" {
		binary = s.built.ztunnel
	}
	authority := "https://" + s.cluster.ControlPlane().String()
	env := []string{
		"LOCAL_XDS_PATH=" + s.localFile(side), "XDS_ADDRESS=",
		"CA_ADDRESS=" + authority, "CA_ROOT_CA=" + s.cluster.RootFile(), "ALT_CA_HOSTNAME=istiod.istio-system.svc",
		"AUTH_TOKEN=" + s.cluster.TokenFile(side.node), "NODE_NAME=" + side.node, "CLUSTER_ID=Kubernetes",
		"INPOD_UDS=" + side.agent.socket, "RUST_LOG=info", "PROXY_MODE=shared",
	}
	p, err := launch{
		netns: side.nodeNetns, path: binary, args: []string{"proxy", "ztunnel"}, env: append(env, s.options.env...), log: s.ztunnelLog(side), silent: true,
	}.start()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	return p, nil
}

func (s *site) ztunnelLog(side *side) string { return s.file("log/ztunnel-" + side.node) }

// trimLogs keeps access logs from filling the disk.
func (s *site) trimLogs() {
	for _, side := range s.sides() {
		if info, err := os.Stat(s.ztunnelLog(side)); err == nil && info.Size() > maxLog {
			os.Truncate(s.ztunnelLog(side), 0)
		}
	}
}

const maxLog = 64 << 20
