package deploy

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/reflector"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// defaultsLabel, on a ConfigMap of the control plane's namespace, names the class whose Gateways it is for.
const defaultsLabel = "gateway.istio.io/defaults-for-class"

// parameters keep up with the ConfigMaps that change waypoints: those that Gateways refer to, each by a watch of its own, since
// the others of the cluster are nobody's business; and the defaults of classes.
type parameters struct {
	client    dynamic.Interface
	namespace string // of the defaults
	changed   func()
	log       *slog.Logger
	wake      chan struct{} // has room for one

	lock     sync.Mutex
	wanted   []model.Name
	named    map[model.Name]*named
	defaults map[string]defaults // by name
	listed   bool                // the defaults were
}

// named is a ConfigMap that Gateways refer to.
type named struct {
	listed, there bool
	data          map[string]string
}

// defaults are changes of all waypoints of a class.
type defaults struct {
	class string
	data  map[string]string
}

// want says which ConfigMaps are referred to.
func (p *parameters) want(refs []model.Name) {
	p.lock.Lock()
	p.wanted = refs
	p.lock.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run follows what is wanted until the context ends.
func (p *parameters) run(ctx context.Context) {
	p.lock.Lock()
	p.named, p.defaults, p.listed = make(map[model.Name]*named), make(map[string]defaults), false
	p.lock.Unlock()
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { p.followDefaults(ctx) })
	running := make(map[model.Name]context.CancelFunc)
	for {
		p.lock.Lock()
		wanted := p.wanted
		p.lock.Unlock()
		for name, stop := range running {
			if !slices.Contains(wanted, name) {
				stop()
				delete(running, name)
			}
		}
		for _, name := range wanted {
			if running[name] == nil {
				bounded, stop := context.WithCancel(ctx)
				running[name] = stop
				group.Go(func() { p.follow(bounded, name) })
			}
		}
		select {
		case <-ctx.Done():
			for _, stop := range running {
				stop()
			}
			return
		case <-p.wake:
		}
	}
}

// follow keeps up with one ConfigMap.
func (p *parameters) follow(ctx context.Context, name model.Name) {
	state := new(named)
	p.lock.Lock()
	p.named[name] = state
	p.lock.Unlock()
	reflector.Objects[map[string]string]{
		Kind: "ConfigMap", Client: p.client.Resource(configMaps).Namespace(name.Namespace), Fields: "metadata.name=" + name.Name, Log: p.log,
		Read: dataOf,
		Put: func(_ reflector.Name, data map[string]string) {
			p.change(func() { state.there, state.data = true, data })
		},
		Gone:   func(reflector.Name) { p.change(func() { state.there, state.data = false, nil }) },
		Listed: func() { p.change(func() { state.listed = true }) },
	}.Follow(ctx)
	p.lock.Lock()
	defer p.lock.Unlock()
	if p.named[name] == state {
		delete(p.named, name)
	}
}

func (p *parameters) followDefaults(ctx context.Context) {
	reflector.Objects[defaults]{
		Kind: "ConfigMap", Client: p.client.Resource(configMaps).Namespace(p.namespace), Labels: defaultsLabel, Log: p.log,
		Read:   func(o *unstructured.Unstructured) defaults { return defaults{o.GetLabels()[defaultsLabel], dataOf(o)} },
		Put:    func(name reflector.Name, d defaults) { p.change(func() { p.defaults[name.Name] = d }) },
		Gone:   func(name reflector.Name) { p.change(func() { delete(p.defaults, name.Name) }) },
		Listed: func() { p.change(func() { p.listed = true }) },
	}.Follow(ctx)
}

// change takes in what was seen, and says so.
func (p *parameters) change(set func()) {
	p.lock.Lock()
	set()
	p.lock.Unlock()
	p.changed()
}

// dataOf reads the data of a ConfigMap.
func dataOf(o *unstructured.Unstructured) map[string]string {
	data, _, _ := unstructured.NestedStringMap(o.Object, "data")
	return data
}

// of returns what changes a Gateway's objects, in the order in which it does. It isn't known before everything was listed. The
// error is a *refusal.
func (p *parameters) of(g *model.Gateway) (overlays []Overlay, known bool, err error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if !p.listed {
		return nil, false, nil
	}
	for _, name := range slices.Sorted(maps.Keys(p.defaults)) {
		if p.defaults[name].class == g.Class {
			overlays = append(overlays, Overlay{p.namespace + "/" + name, p.defaults[name].data})
		}
	}
	ref := reference(g)
	switch {
	case g.Objects.Parameters == nil:
		return overlays, true, nil
	case ref == (model.Name{}):
		return nil, true, refuse(invalidParameters, "infrastructure.parametersRef: want a ConfigMap, of group \"\", not a %.100s of group %.100q", g.Objects.Parameters.Kind, g.Objects.Parameters.Group)
	}
	state := p.named[ref]
	if state == nil || !state.listed {
		return nil, false, nil
	}
	if !state.there {
		return nil, true, refuse(invalidParameters, "infrastructure.parametersRef: there is no ConfigMap %s", ref)
	}
	return append(overlays, Overlay{ref.String(), state.data}), true, nil
}

// reference names the ConfigMap that a Gateway refers to; it is empty if there is none.
func reference(g *model.Gateway) model.Name {
	if ref := g.Objects.Parameters; ref != nil && ref.Group == "" && ref.Kind == "ConfigMap" {
		return ref.Name
	}
	return model.Name{}
}
