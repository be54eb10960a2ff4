package push

import (
	"fmt"
	"maps"
	"testing"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

func encoded(t testing.TB, r *discoveryv3.DeltaDiscoveryRequest) []byte {
	t.Helper()
	message, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// comeback is a request with the versions of ten thousand workloads.
func comeback(t testing.TB) (message []byte, have map[string]string) {
	have = make(map[string]string)
	for i := range 10_000 {
		have[fmt.Sprintf("Kubernetes//Pod/shop/web-%d", i)] = "0123456789abcdef"
	}
	return encoded(t, &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "ztunnel"}, TypeUrl: Address, InitialResourceVersions: have}), have
}

// A hundred proxies that come back at once cost no more than what they sent.
func TestVersionsOfAProxyThatComesBackAreNotUnpacked(t *testing.T) {
	sent, have := comeback(t)
	message := mem.BufferSlice{mem.SliceBuffer(sent)}
	var r request
	allocations := testing.AllocsPerRun(5, func() {
		r.free()
		if err := (codec{}).Unmarshal(message, &r); err != nil {
			t.Fatal(err)
		}
	})
	if allocations > 30 {
		t.Errorf("%v allocations", allocations)
	}
	got := make(map[string]string)
	for name, version := range r.known.all {
		got[string(name)] = string(version)
	}
	if !maps.Equal(got, have) || r.TypeUrl != Address || r.Node.Id != "ztunnel" {
		t.Errorf("%d versions are read of %d, of %s from %s", len(got), len(have), r.TypeUrl, r.Node.GetId())
	}
}

// What it costs to read the versions of a proxy that comes back, beside what protobuf makes of them.
func BenchmarkComeback(b *testing.B) {
	message, _ := comeback(b)
	b.Run("as it came", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var r request
			if err := r.unmarshal(mem.SliceBuffer(message)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("as a map", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var r discoveryv3.DeltaDiscoveryRequest
			if err := proto.Unmarshal(message, &r); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Requests mean what protobuf says that they mean.
func FuzzRequest(f *testing.F) {
	for _, r := range []*discoveryv3.DeltaDiscoveryRequest{
		{}, {TypeUrl: Address, ResourceNamesSubscribe: []string{"*"}}, {ResponseNonce: "1", TypeUrl: Authorization},
		{TypeUrl: Address, InitialResourceVersions: map[string]string{"w/a": "1", "": "2", "w/b": ""}},
	} {
		f.Add(encoded(f, r))
	}
	for _, message := range []string{
		"\x28\x01",             // a number where the versions are
		"\x2a\x00",             // a version that says nothing
		"\x2a\x02\x08\x01",     // a number for a name
		"\x2a\x03\x0a\x01\xff", // no UTF-8
		"\x2a\x05\x0a\x09a",    // cut off
		"\x2a\x06\x0a\x01a\x12\x01b\x2a\x03\x0a\x01a", // a name twice
	} {
		f.Add([]byte(message))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		var want discoveryv3.DeltaDiscoveryRequest
		var got request
		wanted, err := proto.Unmarshal(message, &want), got.unmarshal(mem.SliceBuffer(message))
		for name, version := range got.known.all {
			if name == nil || !utf8.Valid(name) || !utf8.Valid(version) {
				err = errVersions // of which a stream is told that gets as far
			}
		}
		if (wanted == nil) != (err == nil) {
			t.Fatalf("protobuf says %v, we say %v", wanted, err)
		}
		if err != nil {
			return
		}
		versions := make(map[string]string)
		for name, version := range got.known.all {
			versions[string(name)] = string(version)
		}
		if !maps.Equal(versions, want.InitialResourceVersions) {
			t.Errorf("versions %q, want %q", versions, want.InitialResourceVersions)
		}
		want.InitialResourceVersions = nil
		if !proto.Equal(&got.DeltaDiscoveryRequest, &want) {
			t.Errorf("request %v, want %v", &got.DeltaDiscoveryRequest, &want)
		}
	})
}
