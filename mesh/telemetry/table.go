package telemetry

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxSeries = 10_000
	// keepIdle is how long a series that nobody uses stays.
	keepIdle = time.Hour
	// sweepEvery is the least time between two searches for idle series because of the limit.
	sweepEvery = 10 * time.Second
)

// series are the counters of what has the same labels.
type series[K comparable, C any] struct {
	labels K
	number uint64 // in the order of their making
	counts C

	// live is how many use it, such as open connections. It grows only under the table's lock, for reading at least: so one that
	// is zero under the lock for writing stays so.
	live atomic.Int64
	// Since when nobody does, and when a scrape last saw it, in nanoseconds of Unix time.
	idleSince, scraped atomic.Int64
}

// release ends the use of an earlier find.
func (s *series[K, C]) release(now time.Time) {
	s.idleSince.Store(now.UnixNano())
	s.live.Add(-1)
}

// seriesTable finds series by their labels. Finding one that exists takes the lock for reading only.
type seriesTable[K comparable, C any] struct {
	own   func(*K)  // makes texts its own, see labels.own
	plain func(K) K // what is left of labels when there are too many series

	mu    sync.RWMutex
	known map[K]*series[K, C]
	made  uint64
	// lastSweep is when idle series were last looked for because of the limit.
	lastSweep time.Time
}

// find finds or makes the series for one more use. It tells whether there were too many.
func (t *seriesTable[K, C]) find(key *K, now time.Time) (s *series[K, C], overflow bool) {
	t.mu.RLock()
	s = t.known[*key]
	if s != nil {
		s.live.Add(1)
	}
	t.mu.RUnlock()
	if s != nil {
		return s, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s, overflow = t.makeLocked(*key, now)
	s.live.Add(1)
	return s, overflow
}

// makeLocked returns the series, or that of all that are too many.
func (t *seriesTable[K, C]) makeLocked(key K, now time.Time) (_ *series[K, C], overflow bool) {
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
		key = t.plain(key)
		if s := t.known[key]; s != nil {
			return s, true
		}
	}
	t.own(&key)
	t.made++
	s := &series[K, C]{labels: key, number: t.made}
	if t.known == nil {
		t.known = map[K]*series[K, C]{}
	}
	t.known[key] = s
	return s, overflow
}

// scrape lists the series, in an order that stays, and forgets those that are idle for long and were seen since.
func (t *seriesTable[K, C]) scrape(now time.Time) []*series[K, C] {
	old := func(s *series[K, C]) bool {
		idle := s.idleSince.Load()
		return s.live.Load() == 0 && now.UnixNano()-idle > int64(keepIdle) && s.scraped.Load() > idle
	}
	var list, ended []*series[K, C]
	t.mu.RLock()
	list = make([]*series[K, C], 0, len(t.known))
	for _, s := range t.known {
		if old(s) {
			ended = append(ended, s)
			continue
		}
		s.scraped.Store(now.UnixNano())
		list = append(list, s)
	}
	t.mu.RUnlock()
	slices.SortFunc(list, func(a, b *series[K, C]) int { return cmp.Compare(a.number, b.number) })
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
