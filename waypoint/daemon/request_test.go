package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

const httpPort = workload.AppProtocol_HTTP11

func TestARequestWithoutRoutesReachesItsService(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("one"))
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	resp, text := fetch(t, c, "http://web/a?b=c", func(r *http.Request) {
		r.Method, r.Host, r.Body = "POST", "somebody.else", io.NopCloser(strings.NewReader("hello"))
	})
	if want := "one POST /a?b=c host=somebody.else hello"; resp.StatusCode != 200 || text != want {
		t.Errorf("%d %q, want 200 %q", resp.StatusCode, text, want)
	}
	m.eventually("the request to be counted", func() error {
		if n := m.metric("istio_requests_total", `reporter="waypoint"`, `source_principal="spiffe://cluster.local/ns/shop/sa/client"`, `source_workload_namespace="shop"`,
			`destination_workload="web"`, `destination_service="web.shop"`, `request_protocol="http"`, `response_code="200"`, `response_flags="-"`); n != 1 {
			return fmt.Errorf("%v requests", n)
		}
		return nil
	})
	if n := m.metric("istio_request_bytes_sum"); n != 5 {
		t.Errorf("%v bytes of requests, want 5", n)
	}
	if n := m.metric("istio_response_bytes_sum"); n != float64(len(text)) {
		t.Errorf("%v bytes of answers, want %d", n, len(text))
	}
	if n := m.metric("istio_request_duration_milliseconds_count", `response_code="200"`); n != 1 {
		t.Errorf("%v durations, want 1", n)
	}
	m.eventually("the access log", func() error {
		for _, word := range []string{`request complete	method="POST" path="/a?b=c" authority="somebody.else"`, `response_code=200`, `src.identity="spiffe://cluster.local/ns/shop/sa/client"`} {
			if !strings.Contains(m.log.String(), word) {
				return errors.New("no " + word)
			}
		}
		return nil
	})
}

// What the two sides of a large body have under way is bounded by the windows; nothing may get lost or stick.
func TestLargeBodiesPassBothWays(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	const size = 8 << 20
	sent := strings.Repeat("0123456789abcdef", size/16)
	_, got := fetch(t, c, "http://web/", func(r *http.Request) { r.Method, r.Body = "PUT", io.NopCloser(strings.NewReader(sent)) })
	if got != sent {
		t.Errorf("%d bytes came back, want %d", len(got), len(sent))
	}
}

func TestADrainFailsNoRequest(t *testing.T) {
	m := newMesh(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	answer := make(chan string, 1)
	go func() {
		resp, err := c.Get("http://web/")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprint(string(text), err)
	}()
	<-arrived
	m.drain.Start("the test drains it")
	m.eventually("new tunnels to be refused", func() error {
		conn, err := net.Dial("tcp", m.at(15008))
		if err != nil {
			return nil
		}
		conn.Close()
		return errors.New("it is taken")
	})
	close(release)
	if got := <-answer; got != "done<nil>" {
		t.Errorf("the request that was under way: %s", got)
	}
	if err := <-m.ended; err != nil { // at once, as the client has been told to let go
		t.Error(err)
	}
	m.ended <- nil
	if strings.Contains(m.log.String(), "drain forced") {
		t.Error("the drain took all its time")
	}
}
