package config_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

func TestDefaults(t *testing.T) {
	t.Chdir(t.TempDir())
	got, err := config.FromEnv([]string{"NODE_NAME=node1"})
	if err != nil {
		t.Fatal(err)
	}
	plane := settings.ControlPlane{Address: "https://localhost:15012", RootCA: "./var/run/secrets/istio/root-cert.pem", Headers: map[string]string{}}
	want := config.Config{
		Node:               "node1",
		ClusterID:          "Kubernetes",
		Self:               config.Self{TrustDomain: "cluster.local"},
		Proxying:           true,
		LocalhostAppTunnel: true,
		ZDS:                "/var/run/ztunnel/ztunnel.sock",
		Sockets: config.Sockets{IPv6: true, Mark: 1337, ReusePort: true, KeepAlive: net.KeepAliveConfig{
			Enable: true, Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 9}},
		Tunnels: config.Tunnels{MaxStreams: 100, IdleTimeout: 5 * time.Minute, ResponseBaggage: true,
			StreamWindow: 4 << 20, ConnectionWindow: 16 << 20, FrameSize: 1 << 20},
		DNS: config.DNS{Domain: "cluster.local", ResolvConf: "/etc/resolv.conf", Listen: []netip.AddrPort{
			netip.MustParseAddrPort("127.0.0.1:15053"), netip.MustParseAddrPort("[::1]:15053")}},
		XDS:          plane,
		CA:           plane,
		Metadata:     map[string]any{},
		SecretTTL:    24 * time.Hour,
		DrainTimeout: 5 * time.Second,
		Threads:      max((runtime.NumCPU()+3)/4, 2),
		Log:          config.Log{Levels: "info", Format: "plain"},
		Listen:       config.Listen{Admin: "localhost:15000", Metrics: ":15020", Ready: ":15021"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
}

// Each case names what a variable changes from the defaults.
func TestVariables(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, test := range []struct {
		environ string
		show    func(config.Config) any
		want    any
	}{
		{"NODE_NAME=node1", func(c config.Config) any { return c.Node }, "node1"},
		{"CLUSTER_ID=east", func(c config.Config) any { return c.ClusterID }, "east"},
		{"CLUSTER_ID=east ISTIO_META_CLUSTER_ID=west", func(c config.Config) any { return c.ClusterID }, "west"},
		{"NETWORK=n1", func(c config.Config) any { return c.Network }, "n1"},
		{"NODE_NAME= LOCAL_XDS={}", func(c config.Config) any { return c.Node }, ""},
		{"NODE_NAME= ENABLE_PROXY=false", func(c config.Config) any { return c.Node }, ""},
		{"POD_NAME=p POD_NAMESPACE=n SERVICE_ACCOUNT=s TRUST_DOMAIN=td INSTANCE_IP=10.0.0.9", func(c config.Config) any { return c.Self },
			config.Self{Name: "p", Namespace: "n", ServiceAccount: "s", TrustDomain: "td", IP: "10.0.0.9"}},
		{"LOCALHOST_APP_TUNNEL=false", func(c config.Config) any { return c.LocalhostAppTunnel }, false},
		{"ENABLE_PROXY=false", func(c config.Config) any { return c.Proxying }, false},
		{"INPOD_UDS=/tmp/z", func(c config.Config) any { return c.ZDS }, "/tmp/z"},
		{"IPV6_ENABLED=false", func(c config.Config) any { return c.Sockets.IPv6 }, false},
		{"PACKET_MARK=0x53a", func(c config.Config) any { return c.Sockets.Mark }, uint32(0x53a)},
		{"PACKET_MARK=1338", func(c config.Config) any { return c.Sockets.Mark }, uint32(1338)},
		{"INPOD_PORT_REUSE=false", func(c config.Config) any { return c.Sockets.ReusePort }, false},
		{"KEEPALIVE_TIME=10s KEEPALIVE_INTERVAL=5s KEEPALIVE_RETRIES=3", func(c config.Config) any { return c.Sockets.KeepAlive },
			net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}},
		{"KEEPALIVE_ENABLED=false", func(c config.Config) any { return c.Sockets.KeepAlive }, net.KeepAliveConfig{Idle: -1}},
		{"ENABLE_ORIG_SRC=true", func(c config.Config) any { return c.Sockets.Source }, config.SourceRequired},
		{"ENABLE_ORIG_SRC=false", func(c config.Config) any { return c.Sockets.Source }, config.SourceNever},
		{"POOL_MAX_STREAMS_PER_CONNECTION=7 POOL_UNUSED_RELEASE_TIMEOUT=1m ENABLE_RESPONSE_BAGGAGE=false " +
			"HTTP2_STREAM_WINDOW_SIZE=65536 HTTP2_CONNECTION_WINDOW_SIZE=131072 HTTP2_FRAME_SIZE=16384", func(c config.Config) any { return c.Tunnels },
			config.Tunnels{MaxStreams: 7, IdleTimeout: time.Minute, StreamWindow: 65536, ConnectionWindow: 131072, FrameSize: 16384}},
		{"USER_TIMEOUT_ENABLED=true", func(c config.Config) any { return c.Sockets.UserTimeout }, 30 * time.Minute},
		{"USER_TIMEOUT_ENABLED=true KEEPALIVE_TIME=10s KEEPALIVE_INTERVAL=5s KEEPALIVE_RETRIES=3", func(c config.Config) any { return c.Sockets.UserTimeout }, 25 * time.Second},
		{"PROXY_MODE=shared", func(c config.Config) any { return c.Workload }, config.Workload{}},
		{"NODE_NAME= PROXY_MODE=dedicated PROXY_WORKLOAD_INFO=ns/pod/sa", func(c config.Config) any { return []any{c.Workload, c.Sockets.Mark} },
			[]any{config.Workload{Namespace: "ns", Name: "pod", ServiceAccount: "sa"}, uint32(0)}},
		{"PROXY_MODE=dedicated PROXY_WORKLOAD_INFO=ns/pod/sa PACKET_MARK=1337", func(c config.Config) any { return c.Sockets.Mark }, uint32(1337)},
		{"UNSTABLE_ENABLE_SOCKS5=true", func(c config.Config) any { return c.SOCKS }, true},
		{"TRUST_DOMAINS=east.example,west.example,,east.example CRL_PATH=/crl COMPLIANCE_POLICY=pqc", func(c config.Config) any { return c.Security },
			settings.Security{TrustDomains: []string{"east.example", "west.example"}, CRL: "/crl", PostQuantum: true}},
		{"TLS12_ENABLED=false FAKE_CA=false", func(c config.Config) any { return c.Refused }, []config.Refusal(nil)},
		{"TLS12_ENABLED=true FAKE_CA=true PROXY_WORKLOAD_INFO=ns/pod/sa", func(c config.Config) any { return names(c.Refused) },
			[]string{"TLS12_ENABLED", "FAKE_CA", "PROXY_WORKLOAD_INFO"}},
		{"KUBERNETES_SERVICE_HOST=10.96.0.1", func(c config.Config) any { return c.XDS.Address + " " + c.CA.Address },
			"https://istiod.istio-system.svc:15012 https://istiod.istio-system.svc:15012"},
		{"XDS_ADDRESS=https://a:1 CA_ADDRESS=https://b:2", func(c config.Config) any { return c.XDS.Address + " " + c.CA.Address }, "https://a:1 https://b:2"},
		{"XDS_ADDRESS=a:1", func(c config.Config) any { return c.XDS.Address }, "https://a:1"},
		{"CA_ADDRESS=", func(c config.Config) any { return c.CA.Address }, ""},
		{"XDS_ROOT_CA=/x ALT_XDS_HOSTNAME=h XDS_HEADER_one=1 XDS_HEADER_two=2", func(c config.Config) any { return c.XDS },
			settings.ControlPlane{Address: "https://localhost:15012", RootCA: "/x", ServerName: "h", Headers: map[string]string{"one": "1", "two": "2"}}},
		{"CA_ROOT_CA=SYSTEM ALT_CA_HOSTNAME=h CA_HEADER_x=y", func(c config.Config) any { return c.CA },
			settings.ControlPlane{Address: "https://localhost:15012", RootCA: "SYSTEM", ServerName: "h", Headers: map[string]string{"x": "y"}}},
		{"AUTH_TOKEN=/token", func(c config.Config) any { return c.Token }, "/token"},
		{"LOCAL_XDS_PATH=/mesh.yaml", func(c config.Config) any { return []any{c.LocalXDS, c.XDS.Address} }, []any{settings.Local{Path: "/mesh.yaml"}, ""}},
		{"LOCAL_XDS={}", func(c config.Config) any { return c.LocalXDS }, settings.Local{Inline: "{}"}},
		{"XDS_ADDRESS= LOCAL_XDS_PATH=/mesh.yaml", func(c config.Config) any { return c.LocalXDS }, settings.Local{Path: "/mesh.yaml"}},
		{"SECRET_TTL=1h", func(c config.Config) any { return c.SecretTTL }, time.Hour},
		{`ISTIO_META_ISTIO_VERSION=1.30 ISTIO_METAJSON_LABELS={"app":"z"}`, func(c config.Config) any { return c.Metadata },
			map[string]any{"ISTIO_VERSION": "1.30", "LABELS": map[string]any{"app": "z"}}},
		{"RUST_LOG=debug LOG_FORMAT=json AUTHZ_POLICY_INFO_LOGGING=true", func(c config.Config) any { return c.Log }, config.Log{Levels: "debug", Format: "json", Policies: true}},
		{"CONNECTION_TERMINATION_DEADLINE=42s TERMINATION_GRACE_PERIOD_SECONDS=30", func(c config.Config) any { return c.DrainTimeout }, 42 * time.Second},
		{"TERMINATION_GRACE_PERIOD_SECONDS=30", func(c config.Config) any { return c.DrainTimeout }, 25 * time.Second},
		{"TERMINATION_GRACE_PERIOD_SECONDS=10", func(c config.Config) any { return c.DrainTimeout }, 9 * time.Second},
		{"TERMINATION_GRACE_PERIOD_SECONDS=1", func(c config.Config) any { return c.DrainTimeout }, time.Second},
		{"ZTUNNEL_WORKER_THREADS=3", func(c config.Config) any { return c.Threads }, 3},
		{"ZTUNNEL_WORKER_THREADS=0", func(c config.Config) any { return c.Threads }, runtime.NumCPU()},
		{"ZTUNNEL_WORKER_THREADS=50% ZTUNNEL_CPU_LIMIT=9", func(c config.Config) any { return c.Threads }, 5},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT=3500m ZTUNNEL_CPU_LIMIT=64", func(c config.Config) any { return c.Threads }, 4},
		{"ZTUNNEL_CPU_LIMIT=64", func(c config.Config) any { return c.Threads }, 16},
		{"ZTUNNEL_CPU_LIMIT=64 ZTUNNEL_RESOURCE_CPU_REQUEST=20", func(c config.Config) any { return c.Threads }, 20},
		{`PROXY_CONFIG={"discoveryAddress":"d:15012","proxyAdminPort":1,"statsPort":2,"proxyMetadata":{"A":"b"}}`,
			func(c config.Config) any { return []any{c.XDS.Address, c.CA.Address, c.Listen, c.Metadata} },
			[]any{"https://d:15012", "https://d:15012", config.Listen{Admin: "localhost:1", Metrics: ":2", Ready: ":15021"}, map[string]any{"A": "b"}}},
		{`PROXY_CONFIG={"concurrency":5}`, func(c config.Config) any { return c.Threads }, 5},
		{`PROXY_CONFIG={"concurrency":5} ZTUNNEL_WORKER_THREADS=6`, func(c config.Config) any { return c.Threads }, 6},
		{`PROXY_CONFIG={"discoveryAddress":"x"} XDS_ADDRESS=https://wins:1`, func(c config.Config) any { return c.XDS.Address }, "https://wins:1"},
		{`PROXY_CONFIG={"proxyMetadata":{"ISTIO_META_A":"long","CLUSTER_ID":"mesh","B":"mesh"}} ISTIO_META_B=env`,
			func(c config.Config) any { return []any{c.Metadata, c.ClusterID} },
			[]any{map[string]any{"A": "long", "CLUSTER_ID": "mesh", "B": "env"}, "mesh"}},
		{"ISTIO_META_DNS_CAPTURE=false XDS_ON_DEMAND=true", func(c config.Config) any { return c.OnDemand }, true},
	} {
		t.Run(test.environ, func(t *testing.T) {
			cfg, err := config.FromEnv(append([]string{"NODE_NAME=node1"}, strings.Fields(test.environ)...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, test.show(cfg)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func names(refusals []config.Refusal) (names []string) {
	for _, r := range refusals {
		names = append(names, r.Name)
	}
	return names
}

func TestDurationsInTheFormsOfIstio(t *testing.T) {
	t.Chdir(t.TempDir())
	for text, want := range map[string]time.Duration{
		"180s": 180 * time.Second, "180": 180 * time.Second, "5m": 5 * time.Minute, "1h30m": 90 * time.Minute, "1h 30m": 90 * time.Minute, "1m + 30s": 90 * time.Second,
		"1.5h": 90 * time.Minute, "1d": 24 * time.Hour, "250ms": 250 * time.Millisecond, "2min": 2 * time.Minute, "90sec": 90 * time.Second, "1W": 7 * 24 * time.Hour,
		"": 24 * time.Hour, // not set
	} {
		cfg, err := config.FromEnv([]string{"NODE_NAME=node1", "SECRET_TTL=" + text})
		if err != nil || cfg.SecretTTL != want {
			t.Errorf("%q is %v, %v; want %v", text, cfg.SecretTTL, err, want)
		}
	}
	for _, text := range []string{"s", "-1h", "1x", "1h-1m", "0", "1..5s", "h1", "1e3s", "999999999w", "+", "5m soon"} {
		if cfg, err := config.FromEnv([]string{"NODE_NAME=node1", "SECRET_TTL=" + text}); err == nil {
			t.Errorf("%q is %v, want an error", text, cfg.SecretTTL)
		}
	}
}

func TestMistakesNameTheVariableAndTheRemedy(t *testing.T) {
	t.Chdir(t.TempDir())
	for environ, wants := range map[string][]string{
		"PROXY_MODE=dedicated":                             {"PROXY_WORKLOAD_INFO", "namespace/name/serviceaccount"},
		"PROXY_MODE=dedicated PROXY_WORKLOAD_INFO=a/b":     {"PROXY_WORKLOAD_INFO", `"a/b"`},
		"PROXY_MODE=dedicated PROXY_WORKLOAD_INFO=a//c":    {"PROXY_WORKLOAD_INFO", `"a//c"`},
		"PROXY_MODE=dedicated PROXY_WORKLOAD_INFO=a/b/c/d": {"PROXY_WORKLOAD_INFO", `"a/b/c/d"`},
		"PROXY_MODE=other":                                 {"PROXY_MODE", `"other"`, "use shared"},
		"COMPLIANCE_POLICY=fips":                           {"COMPLIANCE_POLICY", `"fips"`, "pqc"},
		"TRUST_DOMAINS=a.b,spiffe://c":                     {"TRUST_DOMAINS", `"spiffe://c"`, "without spiffe://"},
		"HTTP2_FRAME_SIZE=100":                             {"HTTP2_FRAME_SIZE", "from 16384 to 16777215"},
		"HTTP2_STREAM_WINDOW_SIZE=4MiB":                    {"HTTP2_STREAM_WINDOW_SIZE", "whole number"},
		"ENABLE_PROXY=maybe":                               {"ENABLE_PROXY", "neither true nor false"},
		"PACKET_MARK=-1":                                   {"PACKET_MARK", "whole number"},
		"KEEPALIVE_TIME=180x":                              {"KEEPALIVE_TIME", "such as 30s"},
		"SECRET_TTL=-1h":                                   {"SECRET_TTL", "such as 30s"},
		"LOG_FORMAT=xml":                                   {"LOG_FORMAT", "plain, json"},
		"XDS_ADDRESS=http://istiod":                        {"XDS_ADDRESS", "must begin with https://"},
		"":                                                 {"NODE_NAME", "spec.nodeName"},
		"XDS_ADDRESS=":                                     {"XDS_ADDRESS", "LOCAL_XDS_PATH"},
		"LOCAL_XDS={} LOCAL_XDS_PATH=/x":                   {"LOCAL_XDS", "exclude each other"},
		"LOCAL_XDS={} XDS_ADDRESS=https://x:1":             {"XDS_ADDRESS", "contradicts"},
		"ISTIO_METAJSON_X={":                               {"ISTIO_METAJSON_X", "not JSON"},
		"ZTUNNEL_WORKER_THREADS=200%":                      {"ZTUNNEL_WORKER_THREADS", "share"},
		"ZTUNNEL_CPU_LIMIT=many":                           {"ZTUNNEL_CPU_LIMIT", "500m"},
		"TERMINATION_GRACE_PERIOD_SECONDS=soon":            {"TERMINATION_GRACE_PERIOD_SECONDS", "such as 30s"},
		"PROXY_CONFIG=[1]":                                 {"PROXY_CONFIG", "ProxyConfig"},
		`PROXY_CONFIG={"statsPort":70000}`:                 {"PROXY_CONFIG", "70000 is no port"},
		"LOG_FORMAT=xml PACKET_MARK=red ENABLE_PROXY=blue": {"LOG_FORMAT", "PACKET_MARK", "ENABLE_PROXY"},
	} {
		t.Run(environ, func(t *testing.T) {
			_, err := config.FromEnv(strings.Fields(environ))
			for _, want := range wants {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v doesn't say %q", err, want)
				}
			}
		})
	}
}

func TestFilesOfTheContainer(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("var/run/secrets/tokens/istio-token", "secret")
	write("etc/istio/config/mesh", "trustDomain: x\ndefaultConfig:\n  discoveryAddress: mesh:1\n  statsPort: 7\n")
	cfg, err := config.FromEnv([]string{"NODE_NAME=node1", `PROXY_CONFIG={"statsPort":8}`})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Token != "./var/run/secrets/tokens/istio-token" {
		t.Errorf("token %q, want the projected one", cfg.Token)
	}
	if cfg.XDS.Address != "https://mesh:1" || cfg.Listen.Metrics != ":8" {
		t.Errorf("address %q, metrics %q; want PROXY_CONFIG over the mesh's file", cfg.XDS.Address, cfg.Listen.Metrics)
	}
	write("etc/istio/config/mesh", "defaultConfig: [")
	if _, err := config.FromEnv(nil); err == nil || !strings.Contains(err.Error(), "etc/istio/config/mesh") {
		t.Errorf("broken mesh file: %v", err)
	}
}
