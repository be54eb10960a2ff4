package push

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	// It registers what is looked up below.
	grpcproto "google.golang.org/grpc/encoding/proto"
)

// Codec is an option that a grpc.Server with this one on it needs: it sends encoded resources as they are, so that a
// hundred proxies that come at once share one copy of everything, and leaves what they have as it came. All other messages
// are marshalled as usual.
func Codec() grpc.ServerOption {
	return grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(grpcproto.Name)})
}

type codec struct{ encoding.CodecV2 }

// Marshal takes a *response of ours, or any protobuf message.
func (c codec) Marshal(message any) (mem.BufferSlice, error) {
	if ours, ok := message.(*response); ok {
		return ours.buffers(), nil
	}
	return c.CodecV2.Marshal(message)
}

// Unmarshal reads into a *request of ours, or any protobuf message.
func (c codec) Unmarshal(data mem.BufferSlice, message any) error {
	if ours, ok := message.(*request); ok {
		return ours.unmarshal(data.MaterializeToBuffer(mem.DefaultBufferPool()))
	}
	return c.CodecV2.Unmarshal(data, message)
}
