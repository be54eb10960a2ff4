package daemon

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// What a server says is passed on as it is; counted it is as clients understand it, so that no server makes series without end.
func TestStatusesThatAreNotGRPCsAreCountedAsOne(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", r.Header.Get("X-Status"))
	})
	m.know(m.service("web", workload.AppProtocol_GRPC, 8080, serverHost)...)
	c := m.browser2(m.caller("shop", "client"))
	counted := map[string]float64{}
	for status, as := range map[string]string{"0": "0", "16": "16", "2": "2", "17": "2", "4294967296": "2", "-1": "2", "x": "2", "05": "5", "1e1": "2", "": "2"} {
		resp, _ := fetch(t, c, "http://web/", func(r *http.Request) {
			r.Method = "POST"
			r.Header.Set("Content-Type", "application/grpc")
			r.Header.Set("X-Status", status)
		})
		if got := resp.Header.Get("Grpc-Status"); got != status {
			t.Errorf("the client is told %q, want %q", got, status)
		}
		counted[as]++
	}
	m.eventually("all to be counted", func() error {
		for as, want := range counted {
			if got := m.metric("istio_requests_total", `grpc_response_status="`+as+`"`); got != want {
				return fmt.Errorf("%v of status %s, want %v", got, as, want)
			}
		}
		return nil
	})
}
