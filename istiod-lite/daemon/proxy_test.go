package daemon_test

import (
	"context"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/istiod-lite/push"
)

// proxy is a client of the delta stream that remembers what it was told, and acknowledges it.
type proxy struct {
	t        *testing.T
	stream   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	versions map[string]map[string]string // by type and name
	order    []string                     // of what came, as "+name" and "-name"
}

// connect opens a stream and asks for everything, with what the proxy has already.
func (w *world) connect(token string, have map[string]map[string]string) *proxy {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(w.dial()).DeltaAggregatedResources(as(ctx, token))
	if err != nil {
		w.t.Fatal(err)
	}
	p := &proxy{t: w.t, stream: stream, versions: map[string]map[string]string{}}
	for _, typeURL := range []string{push.Authorization, push.Address} {
		p.versions[typeURL] = map[string]string{}
		for name, version := range have[typeURL] {
			p.versions[typeURL][name] = version
		}
		p.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("node1"), TypeUrl: typeURL, InitialResourceVersions: have[typeURL]})
	}
	return p
}

func node(name string) *corev3.Node {
	return &corev3.Node{
		Id: "ztunnel~10.0.0.1~ztunnel-x.istio-system~istio-system.svc.cluster.local",
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"NODE_NAME": structpb.NewStringValue(name), "NAMESPACE": structpb.NewStringValue("istio-system"),
			"SERVICE_ACCOUNT": structpb.NewStringValue("ztunnel"),
		}},
	}
}

func (p *proxy) send(request *discoveryv3.DeltaDiscoveryRequest) {
	p.t.Helper()
	if err := p.stream.Send(request); err != nil {
		p.t.Fatal(err)
	}
}

// next returns the next response, without an acknowledgement.
func (p *proxy) next() *discoveryv3.DeltaDiscoveryResponse {
	p.t.Helper()
	type result struct {
		response *discoveryv3.DeltaDiscoveryResponse
		err      error
	}
	came := make(chan result, 1)
	go func() {
		response, err := p.stream.Recv()
		came <- result{response, err}
	}()
	select {
	case r := <-came:
		if r.err != nil {
			p.t.Fatal(r.err)
		}
		for _, resource := range r.response.Resources {
			p.versions[r.response.TypeUrl][resource.Name] = resource.Version
			p.order = append(p.order, "+"+resource.Name)
		}
		for _, name := range r.response.RemovedResources {
			delete(p.versions[r.response.TypeUrl], name)
			p.order = append(p.order, "-"+name)
		}
		return r.response
	case <-time.After(patience):
		p.t.Fatal("nothing came")
		return nil
	}
}

// take returns the next response and acknowledges it.
func (p *proxy) take() *discoveryv3.DeltaDiscoveryResponse {
	p.t.Helper()
	response := p.next()
	p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: response.TypeUrl, ResponseNonce: response.Nonce})
	return response
}

// until takes responses until the proxy was told all of these, and returns the order of everything since it began.
func (p *proxy) until(want ...string) []string {
	p.t.Helper()
	for {
		missing := false
		for _, each := range want {
			missing = missing || !slices.Contains(p.order, each)
		}
		if !missing {
			order := p.order
			p.order = nil
			return order
		}
		p.take()
	}
}
