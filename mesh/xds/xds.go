// Package xds is a client of the incremental (delta) xDS protocol: one stream brings the resources of all types, and
// each push is acknowledged or refused.
package xds

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
)

const (
	// openTimeout is how long to wait for a connection before saying why there is none. The channel itself goes on
	// trying meanwhile, by its own back-off.
	openTimeout = 10 * time.Second
	// sendTimeout is how long a server may leave our requests unread.
	sendTimeout = 30 * time.Second
	// unsent is how many acknowledgements may wait to be sent.
	unsent = 16
)

// Config is what a Client subscribes to and who takes it.
type Config struct {
	// Node is who we are.
	Node *corev3.Node
	// Types are the type URLs to subscribe to, in this order, each as a whole unless it is in ByName.
	Types []string
	// ByName are the types of which only resources are wanted that Ask names, and what the server sends along with them.
	ByName []string
	// Handle takes a push, all of its resources, and returns those that it could not use, by name. It is called by Run,
	// one push at a time, and all others of the push count as taken.
	Handle func(Push) map[string]error
	// Event is told what happens to the stream, for metrics. It is called by Run and may be nil.
	Event func(Event)
	Log   *slog.Logger
}

// Push is one message of the control plane.
type Push struct {
	TypeURL   string
	Size      int                // in bytes, uncompressed
	Resources iter.Seq[Resource] // can be gone through once, while the push is handled
	Removed   []string           // names
}

// Resource is a new or changed resource.
type Resource struct {
	Name    string
	Version string
	Aliases []string // under which it can be asked for too
	Body    []byte   // the encoded message of the push's type; it is overwritten when the next resource is read
}

// Event is something that happened to the stream.
type Event struct {
	Kind    EventKind
	TypeURL string // of a push
	Bytes   int    // size of a push, uncompressed
	Err     error  // why a stream ended
}

// EventKind is the kind of an Event.
type EventKind uint8

// The kinds of events; all but Pushed are the reasons which istio_xds_connection_terminations_total counts.
const (
	Pushed          EventKind = iota // a message came
	ConnectionError                  // the stream could not be opened, or broke with its connection
	Error                            // the server refused it
	Reconnect                        // it ended in a way that is no failure of the server's
	Complete                         // the server ended it properly
)

// Client keeps a stream open. NewClient makes one.
type Client struct {
	conn   grpc.ClientConnInterface
	config Config
	ready  chan struct{}
	wishes map[string]*wishes // by type, of those in ByName

	// Run owns the following.

	// versions has the resources of each type that the server may think we hold, by name. One that was refused has no
	// version, so that a new stream brings it again, or its removal: an older one of its name may still be in force.
	versions map[string]map[string]string
	// unanswered has the types of which no push has come yet.
	unanswered map[string]bool
	// pushed tells that the stream has brought something.
	pushed bool
}

// NewClient returns a client that does nothing before Run.
func NewClient(conn grpc.ClientConnInterface, config Config) *Client {
	c := &Client{
		conn:       conn,
		config:     config,
		ready:      make(chan struct{}),
		wishes:     map[string]*wishes{},
		versions:   map[string]map[string]string{},
		unanswered: map[string]bool{},
	}
	for _, typeURL := range config.Types {
		c.versions[typeURL] = map[string]string{}
		c.unanswered[typeURL] = true
	}
	for _, typeURL := range config.ByName {
		c.wishes[typeURL] = newWishes(typeURL)
	}
	return c
}

// Ready returns a channel that is closed once a push of each type was handled.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Run keeps the stream open until ctx ends, and returns ctx's error.
func (c *Client) Run(ctx context.Context) error {
	var pause backoff
	for {
		began := time.Now()
		err := c.stream(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		kind := classify(err)
		delay := pause.after(end{kind, time.Since(began), c.pushed})
		c.event(Event{Kind: kind, Err: err})
		c.config.Log.Warn("xds stream ended", "err", err, "retry", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Client) event(e Event) {
	if c.config.Event != nil {
		c.config.Event(e)
	}
}

// stream opens one stream and serves it until it ends. The error is never nil.
func (c *Client) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.pushed = false
	stream, err := c.open(ctx, cancel)
	if err != nil {
		return err
	}
	s := newSender(ctx, stream)
	defer s.wait()
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	for i, typeURL := range c.config.Types {
		if err := s.send(c.subscription(typeURL, i == 0)); err != nil {
			return err
		}
	}
	for _, w := range c.wishes {
		following.Go(func() {
			if w.follow(s) != nil {
				cancel()
			}
		})
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		c.pushed = true
		if err := s.send(c.take(m)); err != nil {
			return err
		}
	}
}

// open waits for a connection, but not for ever, so that its absence is reported.
func (c *Client) open(ctx context.Context, cancel func()) (deltaStream, error) {
	timeout := time.AfterFunc(openTimeout, cancel)
	desc := &grpc.StreamDesc{StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true}
	stream, err := c.conn.NewStream(ctx, desc, discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName,
		grpc.WaitForReady(true), grpc.ForceCodecV2(codec{}))
	if inTime := timeout.Stop(); !inTime {
		if err == nil {
			err = context.DeadlineExceeded
		}
		return nil, &openError{fmt.Errorf("no connection to the control plane after %s: %w", openTimeout, err)}
	}
	if err != nil {
		return nil, fmt.Errorf("open stream to the control plane: %w", err)
	}
	return &grpc.GenericClientStream[discoveryv3.DeltaDiscoveryRequest, message]{ClientStream: stream}, nil
}

// deltaStream is the client's side of a stream.
type deltaStream = grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, message]

// openError says that there is no connection. The time for it is already over.
type openError struct{ err error }

func (e *openError) Error() string { return e.err.Error() }

// subscription is the first request for a type; no names mean all resources.
func (c *Client) subscription(typeURL string, first bool) *discoveryv3.DeltaDiscoveryRequest {
	request := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL}
	if w := c.wishes[typeURL]; w != nil {
		w.renew(request, c.versions[typeURL])
	} else {
		request.InitialResourceVersions = maps.Clone(c.versions[typeURL])
	}
	if first {
		request.Node = c.config.Node
	}
	return request
}
