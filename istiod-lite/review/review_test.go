package review

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

// answered is the API server's answer to a good token of node1's ztunnel; change alters it before.
func answered(change func(*authv1.TokenReviewStatus)) authv1.TokenReviewStatus {
	status := authv1.TokenReviewStatus{
		Authenticated: true, Audiences: []string{"istio-ca"},
		User: authv1.UserInfo{
			Username: "system:serviceaccount:istio-system:ztunnel",
			Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:istio-system", "system:authenticated"},
			Extra: map[string]authv1.ExtraValue{
				podName: {"ztunnel-1"}, podUID: {"uid-1"}, nodeName: {"node1"}, "authentication.kubernetes.io/node-uid": {"uid-2"},
			},
		},
	}
	if change != nil {
		change(&status)
	}
	return status
}

func TestWhoseAReviewedTokenIs(t *testing.T) {
	type status = authv1.TokenReviewStatus
	whole := ca.Caller{Namespace: "istio-system", ServiceAccount: "ztunnel", Node: "node1", Pod: "ztunnel-1", PodUID: "uid-1"}
	for name, c := range map[string]struct {
		change func(*status)
		want   ca.Caller
		err    string
	}{
		"a pod's":                      {nil, whole, ""},
		"of an API server before 1.30": {func(s *status) { delete(s.User.Extra, nodeName) }, ca.Caller{Namespace: "istio-system", ServiceAccount: "ztunnel", Pod: "ztunnel-1", PodUID: "uid-1"}, ""},
		"bound to nothing":             {func(s *status) { s.User.Extra = nil }, ca.Caller{Namespace: "istio-system", ServiceAccount: "ztunnel"}, ""},
		"for several audiences":        {func(s *status) { s.Audiences = []string{"vault", "istio-ca"} }, whole, ""},

		"not authenticated":        {func(s *status) { *s = status{Error: "token has expired"} }, ca.Caller{}, "the API server refuses the token: token has expired"},
		"refused without reason":   {func(s *status) { s.Authenticated = false }, ca.Caller{}, "it gives no reason"},
		"for another audience":     {func(s *status) { s.Audiences = []string{"vault"} }, ca.Caller{}, `audiences ["vault"], none of ["istio-ca"]`},
		"for no audience":          {func(s *status) { s.Audiences = nil }, ca.Caller{}, "none of"},
		"of a person":              {func(s *status) { s.User.Username, s.User.Groups = "alice", []string{"system:authenticated"} }, ca.Caller{}, `"alice", which is no service account`},
		"of a person named so":     {func(s *status) { s.User.Groups = []string{"system:authenticated"} }, ca.Caller{}, "which is no service account"},
		"of a node":                {func(s *status) { s.User.Username = "system:node:node1" }, ca.Caller{}, "want system:serviceaccount:NAMESPACE:NAME"},
		"with a longer name":       {func(s *status) { s.User.Username += ":x" }, ca.Caller{}, "want system:serviceaccount:NAMESPACE:NAME"},
		"with an empty namespace":  {func(s *status) { s.User.Username = "system:serviceaccount::ztunnel" }, ca.Caller{}, "want system:serviceaccount:NAMESPACE:NAME"},
		"with an empty account":    {func(s *status) { s.User.Username = "system:serviceaccount:istio-system:" }, ca.Caller{}, "want system:serviceaccount:NAMESPACE:NAME"},
		"of two pods":              {func(s *status) { s.User.Extra[podName] = authv1.ExtraValue{"a", "b"} }, ca.Caller{}, "2 values of authentication.kubernetes.io/pod-name"},
		"of a pod without its uid": {func(s *status) { delete(s.User.Extra, podUID) }, ca.Caller{}, "want both or neither"},
		"of a uid without its pod": {func(s *status) { s.User.Extra[podName] = authv1.ExtraValue{""} }, ca.Caller{}, "want both or neither"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := callerOf(answered(c.change), []string{"istio-ca"})
			if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// reviewer asks an API server that nobody can reach.
func reviewer(t *testing.T) *Reviewer {
	t.Helper()
	r, err := New(Config{API: &rest.Config{Host: "http://127.0.0.1:1"}, ClusterID: "east"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func call(address string, headers ...string) context.Context {
	ctx := peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(address), Port: 1}})
	return metadata.NewIncomingContext(ctx, metadata.Pairs(headers...))
}

func TestCallsThatNeedNoReview(t *testing.T) {
	r := reviewer(t)
	r.cache = newCache(func(context.Context, string) (ca.Caller, error) {
		t.Error("reviewed")
		return ca.Caller{}, nil
	})
	for want, headers := range map[string][]string{
		"no token":                               {},
		"want one authorization header":          {"authorization", "Bearer a", "authorization", "Bearer b"},
		"with a bearer token":                    {"authorization", "Basic a"},
		"token exceeds":                          {"authorization", "Bearer " + strings.Repeat("x", maxToken+1)},
		`cluster "west", but this is "east"`:     {"authorization", "Bearer a", "clusterid", "west"},
		`cluster "\x1b[31m", but this is "east"`: {"authorization", "Bearer a", "clusterid", "\x1b[31m"},
	} {
		if _, err := r.Authenticate(call("10.0.0.1", headers...)); err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ca.ErrUnavailable) {
			t.Errorf("want %q, have %v", want, err)
		}
	}
}

func TestAnAPIServerThatIsAwayIsNotTheCallersFault(t *testing.T) {
	if _, err := reviewer(t).Authenticate(call("10.0.0.1", "authorization", "Bearer a", "clusterid", "east")); !errors.Is(err, ca.ErrUnavailable) {
		t.Error(err)
	}
}

func TestAnAddressThatSendsBadTokensIsLeftAlone(t *testing.T) {
	r := reviewer(t)
	for i := range failuresAtOnce {
		if !r.failed.Allow("10.0.0.1") {
			t.Fatalf("after %d", i)
		}
	}
	_, err := r.Authenticate(call("10.0.0.1", "authorization", "Bearer a"))
	if !errors.Is(err, ca.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "10.0.0.1 has sent too many bad tokens") {
		t.Error(err)
	}
	if _, err := r.Authenticate(call("10.0.0.2", "authorization", "Bearer b")); err == nil || strings.Contains(err.Error(), "too many") {
		t.Errorf("another address: %v", err)
	}
	// Else a revoked token would last as long as somebody sends bad ones.
	again := ca.WithCaller(call("10.0.0.1", "authorization", "Bearer c"), ca.Caller{})
	if _, err := r.Authenticate(again); err == nil || strings.Contains(err.Error(), "too many") {
		t.Errorf("a caller that was proven before: %v", err)
	}
}

// TestReviewsBeyondTheLimitWait for others to end, but no longer than a review may take.
func TestReviewsBeyondTheLimitWait(t *testing.T) {
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-answer:
		case <-r.Context().Done():
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(authv1.TokenReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}, Status: answered(nil),
		})
	}))
	defer api.Close()
	r, err := New(Config{API: &rest.Config{Host: api.URL}, Audiences: []string{"istio-ca"}})
	if err != nil {
		t.Fatal(err)
	}
	r.slots, r.timeout = make(chan struct{}, 2), 10*time.Second
	results := make(chan error, 3)
	for i := range 3 {
		go func() {
			_, err := r.Authenticate(call("10.0.0.1", "authorization", fmt.Sprint("Bearer ", i)))
			results <- err
		}()
	}
	<-asked
	<-asked
	select {
	case <-asked:
		t.Error("a third of two is asked for")
	case <-time.After(50 * time.Millisecond):
	}
	hasty := *r
	hasty.timeout = time.Millisecond
	if _, err := hasty.review(call("10.0.0.1"), "x"); !errors.Is(err, ca.ErrUnavailable) || !strings.Contains(err.Error(), "2 tokens are being reviewed already") {
		t.Errorf("one that can't wait: %v", err)
	}
	close(answer)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}
