package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/ztunnel/config"
)

func TestDNSProxy(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, test := range []struct{ environ, want string }{
		{"", "false [127.0.0.1:15053 [::1]:15053] cluster.local "},
		{"ISTIO_META_DNS_CAPTURE=true", "true [127.0.0.1:15053 [::1]:15053] cluster.local "},
		{"ISTIO_META_DNS_CAPTURE=1", "false [127.0.0.1:15053 [::1]:15053] cluster.local "},
		{"ISTIO_META_DNS_PROXY_ADDR=localhost:5353", "false [127.0.0.1:5353 [::1]:5353] cluster.local "},
		{"ISTIO_META_DNS_PROXY_ADDR=[::1]:5353", "false [[::1]:5353] cluster.local "},
		{"CLUSTER_DOMAIN=corp.example PREFERED_SERVICE_NAMESPACE=shop", "false [127.0.0.1:15053 [::1]:15053] corp.example shop"},
		{"ISTIO_META_DNS_CAPTURE=false XDS_ON_DEMAND=true", "false [127.0.0.1:15053 [::1]:15053] cluster.local "},
	} {
		cfg, err := config.FromEnv(append([]string{"NODE_NAME=node1"}, strings.Fields(test.environ)...))
		if got := fmt.Sprint(cfg.DNS.Capture, cfg.DNS.Listen, " ", cfg.DNS.Domain, " ", cfg.DNS.Preferred); err != nil || got != test.want {
			t.Errorf("%q: %s, %v, want %s", test.environ, got, err, test.want)
		}
	}
	for environ, wants := range map[string][]string{
		"ISTIO_META_DNS_PROXY_ADDR=15053":                {"ISTIO_META_DNS_PROXY_ADDR", "localhost:15053"},
		"ISTIO_META_DNS_PROXY_ADDR=host:15053":           {"ISTIO_META_DNS_PROXY_ADDR", `"host:15053"`},
		"ISTIO_META_DNS_PROXY_ADDR=localhost:0":          {"ISTIO_META_DNS_PROXY_ADDR", `"localhost:0"`},
		"ISTIO_META_DNS_CAPTURE=true XDS_ON_DEMAND=true": {"XDS_ON_DEMAND", "ISTIO_META_DNS_CAPTURE", "unset one"},
	} {
		_, err := config.FromEnv(append([]string{"NODE_NAME=node1"}, strings.Fields(environ)...))
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: error %v doesn't say %q", environ, err, want)
			}
		}
	}
}
