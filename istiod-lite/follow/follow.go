// Package follow keeps up with a few objects of the API server that the mesh isn't made of, such as those that the control
// plane writes itself, so that it sees when somebody changes them.
package follow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

const (
	// page is how many objects are asked for at once, pageTime how long that may take.
	page, pageTime = 500, time.Minute
	// shortest and twice it bound how long a watch lasts before the server ends it; slack is how long we wait for that.
	shortest, slack = 5 * time.Minute, 30 * time.Second
	// pauseFirst and pauseMost are the least and the greatest time between attempts.
	pauseFirst, pauseMost = 100 * time.Millisecond, 10 * time.Second
)

// Name names an object. It has no namespace where its kind has none.
type Name struct{ Namespace, Name string }

// Config says what is followed, and who is told. Calls don't overlap.
type Config struct {
	Client dynamic.ResourceInterface
	// Fields and Labels are selectors, or empty. Who may list only objects of certain names has to name one here.
	Fields, Labels string
	// Put takes an object that came or may have changed, Gone the name of one that went.
	Put  func(*unstructured.Unstructured)
	Gone func(Name)
	// Listed is called after everything was told: first when all that there is was put, then after each gap.
	Listed func()
	Log    *slog.Logger
}

// Run follows until the context ends.
func Run(ctx context.Context, c Config) {
	f := follower{Config: c, known: make(map[Name]struct{})}
	pause := pauseFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := f.once(ctx)
		if time.Since(began) > pauseMost {
			pause = pauseFirst
		}
		if ctx.Err() != nil {
			return
		}
		level := slog.LevelDebug
		if apierrors.IsForbidden(err) {
			level = slog.LevelWarn // it lasts until somebody grants it
		}
		c.Log.Log(ctx, level, "not following, listing again", "after", pause, "err", err)
		wait(ctx, pause/2+rand.N(pause))
		pause = min(2*pause, pauseMost)
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// follower belongs to the goroutine of Run.
type follower struct {
	Config
	known map[Name]struct{}
}

// once lists and then watches for as long as nothing is missed. Its end is an error.
func (f *follower) once(ctx context.Context) error {
	version, err := f.list(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	f.Listed()
	for {
		if version, err = f.watch(ctx, version); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		wait(ctx, pauseFirst)
	}
}

func (f *follower) list(ctx context.Context) (version string, err error) {
	now := make(map[Name]struct{})
	for next := ""; ; {
		bounded, cancel := context.WithTimeout(ctx, pageTime)
		list, err := f.Client.List(bounded, metav1.ListOptions{FieldSelector: f.Fields, LabelSelector: f.Labels, Limit: page, Continue: next})
		cancel()
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			now[nameOf(&list.Items[i])] = struct{}{}
			f.known[nameOf(&list.Items[i])] = struct{}{} // also if the next page fails
			f.Put(&list.Items[i])
		}
		if next = list.GetContinue(); next == "" {
			version = list.GetResourceVersion()
			break
		}
	}
	for name := range f.known {
		if _, still := now[name]; !still {
			f.Gone(name)
		}
	}
	f.known = now
	return version, nil
}

func nameOf(o *unstructured.Unstructured) Name { return Name{o.GetNamespace(), o.GetName()} }

// watch returns the version up to which it has told everything. An error says that there may be a gap.
func (f *follower) watch(ctx context.Context, version string) (string, error) {
	lasts := int64((shortest + rand.N(shortest)).Seconds())
	bounded, cancel := context.WithTimeout(ctx, time.Duration(lasts)*time.Second+slack)
	defer cancel()
	stream, err := f.Client.Watch(bounded, metav1.ListOptions{
		FieldSelector: f.Fields, LabelSelector: f.Labels, ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &lasts,
	})
	if err != nil {
		return version, err
	}
	defer stream.Stop()
	for event := range stream.ResultChan() {
		o, ok := event.Object.(*unstructured.Unstructured)
		if event.Type == watch.Error || !ok {
			return version, apierrors.FromObject(event.Object)
		}
		f.tell(event.Type, o)
		version = o.GetResourceVersion()
	}
	if ctx.Err() != nil {
		return version, ctx.Err()
	}
	if bounded.Err() != nil {
		return version, errors.New("the server didn't end it in time")
	}
	return version, nil
}

func (f *follower) tell(event watch.EventType, o *unstructured.Unstructured) {
	switch event {
	case watch.Added, watch.Modified:
		f.known[nameOf(o)] = struct{}{}
		f.Put(o)
	case watch.Deleted:
		delete(f.known, nameOf(o))
		f.Gone(nameOf(o))
	}
}
