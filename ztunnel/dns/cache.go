package dns

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	longestTTL  = time.Hour       // of an answer in the cache
	longestNone = 5 * time.Minute // of the answer that there is none
	sweepSteps  = 4               // entries looked at, to find old ones, when one is added
)

// cacheKey is everything of a question that its answer depends on.
type cacheKey struct {
	servers      string // that are asked, in order
	name         string // in lower case
	qtype, class uint16
	flags        uint8
}

// The flags of a query that change its answer.
const (
	flagRD uint8 = 1 << iota
	flagAD
	flagCD
	flagDO
)

func keyOf(msg *dns.Msg, servers string) cacheKey {
	question := msg.Question[0]
	key := cacheKey{servers: servers, name: dns.CanonicalName(question.Name), qtype: question.Qtype, class: question.Qclass}
	opt := msg.IsEdns0()
	for flag, set := range map[uint8]bool{flagRD: msg.RecursionDesired, flagAD: msg.AuthenticatedData, flagCD: msg.CheckingDisabled, flagDO: opt != nil && opt.Do()} {
		if set {
			key.flags |= flag
		}
	}
	return key
}

// cache remembers what other servers answered, and makes of equal questions at the same time one. Its methods may be
// called from any goroutine.
type cache struct {
	maxEntries, maxBytes int

	mu      sync.Mutex
	entries map[cacheKey]entry
	bytes   int // of the entries' messages and names
	calls   map[cacheKey]*call
}

// entry is an answer in wire format, which takes the least memory.
type entry struct {
	wire            []byte
	stored, expires time.Time
}

// call is a question on its way. wire and err may be read once done is closed.
type call struct {
	done chan struct{}
	wire []byte
	err  error
}

// errAbandoned is the end of a call whose caller went away.
var errAbandoned = errors.New("whoever asked has gone")

func newCache(maxEntries, maxBytes int) *cache {
	return &cache{maxEntries: maxEntries, maxBytes: maxBytes, entries: map[cacheKey]entry{}, calls: map[cacheKey]*call{}}
}

// get returns a message of the caller's own: from the cache, from a call that is on its way, or from fetch. fetch's error
// goes to all who wait, except that others try themselves if it is errAbandoned.
func (c *cache) get(ctx context.Context, key cacheKey, fetch func() (*dns.Msg, error)) (*dns.Msg, error) {
	for {
		msg, wait, mine := c.begin(key)
		switch {
		case msg != nil:
			return msg, nil
		case mine:
			return c.lead(key, wait, fetch)
		}
		select {
		case <-wait.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if wait.err == nil {
			return unpack(wait.wire)
		}
		if !errors.Is(wait.err, errAbandoned) {
			return nil, wait.err
		}
	}
}

// begin returns a remembered message, or the call to wait for, or a call that is the caller's to make.
func (c *cache) begin(key cacheKey) (msg *dns.Msg, wait *call, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if e, found := c.entries[key]; found {
		if msg, err := unpack(e.wire); err == nil && now.Before(e.expires) {
			age(msg, now.Sub(e.stored))
			return msg, nil, false
		}
		c.removeLocked(key)
	}
	if wait = c.calls[key]; wait != nil {
		return nil, wait, false
	}
	wait = &call{done: make(chan struct{})}
	c.calls[key] = wait
	return nil, wait, true
}

func (c *cache) lead(key cacheKey, mine *call, fetch func() (*dns.Msg, error)) (*dns.Msg, error) {
	mine.err = errAbandoned // unless fetch returns
	defer func() {
		c.mu.Lock()
		delete(c.calls, key)
		c.mu.Unlock()
		close(mine.done)
	}()
	msg, err := fetch()
	if err == nil {
		msg.Compress = true
		mine.wire, err = msg.Pack()
	}
	mine.err = err
	if err != nil {
		return nil, err
	}
	if ttl := lifetime(msg); ttl > 0 {
		now := time.Now()
		c.add(key, entry{wire: mine.wire, stored: now, expires: now.Add(ttl)})
	}
	return msg, nil
}

func (c *cache) add(key cacheKey, e entry) {
	size := cost(key, e)
	if size > c.maxBytes/8 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(key)
	c.sweepLocked(e.stored)
	for old := range c.entries { // in no order, so nobody can tell which goes
		if len(c.entries) < c.maxEntries && c.bytes+size <= c.maxBytes {
			break
		}
		c.removeLocked(old)
	}
	c.entries[key] = e
	c.bytes += size
}

// sweepLocked looks at a few entries, so that what nobody asks for again doesn't stay for ever.
func (c *cache) sweepLocked(now time.Time) {
	steps := sweepSteps
	for key, e := range c.entries {
		if !now.Before(e.expires) {
			c.removeLocked(key)
		}
		if steps--; steps == 0 {
			return
		}
	}
}

func (c *cache) removeLocked(key cacheKey) {
	if e, found := c.entries[key]; found {
		c.bytes -= cost(key, e)
		delete(c.entries, key)
	}
}

func cost(key cacheKey, e entry) int { return len(e.wire) + len(key.name) }

func unpack(wire []byte) (*dns.Msg, error) {
	msg := new(dns.Msg)
	if err := msg.Unpack(wire); err != nil {
		return nil, err
	}
	return msg, nil
}

// age takes the time that a message was kept off its TTLs.
func age(msg *dns.Msg, kept time.Duration) {
	seconds := uint32(kept / time.Second)
	for record := range records(msg) {
		record.Header().Ttl -= min(record.Header().Ttl, seconds)
	}
}

// lifetime is how long a message may be kept: as long as the shortest TTL in it says, or as the zone's SOA record says
// that there is nothing (RFC 2308, section 5). Failures and cut messages are not kept.
func lifetime(msg *dns.Msg) time.Duration {
	if msg.Truncated || (msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError) {
		return 0
	}
	shortest := longestTTL
	for record := range records(msg) {
		shortest = min(shortest, time.Duration(record.Header().Ttl)*time.Second)
	}
	if msg.Rcode == dns.RcodeSuccess && hasType(msg.Answer, msg.Question[0].Qtype) {
		return shortest
	}
	for _, record := range msg.Ns {
		if soa, ok := record.(*dns.SOA); ok {
			return min(shortest, longestNone, time.Duration(soa.Minttl)*time.Second)
		}
	}
	return 0
}

func hasType(list []dns.RR, kind uint16) bool {
	for _, record := range list {
		if kind == dns.TypeANY || record.Header().Rrtype == kind {
			return true
		}
	}
	return false
}

// records yields the records that have a TTL: OPT has none.
func records(msg *dns.Msg) iter.Seq[dns.RR] {
	return func(yield func(dns.RR) bool) {
		for _, list := range [][]dns.RR{msg.Answer, msg.Ns, msg.Extra} {
			for _, record := range list {
				if record.Header().Rrtype != dns.TypeOPT && !yield(record) {
					return
				}
			}
		}
	}
}
