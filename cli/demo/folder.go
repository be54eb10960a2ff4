package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/tulle-mesh/tulle/mesh/token"
)

// tokenTTL is how long the nodes of a demo that was left up can go on.
const tokenTTL = 30 * 24 * time.Hour

// manifests are the Kubernetes objects of the mesh folder, written as a person would.
var manifests = template.Must(template.New("").Parse(`
{{- define "labels"}}{{range $key, $value := .}}
    {{$key}}: {{printf "%q" $value}}{{end}}{{end}}

{{- define "namespace"}}apiVersion: v1
kind: Namespace
metadata:
  name: {{.Name}}
  labels:
    kubernetes.io/metadata.name: {{.Name}}{{template "labels" .Labels}}
{{range .Accounts}}---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{.}}
  namespace: {{$.Name}}
{{end}}{{end}}

{{- define "pod"}}apiVersion: v1
kind: Pod
metadata:
  name: {{.Pod.Name}}
  namespace: {{.Pod.Namespace}}
  uid: {{.Pod.Namespace}}-{{.Pod.Name}}
  labels:{{if not .Labels}} {}{{end}}{{template "labels" .Labels}}
  annotations:
    tulle.dev/netns: {{.Netns}}
spec:
  nodeName: {{.Pod.Node}}
  serviceAccountName: {{.Pod.Account}}
  containers:
  - name: app
    image: tulle
status:
  phase: Running
  hostIP: {{.Host}}
  podIP: {{index .Addrs 0}}
  podIPs:{{range .Addrs}}
  - ip: {{printf "%q" .String}}{{end}}
  conditions:
  - type: Ready
    status: "True"
{{end}}

{{- define "service"}}apiVersion: v1
kind: Service
metadata:
  name: {{.Service.Name}}
  namespace: {{.Service.Namespace}}
spec:
  selector:{{template "labels" .Service.Selector}}
  clusterIP: {{index .VIPs 0}}
  clusterIPs:{{range .VIPs}}
  - {{printf "%q" .String}}{{end}}
  ipFamilyPolicy: PreferDualStack
  ipFamilies: [IPv4, IPv6]
  ports:{{range $port, $target := .Service.Ports}}
  - name: port-{{$port}}
    port: {{$port}}
    targetPort: {{$target}}
    protocol: TCP{{end}}
{{range $family, $vip := .VIPs}}---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {{$.Service.Name}}-{{if $family}}v6{{else}}v4{{end}}
  namespace: {{$.Service.Namespace}}
  labels:
    kubernetes.io/service-name: {{$.Service.Name}}
addressType: IPv{{if $family}}6{{else}}4{{end}}
endpoints:{{if not $.Endpoints}} []{{end}}{{range $.Endpoints}}
- addresses: [{{printf "%q" (index .Addrs $family).String}}]
  conditions: {ready: true}
  nodeName: {{.Pod.Node}}
  targetRef: {kind: Pod, name: {{.Pod.Name}}, namespace: {{.Pod.Namespace}}}{{end}}
ports:{{range $port, $target := $.Service.Ports}}
- name: port-{{$port}}
  port: {{$target}}
  protocol: TCP{{end}}
{{end}}{{end}}`))

// endpoint is a pod with its addresses, for the templates.
type endpoint struct {
	Pod   Pod
	Addrs []netip.Addr
}

// writeFolder writes the mesh folder, the hosts files, and the keys and tokens.
func (c *Cluster) writeFolder(context.Context) error {
	for _, namespace := range c.spec.namespaces() {
		if err := c.writeNamespace(namespace); err != nil {
			return err
		}
		if err := writeFile(c.path("hosts/"+namespace), []byte(c.hosts(namespace)), 0o644); err != nil {
			return fmt.Errorf("write the names of services: %w", err)
		}
	}
	for _, pod := range c.spec.Pods {
		if err := c.writePod(pod); err != nil {
			return err
		}
	}
	for i := range c.spec.Services {
		if err := c.writeService(i); err != nil {
			return err
		}
	}
	return c.writeTokens()
}

func (c *Cluster) writeNamespace(name string) error {
	accounts := map[string]bool{}
	for _, pod := range c.spec.Pods {
		if pod.Namespace == name {
			accounts[pod.Account] = true
		}
	}
	return c.writeManifest("namespace-"+name, "namespace", map[string]any{
		"Name": name, "Labels": c.labels[name], "Accounts": sortedKeys(accounts),
	})
}

func (c *Cluster) writePod(pod Pod) error {
	labels := maps.Clone(pod.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, c.labels[pod.Namespace+"/"+pod.Name])
	return c.writeManifest("pod-"+pod.Name, "pod", map[string]any{
		"Pod": pod, "Labels": labels, "Netns": c.netnsPath(pod.Name),
		"Addrs": c.PodAddrs(pod.Name), "Host": nodeAddrs(c.spec.nodeIndex(pod.Node))[0],
	})
}

func (c *Cluster) writeService(index int) error {
	service := c.spec.Services[index]
	var endpoints []endpoint
	for i, addrs := range c.spec.podAddrs() {
		if service.selects(c.spec.Pods[i]) {
			endpoints = append(endpoints, endpoint{c.spec.Pods[i], addrs})
		}
	}
	return c.writeManifest("service-"+service.Name, "service", map[string]any{
		"Service": service, "VIPs": vips(index), "Endpoints": endpoints,
	})
}

func (c *Cluster) writeManifest(name, kind string, values any) error {
	var text bytes.Buffer
	if err := manifests.ExecuteTemplate(&text, kind, values); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return c.Apply(name, text.String())
}

// Apply writes objects into the mesh folder under a name, in place of those that had it.
func (c *Cluster) Apply(name, yaml string) error {
	if err := writeFile(filepath.Join(c.MeshDir(), name+".yaml"), []byte(yaml), 0o644); err != nil {
		return fmt.Errorf("write %s into the mesh folder: %w", name, err)
	}
	return nil
}

// Withdraw removes what Apply wrote under a name; it may be gone already.
func (c *Cluster) Withdraw(name string) error {
	err := os.Remove(filepath.Join(c.MeshDir(), name+".yaml"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s from the mesh folder: %w", name, err)
	}
	return nil
}

// LabelNamespace sets a label of a namespace live; an empty value removes it.
func (c *Cluster) LabelNamespace(namespace, key, value string) error {
	if !slices.Contains(c.spec.namespaces(), namespace) {
		return fmt.Errorf("no namespace %q; there are %v", namespace, c.spec.namespaces())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLabel(namespace, key, value)
	return c.writeNamespace(namespace)
}

// LabelPod sets a label of a pod live, over the one of the Spec; an empty value takes it back.
func (c *Cluster) LabelPod(name, key, value string) error {
	_, pod, err := c.spec.pod(name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLabel(pod.Namespace+"/"+pod.Name, key, value)
	return c.writePod(pod)
}

func (c *Cluster) setLabel(object, key, value string) {
	if c.labels[object] == nil {
		c.labels[object] = map[string]string{}
	}
	c.labels[object][key] = value
	if value == "" {
		delete(c.labels[object], key)
	}
}

// hosts gives the services their names as a cluster's DNS would for pods of a namespace.
func (c *Cluster) hosts(namespace string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for i, service := range c.spec.Services {
		names := []string{service.Name + "." + service.Namespace, service.Name + "." + service.Namespace + ".svc.cluster.local"}
		if service.Namespace == namespace {
			names = append(names, service.Name)
		}
		// One address only: programs would try the second after the first has refused, and so hide that it did.
		fmt.Fprintf(&b, "%s %s\n", vips(i)[0], strings.Join(names, " "))
	}
	return b.String()
}

// writeTokens makes the key that istiod-lite trusts, and a token for each node.
func (c *Cluster) writeTokens() error {
	private, public, err := token.NewKey()
	if err != nil {
		return err
	}
	if err := writeFile(c.path("token-key.pem"), private, 0o600); err != nil {
		return fmt.Errorf("write the key for tokens: %w", err)
	}
	if err := writeFile(c.path("token-key.pub"), public, 0o644); err != nil {
		return fmt.Errorf("write the key for tokens: %w", err)
	}
	for _, node := range c.spec.Nodes {
		text, err := c.MintToken(token.Claims{Node: node, Account: ZtunnelAccount, TTL: tokenTTL})
		if err != nil {
			return err
		}
		if err := writeFile(c.TokenFile(node), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write the token of %s: %w", node, err)
		}
	}
	return nil
}

// MintToken signs a token with the key that the cluster's istiod-lite trusts.
func (c *Cluster) MintToken(claims token.Claims) (string, error) {
	key, err := token.ReadKey(c.path("token-key.pem"))
	if err != nil {
		return "", err
	}
	return token.Sign(key, claims)
}
