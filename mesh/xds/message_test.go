package xds

import (
	"fmt"
	"math"
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// inParts is a message as gRPC hands it over: in the buffers in which it came.
func inParts(body []byte, size int) (data mem.BufferSlice) {
	for part := range slices.Chunk(body, size) {
		data = append(data, mem.SliceBuffer(part))
	}
	return data
}

// describeMessage is what there is to know of a message.
func describeMessage(m *message) string {
	text := fmt.Sprintf("%q %q %q %d", m.typeURL, m.nonce, m.removed, m.resources)
	for r, err := range m.each {
		text += fmt.Sprintf("\n%q %q %q %q %v", r.Name, r.Version, r.Aliases, r.Body, err)
	}
	return text
}

// describeResponse is the same by the generated code.
func describeResponse(r *discoveryv3.DeltaDiscoveryResponse) string {
	text := fmt.Sprintf("%q %q %q %d", r.GetTypeUrl(), r.GetNonce(), r.GetRemovedResources(), len(r.GetResources()))
	for _, resource := range r.GetResources() {
		err := error(nil)
		switch body := resource.GetResource(); {
		case body == nil:
			err = fmt.Errorf("the resource has no body")
		case body.GetTypeUrl() != r.GetTypeUrl():
			err = fmt.Errorf("the resource is of type %q in a push of %q", body.GetTypeUrl(), r.GetTypeUrl())
		}
		text += fmt.Sprintf("\n%q %q %q %q %v", resource.GetName(), resource.GetVersion(), resource.GetAliases(), resource.GetResource().GetValue(), err)
	}
	return text
}

// FuzzMessage reads whatever comes; what the generated code understands is understood alike.
func FuzzMessage(f *testing.F) {
	body := func(typeURL string) *anypb.Any { return &anypb.Any{TypeUrl: typeURL, Value: []byte("body")} }
	for _, r := range []*discoveryv3.DeltaDiscoveryResponse{
		{}, {TypeUrl: "a", Nonce: "1", RemovedResources: []string{"x", "y"}, SystemVersionInfo: "v"},
		{TypeUrl: "a", Resources: []*discoveryv3.Resource{
			{Name: "x", Version: "1", Aliases: []string{"b", "c"}, Resource: body("a")}, {Name: "y", Resource: body("b")}, {Name: "z"}, {},
		}, RemovedResourceNames: []*discoveryv3.ResourceName{{Name: "n"}}},
	} {
		encoded, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded, 3)
	}
	f.Add([]byte{0xff}, 1)
	f.Add(protowire.AppendVarint(protowire.AppendTag(nil, responseResources, protowire.BytesType), math.MaxUint64), 2)
	f.Add(protowire.AppendFixed64(protowire.AppendTag(nil, responseType, protowire.Fixed64Type), 7), 2)
	f.Fuzz(func(t *testing.T, encoded []byte, size int) {
		m := new(message)
		err := codec{}.Unmarshal(inParts(encoded, max(size, 1)), m)
		defer m.close()
		want := new(discoveryv3.DeltaDiscoveryResponse)
		switch understood := proto.Unmarshal(encoded, want) == nil; {
		case err == nil && !understood:
			_ = describeMessage(m) // what it doesn't look at may be wrong
		case understood && err == nil:
			if got := describeMessage(m); got != describeResponse(want) {
				t.Errorf("message = %s\nwant      %s", got, describeResponse(want))
			}
		}
	})
}

func TestMessagesThatAreNoProtobufEndTheStream(t *testing.T) {
	tag := func(number protowire.Number, kind protowire.Type) []byte {
		return protowire.AppendTag(nil, number, kind)
	}
	for name, body := range map[string][]byte{
		"half a tag":            {0x80},
		"field 0":               {0x02, 0x00},
		"a group":               tag(2, protowire.StartGroupType),
		"a length beyond it":    protowire.AppendVarint(tag(responseResources, protowire.BytesType), 5),
		"an immense length":     protowire.AppendVarint(tag(responseRemoved, protowire.BytesType), math.MaxUint64),
		"half a number":         append(tag(7, protowire.Fixed64Type), 1, 2),
		"an endless number":     append(tag(7, protowire.VarintType), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"a type that's no text": protowire.AppendBytes(tag(responseType, protowire.BytesType), []byte{0xff}),
	} {
		if err := (codec{}).Unmarshal(inParts(body, 2), new(message)); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
}

func TestResourceThatIsNoProtobufIsRefusedAndTheOthersAreTaken(t *testing.T) {
	push := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "a", Resources: []*discoveryv3.Resource{{Name: "x", Resource: &anypb.Any{TypeUrl: "a"}}}}
	body, err := proto.Marshal(push)
	if err != nil {
		t.Fatal(err)
	}
	body = protowire.AppendBytes(protowire.AppendTag(body, responseResources, protowire.BytesType), []byte{0xff})
	body, err = proto.MarshalOptions{}.MarshalAppend(body, push)
	if err != nil {
		t.Fatal(err)
	}
	m := new(message)
	if err := (codec{}).Unmarshal(inParts(body, 4), m); err != nil {
		t.Fatal(err)
	}
	good, bad := 0, 0
	for _, err := range m.each {
		if err == nil {
			good++
		} else {
			bad++
		}
	}
	if good != 2 || bad != 1 {
		t.Errorf("%d good and %d bad resources, want 2 and 1", good, bad)
	}
}
