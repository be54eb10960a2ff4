package serve

import (
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/route"
)

func TestADestinationHasRoomForSoManyRequestsAndRetries(t *testing.T) {
	h := &Handler{usages: map[route.Destination]*usage{}}
	web := route.Destination{Service: "shop/web", Port: 80}
	var all []*usage
	for range maxActive {
		all = append(all, h.enter(web))
	}
	if all[maxActive-1] == nil || h.enter(web) != nil {
		t.Errorf("%d requests fit, or one more", maxActive)
	}
	if h.enter(route.Destination{Service: "shop/web", Port: 81}) == nil {
		t.Error("another port has no room")
	}
	u := all[0]
	for range maxActive / retryShare {
		if !u.mayRetry() {
			t.Fatalf("no retry after %d of %d requests", u.retrying, u.active)
		}
		u.retrying++
	}
	if u.mayRetry() {
		t.Errorf("%d of %d requests are tried again, and one more may be", u.retrying, u.active)
	}
	for range maxActive / retryShare {
		(&request{usage: u, retrying: true}).retried()
	}
	for range all {
		h.exit(u)
	}
	if u.active != 0 || u.retrying != 0 || !u.mayRetry() {
		t.Errorf("at the end %d are under way, %d tried again", u.active, u.retrying)
	}
}
