package serve

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// end is step 5.
func (r *request) end() {
	r.ended = true
	h := r.session.handler
	h.cfg.Worker.Stop(&r.clock)
	h.cfg.Worker.Stop(&r.pause)
	if r.usage != nil {
		r.retried()
		h.exit(r.usage)
	}
	took := time.Since(r.start)
	kind := r.kind()
	counts := r.session.count(&kind)
	counts.Ended(took, r.body.total, r.sent)
	if r.grpc {
		counts.Messages(r.asked.count, r.told.count)
	}
	r.span(&kind, took)
	h.cfg.Access.Request(&telemetry.RequestLine{
		Kind: &kind, Start: r.start, Took: took, Received: r.body.total, Sent: r.sent, Client: r.session.client, Server: r.endpoint.Addr,
		Method: r.head.Method, Path: r.head.Path, Authority: r.head.Authority, Fields: r.fields, Route: r.route(), Policy: r.policy, Details: r.details, Tries: r.tries,
	})
}

// kind is what the request is counted by.
func (r *request) kind() telemetry.RequestKind {
	k := telemetry.RequestKind{
		Source: r.session.source, MTLS: true, GRPC: r.grpc, Code: r.code, GRPCStatus: r.grpcStatus, Flags: r.flags,
		Destination: describe.Peer(r.endpoint.Workload),
	}
	svc := r.choice.Service
	if svc == nil {
		svc = r.session.to.Service
	}
	if svc != nil {
		k.Service, k.ServiceNamespace, k.ServiceName = svc.Hostname, svc.Namespace, svc.Name
	}
	return k
}

// route is the one that decided, or "".
func (r *request) route() string {
	if !r.routed {
		return ""
	}
	return r.hit.Route
}

// fields are those of the request's head that the log tells.
func (r *request) fields(name string) string {
	for i := range r.head.Fields {
		if r.head.Fields[i].Name == name {
			return r.head.Fields[i].Value
		}
	}
	return ""
}

// newID makes a random id (RFC 9562, version 4).
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	var text [36]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
