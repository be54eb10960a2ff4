package daemon

import (
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/hbone"
)

func TestRequestsGoAsTheRoutesSay(t *testing.T) {
	m := newMesh(t)
	for i, name := range []string{"v1", "v2"} {
		m.serve(serverHost+byte(i), echo(name))
		m.know(m.service(name, httpPort, 8080, serverHost+byte(i))...)
	}
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	broken := rule("/broken", "v1")
	broken.Backends[0].Invalid = "there is no such service"
	changed := rule("/changed", "v2")
	changed.Filters = &l7.Filters{
		RequestHeaders: &l7.HeaderChange{Set: []*l7.Header{{Name: "x-set", Value: "yes"}}}, ResponseHeaders: &l7.HeaderChange{Add: []*l7.Header{{Name: "x-added", Value: "too"}}},
		Rewrite: &l7.Rewrite{Hostname: "rewritten", Path: &l7.PathChange{Change: &l7.PathChange_Prefix{Prefix: "/new"}}},
	}
	moved := rule("/moved")
	moved.Filters = &l7.Filters{Redirect: &l7.Redirect{Hostname: "elsewhere.example", Status: 301}}
	m.know(httpRoute("web", "web", rule("/one", "v1"), rule("/two", "v2"), broken, changed, moved, rule("/nowhere")))
	c := m.browser(m.caller("shop", "client"))
	for _, test := range []struct {
		path   string
		status int
		text   string
	}{
		{"/one", 200, "v1 GET /one host=web "},
		{"/two/x?y", 200, "v2 GET /two/x?y host=web "},
		{"/changed/x", 200, "v2 GET /new/x host=rewritten "},
		{"/moved/x", 301, ""},
		{"/broken", 500, ""},
		{"/nowhere", 500, ""},
		{"/three", 404, ""},
		{"/one/../two", 200, "v2 GET /two host=web "},
	} {
		resp, text := fetch(t, c, "http://web"+test.path)
		if resp.StatusCode != test.status || text != test.text {
			t.Errorf("%s: %d %q, want %d %q", test.path, resp.StatusCode, text, test.status, test.text)
		}
		if test.path == "/moved/x" && resp.Header.Get("Location") != "http://elsewhere.example/moved/x" {
			t.Errorf("redirected to %s", resp.Header.Get("Location"))
		}
		if test.path == "/changed/x" && resp.Header.Get("X-Added") != "too" {
			t.Errorf("the answer's head wasn't changed: %v", resp.Header)
		}
	}
	m.eventually("what no rule matched to be counted", func() error {
		if n := m.metric("istio_requests_total", `response_code="404"`, `response_flags="NR"`, `destination_workload="unknown"`, `destination_service="web.shop"`); n != 1 {
			return fmt.Errorf("%v requests", n)
		}
		return nil
	})
}

// A redirect, and what a browser asks of CORS, are answered by the rule itself, with the headers that it adds.
func TestAnswersOfARuleSayNothingTwice(t *testing.T) {
	m := newMesh(t)
	m.know(m.service("web", httpPort, 8080)...)
	moved := rule("/")
	moved.Filters = &l7.Filters{
		Redirect: &l7.Redirect{Status: 302}, ResponseHeaders: &l7.HeaderChange{Add: []*l7.Header{{Name: "x-added", Value: "1"}}},
		Cors: &l7.CORS{AllowOrigins: []string{"https://a.example"}},
	}
	m.know(httpRoute("web", "web", moved))
	c := m.browser(m.caller("shop", "client"))
	for method, want := range map[string]http.Header{
		"GET":     {"Vary": {"Origin"}, "Access-Control-Allow-Origin": {"https://a.example"}, "X-Added": {"1"}, "Location": {"http://web/"}, "Content-Length": {"0"}},
		"OPTIONS": {"Vary": {"Origin"}, "Access-Control-Allow-Origin": {"https://a.example"}, "Access-Control-Max-Age": {"5"}},
	} {
		resp, _ := fetch(t, c, "http://web/", func(r *http.Request) {
			r.Method = method
			r.Header.Set("Origin", "https://a.example")
			r.Header.Set("Access-Control-Request-Method", "PUT")
		})
		if !reflect.DeepEqual(resp.Header, want) {
			t.Errorf("%s is answered with %v, want %v", method, resp.Header, want)
		}
	}
}

// A client tells of itself what it likes; what is for the clients of a namespace goes by the one that its certificate proves.
func TestOnlyTheCertificateSaysWhoseRoutesAreAClients(t *testing.T) {
	m := newMesh(t)
	for i, name := range []string{"web", "theirs"} {
		m.serve(serverHost+byte(i), echo(name))
		m.know(m.service(name, httpPort, 8080, serverHost+byte(i))...)
	}
	consumers := httpRoute("consumers", "web", rule("/", "theirs"))
	consumers.Targets[0].ConsumerNamespace = "team"
	m.know(httpRoute("producers", "web", rule("/", "web")), consumers)
	for _, test := range []struct{ proven, told, want string }{
		{"team", "", "theirs"}, {"team", "shop", "theirs"}, {"shop", "", "web"}, {"shop", "team", "web"},
	} {
		client := m.caller(test.proven, "client")
		client.Baggage = hbone.Baggage{Namespace: test.told, WorkloadType: "deployment", WorkloadName: "client"}
		_, text := fetch(t, m.browser(client), "http://web/", func(r *http.Request) {
			if test.told != "" {
				r.Header.Set("Baggage", "k8s.namespace.name="+test.told)
				r.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://cluster.local/ns/"+test.told+"/sa/client")
			}
		})
		if got, _, _ := strings.Cut(text, " "); got != test.want {
			t.Errorf("a client of %s that says %q is led to %s, want %s", test.proven, test.told, got, test.want)
		}
	}
	if n := m.metric("istio_requests_total", `source_workload_namespace="team"`, `destination_workload="theirs"`); n != 2 {
		t.Errorf("%v requests are counted of namespace team, want 2", n)
	}
}

func TestAChangedRouteFailsNoRequest(t *testing.T) {
	m := newMesh(t)
	for i, name := range []string{"v1", "v2"} {
		m.serve(serverHost+byte(i), echo(name))
		m.know(m.service(name, httpPort, 8080, serverHost+byte(i))...)
	}
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(httpRoute("web", "web", rule("/", "v1")))
	c := m.browser(m.caller("shop", "client"))
	stop, failed, done := make(chan struct{}), make(chan string, 1), make(chan struct{})
	var made atomic.Int32
	go func() {
		defer close(done)
		for ; ; made.Add(1) {
			select {
			case <-stop:
				return
			default:
			}
			resp, err := c.Get("http://web/")
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			if err != nil || resp.StatusCode != 200 {
				select {
				case failed <- fmt.Sprint(err, resp):
				default:
				}
			}
		}
	}()
	for i := 0; i < 100 || made.Load() < 500; i++ {
		m.know(httpRoute("web", "web", rule("/", []string{"v1", "v2"}[i%2])))
	}
	close(stop)
	<-done
	select {
	case what := <-failed:
		t.Error(what)
	default:
	}
}
