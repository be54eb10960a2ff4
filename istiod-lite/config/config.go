// Package config is what the control plane is told by its command line and by environment variables of Istio's names.
package config

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Config is everything that can be set.
type Config struct {
	// Source is the folder with the objects; empty, they are in a Kubernetes cluster.
	Source string
	// Kubeconfig says where that cluster is; empty, we are one of its pods.
	Kubeconfig string

	// State is where the authority keeps its key and writes its roots, Status where node agents say what is enrolled, TokenKey
	// the file with the public key of tokens. All three are for a folder; in Kubernetes they are empty.
	State, Status, TokenKey string
	// CACerts is a folder with an authority to use instead of an own one.
	CACerts string
	// TLSAddress serves proxies, DebugAddress people and Prometheus, WebhookAddress the API server. Each is host:port; an empty
	// WebhookAddress serves nobody.
	TLSAddress, DebugAddress, WebhookAddress string

	// TrustDomain is that of every identity, unless the mesh's own settings say another.
	TrustDomain string
	// Domain ends the host name of every service.
	Domain    string
	ClusterID string
	// RootNamespace is the control plane's own, whose policies are about the whole mesh.
	RootNamespace string
	// Revision is empty for the default one.
	Revision string
	// Instance tells this replica from others.
	Instance string

	// ServerNames are DNS names of the control plane beside those it always has.
	ServerNames []string
	// TrustedNodeAccounts are those of node proxies, each "namespace/name".
	TrustedNodeAccounts []string
	// TokenAudiences are those of which a caller's token must have one.
	TokenAudiences []string
	// CAServer signs proxies' certificates and writes the roots into namespaces; otherwise another authority does.
	CAServer bool
	// DefaultCertTTL and MaxCertTTL are how long certificates last that a caller gets without asking for a time, and at most.
	DefaultCertTTL, MaxCertTTL time.Duration
	// RootTTL is how long a self-signed root lasts; its replacement begins when RootGrace percent of that are left, which is
	// looked for every RootCheckInterval.
	RootTTL, RootCheckInterval time.Duration
	RootGrace                  int
	// DryRun publishes policies that are only to be tried out, Bypass lets connections go past a waypoint that is named but can't
	// be used, RootsInMeshOnly leaves the roots out of namespaces without pods of the mesh.
	DryRun, Bypass, RootsInMeshOnly bool
	// AllowWaypoints lets nobody but their waypoint connect to workloads that have one.
	AllowWaypoints bool
	// Waypoint is how nodes get the program of waypoints that are deployed; what is empty has a default of others.
	Waypoint Image
	// DrainTime is how long proxies are moved to other replicas before the end. With a folder, where there are none, it is 0.
	DrainTime time.Duration
}

// Image is a program and how nodes get it.
type Image struct {
	Image, PullPolicy string
	PullSecrets       []string
	CRL               bool // waypoints heed the revocation lists of the ConfigMap istio-ca-crl
}

// clusterID is what may begin the names of workloads, in which every proxy has to be able to read it.
var clusterID = regexp.MustCompile(`^[!-~]{1,253}$`)

const (
	rootTTL      = 3650 * 24 * time.Hour
	maxDrainTime = time.Hour
)

var pullPolicies = []string{"Always", "IfNotPresent", "Never"}

const usage = `istiod-lite is the control plane of a Tulle mesh: it tells proxies what there is and who may call whom, and signs
their certificates.

Usage:
  istiod-lite [--kubeconfig FILE] [flags]     objects of a Kubernetes cluster; without FILE, of the one that it runs in
  istiod-lite --source files DIR [flags]      objects in a folder of YAML, which is followed live

Where a flag names a variable in brackets, that is read from the environment when the flag isn't given.

Flags:
`

// Parse reads the command line, without the program's name, and environment variables as os.Environ returns them. It
// writes help to out where that is asked for, and then returns pflag.ErrHelp.
func Parse(args, environ []string, out io.Writer) (Config, error) {
	var c Config
	source := ""
	all := c.settings(&source)
	flags := pflag.NewFlagSet("istiod-lite", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.SetOutput(out)
	for _, one := range all {
		one.register(flags)
	}
	flags.Usage = func() { fmt.Fprint(out, usage+flags.FlagUsages()) }
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if err := fromEnvironment(flags, all, environ); err != nil {
		return c, err
	}
	if err := c.from(source, flags.Args()); err != nil {
		return c, err
	}
	for _, one := range all {
		if flags.Changed(one.flag) {
			if err := one.misplaced(c.Source != ""); err != nil {
				return c, err
			}
		}
	}
	c.fill()
	return c, c.check()
}

// from notes where the objects come from.
func (c *Config) from(source string, folders []string) error {
	switch {
	case source == "" && len(folders) == 0:
		return nil
	case source == "" && c.Kubeconfig != "":
		return fmt.Errorf("argument %q is not expected: with --kubeconfig the objects are in a cluster; for a folder use istiod-lite --source files DIR", folders[0])
	case source != "files" && source != "":
		return fmt.Errorf("source %q is not known: use files, or leave the flag out for Kubernetes", source)
	case source == "files" && c.Kubeconfig != "":
		return errors.New("--source files and --kubeconfig exclude each other: objects come from a folder or from a cluster")
	case source == "" || len(folders) != 1:
		return errors.New("want one folder: istiod-lite --source files DIR")
	}
	c.Source, c.DrainTime = filepath.Clean(folders[0]), 0
	return nil
}

// fill sets what goes by other settings.
func (c *Config) fill() {
	if c.Source != "" {
		c.besideFolder()
	}
	if len(c.TrustedNodeAccounts) == 0 {
		c.TrustedNodeAccounts = []string{c.RootNamespace + "/ztunnel"}
	}
	if c.Revision == "default" {
		c.Revision = ""
	}
	if c.Instance == "" {
		c.Instance, _ = os.Hostname() // if even that is unknown, election tells replicas apart by what it draws
	}
	names := []string{"istiod", "istiod-remote", "istio-pilot"}
	if c.Revision != "" {
		names = append(names, "istiod-"+c.Revision)
	}
	var always []string
	for _, name := range names {
		always = append(always, name+"."+c.RootNamespace+".svc")
	}
	if c.WebhookAddress == "" && c.Kubeconfig == "" && c.Source == "" {
		c.WebhookAddress = ":15017"
	}
	c.ServerNames = append(append(always, "localhost"), c.ServerNames...)
}

// besideFolder puts what belongs to a folder of objects beside it.
func (c *Config) besideFolder() {
	beside := filepath.Dir(c.Source)
	for _, path := range []struct {
		of   *string
		name string
	}{{&c.State, "ca"}, {&c.Status, "status"}, {&c.TokenKey, "token-key.pub"}} {
		if *path.of == "" {
			*path.of = filepath.Join(beside, path.name)
		}
	}
}

func (c *Config) check() error {
	for _, account := range c.TrustedNodeAccounts {
		if parts := strings.Split(account, "/"); len(parts) != 2 || slices.Contains(parts, "") {
			return fmt.Errorf("trusted node account %q: want namespace/name", account)
		}
	}
	if len(c.TokenAudiences) == 0 || slices.Contains(c.TokenAudiences, "") {
		return fmt.Errorf("--token-audiences must not be empty, nor any of them, but is %q: want names such as istio-ca", c.TokenAudiences)
	}
	for _, required := range []struct{ flag, value string }{
		{"trust-domain", c.TrustDomain}, {"cluster-id", c.ClusterID}, {"root-namespace", c.RootNamespace}, {"domain", c.Domain},
	} {
		if required.value == "" {
			return fmt.Errorf("--%s must not be empty", required.flag)
		}
	}
	if !clusterID.MatchString(c.ClusterID) {
		return fmt.Errorf("--cluster-id (CLUSTER_ID) %q: want 1 to 253 visible ASCII characters, such as cluster-1", c.ClusterID)
	}
	if said := validation.IsDNS1123Label(c.RootNamespace); len(said) > 0 {
		return fmt.Errorf("--root-namespace %q is no name of a namespace: %s", c.RootNamespace, said[0])
	}
	if said := validation.IsDNS1123Subdomain(c.Domain); len(said) > 0 {
		return fmt.Errorf("--domain %q is no DNS name: %s", c.Domain, said[0])
	}
	if _, err := spiffeid.TrustDomainFromString(c.TrustDomain); err != nil {
		return fmt.Errorf("--trust-domain %q: %w; want lower-case letters, digits, dots, dashes and underscores", c.TrustDomain, err)
	}
	if c.DefaultCertTTL <= 0 || c.DefaultCertTTL > c.MaxCertTTL {
		return fmt.Errorf("--default-workload-cert-ttl is %s: want more than 0, and at most --max-workload-cert-ttl, which is %s", c.DefaultCertTTL, c.MaxCertTTL)
	}
	if c.RootTTL <= 0 || c.RootCheckInterval <= 0 {
		return fmt.Errorf("--root-cert-ttl is %s and --root-cert-check-interval %s: want more than 0", c.RootTTL, c.RootCheckInterval)
	}
	if c.RootGrace < 1 || c.RootGrace > 90 {
		return fmt.Errorf("--root-cert-grace-percent is %d: want 1 to 90", c.RootGrace)
	}
	if policy := c.Waypoint.PullPolicy; policy != "" && !slices.Contains(pullPolicies, policy) {
		return fmt.Errorf("--waypoint-pull-policy %q: want %s", policy, strings.Join(pullPolicies, ", "))
	}
	if c.DrainTime < 0 || c.DrainTime > maxDrainTime {
		return fmt.Errorf("--drain-time is %s: want 0s to %s", c.DrainTime, maxDrainTime)
	}
	return errors.Join(c.checkNames(), c.checkAddresses())
}

// checkNames is about names by which others find the control plane.
func (c *Config) checkNames() error {
	if said := validation.IsDNS1123Label(c.Revision); c.Revision != "" && len(said) > 0 {
		return fmt.Errorf("--revision (REVISION) %q can't be part of an object's name: %s", c.Revision, said[0])
	}
	for _, name := range c.ServerNames {
		if said := validation.IsDNS1123Subdomain(name); len(said) > 0 {
			return fmt.Errorf("--server-name (ISTIOD_CUSTOM_HOST) %q is no DNS name: %s", name, said[0])
		}
	}
	return nil
}

func (c *Config) checkAddresses() error {
	for _, one := range []struct{ flag, address string }{
		{"tls-address", c.TLSAddress}, {"debug-address", c.DebugAddress}, {"webhook-address", c.WebhookAddress},
	} {
		_, port, err := net.SplitHostPort(one.address)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if nowhere := one.flag == "webhook-address" && one.address == ""; err != nil && !nowhere {
			return fmt.Errorf("--%s %q: want host:port, such as 127.0.0.1:15012, or :15012 for all addresses", one.flag, one.address)
		}
	}
	return nil
}
