package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// setting is one flag, with the variable that stands for it.
type setting struct {
	flag string
	env  string // empty where there is none
	into any    // a *string, *[]string, *int, *bool or *time.Duration; it holds the default
	help string
	only origin // where it has a meaning
}

// origin is where objects come from.
type origin int

const (
	anywhere origin = iota
	inCluster
	inFolder
)

// misplaced tells of a setting that was made and says nothing about where the objects come from.
func (s setting) misplaced(folder bool) error {
	name := "--" + s.flag
	if s.env != "" {
		name += " (" + s.env + ")"
	}
	switch {
	case s.only == inCluster && folder:
		return fmt.Errorf("%s is only for objects of a cluster, not for --source files: leave it out", name)
	case s.only == inFolder && !folder:
		return fmt.Errorf("%s is only for --source files, not for objects of a cluster: leave it out", name)
	}
	return nil
}

// settings lists all of them, as help does.
func (c *Config) settings(source *string) []setting {
	c.CACerts, c.TLSAddress, c.DebugAddress = "/etc/cacerts", ":15012", ":15014"
	c.TrustDomain, c.Domain, c.ClusterID, c.RootNamespace = "cluster.local", "cluster.local", "Kubernetes", "istio-system"
	c.TokenAudiences = []string{"istio-ca"}
	c.DryRun, c.CAServer = true, true
	c.DefaultCertTTL, c.MaxCertTTL, c.DrainTime = 24*time.Hour, 90*24*time.Hour, 10*time.Second
	c.RootTTL, c.RootCheckInterval, c.RootGrace = rootTTL, time.Hour, 20
	return []setting{
		{"kubeconfig", "", &c.Kubeconfig, "file that says where the cluster is and who we are", anywhere},
		{"source", "", source, "files takes the objects from the folder DIR instead of a cluster", anywhere},
		{"tls-address", "", &c.TLSAddress, "where proxies get their configuration and certificates, over TLS", anywhere},
		{"debug-address", "", &c.DebugAddress, "where /metrics, /ready, /healthz, /version and /debug/ are, in plain text", anywhere},
		{"webhook-address", "", &c.WebhookAddress, "where the API server has objects checked, over TLS (default :15017 in a pod, nowhere with --kubeconfig)", inCluster},
		{"root-namespace", "POD_NAMESPACE", &c.RootNamespace, "namespace of the control plane, whose policies are about the whole mesh", anywhere},
		{"cluster-id", "CLUSTER_ID", &c.ClusterID, "name of the cluster within workload names", anywhere},
		{"trust-domain", "TRUST_DOMAIN", &c.TrustDomain, "trust domain of every identity; the mesh's settings, in the ConfigMap istio, go before it", anywhere},
		{"domain", "", &c.Domain, "what host names of services end with", anywhere},
		{"revision", "REVISION", &c.Revision, "revision of the control plane: objects labelled with another one are left alone", anywhere},
		{"instance", "POD_NAME", &c.Instance, "name of this replica (default the host's name)", anywhere},
		{"trusted-node-accounts", "CA_TRUSTED_NODE_ACCOUNTS", &c.TrustedNodeAccounts, "accounts as namespace/name that may have certificates of the pods on their node (default ztunnel in the root namespace)", anywhere},
		{"token-audiences", "TOKEN_AUDIENCES", &c.TokenAudiences, "audiences of which a caller's token must have one", inCluster},
		{"ca-server", "ENABLE_CA_SERVER", &c.CAServer, "sign proxies' certificates, and write the roots into namespaces; false where another authority does both; --cacerts is then an intermediate one of its, for our own certificate", anywhere},
		{"default-workload-cert-ttl", "DEFAULT_WORKLOAD_CERT_TTL", &c.DefaultCertTTL, "how long a certificate lasts if its owner doesn't ask for a time", anywhere},
		{"max-workload-cert-ttl", "MAX_WORKLOAD_CERT_TTL", &c.MaxCertTTL, "how long a certificate lasts at most; whoever asks for more is refused", anywhere},
		{"root-cert-ttl", "CITADEL_SELF_SIGNED_CA_CERT_TTL", &c.RootTTL, "how long a self-signed root lasts", inCluster},
		{"root-cert-grace-percent", "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE", &c.RootGrace, "how many percent of a self-signed root's life are left when its replacement begins", inCluster},
		{"root-cert-check-interval", "CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL", &c.RootCheckInterval, "how often it is looked whether that is so", inCluster},
		{"cacerts", "ROOT_CA_DIR", &c.CACerts, "folder of an authority to use instead of an own one; the default may be missing; with ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem, or tls.crt, tls.key and ca.crt", anywhere},
		{"server-name", "ISTIOD_CUSTOM_HOST", &c.ServerNames, "further DNS names of the control plane in its certificate", anywhere},
		{"dry-run-policies", "AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY", &c.DryRun, "tell proxies of policies that are only to be tried out; ztunnels before 1.29 would enforce them", anywhere},
		{"bypass-missing-waypoints", "", &c.Bypass, "let connections go past a waypoint that is named but missing or never ready, as Istio does, instead of refusing them", anywhere},
		{"auto-allow-waypoints", "PILOT_AUTO_ALLOW_WAYPOINT_POLICY", &c.AllowWaypoints, "let nobody but their waypoint connect to workloads that have one", anywhere},
		{"roots-in-mesh-only", "", &c.RootsInMeshOnly, "write the ConfigMap of the roots only into namespaces with pods of the mesh", inCluster},
		{"waypoint-image", "WAYPOINT_IMAGE", &c.Waypoint.Image, "image of the waypoints that are deployed for Gateways (default docker.io/tulle-mesh/waypoint, with the control plane's version)", inCluster},
		{"waypoint-pull-policy", "WAYPOINT_PULL_POLICY", &c.Waypoint.PullPolicy, "when nodes pull that image: Always, IfNotPresent or Never (default Kubernetes')", inCluster},
		{"waypoint-pull-secrets", "WAYPOINT_PULL_SECRETS", &c.Waypoint.PullSecrets, "Secrets of the Gateway's namespace with which nodes pull it", inCluster},
		{"waypoint-crl", "WAYPOINT_PEER_CA_CRL", &c.Waypoint.CRL, "have waypoints heed the revocation lists of the ConfigMap istio-ca-crl", inCluster},
		{"drain-time", "", &c.DrainTime, "how long proxies are moved to other replicas before the end, at most 1h", inCluster},
		{"state", "", &c.State, "where the authority's key is, and root-cert.pem, which clients trust (default ca beside DIR)", inFolder},
		{"status", "", &c.Status, "where node agents say which pods are enrolled (default status beside DIR)", inFolder},
		{"token-key", "", &c.TokenKey, "public key in PEM of who makes the callers' tokens (default token-key.pub beside DIR)", inFolder},
	}
}

func (s setting) register(flags *pflag.FlagSet) {
	help := s.help
	switch s.only {
	case inCluster:
		help += "; not with --source files"
	case inFolder:
		help = "with --source files: " + help
	}
	if s.env != "" {
		help += " [" + s.env + "]"
	}
	switch into := s.into.(type) {
	case *string:
		flags.StringVar(into, s.flag, *into, help)
	case *[]string:
		flags.StringSliceVar(into, s.flag, *into, help)
	case *bool:
		flags.BoolVar(into, s.flag, *into, help)
	case *int:
		flags.IntVar(into, s.flag, *into, help)
	case *time.Duration:
		flags.DurationVar(into, s.flag, *into, help)
	}
}

// fromEnvironment sets what no flag has set.
func fromEnvironment(flags *pflag.FlagSet, all []setting, environ []string) error {
	variables := make(map[string]string, len(environ))
	for _, one := range environ {
		name, value, _ := strings.Cut(one, "=")
		variables[name] = value
	}
	if provider := variables["PILOT_CERT_PROVIDER"]; provider != "" && provider != "istiod" {
		return fmt.Errorf("PILOT_CERT_PROVIDER %q is not done: the control plane's certificate is of its own authority; use istiod, or leave it out", provider)
	}
	for _, one := range all {
		value := variables[one.env]
		if one.env == "" || value == "" || flags.Changed(one.flag) {
			continue
		}
		if err := flags.Set(one.flag, value); err != nil {
			return fmt.Errorf("%s: %w", one.env, err)
		}
	}
	return nil
}
