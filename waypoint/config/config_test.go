package config_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/waypoint/config"
)

// own is what istiod-lite's template always sets.
var own = []string{"POD_NAME=wp-1", "POD_NAMESPACE=shop", "SERVICE_ACCOUNT=wp", "GATEWAY_NAME=wp"}

func TestVariables(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, test := range []struct {
		environ string
		show    func(config.Config) any
		want    any
	}{
		{"", func(c config.Config) any { return c.Identity.String() }, "spiffe://cluster.local/ns/shop/sa/wp"},
		{"TRUST_DOMAIN=td", func(c config.Config) any { return c.Identity.String() }, "spiffe://td/ns/shop/sa/wp"},
		{"", func(c config.Config) any { return c.Gateway }, config.Gateway{Name: "wp", Class: "istio-waypoint"}},
		{"GATEWAY_CLASS=other", func(c config.Config) any { return c.Gateway.Class }, "other"},
		{"ISTIO_META_CLUSTER_ID=east ISTIO_META_NETWORK=n", func(c config.Config) any { return []string{c.ClusterID, c.Network} }, []string{"east", "n"}},
		{`PROXY_CONFIG={"discoveryAddress":"d:15012"}`, func(c config.Config) any { return []string{c.Plane.XDS.Address, c.Plane.CA.Address} }, []string{"https://d:15012", "https://d:15012"}},
		{`PROXY_CONFIG={"discoveryAddress":"d:15012"} CA_ADDR=ca:1`, func(c config.Config) any { return []string{c.Plane.XDS.Address, c.Plane.CA.Address} }, []string{"https://d:15012", "https://ca:1"}},
		{`CA_ADDR=ca:1 CA_ADDRESS=wins:2`, func(c config.Config) any { return c.Plane.CA.Address }, "https://wins:2"},
		{`PROXY_CONFIG={"proxyAdminPort":1,"statsPort":2,"concurrency":7}`, func(c config.Config) any { return []any{c.Listen, c.Workers} },
			[]any{config.Listen{Tunnels: ":15008", Admin: "localhost:1", Metrics: ":2", Ready: ":15021", Stats: ":15090"}, 7}},
		{"XFCC_INCLUDE_CLIENT_IDENTITY=true", func(c config.Config) any { return c.XFCC }, true},
		{`PROXY_CONFIG={"gatewayTopology":{"numTrustedProxies":2}}`, func(c config.Config) any { return c.TrustedProxies }, 2},
		{"ISTIO_CPU_LIMIT=1", func(c config.Config) any { return c.Workers }, 1},
		{"MAX_CONNECTION_AGE=5m", func(c config.Config) any { return c.MaxConnectionAge }, 5 * time.Minute},
		{"", func(c config.Config) any { return c.DrainTimeout }, 25 * time.Second},
		{"TERMINATION_GRACE_PERIOD_SECONDS=60", func(c config.Config) any { return c.DrainTimeout }, 55 * time.Second},
		{"TRUST_DOMAINS=a,b CRL_PATH=/crl COMPLIANCE_POLICY=pqc", func(c config.Config) any { return c.Security },
			settings.Security{TrustDomains: []string{"a", "b"}, CRL: "/crl", PostQuantum: true}},
		{"RUST_LOG=debug LOG_FORMAT=json", func(c config.Config) any { return c.Log }, config.Log{Levels: "debug", Format: "json"}},
	} {
		t.Run(test.environ, func(t *testing.T) {
			cfg, err := config.FromEnv(append(slices.Clone(own), strings.Fields(test.environ)...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, test.show(cfg)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAllMistakesAreNamed(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := config.FromEnv([]string{"POD_NAME=wp-1", "MAX_CONNECTION_AGE=soon", "LOG_FORMAT=xml", "XDS_ADDRESS=http://plain:1"})
	if err == nil {
		t.Fatal("taken")
	}
	for _, name := range []string{"GATEWAY_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT", "MAX_CONNECTION_AGE", "LOG_FORMAT", "XDS_ADDRESS"} {
		if !strings.Contains(err.Error(), name+": ") {
			t.Errorf("%s isn't named in %v", name, err)
		}
	}
}

// composed are the variables whose names are put together in the code.
var composed = []string{
	"XDS_ADDRESS", "CA_ADDRESS", "XDS_ROOT_CA", "CA_ROOT_CA", "ALT_XDS_HOSTNAME", "ALT_CA_HOSTNAME", "XDS_HEADER_<name>", "CA_HEADER_<name>",
	"ISTIO_META_<name>", "ISTIO_METAJSON_<name>", "OTEL_EXPORTER_OTLP_<name>", "OTEL_EXPORTER_OTLP_TRACES_<name>",
}

func TestReadmeListsEveryVariable(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, name := range regexp.MustCompile("`([A-Z][A-Z0-9_]+(?:<name>)?)`").FindAllStringSubmatch(string(text), -1) {
		listed[name[1]] = true
	}
	read := map[string]bool{}
	for _, name := range composed {
		read[name] = true
	}
	for _, pattern := range []string{"*.go", "../../mesh/settings/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, path := range files {
			if !strings.HasSuffix(path, "_test.go") {
				maps.Copy(read, variables(t, path))
			}
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(read)), slices.Sorted(maps.Keys(listed))); diff != "" {
		t.Errorf("variables that the code reads (-) and waypoint/README.md lists (+):\n%s", diff)
	}
}

// variables finds names by their form.
func variables(t *testing.T, path string) map[string]bool {
	t.Helper()
	name := regexp.MustCompile(`^[A-Z][A-Z0-9_]{3,}[A-Z0-9]$`)
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if text, err := strconv.Unquote(literal.Value); err == nil && name.MatchString(text) {
				found[text] = true
			}
		}
		return true
	})
	return found
}
