package telemetry

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unique"
)

const (
	maxSeries = 10_000
	// keepIdle is how long a series without an open connection stays.
	keepIdle = time.Hour
	// sweepEvery is the least time between two searches for idle series because of the limit.
	sweepEvery = 10 * time.Second

	unknown = "unknown"
)

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

// series are the counters of connections with the same labels.
type series struct {
	labels                 labels
	number                 uint64 // in the order of their making
	opened, sent, received atomic.Uint64
	closed, failed         [len(allFlags)]atomic.Uint64

	// live is how many of its connections are open. It grows only under the table's lock, for reading at least: so one that
	// is zero under the lock for writing stays so.
	live atomic.Int64
	// Since when there is no open connection, and when a scrape last saw it, in nanoseconds of Unix time.
	idleSince, scraped atomic.Int64
}

// release ends the connection of an earlier find.
func (s *series) release(now time.Time) {
	s.idleSince.Store(now.UnixNano())
	s.live.Add(-1)
}

// seriesTable finds series by their labels. Finding one that exists takes the lock for reading only.
type seriesTable struct {
	mu    sync.RWMutex
	known map[labels]*series
	made  uint64
	// lastSweep is when idle series were last looked for because of the limit.
	lastSweep time.Time
}

// find finds or makes the series for one more open connection.
func (m *Metrics) find(key *labels, now time.Time) *series {
	t := &m.series
	t.mu.RLock()
	s := t.known[*key]
	if s != nil {
		s.live.Add(1)
	}
	t.mu.RUnlock()
	if s != nil {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s, overflow := t.makeLocked(*key, now)
	if overflow {
		m.overflow.Inc()
	}
	s.live.Add(1)
	return s
}

// makeLocked returns the series, or that of all that are too many.
func (t *seriesTable) makeLocked(key labels, now time.Time) (_ *series, overflow bool) {
	if s := t.known[key]; s != nil {
		return s, false
	}
	if len(t.known) >= maxSeries && now.Sub(t.lastSweep) >= sweepEvery {
		t.lastSweep = now
		for other, s := range t.known {
			if s.live.Load() == 0 {
				delete(t.known, other)
			}
		}
	}
	if len(t.known) >= maxSeries {
		overflow = true
		key = labels{reporter: key.reporter, mtls: key.mtls}
		if s := t.known[key]; s != nil {
			return s, true
		}
	}
	key.own()
	t.made++
	s := &series{labels: key, number: t.made}
	t.known[key] = s
	return s, overflow
}

// scrape lists the series and forgets those that are idle for long and were seen since.
func (t *seriesTable) scrape(now time.Time) []*series {
	old := func(s *series) bool {
		idle := s.idleSince.Load()
		return s.live.Load() == 0 && now.UnixNano()-idle > int64(keepIdle) && s.scraped.Load() > idle
	}
	var list, ended []*series
	t.mu.RLock()
	list = make([]*series, 0, len(t.known))
	for _, s := range t.known {
		if old(s) {
			ended = append(ended, s)
			continue
		}
		s.scraped.Store(now.UnixNano())
		list = append(list, s)
	}
	t.mu.RUnlock()
	if len(ended) == 0 {
		return list
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range ended {
		if old(s) { // it may have come back meanwhile, and then the next scrape shows it
			delete(t.known, s.labels)
		}
	}
	return list
}
