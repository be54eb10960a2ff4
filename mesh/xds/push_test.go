package xds

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func takeAll(p Push) map[string]error {
	for range p.Resources {
	}
	return nil
}

// received is the message as the client gets it.
func received(t testing.TB, push *discoveryv3.DeltaDiscoveryResponse) *message {
	t.Helper()
	body, err := proto.Marshal(push)
	if err != nil {
		t.Fatal(err)
	}
	m := new(message)
	if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(body)}, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMalformedPushesAreRefused(t *testing.T) {
	ok := &anypb.Any{TypeUrl: "a"}
	for _, test := range []struct {
		name   string
		push   *discoveryv3.DeltaDiscoveryResponse
		reason string
		held   string
	}{
		{"good", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a", Resources: []*discoveryv3.Resource{{Name: "x", Version: "1", Resource: ok}}}, "", "map[x:1]"},
		{"empty", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a"}, "", "map[]"},
		{"unknown type", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "b"}, `type "b" was not subscribed to`, "map[]"},
		{"no body", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a", Resources: []*discoveryv3.Resource{{Name: "x"}}}, "refused 1 of 1 resources: x: the resource has no body", "map[x:]"},
		{"a name twice", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a", Resources: []*discoveryv3.Resource{{Name: "x", Version: "1", Resource: ok}, {Name: "x", Version: "2", Resource: ok}}}, "", "map[x:2]"},
		{"a name twice, of which one is bad", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a", Resources: []*discoveryv3.Resource{{Name: "x"}, {Name: "x", Version: "2", Resource: ok}}},
			"refused 1 of 2 resources: x: the resource has no body", "map[x:]"},
		{"good beside bad", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a", Resources: []*discoveryv3.Resource{{Name: "x"}, {Name: "y", Version: "2", Resource: ok}}},
			"refused 1 of 2 resources: x: the resource has no body", "map[x: y:2]"},
		{"removal of what was never there", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a", RemovedResources: []string{"x", ""}}, "", "map[]"},
		{"no name", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a", Resources: []*discoveryv3.Resource{{}}}, "refused 1 of 1 resources: : the resource has no body", "map[]"},
		{"nil resource", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a", Resources: []*discoveryv3.Resource{nil}}, "refused 1 of 1 resources: : the resource has no body", "map[]"},
		{"body of another type", &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a", Resources: []*discoveryv3.Resource{{Name: "x", Resource: &anypb.Any{TypeUrl: "b"}}}},
			`refused 1 of 1 resources: x: the resource is of type "b" in a push of "a"`, "map[x:]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := NewClient(nil, Config{Types: []string{"a"}, Handle: takeAll, Log: slog.New(slog.DiscardHandler)})
			test.push.Nonce = "n1"
			answer := c.take(received(t, test.push))
			if got := answer.GetErrorDetail().GetMessage(); got != test.reason {
				t.Errorf("refused because %q, want %q", got, test.reason)
			}
			if answer.GetResponseNonce() != "n1" || answer.GetTypeUrl() != test.push.GetTypeUrl() || answer.GetNode() != nil {
				t.Errorf("answer = %v, want the push's nonce and type", answer)
			}
			if got := fmt.Sprint(c.versions["a"]); got != test.held {
				t.Errorf("held versions = %s, want %s", got, test.held)
			}
		})
	}
}

func TestReasonOfVeryManyRefusalsIsBounded(t *testing.T) {
	refused := map[string]error{}
	for i := range 10_000 {
		refused[fmt.Sprintf("pod-%05d", i)] = errors.New("has no address")
	}
	text := reason(refused, 20_000)
	if len(text) > maxReason+100 || !strings.HasPrefix(text, "refused 10000 of 20000 resources: pod-00000: has no address; ") ||
		!strings.HasSuffix(text, " more") {
		t.Errorf("reason of %d bytes: %.100s … %s", len(text), text, text[len(text)-40:])
	}
}
