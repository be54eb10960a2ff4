package push

import (
	"errors"
	"slices"

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

var (
	errVersions = errors.New("initial_resource_versions can't be read")
	errGone     = errors.New("initial_resource_versions has more than 400000 names of what isn't there: come back without them")
)

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

// oneByte is the most that is encoded in one byte.
const oneByte = 0x7f

// all goes through names and versions. An entry that can't be read has a nil name.
func (v versions) all(yield func(name, version []byte) bool) {
	const tag = byte(requestVersions<<3) | byte(protowire.BytesType)
	for len(v) > 0 {
		if len(v) > 1 && v[0] == tag && v[1] <= oneByte && len(v) >= 2+int(v[1]) {
			entry := v[2 : 2+int(v[1])]
			v = v[2+len(entry):]
			if !yield(versionOf(entry)) {
				return
			}
			continue
		}
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

// versionOf reads one entry. Nearly all are short, and have a name and then a version.
func versionOf(entry []byte) (name, version []byte) {
	const nameTag = byte(versionsName<<3) | byte(protowire.BytesType)
	const versionTag = byte(versionsVersion<<3) | byte(protowire.BytesType)
	if len(entry) > 1 && entry[0] == nameTag && entry[1] <= oneByte && len(entry) >= 4+int(entry[1]) {
		rest := entry[2+entry[1]:]
		if rest[0] == versionTag && rest[1] <= oneByte && len(rest) == 2+int(rest[1]) {
			return entry[2 : 2+entry[1]], rest[2:]
		}
	}
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

// parseVersion reads the text of a version of ours.
func parseVersion(text []byte) (sum uint64, ok bool) {
	if len(text) == 0 || len(text) > 16 {
		return 0, false
	}
	for _, c := range text {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		sum = sum<<4 | uint64(c)
	}
	return sum, true
}

// content is that of a field of bytes, which was found to be whole.
func content(field []byte) []byte {
	_, _, n := protowire.ConsumeTag(field)
	value, _ := protowire.ConsumeBytes(field[n:])
	return value
}
