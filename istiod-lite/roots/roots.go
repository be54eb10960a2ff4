// Package roots puts the roots that clients trust, and what was revoked, where pods can mount them: into a ConfigMap of each
// namespace. One that somebody deletes or changes is put right.
package roots

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/queue"
	"github.com/tulle-mesh/tulle/istiod-lite/reflector"
)

// The names are Istio's: pods of the mesh mount them.
const (
	RootsName, rootsKey     = "istio-ca-root-cert", "root-cert.pem"
	RevokedName, revokedKey = "istio-ca-crl", "ca-crl.pem"
)

const (
	// manager is the field manager.
	manager = "istio-namespace-controller"
	// Label marks what belongs to the mesh's configuration.
	label, labelled = "istio.io/config", "true"
	// meshed marks namespaces whose pods belong to the mesh.
	meshed, ambient = "istio.io/dataplane-mode", "ambient"
)

// excluded are namespaces without pods that could want the roots.
var excluded = []string{"kube-public", "kube-node-lease", "local-path-storage"}

var resource = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// Config is where the roots come from, and where they go.
type Config struct {
	Client dynamic.Interface
	// Roots and Revoked return PEM. There is nothing to write while they return nothing.
	Roots, Revoked func() []byte
	// Changed returns a channel that is closed when they return something else than before the call.
	Changed func() <-chan struct{}
	// Meshed leaves out namespaces without pods of the mesh. What was written is left there when a namespace leaves the mesh:
	// pods may have mounted it.
	Meshed bool
	// Namespace is the control plane's, which is never left out.
	Namespace string
	Log       *slog.Logger
}

// Writer writes while this control plane leads.
type Writer struct {
	cfg   Config
	queue *queue.Queue[reflector.Name]

	lock       sync.Mutex
	namespaces map[string]bool           // all, and whether they are meshed
	waypoints  map[string]names          // by namespace
	listed     map[string]bool           // names of ConfigMaps of which all were seen
	seen       map[reflector.Name]digest // what is in those that are there
}

type names map[string]bool

// digest stands for a text, or if it is zero, for none.
type digest [sha256.Size]byte

// New makes a Writer, which writes while it is run.
func New(c Config) *Writer {
	w := &Writer{cfg: c, namespaces: make(map[string]bool), waypoints: make(map[string]names)}
	w.queue = queue.New(w.write, c.Log)
	return w
}

// Put takes in a namespace that came or changed. It doesn't wait.
func (w *Writer) Put(namespace *model.Namespace) {
	w.lock.Lock()
	w.namespaces[namespace.Name] = namespace.Labels.Get(meshed) == ambient
	w.lock.Unlock()
	w.add(namespace.Name)
}

// Drop forgets a namespace that went.
func (w *Writer) Drop(namespace string) {
	w.lock.Lock()
	defer w.lock.Unlock()
	delete(w.namespaces, namespace)
}

// Waypoint says whether there is a waypoint of the name: its pods mount the roots, whatever the labels of its namespace are.
func (w *Writer) Waypoint(name model.Name, there bool) {
	w.lock.Lock()
	known := w.waypoints[name.Namespace]
	first := there && len(known) == 0
	switch {
	case first:
		w.waypoints[name.Namespace] = names{name.Name: true}
	case there:
		known[name.Name] = true
	case known != nil:
		if delete(known, name.Name); len(known) == 0 {
			delete(w.waypoints, name.Namespace)
		}
	}
	w.lock.Unlock()
	if first {
		w.add(name.Namespace)
	}
}

// all looks at every namespace.
func (w *Writer) all() {
	w.lock.Lock()
	names := slices.Collect(maps.Keys(w.namespaces))
	w.lock.Unlock()
	for _, namespace := range names {
		w.add(namespace)
	}
}

func (w *Writer) add(namespace string) {
	w.queue.Add(reflector.Name{Namespace: namespace, Name: RootsName})
	w.queue.Add(reflector.Name{Namespace: namespace, Name: RevokedName})
}

// Run writes until the context ends, which isn't an error. It is for the leader, once all namespaces were put that are
// there at the start.
func (w *Writer) Run(ctx context.Context) error {
	w.lock.Lock()
	w.listed, w.seen = make(map[string]bool), make(map[reflector.Name]digest)
	w.lock.Unlock()
	w.queue.Run(ctx, func(ctx context.Context) {
		var group sync.WaitGroup
		for _, name := range []string{RootsName, RevokedName} {
			group.Go(func() { w.follow(ctx, name) })
		}
		for ctx.Err() == nil {
			changed := w.cfg.Changed()
			w.all()
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
		group.Wait()
	})
	return nil
}

// follow keeps up with the ConfigMaps of one name in all namespaces.
func (w *Writer) follow(ctx context.Context, name string) {
	reflector.Objects[digest]{
		Kind: "ConfigMap", Client: w.cfg.Client.Resource(resource), Fields: "metadata.name=" + name, Log: w.cfg.Log,
		Read: holds, Put: w.see, Gone: w.miss,
		Listed: func() {
			w.lock.Lock()
			w.listed[name] = true
			w.lock.Unlock()
			w.all()
		},
	}.Follow(ctx)
}

// see notes what a ConfigMap holds.
func (w *Writer) see(name reflector.Name, text digest) {
	w.lock.Lock()
	w.seen[name] = text
	w.lock.Unlock()
	w.queue.Add(name)
}

// miss notes that a ConfigMap is gone.
func (w *Writer) miss(name reflector.Name) {
	w.lock.Lock()
	delete(w.seen, name)
	w.lock.Unlock()
	w.queue.Add(name)
}

// holds stands for the text of a ConfigMap as we write it; for any other, it is of no text.
func holds(o *unstructured.Unstructured) digest {
	if o.GetLabels()[label] != labelled {
		return digest{}
	}
	text, _, _ := unstructured.NestedString(o.Object, "data", keyOf(o.GetName()))
	return sha256.Sum256([]byte(text))
}

func keyOf(name string) string {
	if name == RevokedName {
		return revokedKey
	}
	return rootsKey
}

// wanted returns what a ConfigMap should hold that doesn't, or nothing.
func (w *Writer) wanted(name reflector.Name) string {
	source := w.cfg.Roots
	if name.Name == RevokedName {
		source = w.cfg.Revoked
	}
	text := source()
	w.lock.Lock()
	defer w.lock.Unlock()
	if !w.wants(name.Namespace) || !w.listed[name.Name] || w.seen[name] == sha256.Sum256(text) {
		return ""
	}
	return string(text)
}

func (w *Writer) wants(namespace string) bool {
	isMeshed, known := w.namespaces[namespace]
	if !known || slices.Contains(excluded, namespace) {
		return false
	}
	return !w.cfg.Meshed || isMeshed || len(w.waypoints[namespace]) > 0 || namespace == w.cfg.Namespace
}

func (w *Writer) write(ctx context.Context, name reflector.Name) error {
	text := w.wanted(name)
	if text == "" {
		return nil
	}
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"namespace": name.Namespace, "name": name.Name, "labels": map[string]any{label: labelled}},
		"data":     map[string]any{keyOf(name.Name): text},
	}}
	_, err := w.cfg.Client.Resource(resource).Namespace(name.Namespace).Apply(ctx, name.Name, o, metav1.ApplyOptions{FieldManager: manager, Force: true})
	// Nothing is made in a namespace that is about to go.
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, "NamespaceTerminating") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write ConfigMap: %w", err)
	}
	return nil
}
