// Package reflector keeps up with objects in the Kubernetes API: client-go's reflector, with a bound for each request, which says
// what is in its way in the control plane's log, and which ends when it is told to.
package reflector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

const (
	// pageSize is how many objects are asked for at once where the server can't stream a list, and pageTime how long a
	// page may take.
	pageSize, pageTime = 500, time.Minute
	// slack is how much longer than it was asked for a watch may last.
	slack = 30 * time.Second
	// quiet is for how long nothing is said of an API that can't be reached.
	quiet = time.Second
)

// backoff is from 50 ms to 3 s, the jitter included.
var backoff = wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Steps: 20, Cap: 2 * time.Second, Jitter: 0.5}

// errHungUp is an error of ours since client-go makes an empty watch of it.
var errHungUp = errors.New("the API server hung up before it answered")

// Config says what is followed. List and Watch ask once: what fails is tried again, later.
type Config struct {
	Name  string // of the resource
	List  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	Watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
	Store cache.ReflectorStore
	// Note takes why a request failed, or nil when one succeeded. It is nil where nobody wants to know.
	Note func(error)
	Log  *slog.Logger
}

// Run keeps the store up until the context ends.
func Run(ctx context.Context, c Config) {
	f := follower{Config: c}
	silent := klog.Logger{} // what there is to say is said here
	reflector := cache.NewReflectorWithOptions(
		&cache.ListWatch{ListWithContextFunc: f.list, WatchFuncWithContext: f.watch}, nil, c.Store,
		cache.ReflectorOptions{Name: c.Name, TypeDescription: c.Name, Backoff: &backoff, Clock: impatient{done: ctx}, Logger: &silent},
	)
	reflector.WatchListPageSize = pageSize
	reflector.RunWithContext(klog.NewContext(ctx, silent))
}

// follower asks on the reflector's behalf, one request at a time.
type follower struct {
	Config
	// failing is since when no request succeeds, and said tells that it was logged.
	failing time.Time
	said    bool
}

// list reads a page. Only a server that can't stream the objects is asked to list them.
func (f *follower) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	bound, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	if options.Limit > 0 {
		options.ResourceVersion = "" // with one, the server would disregard the limit
	}
	list, err := f.List(bound, options)
	f.note(ctx, err)
	return list, err
}

// watch begins a stream of changes, or of all objects and then changes.
func (f *follower) watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	bound, cancel := context.WithTimeout(ctx, time.Duration(*options.TimeoutSeconds)*time.Second+slack)
	options.Watch = true
	stream, err := f.Watch(bound, options)
	// client-go returns one that has ended already, of another type, when the connection ended before the answer.
	if _, begun := stream.(*watch.StreamWatcher); err == nil && !begun {
		err = fmt.Errorf("watch %s: %w", f.Name, errHungUp)
	}
	f.note(ctx, err)
	if err != nil {
		cancel()
		return nil, err
	}
	return &bounded{stream, cancel}, nil
}

// bounded is a watch that has a deadline.
type bounded struct {
	watch.Interface
	cancel context.CancelFunc
}

// Stop ends it.
func (b *bounded) Stop() {
	b.Interface.Stop()
	b.cancel()
}

// note says once what is in the way if it doesn't pass soon, and that it did. A kind that isn't there is in nobody's way.
func (f *follower) note(ctx context.Context, err error) {
	if ctx.Err() != nil || apierrors.IsNotFound(err) {
		return
	}
	if f.Note != nil {
		f.Note(err)
	}
	switch {
	case err == nil:
		f.failing = time.Time{}
		if f.said {
			f.said = false
			f.Log.Info("following changes again")
		}
		return
	case f.failing.IsZero():
		f.failing = time.Now()
	}
	if time.Since(f.failing) > quiet && !f.said {
		f.said = true
		f.Log.Warn("can't follow changes, what is known stays in force", "err", err)
	}
}

// impatient is a clock on which nobody waits longer than until something is done: the reflector waits between some attempts without
// looking whether it is to go on at all.
type impatient struct {
	clock.RealClock
	done context.Context
}

// After is over early when that is done.
func (i impatient) After(d time.Duration) <-chan time.Time {
	over := make(chan time.Time, 1)
	bounded, cancel := context.WithTimeout(i.done, d)
	context.AfterFunc(bounded, func() {
		cancel()
		over <- time.Now()
	})
	return over
}
