// Package queue runs work about keys: never twice at once about the same key, once for all that was asked while it waited,
// and again later when it failed.
package queue

import (
	"context"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
)

const (
	// pauseFirst and pauseMost are the least and the greatest time between attempts.
	pauseFirst, pauseMost = 100 * time.Millisecond, time.Minute
	// attempt is how long one may take.
	attempt = 15 * time.Second
	// workers is how many keys are worked on at once.
	workers = 4
)

// Queue is keys to be worked on.
type Queue[K comparable] struct {
	work func(context.Context, K) error
	log  *slog.Logger

	lock    sync.Mutex
	waiting workqueue.TypedRateLimitingInterface[K] // nil while nobody runs the queue
}

// New makes a queue. Its work has done nothing, or nothing that may not be done again, when it returns an error.
func New[K comparable](work func(context.Context, K) error, log *slog.Logger) *Queue[K] {
	return &Queue[K]{work: work, log: log}
}

// Add asks for work about a key, and doesn't wait. Nothing is remembered while nobody runs the queue: who does begins by
// adding all that there may be to do.
func (q *Queue[K]) Add(key K) {
	q.lock.Lock()
	defer q.lock.Unlock()
	if q.waiting != nil {
		q.waiting.Add(key)
	}
}

// Run works until the context ends. Begin is called when keys can be added; Run waits for it.
func (q *Queue[K]) Run(ctx context.Context, begin func(context.Context)) {
	waiting := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[K](pauseFirst, pauseMost))
	q.set(waiting)
	defer q.set(nil)
	defer context.AfterFunc(ctx, waiting.ShutDown)()
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for q.next(ctx, waiting) {
			}
		})
	}
	begin(ctx)
	group.Wait()
}

func (q *Queue[K]) set(waiting workqueue.TypedRateLimitingInterface[K]) {
	q.lock.Lock()
	defer q.lock.Unlock()
	q.waiting = waiting
}

// next works on one key. It returns false when there won't be another.
func (q *Queue[K]) next(ctx context.Context, waiting workqueue.TypedRateLimitingInterface[K]) bool {
	key, over := waiting.Get()
	if over {
		return false
	}
	defer waiting.Done(key)
	bounded, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	err := q.work(bounded, key)
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil:
		waiting.Forget(key)
		return true
	case apierrors.IsConflict(err): // somebody wrote between our reading and our writing
		q.log.Debug("trying again", "key", key, "err", err)
	default:
		q.log.Warn("failed, trying again later", "key", key, "attempts", waiting.NumRequeues(key)+1, "err", err)
	}
	waiting.AddRateLimited(key)
	return true
}
