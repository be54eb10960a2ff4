package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
)

const (
	// askers ask for certificates at the same time, each on a connection of its own.
	askers = 16
	// unseen is how many certificates are asked for with tokens that were never seen before.
	unseen = 3000
	// asking is for how long certificates are asked for.
	asking = 5 * time.Second
)

// certificates measures how many are signed in a second: for callers that come again and again, and for those that come for
// the first time.
func (b *bench) certificates(ctx context.Context, c *control) error {
	signed, took, err := b.sign(ctx, c, b.proxies)
	if err != nil {
		return err
	}
	b.set(certsCached, float64(signed)/took.Seconds())

	strangers := make([]delta.Identity, unseen)
	err = inParallel(ctx, unseen, func(ctx context.Context, i int) (err error) {
		strangers[i] = b.proxies[i%b.clients]
		strangers[i].Token, err = b.server.Token(ctx, apiserver.Token{Namespace: system, Account: proxies, Pod: strangers[i].Pod, Audiences: []string{"istio-ca"}})
		return err
	})
	if err != nil {
		return err
	}
	signed, took, err = b.sign(ctx, c, strangers)
	if err != nil {
		return err
	}
	b.set(certsReviewed, float64(min(signed, unseen))/took.Seconds())
	return nil
}

// sign asks for certificates in the name of each of the callers, round and round while there is time, or once around if that
// takes longer. It returns how many were signed in which time.
func (b *bench) sign(ctx context.Context, c *control, callers []delta.Identity) (int, time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := delta.Request()
	if err != nil {
		return 0, 0, err
	}
	var next atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for range askers {
		conn, err := b.dial(c)
		if err != nil {
			return 0, 0, err
		}
		defer conn.Close()
		group.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1) - 1)
				if i >= len(callers) && (len(callers) == unseen || time.Since(began) > asking) {
					next.Add(-1)
					return
				}
				if err := b.ask(ctx, conn, callers[i%len(callers)], i, request); err != nil {
					cancel(fmt.Errorf("ask for certificate %d: %w", i, err))
				}
			}
		})
	}
	group.Wait()
	return int(next.Load()), time.Since(began), context.Cause(ctx)
}

// ask asks for the certificate of one of the pods on a caller's node.
func (b *bench) ask(ctx context.Context, conn *grpc.ClientConn, caller delta.Identity, i int, request string) error {
	node := (i % len(b.proxies)) // callers are in the order of their nodes, again and again
	pod := node + b.size.nodes*(i/len(b.proxies)%(b.size.pods/b.size.nodes))
	identity := "spiffe://cluster.local/ns/" + b.size.namespace(pod) + "/sa/" + serviceName(b.size.service(pod))
	_, err := caller.Sign(ctx, conn, request, identity)
	return err
}
