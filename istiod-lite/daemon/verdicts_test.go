package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/kube"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/routes"
)

// TestARejectedObjectSaysSoUntilItIsRightAgain although what translation says of its last good state changes meanwhile.
func TestARejectedObjectSaysSoUntilItIsRightAgain(t *testing.T) {
	var told []string
	v := writing(&told)
	name := model.Name{Namespace: "demo", Name: "p"}
	policy := model.Key{Kind: model.KindAuthorizationPolicy, Name: name}
	kind := decode.Kind{Kind: "AuthorizationPolicy", Model: model.KindAuthorizationPolicy}

	v.tell(policy, 1, []model.Condition{{Type: "ZtunnelAccepted", Status: true, Reason: "Accepted"}})
	v.reject(kube.Rejection{Kind: kind, Name: name, Generation: 2, Err: errors.New("spec.x: wrong")})
	v.tell(policy, 1, []model.Condition{{Type: "ZtunnelAccepted", Status: true, Reason: "Other"}})
	v.reject(kube.Rejection{Kind: kind, Name: name})
	v.tell(policy, 3, nil)
	want := []string{
		"demo/p 1 ZtunnelAccepted=true Accepted ",
		"event Invalid spec.x: wrong; what it said before stays in force",
		"demo/p 2 ZtunnelAccepted=false Invalid spec.x: wrong; what it said before stays in force",
		"demo/p 2 ZtunnelAccepted=false Invalid spec.x: wrong; what it said before stays in force",
		"event  ",
		"demo/p 1 ZtunnelAccepted=true Other ",
		"demo/p 3",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
}

// writing makes verdicts that write down what statuses and events are to say.
func writing(told *[]string) *verdicts {
	v := newVerdicts(slog.New(slog.DiscardHandler))
	say := func(about string, generation int64, conditions []model.Condition) {
		line := fmt.Sprint(about, " ", generation)
		for _, c := range conditions {
			line += fmt.Sprint(" ", c.Type, "=", c.Status, " ", c.Reason, " ", c.Message)
		}
		*told = append(*told, line)
	}
	v.set = func(key model.Key, generation int64, conditions []model.Condition) {
		say(key.String(), generation, conditions)
	}
	v.setParents = func(key model.Key, generation int64, parents []routes.Parent) {
		if len(parents) == 0 {
			say(key.String()+" at no parent", generation, nil)
		}
		for _, parent := range parents {
			say(key.String()+" at "+parent.Ref.Name.String(), generation, parent.Conditions)
		}
	}
	v.trouble = func(_ model.Key, _, reason, message string) { *told = append(*told, "event "+reason+" "+message) }
	return v
}

func TestARejectedRouteSaysSoAtTheParentsWhereItsLastGoodStateIsInForce(t *testing.T) {
	var told []string
	v := writing(&told)
	kind := decode.Kind{Kind: "HTTPRoute", Model: model.KindHTTPRoute}
	name := model.Name{Namespace: "demo", Name: "r"}
	key := model.Key{Kind: kind.Model, Name: name}
	parents := func(names ...string) (list []routes.Parent) {
		for _, name := range names {
			ref := model.ParentRef{ObjectRef: model.ObjectRef{Name: model.Name{Namespace: "demo", Name: name}}}
			list = append(list, routes.Parent{Ref: ref, Conditions: []model.Condition{{Type: "Accepted", Status: true, Reason: "Accepted"}}})
		}
		return list
	}
	v.reject(kube.Rejection{Kind: kind, Name: name, Generation: 1, Err: errors.New("spec.x: bad"), First: true})
	v.reject(kube.Rejection{Kind: kind, Name: name})
	v.tellParents(key, 2, parents("a", "b"))
	v.reject(kube.Rejection{Kind: kind, Name: name, Generation: 3, Err: errors.New("spec.x: wrong")})
	v.tellParents(key, 2, parents("b")) // the other is gone
	v.reject(kube.Rejection{Kind: kind, Name: name})
	v.tellParents(key, 4, parents("b"))
	v.tellParents(key, 0, nil)
	v.reject(kube.Rejection{Kind: kind, Name: name, Generation: 1, Err: errors.New("spec.x: bad"), First: true})
	const rejected = "Accepted=false UnsupportedValue spec.x: wrong; what it said before stays in force"
	want := []string{
		"event Invalid spec.x: bad; it isn't in force", "demo/r at no parent 1", "event  ",
		"demo/r at demo/a 2 Accepted=true Accepted ", "demo/r at demo/b 2 Accepted=true Accepted ",
		"event Invalid spec.x: wrong; what it said before stays in force", "demo/r at demo/a 3 " + rejected, "demo/r at demo/b 3 " + rejected,
		"demo/r at demo/b 3 " + rejected, "event  ", "demo/r at demo/b 4 Accepted=true Accepted ", "demo/r at no parent 0",
		"event Invalid spec.x: bad; it isn't in force", "demo/r at no parent 1",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
}

// What stands for a route that never had a good state has its parents.
func TestARouteThatNeverMadeSenseSaysSoAtItsParents(t *testing.T) {
	var told []string
	v := writing(&told)
	kind := decode.Kind{Kind: "HTTPRoute", Model: model.KindHTTPRoute}
	name := model.Name{Namespace: "demo", Name: "r"}
	key := model.Key{Kind: kind.Model, Name: name}
	at := routes.Parent{Ref: model.ParentRef{ObjectRef: model.ObjectRef{Name: model.Name{Namespace: "demo", Name: "web"}}}}
	v.reject(kube.Rejection{Kind: kind, Name: name, Generation: 1, Err: errors.New("spec.x: bad"), First: true, Closed: &model.Route{}})
	at.Conditions = []model.Condition{{Type: "Accepted", Reason: "UnsupportedValue", Message: "it can't be read"}, {Type: "ResolvedRefs", Status: true}}
	v.tellParents(key, 1, []routes.Parent{at})
	v.reject(kube.Rejection{Kind: kind, Name: name})
	at.Conditions = []model.Condition{{Type: "Accepted", Status: true, Reason: "Accepted"}}
	v.tellParents(key, 2, []routes.Parent{at})
	const bad = "spec.x: bad; it said nothing before, so it isn't in force"
	want := []string{
		"event Invalid " + bad, "demo/r at no parent 1", "demo/r at demo/web 1 Accepted=false UnsupportedValue " + bad,
		"event  ", "demo/r at demo/web 2 Accepted=true Accepted ",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
}

func TestARejectedRequestAuthenticationSaysWhatItMeansForTokens(t *testing.T) {
	var told []string
	v := writing(&told)
	kind := decode.Kind{Kind: "RequestAuthentication", Model: model.KindRequestAuthentication}
	name := model.Name{Namespace: "demo", Name: "jwt"}
	v.reject(kube.Rejection{Kind: kind, Name: name, Generation: 1, Err: errors.New("spec: bad"), First: true, Closed: &model.RequestAuthentication{}})
	v.tell(model.Key{Kind: kind.Model, Name: name}, 1, []model.Condition{{Type: "WaypointAccepted", Status: true, Reason: "Accepted"}})
	const message = "spec: bad; it said nothing before, so no token is good"
	const status = "demo/jwt 1 WaypointAccepted=false Invalid " + message
	if want := []string{"event Invalid " + message, status, status}; !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
}

func TestARejectedPolicySaysSoInPlaceOfWhoeverEnforcesIt(t *testing.T) {
	var told []string
	v := writing(&told)
	kind := decode.Kind{Kind: "AuthorizationPolicy", Model: model.KindAuthorizationPolicy}
	name := model.Name{Namespace: "demo", Name: "p"}
	key := model.Key{Kind: kind.Model, Name: name}
	v.reject(kube.Rejection{Kind: kind, Name: name, Generation: 1, Err: errors.New("spec: bad"), First: true, Closed: &model.AuthorizationPolicy{Action: model.Allow}})
	v.tell(key, 1, []model.Condition{{Type: "WaypointAccepted", Status: true, Reason: "Accepted"}}) // of what lets nobody in
	v.reject(kube.Rejection{Kind: kind, Name: name})
	v.tell(key, 2, nil)
	const wrong = "spec: bad; it said nothing before, so it lets nobody in"
	want := []string{
		"event Invalid " + wrong, "demo/p 1 ZtunnelAccepted=false Invalid " + wrong, "demo/p 1 WaypointAccepted=false Invalid " + wrong,
		"event  ", "demo/p 1 WaypointAccepted=true Accepted ", "demo/p 2",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
}

// What deploys a Gateway says so in its status, in place of a second writer.
func TestARejectedGatewayIsToldByWhatDeploysIt(t *testing.T) {
	var told []string
	v := newVerdicts(slog.New(slog.DiscardHandler))
	v.gateway = func(name model.Name, generation int64, message string) {
		told = append(told, fmt.Sprint(name, " ", generation, " ", message))
	}
	kind := decode.Kind{Kind: "Gateway", Model: model.KindGateway}
	name := model.Name{Namespace: "demo", Name: "waypoint"}
	v.reject(kube.Rejection{Kind: kind, Name: name, Generation: 2, Err: errors.New("spec.listeners[0].port: wrong")})
	v.reject(kube.Rejection{Kind: kind, Name: name})
	if want := []string{"demo/waypoint 2 spec.listeners[0].port: wrong", "demo/waypoint 0 "}; !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
}

// What takes the place of an object that can't be read isn't the same for all.
func TestARejectionSaysWhatIsInForceInstead(t *testing.T) {
	for want, r := range map[string]kube.Rejection{
		"what it said before stays in force":           {},
		"it isn't in force":                            {First: true},
		"it said nothing before, so it lets nobody in": {First: true, Closed: &model.AuthorizationPolicy{Action: model.Allow}},
		"it said nothing before, so as a dry run it refuses everybody, which is only told":               {First: true, Closed: &model.AuthorizationPolicy{Action: model.Allow, DryRun: true}},
		"it said nothing before, so nothing is audited for it; it refuses nobody":                        {First: true, Closed: &model.AuthorizationPolicy{Action: model.Audit}},
		"it said nothing before, so its waypoints refuse all requests that it is about":                  {First: true, Closed: &model.AuthorizationPolicy{Action: model.Custom, Targeted: true}},
		"it said nothing before, so it has no effect, as CUSTOM policies have none outside of waypoints": {First: true, Closed: &model.AuthorizationPolicy{Action: model.Custom}},
		"it said nothing before, so nobody is let in without mutual TLS":                                 {First: true, Closed: &model.PeerAuthentication{}},
		"it said nothing before, so no token is good":                                                    {First: true, Closed: &model.RequestAuthentication{}},
	} {
		if got := consequence(r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
