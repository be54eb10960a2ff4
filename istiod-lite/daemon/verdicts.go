package daemon

import (
	"log/slog"
	"slices"
	"sync"

	"github.com/tulle-mesh/tulle/istiod-lite/kube"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/routes"
)

// verdicts joins what there is to say of objects in their statuses: what translation says of those in force, and what the
// source says of those whose present state isn't. The latter goes before the former.
type verdicts struct {
	// set takes the conditions of an object, setParents those of a route at each of its parents, trouble what is wrong with an
	// object, or nothing. None waits.
	set        func(model.Key, int64, []model.Condition)
	setParents func(model.Key, int64, []routes.Parent)
	trouble    func(key model.Key, uid, reason, message string)
	// gateway takes what keeps the present state of a Gateway from being used, or nothing. It doesn't wait.
	gateway func(name model.Name, generation int64, message string)
	log     *slog.Logger

	lock     sync.Mutex
	rejected map[model.Key]*rejected
	// Of those in force, since a state that can't be read may say something else, or nothing.
	parents  map[model.Key][]routes.Parent // of routes
	targeted map[model.Key]struct{}        // policies that waypoints enforce
}

// rejected is a present state that isn't in force, and what translation has told meanwhile of the one that is, for when that is
// so again. Of what it hasn't it will tell then, since the object changes.
type rejected struct {
	generation int64
	message    string
	held       *verdict
}

// verdict is what translation says of an object.
type verdict struct {
	generation int64
	conditions []model.Condition
}

func newVerdicts(log *slog.Logger) *verdicts {
	return &verdicts{
		set: func(model.Key, int64, []model.Condition) {}, setParents: func(model.Key, int64, []routes.Parent) {},
		trouble: func(model.Key, string, string, string) {}, gateway: func(model.Name, int64, string) {}, log: log,
		rejected: make(map[model.Key]*rejected), parents: make(map[model.Key][]routes.Parent), targeted: make(map[model.Key]struct{}),
	}
}

// tell takes what translation says of an object.
func (v *verdicts) tell(key model.Key, generation int64, conditions []model.Condition) {
	v.lock.Lock()
	defer v.lock.Unlock()
	delete(v.targeted, key)
	if slices.ContainsFunc(conditions, func(c model.Condition) bool { return c.Type == model.WaypointAccepted }) {
		v.targeted[key] = struct{}{}
	}
	if r := v.rejected[key]; r != nil {
		r.held = &verdict{generation, conditions}
		v.refuse(key, r)
		return
	}
	v.set(key, generation, conditions)
}

// tellParents takes what translation says of a route at its parents.
func (v *verdicts) tellParents(key model.Key, generation int64, parents []routes.Parent) {
	v.lock.Lock()
	defer v.lock.Unlock()
	if len(parents) == 0 {
		delete(v.parents, key)
	} else {
		v.parents[key] = parents
	}
	if r := v.rejected[key]; r != nil {
		v.refuse(key, r)
		return
	}
	v.setParents(key, generation, parents)
}

// refuse says in the object's status what is in the way of its present state; the Gateways' is another's.
func (v *verdicts) refuse(key model.Key, r *rejected) {
	of := model.ZtunnelAccepted
	if _, targeted := v.targeted[key]; targeted || key.Kind == model.KindRequestAuthentication {
		of = model.WaypointAccepted
	}
	switch key.Kind {
	case model.KindAuthorizationPolicy, model.KindRequestAuthentication:
		v.set(key, r.generation, []model.Condition{{Type: of, Reason: "Invalid", Message: r.message}})
	case model.KindHTTPRoute, model.KindGRPCRoute, model.KindTLSRoute, model.KindTCPRoute, model.KindBackendTLSPolicy:
		v.refuseAtParents(key, r)
	}
}

// refuseAtParents says at the parents of what is in force that something else should be.
func (v *verdicts) refuseAtParents(key model.Key, r *rejected) {
	var refused []routes.Parent
	for _, parent := range v.parents[key] {
		condition := model.Condition{Type: model.Accepted, Reason: "UnsupportedValue", Message: r.message}
		if key.Kind == model.KindBackendTLSPolicy {
			condition.Reason = "Invalid"
		}
		refused = append(refused, routes.Parent{Ref: parent.Ref, Conditions: []model.Condition{condition}})
	}
	v.setParents(key, r.generation, refused)
}

// reject takes what the source says of one.
func (v *verdicts) reject(r kube.Rejection) {
	key := r.Key()
	log := v.log.With("kind", r.Kind.Kind, "object", r.Name.String())
	v.lock.Lock()
	defer v.lock.Unlock()
	if r.Err == nil {
		log.Info("object used again, or gone")
		v.trouble(key, r.UID, "", "")
		if was := v.rejected[key]; was != nil && was.held != nil {
			v.set(key, was.held.generation, was.held.conditions)
		}
		delete(v.rejected, key)
		if key.Kind == model.KindGateway {
			v.gateway(key.Name, 0, "")
		}
		return
	}
	message := r.Err.Error() + "; " + consequence(r)
	log.Error("object not used, "+consequence(r), "err", r.Err)
	if r.Name == (model.Name{}) {
		return
	}
	now := v.rejected[key]
	if now == nil {
		now = new(rejected)
		v.rejected[key] = now
	}
	now.generation, now.message = r.Generation, message
	v.trouble(key, r.UID, "Invalid", message)
	v.refuse(key, now)
	if key.Kind == model.KindGateway {
		v.gateway(key.Name, r.Generation, r.Err.Error())
	}
}

// consequence says what is in force instead.
func consequence(r kube.Rejection) string {
	switch {
	case r.Closed != nil:
		return "it said nothing before, so " + closes(r.Closed)
	case r.First:
		return "it isn't in force"
	}
	return "what it said before stays in force"
}

// closes says what becomes of connections and requests by an object that fails closed.
func closes(object model.Object) string {
	switch o := object.(type) {
	case *model.Route:
		return "it isn't in force"
	case *model.RequestAuthentication:
		return "no token is good"
	case *model.BackendTLSPolicy:
		return "its backends aren't spoken to"
	case *model.PeerAuthentication:
		return "nobody is let in without mutual TLS"
	case *model.AuthorizationPolicy:
		switch {
		case o.DryRun:
			return "as a dry run it refuses everybody, which is only told"
		case o.Action == model.Audit:
			return "nothing is audited for it; it refuses nobody"
		case o.Action == model.Custom && o.Targeted:
			return "its waypoints refuse all requests that it is about"
		case o.Action == model.Custom:
			return "it has no effect, as CUSTOM policies have none outside of waypoints"
		}
	}
	return "it lets nobody in"
}
