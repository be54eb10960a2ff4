package daemon

import (
	"log/slog"
	"sync"

	"github.com/tulle-mesh/tulle/istiod-lite/kube"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// verdicts joins what there is to say of objects in their statuses: what translation says of those in force, and what the
// source says of those whose present state isn't. The latter goes before the former.
type verdicts struct {
	// set takes the conditions of an object, trouble what is wrong with it, or nothing. Neither waits.
	set     func(model.Key, int64, []model.Condition)
	trouble func(key model.Key, uid, reason, message string)
	// gateway takes what keeps the present state of a Gateway from being used, or nothing. It doesn't wait.
	gateway func(name model.Name, generation int64, message string)
	log     *slog.Logger

	lock     sync.Mutex
	rejected map[model.Key]*verdict // of translation, for when the object is right again
}

type verdict struct {
	known      bool // something was told meanwhile; else it will be, since the object changes
	generation int64
	conditions []model.Condition
}

func newVerdicts(log *slog.Logger) *verdicts {
	return &verdicts{
		set: func(model.Key, int64, []model.Condition) {}, trouble: func(model.Key, string, string, string) {},
		gateway: func(model.Name, int64, string) {}, log: log,
		rejected: make(map[model.Key]*verdict),
	}
}

// tell takes what translation says of an object.
func (v *verdicts) tell(key model.Key, generation int64, conditions []model.Condition) {
	v.lock.Lock()
	defer v.lock.Unlock()
	if held := v.rejected[key]; held != nil {
		*held = verdict{true, generation, conditions}
		return
	}
	v.set(key, generation, conditions)
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
		if held := v.rejected[key]; held != nil && held.known {
			v.set(key, held.generation, held.conditions)
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
	if v.rejected[key] == nil {
		v.rejected[key] = new(verdict)
	}
	v.trouble(key, r.UID, "Invalid", message)
	switch key.Kind {
	case model.KindGateway:
		v.gateway(key.Name, r.Generation, r.Err.Error())
	case model.KindAuthorizationPolicy:
		v.set(key, r.Generation, []model.Condition{{Type: "ZtunnelAccepted", Reason: "Invalid", Message: message}})
	}
}

// consequence says what is in force instead.
func consequence(r kube.Rejection) string {
	switch {
	case r.Closed:
		return "it said nothing before, so it lets nobody in"
	case r.First:
		return "it isn't in force"
	}
	return "what it said before stays in force"
}
