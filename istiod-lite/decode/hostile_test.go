package decode_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// read decodes an object as a source does, by its kind.
func read(text []byte) (model.Object, error) {
	var marks struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal(text, &marks); err != nil {
		return nil, err
	}
	for _, kind := range decode.Kinds() {
		if kind.Kind == marks.Kind && slices.Contains(kind.APIVersions(), marks.APIVersion) {
			return kind.Read(func(into any) error { return yaml.Unmarshal(text, into) })
		}
	}
	return nil, fmt.Errorf("no kind %s/%s", marks.APIVersion, marks.Kind)
}

// object writes one of a kind, whose other fields are given.
func object(apiVersion, kind, fields string) string {
	if !strings.Contains(fields, "metadata:") {
		fields = "metadata: {name: x, namespace: demo}\n" + fields
	}
	return "apiVersion: " + apiVersion + "\nkind: " + kind + "\n" + fields
}

func many(n int, format string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return "[" + strings.Join(list, ", ") + "]"
}

const (
	core       = "v1"
	slice      = "discovery.k8s.io/v1"
	istio      = "networking.istio.io/v1"
	gatewayAPI = "gateway.networking.k8s.io/v1"
	security   = "security.istio.io/v1"
)

// hostile are objects that can't be meant. Each is refused with the field that is wrong, so that what the object said before
// stays in force.
var hostile = []struct{ name, apiVersion, kind, fields, field string }{
	{"a pod with an address that is none", core, "Pod", "status: {podIPs: [{ip: 10.1.0.1}, {ip: 999.1.1.1}]}", "status.podIPs[1].ip"},
	{"a pod with an address of one machine's interface", core, "Pod", `status: {podIPs: [{ip: "fe80::1%eth0"}]}`, "status.podIPs[0].ip"},
	{"a pod with an old address that is none", core, "Pod", "status: {podIP: nonsense}", "status.podIPs[0].ip"},
	{"a pod with a port beyond all", core, "Pod", "spec: {containers: [{name: a, ports: [{name: web, containerPort: 70000}]}]}", "spec.containers[0].ports[0].containerPort"},
	{"a pod with a port below all", core, "Pod", "spec: {initContainers: [{name: a, restartPolicy: Always, ports: [{name: web, containerPort: -1}]}]}", "spec.initContainers[0].ports[0].containerPort"},
	{"a service with a virtual address that is none", core, "Service", "spec: {clusterIPs: [10.0.0.1, x]}", "spec.clusterIPs[1]"},
	{"a service with an old virtual address that is none", core, "Service", "spec: {clusterIP: x}", "spec.clusterIP"},
	{"a service with port 0", core, "Service", "spec: {ports: [{port: 0}]}", "spec.ports[0].port"},
	{"a service with a target beyond all", core, "Service", "spec: {ports: [{port: 80, targetPort: 65536}]}", "spec.ports[0].targetPort"},
	{"a service with a label that can't be", core, "Service", `spec: {selector: {"app name": x}}`, "spec.selector"},
	{"a service with a value that can't be", core, "Service", `spec: {selector: {app: "x\0y"}}`, "spec.selector"},
	{"a slice with an address that is none", slice, "EndpointSlice", "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1, localhost]}]", "endpoints[0].addresses[1]"},
	{"a slice with a port beyond all", slice, "EndpointSlice", "addressType: IPv4\nports: [{port: 99999}]", "ports[0].port"},
	{"a mesh config that is no YAML", core, "ConfigMap", "metadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'a: [}'}", "data.mesh"},
	{"a mesh config of another type", core, "ConfigMap", "metadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'trustDomain: [x]'}", "data.mesh"},
	{"a mesh config with a trust domain that can't be", core, "ConfigMap", "metadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'trustDomain: spiffe://evil/x'}", "data.mesh"},
	{"a mesh config with an alias that can't be", core, "ConfigMap", "metadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'trustDomainAliases: [\"a b\"]'}", "data.mesh"},
	{"a visibility by nothing", core, "ConfigMap", "metadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'serviceEntryVisibility: {policies: [{visibility: PUBLIC, matchingRules: [{}]}]}'}", "data.mesh.serviceEntryVisibility.policies[0].matchingRules[0]"},
	{"a visibility by an operator that is none", core, "ConfigMap", "metadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'serviceEntryVisibility: {policies: [{matchingRules: [{namespaceSelector: {matchExpressions: [{key: a, operator: Like}]}}]}]}'}", "data.mesh.serviceEntryVisibility.policies[0].matchingRules[0].namespaceSelector.matchExpressions[0].operator"},
	{"an entry without hosts", istio, "ServiceEntry", "spec: {ports: [{number: 80, name: a}]}", "spec.hosts"},
	{"an entry with too many hosts", istio, "ServiceEntry", "spec: {hosts: " + many(257, "h%d.example.com") + "}", "spec.hosts"},
	{"an entry for everything", istio, "ServiceEntry", `spec: {hosts: ["*"]}`, "spec.hosts[0]"},
	{"an entry with a star in the middle", istio, "ServiceEntry", `spec: {hosts: [a.example.com, "a.*.example.com"]}`, "spec.hosts[1]"},
	{"an entry with a host that looks like an address", istio, "ServiceEntry", "spec: {hosts: [300.1.1.1]}", "spec.hosts[0]"},
	{"an entry with an endpoint of a part that is none", istio, "ServiceEntry", "spec: {hosts: [a.example.com], endpoints: [{address: 10.0.0.256}]}", "spec.endpoints[0].address"},
	{"an entry with a host that is a path", istio, "ServiceEntry", `spec: {hosts: ["demo/../../x"]}`, "spec.hosts[0]"},
	{"an entry with a host that only an unusable waypoint has", istio, "ServiceEntry", "spec: {hosts: [w.demo.waypoint_not_usable.invalid]}", "spec.hosts[0]"},
	{"an entry with a host without end", istio, "ServiceEntry", "spec: {hosts: [" + strings.Repeat("a", 300) + "]}", "spec.hosts[0]"},
	{"an entry with an address that is none", istio, "ServiceEntry", "spec: {hosts: [a.example.com], addresses: [10.0.0.0/33]}", "spec.addresses[0]"},
	{"an entry with too many addresses", istio, "ServiceEntry", "spec: {hosts: [a.example.com], addresses: " + many(257, "10.0.0.%d") + "}", "spec.addresses"},
	{"an entry with port 0", istio, "ServiceEntry", "spec: {hosts: [a.example.com], ports: [{number: 0, name: a}]}", "spec.ports[0].number"},
	{"an entry with a port twice", istio, "ServiceEntry", "spec: {hosts: [a.example.com], ports: [{number: 80, name: a}, {number: 80, name: b}]}", "spec.ports[1].number"},
	{"an entry with a target beyond all", istio, "ServiceEntry", "spec: {hosts: [a.example.com], ports: [{number: 80, name: a, targetPort: 4294967295}]}", "spec.ports[0].targetPort"},
	{"an entry with endpoints in two ways", istio, "ServiceEntry", "spec: {hosts: [a.example.com], workloadSelector: {labels: {a: b}}, endpoints: [{address: 10.0.0.1}]}", "spec.endpoints"},
	{"an entry with an endpoint nowhere", istio, "ServiceEntry", "spec: {hosts: [a.example.com], endpoints: [{}]}", "spec.endpoints[0].address"},
	{"an entry with an endpoint that is none", istio, "ServiceEntry", "spec: {hosts: [a.example.com], endpoints: [{address: 'not a host'}]}", "spec.endpoints[0].address"},
	{"an entry with an endpoint's port beyond all", istio, "ServiceEntry", "spec: {hosts: [a.example.com], endpoints: [{address: 10.0.0.1, ports: {web: 65536}}]}", "spec.endpoints[0].ports.web"},
	{"an entry with an endpoint's label that can't be", istio, "ServiceEntry", "spec: {hosts: [a.example.com], endpoints: [{address: 10.0.0.1, labels: {'-': x}}]}", "spec.endpoints[0].labels"},
	{"an entry with too many endpoints", istio, "ServiceEntry", "spec: {hosts: [a.example.com], endpoints: " + many(10_001, "{address: h%d.example.com}") + "}", "spec.endpoints"},
	{"an entry that becomes too much", istio, "ServiceEntry", "spec: {hosts: " + many(200, "h%d.example.com") + ", ports: " + many(200, "{number: 1%03d, name: a}") + ", endpoints: " + many(10, "{address: 10.0.0.%d}") + "}", "spec.endpoints"},
	{"an entry that means too much for each workload", istio, "ServiceEntry", "spec: {hosts: " + many(256, "h%d.example.com") + ", ports: " + many(9, "{number: 1%03d, name: a}") + ", workloadSelector: {labels: {app: a}}}", "spec.workloadSelector"},
	{"an entry with a selector that can't be", istio, "ServiceEntry", "spec: {hosts: [a.example.com], workloadSelector: {labels: {app: '*'}}}", "spec.workloadSelector.labels"},
	{"a workload entry nowhere", istio, "WorkloadEntry", "spec: {}", "spec.address"},
	{"a workload entry with an interface", istio, "WorkloadEntry", `spec: {address: "fe80::1%eth0"}`, "spec.address"},
	{"a workload entry with port 0", istio, "WorkloadEntry", "spec: {address: 10.0.0.1, ports: {web: 0}}", "spec.ports.web"},
	{"a gateway for a traffic that isn't", gatewayAPI, "Gateway", "metadata: {name: x, namespace: demo, labels: {istio.io/waypoint-for: everything}}", "metadata.labels[istio.io/waypoint-for]"},
	{"a gateway with a binding that isn't", gatewayAPI, "Gateway", "metadata: {name: x, namespace: demo, annotations: {ambient.istio.io/waypoint-inbound-binding: HTTP/80}}", "metadata.annotations[ambient.istio.io/waypoint-inbound-binding]"},
	{"a gateway with a binding's port beyond all", gatewayAPI, "Gateway", "metadata: {name: x, namespace: demo, annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/65536}}", "metadata.annotations[ambient.istio.io/waypoint-inbound-binding]"},
	{"a gateway that may tell who clients are", gatewayAPI, "Gateway", "metadata: {name: x, namespace: demo, annotations: {ambient.istio.io/xfcc-include-client-identity: maybe}}", "metadata.annotations[ambient.istio.io/xfcc-include-client-identity]"},
	{"a gateway with a listener's port beyond all", gatewayAPI, "Gateway", "spec: {gatewayClassName: a, listeners: [{name: a, port: 65536, protocol: HBONE}]}", "spec.listeners[0].port"},
	{"a gateway for chosen namespaces without a choice", gatewayAPI, "Gateway", "spec: {gatewayClassName: a, listeners: [{name: a, port: 1, protocol: HBONE, allowedRoutes: {namespaces: {from: Selector}}}]}", "spec.listeners[0].allowedRoutes.namespaces.selector"},
	{"a gateway for namespaces of no sort", gatewayAPI, "Gateway", "spec: {gatewayClassName: a, listeners: [{name: a, port: 1, protocol: HBONE, allowedRoutes: {namespaces: {from: Friends}}}]}", "spec.listeners[0].allowedRoutes.namespaces.from"},
	{"a gateway with a choice of nothing", gatewayAPI, "Gateway", "spec: {gatewayClassName: a, listeners: [{name: a, port: 1, protocol: HBONE, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In}]}}}}]}", "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].values"},
	{"a gateway that wants an address that is none", gatewayAPI, "Gateway", "spec: {gatewayClassName: a, addresses: [{type: IPAddress, value: nowhere}]}", "spec.addresses[0].value"},
	{"a class with a binding without a port", gatewayAPI, "GatewayClass", "metadata: {name: x, annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/}}", "metadata.annotations[ambient.istio.io/waypoint-inbound-binding]"},
	{"a class that may tell who clients are", gatewayAPI, "GatewayClass", "metadata: {name: x, annotations: {ambient.istio.io/xfcc-include-client-identity: ''}}", "metadata.annotations[ambient.istio.io/xfcc-include-client-identity]"},
	{"a route with a header that goes on in another", gatewayAPI, "HTTPRoute", `spec: {rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: "b\r\nc: d"}]}}]}]}`, "spec.rules[0].filters[0].requestHeaderModifier.add[0].value"},
	{"a route with a path that has a query", gatewayAPI, "HTTPRoute", `spec: {rules: [{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: "/a?b"}}}]}]}`, "spec.rules[0].filters[0].urlRewrite.path.replaceFullPath"},
	{"a route with a prefix that has a blank", gatewayAPI, "HTTPRoute", `spec: {rules: [{filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: "/a b"}}}]}]}`, "spec.rules[0].filters[0].requestRedirect.path.replacePrefixMatch"},
	{"a policy with selector and targets", security, "AuthorizationPolicy", "spec: {selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]}", "spec.selector"},
	{"a policy with a label that can't be", security, "AuthorizationPolicy", "spec: {selector: {matchLabels: {a: 'b c'}}}", "spec.selector.matchLabels"},
	{"a policy with an empty source", security, "AuthorizationPolicy", "spec: {rules: [{from: [{source: {}}]}]}", "spec.rules[0].from[0].source"},
	{"a policy with an empty operation", security, "AuthorizationPolicy", "spec: {action: DENY, rules: [{to: [{operation: {}}]}]}", "spec.rules[0].to[0].operation"},
	{"a policy with an empty value", security, "AuthorizationPolicy", "spec: {rules: [{from: [{source: {principals: ['']}}]}]}", "spec.rules[0].from[0].source.principals[0]"},
	{"a policy with a range that is none", security, "AuthorizationPolicy", "spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/40]}}]}]}", "spec.rules[0].from[0].source.ipBlocks[0]"},
	{"a policy with a port that is none", security, "AuthorizationPolicy", "spec: {rules: [{to: [{operation: {ports: ['80', '80-90']}}]}]}", "spec.rules[0].to[0].operation.ports[1]"},
	{"a policy with an account everywhere", security, "AuthorizationPolicy", "spec: {rules: [{from: [{source: {serviceAccounts: ['*/x']}}]}]}", "spec.rules[0].from[0].source.serviceAccounts[0]"},
	{"a policy with an attribute that nobody knows", security, "AuthorizationPolicy", "spec: {action: DENY, rules: [{when: [{key: source.ipp, values: [a]}]}]}", "spec.rules[0].when[0].key"},
	{"a policy with a condition without values", security, "AuthorizationPolicy", "spec: {rules: [{when: [{key: source.ip}]}]}", "spec.rules[0].when[0]"},
	{"strictness with port 0", security, "PeerAuthentication", "spec: {selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}", "spec.portLevelMtls"},
	{"strictness of ports of nobody", security, "PeerAuthentication", "spec: {portLevelMtls: {80: {mode: STRICT}}}", "spec.portLevelMtls"},
}

func TestHostileObjectsAreRefusedByField(t *testing.T) {
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			got, err := read([]byte(object(c.apiVersion, c.kind, c.fields)))
			if err == nil {
				t.Fatalf("taken as %+v", got)
			}
			var field *decode.Error
			if !errors.As(err, &field) {
				t.Fatalf("no field: %v", err)
			}
			if field.Field != c.field {
				t.Errorf("want %s, have %v", c.field, err)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestAnEntryMayMeanAllThatAWorkloadMayHave(t *testing.T) {
	spec := "spec: {hosts: " + many(256, "h%d.example.com") + ", ports: " + many(8, "{number: 1%03d, name: a}")
	for _, rest := range []string{", workloadSelector: {labels: {app: a}}}", ", endpoints: " + many(90, "{address: 10.0.0.%d}") + "}"} {
		if _, err := read([]byte(object(istio, "ServiceEntry", spec+rest))); err != nil {
			t.Errorf("%s: %v", rest, err)
		}
	}
	_, err := read([]byte(object(istio, "ServiceEntry", strings.Replace(spec, "{number: 1000,", "{number: 2000, name: b}, {number: 1000,", 1)+", workloadSelector: {labels: {app: a}}}")))
	const want = "spec.workloadSelector: 256 hosts with 9 ports are 2304 ports of each workload, and one has at most 2048: " +
		"list fewer hosts or ports, or give them to workloads of their own"
	if err == nil || err.Error() != want {
		t.Errorf("want %s\nhave %v", want, err)
	}
}

// A misspelt field would not do what it was written for, an unknown value might deny something.
func TestUnknownFieldsAndValuesAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"a field of a policy":           object(security, "AuthorizationPolicy", "spec: {rule: []}"),
		"an action":                     object(security, "AuthorizationPolicy", "spec: {action: FORBID}"),
		"a mode":                        object(security, "PeerAuthentication", "spec: {mtls: {mode: SOMETIMES}}"),
		"a field of an entry":           object(istio, "ServiceEntry", "spec: {hosts: [a.example.com], endpoint: []}"),
		"a resolution":                  object(istio, "ServiceEntry", "spec: {hosts: [a.example.com], resolution: MAGIC}"),
		"a type of a policy":            object(security, "AuthorizationPolicy", "spec: [1, 2]"),
		"a number where a name must be": object(istio, "WorkloadEntry", "spec: {address: {a: b}}"),
	} {
		if got, err := read([]byte(text)); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
}

// What other controllers write is used as far as it can be.
func TestWhatOthersWriteIntoAStatusIsTakenAsFarAsItGoes(t *testing.T) {
	entry, err := read([]byte(object(istio, "ServiceEntry", "spec: {hosts: [a.example.com]}\nstatus: {addresses: [{value: nonsense}, {value: 240.240.0.1}], more: {}}")))
	if err != nil || len(entry.(*model.ServiceEntry).Allocated) != 1 {
		t.Errorf("entry %+v, %v", entry, err)
	}
	for _, status := range []string{"status: {addresses: 7}", "status: []", `status: "x"`} {
		if entry, err := read([]byte(object(istio, "ServiceEntry", "spec: {hosts: [a.example.com]}\n"+status))); err != nil || len(entry.(*model.ServiceEntry).Allocated) != 0 {
			t.Errorf("%s: %+v, %v", status, entry, err)
		}
	}
	gateway, err := read([]byte(object(gatewayAPI, "Gateway", "spec: {gatewayClassName: a}\nstatus: {addresses: [{value: nonsense}, {value: 10.0.0.1}, {type: Hostname, value: 'a b'}]}")))
	if err != nil || len(gateway.(*model.Gateway).Addresses) != 1 {
		t.Errorf("gateway %+v, %v", gateway, err)
	}
}

// fuzz checks that whatever an object of the kinds holds, it is refused or understood, the same each time.
func fuzz(f *testing.F, kinds ...string) {
	for _, c := range hostile {
		if slices.Contains(kinds, c.kind) && len(c.fields) < 1000 {
			f.Add([]byte(object(c.apiVersion, c.kind, c.fields)))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, kind := range decode.Kinds() {
			if !slices.Contains(kinds, kind.Kind) {
				continue
			}
			one, err := kind.Read(func(into any) error { return yaml.Unmarshal(text, into) })
			two, again := kind.Read(func(into any) error { return yaml.Unmarshal(text, into) })
			if (err == nil) != (again == nil) || !reflect.DeepEqual(one, two) {
				t.Errorf("%+v, %v; then %+v, %v", one, err, two, again)
			}
			if err == nil && one != nil && one.Key().Kind != kind.Model {
				t.Errorf("a %s became a %s", kind.Kind, one.Key().Kind)
			}
		}
	})
}

func FuzzCore(f *testing.F)       { fuzz(f, "Namespace", "Node", "Pod", "Service", "EndpointSlice") }
func FuzzMeshConfig(f *testing.F) { fuzz(f, "ConfigMap") }
func FuzzNetworking(f *testing.F) { fuzz(f, "ServiceEntry", "WorkloadEntry") }
func FuzzGateways(f *testing.F)   { fuzz(f, "Gateway", "GatewayClass") }
func FuzzSecurity(f *testing.F) {
	fuzz(f, "AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication")
}
func FuzzRoutes(f *testing.F) {
	fuzz(f, "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "ReferenceGrant")
}
