package routes

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// attachment is what became of one parent of a route.
type attachment struct {
	parent *model.ParentRef
	// targets is empty if the route has no part there; refused says why not.
	targets []*l7.Target
	refused *model.Problem
	// lost are ports that a route of another kind has taken.
	lost []string
	// waypoints is a condition that says whether a waypoint reads the route, where that depends on the parent.
	waypoints []model.Condition
}

const (
	gatewayGroup = model.RouteGroup
	istioGroup   = "networking.istio.io"
)

// attach finds what a parent means. ours is false if it is of a kind that isn't the mesh's, whose status is somebody
// else's.
func (t translation) attach(r *model.Route, p *model.ParentRef) (at *attachment, ours bool) {
	at = &attachment{parent: p}
	switch {
	case p.Group == "" && p.Kind == "Service":
		t.attachToService(r, at)
	case p.Group == istioGroup && p.Kind == "ServiceEntry":
		t.attachToEntry(r, at)
	case p.Group == gatewayGroup && p.Kind == "Gateway":
		gateway := t.model.Gateway(p.Name)
		if gateway == nil || !t.model.IsWaypoint(gateway) {
			return nil, false
		}
		t.attachToGateway(r, at, gateway)
	default:
		return nil, false
	}
	return at, true
}

func (at *attachment) refuse(reason, format string, args ...any) {
	at.targets = nil
	at.refused = &model.Problem{Condition: model.Accepted, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func (t translation) attachToService(r *model.Route, at *attachment) {
	service := t.model.Service(at.parent.Name)
	switch {
	case service == nil:
		at.refuse(noMatchingParent, "there is no Service %s", at.parent.Name)
		return
	case len(service.VIPs) == 0:
		at.refuse(unsupportedValue, "Service %s has no virtual address, so clients never reach it through a waypoint", at.parent.Name)
		return
	}
	at.waypoints = []model.Condition{resolved(t.model.ServiceWaypoint(service), at.parent)}
	t.attachToPorts(r, at, service.Ports, []string{t.serviceName(at.parent.Name)})
}

func (t translation) attachToEntry(r *model.Route, at *attachment) {
	entry := t.model.ServiceEntry(at.parent.Name)
	if entry == nil {
		at.refuse(noMatchingParent, "there is no ServiceEntry %s", at.parent.Name)
		return
	}
	at.waypoints = []model.Condition{resolved(t.model.EntryWaypoint(entry), at.parent)}
	t.attachToPorts(r, at, entry.Ports, t.hosts(entry))
}

// hosts are the services of a ServiceEntry.
func (t translation) hosts(e *model.ServiceEntry) []string {
	var services []string
	for _, host := range e.Hosts {
		if t.model.Owns(e, host) {
			services = append(services, e.Namespace+"/"+host)
		}
	}
	return services
}

// attachToPorts attaches a route to those of the services' ports that its parent names and that it doesn't lose.
func (t translation) attachToPorts(r *model.Route, at *attachment, ports []model.ServicePort, services []string) {
	p, consumer := at.parent, ""
	if r.Namespace != p.Namespace {
		consumer = r.Namespace
	}
	var routed []uint32
	named := false
	rivals := t.rivals(r, p)
	for _, port := range ports {
		if !p.Covers(port) {
			continue
		}
		named = true
		covers := func(o *model.ParentRef) bool { return o.Covers(port) }
		if other := winner(rivals, func(other *model.Route) bool { return slices.ContainsFunc(refsTo(other, p), covers) }); other != "" {
			at.lost = append(at.lost, fmt.Sprintf("%d to %s", port.Port, other))
			continue
		}
		routed = append(routed, uint32(port.Port))
	}
	slices.Sort(routed)
	for _, service := range services {
		at.targets = append(at.targets, &l7.Target{Of: &l7.Target_Service{Service: service}, Ports: routed, ConsumerNamespace: consumer})
	}
	switch {
	case !named:
		at.refuse(noMatchingParent, "%s %s has no port %s", p.Kind, p.Name, describePort(p))
	case len(routed) == 0:
		at.refuse(conflicted, "routes of one kind only have a port: lost port %s", strings.Join(at.lost, ", port "))
	case len(services) == 0:
		at.refuse(noMatchingParent, "each host of %s %s is another's", p.Kind, p.Name)
	}
}

// attachToGateway attaches a route to all services of a waypoint, for what has no routes of its own.
func (t translation) attachToGateway(r *model.Route, at *attachment, g *model.Gateway) {
	p := at.parent
	if reason, message := t.barred(r, p, g); reason != "" {
		at.refuse(reason, "%s", message)
		return
	}
	// What isn't let in wins nothing: anybody may write it.
	let := func(other *model.Route) bool {
		return slices.ContainsFunc(refsTo(other, p), func(o *model.ParentRef) bool {
			reason, _ := t.barred(other, o, g)
			return reason == ""
		})
	}
	if other := winner(t.rivals(r, p), let); other != "" {
		at.refuse(conflicted, "routes of one kind only are attached to a waypoint: lost to %s", other)
		return
	}
	at.targets = []*l7.Target{{Of: &l7.Target_Gateway{Gateway: p.Name.String()}}}
}

// barred says why a gateway doesn't let a route in; the reason is empty if it does.
func (t translation) barred(r *model.Route, p *model.ParentRef, g *model.Gateway) (reason, message string) {
	takes := func(l model.Listener) bool { return p.Names(l) && l.Takes(r.Kind) }
	switch {
	case (p.Section != "" || p.Port != 0) && !slices.ContainsFunc(g.Listeners, p.Names):
		return noMatchingParent, fmt.Sprintf("Gateway %s has no listener %s", p.Name, describePort(p))
	case len(g.Listeners) > 0 && !slices.ContainsFunc(g.Listeners, takes):
		return notAllowed, fmt.Sprintf("Gateway %s doesn't admit routes of kind %s: change allowedRoutes of its listener", p.Name, r.Kind)
	case !t.model.Admits(g, r.Namespace):
		return notAllowed, fmt.Sprintf("Gateway %s doesn't admit namespace %s: change allowedRoutes of its listener", p.Name, r.Namespace)
	}
	return "", ""
}

// Attached counts the routes that are in force at a gateway, by its listeners.
func Attached(m *model.Model, g *model.Gateway) map[string]int {
	t, count := translation{m}, make(map[string]int)
	if !m.IsWaypoint(g) {
		return count
	}
	ref := model.ObjectRef{Group: gatewayGroup, Kind: string(model.KindGateway), Name: g.Key().Name}
	for _, kind := range model.RouteKinds {
		for _, r := range m.RoutesAt(ref, kind) {
			for _, l := range g.Listeners {
				if slices.ContainsFunc(r.Parents, func(p model.ParentRef) bool {
					if p.ObjectRef != ref || !p.Names(l) || !l.Takes(kind) {
						return false
					}
					at := &attachment{parent: &p}
					t.attachToGateway(r, at, g)
					return at.refused == nil
				}) {
					count[l.Name]++
				}
			}
		}
	}
	return count
}

func describePort(p *model.ParentRef) string {
	switch {
	case p.Port != 0 && p.Section != "":
		return fmt.Sprintf("%d named %s", p.Port, p.Section)
	case p.Port != 0:
		return fmt.Sprint(p.Port)
	case p.Section != "":
		return p.Section
	}
	return "at all"
}

// rivals are the routes at a parent, for the same clients, of the kinds that go before this one's.
func (t translation) rivals(r *model.Route, p *model.ParentRef) []*model.Route {
	var found []*model.Route
	for _, kind := range model.RouteKinds {
		if kind == r.Kind {
			break
		}
		for _, other := range t.model.RoutesAt(p.ObjectRef, kind) {
			if p.Kind == "Gateway" || other.Namespace == r.Namespace {
				found = append(found, other)
			}
		}
	}
	return found
}

// winner names the first of the rivals that takes what is asked about, or is empty.
func winner(rivals []*model.Route, takes func(*model.Route) bool) string {
	for _, other := range rivals {
		if takes(other) {
			return string(other.Kind) + " " + other.Key().String()
		}
	}
	return ""
}

// refsTo are a route's references to the object that a parent is.
func refsTo(r *model.Route, p *model.ParentRef) (refs []*model.ParentRef) {
	for i := range r.Parents {
		if r.Parents[i].ObjectRef == p.ObjectRef {
			refs = append(refs, &r.Parents[i])
		}
	}
	return refs
}

// resolved says whether a waypoint reads what is attached to a parent.
func resolved(binding model.ServiceBinding, p *model.ParentRef) model.Condition {
	c := model.Condition{Type: "ResolvedWaypoints"}
	switch binding {
	case model.Bound:
		c.Status, c.Reason, c.Message = true, "ResolvedWaypoints", "in force at its waypoint"
	case model.BoundToNothing:
		c.Reason = noMatchingParent
		c.Message = fmt.Sprintf("the waypoint of %s %s can't be used: see the condition WaypointBound there", p.Kind, p.Name)
	default:
		c.Reason = "MissingUseWaypointLabel"
		c.Message = fmt.Sprintf("%s %s has no waypoint: label it, or its namespace, istio.io/use-waypoint", p.Kind, p.Name)
	}
	return c
}
