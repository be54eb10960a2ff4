package deploy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// The type of a listener's condition that isn't a Gateway's, and reasons. Where there is a choice, they are the Gateway API's.
const (
	conflicted = "Conflicted"

	invalid           = "Invalid"
	invalidParameters = "InvalidParameters"
	invalidListeners  = "ListenersNotValid"
	notManaged        = "ObjectNotManaged"
	deployFailed      = "DeploymentFailed"
	pending           = "Pending"
	noResources       = "NoResources"
	noAddress         = "AddressNotAssigned"
)

// Status is what a Gateway is told.
type Status struct {
	Conditions []model.Condition
	model.GatewayStatus
}

// status says what became of a waypoint. The failure is what keeps its objects from being as they should; nil if nothing.
func (w *Waypoint) status(failure error) Status {
	s := Status{GatewayStatus: model.GatewayStatus{Addresses: w.addresses()}}
	yes := w.accepted(failure)
	ready := w.programmed(failure)
	refs := good(model.ResolvedRefs, model.ResolvedRefs, "all that the Gateway refers to is there")
	var r *refusal
	if errors.As(failure, &r) && r.reason == invalidParameters {
		refs = bad(model.ResolvedRefs, invalidParameters, r.message)
	}
	s.Conditions = []model.Condition{yes, ready, refs}
	for i := range w.Gateway.Listeners {
		s.Listeners = append(s.Listeners, w.listener(i, ready))
	}
	return s
}

// addresses are where the waypoint is. It gets some when it is ready for the first time, and then always has: what is bound
// to it isn't let past it while it is away.
func (w *Waypoint) addresses() []model.GatewayAddress {
	switch {
	case w.Manual():
		return w.Gateway.Wanted
	case len(w.Addresses) > 0 && (w.Ready || w.Gateway.Ready()):
		return w.Addresses
	}
	return w.Gateway.Addresses
}

func (w *Waypoint) accepted(failure error) model.Condition {
	var r *refusal
	if errors.As(failure, &r) {
		message := r.message
		if w.Gateway.Ready() {
			message += "; what was deployed before stays as it is"
		}
		return bad(model.Accepted, r.reason, message)
	}
	c := good(model.Accepted, model.Accepted, "the waypoint is deployed as the Gateway says")
	if w.Manual() {
		c.Message = "somebody else deploys the waypoint, at the addresses in its spec"
	}
	var wrong []string
	for i, l := range w.Gateway.Listeners {
		if !isMesh(l) || w.first() != i {
			wrong = append(wrong, l.Name)
		}
	}
	if len(wrong) > 0 {
		c.Reason = invalidListeners
		c.Message += ", but for listener " + strings.Join(wrong, ", ") + ": see its conditions"
	}
	return c
}

func (w *Waypoint) programmed(failure error) model.Condition {
	var r *refusal
	switch {
	case errors.As(failure, &r) && !w.Gateway.Ready():
		return bad(model.Programmed, invalid, "it isn't deployed: see the condition Accepted")
	case failure != nil && !errors.As(failure, &r):
		return bad(model.Programmed, deployFailed, fmt.Sprintf("%.1000s; this is tried again", failure))
	case w.Manual():
	case len(w.Addresses) == 0:
		return bad(model.Programmed, noAddress, fmt.Sprintf("Service %s has no address yet", w.Gateway.Deployed()))
	case !w.Ready && w.Gateway.Ready():
		return bad(model.Programmed, noResources, fmt.Sprintf("no instance is ready, so connections are refused: see the pods of Deployment %s", w.Gateway.Deployed()))
	case !w.Ready:
		return bad(model.Programmed, pending, fmt.Sprintf("no instance has been ready yet: see the pods of Deployment %s", w.Gateway.Deployed()))
	}
	var at []string
	for _, address := range w.addresses() {
		at = append(at, address.String())
	}
	return good(model.Programmed, model.Programmed, "connections go to "+strings.Join(at, ", "))
}

// isMesh tells whether the listener takes the mesh's traffic.
func isMesh(l model.Listener) bool { return l.Protocol == "HBONE" && l.Port == model.HBONEPort }

// first is the listener that takes the mesh's traffic, or -1.
func (w *Waypoint) first() int { return slices.IndexFunc(w.Gateway.Listeners, isMesh) }

// listener says what became of one.
func (w *Waypoint) listener(i int, ready model.Condition) model.ListenerStatus {
	l := &w.Gateway.Listeners[i]
	s := model.ListenerStatus{Name: l.Name, AttachedRoutes: w.Attached[l.Name]}
	yes, clear := good(model.Accepted, model.Accepted, "it takes the mesh's traffic"), bad(conflicted, "NoConflicts", "no other listener is in its way")
	refs := good(model.ResolvedRefs, model.ResolvedRefs, "all that it refers to is there")
	switch {
	case !isMesh(*l):
		yes = bad(model.Accepted, "UnsupportedProtocol", fmt.Sprintf("a waypoint takes HBONE on port %d only, not %s on %d: change the listener, or take it away", model.HBONEPort, l.Protocol, l.Port))
	case w.first() != i:
		yes = bad(model.Accepted, "PortUnavailable", fmt.Sprintf("listener %s has the port", w.Gateway.Listeners[w.first()].Name))
		clear = good(conflicted, "HostnameConflict", yes.Message+": take one of them away")
	}
	if !yes.Status {
		s.AttachedRoutes = 0
		ready = bad(model.Programmed, invalid, "it isn't accepted")
	}
	for _, kind := range model.RouteKinds {
		if l.Takes(kind) {
			s.Kinds = append(s.Kinds, model.GroupKind{Group: model.RouteGroup, Kind: string(kind)})
		}
	}
	for _, kind := range l.Kinds {
		if kind.Group != model.RouteGroup || !slices.Contains(model.RouteKinds[:], model.Kind(kind.Kind)) {
			refs = bad(model.ResolvedRefs, "InvalidRouteKinds", fmt.Sprintf("allowedRoutes.kinds: %.100s of group %.100q can't be attached to a waypoint", kind.Kind, kind.Group))
		}
	}
	s.Conditions = []model.Condition{yes, clear, ready, refs}
	return s
}

func good(kind, reason, message string) model.Condition {
	return model.Condition{Type: kind, Status: true, Reason: reason, Message: message}
}

func bad(kind, reason, message string) model.Condition {
	return model.Condition{Type: kind, Reason: reason, Message: message}
}
