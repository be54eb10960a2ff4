package status

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/queue"
)

// Trouble is what is wrong with an object.
type Trouble struct {
	UID     string // of the object, if it has one
	Reason  string // CamelCase
	Message string // what to do, for a person
}

// component is who says it.
const component = "istiod-lite"

// maxTroubles bounds how many objects in trouble are remembered; those beyond it are in the log only.
const maxTroubles = 10000

// repeat is how often an event is written again while the trouble lasts: the API server forgets events after an hour.
const repeat = 45 * time.Minute

// Events says as events what is wrong with objects, for kinds and cases that have no condition.
type Events struct {
	client   dynamic.Interface
	instance string
	queue    *queue.Queue[model.Key]

	lock     sync.Mutex
	troubles map[model.Key]Trouble
}

// NewEvents makes Events, which are written while they are run. The instance is the control plane's name.
func NewEvents(client dynamic.Interface, instance string, log *slog.Logger) *Events {
	e := &Events{client: client, instance: instance, troubles: make(map[model.Key]Trouble)}
	e.queue = queue.New(e.write, log)
	return e
}

// Set says what is wrong with an object; nothing if the reason is empty. It doesn't wait.
func (e *Events) Set(key model.Key, trouble Trouble) {
	e.lock.Lock()
	before, known := e.troubles[key]
	switch {
	case trouble.Reason == "":
		delete(e.troubles, key)
	case known || len(e.troubles) < maxTroubles:
		e.troubles[key] = trouble
	}
	e.lock.Unlock()
	if trouble.Reason != "" && trouble != before {
		e.queue.Add(key)
	}
}

// Run writes until the context ends, which isn't an error. It is for the leader.
func (e *Events) Run(ctx context.Context) error {
	e.queue.Run(ctx, func(ctx context.Context) {
		ticker := time.NewTicker(repeat)
		defer ticker.Stop()
		for ctx.Err() == nil {
			for _, key := range e.keys() {
				e.queue.Add(key)
			}
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	return nil
}

func (e *Events) keys() []model.Key {
	e.lock.Lock()
	defer e.lock.Unlock()
	keys := make([]model.Key, 0, len(e.troubles))
	for key := range e.troubles {
		keys = append(keys, key)
	}
	return keys
}

func (e *Events) write(ctx context.Context, key model.Key) error {
	e.lock.Lock()
	trouble, still := e.troubles[key]
	e.lock.Unlock()
	if !still {
		return nil
	}
	kind, known := describe(key.Kind)
	if !known {
		return nil // nothing that a person has written
	}
	o := event(kind, key.Name, trouble, e.instance, time.Now())
	events := e.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "events"}).Namespace(o.GetNamespace())
	_, err := events.Create(ctx, o, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return gone(err)
	}
	patch := fmt.Appendf(nil, `{"lastTimestamp":%q}`, o.Object["lastTimestamp"])
	_, err = events.Patch(ctx, o.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: component})
	return gone(err)
}

// gone makes no error of an event that can't be written since its namespace is about to go, or since it was forgotten.
func gone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, "NamespaceTerminating") {
		return nil
	}
	return err
}

// event makes the event about an object. The same trouble of the same object has the same name.
func event(kind decode.Kind, about model.Name, trouble Trouble, instance string, now time.Time) *unstructured.Unstructured {
	hash := fnv.New64a()
	for _, part := range []string{kind.Kind, trouble.UID, trouble.Reason, trouble.Message} {
		fmt.Fprintf(hash, "%s\x00", part)
	}
	involved := map[string]any{"apiVersion": kind.APIVersions()[0], "kind": kind.Kind, "name": about.Name, "uid": trouble.UID}
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // as for every object without one
	} else {
		involved["namespace"] = namespace
	}
	at := now.UTC().Format(time.RFC3339)
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       map[string]any{"namespace": namespace, "name": fmt.Sprintf("%s.%016x", cut(about.Name, 200), hash.Sum64())},
		"involvedObject": involved,
		"type":           "Warning", "reason": cut(trouble.Reason, 128), "message": cut(trouble.Message, 1024),
		"source":             map[string]any{"component": component, "host": instance},
		"reportingComponent": component, "reportingInstance": cut(instance, 128),
		"firstTimestamp": at, "lastTimestamp": at, "count": int64(1),
	}}
}
