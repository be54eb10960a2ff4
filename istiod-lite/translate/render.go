package translate

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// Render writes a resource's message as JSON for a reader: addresses as text, which protobuf's JSON has in base64.
func Render(message proto.Message) (map[string]any, error) {
	text, err := protojson.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", message.ProtoReflect().Descriptor().FullName(), err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("render %s: %w", message.ProtoReflect().Descriptor().FullName(), err)
	}
	readable(message.ProtoReflect(), fields)
	return fields, nil
}

// readable goes down the message and its JSON side by side.
func readable(message protoreflect.Message, fields map[string]any) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := field.JSONName()
		switch {
		case field.IsMap():
		case field.Kind() == protoreflect.BytesKind && field.IsList():
			var list []any
			for i := range value.List().Len() {
				list = append(list, addressText(value.List().Get(i).Bytes()))
			}
			fields[name] = list
		case field.Kind() == protoreflect.BytesKind:
			fields[name] = addressText(value.Bytes())
		case field.Kind() == protoreflect.MessageKind && field.IsList():
			list, _ := fields[name].([]any)
			for i := range list {
				if inner, ok := list[i].(map[string]any); ok {
					readable(value.List().Get(i).Message(), inner)
				}
			}
		case field.Kind() == protoreflect.MessageKind:
			if inner, ok := fields[name].(map[string]any); ok {
				readable(value.Message(), inner)
			}
		}
		return true
	})
}

func addressText(bytes []byte) string {
	addr, ok := netip.AddrFromSlice(bytes)
	if !ok {
		return fmt.Sprintf("%x", bytes)
	}
	return addr.String()
}

// RenderAny is Render for a resource as it is sent. kind is workloads, services or policies.
func RenderAny(packed *anypb.Any) (kind string, fields map[string]any, err error) {
	message, err := packed.UnmarshalNew()
	if err != nil {
		return "", nil, fmt.Errorf("render %s: %w", packed.TypeUrl, err)
	}
	switch m := message.(type) {
	case *workload.Address:
		if w := m.GetWorkload(); w != nil {
			fields, err = Render(w)
			return "workloads", fields, err
		}
		fields, err = Render(m.GetService())
		return "services", fields, err
	default:
		fields, err = Render(m)
		return "policies", fields, err
	}
}
