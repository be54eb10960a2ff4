package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
)

// typeURLs are what a client subscribes to.
var typeURLs = []string{delta.Authorization, delta.Address}

// client is a scripted proxy.
type client struct {
	number   int
	identity delta.Identity
	handle   func(client int, r *delta.Response)

	conn *grpc.ClientConn
	stop context.CancelFunc
	done chan struct{}
	err  error // why it ended; read after done

	bytes     atomic.Int64 // of messages received
	messages  atomic.Int64
	resources atomic.Int64
	answered  map[string]bool // of the goroutine that receives
	complete  chan struct{}   // closed once every type was answered
}

// fleet is a number of clients.
type fleet []*client

// identities are those of the proxies of so many nodes.
func (b *bench) identities(ctx context.Context) error {
	b.proxies = make([]delta.Identity, b.clients)
	return inParallel(ctx, b.clients, func(ctx context.Context, i int) error {
		token, err := b.server.Token(ctx, apiserver.Token{Namespace: system, Account: proxies, Pod: proxyName(i), Audiences: []string{"istio-ca"}})
		b.proxies[i] = delta.Identity{Pod: proxyName(i), Namespace: system, Account: proxies, Node: nodeName(i), Token: token}
		return err
	})
}

// connect starts clients, all at once. What they have already is shared by all.
func (b *bench) connect(ctx context.Context, c *control, numbers []int, have map[string]delta.Versions, handle func(int, *delta.Response)) (fleet, error) {
	var all fleet
	for _, number := range numbers {
		conn, err := b.dial(c)
		if err != nil {
			return all, err
		}
		each := &client{number: number, identity: b.proxies[number], handle: handle, conn: conn, done: make(chan struct{}), answered: map[string]bool{}, complete: make(chan struct{})}
		var running context.Context
		running, each.stop = context.WithCancel(ctx)
		all = append(all, each)
		go each.run(running, have)
	}
	return all, nil
}

// run keeps a stream, and opens it again when it ends before anything came: the control plane may not be ready.
func (c *client) run(ctx context.Context, have map[string]delta.Versions) {
	defer close(c.done)
	for {
		stream, err := delta.Open(ctx, c.conn, c.identity)
		if err == nil {
			err = stream.Run(have, typeURLs, c.take)
		}
		c.err = err
		if ctx.Err() != nil || c.messages.Load() > 0 {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

func (c *client) take(r *delta.Response) {
	c.bytes.Add(int64(r.Bytes))
	c.messages.Add(1)
	c.resources.Add(int64(len(r.Resources)))
	if c.handle != nil {
		c.handle(c.number, r)
	}
	if !c.answered[r.TypeURL] {
		c.answered[r.TypeURL] = true
		if len(c.answered) == len(typeURLs) {
			close(c.complete)
		}
	}
}

// stuck connects a client that asks for everything and never reads, and again when it was thrown out.
func (b *bench) stuck(ctx context.Context, c *control, number int) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	conn, err := b.dial(c)
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close()
		for ctx.Err() == nil {
			stuckOnce(ctx, conn, b.proxies[number])
		}
	}()
	return func() { cancel(); <-done }, nil
}

func stuckOnce(ctx context.Context, conn *grpc.ClientConn, identity delta.Identity) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := delta.Open(ctx, conn, identity)
	for _, typeURL := range typeURLs {
		if err == nil {
			err = stream.Subscribe(typeURL, nil)
		}
	}
	if err != nil {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
		return
	}
	<-ctx.Done()
}

// patience is how long the control plane waits for a client that doesn't read. gRPC doesn't tell such a one of its stream's end.
const patience = 30 * time.Second

// settled waits until every client has had an answer about every type.
func (f fleet) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for _, c := range f {
		select {
		case <-c.complete:
		case <-c.done:
			return fmt.Errorf("client %d: %w", c.number, c.err)
		case <-ctx.Done():
			return fmt.Errorf("client %d has no answer: %w", c.number, errors.Join(context.Cause(ctx)))
		}
	}
	return nil
}

// holding waits until every client was sent so many resources in all.
func (f fleet) holding(ctx context.Context, resources int64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for _, c := range f {
		for c.resources.Load() < resources {
			select {
			case <-time.After(time.Millisecond):
			case <-c.done:
				return fmt.Errorf("client %d: %w", c.number, c.err)
			case <-ctx.Done():
				return fmt.Errorf("client %d was sent %d of %d resources: %w", c.number, c.resources.Load(), resources, context.Cause(ctx))
			}
		}
	}
	return nil
}

// lost is an error if a client has lost its stream.
func (f fleet) lost() error {
	for _, c := range f {
		select {
		case <-c.done:
			return fmt.Errorf("client %d lost its stream: %w", c.number, c.err)
		default:
		}
	}
	return nil
}

func (f fleet) received() (bytes, messages int64) {
	for _, c := range f {
		bytes += c.bytes.Load()
		messages += c.messages.Load()
	}
	return bytes, messages
}

func (f fleet) close() {
	var group sync.WaitGroup
	for _, c := range f {
		group.Go(func() {
			c.stop()
			<-c.done
			c.conn.Close()
		})
	}
	group.Wait()
}

// through counts up.
func through(from, to int) []int {
	var numbers []int
	for i := from; i < to; i++ {
		numbers = append(numbers, i)
	}
	return numbers
}
