package inspect

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// agent answers status and verify as a node agent would.
func agent(t *testing.T, pages map[string]string) (address string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, ok := pages[r.URL.RequestURI()]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, page)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestStatusIsATable(t *testing.T) {
	address := agent(t, map[string]string{"/debug/pods": `{"proxies": 1, "pods": [
		{"pod": "demo/cart", "state": "enrolled", "engine": "ebpf", "capture": "capture with DNS", "why": "label on the pod", "generation": "v1-aa-bb",
			"links": ["lookup", "egress of eth0"], "connections": {"outbound": 7, "inbound": 1, "tunnels": 2, "dns": 3, "bypassed": 4, "dropped": 0}},
		{"pod": "demo/gate", "state": "enrolled", "engine": "nft", "capture": "capture", "why": "label on the pod", "generation": "12345678",
			"links": ["table istio-ambient-nat"], "connections": {"outbound": 7, "inbound": 1, "dns": 0, "bypassed": 0}},
		{"pod": "demo/job", "state": "out", "capture": "removed", "why": "it has ended", "ignored": "a wrong annotation", "error": "broken"}]}`})
	var out bytes.Buffer
	if err := Run([]string{"status", "--health-addr", address}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	want := `tunnel proxies connected: 1
POD        STATE     ENGINE  GENERATION  LINKS                    CAPTURED  BYPASSED  DROPPED  IN THE POD        WHY
demo/cart  enrolled  ebpf    v1-aa-bb    lookup, egress of eth0   13        4         0        capture with DNS  label on the pod
demo/gate  enrolled  nft     12345678    table istio-ambient-nat  8         0         -        capture           label on the pod
demo/job   out       -       -           -                        -         -         -        removed           it has ended; broken; a wrong annotation
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatIsNoAgentIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"another program":       {[]string{"status", "--health-addr", agent(t, nil)}, "isn't a node agent's answer"},
		"nobody":                {[]string{"status", "--health-addr", "127.0.0.1:1"}, "is it running on this machine?"},
		"no pod":                {[]string{"verify"}, "which pod?"},
		"too much":              {[]string{"status", "demo/cart"}, "takes no"},
		"a pod of another node": {[]string{"verify", "--health-addr", agent(t, nil), "demo/cart"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := Run(c.args, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
