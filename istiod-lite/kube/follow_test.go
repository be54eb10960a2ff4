package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// script answers what is asked about one kind, request by request, over a real connection; other kinds are absent. What a
// real API server does is tested with one; here is what one does seldom.
type script struct {
	t        *testing.T
	resource string
	steps    []func(http.ResponseWriter, *http.Request)

	lock  sync.Mutex
	asked []string // lists, and "watch VERSION"
	known map[model.Key]string
	bad   []Rejection
}

func run(t *testing.T, resource string, steps ...func(http.ResponseWriter, *http.Request)) *script {
	t.Helper()
	t.Parallel()
	s := &script{t: t, resource: resource, steps: steps, known: make(map[model.Key]string)}
	server := httptest.NewServer(s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	source := &Source{
		API: &rest.Config{Host: server.URL}, SystemNamespace: "istio-system", Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
		Apply: func(changes []model.Change) {
			s.lock.Lock()
			defer s.lock.Unlock()
			for _, change := range changes {
				if s.known[change.Key] = describe(change.Object); change.Object == nil {
					delete(s.known, change.Key)
				}
			}
		},
		Reject: func(r Rejection) {
			s.lock.Lock()
			defer s.lock.Unlock()
			s.bad = append(s.bad, r)
		},
	}
	go func() { done <- source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

func describe(object model.Object) string {
	if o, ok := object.(*model.AuthorizationPolicy); ok {
		return fmt.Sprintf("%s %s %d rules", o.Name, o.Action, len(o.Rules))
	} else if object == nil {
		return ""
	}
	return object.Key().Name.Name
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/"+s.resource) {
		refuse(404, "NotFound")(w, r)
		return
	}
	asked := "list"
	if r.URL.Query().Get("watch") != "" {
		asked = "watch " + r.URL.Query().Get("resourceVersion")
	}
	s.lock.Lock()
	s.asked = append(s.asked, asked+r.URL.Query().Get("continue"))
	step := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	if len(s.asked) <= len(s.steps) {
		step = s.steps[len(s.asked)-1]
	}
	s.lock.Unlock()
	w.Header().Set("Content-Type", "application/json")
	step(w, r)
}

// until waits for the objects to be known, and for the requests to be made.
func (s *script) until(asked []string, known ...string) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		s.lock.Lock()
		have := slices.Sorted(maps.Values(s.known))
		done := slices.Equal(have, known) && slices.Equal(s.asked, asked)
		state := fmt.Sprintf("asked %q, known %q, rejected %v", s.asked, have, s.bad)
		s.lock.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("want %q, %q; have %s", asked, known, state)
		}
	}
}

func refuse(code int, reason string, causes ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		var list []map[string]string
		for _, cause := range causes {
			list = append(list, map[string]string{"reason": cause})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "code": code, "reason": reason, "message": "no", "details": map[string]any{"causes": list}})
	}
}

func listed(version, next string, names ...string) func(http.ResponseWriter, *http.Request) {
	items := []string{}
	for _, name := range names {
		items = append(items, named(name, version))
	}
	return raw(`{"metadata":{"resourceVersion":"` + version + `","continue":"` + next + `"},"items":[` + strings.Join(items, ",") + `]}`)
}

func named(name, version string) string {
	return `{"metadata":{"name":"` + name + `","resourceVersion":"` + version + `"}}`
}

func raw(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
}

func changed(kind, object string) string { return `{"type":"` + kind + `","object":` + object + "}\n" }

func TestAWatchThatEndsIsBegunWhereItWas(t *testing.T) {
	s := run(t, "nodes", listed("5", "", "a", "b"),
		raw(changed("ADDED", named("c", "6"))+changed("DELETED", named("a", "7"))+changed("BOOKMARK", named("", "9"))),
		raw(changed("MODIFIED", named("d", "10"))[:20]))
	s.until([]string{"list", "watch 5", "watch 9", "watch 9"}, "b", "c")
}

func TestAListComesInPages(t *testing.T) {
	s := run(t, "nodes", listed("5", "-2", "a"), listed("5", "-3", "b"), listed("5", "", "c"))
	s.until([]string{"list", "list-2", "list-3", "watch 5"}, "a", "b", "c")
}

func TestAPageTokenThatExpiredBeginsTheListAnew(t *testing.T) {
	s := run(t, "nodes", listed("5", "-2", "a"), refuse(410, "Expired"), listed("6", "", "a", "b"))
	s.until([]string{"list", "list-2", "list", "watch 6"}, "a", "b")
}

func TestWhatWasDeletedUnseenIsFoundByListingAgain(t *testing.T) {
	gone := changed("ERROR", `{"kind":"Status","code":410,"reason":"Expired","message":"too old"}`)
	s := run(t, "nodes", listed("5", "", "a", "b"), raw(gone), listed("9", "", "b", "c"))
	s.until([]string{"list", "watch 5", "list", "watch 9"}, "b", "c")
}

func TestAServerThatWasSetBackIsListedAgain(t *testing.T) {
	s := run(t, "nodes", listed("500", "", "a"), refuse(504, "Timeout", "ResourceVersionTooLarge"), listed("9", "", "b"))
	s.until([]string{"list", "watch 500", "list", "watch 9"}, "b")
}

func TestRefusalsThatPassAreWaitedOut(t *testing.T) {
	s := run(t, "nodes", refuse(403, "Forbidden"), raw("not JSON"), refuse(429, "TooManyRequests"), listed("5", "", "a"), refuse(503, "ServiceUnavailable"), refuse(504, "Timeout"))
	s.until([]string{"list", "list", "list", "list", "watch 5", "watch 5", "watch 5"}, "a")
}

const badPolicy = `{"metadata":{"name":"p","namespace":"demo","resourceVersion":"6"},"spec":{"rules":[{"from":[{"source":{"ipBlocks":["x"]}}]}]}}`

func goodPolicy(version string) string {
	return `{"metadata":{"name":"p","namespace":"demo","resourceVersion":"` + version + `"},"spec":{"action":"DENY","rules":[{"from":[{"source":{"ipBlocks":["10.0.0.1"]}}]}]}}`
}

func (s *script) rejected() []Rejection {
	s.lock.Lock()
	defer s.lock.Unlock()
	return slices.Clone(s.bad)
}

func TestTheLastGoodStateStaysInForce(t *testing.T) {
	good := raw(`{"metadata":{"resourceVersion":"5"},"items":[` + goodPolicy("5") + `]}`)
	s := run(t, "authorizationpolicies", good, raw(changed("MODIFIED", badPolicy)+changed("MODIFIED", badPolicy)))
	s.until([]string{"list", "watch 5", "watch 6"}, "p DENY 1 rules")
	bad := s.rejected()
	if len(bad) != 1 || bad[0].First || bad[0].Closed || bad[0].Name.String() != "demo/p" ||
		!strings.Contains(bad[0].Err.Error(), "spec.rules[0].from[0].source.ipBlocks[0]: want an address") {
		t.Errorf("rejected %+v", bad)
	}
}

func TestAPolicyThatNeverMadeSenseLetsNobodyIn(t *testing.T) {
	mended := make(chan struct{})
	s := run(t, "authorizationpolicies", raw(`{"metadata":{"resourceVersion":"5"},"items":[`+badPolicy+`,{"metadata":7},null]}`),
		func(w http.ResponseWriter, r *http.Request) {
			<-mended
			raw(changed("MODIFIED", goodPolicy("7")))(w, r)
		})
	s.until([]string{"list", "watch 5"}, "p ALLOW 0 rules")
	close(mended)
	s.until([]string{"list", "watch 5", "watch 7"}, "p DENY 1 rules")
	if bad := s.rejected(); len(bad) != 4 || !bad[0].First || !bad[0].Closed || bad[3].Err != nil || bad[3].Key().String() != "demo/p" {
		t.Errorf("rejected %+v", bad)
	}
}

func TestAFieldOfANewerVersionIsRefused(t *testing.T) {
	s := run(t, "authorizationpolicies", raw(`{"metadata":{"resourceVersion":"5"},"items":[`+strings.Replace(goodPolicy("5"), `"action"`, `"novel":1,"action"`, 1)+`]}`))
	s.until([]string{"list", "watch 5"}, "p ALLOW 0 rules")
	if bad := s.rejected(); len(bad) != 1 || !strings.Contains(bad[0].Err.Error(), "novel") {
		t.Errorf("rejected %+v", bad)
	}
}
