package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/push"
	"github.com/tulle-mesh/tulle/istiod-lite/routes"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/security"
)

// pipeline takes changes of objects from the watch through model and translation into the log. apply is for one goroutine
// at a time.
type pipeline struct {
	model *model.Model
	mesh  translate.Mesh
	log   *push.Log
	out   *slog.Logger

	// tell takes the conditions of an object, tellParents those of a route at each of its parents, or of a BackendTLSPolicy at its targets.
	tell        func(model.Key, int64, []model.Condition)
	tellParents func(model.Key, int64, []routes.Parent)
	// gateway is called for each Gateway and GatewayClass of which anything may be different now. It may read the model.
	gateway func(model.Key)

	produced map[model.Key][]product // what each object became
	noted    map[model.Key]string    // what was logged of it

	failures prometheus.Counter // resources that couldn't be encoded
	ready    atomic.Bool        // everything was taken in once, and published

	lacking map[product]struct{}   // what couldn't be published while nobody was told anything
	lacks   atomic.Pointer[string] // the same for people
}

// product is a published resource.
type product struct{ typeURL, name string }

func newPipeline(m *model.Model, mesh translate.Mesh, log *push.Log, out *slog.Logger) *pipeline {
	return &pipeline{
		model: m, mesh: mesh, log: log, out: out, gateway: func(model.Key) {},
		tell: func(model.Key, int64, []model.Condition) {}, tellParents: func(model.Key, int64, []routes.Parent) {},
		failures: prometheus.NewCounter(prometheus.CounterOpts{}), produced: make(map[model.Key][]product), noted: make(map[model.Key]string),
		lacking: make(map[product]struct{}),
	}
}

// apply takes changes in, and tells whether it could before the context ended; then nothing comes after it. Its cost goes by
// what depends on them, not by what else there is.
func (p *pipeline) apply(ctx context.Context, changes []model.Change) bool {
	first, changed := !p.ready.Load(), 0
	var updates []push.Update
	for _, key := range p.model.Apply(changes) {
		if ctx.Err() != nil {
			return false
		}
		updates = append(updates, p.translated(key)...)
		if first && len(updates) >= atOnce {
			changed += p.publish(updates)
			updates = nil
		}
	}
	changed += p.publish(updates)
	switch {
	case !first:
		p.out.Debug("change published", "objects", len(changes), "resources", changed)
	case len(p.lacking) > 0:
		text := fmt.Sprintf("%d resources that can't be encoded", len(p.lacking))
		p.lacks.Store(&text)
	default:
		p.ready.Store(true)
		p.out.Info("ready", "objects", len(changes), "resources", changed)
	}
	return true
}

// atOnce bounds how many resources are in memory before they are encoded, which makes them a fraction of it. Only while
// nobody reads: later, what changed together is told together.
const atOnce = 1000

// translated is what changes of an object's resources. What is said of the object goes out on its own.
func (p *pipeline) translated(key model.Key) []push.Update {
	result := p.mesh.Object(p.model, key)
	requests := routes.Object(p.model, key)
	for _, resource := range requests.Resources {
		result.Resources = append(result.Resources, translate.Resource{Name: resource.Name, Message: resource.Message})
	}
	p.note(key, append(result.Notes, notes(key, requests)...))
	if key.Kind == model.KindGateway || key.Kind == model.KindGatewayClass {
		p.gateway(key)
	}
	switch {
	case hasStatus(key.Kind):
		p.tell(key, p.model.Generation(key), append(result.Conditions, requests.Conditions...))
	case slices.Contains(model.RouteKinds[:], key.Kind), key.Kind == model.KindBackendTLSPolicy:
		p.tellParents(key, p.model.Generation(key), requests.Parents)
	}
	return p.differ(key, result.Resources)
}

func (p *pipeline) publish(updates []push.Update) (changed int) {
	changed, failures := p.log.Publish(updates)
	p.failures.Add(float64(len(failures)))
	for _, err := range failures {
		p.out.Error("resource not published, proxies keep what they were told of it before", "err", err)
	}
	if !p.ready.Load() {
		p.lack(updates, len(failures) > 0)
	}
	return changed
}

// lack notes what of the first resources isn't there: proxies would take it for gone.
func (p *pipeline) lack(updates []push.Update, some bool) {
	for _, update := range updates {
		one := product{update.Type, update.Name}
		delete(p.lacking, one)
		if some && update.Message != nil {
			if _, err := proto.Marshal(update.Message); err != nil {
				p.lacking[one] = struct{}{}
			}
		}
	}
}

// hasStatus tells whether objects of the kind may carry conditions of ours.
func hasStatus(kind model.Kind) bool {
	switch kind {
	case model.KindService, model.KindServiceEntry, model.KindWorkloadEntry, model.KindAuthorizationPolicy, model.KindRequestAuthentication,
		model.KindGateway:
		return true
	}
	return false
}

// differ returns an object's resources, and removals of those that it had and has no more.
func (p *pipeline) differ(key model.Key, resources []translate.Resource) []push.Update {
	var updates []push.Update
	var now []product
	kept := make(map[product]bool, len(resources))
	for _, resource := range resources {
		one := product{typeOf(resource.Message), resource.Name}
		kept[one] = true
		now = append(now, one)
		updates = append(updates, push.Update{Type: one.typeURL, Name: one.name, Message: resource.Message})
	}
	for _, old := range p.produced[key] {
		if !kept[old] {
			updates = append(updates, push.Update{Type: old.typeURL, Name: old.name})
		}
	}
	if len(now) == 0 {
		delete(p.produced, key)
	} else {
		p.produced[key] = now
	}
	return updates
}

func typeOf(message proto.Message) string {
	switch message.(type) {
	case *security.Authorization:
		return push.Authorization
	case *l7.Resource:
		return push.L7
	}
	return push.Address
}

// notes says of what is about requests which conditions don't hold, and what is left out.
func notes(key model.Key, result routes.Result) []translate.Note {
	var list []translate.Note
	add := func(prefix string, conditions []model.Condition) {
		for _, c := range conditions {
			if c.Status != routes.Good(c.Type) {
				list = append(list, translate.Note{Object: key, Text: prefix + c.Message})
			}
		}
	}
	add("", result.Conditions)
	for _, parent := range result.Parents {
		add("at "+parent.Ref.Kind+" "+parent.Ref.Name.String()+": ", parent.Conditions)
	}
	return list
}

// note logs what the writer of an object should know, once.
func (p *pipeline) note(key model.Key, notes []translate.Note) {
	text := ""
	for _, note := range notes {
		text += note.Text + "; "
	}
	if text == p.noted[key] {
		return
	}
	delete(p.noted, key)
	if text == "" {
		return
	}
	p.noted[key] = text
	for _, note := range notes {
		p.out.Warn(note.Text, "kind", string(key.Kind), "object", key.Name.String())
	}
}
