// Package inbound takes the connections that arrive for a pod, through tunnels or in plain text: it decides whether they
// may pass, then brings them to the application.
//
// The steps of an arrival, in order; each is one function:
//
//  1. self      the pod as the control plane describes it, waited for if need be     Config.Self
//  2. validate  that a tunnelled connection is really meant for this pod             target.go
//  3. resolve   which port of the application it wants                               target.go
//  4. admit     registered for the life of the connection, then policy is asked      admit.go
//  5. dial      the application, with the client's address as the source             dial.go
//  6. accept    the tunnel's CONNECT is answered, only now                           tunnel.go
//  7. relay     bytes both ways; no goroutine of ours is left                        flow.join
//
// Plain-text arrivals skip 2, 3 and 6. Nothing is cached. A connection that has passed is asked again at step 4 whenever
// the state of the mesh changes, and cut when the answer did.
package inbound

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// decisionTimeout bounds everything between the arrival and the relay; Self and the dial have shorter limits of their own.
const decisionTimeout = 20 * time.Second

// pendingTimeout is how long an arrival waits for a policy that its pod is said to have, but that isn't known.
const pendingTimeout = 2 * time.Second

// Config is what the arrivals of one pod need. All fields are required.
type Config struct {
	// Self returns the pod as the control plane describes it. It waits a little for that, then fails: without its
	// policies nothing can be let in.
	Self  func(context.Context) (*state.Workload, error)
	Known func(*state.Table) *state.Workload // Self without waiting: nil if the table hasn't the pod
	Table func() *state.Table
	// Learn waits until the table has what is needed to tell whether a tunnel's connection is for the pod.
	Learn func(ctx context.Context, self *state.Workload, local netip.Addr, asked hbone.Authority) error
	// Wait returns when a table fulfils the condition, or with an error when ctx ends before.
	Wait func(ctx context.Context, done func(*state.Table) bool) (*state.Table, error)
	// Dial connects from inside the pod; source is the zero AddrPort, or an address to appear from, with a port or 0.
	Dial     func(ctx context.Context, to, source netip.AddrPort) (*net.TCPConn, error)
	Network  string // ours
	Baggage  bool   // describe the pod to its peers
	Loopback bool   // an application that wants PROXY headers listens on loopback only
	SOCKS    bool   // the pod is served SOCKS5
	Registry *capture.Registry
	Metrics  *telemetry.Metrics
	Log      *slog.Logger
	Policies slog.Level // at which decisions about policies are logged
}

// Handler takes the arrivals of one pod.
type Handler struct{ cfg Config }

// New makes a handler.
func New(cfg Config) *Handler { return &Handler{cfg: cfg} }

// HandlePlain takes over a connection that arrived in plain text, and returns when it is relayed or refused. ctx ends
// when the pod stops.
func (h *Handler) HandlePlain(ctx context.Context, conn capture.Conn) {
	ctx, cancel := context.WithTimeout(ctx, decisionTimeout)
	defer cancel()
	to := conn.Original.AddrPort
	a := arrival{client: conn.Client.AddrPort, target: target{AddrPort: to, dial: to}, accepted: to}
	if capture.Illegal(a.target.Port(), h.cfg.SOCKS) {
		conn.Refuse()
		h.refuse(a, telemetry.FlagConnect, errIllegalPort)
		return
	}
	self, err := h.cfg.Self(ctx)
	if err != nil {
		conn.Refuse()
		h.refuse(a, telemetry.FlagConnect, err)
		return
	}
	a.self = self
	f, err := h.admit(ctx, a)
	if err != nil {
		conn.Refuse()
		h.refuse(a, flag(err), err)
		return
	}
	app, err := h.dialFor(f)
	if err != nil {
		conn.Refuse()
		f.fail(telemetry.FlagConnect, err)
		return
	}
	f.join(func(done func(relay.Result)) *relay.Session { return relay.Join(app, conn.TCPConn, done) })
}

// refuse counts and logs an arrival that was turned away before it was admitted.
func (h *Handler) refuse(a arrival, flag string, err error) {
	h.cfg.Metrics.Refuse(h.describe(a), flag, err)
}

// join lets a relay begin whose first side is the application.
func (f *flow) join(begin func(done func(relay.Result)) *relay.Session) {
	var result relay.Result
	ended := capture.AfterBoth(func() { f.end(result.Err) })
	session := begin(func(r relay.Result) { result = r; ended() })
	f.metric.Follow(session.Counts)
	f.entry.OnCut(session.Cut)
	ended()
}

// end is called when the relay is over.
func (f *flow) end(err error) {
	flag := telemetry.FlagNone
	if errors.As(err, new(*deniedError)) {
		flag = telemetry.FlagDenied
	}
	f.fail(flag, err)
}

// fail ends the flow's record.
func (f *flow) fail(flag string, err error) {
	f.cancel()
	f.metric.Close(flag, err)
	f.sockets(-1)
	f.entry.Remove()
}
