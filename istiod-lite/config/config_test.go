package config

import (
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// usual are the defaults in a cluster.
func usual() Config {
	return Config{
		CACerts: "/etc/cacerts", TLSAddress: ":15012", DebugAddress: ":15014", WebhookAddress: ":15017",
		TrustDomain: "cluster.local", Domain: "cluster.local", ClusterID: "Kubernetes", RootNamespace: "istio-system", Instance: "istiod-1",
		ServerNames:         []string{"istiod.istio-system.svc", "istiod-remote.istio-system.svc", "istio-pilot.istio-system.svc", "localhost"},
		TrustedNodeAccounts: []string{"istio-system/ztunnel"}, TokenAudiences: []string{"istio-ca"},
		DryRun: true, CAServer: true, DefaultCertTTL: 24 * time.Hour, MaxCertTTL: 2160 * time.Hour, DrainTime: 10 * time.Second,
		RootTTL: 87600 * time.Hour, RootCheckInterval: time.Hour, RootGrace: 20,
	}
}

func TestWhatIsSetWhere(t *testing.T) {
	for name, c := range map[string]struct {
		args string
		env  []string
		want func(*Config)
	}{
		"a pod of the cluster needs no flags": {want: func(*Config) {}},
		"a kubeconfig": {args: "--kubeconfig /k --tls-address :1 --debug-address a:2 --webhook-address [::1]:3", want: func(c *Config) {
			c.Kubeconfig, c.TLSAddress, c.DebugAddress, c.WebhookAddress = "/k", ":1", "a:2", "[::1]:3"
		}},
		"nobody reaches the webhook outside of a cluster": {args: "--kubeconfig /k", want: func(c *Config) { c.Kubeconfig, c.WebhookAddress = "/k", "" }},
		"a folder has the rest beside it": {args: "--source files /mesh/objects/", want: func(c *Config) {
			c.Source, c.State, c.Status, c.TokenKey, c.DrainTime = "/mesh/objects", "/mesh/ca", "/mesh/status", "/mesh/token-key.pub", 0
			c.WebhookAddress = ""
		}},
		"a folder with the rest elsewhere": {args: "objects --source=files --state s --status u --token-key k --cacerts c", want: func(c *Config) {
			c.Source, c.State, c.Status, c.TokenKey, c.CACerts, c.DrainTime = "objects", "s", "u", "k", "c", 0
			c.WebhookAddress = ""
		}},
		"names and times": {args: "--trust-domain td --domain d --cluster-id c1 --root-namespace root --revision blue --server-name a,b --server-name c " +
			"--trusted-node-accounts x/y,z/w --token-audiences q --default-workload-cert-ttl 1h --max-workload-cert-ttl 2h --drain-time 0s --instance i",
			want: func(c *Config) {
				c.TrustDomain, c.Domain, c.ClusterID, c.RootNamespace, c.Revision, c.Instance = "td", "d", "c1", "root", "blue", "i"
				c.ServerNames = []string{"istiod.root.svc", "istiod-remote.root.svc", "istio-pilot.root.svc", "istiod-blue.root.svc", "localhost", "a", "b", "c"}
				c.TrustedNodeAccounts, c.TokenAudiences = []string{"x/y", "z/w"}, []string{"q"}
				c.DefaultCertTTL, c.MaxCertTTL, c.DrainTime = time.Hour, 2*time.Hour, 0
			}},
		"what Istio's chart sets": {
			env: []string{
				"POD_NAMESPACE=root", "CLUSTER_ID=c1", "TRUST_DOMAIN=td", "REVISION=default", "CA_TRUSTED_NODE_ACCOUNTS=x/y", "TOKEN_AUDIENCES=a,b",
				"DEFAULT_WORKLOAD_CERT_TTL=1h", "MAX_WORKLOAD_CERT_TTL=48h", "ROOT_CA_DIR=/c", "ISTIOD_CUSTOM_HOST=h", "PILOT_CERT_PROVIDER=istiod", "JWT_POLICY=x", "PILOT_AUTO_ALLOW_WAYPOINT_POLICY=true",
				"CITADEL_SELF_SIGNED_CA_CERT_TTL=48h", "CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL=1m", "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE=30",
			},
			want: func(c *Config) {
				c.RootNamespace, c.ClusterID, c.TrustDomain, c.TrustedNodeAccounts = "root", "c1", "td", []string{"x/y"}
				c.AllowWaypoints = true
				c.RootTTL, c.RootCheckInterval, c.RootGrace = 48*time.Hour, time.Minute, 30
				c.TokenAudiences, c.DefaultCertTTL, c.MaxCertTTL, c.CACerts = []string{"a", "b"}, time.Hour, 48*time.Hour, "/c"
				c.ServerNames = []string{"istiod.root.svc", "istiod-remote.root.svc", "istio-pilot.root.svc", "localhost", "h"}
			},
		},
		"what users opt out of": {
			args: "--bypass-missing-waypoints --roots-in-mesh-only", env: []string{"AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY=false", "ENABLE_CA_SERVER=false"},
			want: func(c *Config) { c.DryRun, c.CAServer, c.Bypass, c.RootsInMeshOnly = false, false, true, true },
		},
		"where waypoints come from": {
			args: "--waypoint-pull-policy Always --waypoint-pull-secrets a,b", env: []string{"WAYPOINT_IMAGE=registry.example/waypoint:1", "WAYPOINT_PEER_CA_CRL=true"},
			want: func(c *Config) { c.Waypoint = Image{"registry.example/waypoint:1", "Always", []string{"a", "b"}, true} },
		},
		"a flag goes before its variable": {args: "--cluster-id c2", env: []string{"CLUSTER_ID=c1"}, want: func(c *Config) { c.ClusterID = "c2" }},
	} {
		t.Run(name, func(t *testing.T) {
			want := usual()
			c.want(&want)
			got, err := Parse(strings.Fields(c.args), append(c.env, "POD_NAME=istiod-1"), os.Stderr)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +have\n%s", diff)
			}
		})
	}
}

func TestMistakesAreExplained(t *testing.T) {
	for _, c := range []struct{ want, args, env string }{
		{"want one folder: istiod-lite --source files DIR", "--source files", ""},
		{"want one folder", "--source files a b", ""},
		{"want one folder: istiod-lite --source files DIR", "objects", ""},
		{`source "kubernetes" is not known: use files`, "--source kubernetes a", ""},
		{"--source files and --kubeconfig exclude each other", "--source files a --kubeconfig k", ""},
		{`argument "objects" is not expected: with --kubeconfig the objects are in a cluster`, "objects --kubeconfig k", ""},
		{"unknown flag: --sauce", "--sauce a", ""},
		{"--token-audiences must not be empty, nor any of them, but is []", "--token-audiences=", ""},
		{`--token-audiences must not be empty, nor any of them, but is ["a" ""]`, "", "TOKEN_AUDIENCES=a,"},
		{`trusted node account "ztunnel": want namespace/name`, "--trusted-node-accounts ztunnel", ""},
		{`trusted node account "x/": want namespace/name`, "", "CA_TRUSTED_NODE_ACCOUNTS=x/"},
		{"--trust-domain must not be empty", "--trust-domain=", ""},
		{"--domain must not be empty", "--domain=", ""},
		{`--domain ".." is no DNS name`, "--domain=..", ""},
		{`--root-namespace "Bad_NS" is no name of a namespace`, "--root-namespace Bad_NS", ""},
		{`--trust-domain "Bad_Domain/"`, "--trust-domain Bad_Domain/", ""},
		{`DEFAULT_WORKLOAD_CERT_TTL: invalid argument "1x"`, "", "DEFAULT_WORKLOAD_CERT_TTL=1x"},
		{"--default-workload-cert-ttl is 3h0m0s: want more than 0, and at most --max-workload-cert-ttl, which is 2h0m0s", "--default-workload-cert-ttl 3h", "MAX_WORKLOAD_CERT_TTL=2h"},
		{"--root-cert-ttl is -1h0m0s and --root-cert-check-interval 1h0m0s: want more than 0", "--root-cert-ttl=-1h", ""},
		{"--root-cert-grace-percent is 100: want 1 to 90", "", "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE=100"},
		{`--waypoint-pull-policy "Sometimes": want Always, IfNotPresent, Never`, "--waypoint-pull-policy Sometimes", ""},
		{"--drain-time is -1s: want 0s to 1h0m0s", "--drain-time -1s", ""},
		{"--drain-time is 1h0m1s: want 0s to 1h0m0s", "--drain-time 3601s", ""},
		{`--cluster-id (CLUSTER_ID) "a\xff": want 1 to 253 visible ASCII characters`, "", "CLUSTER_ID=a\xff"},
		{`--cluster-id (CLUSTER_ID) "a b": want`, "", "CLUSTER_ID=a b"},
		{`--revision (REVISION) "Blue.1" can't be part of an object's name`, "", "REVISION=Blue.1"},
		{`--server-name (ISTIOD_CUSTOM_HOST) "h_x" is no DNS name`, "", "ISTIOD_CUSTOM_HOST=good.example.com,h_x"},
		{`--server-name (ISTIOD_CUSTOM_HOST) "*" is no DNS name`, "--server-name *", ""},
		{`--tls-address "15012": want host:port, such as`, "--tls-address 15012", ""},
		{`--debug-address "a:http": want host:port`, "--debug-address a:http", ""},
		{`--debug-address "": want host:port`, "--debug-address=", ""},
		{`--webhook-address ":65536": want host:port`, "--webhook-address :65536", ""},
		{"--root-cert-ttl (CITADEL_SELF_SIGNED_CA_CERT_TTL) is only for objects of a cluster, not for --source files: leave it out", "--source files a --root-cert-ttl 1h", ""},
		{"--waypoint-image (WAYPOINT_IMAGE) is only for objects of a cluster", "--source files a", "WAYPOINT_IMAGE=registry.example/waypoint:1"},
		{"--drain-time is only for objects of a cluster", "--source files a --drain-time 0s", ""},
		{"--token-key is only for --source files, not for objects of a cluster: leave it out", "--token-key k", ""},
		{"--state is only for --source files", "--kubeconfig k --state s", ""},
		{`PILOT_CERT_PROVIDER "kubernetes" is not done`, "", "PILOT_CERT_PROVIDER=kubernetes"},
	} {
		if _, err := Parse(strings.Fields(c.args), []string{c.env}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s\nwant %s\nhave %v", c.args, c.env, c.want, err)
		}
	}
}

// TestReadmeListsEverySetting holds the README's table against the code, by flag, variable and default.
func TestReadmeListsEverySetting(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed, have []string
	for _, row := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\| (?:`([A-Z_]+)`)? ?\\|").FindAllStringSubmatch(string(text), -1) {
		listed = append(listed, row[1]+" "+row[2])
	}
	for _, one := range new(Config).settings(new(string)) {
		have = append(have, one.flag+" "+one.env)
	}
	slices.Sort(listed)
	slices.Sort(have)
	if diff := cmp.Diff(have, listed); diff != "" {
		t.Errorf("settings that the code reads (-) and istiod-lite/README.md lists (+):\n%s", diff)
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var help bytes.Buffer
	if _, err := Parse([]string{"--help"}, nil, &help); !errors.Is(err, pflag.ErrHelp) {
		t.Error(err)
	}
	for _, one := range new(Config).settings(new(string)) {
		if !strings.Contains(help.String(), "--"+one.flag+" ") || !strings.Contains(help.String(), one.env) {
			t.Errorf("no --%s or %s in\n%s", one.flag, one.env, help.String())
		}
	}
	for _, want := range []string{"istiod-lite --source files DIR", "default :15012", "default ca beside DIR", "[POD_NAMESPACE]"} {
		if !strings.Contains(strings.ReplaceAll(help.String(), `"`, ""), want) {
			t.Errorf("no %q in\n%s", want, help.String())
		}
	}
	if _, err := Parse([]string{"--source", "files", "d"}, nil, io.Discard); err != nil {
		t.Error(err)
	}
}
