package xds

import (
	"context"
	"errors"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// sender sends the requests of one stream, so that reading never waits for writing: a server that is busy writing a
// large push may not read before we do.
type sender struct {
	ctx   context.Context // of the stream
	queue chan *discoveryv3.DeltaDiscoveryRequest
	done  chan struct{} // closed when nothing will be sent any more
}

// newSender sends until ctx ends or the stream fails.
func newSender(ctx context.Context, stream deltaStream) *sender {
	s := &sender{ctx: ctx, queue: make(chan *discoveryv3.DeltaDiscoveryRequest, unsent), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for {
			select {
			case request := <-s.queue:
				if stream.Send(request) != nil {
					return // Recv tells why
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

// send queues a request. It waits while the queue is full.
func (s *sender) send(request *discoveryv3.DeltaDiscoveryRequest) error {
	select {
	case s.queue <- request:
		return nil
	default:
	}
	timeout := time.NewTimer(sendTimeout)
	defer timeout.Stop()
	select {
	case s.queue <- request:
		return nil
	case <-s.done:
		return nil // Recv tells why
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-timeout.C:
		return errors.New("the control plane does not read our requests")
	}
}

// wait returns when the goroutine has ended, which it does once ctx has.
func (s *sender) wait() { <-s.done }
