package translate_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/istiod-lite/golden"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// These are mistakes that control planes of ambient meshes have made.

// mesh is a model with what was made of it, by name.
type mesh struct {
	t         *testing.T
	model     *model.Model
	translate translate.Mesh
	resources map[string]proto.Message
	owned     map[model.Key][]string // names by the key that they were made of
	touched   []model.Key            // by the last change
}

func newMesh(t *testing.T, settings model.Settings, yaml string) *mesh {
	t.Helper()
	m := &mesh{t: t, model: model.New(settings), translate: translate.Mesh{ClusterID: "c"}, resources: map[string]proto.Message{}, owned: map[model.Key][]string{}}
	if yaml != "" {
		m.apply(yaml)
	}
	return m
}

// apply takes objects in, and reports the names that went.
func (m *mesh) apply(yaml string) (gone []string) {
	m.t.Helper()
	m.touched = m.model.Apply(golden.MustRead(m.t, []byte(yaml)))
	for _, key := range m.touched {
		before := m.owned[key]
		m.owned[key] = nil
		for _, resource := range m.translate.Object(m.model, key).Resources {
			m.resources[resource.Name] = resource.Message
			m.owned[key] = append(m.owned[key], resource.Name)
		}
		for _, name := range before {
			if !slices.Contains(m.owned[key], name) {
				gone = append(gone, name)
			}
		}
	}
	return gone
}

func (m *mesh) workload(name string) *workload.Workload {
	m.t.Helper()
	address, _ := m.resources[name].(*workload.Address)
	if address.GetWorkload() == nil {
		m.t.Fatalf("no workload %s", name)
	}
	return address.GetWorkload()
}

func (m *mesh) service(name string) *workload.Service {
	m.t.Helper()
	address, _ := m.resources[name].(*workload.Address)
	if address.GetService() == nil {
		m.t.Fatalf("no service %s", name)
	}
	return address.GetService()
}

func (m *mesh) policy(name string) *security.Authorization {
	m.t.Helper()
	policy, _ := m.resources[name].(*security.Authorization)
	if policy == nil {
		m.t.Fatalf("no policy %s", name)
	}
	return policy
}

func pod(name, ip, labels, spec string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: demo, labels: {%s}}\nspec: {containers: []%s}\nstatus: {podIPs: [{ip: %s}]}\n", name, labels, spec, ip)
}

func policy(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: demo}\nspec: %s\n", name, spec)
}

func waypoint(name, status string) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: demo, labels: {istio.io/waypoint-for: all}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {%s}
`, name, status)
}

func TestSystemNamespaceNetworkChangeChangesEverythingInPlace(t *testing.T) {
	system := "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system, labels: {topology.istio.io/network: %s}}\n"
	m := newMesh(t, cluster, fmt.Sprintf(system, "one")+pod("a", "10.1.0.1", "app: a", "")+
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: svc, namespace: demo}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n")
	if gone := m.apply(fmt.Sprintf(system, "two")); len(gone) != 0 {
		t.Errorf("went: %v", gone)
	}
	if got := m.workload("c//Pod/demo/a").Network; got != "two" {
		t.Errorf("pod in network %q", got)
	}
	if got := m.service("demo/svc.demo.svc.cluster.local").Addresses[0].Network; got != "two" {
		t.Errorf("service in network %q", got)
	}
	// Another label of the namespace touches none of them.
	m.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system, labels: {topology.istio.io/network: two, more: labels}}\n")
	if want := (model.Key{Kind: model.KindNamespace, Name: model.Name{Name: "istio-system"}}); !slices.Equal(m.touched, []model.Key{want}) {
		t.Errorf("touched %v", m.touched)
	}
}

func TestPodsOfTheHostsNetworkHaveNoAddressOfTheirOwn(t *testing.T) {
	m := newMesh(t, cluster, pod("a", "192.0.2.1", "", ", hostNetwork: true")+pod("b", "192.0.2.1", "", ", hostNetwork: true"))
	for _, name := range []string{"c//Pod/demo/a", "c//Pod/demo/b"} {
		if got := m.workload(name).NetworkMode; got != workload.NetworkMode_HOST_NETWORK {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestSlicesOfOneServiceNameEachPortOfAPodOnce(t *testing.T) {
	slice := func(name, family, address, ports string) string {
		return fmt.Sprintf("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s, namespace: demo, labels: {kubernetes.io/service-name: db}}\n"+
			"addressType: %s\nports: [%s]\nendpoints: [{addresses: ['%s'], targetRef: {kind: Pod, name: a}}]\n", name, family, ports, address)
	}
	m := newMesh(t, cluster, pod("a", "10.1.0.1", "", "")+
		slice("two", "IPv6", "fd00::1", "{name: sql, port: 5432}, {name: stats, port: 9100}")+slice("one", "IPv4", "10.1.0.1", "{name: sql, port: 5433}")+
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: demo}\nspec: {clusterIP: 10.96.0.1, ports: [{name: sql, port: 1}, {name: stats, port: 2}]}\n")
	var got []string
	for _, port := range m.workload("c//Pod/demo/a").Services["demo/db.demo.svc.cluster.local"].GetPorts() {
		got = append(got, fmt.Sprint(port.ServicePort, " to ", port.TargetPort))
	}
	if want := []string{"1 to 5433", "2 to 9100"}; !slices.Equal(got, want) {
		t.Errorf("ports %v, want %v", got, want)
	}
}

func TestServicesOfMorePortsThanThereIsRoomForHaveNoEndpoints(t *testing.T) {
	ports := func(field string, n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("{name: p%d, %s: %d}", i, field, 1000+i)
		}
		return strings.Join(list, ", ")
	}
	service := func(n int) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: demo}\nspec: {clusterIP: 10.96.0.1, ports: [%s]}\n", ports("port", n))
	}
	m := newMesh(t, cluster, service(model.MaxMappings)+
		"---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: far, namespace: demo, labels: {kubernetes.io/service-name: db}}\n"+
		"addressType: IPv4\nports: ["+ports("port", model.MaxMappings+1)+"]\nendpoints: [{addresses: [192.0.2.1]}]\n")
	const endpoint = "c/discovery.k8s.io/EndpointSlice/demo/far/192.0.2.1"
	if got := len(m.workload(endpoint).Services["demo/db.demo.svc.cluster.local"].GetPorts()); got != model.MaxMappings {
		t.Errorf("%d ports, want %d", got, model.MaxMappings)
	}
	if gone := m.apply(service(model.MaxMappings + 1)); !slices.Contains(gone, endpoint) {
		t.Errorf("with a port more, gone is %v", gone)
	}
	result := translate.Mesh{}.Object(m.model, model.Key{Kind: model.KindService, Name: model.Name{Namespace: "demo", Name: "db"}})
	if text := strings.Join(conditionTexts(result.Conditions), ""); !strings.Contains(text, "tulle.dev/WorkloadsSelected=false TooManyPorts") {
		t.Errorf("its conditions are %q", text)
	}
}

func TestSlicesOfMoreThanProxiesShouldReadAreLeftOutAndToldOf(t *testing.T) {
	m := model.New(cluster)
	s := &model.Service{Namespace: "demo", Name: "db"}
	slice := &model.EndpointSlice{Namespace: "demo", Name: "far", Service: "db"}
	for i := range uint16(1000) {
		s.Ports = append(s.Ports, model.ServicePort{Name: fmt.Sprint("p", i), Port: 1 + i})
		slice.Ports = append(slice.Ports, model.NamedPort{Name: fmt.Sprint("p", i), Port: 1 + i})
	}
	for i := range 201 {
		slice.Endpoints = append(slice.Endpoints, model.Endpoint{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}})
	}
	for _, endpoints := range []int{200, 201} {
		some := *slice
		some.Endpoints = slice.Endpoints[:endpoints]
		m.Apply([]model.Change{{Key: s.Key(), Object: s}, {Key: some.Key(), Object: &some}})
		result := translate.Mesh{}.Object(m, some.Key())
		if within := endpoints == 200; within != (len(result.Resources) == 200) || within != (len(result.Notes) == 0) {
			t.Errorf("of %d endpoints with 1,000 ports there are %d, and %v is said", endpoints, len(result.Resources), result.Notes)
		}
	}
}

func TestOfManyHostsThatBelongToOthersSomeAreNamed(t *testing.T) {
	old := &model.ServiceEntry{Namespace: "demo", Name: "old"}
	for i := range 256 {
		old.Hosts = append(old.Hosts, fmt.Sprintf("h%d.example.com", i))
	}
	young := *old
	young.Name = "young"
	m := model.New(cluster)
	m.Apply([]model.Change{{Key: old.Key(), Object: old}, {Key: young.Key(), Object: &young}})
	notes := translate.Mesh{}.Object(m, young.Key()).Notes
	if len(notes) != 9 || !strings.HasPrefix(notes[7].Text, "host h7.example.com belongs to") || notes[8].Text != "248 more hosts or endpoints are like these" {
		t.Errorf("it says %v", notes)
	}
}

func TestNamedTargetPortsDifferByPod(t *testing.T) {
	named := func(port int) string {
		return fmt.Sprintf(", initContainers: [{name: i, image: i, restartPolicy: Always, ports: [{name: web, containerPort: %d}]}]", port)
	}
	m := newMesh(t, cluster, pod("old", "10.1.0.1", "app: a", named(8080))+pod("canary", "10.1.0.2", "app: a", named(9090))+pod("without", "10.1.0.3", "app: a", "")+
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: svc, namespace: demo}\nspec: {clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80, targetPort: web}]}\n")
	for name, want := range map[string][]uint32{"old": {8080}, "canary": {9090}, "without": nil} {
		var got []uint32
		for _, port := range m.workload("c//Pod/demo/" + name).Services["demo/svc.demo.svc.cluster.local"].GetPorts() {
			got = append(got, port.TargetPort)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: want %v, have %v", name, want, got)
		}
	}
}

func TestTheAllowPolicyOfAWaypointListsTheAccountsOfAllInstances(t *testing.T) {
	settings := cluster
	settings.AllowWaypoints = true
	instance := "gateway.networking.k8s.io/gateway-name: waypoint"
	m := newMesh(t, settings, waypoint("waypoint", "addresses: [{value: 10.96.0.1}]")+
		pod("app", "10.1.0.1", "app: a, istio.io/use-waypoint: waypoint", "")+pod("old", "10.1.0.2", instance, ", serviceAccountName: old"))
	name := "demo/istio_allow_waypoint_demo_waypoint"
	accounts := func() (list []string) {
		for _, group := range m.policy(name).Groups {
			for _, principal := range group.Rules[0].Matches[0].Principals {
				list = append(list, principal.GetExact())
			}
		}
		return list
	}
	if got := m.workload("c//Pod/demo/app").AuthorizationPolicies; !slices.Equal(got, []string{name}) {
		t.Errorf("the workload has %v", got)
	}
	if got := accounts(); !slices.Equal(got, []string{"cluster.local/ns/demo/sa/old"}) {
		t.Errorf("before the rollout: %v", got)
	}
	m.apply(pod("new", "10.1.0.3", instance, ", serviceAccountName: new"))
	if got := accounts(); !slices.Equal(got, []string{"cluster.local/ns/demo/sa/new", "cluster.local/ns/demo/sa/old"}) {
		t.Errorf("during the rollout: %v", got)
	}
	for _, name := range []string{"old", "new"} {
		m.apply(fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: demo, labels: {%s}}\nspec: {containers: []}\nstatus: {phase: Failed}\n", name, instance))
	}
	if p := m.policy(name); p.Action != security.Action_ALLOW || len(p.Groups) != 0 {
		t.Errorf("without an instance somebody is let in: %v", p)
	}
}

func TestAPolicyThatAllowsNothingIsSent(t *testing.T) {
	m := newMesh(t, cluster, policy("none", "{}")+policy("lost", `{rules: [{to: [{operation: {paths: ["/x"]}}]}]}`))
	for _, name := range []string{"demo/none", "demo/lost"} {
		if p := m.policy(name); p.Action != security.Action_ALLOW || len(p.Groups) != 0 {
			t.Errorf("%s: %v", name, p)
		}
	}
}

func TestAnEmptyMatchIsNeverAndAnEmptyRuleIsAlways(t *testing.T) {
	m := newMesh(t, cluster, policy("always", "{action: DENY, rules: [{}]}")+policy("never", `{action: DENY, rules: [{to: [{operation: {paths: ["/x"]}}]}]}`))
	if groups := m.policy("demo/always").Groups; len(groups) != 1 || len(groups[0].Rules) != 0 {
		t.Errorf("an empty rule: %v", groups)
	}
	groups := m.policy("demo/never").Groups
	if len(groups) != 1 || len(groups[0].Rules) != 1 || len(groups[0].Rules[0].Matches) != 1 || !proto.Equal(groups[0].Rules[0].Matches[0], &security.Match{}) {
		t.Errorf("a rule of which nothing is left: %v", groups)
	}
}

func TestExceptionsForPortsReplaceTheStrictPolicy(t *testing.T) {
	m := newMesh(t, cluster, pod("a", "10.1.0.1", "app: a", "")+
		"---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: demo}\nspec: {selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}\n")
	if got := m.workload("c//Pod/demo/a").AuthorizationPolicies; !slices.Equal(got, []string{"demo/converted_peer_authentication_p"}) {
		t.Errorf("have %v", got)
	}
}

func TestWhatOneServiceChangesOfItsBalancingIsNotAnothers(t *testing.T) {
	service := "---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: demo}\nspec: {clusterIP: %s, trafficDistribution: PreferClose, publishNotReadyAddresses: %t, ports: [{port: 80}]}\n"
	m := newMesh(t, cluster, fmt.Sprintf(service, "all", "10.96.0.1", true)+fmt.Sprintf(service, "ready", "10.96.0.2", false))
	if got := m.service("demo/ready.demo.svc.cluster.local").LoadBalancing.HealthPolicy; got != workload.LoadBalancing_ONLY_HEALTHY {
		t.Errorf("have %s", got)
	}
}

func TestTheSameObjectsGiveTheSameBytesInWhateverOrder(t *testing.T) {
	text := ""
	for i := range 20 {
		text += fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: svc%d, namespace: demo}\nspec: {clusterIP: 10.96.0.%d, selector: {app: a}, ports: [{port: 80}]}\n", i, i+1)
		text += policy(fmt.Sprint("policy", i), "{selector: {matchLabels: {app: a}}, rules: [{}]}")
	}
	changes := golden.MustRead(t, []byte(text+pod("a", "10.1.0.1", "app: a", "")))
	encode := func() string {
		m := model.New(cluster)
		m.Apply(changes)
		result := translate.Mesh{ClusterID: "c"}.Object(m, model.Key{Kind: model.KindPod, Name: model.Name{Namespace: "demo", Name: "a"}})
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(result.Resources[0].Message)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	want := encode()
	for range 50 {
		slices.Reverse(changes)
		if encode() != want {
			t.Fatal("differs")
		}
	}
}

func TestAMissingWaypointDoesNotFallBackToTheNamespaces(t *testing.T) {
	text := "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: demo, labels: {istio.io/use-waypoint: waypoint}}\n" + waypoint("waypoint", "addresses: [{value: 10.96.0.1}]") +
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: svc, namespace: demo, labels: {istio.io/use-waypoint: typo}}\nspec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n"
	name := "demo/svc.demo.svc.cluster.local"
	m := newMesh(t, cluster, text)
	refused := m.service(name).Waypoint.GetHostname().GetHostname()
	if m.resources["demo/"+refused] != nil || refused == "" {
		t.Errorf("not refused: %v", m.service(name).Waypoint)
	}
	// The mesh may choose to go round it, as Istio does; never through another.
	m = newMesh(t, cluster, "")
	m.translate.Bypass = true
	m.apply(text)
	if got := m.service(name).Waypoint; got != nil {
		t.Errorf("goes through %v", got)
	}
}

func TestAWaypointIsUsedFromWhenItIsReady(t *testing.T) {
	name := "demo/svc.demo.svc.cluster.local"
	m := newMesh(t, cluster, waypoint("waypoint", "")+
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: svc, namespace: demo, labels: {istio.io/use-waypoint: waypoint}}\nspec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n")
	if m.service(name).Waypoint.GetHostname() == nil {
		t.Errorf("before: %v", m.service(name).Waypoint)
	}
	m.apply(waypoint("waypoint", "addresses: [{type: IPAddress, value: 10.96.0.1}]"))
	if got := m.service(name).Waypoint.GetAddress().GetAddress(); !slices.Equal(got, []byte{10, 96, 0, 1}) {
		t.Errorf("then: %v", got)
	}
}

func TestOtherRevisionIgnored(t *testing.T) {
	text := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: demo, labels: {istio.io/rev: %s}}\nspec: {}\n"
	m := newMesh(t, cluster, fmt.Sprintf(text, "default"))
	m.policy("demo/p")
	// Once it is another's, it is as if it had gone.
	if gone := m.apply(fmt.Sprintf(text, "canary")); !slices.Equal(gone, []string{"demo/p"}) {
		t.Errorf("went: %v", gone)
	}
}

func TestDryRunIsNotSentWhereOldProxiesWouldEnforceIt(t *testing.T) {
	text := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: demo, annotations: {istio.io/dry-run: 'true'}}\nspec: {selector: {matchLabels: {app: a}}}\n" + pod("a", "10.1.0.1", "app: a", "")
	m := newMesh(t, cluster, text)
	if m.resources["demo/p"] != nil || len(m.workload("c//Pod/demo/a").AuthorizationPolicies) != 0 {
		t.Error("sent")
	}
	m = newMesh(t, cluster, "")
	m.translate.DryRun = true
	m.apply(text)
	if !m.policy("demo/p").DryRun || len(m.workload("c//Pod/demo/a").AuthorizationPolicies) != 1 {
		t.Error("not sent as a dry run")
	}
}
