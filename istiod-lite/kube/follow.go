package kube

import (
	"context"
	"fmt"
	"log/slog"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/reflector"
)

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
	bad map[model.Name]string
	// standIns are the names of those of the known that stand for objects which never had a good state.
	standIns map[model.Name]bool
	// uids tell an object from another that had its name before, where something is written to objects: that has to be written again.
	// The model's pods have theirs in any case.
	uids   map[model.Name]types.UID
	synced bool // listed once, or known to be absent
	missed bool // absent at the last look
}

// clientsFor makes for each kind a client which reads its objects into items. They share connections.
func clientsFor(api *rest.Config, kinds []decode.Kind, revisions []string) ([]rest.Interface, error) {
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
		cfg.NegotiatedSerializer = codecsOf(kind, revisions)
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
	reflector.Run(ctx, reflector.Config{
		Name: f.kind.Resource, List: f.list, Watch: f.watch, Store: f, Log: f.log,
		Note: func(err error) { f.feed.note(f.kind, err) },
	})
}

func (f *follower) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	list := new(page)
	err := f.ask(options, func(r *rest.Request) error { return r.Do(ctx).Into(list) })
	if apierrors.IsNotFound(err) {
		f.feed.note(f.kind, nil)
		f.absent()
	}
	return list, err
}

func (f *follower) watch(ctx context.Context, options metav1.ListOptions) (stream watch.Interface, err error) {
	err = f.ask(options, func(r *rest.Request) (err error) {
		stream, err = r.Watch(ctx)
		return err
	})
	return stream, err
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
		f.missed = false
		return nil
	}
	verb := "list"
	if options.Watch {
		verb = "watch"
	}
	return fmt.Errorf("%s %s: %w", verb, f.kind.Resource, err)
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

func (f *follower) sync() {
	if !f.synced {
		f.synced = true
		f.feed.synced(f.kind)
	}
}
