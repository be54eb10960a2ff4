package telemetry

import (
	"slices"
	"sync/atomic"
	"unique"
)

const unknown = "unknown"

// allFlags are the values of response_flags; FlagNone is the first.
var allFlags = [...]string{
	FlagNone, FlagDenied, FlagConnect, FlagTLS, FlagHTTP2, FlagNetworkPolicy, FlagIdentity, FlagRevoked,
}

// flagIndex takes a flag that isn't known for a failure to connect.
func flagIndex(flag string) int {
	if i := slices.Index(allFlags[:], flag); i >= 0 {
		return i
	}
	return slices.Index(allFlags[:], FlagConnect)
}

// labels is what tells series apart, but for response_flags.
type labels struct {
	reporter                               Reporter
	source, destination                    Peer // without Pod; Identity only with mtls
	service, serviceNamespace, serviceName string
	mtls                                   bool
}

func labelsOf(info *Connection) labels {
	l := labels{
		reporter:         info.Reporter,
		source:           labelPeer(&info.Source),
		destination:      labelPeer(&info.Destination),
		service:          bounded(info.Service),
		serviceNamespace: bounded(info.ServiceNamespace),
		serviceName:      bounded(info.ServiceName),
		mtls:             info.MTLS,
	}
	if !l.mtls {
		l.source.Identity, l.destination.Identity = Peer{}.Identity, Peer{}.Identity
	}
	return l
}

func labelPeer(p *Peer) Peer {
	return Peer{
		Workload: bounded(p.Workload), CanonicalName: bounded(p.CanonicalName), CanonicalRevision: bounded(p.CanonicalRevision),
		Namespace: bounded(p.Namespace), Cluster: bounded(p.Cluster), Region: bounded(p.Region), Zone: bounded(p.Zone),
		Identity: p.Identity,
	}
}

// own makes the texts the labels' own: what a peer said is a part of a much larger header, and most series have most of
// their texts in common.
func (l *labels) own() {
	for _, p := range []*Peer{&l.source, &l.destination} {
		intern(&p.Workload, &p.CanonicalName, &p.CanonicalRevision, &p.Namespace, &p.Cluster, &p.Region, &p.Zone)
	}
	intern(&l.service, &l.serviceNamespace, &l.serviceName)
}

func intern(texts ...*string) {
	for _, text := range texts {
		*text = unique.Make(*text).Value()
	}
}

// connCounts are the counters of connections with the same labels.
type connCounts struct {
	opened, sent, received atomic.Uint64
	closed, failed         [len(allFlags)]atomic.Uint64
}
