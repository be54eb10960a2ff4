package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/e2e/bench/load"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/h2c"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// Job is requests to make.
type Job struct {
	GRPC        bool // HTTP/1.1 otherwise
	To          netip.AddrPort
	Via         netip.AddrPort // of a waypoint; zero where To is dialled
	Tunnels     int            // to the waypoint, of as many clients
	Connections int            // in all
	Streams     int            // requests at a time on each connection
	Rate        int            // requests in a second, at moments that know nothing of each other; 0 for as many as there are answers
	Path        string
	Authority   string
	Fields      []exchange.Field
	// Watch is a field of answers; when each of its values was first seen is noted.
	Watch string
}

// Totals are counters since the beginning of the job, and latencies since the last reading. At a rate a request has begun when it should have.
type Totals struct {
	Done, Failed int64
	Failure      string // the last one
	P50, P99     time.Duration
	Seen         map[string]time.Time
}

// job is a Job under way. Its fields are the worker's.
type job struct {
	Job
	party *party
	pools []*hbone.Pool
	links []*link
	first chan error // one value: nil when all connections stand
	told  bool
	ready int // connections that stand
	idle  []*slot
	due   []time.Time // of requests that wait for an idle slot
	over  bool
	pace  *pacemaker // nil without a rate

	done, failed int64
	failure      error
	latencies    load.Histogram
	seen         map[string]time.Time
}

// maxDue is how many requests wait for a slot before it is a failure that there is none.
const maxDue = 10_000

func (j *job) begin() {
	for range j.Tunnels {
		j.pools = append(j.pools, j.party.pool())
	}
	for i := range j.Connections {
		l := &link{job: j}
		if j.Tunnels > 0 {
			l.pool = j.pools[i%j.Tunnels]
		}
		for range max(1, j.Streams) {
			s := &slot{link: l}
			s.next.Run = s.send
			l.slots = append(l.slots, s)
		}
		j.links = append(j.links, l)
		l.dial()
	}
}

// standing counts connections. With the last one requests begin.
func (j *job) standing(err error) {
	if j.told || j.over {
		return
	}
	if j.ready++; err == nil && j.ready < len(j.links) {
		return
	}
	j.told = true
	j.first <- err
	if err != nil {
		return
	}
	for _, l := range j.links {
		j.idle = append(j.idle, l.slots...)
	}
	if j.Rate > 0 {
		if j.pace, err = newPacemaker(j); err != nil {
			j.fail(err)
		}
		return
	}
	now := time.Now()
	for _, s := range j.idle {
		s.ask(now)
	}
	j.idle = nil
}

// want makes a request that should begin now.
func (j *job) want(at time.Time) {
	switch {
	case j.over:
	case len(j.idle) > 0:
		s := j.idle[len(j.idle)-1]
		j.idle = j.idle[:len(j.idle)-1]
		s.ask(at)
	case len(j.due) < maxDue:
		j.due = append(j.due, at)
	default:
		j.fail(errors.New("more requests wait than can be made"))
	}
}

func (j *job) fail(err error) {
	j.failed++
	j.failure = err
}

func (j *job) totals() Totals {
	var sum load.Histogram
	j.latencies.MoveTo(&sum)
	t := Totals{Done: j.done, Failed: j.failed, P50: sum.Quantile(0.5), P99: sum.Quantile(0.99), Seen: j.seen}
	if j.failure != nil {
		t.Failure = j.failure.Error()
	}
	j.seen = map[string]time.Time{}
	return t
}

func (j *job) end() {
	j.over = true
	if j.pace != nil {
		j.pace.end()
	}
	for _, l := range j.links {
		if l.pipe != nil {
			l.pipe.Reset()
		}
	}
	for _, p := range j.pools {
		p.Close()
	}
}

// link is one connection.
type link struct {
	job    *job
	pool   *hbone.Pool
	pipe   *pipe.Pipe
	handle exchange.Handler // nil while there is no connection
	slots  []*slot
}

func (l *link) dial() {
	j := l.job
	if l.pool == nil {
		_, err := j.party.worker.Dial(nil, j.To, socket.DialConfig{}, func(fd int, err error) {
			if err != nil {
				l.stands(nil, err)
				return
			}
			l.stands(pipe.OverSocket(j.party.worker.Loop, fd, nil), nil)
		})
		if err != nil {
			_ = j.party.worker.Post(func() { l.stands(nil, err) })
		}
		return
	}
	waypoint, _ := identity.New("cluster.local", namespace, gate)
	target := hbone.Target{Source: j.party.id, Expected: []identity.Workload{waypoint}, Addr: j.Via}
	l.pool.Connect(target, hbone.Request{Authority: hbone.AuthorityFromAddr(j.To)}, func(s *hbone.Stream, err error) {
		if err != nil {
			l.stands(nil, err)
			return
		}
		l.stands(pipe.OverStream(j.party.worker.Loop, s), nil)
	})
}

// stands is told of a connection. Slots that waited for it ask again.
func (l *link) stands(p *pipe.Pipe, err error) {
	j := l.job
	if err == nil && !j.over {
		l.pipe = p
		if j.GRPC {
			l.handle = h2c.NewClient(p, h2c.ClientConfig{Room: func(*h2c.Client) {}, Gone: func(*h2c.Client) { l.handle = nil }}).Handle
		} else {
			l.handle = h1.NewClient(p, h1.ClientConfig{Free: func(*h1.Client) {}, Gone: func(*h1.Client) { l.handle = nil }}).Handle
		}
	}
	j.standing(err)
	for _, s := range l.slots {
		if s.waits {
			s.waits = false
			s.send()
		}
	}
}

// slot makes one request at a time.
type slot struct {
	link    *link
	request exchange.Request
	server  exchange.Server
	began   time.Time
	status  int
	grpc    string
	waits   bool // for a connection
	next    loop.Task
}

// ask makes a request, which has begun at a time.
func (s *slot) ask(began time.Time) {
	s.began = began
	s.link.job.party.worker.Output(&s.next)
}

func (s *slot) send() {
	l := s.link
	j := l.job
	if j.over {
		return
	}
	if l.handle == nil {
		dialling := false
		for _, other := range l.slots {
			dialling = dialling || other.waits
		}
		if s.waits = true; !dialling {
			l.dial()
		}
		return
	}
	s.request = exchange.Request{Version: exchange.HTTP11, Method: "GET", Scheme: "http", Authority: j.Authority, Path: j.Path, Fields: j.Fields}
	s.status, s.grpc = 0, ""
	if j.GRPC {
		s.request.Version, s.request.Method, s.request.Length = exchange.HTTP2, "POST", exchange.UnknownLength
	}
	s.server = l.handle(&s.request, s)
	if j.GRPC {
		s.server.Data(message[:69])
	}
	s.server.End(nil)
}

// Inform implements exchange.Client.
func (s *slot) Inform(*exchange.Response) {}

// Respond implements exchange.Client.
func (s *slot) Respond(r *exchange.Response) {
	s.status = r.Status
	if name := s.link.job.Watch; name != "" {
		value, _ := exchange.Get(r.Fields, name)
		if _, known := s.link.job.seen[value]; !known {
			s.link.job.seen[value] = time.Now()
		}
	}
}

// Data implements exchange.Client.
func (s *slot) Data(p []byte) { s.server.Consumed(len(p)) }

// Consumed implements exchange.Client.
func (s *slot) Consumed(int) {}

// End implements exchange.Client.
func (s *slot) End(trailers []exchange.Field) {
	j := s.link.job
	s.grpc, _ = exchange.Get(trailers, "grpc-status")
	if s.status != 200 || (j.GRPC && s.grpc != "0") {
		j.fail(fmt.Errorf("answered with %d, gRPC %q", s.status, s.grpc))
	} else {
		j.done++
		j.latencies.Add(time.Since(s.began))
	}
	s.free()
}

// Abort implements exchange.Client.
func (s *slot) Abort(err error) {
	if j := s.link.job; !j.over {
		j.fail(err)
		s.free()
	}
}

// free takes the next request, if there is one.
func (s *slot) free() {
	j := s.link.job
	switch {
	case j.Rate == 0:
		s.ask(time.Now())
	case len(j.due) > 0:
		at := j.due[0]
		j.due = j.due[1:]
		s.ask(at)
	default:
		j.idle = append(j.idle, s)
	}
}
