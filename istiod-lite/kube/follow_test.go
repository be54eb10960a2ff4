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
	"sync/atomic"
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
	streams  bool // what there is; else it has to be listed, as with servers that are older
	steps    []func(http.ResponseWriter, *http.Request)
	source   *Source

	lock  sync.Mutex
	said  []string // of the resource, to the log
	asked []string // lists, and "stream VERSION", and "watch VERSION"
	known map[model.Key]string
	heard []string // +NAME and -NAME
	bad   []Rejection
}

func run(t *testing.T, resource string, steps ...func(http.ResponseWriter, *http.Request)) *script {
	t.Helper()
	return (&script{t: t, resource: resource, steps: steps}).start()
}

// stream is run with a server that streams what there is.
func stream(t *testing.T, resource string, steps ...func(http.ResponseWriter, *http.Request)) *script {
	t.Helper()
	return (&script{t: t, resource: resource, streams: true, steps: steps}).start()
}

func (s *script) start() *script {
	t := s.t
	t.Parallel()
	s.known = make(map[model.Key]string)
	server := httptest.NewServer(s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s.source = &Source{
		API: &rest.Config{Host: server.URL}, SystemNamespace: "istio-system", Registry: prometheus.NewRegistry(), Log: slog.New(s),
		Apply: func(changes []model.Change) {
			s.lock.Lock()
			defer s.lock.Unlock()
			for _, change := range changes {
				sign := "+"
				if change.Object == nil {
					sign = "-"
				}
				s.heard = append(s.heard, sign+strings.TrimPrefix(change.Key.Name.String(), "/"))
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
	go func() { done <- s.source.Run(ctx) }()
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

// Enabled, Handle, WithAttrs and WithGroup make it a log of what isn't about absent kinds.
func (s *script) Enabled(context.Context, slog.Level) bool { return true }

func (s *script) Handle(_ context.Context, record slog.Record) error {
	if !strings.Contains(record.Message, "doesn't have the kind") {
		s.lock.Lock()
		defer s.lock.Unlock()
		s.said = append(s.said, record.Message)
	}
	return nil
}

func (s *script) WithAttrs([]slog.Attr) slog.Handler { return s }

func (s *script) WithGroup(string) slog.Handler { return s }

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
	if r.URL.Query().Get("sendInitialEvents") != "" {
		if !s.streams {
			refuse(422, "Invalid")(w, r)
			return
		}
		asked = "stream " + r.URL.Query().Get("resourceVersion")
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
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "no", "details": map[string]any{"causes": list}})
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
		raw(changed("MODIFIED", named("d", "10"))+changed("MODIFIED", named("e", "11"))[:20]))
	s.until([]string{"list", "watch 5", "watch 9", "watch 10"}, "b", "c", "d")
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
	gone := changed("ERROR", `{"kind":"Status","status":"Failure","code":410,"reason":"Expired","message":"too old"}`)
	s := run(t, "nodes", listed("5", "", "a", "b"), raw(gone), listed("9", "", "b", "c"))
	s.until([]string{"list", "watch 5", "list", "watch 9"}, "b", "c")
}

// Somebody has made it anew while nobody looked: what was written to the one before isn't there any more.
func TestAnObjectMadeAnewUnseenIsAnother(t *testing.T) {
	list := func(version, uid string) func(http.ResponseWriter, *http.Request) {
		return raw(`{"metadata":{"resourceVersion":"` + version + `"},"items":[{"metadata":{"name":"a","namespace":"demo","uid":"` + uid + `"},"spec":{"address":"10.0.0.1"}}]}`)
	}
	gone := raw(changed("ERROR", `{"kind":"Status","status":"Failure","code":410,"reason":"Expired","message":"too old"}`))
	s := run(t, "workloadentries", list("5", "x"), gone, list("6", "x"), gone, list("7", "y"))
	s.until([]string{"list", "watch 5", "list", "watch 6", "list", "watch 7"}, "a")
	s.lock.Lock()
	defer s.lock.Unlock()
	if want := []string{"+demo/a", "-demo/a", "+demo/a"}; !slices.Equal(s.heard, want) {
		t.Errorf("told %q, want %q", s.heard, want)
	}
}

func TestAServerThatWasSetBackIsListedAgain(t *testing.T) {
	s := run(t, "nodes", listed("500", "", "a"), refuse(504, "Timeout", "ResourceVersionTooLarge"), listed("9", "", "b"))
	s.until([]string{"list", "watch 500", "list", "watch 9"}, "b")
}

func TestRefusalsThatPassAreWaitedOut(t *testing.T) {
	s := run(t, "nodes", refuse(403, "Forbidden"), raw("not JSON"), refuse(429, "TooManyRequests"), listed("5", "", "a"),
		refuse(503, "ServiceUnavailable"), listed("6", "", "a"), refuse(429, "TooManyRequests"))
	s.until([]string{"list", "list", "list", "list", "watch 5", "list", "watch 6", "watch 6"}, "a")
}

// begin is what a stream of what there is says before it goes on with changes.
func begin(version string, names ...string) string {
	var text strings.Builder
	for _, name := range names {
		text.WriteString(changed("ADDED", named(name, version)))
	}
	text.WriteString(changed("BOOKMARK", `{"metadata":{"resourceVersion":"`+version+`","annotations":{"k8s.io/initial-events-end":"true"}}}`))
	return text.String()
}

func TestWhatThereIsComesAsAStreamThatGoesOnWithChanges(t *testing.T) {
	s := stream(t, "nodes", raw(begin("5", "a", "b")+changed("DELETED", named("a", "6"))+changed("ADDED", named("c", "7"))))
	s.until([]string{"stream ", "watch 7"}, "b", "c")
}

func TestAStreamThatBreaksOffBeforeEverythingWasSaidIsBegunAnew(t *testing.T) {
	s := stream(t, "nodes", raw(changed("ADDED", named("a", "3"))), raw(begin("5", "b")+changed("ADDED", named("c", "6"))))
	s.until([]string{"stream ", "stream ", "watch 6"}, "b", "c")
}

func TestWhatWasDeletedUnseenIsFoundByStreamingAgain(t *testing.T) {
	gone := changed("ERROR", `{"kind":"Status","status":"Failure","code":410,"reason":"Expired","message":"too old"}`)
	s := stream(t, "nodes", raw(begin("5", "a", "b")+gone), refuse(410, "Expired"), raw(begin("9", "b", "c")+changed("ADDED", named("d", "10"))))
	s.until([]string{"stream ", "stream 5", "stream ", "watch 10"}, "b", "c", "d")
}

func TestAnObjectWithoutAVersionIsReportedAndStopsNoOther(t *testing.T) {
	s := stream(t, "nodes", raw(changed("ADDED", `{"metadata":7}`)+begin("5", "a")),
		raw(`{"metadata":{"resourceVersion":"5"},"items":[{"metadata":7},`+named("a", "5")+`]}`))
	s.until([]string{"stream ", "list", "watch 5"}, "a")
	if bad := s.rejected(); len(bad) != 1 || !strings.Contains(bad[0].Err.Error(), "an object without readable metadata") {
		t.Errorf("rejected %+v", bad)
	}
}

func hangUp(w http.ResponseWriter, _ *http.Request) {
	if connection, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = connection.Close()
	}
}

func TestAServerThatKeepsHangingUpIsToldOfOnceAndWhenItAnswers(t *testing.T) {
	var answers atomic.Bool
	s := stream(t, "nodes", slices.Repeat([]func(http.ResponseWriter, *http.Request){func(w http.ResponseWriter, r *http.Request) {
		if answers.Load() && r.URL.Query().Get("sendInitialEvents") != "" {
			raw(begin("5", "a"))(w, r)
			return
		}
		hangUp(w, r)
	}}, 100)...)
	const lost, back = "can't follow changes, what is known stays in force", "following changes again"
	s.told(lost)
	if pending := s.source.Pending(); len(pending) != 1 || !strings.Contains(pending[0], "nodes: ") || !strings.HasSuffix(pending[0], "EOF") && !strings.HasSuffix(pending[0], "hung up before it answered") {
		t.Errorf("pending: %q", pending)
	}
	if lagging := s.source.Lagging(); len(lagging) != 1 || !strings.HasPrefix(lagging[0], "Node for ") {
		t.Errorf("lagging: %q", lagging)
	}
	answers.Store(true)
	s.told(lost, back)
	if lagging := s.source.Lagging(); lagging != nil {
		t.Errorf("lagging when it answers again: %q", lagging)
	}
}

// told waits for the log to say the same.
func (s *script) told(messages ...string) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		s.lock.Lock()
		said := slices.Clone(s.said)
		s.lock.Unlock()
		if slices.Equal(said, messages) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("want %q to be said, have %q", messages, said)
		}
	}
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
	if len(bad) != 1 || bad[0].First || bad[0].Closed != nil || bad[0].Name.String() != "demo/p" ||
		!strings.Contains(bad[0].Err.Error(), "spec.rules[0].from[0].source.ipBlocks[0]: want an address") {
		t.Errorf("rejected %+v", bad)
	}
}

func TestAPolicyThatNeverMadeSenseLetsNobodyIn(t *testing.T) {
	mended := make(chan struct{})
	s := run(t, "authorizationpolicies", raw(`{"metadata":{"resourceVersion":"5"},"items":[`+badPolicy+`,{"metadata":7},null]}`),
		func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-mended:
				raw(changed("MODIFIED", goodPolicy("7")))(w, r)
			case <-r.Context().Done(): // the test has failed
			}
		})
	s.until([]string{"list", "watch 5"}, "p ALLOW 0 rules")
	close(mended)
	s.until([]string{"list", "watch 5", "watch 7"}, "p DENY 1 rules")
	if bad := s.rejected(); len(bad) != 4 || !bad[0].First || bad[0].Closed == nil || bad[3].Err != nil || bad[3].Key().String() != "demo/p" {
		t.Errorf("rejected %+v", bad)
	}
}

// While it makes no sense, a policy may come to be about others than before.
func TestWhatStandsForAPolicyThatNeverMadeSenseGoesWithIt(t *testing.T) {
	next := strings.Replace(strings.Replace(badPolicy, `"6"`, `"7"`, 1), `"rules"`, `"action":"AUDIT","novel":1,"rules"`, 1)
	s := run(t, "authorizationpolicies", raw(`{"metadata":{"resourceVersion":"6"},"items":[`+badPolicy+`]}`), raw(changed("MODIFIED", next)),
		raw(changed("MODIFIED", goodPolicy("8"))+changed("MODIFIED", strings.Replace(badPolicy, `"6"`, `"9"`, 1))))
	s.until([]string{"list", "watch 6", "watch 7", "watch 9"}, "p DENY 1 rules")
	bad := s.rejected()
	if len(bad) != 4 || !bad[0].First || !bad[1].First || bad[1].Closed.(*model.AuthorizationPolicy).Action != model.Audit || bad[2].Err != nil || bad[3].First {
		t.Errorf("rejected %+v", bad)
	}
}

func TestWhatStandsForARouteThatNeverMadeSenseIsThereWhileItsParentsAre(t *testing.T) {
	route := func(version, spec string) string {
		return `{"metadata":{"name":"r","namespace":"demo","resourceVersion":"` + version + `"},"spec":{` + spec + `}}`
	}
	next := make(chan struct{})
	s := run(t, "httproutes", raw(`{"metadata":{"resourceVersion":"5"},"items":[`+route("5", `"parentRefs":[{"name":"a"}],"rules":"all"`)+`]}`),
		func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-next:
			case <-r.Context().Done(): // the test has failed
			}
			raw(changed("MODIFIED", route("6", `"parentRefs":"a"`)))(w, r)
		})
	s.until([]string{"list", "watch 5"}, "r")
	close(next)
	s.until([]string{"list", "watch 5", "watch 6"})
}

func TestAFieldOfANewerVersionIsRefused(t *testing.T) {
	s := run(t, "authorizationpolicies", raw(`{"metadata":{"resourceVersion":"5"},"items":[`+strings.Replace(goodPolicy("5"), `"action"`, `"novel":1,"action"`, 1)+`]}`))
	s.until([]string{"list", "watch 5"}, "p ALLOW 0 rules")
	if bad := s.rejected(); len(bad) != 1 || !strings.Contains(bad[0].Err.Error(), "novel") {
		t.Errorf("rejected %+v", bad)
	}
}

func TestAPolicyThatBecomesOursAndCannotBeReadLetsNobodyIn(t *testing.T) {
	foreign := strings.Replace(goodPolicy("5"), `"name":"p"`, `"name":"p","labels":{"istio.io/rev":"canary"}`, 1)
	s := run(t, "authorizationpolicies", raw(`{"metadata":{"resourceVersion":"5"},"items":[`+foreign+`]}`), raw(changed("MODIFIED", badPolicy)))
	s.until([]string{"list", "watch 5", "watch 6"}, "p ALLOW 0 rules")
	if bad := s.rejected(); len(bad) != 1 || bad[0].Closed == nil {
		t.Errorf("rejected %+v", bad)
	}
}

// In an upgrade by revisions, the older control plane doesn't know the fields of the newer one's policies.
func TestWhatIsForAnotherRevisionNeedNotBeReadable(t *testing.T) {
	foreign := strings.Replace(badPolicy, `"name":"p"`, `"name":"p","labels":{"istio.io/rev":"canary"}`, 1)
	s := run(t, "authorizationpolicies", raw(`{"metadata":{"resourceVersion":"5"},"items":[`+goodPolicy("5")+`]}`), raw(changed("MODIFIED", foreign)))
	s.until([]string{"list", "watch 5", "watch 6"})
	if bad := s.rejected(); len(bad) != 0 {
		t.Errorf("rejected %+v", bad)
	}
}
