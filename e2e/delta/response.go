package delta

import (
	"errors"
	"fmt"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Response is a DeltaDiscoveryResponse.
type Response struct {
	TypeURL, Nonce string
	Bytes          int // of the message
	Resources      []Resource
	Removed        []string

	buffer mem.Buffer
}

// Resource is one of a response. Body is valid until the response is freed.
type Resource struct {
	Name, Version string
	Body          []byte // the encoded message, without its type
}

// Free gives the memory back.
func (r *Response) Free() {
	if r.buffer != nil {
		r.buffer.Free()
	}
	*r = Response{}
}

// codec encodes requests, and decodes only what clients look at.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(request)
	if !ok {
		return nil, fmt.Errorf("%T is no request", v)
	}
	data, err := proto.Marshal(r.DeltaDiscoveryRequest)
	return mem.BufferSlice{mem.SliceBuffer(data), mem.SliceBuffer(r.have)}, err
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*Response)
	if !ok {
		return fmt.Errorf("%T is no response", v)
	}
	r.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
	r.Bytes = r.buffer.Len()
	return r.parse(r.buffer.ReadOnlyData())
}

func (r *Response) parse(data []byte) error {
	return fields(data, func(number protowire.Number, value []byte) error {
		switch number {
		case 2:
			resource, err := parseResource(value)
			r.Resources = append(r.Resources, resource)
			return err
		case 4:
			r.TypeURL = string(value)
		case 5:
			r.Nonce = string(value)
		case 6:
			r.Removed = append(r.Removed, string(value))
		}
		return nil
	})
}

func parseResource(data []byte) (Resource, error) {
	var r Resource
	err := fields(data, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			r.Version = string(value)
		case 2:
			return fields(value, func(number protowire.Number, value []byte) error {
				if number == 2 {
					r.Body = value
				}
				return nil
			})
		case 3:
			r.Name = string(value)
		}
		return nil
	})
	return r, err
}

// fields walks over the length-delimited fields of a message, and skips others.
func fields(data []byte, visit func(protowire.Number, []byte) error) error {
	for len(data) > 0 {
		number, kind, length := protowire.ConsumeTag(data)
		if length < 0 {
			return protowire.ParseError(length)
		}
		data = data[length:]
		if length = protowire.ConsumeFieldValue(number, kind, data); length < 0 {
			return protowire.ParseError(length)
		}
		if kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(data[:length])
			if n < 0 {
				return errors.New("a field is cut off")
			}
			if err := visit(number, value); err != nil {
				return err
			}
		}
		data = data[length:]
	}
	return nil
}

// Versions are the initial_resource_versions of a request, encoded once for any number of clients.
type Versions []byte

// EncodeVersions encodes versions by the names of resources.
func EncodeVersions(byName map[string]string) (Versions, error) {
	return proto.Marshal(&discoveryv3.DeltaDiscoveryRequest{InitialResourceVersions: byName})
}

// request is one with the versions that the client has.
type request struct {
	*discoveryv3.DeltaDiscoveryRequest
	have Versions
}
