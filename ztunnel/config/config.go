// Package config reads what a ztunnel is told by environment variables: Istio's names and Istio's defaults.
package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
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
	Security Security
	DNS      DNS

	LocalhostAppTunnel bool // applications that want PROXY headers listen on loopback
	SOCKS              bool // pods have a SOCKS5 server on their loopback

	XDS          ControlPlane // Address is "" with LocalXDS
	OnDemand     bool         // XDS is asked only for what connections need
	CA           ControlPlane // Address is "" where there are no certificates
	Token        string       // path of a service-account token, or the token itself; "" sends none
	LocalXDS     Local        // instead of XDS
	Metadata     map[string]any
	SecretTTL    time.Duration
	DrainTimeout time.Duration
	Threads      int // of the data plane

	Log     Log
	Listen  Listen
	Tracing Tracing

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

// Security is what tunnels ask of peers.
type Security struct {
	TrustDomains []string // accepted of clients, beside the pod's own
	PostQuantum  bool     // only key exchanges that quantum computers aren't known to break
	CRL          string   // path of revocation lists; "" is none
}

// ControlPlane is one server of the control plane.
type ControlPlane struct {
	Address    string // https://host:port
	RootCA     string // path, PEM text or SYSTEM
	ServerName string // "" means the host of Address
	Headers    map[string]string
}

// Local is configuration without a control plane: at most one field is set.
type Local struct{ Path, Inline string }

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
	e := newEnv(environ)
	mesh := proxyConfig(e)
	mesh.metadata(e)
	cfg := Config{
		Node:      e.text("NODE_NAME", ""),
		ClusterID: e.text("ISTIO_META_CLUSTER_ID", e.text("CLUSTER_ID", "Kubernetes")),
		Network:   e.text("NETWORK", ""),
		Proxying:  e.boolean("ENABLE_PROXY", true),

		LocalhostAppTunnel: e.boolean("LOCALHOST_APP_TUNNEL", true),

		ZDS: e.text("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock"),
		Self: Self{
			Name: e.text("POD_NAME", ""), Namespace: e.text("POD_NAMESPACE", ""), ServiceAccount: e.text("SERVICE_ACCOUNT", ""),
			TrustDomain: e.text("TRUST_DOMAIN", "cluster.local"), IP: e.text("INSTANCE_IP", ""),
		},
		Tunnels: Tunnels{
			MaxStreams:      e.number("POOL_MAX_STREAMS_PER_CONNECTION", 100, 1, 1000),
			IdleTimeout:     e.duration("POOL_UNUSED_RELEASE_TIMEOUT", 5*time.Minute),
			ResponseBaggage: e.boolean("ENABLE_RESPONSE_BAGGAGE", true),

			StreamWindow:     e.number("HTTP2_STREAM_WINDOW_SIZE", 4<<20, 1<<16, 1<<31-1),
			ConnectionWindow: e.number("HTTP2_CONNECTION_WINDOW_SIZE", 16<<20, 1<<16, 1<<31-1),
			FrameSize:        e.number("HTTP2_FRAME_SIZE", 1<<20, 1<<14, 1<<24-1), // RFC 9113 section 6.5.2
		},
		Security:     security(e),
		SOCKS:        e.boolean("UNSTABLE_ENABLE_SOCKS5", false),
		SecretTTL:    e.duration("SECRET_TTL", 24*time.Hour),
		DrainTimeout: drainTimeout(e),
		Log:          Log{Levels: e.text("RUST_LOG", "info"), Format: e.oneOf("LOG_FORMAT", "plain", "json"), Policies: e.boolean("AUTHZ_POLICY_INFO_LOGGING", false)},
		Listen:       Listen{Admin: "localhost:15000", Metrics: ":15020", Ready: ":15021"},
	}
	cfg.Workload = dedicated(e)
	cfg.Sockets = sockets(e, cfg.Workload)
	cfg.DNS = dnsProxy(e)
	cfg.Metadata = metadata(e)
	cfg.OnDemand = e.boolean("XDS_ON_DEMAND", false)
	cfg.Threads = threads(e)
	cfg.Tracing = tracing(e)
	controlPlanes(e, &cfg, mesh)
	mesh.apply(e, &cfg)
	requireNode(e, cfg)
	cfg.Refused = refused(e)
	if err := errors.Join(e.errs...); err != nil {
		return Config{}, fmt.Errorf("environment: %w", err)
	}
	return cfg, nil
}

// requireNode refuses to guess: without the node's name, a pod of the same name on another node could be taken for ours,
// with its policies, and the control plane isn't told whose state we want. A local file may leave nodes out, and a
// dedicated ztunnel is beside its workload wherever that is.
func requireNode(e *env, cfg Config) {
	if cfg.Node == "" && cfg.Proxying && cfg.XDS.Address != "" && cfg.Workload == (Workload{}) {
		e.fail("NODE_NAME", "is not set; set it to this node's name as workloads have it, in Kubernetes the pod's spec.nodeName")
	}
}

// dedicated returns the workload of a ztunnel that has only one, beside which it runs.
func dedicated(e *env) Workload {
	switch mode := e.text("PROXY_MODE", "shared"); mode {
	case "shared":
		return Workload{}
	case "dedicated":
	default:
		e.fail("PROXY_MODE", fmt.Sprintf("%q is no mode; use shared, or dedicated for one ztunnel per workload", mode))
		return Workload{}
	}
	const name = "PROXY_WORKLOAD_INFO"
	info := e.text(name, "")
	parts := strings.Split(info, "/")
	if len(parts) != 3 || slices.Contains(parts, "") {
		e.fail(name, fmt.Sprintf("%q doesn't name the workload of PROXY_MODE dedicated; set it to namespace/name/serviceaccount", info))
		return Workload{}
	}
	return Workload{Namespace: parts[0], Name: parts[1], ServiceAccount: parts[2]}
}

// sockets has no mark of its own where nothing shares the namespace: whoever captures there tells ztunnel by its user.
func sockets(e *env, only Workload) Sockets {
	mark := 0x539
	if only != (Workload{}) {
		mark = 0
	}
	s := Sockets{
		IPv6:      e.boolean("IPV6_ENABLED", true),
		Mark:      uint32(e.number("PACKET_MARK", mark, 0, 1<<31-1)),
		ReusePort: e.boolean("INPOD_PORT_REUSE", true),
		KeepAlive: net.KeepAliveConfig{
			Enable:   true,
			Idle:     e.duration("KEEPALIVE_TIME", 180*time.Second),
			Interval: e.duration("KEEPALIVE_INTERVAL", 180*time.Second),
			Count:    e.number("KEEPALIVE_RETRIES", 9, 1, 127),
		},
	}
	if e.boolean("USER_TIMEOUT_ENABLED", false) {
		s.UserTimeout = s.KeepAlive.Idle + time.Duration(s.KeepAlive.Count)*s.KeepAlive.Interval
	}
	if !e.boolean("KEEPALIVE_ENABLED", true) {
		s.KeepAlive = net.KeepAliveConfig{Idle: -1}
	}
	if _, set := e.lookup("ENABLE_ORIG_SRC"); set {
		s.Source = SourceNever
		if e.boolean("ENABLE_ORIG_SRC", false) {
			s.Source = SourceRequired
		}
	}
	return s
}

// drainTimeout leaves time between the end of draining and the kill at the end of the pod's grace period.
func drainTimeout(e *env) time.Duration {
	if _, set := e.lookup("CONNECTION_TERMINATION_DEADLINE"); set {
		return e.duration("CONNECTION_TERMINATION_DEADLINE", 0)
	}
	grace, set := e.lookup("TERMINATION_GRACE_PERIOD_SECONDS")
	if !set {
		return 5 * time.Second
	}
	return beforeKill(e.parseDuration("TERMINATION_GRACE_PERIOD_SECONDS", grace))
}

func beforeKill(grace time.Duration) time.Duration {
	if grace > 10*time.Second {
		return grace - 5*time.Second
	}
	return max(grace-time.Second, time.Second)
}
