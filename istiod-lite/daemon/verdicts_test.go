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
)

// TestARejectedObjectSaysSoUntilItIsRightAgain although what translation says of its last good state changes meanwhile.
func TestARejectedObjectSaysSoUntilItIsRightAgain(t *testing.T) {
	var told []string
	v := newVerdicts(slog.New(slog.DiscardHandler))
	v.set = func(key model.Key, generation int64, conditions []model.Condition) {
		line := fmt.Sprint(key.Name, " ", generation)
		for _, c := range conditions {
			line += fmt.Sprint(" ", c.Type, "=", c.Status, " ", c.Reason, " ", c.Message)
		}
		told = append(told, line)
	}
	v.trouble = func(_ model.Key, _, reason, message string) { told = append(told, "event "+reason+" "+message) }
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
		"event  ",
		"demo/p 1 ZtunnelAccepted=true Other ",
		"demo/p 3",
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
