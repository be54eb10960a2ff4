package status

import (
	"slices"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func everyType(string) bool { return true }

// parentList is where a status speaks of other objects, one by one.
type parentList struct{ list, ref string }

// A route has parents, a policy ancestors.
var (
	ancestors   = parentList{"ancestors", "ancestorRef"}
	parentLists = []parentList{{"parents", "parentRef"}, ancestors}
)

// parents puts the wanted entries after those of other controllers, whose order stays.
func (o owner) parents(field parentList, old []map[string]any, w wish, now time.Time) (list []any, changed bool) {
	list = []any{}
	ours := make(map[string]map[string]any)
	var before []string
	for _, entry := range old {
		if controller := text(entry, "controllerName"); slices.Contains(o.controllers, controller) {
			key := controller + " " + field.refOf(entry).key()
			before, ours[key] = append(before, key), entry
			continue
		}
		list = append(list, entry)
	}
	var after []string
	for _, parent := range w.parents {
		key := parent.Controller + " " + parent.Ref.key()
		told, differs := conditions(items(ours[key]["conditions"]), parent.Conditions, w.generation, now, everyType)
		after, changed = append(after, key), changed || differs
		list = append(list, map[string]any{"controllerName": parent.Controller, field.ref: parent.Ref.object(), "conditions": told})
	}
	return list, changed || !slices.Equal(before, after)
}

// refOf reads the parent that an entry is about.
func (f parentList) refOf(entry map[string]any) ParentRef {
	ref, _ := entry[f.ref].(map[string]any)
	return ParentRef{
		Group: text(ref, "group"), Kind: text(ref, "kind"), Namespace: text(ref, "namespace"), Name: text(ref, "name"),
		SectionName: text(ref, "sectionName"), Port: int32(number(ref, "port")),
	}
}

// key tells parents apart. The API fills in group and kind where they are left out.
func (r ParentRef) key() string {
	o := r.object()
	group, kind := text(o, "group"), text(o, "kind")
	if kind == "" {
		kind = "Gateway"
	}
	if _, written := o["group"]; !written {
		group = "gateway.networking.k8s.io"
	}
	return group + "/" + kind + "/" + r.Namespace + "/" + r.Name + "/" + r.SectionName + "/" + strconv.Itoa(int(r.Port))
}

// object is the reference as the API has it. A Service is of the empty group, which has to be written.
func (r ParentRef) object() map[string]any {
	o := map[string]any{"name": r.Name}
	if r.Group != "" || r.Kind == "Service" {
		o["group"] = r.Group
	}
	for field, value := range map[string]string{"kind": r.Kind, "namespace": r.Namespace, "sectionName": r.SectionName} {
		if value != "" {
			o[field] = value
		}
	}
	if r.Port != 0 {
		o["port"] = int64(r.Port)
	}
	return o
}

func addresses(old []map[string]any, wanted []model.GatewayAddress) (list []any, changed bool) {
	list = []any{}
	changed = len(old) != len(wanted)
	for i, address := range wanted {
		list = append(list, map[string]any{"type": address.Type(), "value": address.String()})
		changed = changed || text(old[i], "type") != address.Type() || text(old[i], "value") != address.String()
	}
	return list, changed
}

// features are what a class supports. Of one that isn't ours nothing is said.
func features(old []map[string]any, wanted []string) (list []any, changed bool) {
	changed = len(wanted) > 0 && len(old) != len(wanted)
	for i, name := range wanted {
		list = append(list, map[string]any{"name": name})
		changed = changed || text(old[i], "name") != name
	}
	return list, changed
}

// listeners are all the Gateway controller's.
func listeners(old []map[string]any, wanted []model.ListenerStatus, generation int64, now time.Time) (list []any, changed bool) {
	list = []any{}
	before := make(map[string]map[string]any, len(old))
	for _, listener := range old {
		before[text(listener, "name")] = listener
	}
	changed = len(old) != len(wanted)
	for _, listener := range wanted {
		last, known := before[listener.Name]
		told, differs := conditions(items(last["conditions"]), listener.Conditions, generation, now, everyType)
		var kinds []model.GroupKind
		for _, kind := range items(last["supportedKinds"]) {
			kinds = append(kinds, model.GroupKind{Group: text(kind, "group"), Kind: text(kind, "kind")})
		}
		changed = changed || differs || !known || number(last, "attachedRoutes") != int64(listener.AttachedRoutes) || !slices.Equal(kinds, listener.Kinds)
		supported := []any{}
		for _, kind := range listener.Kinds {
			supported = append(supported, map[string]any{"group": kind.Group, "kind": kind.Kind})
		}
		list = append(list, map[string]any{
			"name": listener.Name, "supportedKinds": supported, "attachedRoutes": int64(listener.AttachedRoutes), "conditions": told,
		})
	}
	return list, changed
}
