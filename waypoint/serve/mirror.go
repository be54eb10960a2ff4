package serve

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/route"
	"github.com/tulle-mesh/tulle/waypoint/upstream"
)

const (
	// mirrorTime is how long a copy is waited for.
	mirrorTime = 15 * time.Second
	// maxMirrors is how many copies may be under way on one worker; those beyond it aren't made.
	maxMirrors = 1000
)

// mirrored is a copy that is to be made of a request.
type mirrored struct {
	to   route.Destination
	head exchange.Request // as it was when the mirror was chosen
}

// mirrors notes the copies that are to be made of the request as it is now.
func (r *request) mirrors(list []route.Mirror) {
	for i := range list {
		if list[i].Chosen(rand.Uint64()) && r.head.Upgrade == "" {
			head := *r.head
			head.Fields = slices.Clone(head.Fields)
			if r.changed(&head, list[i].Destination).Allowed {
				r.body.mirrors = append(r.body.mirrors, mirrored{list[i].Destination, head})
			}
		}
	}
}

// mirror sends the copies, when the request is complete, so that they hold nobody up. There is none of a request whose body was too long to
// be kept.
func (r *request) mirror() {
	for i := range r.body.mirrors {
		if r.body.again() && len(r.body.bytes) <= maxKept {
			r.session.handler.send(&r.body.mirrors[i], slices.Clone(r.body.bytes), r.body.trailers)
		}
	}
	r.body.mirrors = nil
}

// copied is a copy under way. What is answered to it is ignored.
type copied struct {
	handler  *Handler
	head     exchange.Request
	body     []byte
	trailers []exchange.Field
	pending  *upstream.Dialling
	server   exchange.Server
	clock    loop.Timer
	over     bool
}

func (h *Handler) send(m *mirrored, body []byte, trailers []exchange.Field) {
	table := h.cfg.Table()
	namespace, host, _ := strings.Cut(m.to.Service, "/")
	service, self := table.Service(namespace, host), h.cfg.Self(table)
	if service == nil || self == nil || h.mirrors >= maxMirrors {
		return
	}
	tls := h.cfg.Rules().BackendTLS(m.to.Service, m.to.Port)
	if tls != nil && tls.Invalid != "" {
		return
	}
	choice := upstream.Choice{Service: service, Port: m.to.Port}
	endpoint, err := choice.Next(table, self, h.known)
	if err != nil {
		return
	}
	contentType, _ := exchange.Get(m.head.Fields, "content-type")
	version := upstream.Version(service, m.to.Port, m.head.Version, isGRPC(contentType))
	c := h.copy(m.head, body, trailers)
	asked := upstream.Asked{Baggage: describe.Baggage(self), Service: service.Hostname}
	if tls != nil {
		asked.TLS = tls
		asked.Either, c.head.Scheme = upstream.Either(service, m.to.Port, isGRPC(contentType), false), "https"
	}
	if handler := h.servers.Take(&endpoint, version, &asked); handler != nil {
		c.connected(handler, nil)
		return
	}
	c.pending = h.servers.Dial(&endpoint, version, asked, c.connected)
}

// copy begins one, which ends in time whatever becomes of it.
func (h *Handler) copy(head exchange.Request, body []byte, trailers []exchange.Field) *copied {
	c := &copied{handler: h, head: head, body: body, trailers: trailers}
	c.head.Length = int64(len(body))
	c.clock.Run = func() { c.end(errTimeout) }
	h.mirrors++
	h.cfg.Worker.After(&c.clock, mirrorTime)
	return c
}

func (c *copied) connected(handler exchange.Handler, err error) {
	c.pending = nil
	if err != nil {
		c.end(err)
		return
	}
	c.server = handler(&c.head, c)
	if len(c.body) > 0 {
		c.server.Data(c.body)
	}
	if !c.over {
		c.server.End(c.trailers)
	}
}

// end lets go of the copy; err is nil if it was answered.
func (c *copied) end(err error) {
	if c.over {
		return
	}
	c.over = true
	c.handler.mirrors--
	c.handler.cfg.Worker.Stop(&c.clock)
	switch {
	case c.pending != nil:
		c.pending.Cancel()
	case c.server != nil && err != nil:
		c.server.Abort(err)
	}
}

// Inform implements exchange.Client.
func (c *copied) Inform(*exchange.Response) {}

// Respond implements exchange.Client.
func (c *copied) Respond(*exchange.Response) {}

// Data implements exchange.Client.
func (c *copied) Data(p []byte) {
	if !c.over {
		c.server.Consumed(len(p))
	}
}

// End implements exchange.Client.
func (c *copied) End([]exchange.Field) { c.end(nil) }

// Abort implements exchange.Client.
func (c *copied) Abort(error) { c.end(nil) }

// Consumed implements exchange.Client.
func (c *copied) Consumed(int) {}
