// Package xds is a client of the incremental (delta) xDS protocol: one stream brings the resources of all types, and
// each push is acknowledged or refused.
package xds

import (
	"context"
	"log/slog"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
)

// Config is what a Client subscribes to and who takes it.
type Config struct {
	// Node is who we are.
	Node *corev3.Node
	// Types are the type URLs to subscribe to, in this order, each as a whole.
	Types []string
	// Handle takes a push and returns the resources that it could not use, by name. It is called by Run, one push at a
	// time, and all other resources of the push count as taken.
	Handle func(Push) map[string]error
	// Event is told what happens to the stream, for metrics. It is called by Run and may be nil.
	Event func(Event)
	Log   *slog.Logger
}

// Push is one message of the control plane.
type Push struct {
	TypeURL   string
	Resources []Resource
	Removed   []string // names
}

// Resource is a new or changed resource.
type Resource struct {
	Name    string
	Version string
	Body    []byte // the encoded message of the push's type
}

// Event is something that happened to the stream.
type Event struct {
	Kind    EventKind
	TypeURL string // of a push
	Bytes   int    // size of a push on the wire, uncompressed
	Err     error  // why a stream ended
}

// EventKind is the kind of an Event.
type EventKind uint8

// The kinds of events, and for ends of streams the reasons that istio_xds_connection_terminations_total counts.
const (
	Pushed          EventKind = iota // a message came
	ConnectionError                  // the stream could not be opened or broke with its connection
	Reconnect                        // the server or a proxy between ended it in a way that calls for opening it anew at once
	Error                            // any other error
	Complete                         // the server ended it properly
)

// Client keeps a stream open. Its zero value is of no use; NewClient makes one.
type Client struct {
	ready chan struct{}
}

// NewClient returns a client that does nothing before Run.
func NewClient(conn grpc.ClientConnInterface, config Config) *Client {
	return &Client{ready: make(chan struct{})}
}

// Run keeps the stream open until ctx ends, and returns ctx's error.
func (c *Client) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Ready returns a channel that is closed once a push of each type was handled.
func (c *Client) Ready() <-chan struct{} { return c.ready }
