// Package enroll follows the node agent's list of pods: it is the client of the ZDS protocol, by which pods come with
// their network namespaces, and go.
package enroll

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

const (
	defaultRetry  = 5 * time.Second
	writeTimeout  = 5 * time.Second
	firstDial     = 10 * time.Millisecond // after the socket isn't there
	firstAnnounce = 5 * time.Millisecond  // after the agent takes the connection but not the hello
	longestWait   = 15 * time.Second
)

// Pod is a pod as the agent describes it. Its description never changes; a changed pod is another one.
type Pod struct {
	UID                             string // Kubernetes' uid
	Name, Namespace, ServiceAccount string
	Netns                           *socket.Netns
	Resolver                        *Resolver // nil if the agent doesn't tell
	// Given are the listeners of an earlier ztunnel, to be accepted from in the place of new ones. Who uses one takes it out.
	Given socket.Given
}

// Resolver is what a pod's own resolv.conf says, as the agent read it.
type Resolver struct {
	Nameservers, Searches []string
	Ndots                 int
}

// Status is how far the pods are. Pending ones couldn't be started and are tried again; the receiver must leave their Netns
// alone.
type Status struct {
	Ready   bool // connected, snapshot complete, nothing pending
	Active  int
	Pending []Pod // in the order of their uids
}

// Config says who takes the pods. All fields but Status and Retry are required. The functions are called one at a time.
type Config struct {
	Socket string          // path of the agent's socket
	Start  func(Pod) error // returns when the pod's listeners are open; takes Pod.Netns over unless it fails
	Stop   func(uid string)
	// Share returns duplicates of a running pod's listeners, for the agent to keep and give to the next ztunnel.
	Share func(uid string) (socket.Given, error)
	// Leave tells the peers of a running pod's tunnels that it ends, and returns when they know; Stop follows.
	Leave  func(uid string)
	Status func(Status)
	// Started is when this process did, by handover.Now.
	Started time.Duration
	DNS     bool // DNS questions are answered in the pods, which the agent is told
	Log     *slog.Logger
	Retry   time.Duration // how often pods that couldn't be started are tried again; 0 means 5 s
}

// Run follows the agent until ctx ends, and reconnects for as long. What runs then goes on running. An error means that
// the agent broke the protocol: the process should end and begin anew.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Status == nil {
		cfg.Status = func(Status) {}
	}
	if cfg.Retry == 0 {
		cfg.Retry = defaultRetry
	}
	c := &client{cfg: cfg, pods: newPods(cfg)}
	defer c.pods.dropPending()
	dialWait, announceWait := backoff{first: firstDial}, backoff{first: firstAnnounce}
	for ctx.Err() == nil {
		conn, err := dial(ctx, cfg.Socket)
		if err != nil {
			cfg.Log.Warn("node agent is not there", "err", err)
			dialWait.wait(ctx)
			continue
		}
		dialWait.reset()
		requests, err := c.follow(ctx, conn)
		switch {
		case errors.Is(err, errProtocol):
			return err
		case requests > 0:
			announceWait.reset()
			cfg.Log.Info("reconnect to the node agent", "err", err)
		default:
			announceWait.wait(ctx) // whoever hangs up without a word must not make us spin
		}
	}
	return nil
}

func dial(ctx context.Context, path string) (*net.UnixConn, error) {
	dialer := net.Dialer{Timeout: writeTimeout}
	conn, err := dialer.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// client is one conversation after the other.
type client struct {
	cfg     Config
	pods    *pods
	retryAt time.Time // zero while nothing is pending
}

// follow talks to the agent until the connection ends, and returns how many requests it answered.
func (c *client) follow(ctx context.Context, conn *net.UnixConn) (requests int, err error) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer func() { c.report(false) }()
	conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := hello(conn, c.cfg.Started, c.cfg.DNS); err != nil {
		return 0, fmt.Errorf("announce: %w", err)
	}
	c.cfg.Log.Info("connected to the node agent", "socket", c.cfg.Socket)
	c.pods.connected()
	for {
		c.report(true)
		answered, err := c.answer(conn)
		switch {
		case err != nil:
			return requests, err
		case answered:
			requests++
		default:
			c.pods.retry()
			c.retryAt = time.Time{}
		}
	}
}

// answer handles one request, or returns false when it is time to retry instead. An error ends the connection.
func (c *client) answer(conn *net.UnixConn) (answered bool, err error) {
	conn.SetReadDeadline(c.nextRetry())
	packet, err := read(conn)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false, nil
	case errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed):
		return false, err
	}
	failure := err
	var along socket.Given
	if err == nil {
		along, failure = c.pods.handle(packet)
	}
	defer func() { along.Close() }()
	if failure != nil {
		c.cfg.Log.Error("request of the node agent failed", "err", failure)
	}
	conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := ack(conn, failure, along); err != nil && !errors.Is(failure, errProtocol) {
		return false, fmt.Errorf("acknowledge: %w", err)
	}
	if err != nil || errors.Is(failure, errProtocol) {
		return false, failure
	}
	return true, nil
}

// nextRetry is the read deadline: none while nothing is pending.
func (c *client) nextRetry() time.Time {
	switch {
	case len(c.pods.pending) == 0:
		c.retryAt = time.Time{}
	case c.retryAt.IsZero():
		c.retryAt = time.Now().Add(c.cfg.Retry)
	}
	return c.retryAt
}

func (c *client) report(connected bool) {
	c.cfg.Status(Status{Ready: connected && c.pods.ready(), Active: len(c.pods.running), Pending: c.pods.waiting()})
}

// backoff doubles from first to the longest wait, and varies by a fifth so that nodes don't move in step.
type backoff struct {
	first, next time.Duration
}

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) wait(ctx context.Context) {
	b.next = min(max(2*b.next, b.first), longestWait)
	timer := time.NewTimer(time.Duration(float64(b.next) * (0.8 + 0.4*rand.Float64())))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
