package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

const (
	// pageSize is how many objects are asked for at once.
	pageSize = 500
	// pageTime is how long a page may take.
	pageTime = time.Minute
	// shortestWatch and twice it bound how long a watch lasts before the server ends it, so that clients spread anew over
	// its replicas. slack is how long we wait for that end.
	shortestWatch, slack = 5 * time.Minute, 30 * time.Second
	// pauseFirst and pauseMost are the least and the greatest time between attempts.
	pauseFirst, pauseMost = 50 * time.Millisecond, 3 * time.Second
	// absence is how often it is looked whether a kind has come that the API doesn't have.
	absence = 2 * time.Second
)

// follower keeps up with one kind. All of it belongs to the goroutine of run.
type follower struct {
	kind    decode.Kind
	scope   scope
	api     *api
	feed    *feed
	reject  func(Rejection)
	metrics *metrics
	log     *slog.Logger

	path string // of the version that is followed
	// known are the objects in force, the same as the model's, so that they are in memory once.
	known map[model.Name]model.Object
	// bad are those whose present state isn't in force, with the reason.
	bad    map[model.Name]string
	synced bool // listed once, or known to be absent
	missed bool // absent at the last look
	down   bool // it was said that the API can't be reached
}

// run follows the kind until the context ends.
func (f *follower) run(ctx context.Context) {
	pause := pauseFirst
	for ctx.Err() == nil {
		began := time.Now()
		version, err := f.list(ctx)
		if err == nil {
			f.missed = false
			f.sync()
			err = f.watch(ctx, version)
		}
		if absent(err) {
			f.absent()
			wait(ctx, spread(absence))
			continue
		}
		if outdated(err) {
			f.log.Info("too much has changed to follow, listing everything again", "err", err)
		}
		if time.Since(began) > pauseMost {
			pause = pauseFirst
		}
		pause = f.rest(ctx, err, pause)
	}
}

// rest waits after a failure, and returns how long to wait after the next.
func (f *follower) rest(ctx context.Context, err error, pause time.Duration) time.Duration {
	if ctx.Err() != nil {
		return pause
	}
	f.feed.blocked(f.kind, err)
	var r *refusal
	if errors.As(err, &r) && r.after > pause {
		wait(ctx, spread(min(r.after, 10*pauseMost)))
		return pause
	}
	if pause > 4*pauseFirst && !f.down { // not for what passes within a second
		f.down = true
		f.log.Warn("can't follow changes, what is known stays in force", "err", err)
	}
	wait(ctx, spread(pause))
	return min(2*pause, pauseMost)
}

// spread varies a time, so that many who wait for the same don't come at once.
func spread(d time.Duration) time.Duration { return d/2 + rand.N(d) }

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// list reads everything, and returns the version after which changes follow. It tries the kind's versions of the API.
func (f *follower) list(ctx context.Context) (version string, err error) {
	for _, api := range f.kind.APIVersions() {
		f.path = pathOf(f.kind, api, f.scope.namespace)
		version, err = f.pages(ctx)
		if !absent(err) {
			break
		}
	}
	if err != nil {
		return "", fmt.Errorf("list %s: %w", f.kind.Resource, err)
	}
	return version, nil
}

// reached ends what rest has said.
func (f *follower) reached() {
	if f.down {
		f.down = false
		f.log.Info("following changes again")
	}
}

// pathOf is where objects of a kind are.
func pathOf(kind decode.Kind, apiVersion, namespace string) string {
	path := "apis/" + apiVersion
	if kind.Group == "" {
		path = "api/" + apiVersion
	}
	if namespace != "" {
		path += "/namespaces/" + namespace
	}
	return path + "/" + kind.Resource
}

func (f *follower) query() url.Values {
	query := make(url.Values)
	if f.scope.fields != "" {
		query.Set("fieldSelector", f.scope.fields)
	}
	if f.scope.labels != "" {
		query.Set("labelSelector", f.scope.labels)
	}
	return query
}

// pages takes in what there is, page by page, and then takes out what isn't there any more.
func (f *follower) pages(ctx context.Context) (version string, err error) {
	stale := make(map[model.Name]struct{}, len(f.known))
	for name := range f.known {
		stale[name] = struct{}{}
	}
	for name := range f.bad {
		stale[name] = struct{}{}
	}
	query := f.query()
	query.Set("limit", strconv.Itoa(pageSize))
	for {
		meta, err := f.page(ctx, query, stale)
		if err != nil {
			return "", err
		}
		if meta.Continue == "" {
			version = meta.ResourceVersion
			break
		}
		query.Set("continue", meta.Continue)
	}
	for name := range stale {
		f.drop(name)
	}
	f.metrics.lists.WithLabelValues(f.kind.Kind).Inc()
	return version, nil
}

func (f *follower) page(ctx context.Context, query url.Values, stale map[model.Name]struct{}) (metav1.ListMeta, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	answer, encoded, err := f.api.get(ctx, f.path, query)
	if err != nil {
		return metav1.ListMeta{}, err
	}
	defer answer.Close()
	body, err := io.ReadAll(io.LimitReader(answer, maxList))
	if err != nil {
		return metav1.ListMeta{}, err
	}
	meta, items, err := encoded.list(body)
	if err != nil {
		return meta, err
	}
	for _, item := range items {
		name, named := f.take(encoded, item)
		if named {
			delete(stale, name)
		}
	}
	return meta, nil
}

// watch follows changes until it has to be listed again. A watch that ends is begun again where it was.
func (f *follower) watch(ctx context.Context, version string) error {
	pause := pauseFirst
	for {
		began, before := time.Now(), version
		err := f.stream(ctx, &version)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case absent(err) || outdated(err):
			return fmt.Errorf("watch %s: %w", f.kind.Resource, err)
		case version != before || time.Since(began) > pauseMost:
			pause = pauseFirst
		}
		pause = f.rest(ctx, fmt.Errorf("watch %s: %w", f.kind.Resource, err), pause)
	}
}

// stream reads one watch to its end, which is an error, and moves version to the last change that was taken in.
func (f *follower) stream(ctx context.Context, version *string) error {
	lasts := shortestWatch + rand.N(shortestWatch)
	ctx, cancel := context.WithTimeout(ctx, lasts+slack)
	defer cancel()
	query := f.query()
	query.Set("watch", "true")
	query.Set("allowWatchBookmarks", "true")
	query.Set("resourceVersion", *version)
	query.Set("timeoutSeconds", strconv.Itoa(int(lasts.Seconds())))
	answer, encoded, err := f.api.get(ctx, f.path, query)
	if err != nil {
		return err
	}
	defer answer.Close()
	f.reached()
	events := newEvents(encoded, answer)
	for {
		event, err := events.next()
		if err != nil {
			return err
		}
		if event.kind == "ERROR" {
			r := new(refusal)
			return errors.Join(r, r.read(encoded, event.object))
		}
		if err := f.event(encoded, event, version); err != nil {
			return err
		}
	}
}

func (f *follower) event(encoded encoding, e event, version *string) error {
	var meta metav1.PartialObjectMetadata
	if err := encoded.fill(e.object, &meta); err != nil {
		return fmt.Errorf("read metadata of an event: %w", err)
	}
	f.metrics.event(f.kind, e.kind)
	switch e.kind {
	case "ADDED", "MODIFIED":
		f.take(encoded, e.object)
	case "DELETED":
		f.drop(model.Name{Namespace: meta.Namespace, Name: meta.Name})
	case "BOOKMARK":
	default:
		return fmt.Errorf("event of type %q is not known", e.kind)
	}
	*version = meta.ResourceVersion
	return nil
}

func (f *follower) sync() {
	if !f.synced {
		f.synced = true
		f.feed.synced(f.kind)
	}
}
