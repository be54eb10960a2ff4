package translate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// Reasons of what becomes of an object that wishes for a waypoint.
const (
	accepted           = "WaypointAccepted"
	notReady           = "WaypointIsNotReady"
	denied             = "AttachmentDenied"
	unsupportedTraffic = "UnsupportedTrafficType"
	crossNamespace     = "CrossNamespaceWaypointForbidden"
	badWeight          = "CanaryInvalidWeight"
	sameCanary         = "CanarySameAsPrimary"
	noWildcardWaypoint = "NoWaypointForWildcardService"
)

// wish is what an object wants of waypoints.
type wish struct {
	model.Wish
	own *model.Binding // of its own labels, or nil
	// part says that the object goes along with another, which has the condition.
	part bool
}

func serviceWish(s *model.Service) wish {
	return wish{Wish: model.Wish{Namespace: s.Namespace, Traffic: model.ForService}, own: s.Binding}
}

// bound is what becomes of a wish. The waypoint is nil if connections go without one.
type bound struct {
	waypoint *workload.GatewayAddress
	weighted []*workload.WeightedWaypoint
	// ingress says that gateways at the edge of the mesh pass the waypoint too.
	ingress bool
	// names are the waypoints that connections come from.
	names     []model.Name
	condition *model.Condition // nil if no waypoint was wished for
}

// bind resolves a wish: by the object's own labels, else by those of its namespace.
func (mesh Mesh) bind(m *model.Model, w wish) bound {
	binding, inherited := w.own, false
	if !binding.Decides() {
		namespace := m.Namespace(w.Namespace)
		if namespace == nil {
			return bound{}
		}
		binding, inherited = namespace.Binding, true
	}
	if !binding.Decides() || binding.None {
		return bound{}
	}
	gateway, failure := usable(m, w, binding.Waypoint)
	switch {
	case failure == nil:
		b := bound{waypoint: address(m, gateway), names: []model.Name{binding.Waypoint}}
		b.condition = &model.Condition{Type: model.WaypointBound, Status: true, Reason: accepted, Message: "connections pass waypoint " + binding.Waypoint.String()}
		b.ingress = ingress(m, w)
		if w.Traffic == model.ForService {
			b.share(m, w, binding)
		}
		return b
	case failure.Reason == unsupportedTraffic && (inherited || w.part):
		// It was named for all that is in the namespace, or in the entry, of which it takes some.
		if w.Traffic == model.ForWorkload {
			return bound{} // as usual: most waypoints are for services only
		}
		fallthrough
	case mesh.Bypass:
		failure.Message += "; until then connections go without it"
		return bound{condition: failure}
	}
	// Whoever wants a waypoint wants what it enforces, so nothing goes round it.
	failure.Message += "; until then connections are refused"
	return bound{waypoint: unreachable(binding.Waypoint), ingress: ingress(m, w), condition: failure}
}

// usable returns the waypoint, or what keeps the object from using it.
func usable(m *model.Model, w wish, name model.Name) (*model.Gateway, *model.Condition) {
	refuse := func(reason, format string, args ...any) *model.Condition {
		return &model.Condition{Type: model.WaypointBound, Reason: reason, Message: "waypoint " + name.String() + " " + fmt.Sprintf(format, args...)}
	}
	gateway, obstacle := m.UsableWaypoint(w.Wish, name)
	switch obstacle {
	case model.NoGateway:
		return nil, refuse(notReady, "does not exist: create the Gateway, or take the label istio.io/use-waypoint away")
	case model.OtherNamespace:
		return nil, refuse(crossNamespace, "is in another namespace, where a service that is visible in its own only can't be used: name a waypoint of namespace %s", w.Namespace)
	case model.OtherTraffic:
		return nil, refuse(unsupportedTraffic, "doesn't take %s traffic: label its Gateway istio.io/waypoint-for: %s, or all", w.Traffic, w.Traffic)
	case model.NotAdmitted:
		return nil, refuse(denied, "doesn't admit namespace %s: change allowedRoutes of its listener for port %d", w.Namespace, model.HBONEPort)
	case model.NotReady:
		return nil, refuse(notReady, "is not ready: its Gateway has no address yet, see its status")
	}
	return gateway, nil
}

// share divides connections between the waypoint and a canary. If the canary can't be used, the waypoint gets all.
func (b *bound) share(m *model.Model, w wish, binding *model.Binding) {
	if binding.Canary.Name == "" {
		return
	}
	fail := func(reason, text string) {
		b.condition = &model.Condition{Type: model.WaypointBound, Reason: reason, Message: text + "; all connections pass waypoint " + binding.Waypoint.String()}
	}
	weight, err := strconv.ParseUint(binding.Weight, 10, 32)
	if binding.Weight == "" {
		weight, err = 0, nil
	}
	if err != nil || weight > 100 {
		fail(badWeight, fmt.Sprintf("annotation %s: want a number from 0 to 100, have %q", model.CanaryWeight, binding.Weight))
		return
	}
	if binding.Canary == binding.Waypoint {
		fail(sameCanary, "the canary is the waypoint itself: name another, or take the label istio.io/use-waypoint-canary away")
		return
	}
	canary, failure := usable(m, w, binding.Canary)
	if failure != nil {
		fail(failure.Reason, "canary "+failure.Message)
		return
	}
	if weight == 0 {
		return
	}
	b.weighted = []*workload.WeightedWaypoint{
		{Destination: b.waypoint, Weight: uint32(100 - weight)},
		{Destination: address(m, canary), Weight: uint32(weight)},
	}
	b.names = append(b.names, binding.Canary)
	b.condition.Message += fmt.Sprintf(", %d%% of them waypoint %s", weight, binding.Canary)
}

// ingress tells what the object's own label says, else that of its namespace.
func ingress(m *model.Model, w wish) bool {
	if w.own != nil && w.own.Ingress != "" {
		return w.own.Ingress == "true"
	}
	namespace := m.Namespace(w.Namespace)
	return namespace != nil && namespace.Binding != nil && namespace.Binding.Ingress == "true"
}

// address is where a ready waypoint is.
func address(m *model.Model, g *model.Gateway) *workload.GatewayAddress {
	return gatewayAddress(m.Network(), g.Namespace, g.Addresses[0], model.HBONEPort)
}

func gatewayAddress(network, namespace string, at model.GatewayAddress, port uint32) *workload.GatewayAddress {
	out := &workload.GatewayAddress{HboneMtlsPort: port}
	if at.IP.IsValid() {
		out.Destination = &workload.GatewayAddress_Address{Address: &workload.NetworkAddress{Network: network, Address: at.IP.AsSlice()}}
	} else {
		out.Destination = &workload.GatewayAddress_Hostname{Hostname: &workload.NamespacedHostname{Namespace: namespace, Hostname: at.Host}}
	}
	return out
}

// unreachable refers to a waypoint by a name that nothing can have, for the underscores in it: whoever looks it up refuses
// the connection.
func unreachable(name model.Name) *workload.GatewayAddress {
	host := model.GatewayAddress{Host: name.Name + "." + name.Namespace + ".waypoint_not_usable.invalid"}
	return gatewayAddress("", name.Namespace, host, model.HBONEPort)
}

// applicationTunnel is how the instances of a waypoint that doesn't take HBONE itself get their traffic, or nil.
func applicationTunnel(m *model.Model, g *model.Gateway) *workload.ApplicationTunnel {
	inbound := m.Inbound(g)
	if inbound == nil {
		return nil
	}
	out := &workload.ApplicationTunnel{Port: uint32(inbound.Port)}
	if inbound.PROXY {
		out.Protocol = workload.ApplicationTunnel_PROXY
	}
	return out
}

// allowWaypointName names the policy that lets in only a waypoint. Objects can't have such a name.
func allowWaypointName(waypoint model.Name) string {
	return "istio_allow_waypoint_" + waypoint.Namespace + "_" + waypoint.Name
}

// allowWaypoint makes the policy that lets a waypoint's instances in, by the accounts of all that there are: they differ
// while a new version is rolled out. Without an instance nobody is let in.
func allowWaypoint(m *model.Model, g *model.Gateway) Result {
	if !m.Settings().AllowWaypoints {
		return Result{}
	}
	var accounts []string
	for _, pod := range m.Instances(g.Key().Name) {
		accounts = append(accounts, m.TrustDomain()+"/ns/"+pod.Namespace+"/sa/"+pod.ServiceAccount)
	}
	slices.Sort(accounts)
	out := &security.Authorization{
		Name: allowWaypointName(g.Key().Name), Namespace: g.Namespace,
		Scope: security.Scope_WORKLOAD_SELECTOR, Action: security.Action_ALLOW,
	}
	if accounts = slices.Compact(accounts); len(accounts) > 0 {
		match := &security.Match{}
		for _, account := range accounts {
			match.Principals = append(match.Principals, &security.StringMatch{MatchType: &security.StringMatch_Exact{Exact: account}})
		}
		out.Groups = []*security.Group{{Rules: []*security.Rules{{Matches: []*security.Match{match}}}}}
	}
	return one(policyResource(out))
}

// isWildcard tells whether a host stands for many.
func isWildcard(host string) bool { return strings.HasPrefix(host, "*") }
