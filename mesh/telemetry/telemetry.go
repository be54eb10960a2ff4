// Package telemetry tells what happened: log lines in the mesh's usual form, one access-log line per connection, and
// metrics under Istio's names.
package telemetry

import (
	"net/netip"
	"time"
	"unicode/utf8"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/trace"
)

// Reporter is the side of a connection that tells about it.
type Reporter string

// The client's proxy, the server's proxy, and the waypoint between them.
const (
	Source      Reporter = "source"
	Destination Reporter = "destination"
	Waypoint    Reporter = "waypoint"
)

// Why a connection failed, as the label response_flags says it. FlagNone is the only one of success.
const (
	FlagNone          = "-"
	FlagDenied        = "DENY"                 // by an authorization policy
	FlagConnect       = "CONNECT"              // the next hop could not be reached, or refused
	FlagTLS           = "TLS_FAILURE"          // handshake of either side
	FlagHTTP2         = "H2_HANDSHAKE_FAILURE" // of the tunnel
	FlagNetworkPolicy = "NETWORK_POLICY"       // the first packet went unanswered
	FlagIdentity      = "IDENTITY_ERROR"       // no certificate of one's own
	FlagRevoked       = "CERT_REVOKED"         // the peer's certificate is on the revocation list
)

// Peer is one end of a connection. An empty field is unknown.
type Peer struct {
	// Pod is the single instance, for the access log only: it would make too many metric series.
	Pod string
	// Workload is what owns the pod, such as a Deployment.
	Workload                         string
	CanonicalName, CanonicalRevision string
	Namespace                        string
	Cluster                          string
	Region, Zone                     string
	// Identity is told only for connections with mutual TLS.
	Identity identity.Workload
}

// Connection is what is known of a connection when it is opened, or refused. An empty field is unknown.
type Connection struct {
	Reporter            Reporter
	Source, Destination Peer
	// Service is the host name of the service that was dialled.
	Service, ServiceNamespace, ServiceName string
	// MTLS: both sides have proven their identities to each other.
	MTLS bool
	// Src is the client; Dst the next hop (outbound) or the address that was accepted on (inbound).
	Src, Dst netip.AddrPort
	// HBONEDst is the CONNECT request's authority, if there is a tunnel.
	HBONEDst string
	// Trace goes with the connection: the one we made (outbound), or the one that came with the request (inbound).
	Trace trace.Context
	// Start is when the connection began, for its duration; zero is now.
	Start time.Time
}

// bounded makes text from outside fit for a label or a log line: valid UTF-8 of at most 256 bytes. Without it a peer
// could spoil the scrapes with the baggage it sends.
func bounded(text string) string {
	const limit = 256
	if len(text) <= limit && utf8.ValidString(text) {
		return text
	}
	clean := make([]byte, 0, limit)
	for _, r := range text {
		if len(clean)+utf8.RuneLen(r) > limit {
			break
		}
		clean = utf8.AppendRune(clean, r)
	}
	return string(clean)
}
