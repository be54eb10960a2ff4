package status

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// Parent is what a route is told of one of its parents.
type Parent struct {
	// Controller says who tells, such as istio.io/gateway-controller. Entries of others are left alone.
	Controller string
	Ref        ParentRef
	Conditions []model.Condition
}

// ParentRef names a parent as the route does; what the route leaves out is empty.
type ParentRef struct {
	Group, Kind, Namespace, Name, SectionName string
	Port                                      int32
}

// wish is what an object's status should say, as far as it is ours to say.
type wish struct {
	generation int64 // that the conditions are about; 0 for objects that have none
	conditions []model.Condition
	parents    []Parent
	ancestors  bool // parents are a policy's targets, which it calls so
	gateway    *model.GatewayStatus
	features   []string // of a class of Gateways, sorted
}

// equal tells whether two wishes ask for the same.
func (w wish) equal(other wish) bool {
	return w.empty() && other.empty() || reflect.DeepEqual(w, other)
}

func (w wish) empty() bool {
	return len(w.conditions) == 0 && len(w.parents) == 0 && w.gateway == nil && len(w.features) == 0
}

// owner says what of a status is ours.
type owner struct {
	types       []string // of conditions
	controllers []string // of a route's parents
}

// differ returns the fields of a status that have to be written for it to be as wished, each as a whole; none if it is.
func (o owner) differ(w wish, status map[string]any, now time.Time) map[string]any {
	changes := make(map[string]any)
	mine := func(kind string) bool { return slices.Contains(o.types, kind) }
	if list, changed := conditions(items(status["conditions"]), w.conditions, w.generation, now, mine); changed {
		changes["conditions"] = list
	}
	for _, field := range parentLists {
		wanted := w
		if (field == ancestors) != w.ancestors {
			wanted.parents = nil
		}
		if list, changed := o.parents(field, items(status[field.list]), wanted, now); changed {
			changes[field.list] = list
		}
	}
	if w.gateway != nil {
		if list, changed := addresses(items(status["addresses"]), w.gateway.Addresses); changed {
			changes["addresses"] = list
		}
		if list, changed := listeners(items(status["listeners"]), w.gateway.Listeners, w.generation, now); changed {
			changes["listeners"] = list
		}
	}
	if list, changed := features(items(status["supportedFeatures"]), w.features); changed {
		changes["supportedFeatures"] = list
	}
	return changes
}

// items returns the objects of a list.
func items(list any) []map[string]any {
	var found []map[string]any
	all, _ := list.([]any)
	for _, item := range all {
		if object, ok := item.(map[string]any); ok {
			found = append(found, object)
		}
	}
	return found
}

func text(o map[string]any, field string) string {
	value, _ := o[field].(string)
	return value
}

// number reads an integer as any decoder of JSON leaves it.
func number(o map[string]any, field string) int64 {
	switch value := o[field].(type) {
	case int64:
		return value
	case float64:
		return int64(value)
	case int:
		return int64(value)
	}
	return 0
}

// conditions puts the wanted conditions in the place of the old ones that are ours, and keeps all others as they are.
func conditions(old []map[string]any, wanted []model.Condition, generation int64, now time.Time, mine func(string) bool) (list []any, changed bool) {
	list = []any{}
	placed := make(map[string]bool, len(wanted))
	for _, before := range old {
		kind := text(before, "type")
		i := slices.IndexFunc(wanted, func(c model.Condition) bool { return c.Type == kind })
		switch {
		case i < 0 && !mine(kind):
			list = append(list, before)
		case i < 0 || placed[kind]:
			changed = true // ours, and without a reason to be there any more
		default:
			placed[kind] = true
			after, differs := condition(before, wanted[i], generation, now)
			list, changed = append(list, after), changed || differs
		}
	}
	for _, c := range wanted {
		if !placed[c.Type] {
			placed[c.Type] = true
			after, _ := condition(nil, c, generation, now)
			list, changed = append(list, after), true
		}
	}
	return list, changed
}

// Bounds of the API, in bytes.
const maxMessage, maxReason = 32768, 1024

// condition returns how a condition should be. The time of its last transition stays where its status does.
func condition(before map[string]any, c model.Condition, generation int64, now time.Time) (after map[string]any, changed bool) {
	status := "False"
	if c.Status {
		status = "True"
	}
	after = map[string]any{
		"type": c.Type, "status": status, "reason": cut(c.Reason, maxReason), "message": cut(c.Message, maxMessage),
		"lastTransitionTime": now.UTC().Format(time.RFC3339),
	}
	if generation > 0 {
		after["observedGeneration"] = generation
	}
	if text(before, "status") == status && text(before, "lastTransitionTime") != "" {
		after["lastTransitionTime"] = before["lastTransitionTime"]
	}
	changed = text(before, "status") != status || text(before, "reason") != text(after, "reason") ||
		text(before, "message") != text(after, "message") || number(before, "observedGeneration") != generation
	return after, changed
}

// cut makes a text fit, and what JSON can say: another text would come back as a difference.
func cut(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}
