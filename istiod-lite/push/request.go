package push

import (
	"errors"
	"slices"
	"unicode/utf8"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The numbers of the fields that are read here, of envoy.service.discovery.v3.
const (
	requestVersions protowire.Number = 5

	versionsName    protowire.Number = 1
	versionsVersion protowire.Number = 2
)

var errVersions = errors.New("initial_resource_versions can't be read")

// request is what a proxy says. Of a proxy that comes back most of it is the versions that it has: as a map, those of ten
// thousand workloads would be twenty thousand strings, of each of a hundred proxies that come at once.
type request struct {
	discoveryv3.DeltaDiscoveryRequest // without InitialResourceVersions

	known  versions // is in the buffer
	buffer mem.Buffer
}

// unmarshal reads a request, and keeps the message until the request is freed.
func (r *request) unmarshal(buffer mem.Buffer) error {
	message := buffer.ReadOnlyData()
	r.buffer, r.known = buffer, nil
	rest := message
	for left := message; len(left) > 0; {
		number, kind, n := protowire.ConsumeField(left)
		if n < 0 {
			return protowire.ParseError(n)
		}
		switch {
		case number == requestVersions && kind == protowire.BytesType:
			if r.known == nil {
				r.known, rest = message, slices.Clone(message[:len(message)-len(left)])
			}
		case r.known != nil:
			rest = append(rest, left[:n]...)
		}
		left = left[n:]
	}
	for name, version := range r.known.all {
		if name == nil || !utf8.Valid(name) || !utf8.Valid(version) {
			return errVersions
		}
	}
	return proto.Unmarshal(rest, &r.DeltaDiscoveryRequest)
}

// free gives the message back.
func (r *request) free() {
	if r.buffer != nil {
		r.buffer.Free()
	}
	r.buffer, r.known = nil, nil
}

// versions is an encoded request, of which the initial_resource_versions count.
type versions []byte

// all goes through names and versions. An entry that can't be read has a nil name.
func (v versions) all(yield func(name, version []byte) bool) {
	for len(v) > 0 {
		number, kind, n := protowire.ConsumeField(v)
		if n < 0 {
			yield(nil, nil)
			return
		}
		field := v[:n]
		v = v[n:]
		if number == requestVersions && kind == protowire.BytesType && !yield(versionOf(content(field))) {
			return
		}
	}
}

// versionOf reads one entry.
func versionOf(entry []byte) (name, version []byte) {
	name = []byte{} // one that is left out is empty
	for len(entry) > 0 {
		number, kind, n := protowire.ConsumeField(entry)
		if n < 0 {
			return nil, nil
		}
		field := entry[:n]
		entry = entry[n:]
		switch {
		case kind != protowire.BytesType:
		case number == versionsName:
			name = content(field)
		case number == versionsVersion:
			version = content(field)
		}
	}
	return name, version
}

// content is that of a field of bytes, which was found to be whole.
func content(field []byte) []byte {
	_, _, n := protowire.ConsumeTag(field)
	value, _ := protowire.ConsumeBytes(field[n:])
	return value
}
