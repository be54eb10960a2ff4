package serve

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/waypoint/authz"
)

// deniedError says which policy stands against a connection that isn't looked into.
type deniedError struct{ reason string }

func (e *deniedError) Error() string { return "refused by policy: " + e.reason }

// facts are what policies know of the connection; the server name is "" where none is known.
func (c *connection) facts(serverName string) *authz.Connection {
	return authz.NewConnection(c.in.Peer, c.in.Remote.Addr(), netip.AddrPortFrom(c.to.Dialled, c.to.Port), serverName)
}

// admit asks the policies about a connection that isn't looked into.
func (h *Handler) admit(service string, port uint16, facts *authz.Connection, namespace string) error {
	verdict := authz.Evaluate(h.cfg.Rules().Lookup(service, port, namespace).Policies, authz.Facts{Connection: facts, Remote: facts.Source})
	if !verdict.Allowed {
		return &deniedError{verdict.Reason}
	}
	return nil
}

// opaque is an open connection that isn't looked into. It is asked about again when the rules change.
type opaque struct {
	service, namespace string
	port               uint16
	facts              *authz.Connection
	session            *relay.Session
}

// Recheck asks the policies about all such connections again, and cuts those that aren't allowed any more.
func (h *Handler) Recheck() {
	for o := range h.opaque {
		if err := h.admit(o.service, o.port, o.facts, o.namespace); err != nil {
			o.session.Cut(err)
		}
	}
}

func isDenied(err error) bool { return errors.As(err, new(*deniedError)) }

// told logs the policies that match and only tell.
func (h *Handler) told(v *authz.Verdict, s *session) {
	if len(v.Audited) > 0 || len(v.DryRun) > 0 {
		h.cfg.Log.Info("policies that only tell match", "src", s.client, "service", s.service,
			"audited", strings.Join(v.Audited, ","), "dry_run", strings.Join(v.DryRun, ","))
	}
}
