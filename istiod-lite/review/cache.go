package review

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

const (
	// goodFor is how long a caller stays proven after the API server was asked, so how long a revoked token still works.
	goodFor = 10 * time.Second
	// badFor is how long a token stays refused: a pod that has just come may not be known everywhere.
	badFor = time.Second
	// maxAnswers bounds what is remembered: a few MB.
	maxAnswers = 16384
)

// cache remembers for a moment whose tokens are. Several who ask about one token at a time share one review.
type cache struct {
	review func(ctx context.Context, token string) (ca.Caller, error)

	lock    sync.Mutex
	answers map[[sha256.Size]byte]*answer // by the token's hash: tokens themselves aren't kept
}

// answer is one review. After done is closed it doesn't change.
type answer struct {
	done   chan struct{}
	caller ca.Caller
	err    error
	until  time.Time // zero while the review goes on
}

func newCache(review func(context.Context, string) (ca.Caller, error)) *cache {
	return &cache{review: review, answers: make(map[[sha256.Size]byte]*answer)}
}

// get returns whose token it is.
func (c *cache) get(ctx context.Context, token string) (ca.Caller, error) {
	key := sha256.Sum256([]byte(token))
	c.lock.Lock()
	one := c.answers[key]
	if one != nil && (one.pending() || one.fresh()) {
		c.lock.Unlock()
		return one.wait(ctx)
	}
	c.makeRoom()
	one = &answer{done: make(chan struct{})}
	c.answers[key] = one
	c.lock.Unlock()

	caller, err := c.review(ctx, token)
	c.lock.Lock()
	defer c.lock.Unlock()
	one.caller, one.err, one.until = caller, err, time.Now().Add(lifetime(err))
	if !one.fresh() {
		delete(c.answers, key)
	}
	close(one.done)
	return caller, err
}

// lifetime is how long an answer counts. One that says nothing about the token doesn't.
func lifetime(err error) time.Duration {
	switch {
	case err == nil:
		return goodFor
	case errors.Is(err, ca.ErrUnavailable):
		return 0
	}
	return badFor
}

// pending tells that the review goes on.
func (a *answer) pending() bool { return a.until.IsZero() }

// fresh tells whether the answer still counts.
func (a *answer) fresh() bool { return time.Now().Before(a.until) }

func (a *answer) wait(ctx context.Context) (ca.Caller, error) {
	select {
	case <-a.done:
		return a.caller, a.err
	case <-ctx.Done():
		return ca.Caller{}, fmt.Errorf("the caller went before its token was reviewed: %w", ctx.Err())
	}
}

// makeRoom forgets answers that no longer count and, if those are too few, others: they will be asked for again. Reviews
// that go on stay, since they are bounded by who waits for them.
func (c *cache) makeRoom() {
	if len(c.answers) < maxAnswers {
		return
	}
	for key, one := range c.answers {
		if !one.pending() && !one.fresh() {
			delete(c.answers, key)
		}
	}
	for key, one := range c.answers {
		if len(c.answers) < maxAnswers*3/4 {
			return
		}
		if !one.pending() {
			delete(c.answers, key)
		}
	}
}
