// Package model holds the objects that the mesh is made of, without Kubernetes' types, indexed by what depends on them:
// one change tells which objects have to be translated again, without a walk over the others.
package model

import "sync"

// Kind names a sort of object.
type Kind string

// The kinds of objects. StaticStrict is no object of its own: it stands for the one policy that every strict workload
// shares.
const (
	KindNamespace           Kind = "Namespace"
	KindNode                Kind = "Node"
	KindPod                 Kind = "Pod"
	KindService             Kind = "Service"
	KindEndpointSlice       Kind = "EndpointSlice"
	KindAuthorizationPolicy Kind = "AuthorizationPolicy"
	KindPeerAuthentication  Kind = "PeerAuthentication"
	KindEnrolment           Kind = "Enrolment"
	KindStaticStrict        Kind = "StaticStrict"
)

// Name names an object within its kind. Objects of no namespace have an empty one.
type Name struct{ Namespace, Name string }

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Key names an object.
type Key struct {
	Kind Kind
	Name
}

// Object is one of the structs of this package. It doesn't change once it was handed to a Model.
type Object interface{ Key() Key }

// Change is one object that came, changed or went.
type Change struct {
	Key Key
	// Object is nil for one that went.
	Object Object
}

// Model is the set of all objects. Apply is for one goroutine, which may also read without further ado between its calls
// of Apply; others read inside View.
type Model struct {
	// rootNamespace is where policies are about the whole mesh.
	rootNamespace string

	lock sync.RWMutex // held to write by Apply, to read by View

	namespaces map[string]*Namespace
	nodes      map[string]*Node
	pods       *labelled[*Pod]
	services   *selecting[*Service]
	slices     map[Name]*EndpointSlice
	policies   *selecting[*AuthorizationPolicy]
	peers      *selecting[*PeerAuthentication]
	enrolments map[string]*Enrolment // by node

	podsByNode      grouping[string]
	podsByAccount   grouping[account]
	slicesByService grouping[Name]
	slicesByPod     grouping[Name]
	slicesByNode    grouping[string] // of endpoints that aren't pods
	peersByLevel    grouping[string] // those without a selector, by namespace
}

// account is a service account on a node.
type account struct {
	node string
	Name
}

// New makes an empty model.
func New(rootNamespace string) *Model {
	return &Model{
		rootNamespace:   rootNamespace,
		namespaces:      make(map[string]*Namespace),
		nodes:           make(map[string]*Node),
		pods:            newLabelled[*Pod](),
		services:        newSelecting[*Service](),
		slices:          make(map[Name]*EndpointSlice),
		policies:        newSelecting[*AuthorizationPolicy](),
		peers:           newSelecting[*PeerAuthentication](),
		enrolments:      make(map[string]*Enrolment),
		podsByNode:      make(grouping[string]),
		podsByAccount:   make(grouping[account]),
		slicesByService: make(grouping[Name]),
		slicesByPod:     make(grouping[Name]),
		slicesByNode:    make(grouping[string]),
		peersByLevel:    make(grouping[string]),
	}
}

// View runs read while nothing changes. It must not keep what it reads of the indexes.
func (m *Model) View(read func()) {
	m.lock.RLock()
	defer m.lock.RUnlock()
	read()
}

// RootNamespace is the namespace whose policies are about the whole mesh.
func (m *Model) RootNamespace() string { return m.rootNamespace }

// Count tells how many objects of the kind there are.
func (m *Model) Count(kind Kind) int {
	switch kind {
	case KindNamespace:
		return len(m.namespaces)
	case KindNode:
		return len(m.nodes)
	case KindPod:
		return len(m.pods.all)
	case KindService:
		return len(m.services.all)
	case KindEndpointSlice:
		return len(m.slices)
	case KindAuthorizationPolicy:
		return len(m.policies.all)
	case KindPeerAuthentication:
		return len(m.peers.all)
	case KindEnrolment:
		return len(m.enrolments)
	}
	return 0
}
