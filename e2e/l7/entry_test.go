package l7

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
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

// The waypoint speaks TLS to a service outside of the cluster, to which pods speak plain HTTP, and not to one that isn't proven.
func TestEgressTLSOrigination(t *testing.T) {
	certificate, key := selfSigned(t, "outside.example")
	with(t, fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: outside-server, namespace: shop}
data: {tls.crt: %q, tls.key: %q}
---
apiVersion: v1
kind: Pod
metadata: {name: secure, namespace: shop, labels: {app: secure, istio.io/dataplane-mode: none}}
spec:
  nodeName: SECOND
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: docker.io/tulle-mesh/echo:dev
    imagePullPolicy: IfNotPresent
    args: [server, --port=8443, --tls=8443, --crt=/tls/tls.crt, --key=/tls/tls.key]
    volumeMounts: [{name: tls, mountPath: /tls}]
  volumes: [{name: tls, configMap: {name: outside-server}}]
`, certificate, key))
	must(t, "-n", "shop", "wait", "--for=condition=Ready", "pod/secure", "--timeout=60s")
	with(t, fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: outside-ca, namespace: shop}
data: {ca.crt: %q}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: secure, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}
spec:
  hosts: [secure.example]
  addresses: [240.240.7.8]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: %s}]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8443}]
---
`, certificate, podIP(t, "secure"))+secureBackend("outside.example", "outside-ca"))
	reaches(t, "secure", "http://secure.example/")
	for _, step := range []struct {
		hostname string
		status   int
	}{{"inside.example", 503}, {"outside.example", 200}} {
		must(t, "-n", "shop", "patch", "backendtlspolicy", "secure", "--type=merge", "-p", `{"spec":{"validation":{"hostname":"`+step.hostname+`"}}}`)
		client.gets(t, step.status, "http://secure.example/")
	}
	must(t, "-n", "shop", "delete", "configmap", "outside-ca")
	client.gets(t, 500, "http://secure.example/")
	for condition, want := range map[string]string{"Accepted": "False NoValidCACertificate", "ResolvedRefs": "False InvalidCACertificateRef"} {
		path := fmt.Sprintf(`{.status.ancestors[0].conditions[?(@.type=="%s")]['status','reason']}`, condition)
		becomes(t, "backendtlspolicy/secure", path, want)
	}
}

func secureBackend(hostname, bundle string) string {
	return "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: secure, namespace: shop}\nspec:\n" +
		"  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: secure}]\n" +
		"  validation: {hostname: " + hostname + ", caCertificateRefs: [{group: '', kind: ConfigMap, name: " + bundle + "}]}\n"
}

func selfSigned(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, bytes []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", text)
}
