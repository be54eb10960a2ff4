package guard

import (
	"slices"
	"strings"
	"testing"
)

// mayImport says, for each package of ours, which others of ours its product code may import: exact paths, or a folder
// with a slash at its end. The daemons, which wire everything of their program together, and mains are not listed.
var mayImport = map[string][]string{
	// mesh, level 1: nothing of ours.
	"mesh/identity": {}, "mesh/socket": {}, "mesh/record": {}, "mesh/loop": {}, "mesh/drain": {}, "mesh/admin": {}, "mesh/folder": {}, "mesh/controlplane": {}, "mesh/status": {},
	"mesh/settings": {}, "mesh/token": {}, "mesh/scrape": {}, "mesh/file": {}, "mesh/trace": {}, "mesh/calm": {},
	"mesh/api/workload": {}, "mesh/api/security": {}, "mesh/api/zds": {}, "mesh/api/ca": {}, "mesh/api/l7": {},
	// mesh, level 2.
	"mesh/relay":     {"mesh/loop"},
	"mesh/worker":    {"mesh/loop", "mesh/socket"},
	"mesh/h2":        {},
	"mesh/mtls":      {"mesh/identity"},
	"mesh/state":     {"mesh/identity", "mesh/api/"},
	"mesh/xds":       {"mesh/api/"},
	"mesh/telemetry": {"mesh/identity", "mesh/trace"},
	"mesh/handover":  {"mesh/socket", "mesh/api/"},
	// mesh, level 3.
	"mesh/hbone":      {"mesh/h2", "mesh/mtls", "mesh/identity", "mesh/loop", "mesh/record", "mesh/relay", "mesh/trace"},
	"mesh/certs":      {"mesh/mtls", "mesh/file", "mesh/identity", "mesh/api/"},
	"mesh/policy":     {"mesh/state", "mesh/identity"},
	"mesh/spans":      {"mesh/settings", "mesh/telemetry", "mesh/trace"},
	"mesh/balance":    {"mesh/state"},
	"mesh/demand":     {"mesh/state"},
	"mesh/intake":     {"mesh/state", "mesh/telemetry", "mesh/xds"},
	"mesh/revocation": {"mesh/file", "mesh/mtls", "mesh/settings", "mesh/telemetry"},

	// mesh, level 4.
	"mesh/describe": {"mesh/hbone", "mesh/identity", "mesh/loop", "mesh/mtls", "mesh/state", "mesh/telemetry", "mesh/trace"},

	"ztunnel/config":   {"mesh/settings"},
	"ztunnel/enroll":   {"mesh/socket", "mesh/handover", "mesh/api/"},
	"ztunnel/capture":  {"mesh/worker", "mesh/loop", "mesh/socket"},
	"ztunnel/outbound": {"ztunnel/capture", "mesh/"},
	"ztunnel/inbound":  {"ztunnel/capture", "mesh/"},
	"ztunnel/dns":      {"mesh/socket", "mesh/state", "mesh/telemetry"},
	"ztunnel/socks":    {"mesh/socket"},
	"ztunnel/dump":     {"ztunnel/capture", "mesh/"},

	"waypoint/exchange":   {},
	"waypoint/pipe":       {"mesh/hbone", "mesh/loop", "mesh/relay"},
	"waypoint/h1":         {"waypoint/exchange", "waypoint/pipe", "mesh/loop"},
	"waypoint/target":     {},
	"waypoint/claims":     {},
	"waypoint/index":      {"waypoint/exchange", "waypoint/target"},
	"waypoint/route":      {"waypoint/exchange", "waypoint/index", "waypoint/target", "mesh/api/"},
	"waypoint/authz":      {"waypoint/claims", "waypoint/exchange", "waypoint/index", "waypoint/target", "mesh/api/", "mesh/identity"},
	"waypoint/roots":      {},
	"waypoint/secure":     {"waypoint/pipe", "waypoint/roots", "mesh/loop", "mesh/api/"},
	"waypoint/jwt":        {"waypoint/claims", "waypoint/exchange", "waypoint/roots", "waypoint/target", "mesh/api/"},
	"waypoint/table":      {"waypoint/authz", "waypoint/jwt", "waypoint/route", "waypoint/secure", "mesh/api/"},
	"waypoint/downstream": {"waypoint/exchange", "waypoint/pipe", "mesh/loop"},
	"waypoint/h2c":        {"waypoint/exchange", "waypoint/pipe", "mesh/loop", "mesh/h2"},
	"waypoint/config":     {"mesh/settings", "mesh/identity"},
	"waypoint/arrival":    {"mesh/hbone", "mesh/state"},
	"waypoint/upstream":   {"waypoint/exchange", "waypoint/h1", "waypoint/h2c", "waypoint/pipe", "waypoint/secure", "mesh/"},
	"waypoint/serve":      {"waypoint/", "mesh/"},

	"istiod-lite/config":    {},
	"istiod-lite/model":     {},
	"istiod-lite/decode":    {"istiod-lite/model"},
	"istiod-lite/kube":      {"istiod-lite/decode", "istiod-lite/model", "istiod-lite/reflector"},
	"istiod-lite/watch":     {"istiod-lite/decode", "istiod-lite/model", "mesh/folder", "mesh/status"},
	"istiod-lite/routes":    {"istiod-lite/model", "mesh/api/"},
	"istiod-lite/translate": {"istiod-lite/model", "mesh/api/", "mesh/identity"},
	"istiod-lite/push":      {"mesh/api/"},
	"istiod-lite/ca":        {"mesh/identity", "mesh/api/", "mesh/token"},
	"istiod-lite/keep":      {"istiod-lite/ca", "mesh/file"},
	"istiod-lite/review":    {"istiod-lite/ca"},
	"istiod-lite/golden":    {"istiod-lite/model", "istiod-lite/watch"},
	// What it writes to Kubernetes.
	"istiod-lite/queue":     {},
	"istiod-lite/reflector": {},
	"istiod-lite/lead":      {},
	"istiod-lite/status":    {"istiod-lite/decode", "istiod-lite/model", "istiod-lite/queue"},
	"istiod-lite/addresses": {"istiod-lite/model", "istiod-lite/queue"},
	"istiod-lite/roots":     {"istiod-lite/model", "istiod-lite/queue", "istiod-lite/reflector"},
	"istiod-lite/deploy":    {"istiod-lite/model", "istiod-lite/queue", "istiod-lite/reflector"},
	"istiod-lite/webhook":   {"mesh/admin", "istiod-lite/decode", "istiod-lite/model", "istiod-lite/queue", "istiod-lite/reflector"},

	"bpf/capture": {},
	"bpf/probe":   {"bpf/capture"},

	"cni-plugin/config":   {},
	"cni-plugin/plugin":   {"mesh/socket"},
	"cni-plugin/pods":     {},
	"cni-plugin/files":    {"cni-plugin/pods", "mesh/folder"},
	"cni-plugin/kube":     {"cni-plugin/pods", "mesh/status"},
	"cni-plugin/proc":     {"mesh/socket"},
	"cni-plugin/install":  {},
	"cni-plugin/inspect":  {},
	"cni-plugin/agent":    {"cni-plugin/pods", "mesh/socket"},
	"cni-plugin/redirect": {"mesh/socket", "bpf/"},
	"cni-plugin/zds":      {"mesh/api/", "mesh/socket", "mesh/handover"},
	"cni-plugin/enroll":   {"cni-plugin/redirect", "cni-plugin/zds", "mesh/socket", "mesh/status"},

	"cli/command": {"cli/", "mesh/"},
	"cli/story":   {"cli/demo", "mesh/"},
	"cli/demo":    {"cli/wire", "mesh/"},
	"cli/wire":    {"mesh/socket"},
	"cli/shop":    {},

	"deploy/image": {},
	"deploy/sbom":  {},
}

// only says which packages may import what is heavy or delicate.
var only = map[string][]string{
	"golang.org/x/sys/unix":                  {"mesh/socket", "mesh/loop", "mesh/relay", "mesh/hbone", "mesh/handover", "mesh/meshtest/netns", "mesh/meshtest/byhand", "mesh/meshtest/onloop", "mesh/worker", "waypoint/pipe", "waypoint/daemon", "ztunnel/capture", "ztunnel/inbound", "ztunnel/outbound", "cni-plugin/redirect", "cni-plugin/zds", "bpf/probe", "cli/demo", "cli/wire", "e2e/bench/waypoint"},
	"google.golang.org/grpc":                 {"mesh/controlplane", "mesh/xds", "mesh/certs", "mesh/spans", "mesh/api/", "mesh/meshtest/fakeistiod", "ztunnel/daemon", "waypoint/daemon", "istiod-lite/push", "istiod-lite/ca", "istiod-lite/review", "istiod-lite/daemon", "deploy/samples/bookinfo-like", "e2e/delta", "e2e/bench/controlplane", "e2e/conformance/echo"},
	"k8s.io/":                                {"cni-plugin/kube", "istiod-lite/config", "istiod-lite/decode", "istiod-lite/kube", "istiod-lite/daemon", "istiod-lite/keep", "istiod-lite/review", "e2e/apiserver", "e2e/bench/controlplane", "istiod-lite/queue", "istiod-lite/reflector", "istiod-lite/lead", "istiod-lite/status", "istiod-lite/addresses", "istiod-lite/roots", "istiod-lite/webhook", "istiod-lite/deploy"},
	"istio.io/":                              {"istiod-lite/decode"},
	"sigs.k8s.io/gateway-api/":               {"istiod-lite/decode"},
	"github.com/google/nftables":             {"cni-plugin/redirect", "cli/demo"},
	"github.com/cilium/ebpf":                 {"bpf/"},
	"github.com/vishvananda/netlink":         {"cni-plugin/redirect", "cli/demo", "cli/wire", "e2e/cluster", "mesh/meshtest/netns"},
	"github.com/containernetworking/":        {"cni-plugin/plugin"},
	"github.com/spf13/cobra":                 {"cli/"},
	"github.com/prometheus/":                 {"mesh/telemetry", "mesh/scrape", "mesh/spans", "ztunnel/daemon", "istiod-lite/", "cni-plugin/daemon", "waypoint/daemon"},
	"github.com/envoyproxy/":                 {"mesh/xds", "mesh/meshtest/fakeistiod", "istiod-lite/push", "istiod-lite/daemon", "ztunnel/daemon", "e2e/delta", "waypoint/daemon"},
	"golang.org/x/crypto/":                   {"mesh/record", "waypoint/roots"},
	"golang.org/x/net/http2":                 {"mesh/h2", "mesh/hbone", "waypoint/h2c"},
	"github.com/fsnotify/fsnotify":           {"mesh/folder", "mesh/file", "cni-plugin/install"},
	"github.com/miekg/dns":                   {"ztunnel/dns"},
	"github.com/google/go-containerregistry": {"deploy/image"},
	"helm.sh/helm/":                          {"deploy/charts"},
	"testing":                                {"mesh/meshtest/", "istiod-lite/golden"},
	"github.com/vishvananda/netns":           {},
	"istio.io/istio":                         {},
	"sigs.k8s.io/controller-runtime":         {},
	"C":                                      {},
	"github.com/stretchr/testify/mock":       {},
}

func TestImportsOnlyPointDown(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range workspace(t) {
		seen[p.path()] = true
		if _, listed := mayImport[p.path()]; !listed && !wires(p.path()) {
			t.Errorf("%s is new: give it its line in mayImport", p.path())
		}
		for _, imported := range p.Imports {
			checkImport(t, p, imported)
		}
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			if component(imported) != "" && crossesComponents(p.path(), imported) {
				t.Errorf("tests of %s import %s, another component: move the test to e2e", p.path(), imported)
			}
		}
	}
	for path := range mayImport {
		if !seen[path] {
			t.Errorf("mayImport lists %s, which doesn't exist: remove the line", path)
		}
	}
}

// An allowance that nobody needs any more would let the next one in unseen.
func TestEveryAllowanceIsNeeded(t *testing.T) {
	packages := workspace(t)
	for library, allowed := range only {
		for _, pattern := range allowed {
			needed := slices.ContainsFunc(packages, func(p goPackage) bool {
				return matches(p.path(), pattern) && slices.ContainsFunc(p.Imports, func(imported string) bool { return matches(imported, library) })
			})
			if !needed {
				t.Errorf("only: %s doesn't import %s (any more): remove it from the list", pattern, library)
			}
		}
	}
}

func checkImport(t *testing.T, p goPackage, imported string) {
	t.Helper()
	path := p.path()
	for library, allowed := range only {
		if matches(imported, library) && !matchesAny(path, allowed) {
			t.Errorf("%s imports %s, which is kept to %v", path, imported, allowed)
		}
	}
	ours, ok := strings.CutPrefix(imported, base)
	if !ok {
		return
	}
	switch {
	case crossesComponents(path, imported):
		t.Errorf("%s imports %s: components never import each other", path, ours)
	case strings.HasPrefix(ours, "mesh/meshtest/") && !strings.HasPrefix(path, "mesh/meshtest/"):
		t.Errorf("%s imports %s in product code: it's for tests", path, ours)
	case wires(path):
	default:
		if allowed := mayImport[path]; !matchesAny(ours, allowed) {
			t.Errorf("%s imports %s; it may import %v", path, ours, allowed)
		}
	}
}

// wires tells that a package joins the rooms of its program: a main, a daemon, or a test tool.
func wires(path string) bool {
	switch path {
	case "ztunnel", "waypoint", "istiod-lite", "cni-plugin", "cni-plugin/node-agent", "cli", "deploy/images", "deploy/charts", "deploy/samples/bookinfo-like":
		return true
	}
	return strings.HasSuffix(path, "/daemon") || strings.HasPrefix(path, "e2e/") || strings.HasPrefix(path, "mesh/meshtest/")
}

func crossesComponents(path, imported string) bool {
	from, to := component(base+path), component(imported)
	return from != "e2e" && to != "" && to != "mesh" && to != from && !(from == "cni-plugin" && to == "bpf")
}

// component is the first element of a path of ours, or "".
func component(imported string) string {
	ours, ok := strings.CutPrefix(imported, base)
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(ours, "/")
	return first
}

func matchesAny(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(path, pattern) })
}

// matches compares a path with an exact one, or with a folder that ends in a slash; a library's path stands for its
// packages as well.
func matches(path, pattern string) bool {
	if strings.HasSuffix(pattern, "/") {
		return strings.HasPrefix(path, pattern)
	}
	return path == pattern || (strings.Contains(pattern, ".") && strings.HasPrefix(path, pattern+"/"))
}
