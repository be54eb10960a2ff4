package routes

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// Reasons why a waypoint doesn't enforce a policy.
const (
	targetNotFound = "TargetNotFound"
	notBound       = "AncestorNotBound"
	invalid        = "Invalid"
)

// failing takes why a target isn't one.
type failing func(reason, format string, args ...any)

// targeted attaches the resource of a policy to its targets. A service needn't be there: when it comes, the policy is
// known before it is.
func (t translation) targeted(key model.Key, targets []model.Target, resource *l7.Resource, problems []string) Result {
	status := model.Condition{Type: model.WaypointAccepted, Status: true, Reason: model.Accepted, Message: "attached to its targets"}
	var failures []string
	fail := func(reason, format string, args ...any) {
		failures = append(failures, fmt.Sprintf(format, args...))
		if status.Status {
			status.Status, status.Reason = false, reason
		}
	}
	if len(targets) == 0 {
		fail(targetNotFound, "no target is of a kind that is known: use Service, ServiceEntry, Gateway or GatewayClass")
	}
	for _, target := range targets {
		resource.Targets = append(resource.Targets, t.target(key, target, fail)...)
	}
	switch {
	case len(failures) > 0:
		status.Message = strings.Join(failures, "; ")
	case len(problems) > 0:
		status.Reason, status.Message = unsupportedValue, strings.Join(problems, "; ")
	}
	result := Result{Conditions: []model.Condition{status}}
	if len(resource.Targets) > 0 {
		result.Resources = []Resource{{Name: resourceName(key), Message: resource}}
	}
	return result
}

// target finds what a target means. What it can't be, or isn't yet, goes to fail.
func (t translation) target(of model.Key, target model.Target, fail failing) []*l7.Target {
	name := target.Name
	switch target.Kind {
	case model.KindService:
		if service := t.model.Service(name); service == nil {
			fail(targetNotFound, "there is no Service %s", name)
		} else {
			bound(target, t.model.ServiceWaypoint(service), fail)
		}
		return []*l7.Target{{Of: &l7.Target_Service{Service: t.serviceName(name)}}}
	case model.KindServiceEntry:
		entry := t.model.ServiceEntry(name)
		if entry == nil {
			fail(targetNotFound, "there is no ServiceEntry %s", name)
			return nil
		}
		bound(target, t.model.EntryWaypoint(entry), fail)
		var found []*l7.Target
		for _, service := range t.hosts(entry) {
			found = append(found, &l7.Target{Of: &l7.Target_Service{Service: service}})
		}
		return found
	case model.KindGateway:
		if gateway := t.model.Gateway(name); gateway == nil || !t.model.IsWaypoint(gateway) {
			fail(targetNotFound, "there is no waypoint %s", name)
		}
		return []*l7.Target{{Of: &l7.Target_Gateway{Gateway: name.String()}}}
	case model.KindGatewayClass:
		if root := t.model.RootNamespace(); of.Namespace != root {
			fail(invalid, "a GatewayClass is a target for policies of namespace %s only", root)
			return nil
		}
		return []*l7.Target{{Of: &l7.Target_GatewayClass{GatewayClass: name.Name}}}
	}
	return nil
}

// bound fails for a service that no waypoint serves.
func bound(target model.Target, binding model.ServiceBinding, fail failing) {
	switch binding {
	case model.Unbound:
		fail(notBound, "%s %s has no waypoint, so nothing enforces this: label it, or its namespace, istio.io/use-waypoint", target.Kind, target.Name)
	case model.BoundToNothing:
		fail(notBound, "the waypoint of %s %s can't be used: see the condition WaypointBound there", target.Kind, target.Name)
	}
}
