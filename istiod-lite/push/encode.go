package push

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// resource is an encoded resource. It doesn't change once it is in a log, and all streams that send it share its bytes.
type resource struct {
	name, version string
	sum           uint64 // of which version is the text
	number        int    // small, and its own while it is in the log
	// field is a resources field of a DeltaDiscoveryResponse: tag, length, and the Resource. It is kept as what gRPC sends,
	// so that sending it costs no copy.
	field mem.Buffer
}

// The numbers of the fields that are written here, of envoy.service.discovery.v3 and google.protobuf.
const (
	responseSystemVersion protowire.Number = 1
	responseResources     protowire.Number = 2
	responseTypeURL       protowire.Number = 4
	responseNonce         protowire.Number = 5
	responseRemoved       protowire.Number = 6

	resourceVersion protowire.Number = 1
	resourceBody    protowire.Number = 2
	resourceName    protowire.Number = 3
	resourceAliases protowire.Number = 4

	anyTypeURL protowire.Number = 1
	anyValue   protowire.Number = 2
)

// encode marshals in a fixed order, so that equal resources have equal versions on every replica and after a restart.
func encode(update Update) (*resource, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(update.Message)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", update.Name, err)
	}
	sum := xxhash.Sum64(body)
	version := strconv.FormatUint(sum, 16)
	packed := sizeOf(anyTypeURL, len(update.Type)) + sizeOf(anyValue, len(body))
	size := sizeOf(resourceVersion, len(version)) + sizeOf(resourceBody, packed) + sizeOf(resourceName, len(update.Name))
	b := make([]byte, 0, sizeOf(responseResources, size))
	b = protowire.AppendVarint(appendTag(b, responseResources), uint64(size))
	b = appendText(b, resourceVersion, version)
	b = protowire.AppendVarint(appendTag(b, resourceBody), uint64(packed))
	b = appendText(b, anyTypeURL, update.Type)
	b = protowire.AppendBytes(appendTag(b, anyValue), body)
	b = appendText(b, resourceName, update.Name)
	return &resource{name: update.Name, version: version, sum: sum, field: mem.SliceBuffer(b)}, nil
}

// message is the bytes of the Resource.
func (r *resource) message() []byte {
	field := r.field.ReadOnlyData()
	_, _, n := protowire.ConsumeTag(field)
	message, _ := protowire.ConsumeBytes(field[n:])
	return message
}

// aliased is a copy with aliases, by which the proxy knows what it asked for.
func (r *resource) aliased(aliases []string) *resource {
	if len(aliases) == 0 {
		return r
	}
	message := r.message()
	size := len(message)
	for _, alias := range aliases {
		size += sizeOf(resourceAliases, len(alias))
	}
	b := make([]byte, 0, sizeOf(responseResources, size))
	b = append(protowire.AppendVarint(appendTag(b, responseResources), uint64(size)), message...)
	for _, alias := range aliases {
		b = appendText(b, resourceAliases, alias)
	}
	return &resource{name: r.name, version: r.version, sum: r.sum, number: r.number, field: mem.SliceBuffer(b)}
}

func sizeOf(number protowire.Number, length int) int {
	return protowire.SizeTag(number) + protowire.SizeBytes(length)
}

func appendTag(b []byte, number protowire.Number) []byte {
	return protowire.AppendTag(b, number, protowire.BytesType)
}

func appendText(b []byte, number protowire.Number, text string) []byte {
	return protowire.AppendString(appendTag(b, number), text)
}

// response is a DeltaDiscoveryResponse whose resources are encoded already.
type response struct {
	version, typeURL, nonce string
	resources               []*resource
	removed                 []string
}

// buffers is the response as it is sent. Only what surrounds the resources is written anew.
func (r *response) buffers() mem.BufferSlice {
	first := sizeOf(responseSystemVersion, len(r.version)) + sizeOf(responseTypeURL, len(r.typeURL))
	size := first + sizeOf(responseNonce, len(r.nonce))
	for _, name := range r.removed {
		size += sizeOf(responseRemoved, len(name))
	}
	around := make([]byte, 0, size)
	around = appendText(around, responseSystemVersion, r.version)
	around = appendText(around, responseTypeURL, r.typeURL)
	around = appendText(around, responseNonce, r.nonce)
	for _, name := range r.removed {
		around = appendText(around, responseRemoved, name)
	}
	buffers := make(mem.BufferSlice, 0, len(r.resources)+2)
	buffers = append(buffers, mem.SliceBuffer(around[:first]))
	for _, resource := range r.resources {
		buffers = append(buffers, resource.field)
	}
	return append(buffers, mem.SliceBuffer(around[first:]))
}

// size is that of the resources, in bytes.
func (r *response) size() (size int) {
	for _, resource := range r.resources {
		size += resource.field.Len()
	}
	return size
}

// receipt is what is kept of a response until it is acknowledged.
type receipt struct {
	version, typeURL, nonce string
	names                   []string // of a few resources, for people
}

func (r *response) receipt() receipt { return receipt{r.version, r.typeURL, r.nonce, r.some()} }

// some names a few of the resources, for people.
func (r *response) some() []string {
	const few = 5
	var names []string
	for _, resource := range r.resources[:min(few+1, len(r.resources))] {
		names = append(names, resource.name)
	}
	names = append(names, r.removed[:min(few+1, len(r.removed))]...)
	if len(names) > few {
		names = append(slices.Clip(names[:few]), "…")
	}
	return names
}
