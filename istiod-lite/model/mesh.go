package model

import "slices"

// Settings are what the control plane is told of the mesh when it starts.
type Settings struct {
	// SystemNamespace is the control plane's own. Its label says which network the cluster is in.
	SystemNamespace string
	// Domain ends the host names of Kubernetes' services, such as cluster.local.
	Domain string
	// TrustDomain is that of every identity, unless the MeshConfig says another.
	TrustDomain string
	// Revisions are the control plane's names: objects that belong to another revision are as if they weren't there.
	Revisions []string
	// AllowWaypoints lets only waypoints connect to the workloads behind them.
	AllowWaypoints bool
}

// Settings are those that the model was made with.
func (m *Model) Settings() Settings { return m.settings }

// MeshConfig is what is said of the whole mesh, if it is in the control plane's own namespace; its empty fields say
// nothing.
type MeshConfig struct {
	Namespace, Name    string
	TrustDomain        string
	TrustDomainAliases []string
	// RootNamespace is where policies are about the whole mesh.
	RootNamespace string
	// EntryVisibility says who sees services of ServiceEntries; nil if everybody does.
	EntryVisibility *EntryVisibility
}

// EntryVisibility is the visibility by the first of the rules that matches the ServiceEntry's namespace, else Default.
type EntryVisibility struct {
	Rules   []VisibilityRule
	Default Visibility
}

// VisibilityRule holds for the namespaces that all of its selectors choose.
type VisibilityRule struct {
	Visibility Visibility
	Namespaces []Selector
}

// Visibility is who sees a service.
type Visibility int

// The visibilities: everybody, its own namespace, or nobody.
const (
	Public Visibility = iota
	OwnNamespace
	Nobody
)

// Key names it.
func (c *MeshConfig) Key() Key { return Key{KindMeshConfig, Name{c.Namespace, c.Name}} }

// networkLabel of the system namespace names the network of all pods.
const networkLabel = "topology.istio.io/network"

// facts are what nearly all objects depend on.
type facts struct {
	config  *MeshConfig
	network string
}

func (m *Model) facts() facts { return facts{m.config, m.Network()} }

// Network is the network that the cluster is in, or empty.
func (m *Model) Network() string {
	if system := m.namespaces[m.settings.SystemNamespace]; system != nil {
		return system.Labels.Get(networkLabel)
	}
	return ""
}

// RootNamespace is the namespace whose policies are about the whole mesh.
func (m *Model) RootNamespace() string {
	if m.config != nil && m.config.RootNamespace != "" {
		return m.config.RootNamespace
	}
	return m.settings.SystemNamespace
}

// TrustDomain is that of every identity.
func (m *Model) TrustDomain() string {
	if m.config != nil && m.config.TrustDomain != "" {
		return m.config.TrustDomain
	}
	return m.settings.TrustDomain
}

// MeshConfig returns what is said of the mesh, or nil.
func (m *Model) MeshConfig() *MeshConfig { return m.config }

// Visibility is who sees the services of a ServiceEntry.
func (m *Model) Visibility(e *ServiceEntry) Visibility {
	if m.config == nil || m.config.EntryVisibility == nil {
		return Public
	}
	var labels Labels
	if in := m.namespaces[e.Namespace]; in != nil {
		labels = in.Labels
	}
	for i := range m.config.EntryVisibility.Rules {
		if rule := &m.config.EntryVisibility.Rules[i]; rule.matches(labels) {
			return rule.Visibility
		}
	}
	return m.config.EntryVisibility.Default
}

func (r *VisibilityRule) matches(labels Labels) bool {
	for i := range r.Namespaces {
		if !r.Namespaces[i].Matches(labels) {
			return false
		}
	}
	return true
}

// ours tells whether an object is for this control plane.
func (m *Model) ours(object Object) bool {
	switch o := object.(type) {
	case *MeshConfig:
		return o.Namespace == m.settings.SystemNamespace
	case interface{ revision() string }:
		revision := o.revision()
		return revision == "" || slices.Contains(m.settings.Revisions, revision)
	}
	return true
}
