package daemon

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

func TestBothVersionsOfHTTPReachServersOfBoth(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %s %d", r.Proto, r.Host, len(body))
		w.Header().Set("X-Sum", "done")
	})
	for name, protocol := range map[string]workload.AppProtocol{"one": workload.AppProtocol_HTTP11, "two": workload.AppProtocol_HTTP2, "any": workload.AppProtocol_UNKNOWN} {
		m.know(m.service(name, protocol, 8080, serverHost)...)
	}
	caller := m.caller("shop", "client")
	for _, test := range []struct {
		client        int
		service, want string
	}{
		{1, "one", "HTTP/1.1 one 5"}, {1, "two", "HTTP/2.0 two 5"}, {1, "any", "HTTP/1.1 any 5"},
		{2, "one", "HTTP/1.1 one 5"}, {2, "two", "HTTP/2.0 two 5"}, {2, "any", "HTTP/2.0 any 5"},
	} {
		c := m.browser(caller)
		if test.client == 2 {
			c = m.browser2(caller)
		}
		resp, text := fetch(t, c, "http://"+test.service+"/", func(r *http.Request) { r.Method, r.Body = "POST", io.NopCloser(strings.NewReader("hello")) })
		if text != test.want || resp.ProtoMajor != test.client || resp.Trailer.Get("X-Sum") != "done" {
			t.Errorf("HTTP/%d to %s: %s %q, trailers %v; want %q", test.client, test.service, resp.Proto, text, resp.Trailer, test.want)
		}
	}
}

func TestManyRequestsShareAConnectionOfHTTP2(t *testing.T) {
	m := newMesh(t)
	conns := sync.Map{}
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, nil)
		_, _ = io.Copy(w, r.Body)
	})
	m.know(m.service("web", workload.AppProtocol_GRPC, 8080, serverHost)...)
	m.know(httpRoute("web", "web", rule("/", "web")))
	c := m.browser2(m.caller("shop", "client"))
	var group sync.WaitGroup
	for i := range 300 {
		group.Go(func() {
			want := strings.Repeat(fmt.Sprint(i), 1000)
			resp, err := c.Post("http://web/", "application/grpc", strings.NewReader(want))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); string(got) != want {
				t.Errorf("request %d: %d bytes, %v: %s %v", i, len(got), err, resp.Status, resp.Header)
			}
		})
	}
	group.Wait()
	n := 0
	conns.Range(func(any, any) bool { n++; return true })
	if n > 10 {
		t.Errorf("%d connections for 300 requests", n)
	}
	m.eventually("the requests to be counted", func() error {
		if got := m.metric("istio_requests_total", `request_protocol="grpc"`, `response_code="200"`); got != 300 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

func TestGRPCStatusesAreCounted(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write([]byte("\x00\x00\x00\x00\x00"))
		w.Header().Set("Grpc-Status", "5")
	})
	m.know(m.service("web", workload.AppProtocol_GRPC, 8080, serverHost)...)
	grpc := httpRoute("web", "web", rule("/pkg.Service", "web"))
	grpc.GetRoute().Protocol = l7.Route_GRPC
	m.know(grpc)
	c := m.browser2(m.caller("shop", "client"))
	ask := func(path string) (string, string) {
		resp, _ := fetch(t, c, "http://web"+path, func(r *http.Request) {
			r.Method = "POST"
			r.Header.Set("Content-Type", "application/grpc")
		})
		return resp.Header.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Status")
	}
	if head, trailer := ask("/pkg.Service/Method"); trailer != "5" {
		t.Errorf("status %q, %q; want 5 as trailer", head, trailer)
	}
	if head, trailer := ask("/other.Service/Method"); head+trailer != "12" {
		t.Errorf("no route: status %q, %q; want 12", head, trailer)
	}
	m.eventually("the statuses to be counted", func() error {
		for _, status := range []string{"5", "12"} {
			if m.metric("istio_requests_total", `request_protocol="grpc"`, `grpc_response_status="`+status+`"`) != 1 {
				return fmt.Errorf("not %s", status)
			}
		}
		return nil
	})
}
