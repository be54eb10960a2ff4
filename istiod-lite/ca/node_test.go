package ca

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// town has ztunnel and an app on node1, and another app on node2.
func town() Pods {
	pods := map[string]Pod{
		"istio-system/ztunnel-1": {UID: "1", Node: "node1", ServiceAccount: "ztunnel"},
		"istio-system/ztunnel-9": {UID: "9", ServiceAccount: "ztunnel"},
	}
	return Pods{
		Find: func(namespace, name string) (Pod, bool) {
			pod, known := pods[namespace+"/"+name]
			return pod, known
		},
		Runs: func(node, namespace, account string) bool {
			where := map[string]string{"demo/frontend": "node1", "demo/backend": "node2"}
			return where[namespace+"/"+account] == node
		},
	}
}

// ztunnel is the caller that may impersonate; change alters it before.
func ztunnel(change func(*Caller)) Caller {
	caller := Caller{Namespace: "istio-system", ServiceAccount: "ztunnel", Pod: "ztunnel-1", PodUID: "1"}
	if change != nil {
		change(&caller)
	}
	return caller
}

const frontendID = "spiffe://cluster.local/ns/demo/sa/frontend"

func TestWhoMayImpersonateWhom(t *testing.T) {
	s := &Server{cfg: Config{
		TrustDomains: func() []string { return []string{"cluster.local", "old.example"} }, TrustedNodeAccounts: []string{"istio-system/ztunnel"}, Pods: town(),
	}}
	good := func(*Caller) {}
	for name, c := range map[string]struct {
		caller func(*Caller)
		id     string
		err    string // of the log; empty if it may
		code   codes.Code
	}{
		"a pod of its node":                  {good, frontendID, "", codes.OK},
		"under an alias of the trust domain": {good, "spiffe://old.example/ns/demo/sa/frontend", "", codes.OK},
		"the token names the node, too":      {func(c *Caller) { c.Node = "node1" }, frontendID, "", codes.OK},
		"a token that names the node alone":  {func(c *Caller) { c.Pod, c.PodUID, c.Node = "", "", "node1" }, frontendID, "", codes.OK},
		"itself":                             {good, "", "", codes.OK},

		"a pod of another node":             {good, "spiffe://cluster.local/ns/demo/sa/backend", "node node1 has no running pod of account demo/backend", codes.Unauthenticated},
		"an account without a pod":          {good, "spiffe://cluster.local/ns/demo/sa/nobody", "node node1 has no running pod of account demo/nobody", codes.Unauthenticated},
		"another trust domain":              {good, "spiffe://evil.example/ns/demo/sa/frontend", "of another trust domain than cluster.local, old.example", codes.Unauthenticated},
		"an odd trust domain":               {good, "spiffe://cluster.local.evil/ns/demo/sa/frontend", "of another trust domain than", codes.Unauthenticated},
		"no SPIFFE identity":                {good, "https://cluster.local/ns/demo/sa/frontend", "https://cluster.local", codes.Unauthenticated},
		"an odd path":                       {good, frontendID + "/x", "sa/frontend/x", codes.Unauthenticated},
		"an account that isn't trusted":     {func(c *Caller) { c.ServiceAccount = "other" }, frontendID, "account istio-system/other may not impersonate: it is not among the trusted node accounts [istio-system/ztunnel]", codes.Unauthenticated},
		"its name in another namespace":     {func(c *Caller) { c.Namespace = "demo" }, frontendID, "account demo/ztunnel may not impersonate", codes.Unauthenticated},
		"a token of no pod and no node":     {func(c *Caller) { c.Pod, c.PodUID = "", "" }, frontendID, "names neither a node nor a pod", codes.Unauthenticated},
		"a token that names another node":   {func(c *Caller) { c.Node = "node2" }, frontendID, `on node "node1", but the token names node "node2"`, codes.Unauthenticated},
		"a pod that isn't known yet":        {func(c *Caller) { c.Pod = "ztunnel-2" }, frontendID, "istio-system/ztunnel-2 is not known here yet", codes.Unavailable},
		"a pod that came anew":              {func(c *Caller) { c.PodUID = "2" }, frontendID, `has uid "1" here, but the token is bound to uid "2"`, codes.Unavailable},
		"a pod that isn't scheduled yet":    {func(c *Caller) { c.Pod, c.PodUID = "ztunnel-9", "9" }, frontendID, "has no node here yet", codes.Unavailable},
		"a token that doesn't tell the uid": {func(c *Caller) { c.PodUID = "" }, frontendID, `bound to uid ""`, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := s.identify(ztunnel(c.caller), c.id)
			if c.err == "" {
				want := c.id
				if want == "" {
					want = "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
				}
				if err != nil || id.String() != want {
					t.Errorf("%s, %v", id, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Fatalf("want %q, have %v", c.err, err)
			}
			answer := Opaque(err, "constant")
			if status.Code(answer) != c.code || strings.Contains(answer.Error(), c.err) || !strings.Contains(answer.Error(), "constant") {
				t.Errorf("answer: %v", answer)
			}
		})
	}
}

func TestAPodThatIsOfAnotherAccountHereIsRefused(t *testing.T) {
	pods := Pods{Find: func(string, string) (Pod, bool) { return Pod{UID: "1", Node: "node1", ServiceAccount: "other"}, true }}
	if _, err := pods.Node(ztunnel(nil)); err == nil || !strings.Contains(err.Error(), `has account "other", but the token is of "ztunnel"`) || errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

func TestMetricsFollowTheAuthority(t *testing.T) {
	registry := prometheus.NewRegistry()
	live := NewLive(newRoot(t, 1000))
	newMetrics(registry, live)
	expiry := func() float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			if family.GetName() == "citadel_server_root_cert_expiry_timestamp" {
				return family.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Fatal("no such metric")
		return 0
	}
	before := expiry()
	changed := live.Changed()
	if !live.Set(newRoot(t, 2000)) {
		t.Error("nothing changed")
	}
	<-changed
	if after := expiry(); after < before+900*3600 {
		t.Errorf("%v, then %v", before, after)
	}
}
