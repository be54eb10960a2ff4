// Package config reads what a waypoint is told by environment variables: Istio's names and Istio's defaults.
package config

import (
	"fmt"
	"runtime"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/settings"
)

// Config is everything a waypoint can be told. It comes only out of FromEnv; tests may change what they need.
type Config struct {
	Self      Self
	Gateway   Gateway
	Identity  identity.Workload // of its account
	ClusterID string
	Network   string // "" is the default network

	Plane     settings.Plane
	Metadata  map[string]any
	Security  settings.Security
	SecretTTL time.Duration

	DrainTimeout     time.Duration
	MaxConnectionAge time.Duration // of a client's tunnel, until it has to come again; streams go on
	Workers          int           // event loops
	TrustedProxies   int           // before the waypoint, whose word for who their client is is taken
	XFCC             bool          // servers are told who their client is, in x-forwarded-client-cert

	Log     Log
	Listen  Listen
	Tracing settings.Tracing
}

// Gateway is the object that the waypoint is an instance of.
type Gateway struct{ Name, Class string }

// Self is the waypoint's own pod.
type Self struct {
	Name, Namespace, ServiceAccount, TrustDomain string
	IP, Node                                     string // may be ""
}

// Log is how the log begins; the admin page changes levels later.
type Log struct {
	Levels string // "info,access=debug"
	Format string // "plain" or "json"
}

// Listen holds the addresses of its servers, as host:port.
type Listen struct {
	Tunnels        string // the host is an address, or none
	Admin, Ready   string
	Metrics, Stats string // Stats is where Istio's sidecars have theirs
}

// FromEnv reads variables of the form NAME=value, as os.Environ returns them. The error lists everything that is wrong.
func FromEnv(environ []string) (Config, error) {
	e := settings.New(environ)
	mesh := settings.ReadProxyConfig(e)
	if address, set := e.Lookup("CA_ADDR"); set {
		e.Set("CA_ADDRESS", address)
	}
	cfg := Config{
		Self: Self{
			Name: e.Text("POD_NAME", ""), Namespace: e.Text("POD_NAMESPACE", ""), ServiceAccount: e.Text("SERVICE_ACCOUNT", ""),
			TrustDomain: e.Text("TRUST_DOMAIN", "cluster.local"), IP: e.Text("INSTANCE_IP", ""), Node: e.Text("NODE_NAME", ""),
		},
		Gateway:          Gateway{Name: e.Text("GATEWAY_NAME", ""), Class: e.Text("GATEWAY_CLASS", "istio-waypoint")},
		ClusterID:        e.Text("ISTIO_META_CLUSTER_ID", "Kubernetes"),
		Network:          e.Text("ISTIO_META_NETWORK", ""),
		Plane:            settings.ReadPlane(e, mesh.DiscoveryAddress),
		Metadata:         settings.Metadata(e),
		Security:         settings.ReadSecurity(e),
		SecretTTL:        e.Duration("SECRET_TTL", 24*time.Hour),
		DrainTimeout:     settings.DrainTimeout(e, 25*time.Second), // Kubernetes gives a pod 30 s
		MaxConnectionAge: e.Duration("MAX_CONNECTION_AGE", 30*time.Minute),
		Workers:          workers(e, mesh.Concurrency),
		TrustedProxies:   mesh.GatewayTopology.NumTrustedProxies,
		XFCC:             e.Boolean("XFCC_INCLUDE_CLIENT_IDENTITY", false),
		Log:              Log{Levels: e.Text("RUST_LOG", "info"), Format: e.OneOf("LOG_FORMAT", "plain", "json")},
		Listen:           Listen{Tunnels: ":15008", Admin: "localhost:15000", Metrics: ":15020", Ready: ":15021", Stats: ":15090"},
		Tracing:          settings.ReadTracing(e, "waypoint"),
	}
	if mesh.ProxyAdminPort != 0 {
		cfg.Listen.Admin = fmt.Sprintf("localhost:%d", mesh.ProxyAdminPort)
	}
	if mesh.StatsPort != 0 {
		cfg.Listen.Metrics = fmt.Sprintf(":%d", mesh.StatsPort)
	}
	cfg.identify(e)
	if err := e.Err(); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// identify finds out who the waypoint is.
func (c *Config) identify(e *settings.Env) {
	for name, value := range map[string]string{"GATEWAY_NAME": c.Gateway.Name, "POD_NAME": c.Self.Name, "POD_NAMESPACE": c.Self.Namespace, "SERVICE_ACCOUNT": c.Self.ServiceAccount} {
		if value == "" {
			e.Fail(name, "is not set; it says which waypoint this is: set it from the pod's own fields and labels")
		}
	}
	var err error
	if c.Identity, err = identity.New(c.Self.TrustDomain, c.Self.Namespace, c.Self.ServiceAccount); err != nil {
		e.Fail("TRUST_DOMAIN", fmt.Sprintf("with POD_NAMESPACE and SERVICE_ACCOUNT makes no identity: %v", err))
	}
}

// workers is one for each core that the pod may use.
func workers(e *settings.Env, concurrency int) int {
	if concurrency > 0 {
		return concurrency
	}
	return max(1, min(e.CPUs("ISTIO_CPU_LIMIT", runtime.NumCPU()), runtime.NumCPU()))
}
