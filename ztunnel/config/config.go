// Package config reads what a ztunnel is told by environment variables: Istio's names and Istio's defaults.
package config

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/mesh/settings"
)

// Config is everything a ztunnel can be told. It comes only out of FromEnv; tests may change what they need.
type Config struct {
	Node      string // the Kubernetes node, as workloads name it
	ClusterID string
	Network   string // "" is the default network
	Self      Self

	Proxying bool     // false: no pods are taken; only configuration is fetched
	ZDS      string   // path of the node agent's socket
	Workload Workload // in dedicated mode the only one that is served, in our own network namespace; else zero
	Sockets  Sockets
	Tunnels  Tunnels
	Security settings.Security
	DNS      DNS

	LocalhostAppTunnel bool // applications that want PROXY headers listen on loopback
	SOCKS              bool // pods have a SOCKS5 server on their loopback

	XDS          settings.ControlPlane // Address is "" with LocalXDS
	OnDemand     bool                  // XDS is asked only for what connections need
	CA           settings.ControlPlane // Address is "" where there are no certificates
	Token        string                // path of a service-account token, or the token itself; "" sends none
	LocalXDS     settings.Local        // instead of XDS
	Metadata     map[string]any
	SecretTTL    time.Duration
	DrainTimeout time.Duration
	Threads      int // of the data plane

	Log     Log
	Listen  Listen
	Tracing settings.Tracing

	Refused []Refusal // variables that are set to something which is not done, on purpose
}

// Refusal is a setting that is heard, but not heeded.
type Refusal struct{ Name, Reason string }

// Workload names a pod and its service account.
type Workload struct{ Namespace, Name, ServiceAccount string }

// Self is ztunnel's own pod. All fields may be "".
type Self struct {
	Name, Namespace, ServiceAccount, TrustDomain, IP string
}

// Sockets is how listeners and dialled connections are made.
type Sockets struct {
	IPv6      bool
	Mark      uint32
	ReusePort bool
	KeepAlive net.KeepAliveConfig // a negative Idle turns it off
	// UserTimeout is how long sent data may stay unacknowledged; 0 leaves it to the kernel.
	UserTimeout time.Duration
	Source      SourceMode
}

// SourceMode says whether applications see the client's address.
type SourceMode uint8

// The modes: automatic keeps the address where the kernel lets us.
const (
	SourceAutomatic SourceMode = iota
	SourceRequired
	SourceNever
)

// Tunnels bounds the HBONE pool and says what is sent on tunnels. Windows and the frame size are in bytes.
type Tunnels struct {
	MaxStreams      int
	IdleTimeout     time.Duration
	ResponseBaggage bool

	StreamWindow, ConnectionWindow, FrameSize int
}

// Log is how the log begins; the admin page changes levels later.
type Log struct {
	Levels   string // "info,access=debug"
	Format   string // "plain" or "json"
	Policies bool   // decisions about policies at level info
}

// Listen holds the addresses of ztunnel's own servers, as host:port.
type Listen struct{ Admin, Metrics, Ready string }

// FromEnv reads variables of the form NAME=value, as os.Environ returns them. The error lists everything that is wrong.
func FromEnv(environ []string) (Config, error) {
	e := settings.New(environ)
	mesh := settings.ReadProxyConfig(e)
	cfg := Config{
		Node:      e.Text("NODE_NAME", ""),
		ClusterID: e.Text("ISTIO_META_CLUSTER_ID", e.Text("CLUSTER_ID", "Kubernetes")),
		Network:   e.Text("NETWORK", ""),
		Proxying:  e.Boolean("ENABLE_PROXY", true),

		LocalhostAppTunnel: e.Boolean("LOCALHOST_APP_TUNNEL", true),

		ZDS: e.Text("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock"),
		Self: Self{
			Name: e.Text("POD_NAME", ""), Namespace: e.Text("POD_NAMESPACE", ""), ServiceAccount: e.Text("SERVICE_ACCOUNT", ""),
			TrustDomain: e.Text("TRUST_DOMAIN", "cluster.local"), IP: e.Text("INSTANCE_IP", ""),
		},
		Tunnels: Tunnels{
			MaxStreams:      e.Number("POOL_MAX_STREAMS_PER_CONNECTION", 100, 1, 1000),
			IdleTimeout:     e.Duration("POOL_UNUSED_RELEASE_TIMEOUT", 5*time.Minute),
			ResponseBaggage: e.Boolean("ENABLE_RESPONSE_BAGGAGE", true),

			StreamWindow:     e.Number("HTTP2_STREAM_WINDOW_SIZE", 4<<20, 1<<16, 1<<31-1),
			ConnectionWindow: e.Number("HTTP2_CONNECTION_WINDOW_SIZE", 16<<20, 1<<16, 1<<31-1),
			FrameSize:        e.Number("HTTP2_FRAME_SIZE", 1<<20, 1<<14, 1<<24-1), // RFC 9113 section 6.5.2
		},
		Security:     settings.ReadSecurity(e),
		SOCKS:        e.Boolean("UNSTABLE_ENABLE_SOCKS5", false),
		SecretTTL:    e.Duration("SECRET_TTL", 24*time.Hour),
		DrainTimeout: settings.DrainTimeout(e, 5*time.Second),
		Log:          Log{Levels: e.Text("RUST_LOG", "info"), Format: e.OneOf("LOG_FORMAT", "plain", "json"), Policies: e.Boolean("AUTHZ_POLICY_INFO_LOGGING", false)},
		Listen:       Listen{Admin: "localhost:15000", Metrics: ":15020", Ready: ":15021"},
	}
	cfg.Workload = dedicated(e)
	cfg.Sockets = sockets(e, cfg.Workload)
	cfg.DNS = dnsProxy(e)
	cfg.Metadata = settings.Metadata(e)
	cfg.OnDemand = e.Boolean("XDS_ON_DEMAND", false)
	cfg.Threads = threads(e)
	cfg.Tracing = settings.ReadTracing(e, "ztunnel")
	plane := settings.ReadPlane(e, mesh.DiscoveryAddress)
	cfg.XDS, cfg.CA, cfg.Token, cfg.LocalXDS = plane.XDS, plane.CA, plane.Token, plane.LocalXDS
	apply(e, &cfg, mesh)
	requireNode(e, cfg)
	cfg.Refused = refused(e)
	if err := e.Err(); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// apply overrides what variables don't say more exactly.
func apply(e *settings.Env, cfg *Config, m settings.ProxyConfig) {
	if m.ProxyAdminPort != 0 {
		cfg.Listen.Admin = fmt.Sprintf("localhost:%d", m.ProxyAdminPort)
	}
	if _, set := e.Lookup("ZTUNNEL_WORKER_THREADS"); !set && m.Concurrency > 0 {
		cfg.Threads = m.Concurrency
	}
	if m.StatsPort != 0 {
		cfg.Listen.Metrics = fmt.Sprintf(":%d", m.StatsPort)
	}
}

// requireNode refuses to guess: without the node's name, a pod of the same name on another node could be taken for ours,
// with its policies, and the control plane isn't told whose state we want. A local file may leave nodes out, and a
// dedicated ztunnel is beside its workload wherever that is.
func requireNode(e *settings.Env, cfg Config) {
	if cfg.Node == "" && cfg.Proxying && cfg.XDS.Address != "" && cfg.Workload == (Workload{}) {
		e.Fail("NODE_NAME", "is not set; set it to this node's name as workloads have it, in Kubernetes the pod's spec.nodeName")
	}
}

// dedicated returns the workload of a ztunnel that has only one, beside which it runs.
func dedicated(e *settings.Env) Workload {
	switch mode := e.Text("PROXY_MODE", "shared"); mode {
	case "shared":
		return Workload{}
	case "dedicated":
	default:
		e.Fail("PROXY_MODE", fmt.Sprintf("%q is no mode; use shared, or dedicated for one ztunnel per workload", mode))
		return Workload{}
	}
	const name = "PROXY_WORKLOAD_INFO"
	info := e.Text(name, "")
	parts := strings.Split(info, "/")
	if len(parts) != 3 || slices.Contains(parts, "") {
		e.Fail(name, fmt.Sprintf("%q doesn't name the workload of PROXY_MODE dedicated; set it to namespace/name/serviceaccount", info))
		return Workload{}
	}
	return Workload{Namespace: parts[0], Name: parts[1], ServiceAccount: parts[2]}
}

// sockets has no mark of its own where nothing shares the namespace: whoever captures there tells ztunnel by its user.
func sockets(e *settings.Env, only Workload) Sockets {
	mark := 0x539
	if only != (Workload{}) {
		mark = 0
	}
	s := Sockets{
		IPv6:      e.Boolean("IPV6_ENABLED", true),
		Mark:      uint32(e.Number("PACKET_MARK", mark, 0, 1<<31-1)),
		ReusePort: e.Boolean("INPOD_PORT_REUSE", true),
		KeepAlive: net.KeepAliveConfig{
			Enable:   true,
			Idle:     e.Duration("KEEPALIVE_TIME", 180*time.Second),
			Interval: e.Duration("KEEPALIVE_INTERVAL", 180*time.Second),
			Count:    e.Number("KEEPALIVE_RETRIES", 9, 1, 127),
		},
	}
	if e.Boolean("USER_TIMEOUT_ENABLED", false) {
		s.UserTimeout = s.KeepAlive.Idle + time.Duration(s.KeepAlive.Count)*s.KeepAlive.Interval
	}
	if !e.Boolean("KEEPALIVE_ENABLED", true) {
		s.KeepAlive = net.KeepAliveConfig{Idle: -1}
	}
	if _, set := e.Lookup("ENABLE_ORIG_SRC"); set {
		s.Source = SourceNever
		if e.Boolean("ENABLE_ORIG_SRC", false) {
			s.Source = SourceRequired
		}
	}
	return s
}
