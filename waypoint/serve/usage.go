package serve

import "github.com/tulle-mesh/tulle/waypoint/route"

const (
	// maxActive is how many requests to one destination may be under way on one worker.
	maxActive = 10_000
	// maxPending is how many of them may wait for connections that aren't there yet: each may be a socket.
	maxPending = 2_000
	// Of the requests under way to a destination, a fifth may be tried again, and three in any case: retries must not be what keeps it down.
	retryShare, leastRetries = 5, 3
	// maxUsages is how many destinations are remembered without a request.
	maxUsages = 1000
)

// usage counts the requests to one destination.
type usage struct {
	to       route.Destination
	active   int
	pending  int
	retrying int
}

// enter counts a request, unless there are too many.
func (h *Handler) enter(to route.Destination) *usage {
	u := h.usages[to]
	if u == nil {
		u = &usage{to: to}
		h.usages[to] = u
	}
	if u.active >= maxActive {
		return nil
	}
	u.active++
	return u
}

func (h *Handler) exit(u *usage) {
	if u.active--; u.active == 0 && len(h.usages) > maxUsages {
		delete(h.usages, u.to)
	}
}

func (u *usage) mayRetry() bool { return u.retrying < max(leastRetries, u.active/retryShare) }
