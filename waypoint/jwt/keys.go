package jwt

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	defaultTimeout = 5 * time.Second
	maxTimeout     = 30 * time.Second
	// fresh is how long keys are used before they are fetched anew, while requests go on with them.
	fresh = 5 * time.Minute
	// stale is how long keys are used that can't be fetched anew.
	stale = 24 * time.Hour
	// pause is the least time between the end of a fetch and the begin of the next of the same keys. Who waited for the one isn't made to wait
	// for the other.
	pause = 5 * time.Second
	// atOnce is how many sets are fetched at the same time.
	atOnce = 16
	// maxWaiting is how many requests wait for a set.
	maxWaiting = 4096
)

// Keys fetches issuers' keys and shares them between all event loops. Each set is fetched by a goroutine of its own, which ends in time.
type Keys struct {
	client  *http.Client
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	fetches sync.WaitGroup
	slots   chan struct{}

	mu      sync.Mutex // guards following
	sources map[address]*source
}

// NewKeys begins with none. What can't be fetched is logged.
func NewKeys(client *http.Client, log *slog.Logger) *Keys {
	ctx, cancel := context.WithCancel(context.Background())
	return &Keys{client: client, log: log, ctx: ctx, cancel: cancel, slots: make(chan struct{}, atOnce), sources: map[address]*source{}}
}

// Close ends all fetches, and returns when they have ended.
func (k *Keys) Close() {
	k.cancel()
	k.fetches.Wait()
}

// acquire returns the source of an address, and begins to fetch if it is new.
func (k *Keys) acquire(at address, now time.Time) *source {
	k.mu.Lock()
	s := k.sources[at]
	if s == nil {
		s = &source{address: at, owner: k}
		k.sources[at] = s
	}
	s.users++
	k.mu.Unlock()
	s.current(now)
	return s
}

func (k *Keys) release(s *source) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(k.sources, s.address)
	}
}

// source is where a set of keys comes from.
type source struct {
	address
	owner *Keys
	users int // guarded by the owner's mu

	mu       sync.Mutex // guards following
	set      *keySet    // the last that was good; nil before
	asOf     time.Time  // when fetching it began
	begun    time.Time  // when the last fetch began, and how long it took
	took     time.Duration
	fetching bool
	waiting  []func() // who is told when it has ended
}

// current returns the keys that may be used; nil if there are none. Keys that aren't fresh are fetched anew meanwhile.
func (s *source) current(now time.Time) *keySet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.currentLocked(now)
}

func (s *source) currentLocked(now time.Time) *keySet {
	age := now.Sub(s.asOf)
	if s.set == nil || age >= fresh {
		s.fetchLocked(now)
	}
	if age >= stale {
		return nil
	}
	return s.set
}

// keys returns keys that may be used; if there are none, waiting or keysNotFetched.
func (s *source) keys(now time.Time, again func()) (*keySet, status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if set := s.currentLocked(now); set != nil {
		return set, valid
	}
	return nil, s.waitLocked(again, keysNotFetched)
}

// newer returns keys other than those given, which haven't the one that signed a token: they may have been changed since. Who asks for keys that
// nobody has doesn't make more fetches than one in a while.
func (s *source) newer(than *keySet, now time.Time, again func()) (*keySet, status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set != than {
		return s.set, valid
	}
	s.fetchLocked(now)
	return nil, s.waitLocked(again, unknownKey)
}

func (s *source) waitLocked(again func(), otherwise status) status {
	if !s.fetching || len(s.waiting) >= maxWaiting {
		return otherwise
	}
	s.waiting = append(s.waiting, again)
	return waiting
}

// fetchLocked begins to fetch, unless that was done just now.
func (s *source) fetchLocked(now time.Time) {
	if s.fetching || !s.begun.IsZero() && now.Sub(s.begun) < s.took+pause || s.owner.ctx.Err() != nil {
		return
	}
	s.fetching, s.begun = true, now
	s.owner.fetches.Go(func() {
		start := time.Now()
		set, err := s.owner.fetch(s.address)
		s.fetched(set, err, time.Since(start))
	})
}

func (s *source) fetched(set *keySet, err error, took time.Duration) {
	s.mu.Lock()
	s.fetching, s.took = false, took
	if err == nil {
		s.asOf = s.begun
		if s.set == nil || s.set.text != set.text { // else tokens that were verified by the old need no other look
			s.set = set
		}
	}
	told := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	if err != nil {
		s.owner.log.Warn("keys of tokens can't be fetched; tokens are refused without them", "url", s.url, "err", err)
	}
	for _, again := range told {
		again()
	}
}

// keys returns those of the issuer.
func (i *issuer) keys(now time.Time, again func()) (*keySet, status) {
	if i.inline != nil {
		return i.inline, valid
	}
	return i.source.keys(now, again)
}

// keysNow returns those of the issuer as far as they are there.
func (i *issuer) keysNow(now time.Time) *keySet {
	if i.source == nil {
		return i.inline
	}
	return i.source.current(now)
}
