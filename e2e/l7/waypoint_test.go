package l7

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// read reads a field of an object of the shop.
func read(ctx context.Context, object, path string) (string, error) {
	return kubectl(ctx, "-n", "shop", "get", object, "-o", "jsonpath="+path)
}

// becomes waits until a field is as wanted.
func becomes(t *testing.T, object, path, want string) {
	t.Helper()
	eventually(t, object+" to become "+want, func(ctx context.Context) error {
		got, err := read(ctx, object, path)
		if err == nil && got != want {
			err = fmt.Errorf("%s is %q", path, got)
		}
		return err
	})
}

const spare = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: spare, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
  infrastructure: {parametersRef: {group: "", kind: ConfigMap, name: spare}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: spare, namespace: shop}
data: {deployment: "spec: {template: {spec: {terminationGracePeriodSeconds: SECONDS}}}"}
`

// What is written down for a waypoint's Deployment is kept to when it changes.
func TestWaypointChanges(t *testing.T) {
	for _, seconds := range []string{"30", "3"} {
		with(t, strings.ReplaceAll(spare, "SECONDS", seconds))
		becomes(t, "deployment/spare", "{.spec.template.spec.terminationGracePeriodSeconds}", seconds)
	}
}

func TestRemoveAddWaypoint(t *testing.T) {
	client.around(t, "http://direct.shop/")
	for range 2 {
		label(t, "service/direct", "istio.io/use-waypoint=waypoint", "istio.io/use-waypoint-")
		eventually(t, "the waypoint to be gone through", func(ctx context.Context) error {
			answer, err := client.ask(ctx, "http://direct.shop/")
			if err == nil && (answer.status() != 200 || !answer.looked()) {
				err = fmt.Errorf("%s", answer.text)
			}
			return err
		})
		client.through(t, "waypoint", "http://direct.shop/")
		must(t, "-n", "shop", "label", "service/direct", "istio.io/use-waypoint-")
		client.around(t, "http://direct.shop/")
	}
}

// A service that names a waypoint that isn't there is refused rather than served without, and says why.
func TestBogusUseWaypoint(t *testing.T) {
	label(t, "service/direct", "istio.io/use-waypoint=bogus", "istio.io/use-waypoint-")
	client.gets(t, 0, "http://direct.shop/")
	const bound = `{.status.conditions[?(@.type=="istio.io/WaypointBound")].`
	becomes(t, "service/direct", bound+"status}", "False")
	if why, err := read(t.Context(), "service/direct", bound+"message}"); err != nil || !strings.Contains(why, "bogus") {
		t.Errorf("it says %q %v", why, err)
	}
	must(t, "-n", "shop", "label", "service/direct", "istio.io/use-waypoint-")
	client.around(t, "http://direct.shop/")
}

func TestWaypointStatus(t *testing.T) {
	becomes(t, "service/echo", `{.status.conditions[?(@.type=="istio.io/WaypointBound")].status}`, "True")
	const accepted = `{.status.conditions[?(@.type=="Accepted")].status}`
	becomes(t, "gatewayclass/istio-waypoint", accepted, "True")
	if text, err := read(t.Context(), "gatewayclass/istio-waypoint", "{.status.supportedFeatures[*].name}"); err != nil || !slices.IsSorted(strings.Fields(text)) || !strings.Contains(text, "MeshConsumerRoute") {
		t.Errorf("supported features %q %v", text, err)
	}
	must(t, "delete", "gatewayclass", "istio-waypoint")
	becomes(t, "gatewayclass/istio-waypoint", accepted, "True")
	client.through(t, "waypoint", "http://echo.shop/")
}
