package dns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// forwardTimeout is a little less than the 5 s that resolvers wait, so that they hear of a failure.
	forwardTimeout = 4500 * time.Millisecond
	// patience is how long one server may be silent before the next is asked too.
	patience = time.Second
	// shunTime is how long a server that was silent or failed is asked last.
	shunTime = 10 * time.Second
)

var errNoServers = errors.New("there is no name server to ask; see nameserver in ztunnel's /etc/resolv.conf")

// forwarder asks other servers for one client, and remembers which of them don't work.
type forwarder struct {
	exchanger
	cache *cache

	mu      sync.Mutex
	shunned map[netip.AddrPort]time.Time // until when
}

// forward returns what the servers say to a question, from the cache if possible. The answer is the caller's own. tried
// is called around each question that is really asked.
func (f *forwarder) forward(ctx context.Context, servers []netip.AddrPort, q *dns.Msg, asked func(time.Duration, error)) (*dns.Msg, error) {
	return f.cache.get(ctx, keyOf(q, list(servers)), func() (*dns.Msg, error) {
		start := time.Now()
		limited, cancel := context.WithTimeout(ctx, forwardTimeout)
		defer cancel()
		reply, err := f.askAll(limited, servers, onward(q))
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			return nil, errAbandoned
		}
		asked(time.Since(start), err)
		return reply, err
	})
}

// onward is the question as we ask it: what our client said about its own hop is left out.
func onward(q *dns.Msg) *dns.Msg {
	r := &dns.Msg{Question: q.Question[:1:1]}
	r.RecursionDesired, r.AuthenticatedData, r.CheckingDisabled = q.RecursionDesired, q.AuthenticatedData, q.CheckingDisabled
	opt := q.IsEdns0()
	return r.SetEdns0(udpPayload, opt != nil && opt.Do())
}

// attempt is the end of one server's turn.
type attempt struct {
	server netip.AddrPort
	reply  *dns.Msg
	err    error
}

// askAll asks one server after the other, the next as soon as the one before fails or is silent for long, and returns
// the first useful answer; else a useless one; else an error.
func (f *forwarder) askAll(ctx context.Context, servers []netip.AddrPort, request *dns.Msg) (*dns.Msg, error) {
	if len(servers) == 0 {
		return nil, errNoServers
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	order := f.order(servers)
	ends := make(chan attempt, len(order))
	var seen outcome
	silence := time.NewTimer(patience)
	defer silence.Stop()
	for turn, pending := 0, 0; turn < len(order) || pending > 0; {
		if turn < len(order) {
			server := order[turn]
			asking.Go(func() {
				reply, err := f.exchange(ctx, server, request.Copy())
				ends <- attempt{server, reply, err}
			})
			turn, pending = turn+1, pending+1
			silence.Reset(patience)
		}
		select {
		case end := <-ends:
			pending--
			if f.judge(end); seen.add(end) {
				return end.reply, nil
			}
		case <-silence.C:
			f.shun(order[turn-1])
		case <-ctx.Done():
			return nil, errors.Join(append(seen.errs, context.Cause(ctx))...)
		}
	}
	return seen.rest()
}

// order is in which order the servers are asked: as they are listed, but those that failed lately after the others; and
// then all again.
func (f *forwarder) order(servers []netip.AddrPort) []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	var good, bad []netip.AddrPort
	now := time.Now()
	for _, server := range servers {
		if now.Before(f.shunned[server]) {
			bad = append(bad, server)
		} else {
			good = append(good, server)
		}
	}
	once := append(good, bad...)
	return append(once, once...)
}

// judge remembers whether the server works.
func (f *forwarder) judge(end attempt) {
	if end.err != nil {
		f.shun(end.server)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.shunned, end.server)
}

func (f *forwarder) shun(server netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(f.shunned, func(_ netip.AddrPort, until time.Time) bool { return now.After(until) })
	if f.shunned == nil {
		f.shunned = map[netip.AddrPort]time.Time{}
	}
	f.shunned[server] = now.Add(shunTime)
}

// outcome is what has come of asking so far.
type outcome struct {
	useless *dns.Msg
	errs    []error
}

// add tells whether the attempt ends the search. A server that can't answer, or doesn't want to, doesn't: the next may.
func (o *outcome) add(end attempt) bool {
	if end.err != nil {
		o.errs = append(o.errs, fmt.Errorf("ask %s: %w", end.server, end.err))
		return false
	}
	switch end.reply.Rcode {
	case dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented:
		o.useless = end.reply
		return false
	}
	return true
}

func (o *outcome) rest() (*dns.Msg, error) {
	if o.useless != nil {
		return o.useless, nil
	}
	return nil, errors.Join(o.errs...)
}

// list writes servers as part of a key.
func list(servers []netip.AddrPort) string {
	var text strings.Builder
	for _, server := range servers {
		text.WriteString(server.String())
		text.WriteByte(' ')
	}
	return text.String()
}
