// Package model holds the objects that the mesh is made of, without Kubernetes' types, indexed by what depends on them:
// one change tells which objects have to be translated again, without a walk over the others.
package model

import (
	"cmp"
	"maps"
	"sync"
)

// Kind names a sort of object.
type Kind string

// The kinds of objects. The last three are no objects of their own: a Host is what a host name means in a namespace,
// named by both, whoever claims it; a Network is the way into another network; StaticStrict is the policy that
// every strict workload shares, with that of workloads which too many policies select.
const (
	KindMeshConfig          Kind = "MeshConfig"
	KindNamespace           Kind = "Namespace"
	KindNode                Kind = "Node"
	KindPod                 Kind = "Pod"
	KindService             Kind = "Service"
	KindEndpointSlice       Kind = "EndpointSlice"
	KindServiceEntry        Kind = "ServiceEntry"
	KindWorkloadEntry       Kind = "WorkloadEntry"
	KindGateway             Kind = "Gateway"
	KindGatewayClass        Kind = "GatewayClass"
	KindAuthorizationPolicy Kind = "AuthorizationPolicy"
	KindPeerAuthentication  Kind = "PeerAuthentication"
	KindEnrolment           Kind = "Enrolment"

	KindGRPCRoute             Kind = "GRPCRoute"
	KindHTTPRoute             Kind = "HTTPRoute"
	KindTLSRoute              Kind = "TLSRoute"
	KindTCPRoute              Kind = "TCPRoute"
	KindReferenceGrant        Kind = "ReferenceGrant"
	KindRequestAuthentication Kind = "RequestAuthentication"
	KindBackendTLSPolicy      Kind = "BackendTLSPolicy"
	KindCABundle              Kind = "CABundle"

	KindHost         Kind = "Host"
	KindNetwork      Kind = "Network"
	KindStaticStrict Kind = "StaticStrict"
)

// Name names an object within its kind. Objects of no namespace have an empty one.
type Name struct{ Namespace, Name string }

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

func (n Name) compare(other Name) int {
	return cmp.Or(cmp.Compare(n.Namespace, other.Namespace), cmp.Compare(n.Name, other.Name))
}

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
	settings Settings

	lock sync.RWMutex // held to write by Apply, to read by View

	config          *MeshConfig
	namespaces      map[string]*Namespace
	nodes           map[string]*Node
	pods            *labelled[*Pod]
	services        *selecting[*Service]
	slices          map[Name]*EndpointSlice
	serviceEntries  *selecting[*ServiceEntry]
	workloadEntries *labelled[*WorkloadEntry]
	gateways        map[Name]*Gateway
	classes         map[string]*GatewayClass
	policies        *selecting[*AuthorizationPolicy]
	peers           *selecting[*PeerAuthentication]
	enrolments      map[string]*Enrolment // by node
	routing         *routing

	podsByNode        grouping[string, *Pod]
	slicesByService   grouping[Name, *EndpointSlice]
	slicesByPod       grouping[podID, *EndpointSlice]
	slicesByNode      grouping[string, *EndpointSlice] // of endpoints that aren't pods
	entriesByHost     byAge[Name]                      // by the namespace's meaning of a host
	publicByHost      byAge[string]                    // those that everybody sees
	byNetwork         grouping[string, Key]            // what is in another network than the cluster's
	gatewaysByNetwork grouping[string, *Gateway]
	gatewaysByClass   grouping[string, *Gateway]
	gatewaysIn        grouping[string, *Gateway]            // by namespace
	gatewaysByService grouping[Name, *Gateway]              // by the Service that is made for them
	bound             grouping[Name, Key]                   // what names a waypoint by its own labels
	boundIn           grouping[string, Key]                 // those that are pods or workload entries, by namespace
	peersByLevel      grouping[string, *PeerAuthentication] // those without a selector, by namespace

	full map[crowd]turn // from whose turn on there is no room, where that is so
}

// New makes an empty model.
func New(settings Settings) *Model {
	return &Model{
		settings:          settings,
		namespaces:        make(map[string]*Namespace),
		nodes:             make(map[string]*Node),
		pods:              newLabelled[*Pod](),
		services:          newSelecting[*Service](),
		slices:            make(map[Name]*EndpointSlice),
		serviceEntries:    newSelecting[*ServiceEntry](),
		workloadEntries:   newLabelled[*WorkloadEntry](),
		gateways:          make(map[Name]*Gateway),
		classes:           make(map[string]*GatewayClass),
		policies:          newSelecting[*AuthorizationPolicy](),
		peers:             newSelecting[*PeerAuthentication](),
		enrolments:        make(map[string]*Enrolment),
		routing:           newRouting(),
		podsByNode:        make(grouping[string, *Pod]),
		slicesByService:   make(grouping[Name, *EndpointSlice]),
		slicesByPod:       make(grouping[podID, *EndpointSlice]),
		slicesByNode:      make(grouping[string, *EndpointSlice]),
		entriesByHost:     make(byAge[Name]),
		publicByHost:      make(byAge[string]),
		byNetwork:         make(grouping[string, Key]),
		gatewaysByNetwork: make(grouping[string, *Gateway]),
		gatewaysByClass:   make(grouping[string, *Gateway]),
		gatewaysIn:        make(grouping[string, *Gateway]),
		gatewaysByService: make(grouping[Name, *Gateway]),
		bound:             make(grouping[Name, Key]),
		boundIn:           make(grouping[string, Key]),
		peersByLevel:      make(grouping[string, *PeerAuthentication]),
		full:              make(map[crowd]turn),
	}
}

// View runs read while nothing changes. It must not keep what it reads of the indexes.
func (m *Model) View(read func()) {
	m.lock.RLock()
	defer m.lock.RUnlock()
	read()
}

// Apply takes changes in and returns the keys of the objects that have to be translated again, each once. Objects that
// went are among them; those that are as they were are not.
func (m *Model) Apply(changes []Change) []Key {
	m.lock.Lock()
	defer m.lock.Unlock()
	d := newDirty(m)
	for _, change := range changes {
		m.change(change, d)
	}
	d.seat()
	d.inherit()
	maps.Copy(d.keys, d.parents)
	keys := make([]Key, 0, len(d.keys))
	for key := range d.keys {
		keys = append(keys, key)
	}
	return keys
}
