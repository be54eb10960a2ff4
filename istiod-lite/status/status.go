// Package status tells the writers of objects what became of them: conditions in the objects' status, and events where a
// kind has none.
//
// What others write into a status stays as it is. A write is a merge patch of the lists that differ, conditional on the
// version that was read: Istio's lists of conditions and the Gateway API's lists of parents are atomic to server-side apply,
// which would also leave what another field manager, such as the control plane before this one, has written once.
package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/queue"
)

const (
	// page is how many objects are asked for at once, pageTime how long that may take.
	page, pageTime = 500, time.Minute
	// resync is how often all objects are looked at, for what somebody else has changed.
	resync = 30 * time.Minute
	// pauseMost is the longest time between attempts to look at all.
	pauseMost = time.Minute
)

// Config says for whom a Writer writes. One family of statuses has one Writer.
type Config struct {
	Client dynamic.Interface
	// Manager is the field manager of the family.
	Manager string
	// Types are the family's conditions: what isn't wished for is taken away. Controllers are the same of a route's parents.
	Types, Controllers []string
	// Kinds may have statuses of the family.
	Kinds []model.Kind
	// Revisions are the control plane's: what another has said of objects labelled as its own is left alone.
	Revisions []string
	Log       *slog.Logger
}

// Writer writes what the leader's model says. All control planes keep what they wish for, since any may lead next.
type Writer struct {
	cfg   Config
	owner owner
	queue *queue.Queue[model.Key]
	kinds kinds

	lock   sync.Mutex
	wishes map[model.Key]wish // those that aren't empty
}

// New makes a Writer, which writes while it is run.
func New(c Config) *Writer {
	w := &Writer{cfg: c, owner: owner{types: c.Types, controllers: c.Controllers}, kinds: kinds{client: c.Client}, wishes: make(map[model.Key]wish)}
	w.queue = queue.New(w.write, c.Log)
	return w
}

// Set says which conditions of the family an object should have; none if it is gone or there is nothing to say. It doesn't
// wait. The last wish counts.
func (w *Writer) Set(key model.Key, generation int64, conditions []model.Condition) {
	w.set(key, wish{generation: generation, conditions: conditions})
}

// SetParents says what a route should be told of its parents, or a BackendTLSPolicy of its targets.
func (w *Writer) SetParents(key model.Key, generation int64, parents []Parent) {
	w.set(key, wish{generation: generation, parents: parents, ancestors: key.Kind == model.KindBackendTLSPolicy})
}

// SetGateway says what a Gateway should be told; nil takes the conditions away and leaves the rest.
func (w *Writer) SetGateway(key model.Key, generation int64, conditions []model.Condition, gateway *model.GatewayStatus) {
	w.set(key, wish{generation: generation, conditions: conditions, gateway: gateway})
}

// SetClass says what a class of Gateways should be told; none takes the conditions away and leaves the rest.
func (w *Writer) SetClass(key model.Key, generation int64, conditions []model.Condition, features []string) {
	w.set(key, wish{generation: generation, conditions: conditions, features: features})
}

// Forget says that an object is gone. What is wished for after that is about another one of the name, and is written even if it is the same.
func (w *Writer) Forget(key model.Key) {
	w.lock.Lock()
	defer w.lock.Unlock()
	delete(w.wishes, key)
}

func (w *Writer) set(key model.Key, wished wish) {
	w.lock.Lock()
	before := w.wishes[key]
	if wished.empty() {
		delete(w.wishes, key)
	} else {
		w.wishes[key] = wished
	}
	w.lock.Unlock()
	if !before.equal(wished) {
		w.queue.Add(key)
	}
}

func (w *Writer) wished(key model.Key) wish {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.wishes[key]
}

// Run writes until the context ends, which isn't an error. It is for the leader, once everything was set that is known at
// the start.
func (w *Writer) Run(ctx context.Context) error {
	w.queue.Run(ctx, w.survey)
	return nil
}

// survey compares all objects with the wishes, now and then again.
func (w *Writer) survey(ctx context.Context) {
	pause := time.Second
	for ctx.Err() == nil {
		next := resync/2 + rand.N(resync)
		if err := w.surveyKinds(ctx); err != nil {
			w.cfg.Log.Warn("statuses not compared, trying again", "after", pause.String(), "err", err)
			next, pause = pause, min(2*pause, pauseMost)
		} else {
			pause = time.Second
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (w *Writer) surveyKinds(ctx context.Context) error {
	w.kinds.forget()
	for _, kind := range w.cfg.Kinds {
		client, err := w.kinds.find(ctx, kind)
		if err == nil && client != nil {
			err = w.surveyKind(ctx, kind, client)
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", kind, err)
		}
	}
	return nil
}

func (w *Writer) surveyKind(ctx context.Context, kind model.Kind, client dynamic.NamespaceableResourceInterface) error {
	for next := ""; ; {
		bounded, cancel := context.WithTimeout(ctx, pageTime)
		list, err := client.List(bounded, metav1.ListOptions{Limit: page, Continue: next})
		cancel()
		if err != nil {
			return err
		}
		for i := range list.Items {
			o := &list.Items[i]
			key := model.Key{Kind: kind, Name: model.Name{Namespace: o.GetNamespace(), Name: o.GetName()}}
			if len(w.changes(key, o)) > 0 {
				w.queue.Add(key)
			}
		}
		if next = list.GetContinue(); next == "" {
			return nil
		}
	}
}

// changes returns what of the object's status isn't as wished.
func (w *Writer) changes(key model.Key, o *unstructured.Unstructured) map[string]any {
	wished := w.wished(key)
	if labelled := o.GetLabels()[model.RevisionLabel]; wished.empty() && labelled != "" && !slices.Contains(w.cfg.Revisions, labelled) {
		return nil
	}
	status, _ := o.Object["status"].(map[string]any)
	return w.owner.differ(wished, status, time.Now())
}

// write makes one object's status as wished.
func (w *Writer) write(ctx context.Context, key model.Key) error {
	client, err := w.kinds.of(ctx, key)
	if err != nil || client == nil {
		return err
	}
	found, err := client.Get(ctx, key.Name.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	changes := w.changes(key, found)
	if len(changes) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": found.GetResourceVersion()}, "status": changes})
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, key.Name.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: w.cfg.Manager}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
