// Package config is what the control plane is told on its command line.
package config

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Config is everything that can be set.
type Config struct {
	// Source is the folder with the objects, State where the authority keeps its key, Status where node agents say what is
	// enrolled.
	Source, State, Status string
	// TokenKey is the file with the public key of tokens.
	TokenKey string
	// CACerts is a folder with an authority to use instead of an own one.
	CACerts string
	// XDSAddr serves proxies, DebugAddr people and Prometheus. Each is host:port.
	XDSAddr, DebugAddr string

	TrustDomain, ClusterID, RootNamespace string
	// ServerNames are DNS names of the control plane beside those it always has.
	ServerNames []string
	// TrustedNodeAccounts are those of node proxies, each "namespace/name".
	TrustedNodeAccounts []string
}

const usage = `istiod-lite is the control plane of a Tulle mesh: it tells proxies what there is and who may call whom, and signs
their certificates.

Usage:
  istiod-lite --source files DIR [flags]

DIR holds Namespaces, ServiceAccounts, Nodes, Pods, Services, EndpointSlices, AuthorizationPolicies and
PeerAuthentications as YAML, and is followed live.

Flags:
`

// Parse reads the command line, without the program's name. It writes help to out where that is asked for, and then
// returns pflag.ErrHelp.
func Parse(args []string, out io.Writer) (Config, error) {
	var c Config
	flags := pflag.NewFlagSet("istiod-lite", pflag.ContinueOnError)
	flags.SortFlags = false
	source := flags.String("source", "files", "where the objects come from: files, which is a folder of YAML")
	flags.StringVar(&c.State, "state", "", "folder for the authority's key, and for root-cert.pem, which clients trust (default ca beside DIR)")
	flags.StringVar(&c.Status, "status", "", "folder in which node agents say which pods are enrolled (default status beside DIR)")
	flags.StringVar(&c.TokenKey, "token-key", "", "public key in PEM of who makes the callers' tokens (default token-key.pub beside DIR)")
	flags.StringVar(&c.CACerts, "cacerts", "/etc/cacerts", "folder of an authority to use instead of an own one; the default may be missing; with ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem, or tls.crt, tls.key and ca.crt")
	flags.StringVar(&c.XDSAddr, "xds-addr", ":15012", "where proxies get their configuration and certificates, over TLS")
	flags.StringVar(&c.DebugAddr, "debug-addr", ":15014", "where /metrics, /ready, /healthz, /version and /debug/ are, in plain text")
	flags.StringVar(&c.TrustDomain, "trust-domain", "cluster.local", "trust domain of every identity")
	flags.StringVar(&c.ClusterID, "cluster-id", "Kubernetes", "name of the cluster within workload names")
	flags.StringVar(&c.RootNamespace, "root-namespace", "istio-system", "namespace of the control plane, whose policies are about the whole mesh")
	flags.StringSliceVar(&c.ServerNames, "server-name", nil, "further DNS names of the control plane in its certificate")
	flags.StringSliceVar(&c.TrustedNodeAccounts, "trusted-node-accounts", nil, "accounts as namespace/name that may have certificates of the pods on their node (default ztunnel in the root namespace)")
	flags.SetOutput(out)
	flags.Usage = func() { fmt.Fprint(out, usage+flags.FlagUsages()) }
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if *source != "files" {
		return c, fmt.Errorf("source %q is not known: use files", *source)
	}
	if flags.NArg() != 1 {
		return c, errors.New("want one folder: istiod-lite --source files DIR")
	}
	c.Source = filepath.Clean(flags.Arg(0))
	c.fill()
	return c, c.check()
}

// fill sets what goes by other settings.
func (c *Config) fill() {
	beside := filepath.Dir(c.Source)
	for _, path := range []struct {
		of   *string
		name string
	}{{&c.State, "ca"}, {&c.Status, "status"}, {&c.TokenKey, "token-key.pub"}} {
		if *path.of == "" {
			*path.of = filepath.Join(beside, path.name)
		}
	}
	if len(c.TrustedNodeAccounts) == 0 {
		c.TrustedNodeAccounts = []string{c.RootNamespace + "/ztunnel"}
	}
	namespace := c.RootNamespace
	always := []string{"istiod." + namespace + ".svc", "istiod-remote." + namespace + ".svc", "istio-pilot." + namespace + ".svc", "localhost"}
	c.ServerNames = append(always, c.ServerNames...)
}

func (c *Config) check() error {
	for _, account := range c.TrustedNodeAccounts {
		if parts := strings.Split(account, "/"); len(parts) != 2 || slices.Contains(parts, "") {
			return fmt.Errorf("trusted node account %q: want namespace/name", account)
		}
	}
	for _, required := range []struct{ flag, value string }{
		{"trust-domain", c.TrustDomain}, {"cluster-id", c.ClusterID}, {"root-namespace", c.RootNamespace},
	} {
		if required.value == "" {
			return fmt.Errorf("--%s must not be empty", required.flag)
		}
	}
	if _, err := spiffeid.TrustDomainFromString(c.TrustDomain); err != nil {
		return fmt.Errorf("--trust-domain %q: %w; want lower-case letters, digits, dots, dashes and underscores", c.TrustDomain, err)
	}
	return nil
}
