package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
)

// Spec says what a cluster is made of. Everything of it can be found by it, and it is all that a second process needs to know.
type Spec struct {
	Name   string `json:"name"`   // is in the names of its namespaces, groups and folder
	Number int    `json:"number"` // of its networks, from 0 to 9: those of clusters with different numbers don't overlap
	Nodes  int    `json:"nodes"`  // from 1 to 9; the first has the control plane, too
	Kept   bool   `json:"kept"`   // it stays when the process ends that made it

	Dir      string `json:"dir"`      // its own folder
	Programs string `json:"programs"` // Kubernetes' own
	Packages string `json:"packages"` // the distribution's
}

var goodName = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)

func (s Spec) check() error {
	switch {
	case !goodName.MatchString(s.Name):
		return fmt.Errorf("cluster %q: want a name of up to 16 small letters and digits", s.Name)
	case s.Number < 0 || s.Number > 9:
		return fmt.Errorf("cluster %s has number %d: want 0 to 9", s.Name, s.Number)
	case s.Nodes < 1 || s.Nodes > 9:
		return fmt.Errorf("cluster %s has %d nodes: want 1 to 9", s.Name, s.Nodes)
	}
	return nil
}

const specFile = "cluster.json"

// ReadSpec reads what a cluster in a folder is made of.
func ReadSpec(dir string) (Spec, error) {
	var s Spec
	text, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("%s: %w", filepath.Join(dir, specFile), err)
	}
	if s.Dir != dir {
		return s, errors.New(dir + " is a copy of the folder of another cluster")
	}
	return s, s.check()
}

func (s Spec) write() error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir, specFile), text, 0o644)
}

// Nodes are numbered from 1.

// NodeName is the name of a node.
func (s Spec) NodeName(node int) string { return fmt.Sprintf("n%d", node) }

// NodeDir is the folder with a node's disk and logs.
func (s Spec) NodeDir(node int) string { return filepath.Join(s.Dir, s.NodeName(node)) }

// Key is a file with a key, a certificate or a kubeconfig.
func (s Spec) Key(name string) string { return filepath.Join(s.Dir, "keys", name) }

// Group is the control group that holds all of the cluster's.
func (s Spec) Group() string { return "tulle-" + s.Name }

// NodeGroup is the control group of a node.
func (s Spec) NodeGroup(node int) string { return s.Group() + "/" + s.NodeName(node) }

// Fabric is the address of what connects the nodes, where the tests are.
func (s Spec) Fabric() netip.Addr { return netip.AddrFrom4([4]byte{10, 90, byte(s.Number), 1}) }

// Registry is the name of a registry that a cluster's nodes pull images from by HTTP, if somebody serves one in the fabric, on RegistryPort.
const (
	Registry     = "registry.test"
	RegistryPort = 5000
)

// Registry is where that registry is.
func (s Spec) Registry() netip.AddrPort { return netip.AddrPortFrom(s.Fabric(), RegistryPort) }

// Address is a node's.
func (s Spec) Address(node int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 90, byte(s.Number), byte(10 + node)})
}

// Pods are the addresses of a node's pods.
func (s Spec) Pods(node int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(200 + s.Number), byte(node), 0}), 24)
}

// AllPods are the addresses of all pods.
func (s Spec) AllPods() netip.Prefix { return netip.PrefixFrom(s.Pods(0).Addr(), 16) }

// Services are the virtual addresses.
func (s Spec) Services() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + s.Number), 0, 0}), 16)
}

// Kubernetes is the virtual address of the API server.
func (s Spec) Kubernetes() netip.Addr { return s.Services().Addr().Next() }

// DNS is the virtual address of CoreDNS.
func (s Spec) DNS() netip.Addr {
	a := s.Services().Addr().As4()
	a[3] = 10
	return netip.AddrFrom4(a)
}

// API is where the API server listens.
func (s Spec) API() string { return fmt.Sprintf("https://%s:6443", s.Address(1)) }
