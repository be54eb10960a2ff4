package push

import (
	"context"
	"time"
)

// gate lets a few streams in at a time, each for a while.
type gate chan struct{}

// enter waits for a place for so long at most, and holds it for so long at most. The timer gives the place back; it is nil without one.
func (g gate) enter(ctx context.Context, wait, hold time.Duration) *time.Timer {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case g <- struct{}{}:
		return time.AfterFunc(hold, func() { <-g })
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// leave gives a place back, if there is one.
func (g gate) leave(place *time.Timer) {
	if place != nil && place.Stop() {
		<-g
	}
}
