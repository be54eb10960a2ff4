package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// askedIn is a service with a waypoint in a namespace of that name, so that tests can have one at the same time.
func askedIn(namespace string) string { return strings.ReplaceAll(asked, "asked", namespace) }

// A service gets a waypoint and loses it again, while a client calls it.
func TestAServiceGetsAndLosesItsWaypointUnderLoad(t *testing.T) {
	t.Parallel()
	with(t, strings.Replace(askedIn("gaining"), ", istio.io/use-waypoint: waypoint", "", 1))
	must(t, "-n", "gaining", "wait", "--for=condition=Programmed", "gateway/waypoint", "--timeout=90s")
	if err := settled(t.Context(), "gaining"); err != nil {
		t.Fatal(err)
	}
	direct := []string{`reporter="destination"`, from("meshed", "client"), to("gaining", "server"), byTunnel}
	byWaypoint := []string{`reporter="destination"`, from("gaining", "waypoint"), to("gaining", "server"), byTunnel}
	result := loadOf(t, "meshed", "client", "http://server.gaining/", func() {
		keepsCounting(t, nodes[1], direct...)
		must(t, "-n", "gaining", "label", "service", "server", "istio.io/use-waypoint=waypoint")
		// The waypoint keeps its tunnels' streams for many requests, so its own count tells.
		eventually(t, "requests at the waypoint", func(ctx context.Context) error {
			text, err := through(ctx, "gaining", "deployment/waypoint", 15020, "/stats/prometheus")
			if err == nil && !strings.Contains(text, `istio_requests_total{reporter="waypoint"`) {
				err = errors.New("none were counted")
			}
			return err
		})
		if opened, err := opened(t.Context(), nodes[1], byWaypoint...); err != nil || opened == 0 {
			t.Errorf("the waypoint has opened %d connections to the server (%v)", opened, err)
		}
		must(t, "-n", "gaining", "label", "service", "server", "istio.io/use-waypoint-")
		keepsCounting(t, nodes[1], direct...)
	})
	if result.Failed > 0 {
		t.Errorf("%d of %d requests failed: %+v", result.Failed, result.Requests, result.Failures)
	}
}

// Requests are shared out by a waypoint, not connections: nearly all of these are of one.
func TestAWaypointSharesTheRequestsOfOneConnection(t *testing.T) {
	t.Parallel()
	const second = `{apiVersion: v1, kind: Pod, metadata: {name: second, namespace: sharing, labels: {app: server}}, spec: {nodeName: FIRST, serviceAccountName: server,
		terminationGracePeriodSeconds: 1, containers: [{name: app, image: "docker.io/tulle-mesh/app:dev", imagePullPolicy: IfNotPresent, args: [serve]}]}}`
	with(t, askedIn("sharing"))
	with(t, second)
	must(t, "-n", "sharing", "wait", "--for=condition=Programmed", "gateway/waypoint", "--timeout=90s")
	if err := settled(t.Context(), "sharing"); err != nil {
		t.Fatal(err)
	}
	start(t, "meshed", "client", "http://server.sharing/", 1, 1)
	var share [2]int
	eventually(t, "100 requests", func(ctx context.Context) error {
		for i, pod := range []string{"server", "second"} {
			log, err := kubectl(ctx, "-n", "sharing", "logs", pod)
			if err != nil {
				return err
			}
			share[i] = strings.Count(log, "GET / from")
		}
		if share[0]+share[1] < 100 {
			return fmt.Errorf("there were %d", share)
		}
		return nil
	})
	result := stop(t, "meshed", "client", "http://server.sharing/")
	if result.Failed > 0 || result.Dialled != 1 {
		t.Errorf("%+v", result)
	}
	if least := (share[0] + share[1]) / 4; min(share[0], share[1]) < least {
		t.Errorf("the pods had %d requests, want %d each at least", share, least)
	}
}
