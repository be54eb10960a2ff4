package l7

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// entry is a ServiceEntry of the shop whose requests go through the waypoint.
func entry(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: entry, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}\n" +
		"spec: {hosts: [entry.example], ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}], " + spec + "}\n"
}

const address = "addresses: [240.240.7.7]"

func podIP(t *testing.T, pod string) string {
	t.Helper()
	return must(t, "-n", "shop", "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
}

func reaches(t *testing.T, pod, url string) {
	t.Helper()
	if answer := client.through(t, "waypoint", url); answer.hosts[pod] != 1 || !answer.looked() {
		t.Errorf("%s is answered by %v\n%s", url, answer.hosts, answer.text)
	}
}

func TestServiceEntryInlinedWorkloadEntry(t *testing.T) {
	with(t, entry(fmt.Sprintf("%s, resolution: STATIC, endpoints: [{address: %s}]", address, podIP(t, "v1"))))
	reaches(t, "v1", "http://240.240.7.7/")
}

func TestServiceEntrySelectsWorkloadEntry(t *testing.T) {
	with(t, fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: machine, namespace: shop}\nspec: {address: %s, labels: {app: machine}}\n---\n", podIP(t, "outside"))+
		entry(address+", resolution: STATIC, workloadSelector: {labels: {app: machine}}"))
	reaches(t, "outside", "http://240.240.7.7/")
}

func TestServiceEntrySelectsUncapturedPod(t *testing.T) {
	with(t, entry(address+", resolution: STATIC, workloadSelector: {labels: {app: outside}}"))
	reaches(t, "outside", "http://240.240.7.7/")
}

// The control plane gives it an address, and pods are told that when they ask for its name.
func TestServiceEntryDNSWithAutoAssign(t *testing.T) {
	with(t, entry("resolution: DNS, endpoints: [{address: v2.shop.svc.cluster.local, ports: {http: 80}}]"))
	reaches(t, "v2", "http://entry.example/")
}

// An entry that the mesh's settings keep in its own namespace doesn't exist for another.
func TestServiceEntryVisibility(t *testing.T) {
	with(t, entry(fmt.Sprintf("resolution: STATIC, endpoints: [{address: %s}]", podIP(t, "v1"))))
	distant.gets(t, 200, "http://entry.example/")
	before := must(t, "-n", "istio-system", "get", "configmap", "istio", "-o", "jsonpath={.data.mesh}")
	setMesh := func(text string) {
		patch, err := json.Marshal(map[string]any{"data": map[string]string{"mesh": text}})
		if err != nil {
			t.Fatal(err)
		}
		must(t, "-n", "istio-system", "patch", "configmap", "istio", "--type=merge", "-p", string(patch))
	}
	t.Cleanup(func() { setMesh(before) })
	setMesh(strings.TrimPrefix(before, "{}") + "\nserviceEntryVisibility: {defaultVisibility: NAMESPACE}\n")
	distant.gets(t, 0, "http://entry.example/")
	reaches(t, "v1", "http://entry.example/")
}

// A service outside of the cluster is reached by way of a waypoint, which a route and a policy hold for.
func TestEgressGateway(t *testing.T) {
	with(t, entry(fmt.Sprintf("location: MESH_EXTERNAL, resolution: STATIC, endpoints: [{address: %s}]", podIP(t, "outside")))+
		policy("egress", `{targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: entry}], rules: [{to: [{operation: {paths: [/allowed]}}]}]}`))
	client.gets(t, 403, "http://entry.example/")
	reaches(t, "outside", "http://entry.example/allowed")
}
