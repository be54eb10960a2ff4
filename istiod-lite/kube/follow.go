package kube

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
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
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

// follower keeps up with one kind. All of it belongs to the goroutine of run, but for client and scope, which don't change.
type follower struct {
	kind    decode.Kind
	scope   scope
	client  rest.Interface
	feed    *feed
	reject  func(Rejection)
	metrics *metrics
	log     *slog.Logger

	// known are the objects in force, the same as the model's, so that they are in memory once.
	known map[model.Name]model.Object
	// bad are those whose present state isn't in force, with the reason.
	bad    map[model.Name]string
	synced bool // listed once, or known to be absent
	missed bool // absent at the last look
	// failing is since when no request succeeds, and said tells that it was logged.
	failing time.Time
	said    bool
}

// clientsFor makes for each kind a client which reads its objects into items. They share connections.
func clientsFor(api *rest.Config, kinds []decode.Kind) ([]rest.Interface, error) {
	cfg := rest.CopyConfig(api)
	cfg.AcceptContentTypes = accepted
	cfg.QPS = -1 // no limit: the reflector backs off
	cfg.WarningHandlerWithContext = rest.NoWarnings{}
	shared, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	var clients []rest.Interface
	for _, kind := range kinds {
		cfg.NegotiatedSerializer = codecsOf(kind)
		client, err := rest.UnversionedRESTClientForConfigAndClient(cfg, shared)
		if err != nil {
			return nil, fmt.Errorf("connect to Kubernetes: %w", err)
		}
		clients = append(clients, client)
	}
	return clients, nil
}

// run follows the kind until the context ends.
func (f *follower) run(ctx context.Context) {
	silent := klog.Logger{} // what there is to say is said here
	reflector := cache.NewReflectorWithOptions(
		&cache.ListWatch{ListWithContextFunc: f.list, WatchFuncWithContext: f.watch}, nil, f,
		cache.ReflectorOptions{Name: f.kind.Kind, TypeDescription: f.kind.Resource, Backoff: &backoff, Logger: &silent},
	)
	reflector.WatchListPageSize = pageSize
	reflector.RunWithContext(klog.NewContext(ctx, silent))
}

// list reads a page. Only a server that can't stream the objects is asked to list them.
func (f *follower) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	if options.Limit > 0 {
		options.ResourceVersion = "" // with one, the server would disregard the limit
	}
	list := new(page)
	err := f.ask(options, func(r *rest.Request) error { return r.Do(ctx).Into(list) })
	if apierrors.IsNotFound(err) {
		f.absent()
	}
	return list, err
}

// watch begins a stream of changes, or of all objects and then changes.
func (f *follower) watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	lasts := time.Duration(*options.TimeoutSeconds)*time.Second + slack
	ctx, cancel := context.WithTimeout(ctx, lasts)
	options.Watch = true
	var stream watch.Interface
	err := f.ask(options, func(r *rest.Request) (err error) {
		stream, err = r.Watch(ctx)
		if _, begun := stream.(*watch.StreamWatcher); err == nil && !begun {
			return errHungUp
		}
		return err
	})
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

// ask makes a request of the first version of the API that the server has.
func (f *follower) ask(options metav1.ListOptions, do func(*rest.Request) error) (err error) {
	options.FieldSelector, options.LabelSelector = f.scope.fields, f.scope.labels
	for _, version := range f.kind.APIVersions() {
		request := f.client.Get().AbsPath(pathOf(f.kind, version, f.scope.namespace)).VersionedParams(&options, metav1.ParameterCodec)
		request.MaxRetries(0) // the reflector backs off
		if err = do(request); !apierrors.IsNotFound(err) {
			break
		}
	}
	if err == nil {
		f.reached()
		return nil
	}
	verb := "list"
	if options.Watch {
		verb = "watch"
	}
	err = fmt.Errorf("%s %s: %w", verb, f.kind.Resource, err)
	if !apierrors.IsNotFound(err) {
		f.failed(err)
	}
	return err
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

// failed keeps what is in the way, and says it once if it doesn't pass soon.
func (f *follower) failed(err error) {
	f.feed.blocked(f.kind, err)
	if f.failing.IsZero() {
		f.failing = time.Now()
	}
	if time.Since(f.failing) > quiet && !f.said {
		f.said = true
		f.log.Warn("can't follow changes, what is known stays in force", "err", err)
	}
}

// reached ends what failed has said.
func (f *follower) reached() {
	f.failing, f.missed = time.Time{}, false
	if f.said {
		f.said = false
		f.log.Info("following changes again")
	}
}

func (f *follower) sync() {
	if !f.synced {
		f.synced = true
		f.feed.synced(f.kind)
	}
}
