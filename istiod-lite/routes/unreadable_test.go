package routes_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/istiod-lite/golden"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/routes"
)

const twoKinds = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.1.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: web}, {name: waypoint}, {group: other.example, kind: Gateway, name: foreign}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: requests, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: web}, {name: waypoint}]}
`

// A route that can't be read says so at its parents, and takes no port from those that can.
func TestARouteThatCannotBeReadTakesNothingFromOthers(t *testing.T) {
	m := model.New(settings)
	changes := golden.MustRead(t, []byte(twoKinds))
	calls := model.Key{Kind: model.KindGRPCRoute, Name: model.Name{Namespace: "shop", Name: "calls"}}
	requests := model.Key{Kind: model.KindHTTPRoute, Name: model.Name{Namespace: "shop", Name: "requests"}}
	for _, change := range changes {
		if change.Key == calls {
			change.Object.(*model.Route).Problem = &model.Problem{Condition: "Accepted", Reason: "UnsupportedValue", Message: "it can't be read"}
		}
	}
	m.Apply(changes)
	result := routes.Object(m, calls)
	if len(result.Resources) != 0 || len(result.Parents) != 2 {
		t.Errorf("%d resources, at %d parents", len(result.Resources), len(result.Parents))
	}
	for _, parent := range result.Parents {
		if c := parent.Conditions[0]; c.Type != "Accepted" || c.Status || c.Reason != "UnsupportedValue" || c.Message != "it can't be read" {
			t.Errorf("at %s %s it is told %+v", parent.Ref.Kind, parent.Ref.Name, c)
		}
	}
	result = routes.Object(m, requests)
	for _, parent := range result.Parents {
		if c := parent.Conditions[0]; !c.Status || strings.Contains(c.Message, "lost") {
			t.Errorf("at %s %s the other is told %+v", parent.Ref.Kind, parent.Ref.Name, c)
		}
	}
	if attached := routes.Attached(m, m.Gateway(model.Name{Namespace: "shop", Name: "waypoint"})); len(result.Resources) != 2 || attached["mesh"] != 1 {
		t.Errorf("%d resources of the other; %v are attached", len(result.Resources), attached)
	}
}
