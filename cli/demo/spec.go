package demo

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// Spec is the cluster that Up builds: simulated nodes, their pods, and the services over them. Addresses are given out
// by position, so two clusters of the same Spec look alike; they never meet, because nothing of them is in the
// machine's own network namespace.
type Spec struct {
	// Name goes into every network namespace's name: tulle-<name>-<node or pod>. Lower-case letters and digits.
	Name string
	// Dir is the run folder: mesh folder, tokens, logs, sockets, state file. Up makes it, Down removes it.
	Dir string
	// Programs are the binaries to run.
	Programs Programs
	// Bare leaves the mesh out: nodes, pods and services alone, as before anybody installs one.
	Bare bool
	// DNS has ztunnel answer the pods' DNS questions.
	DNS bool
	// Engine captures the pods' traffic: one that the agent knows, or empty for the best that works.
	Engine string
	// Env are more settings of the ztunnels, as NAME=value.
	Env []string
	// Nodes are the simulated machines' names, 1 to 9 of them.
	Nodes []string
	// Pods have unique names over all namespaces, also different from the nodes'.
	Pods []Pod
	// Services select pods by label, as in Kubernetes.
	Services []Service
	// Say gets one line per thing that Up does or waits for; nil is silence.
	Say func(line string) `json:"-"`
}

// Programs holds the paths of the mesh's binaries.
type Programs struct {
	Tulle, Istiod, Agent, Ztunnel string
	Waypoint                      string // "" where StartWaypoint isn't called
}

// Pod is one simulated pod: a network namespace on a node, with a program in it.
type Pod struct {
	Name, Namespace, Account, Node string
	Labels                         map[string]string
	// Command is what runs in the pod; empty means nothing does, and tests bring their own sockets.
	Command []string
}

// Service is a virtual IP before the pods that its selector matches.
type Service struct {
	Name, Namespace string
	Selector        map[string]string
	// Ports maps the service's ports to the pods'.
	Ports map[uint16]uint16
}

// Addresses of the simulated cluster. The fabric joins the nodes and is where istiod-lite and outside servers live.
const (
	fabric       = "fabric"
	fabricPrefix = "192.168.250."
	fabricV6     = "fd00:250::"
	gatewayV6    = "fe80::1" // Every pod's IPv6 gateway, on the node's end of its link.
	vipRange     = "10.96.0."
	vipRangeV6   = "fd96::"
)

// FabricAddrs are the addresses of the fabric itself, IPv4 first: istiod-lite's, and of the world outside the mesh.
func FabricAddrs() []netip.Addr { return pair(fabricPrefix+"1", fabricV6+"1") }

func pair(v4, v6 string) []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}
}

// nodeAddrs are a node's addresses on the fabric.
func nodeAddrs(node int) []netip.Addr {
	return pair(fmt.Sprintf("%s%d", fabricPrefix, 11+node), fmt.Sprintf("%s%x", fabricV6, 0x11+node))
}

// podPrefixes are the ranges that the pods of a node come from.
func podPrefixes(node int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", 1+node)),
		netip.MustParsePrefix(fmt.Sprintf("fd10:244:%d::/64", 1+node)),
	}
}

// podAddrs are the addresses of pod number index (over all nodes) on its node.
func podAddrs(node, index int) []netip.Addr {
	return pair(fmt.Sprintf("10.244.%d.%d", 1+node, 10+index), fmt.Sprintf("fd10:244:%d::%x", 1+node, 0x10+index))
}

// gateway is the IPv4 gateway of a node's pods.
func gateway(node int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("10.244.%d.1", 1+node)) }

// VIPs are the virtual addresses of the index-th service of a Spec, IPv4 first.
func vips(index int) []netip.Addr {
	return pair(fmt.Sprintf("%s%d", vipRange, 10+index), fmt.Sprintf("%s%x", vipRangeV6, 0x10+index))
}

// pins is the folder of a node's pinned BPF objects, on which the agent mounts a filesystem.
func (s Spec) pins(node string) string { return filepath.Join(s.Dir, "bpf", node) }

// nodeIndex is a node's position.
func (s Spec) nodeIndex(node string) int { return slices.Index(s.Nodes, node) }

// podAddrs are the addresses of each pod, IPv4 first.
func (s Spec) podAddrs() [][]netip.Addr {
	var out [][]netip.Addr
	for i, pod := range s.Pods {
		out = append(out, podAddrs(s.nodeIndex(pod.Node), i))
	}
	return out
}

// pod finds a pod and its position.
func (s Spec) pod(name string) (int, Pod, error) {
	for i, pod := range s.Pods {
		if pod.Name == name {
			return i, pod, nil
		}
	}
	var names []string
	for _, pod := range s.Pods {
		names = append(names, pod.Name)
	}
	return 0, Pod{}, fmt.Errorf("no pod %q; there are %s", name, strings.Join(names, ", "))
}

// maxDir leaves room for /run/node1-plugin.sock in the 108 bytes of a unix socket's name.
const maxDir = 80

// check refuses a Spec that can't be built, and names what is wrong with it.
func (s Spec) check() error {
	if s.Name == "" || strings.Trim(s.Name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return fmt.Errorf("cluster name %q: want lower-case letters and digits", s.Name)
	}
	if !filepath.IsAbs(s.Dir) || filepath.Clean(s.Dir) != s.Dir {
		return fmt.Errorf("run folder %q: want an absolute path", s.Dir)
	}
	if len(s.Dir) > maxDir {
		return fmt.Errorf("run folder %s: sockets in it would have names longer than a socket can; choose one of at most %d bytes", s.Dir, maxDir)
	}
	if len(s.Nodes) < 1 || len(s.Nodes) > 9 || len(s.Pods) > 100 || len(s.Services) > 50 {
		return fmt.Errorf("cluster %s: want 1–9 nodes and at most 100 pods and 50 services", s.Name)
	}
	seen := map[string]bool{fabric: true}
	for _, name := range s.Nodes {
		if seen[name] {
			return fmt.Errorf("two nodes are called %s", name)
		}
		seen[name] = true
	}
	for _, pod := range s.Pods {
		if seen[pod.Name] {
			return fmt.Errorf("pod %s: the name is taken", pod.Name)
		}
		seen[pod.Name] = true
		if !slices.Contains(s.Nodes, pod.Node) {
			return fmt.Errorf("pod %s is on node %q, which is not one of %v", pod.Name, pod.Node, s.Nodes)
		}
	}
	return nil
}

// selects tells whether a service's pods include this one.
func (s Service) selects(pod Pod) bool {
	if s.Namespace != pod.Namespace || len(s.Selector) == 0 {
		return false
	}
	for key, value := range s.Selector {
		if pod.Labels[key] != value {
			return false
		}
	}
	return true
}

// sortedKeys lists a map's keys in order, so that equal maps give equal results.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// namespaces are the Kubernetes namespaces that the pods and services live in, sorted.
func (s Spec) namespaces() []string {
	names := map[string]bool{}
	for _, pod := range s.Pods {
		names[pod.Namespace] = true
	}
	for _, service := range s.Services {
		names[service.Namespace] = true
	}
	return sortedKeys(names)
}
