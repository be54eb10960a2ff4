package routes

import (
	"fmt"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// The reasons of a route's conditions at a parent are the Gateway API's.
const (
	partiallyInvalid = "PartiallyInvalid"

	noMatchingParent = "NoMatchingParent"
	notAllowed       = "NotAllowedByListeners"
	conflicted       = "Conflicted"
	unsupportedValue = "UnsupportedValue"
	invalidKind      = "InvalidKind"
	refNotPermitted  = "RefNotPermitted"
	backendNotFound  = "BackendNotFound"
)

var protocols = map[model.Kind]l7.Route_Protocol{
	model.KindHTTPRoute: l7.Route_HTTP, model.KindGRPCRoute: l7.Route_GRPC, model.KindTLSRoute: l7.Route_TLS, model.KindTCPRoute: l7.Route_TCP,
}

// route makes a resource for each parent: it is another that a backend is compared with, and another namespace whose
// clients it is for.
func (t translation) route(r *model.Route) Result {
	var result Result
	for i := range r.Parents {
		at, ours := t.attach(r, &r.Parents[i])
		if !ours {
			continue
		}
		if p := r.Problem; p != nil {
			at.refuse(p.Reason, "%s", p.Message)
		}
		rules, found := t.rules(r, at)
		result.Parents = append(result.Parents, Parent{r.Parents[i], append(at.conditions(r, found), at.waypoints...)})
		if len(at.targets) == 0 {
			continue
		}
		result.Resources = append(result.Resources, Resource{
			Name: resourceName(r.Key()) + "@" + parentName(&r.Parents[i]),
			Message: &l7.Resource{
				Schema: schema, Origin: origin(r.Key()), Targets: at.targets,
				Kind: &l7.Resource_Route{Route: &l7.Route{
					Protocol: protocols[r.Kind], Precedence: precedence(r), ServerNames: r.ServerNames, Rules: rules,
				}},
			},
		})
	}
	return result
}

// parentName is unique among the parents of a route.
func parentName(p *model.ParentRef) string {
	name := p.Kind + "/" + p.Name.String()
	if p.Section != "" {
		name += "#" + p.Section
	}
	if p.Port != 0 {
		name += fmt.Sprintf(":%d", p.Port)
	}
	return name
}

// precedence sorts the older route first, then by name: RFC 3339 in UTC sorts as the times do.
func precedence(r *model.Route) string {
	return r.Created.UTC().Format(time.RFC3339) + " " + r.Namespace + "/" + r.Name
}

// conditions are what a route's status says of the parent.
func (at *attachment) conditions(r *model.Route, found *findings) []model.Condition {
	yes := model.Condition{Type: model.Accepted, Status: true, Reason: model.Accepted, Message: "in force"}
	if len(at.lost) > 0 {
		yes.Message = "in force, but lost port " + strings.Join(at.lost, ", port ")
	}
	var dropped []string
	var worst *model.Problem
	refs := found.refs
	for i := range r.Rules {
		problem := r.Rules[i].Problem
		if problem == nil {
			continue
		}
		dropped = append(dropped, fmt.Sprintf("Dropped Rule %d: %s", i, problem.Message))
		switch {
		case problem.Condition == model.Accepted && worst == nil:
			worst = problem
		case problem.Condition == model.ResolvedRefs && refs == nil:
			refs = problem
		}
	}
	conditions := []model.Condition{yes}
	switch {
	case at.refused != nil:
		conditions[0] = failed(at.refused)
	case worst != nil && len(dropped) == len(r.Rules):
		conditions[0] = failed(worst)
	case len(dropped)+len(found.others) > 0:
		conditions = append(conditions, model.Condition{
			Type: partiallyInvalid, Status: true, Reason: unsupportedValue,
			Message: strings.Join(append(dropped, found.others...), "; ") + "; requests for it are answered with status 500",
		})
	}
	if refs != nil {
		return append(conditions, failed(refs))
	}
	return append(conditions, model.Condition{Type: model.ResolvedRefs, Status: true, Reason: model.ResolvedRefs, Message: "all backends are there"})
}

// Good is the status that a condition of the type has when all is well.
func Good(conditionType string) bool { return conditionType != partiallyInvalid }

func failed(p *model.Problem) model.Condition {
	return model.Condition{Type: p.Condition, Reason: p.Reason, Message: p.Message}
}
