package dns

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// A ztunnel of one workload lives in its pod, so our resolv.conf is the pod's. That of a node says nothing about its pods.
func TestSearchDomainsOfPods(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 10.0.0.1\nsearch corp.example example\noptions ndots:3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	node := NewNode(Config{
		Store: state.NewStore(), Metrics: telemetry.NewDNS(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler), Domain: "cluster.local", ResolvConf: path,
	})
	ours := Search{Domains: []string{"corp.example", "example"}, Ndots: 3, Own: true}
	for name, test := range map[string]struct {
		cfg  PodConfig
		want Search
	}{
		"we live in the pod":                {PodConfig{}, ours},
		"we live elsewhere":                 {PodConfig{Netns: new(socket.Netns)}, clusterSearch("demo", "cluster.local")},
		"we live elsewhere, but know its":   {PodConfig{Netns: new(socket.Netns), Own: &ResolvConf{Search: []string{"own"}, Ndots: 1}}, Search{Domains: []string{"own"}, Ndots: 1, Own: true}},
		"we live in the pod, but know more": {PodConfig{Own: &ResolvConf{Search: []string{"own"}}}, Search{Domains: []string{"own"}, Own: true}},
	} {
		test.cfg.Name, test.cfg.Namespace = "client", "demo"
		pod := node.Pod(test.cfg)
		if diff := cmp.Diff(test.want, pod.names.search); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		pod.Close()
	}
}
