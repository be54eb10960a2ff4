package status

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

var (
	now     = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	ambient = owner{types: []string{"istio.io/WaypointBound", "ZtunnelAccepted"}, controllers: []string{"istio.io/mesh-controller"}}
)

func bound(status bool, reason, message string) model.Condition {
	return model.Condition{Type: "istio.io/WaypointBound", Status: status, Reason: reason, Message: message}
}

const others = `
loadBalancer: {ingress: [{ip: 192.0.2.1}]}
conditions:
- {type: example.com/Other, status: "True", reason: R, message: m, lastTransitionTime: "2020-01-01T00:00:00Z"}
`

const ours = others + `
- type: istio.io/WaypointBound
  status: "True"
  reason: WaypointAccepted
  message: bound to apps/waypoint
  lastTransitionTime: "2021-01-01T00:00:00Z"
  observedGeneration: 3
`

// Beside what is written, each case checks that it is left alone then.
func TestConditionsThatAreWritten(t *testing.T) {
	accepted := bound(true, "WaypointAccepted", "bound to apps/waypoint")
	for name, test := range map[string]struct {
		before string
		wish   wish
		want   string // fields that are written, none if empty
	}{
		"none before":                 {"", wish{generation: 1, conditions: []model.Condition{accepted}}, `{"conditions":[{"lastTransitionTime":"2026-05-06T07:08:09Z","message":"bound to apps/waypoint","observedGeneration":1,"reason":"WaypointAccepted","status":"True","type":"istio.io/WaypointBound"}]}`},
		"a Service has no generation": {"", wish{conditions: []model.Condition{accepted}}, `{"conditions":[{"lastTransitionTime":"2026-05-06T07:08:09Z","message":"bound to apps/waypoint","reason":"WaypointAccepted","status":"True","type":"istio.io/WaypointBound"}]}`},
		"features of a class":         {"{supportedFeatures: [{name: A}]}", wish{features: []string{"A", "B"}}, `{"supportedFeatures":[{"name":"A"},{"name":"B"}]}`},
		"another feature":             {"{supportedFeatures: [{name: A}]}", wish{features: []string{"B"}}, `{"supportedFeatures":[{"name":"B"}]}`},
		"the features as they are":    {"{supportedFeatures: [{name: A}, {name: B}]}", wish{features: []string{"A", "B"}}, ""},
		"nothing to say of features":  {"{supportedFeatures: [{name: A}]}", wish{}, ""},
		"as it is":                    {ours, wish{generation: 3, conditions: []model.Condition{accepted}}, ""},
		"nothing to say":              {others, wish{}, ""},
		"nothing to say of nothing":   {"", wish{}, ""},
		"another generation keeps the time": {ours, wish{generation: 4, conditions: []model.Condition{accepted}},
			`{"conditions":[OTHER,{"lastTransitionTime":"2021-01-01T00:00:00Z","message":"bound to apps/waypoint","observedGeneration":4,"reason":"WaypointAccepted","status":"True","type":"istio.io/WaypointBound"}]}`},
		"another message keeps the time": {ours, wish{generation: 3, conditions: []model.Condition{bound(true, "WaypointAccepted", "bound to apps/other")}},
			`{"conditions":[OTHER,{"lastTransitionTime":"2021-01-01T00:00:00Z","message":"bound to apps/other","observedGeneration":3,"reason":"WaypointAccepted","status":"True","type":"istio.io/WaypointBound"}]}`},
		"another status has a new time": {ours, wish{generation: 3, conditions: []model.Condition{bound(false, "WaypointIsNotReady", "make it ready")}},
			`{"conditions":[OTHER,{"lastTransitionTime":"2026-05-06T07:08:09Z","message":"make it ready","observedGeneration":3,"reason":"WaypointIsNotReady","status":"False","type":"istio.io/WaypointBound"}]}`},
		"no reason to be there any more": {ours, wish{}, `{"conditions":[OTHER]}`},
		"one of ours written twice": {ours + "- {type: istio.io/WaypointBound, status: \"True\"}\n", wish{generation: 3, conditions: []model.Condition{accepted}},
			`{"conditions":[OTHER,{"lastTransitionTime":"2021-01-01T00:00:00Z","message":"bound to apps/waypoint","observedGeneration":3,"reason":"WaypointAccepted","status":"True","type":"istio.io/WaypointBound"}]}`},
		"a hostile status": {`{conditions: [1, x, {type: 7}], parents: x}`, wish{generation: 1, conditions: []model.Condition{accepted}},
			`{"conditions":[{"type":7},{"lastTransitionTime":"2026-05-06T07:08:09Z","message":"bound to apps/waypoint","observedGeneration":1,"reason":"WaypointAccepted","status":"True","type":"istio.io/WaypointBound"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			other := `{"lastTransitionTime":"2020-01-01T00:00:00Z","message":"m","reason":"R","status":"True","type":"example.com/Other"}`
			want := strings.ReplaceAll(test.want, "OTHER", other)
			status := parse(t, test.before)
			got := ambient.differ(test.wish, status, now)
			if text := encode(t, got); want != "" && text != want || want == "" && len(got) > 0 {
				t.Errorf("writes %s\nwant %s", text, want)
			}
			settled(t, ambient, test.wish, status, got)
		})
	}
}

// settled checks that what was written is left alone from then on.
func settled(t *testing.T, o owner, w wish, status, changes map[string]any) {
	t.Helper()
	if status == nil {
		status = make(map[string]any)
	}
	for field, value := range changes {
		status[field] = value
	}
	again := make(map[string]any)
	if err := json.Unmarshal([]byte(encode(t, status)), &again); err != nil {
		t.Fatal(err)
	}
	if more := o.differ(w, again, now.Add(time.Hour)); len(more) > 0 {
		t.Errorf("written again on equal: %s", encode(t, more))
	}
}

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	o := make(map[string]any)
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func encode(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTextsThatDoNotFitAreCut(t *testing.T) {
	w := wish{generation: 1, conditions: []model.Condition{bound(false, "R", strings.Repeat("ü", maxMessage)+"\xff")}}
	got := ambient.differ(w, nil, now)
	if message := text(items(got["conditions"])[0], "message"); len(message) > maxMessage || strings.ContainsRune(message, '\ufffd') {
		t.Errorf("%d bytes", len(message))
	}
	settled(t, ambient, w, nil, got)
}

func TestParentsOfOthersStay(t *testing.T) {
	service := ParentRef{Kind: "Service", Name: "reviews", Port: 80}
	accepted := model.Condition{Type: "Accepted", Status: true, Reason: "Accepted"}
	w := wish{generation: 2, parents: []Parent{{Controller: "istio.io/mesh-controller", Ref: service, Conditions: []model.Condition{accepted}}}}
	const before = `
parents:
- controllerName: istio.io/mesh-controller
  parentRef: {group: "", kind: Service, name: gone}
  conditions: [{type: Accepted, status: "True", reason: Accepted, message: "", lastTransitionTime: "2021-01-01T00:00:00Z", observedGeneration: 2}]
- controllerName: example.com/gateway
  parentRef: {group: gateway.networking.k8s.io, kind: Gateway, name: edge}
  conditions: []
- controllerName: istio.io/mesh-controller
  parentRef: {group: "", kind: Service, name: reviews, port: 80}
  conditions: [{type: Accepted, status: "True", reason: Accepted, message: "", lastTransitionTime: "2021-01-01T00:00:00Z", observedGeneration: 1}]
`
	status := parse(t, before)
	got := ambient.differ(w, status, now)
	want := `{"parents":[{"conditions":[],"controllerName":"example.com/gateway","parentRef":{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge"}},` +
		`{"conditions":[{"lastTransitionTime":"2021-01-01T00:00:00Z","message":"","observedGeneration":2,"reason":"Accepted","status":"True","type":"Accepted"}],"controllerName":"istio.io/mesh-controller","parentRef":{"group":"","kind":"Service","name":"reviews","port":80}}]}`
	if text := encode(t, got); text != want {
		t.Errorf("writes %s\nwant %s", text, want)
	}
	settled(t, ambient, w, status, got)
	if text := encode(t, ambient.differ(wish{}, status, now)); strings.Contains(text, "mesh-controller") || !strings.Contains(text, "edge") {
		t.Errorf("without parents of ours: %s", text)
	}
}

// The API fills in group and kind of a reference; then it isn't another parent.
func TestParentWithDefaultsIsTheSame(t *testing.T) {
	w := wish{generation: 1, parents: []Parent{{Controller: "istio.io/mesh-controller", Ref: ParentRef{Name: "waypoint"}, Conditions: []model.Condition{{Type: "Accepted", Status: true, Reason: "Accepted"}}}}}
	status := parse(t, `
parents:
- controllerName: istio.io/mesh-controller
  parentRef: {group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}
  conditions: [{type: Accepted, status: "True", reason: Accepted, message: "", lastTransitionTime: "2021-01-01T00:00:00Z", observedGeneration: 1}]
`)
	if got := ambient.differ(w, status, now); len(got) > 0 {
		t.Errorf("writes %s", encode(t, got))
	}
}

// Each of a route's parents keeps what it was told, whatever its port.
func TestParentsOnHighPortsAreTwo(t *testing.T) {
	for _, ports := range [][2]int32{{80, 81}, {55300, 55301}, {57343, 65533}} {
		var w wish
		for i, port := range ports {
			accepted := model.Condition{Type: "Accepted", Status: i == 0, Reason: "Accepted"}
			w.parents = append(w.parents, Parent{Controller: "istio.io/mesh-controller", Ref: ParentRef{Kind: "Service", Name: "a", Port: port}, Conditions: []model.Condition{accepted}})
		}
		settled(t, ambient, w, nil, ambient.differ(w, nil, now))
	}
}

func TestStatusOfAGateway(t *testing.T) {
	programmed := model.Condition{Type: "Programmed", Status: true, Reason: "Programmed"}
	w := wish{generation: 1, conditions: []model.Condition{programmed}, gateway: &model.GatewayStatus{
		Addresses: []model.GatewayAddress{{IP: netip.MustParseAddr("10.0.0.1")}},
		Listeners: []model.ListenerStatus{{Name: "mesh", Kinds: []model.GroupKind{{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute"}}, AttachedRoutes: 2, Conditions: []model.Condition{programmed}}},
	}}
	o := owner{types: []string{"Accepted", "Programmed"}}
	status := parse(t, `
addresses: [{type: Hostname, value: old.example}]
conditions: [{type: Accepted, status: Unknown, reason: Pending, message: Waiting for controller, lastTransitionTime: "1970-01-01T00:00:00Z"}]
`)
	got := o.differ(w, status, now)
	const condition = `{"lastTransitionTime":"2026-05-06T07:08:09Z","message":"","observedGeneration":1,"reason":"Programmed","status":"True","type":"Programmed"}`
	want := `{"addresses":[{"type":"IPAddress","value":"10.0.0.1"}],"conditions":[` + condition + `],"listeners":[{"attachedRoutes":2,"conditions":[` + condition +
		`],"name":"mesh","supportedKinds":[{"group":"gateway.networking.k8s.io","kind":"HTTPRoute"}]}]}`
	if diff := cmp.Diff(want, encode(t, got)); diff != "" {
		t.Error(diff)
	}
	settled(t, o, w, status, got)
}
