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
//  7. relay     bytes both ways                                                      flow.join
//
// Plain-text arrivals skip 2, 3 and 6. Nothing is cached. A connection that has passed is asked again at step 4 whenever
// the state of the mesh changes, and cut when the answer did.
package inbound

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/demand"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// decisionTimeout bounds everything between the arrival and the relay; Self and the dial have shorter limits of their own.
const decisionTimeout = 20 * time.Second

// pendingTimeout is how long an arrival waits for a policy that its pod is said to have, but that isn't known.
const pendingTimeout = 2 * time.Second

// Config is what the arrivals of one pod need. All fields but Demand are required.
type Config struct {
	// Self returns the pod as the control plane describes it. It waits a little for that, then fails: without its
	// policies nothing can be let in.
	Self  func(context.Context) (*state.Workload, error)
	Known func(*state.Table) *state.Workload // Self without waiting: nil if the table hasn't the pod
	Table func() *state.Table
	// Demand learns what the table lacks to tell whether a tunnel's connection is for the pod; nil where it has everything.
	Demand *demand.Cache
	// Wait returns when a table fulfils the condition, or with an error when ctx ends before.
	Wait func(ctx context.Context, done func(*state.Table) bool) (*state.Table, error)
	// Dial connects from inside the pod as worker.Dial does; source is the zero AddrPort, or an address to appear from, with a
	// port or 0.
	Dial     func(w *worker.Worker, to, source netip.AddrPort, done func(fd int, err error)) (*worker.Dialling, error)
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

// HandlePlain takes over a connection that arrived in plain text, on its worker. ctx ends when the pod stops.
func (h *Handler) HandlePlain(ctx context.Context, conn capture.Conn) {
	to := conn.Original.AddrPort
	f := &flow{
		arrival: arrival{client: conn.Client.AddrPort, target: target{AddrPort: to, dial: to}, accepted: to},
		handler: h, worker: conn.Worker, conn: conn,
	}
	if capture.Illegal(f.target.Port(), h.cfg.SOCKS) {
		f.fail(errIllegalPort)
		return
	}
	f.start(ctx)
}

// joinPlain is step 7 for a connection in plain text.
func (f *flow) joinPlain(app int) {
	f.conn.Decided()
	f.join(relay.Join(f.worker.Loop, app, f.conn.FD, f.over))
}
