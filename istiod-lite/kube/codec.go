package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	kjson "sigs.k8s.io/json"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// accepted are the encodings that are asked for: protobuf where the API has it, which is for its own kinds only.
const accepted = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON

// item is what is left of an object once it was read.
type item struct {
	metav1.ObjectMeta // what the reflector needs, and what a rejection says

	object model.Object // nil where it says nothing to the mesh, or can't be used
	closed model.Object // takes its place if it can't be used and never could; see decode.Kind.Closed
	err    error        // why it can't be used
}

// page is a list of objects, or a part of one.
type page struct {
	metav1.ListMeta

	Items []*item
}

// GetObjectKind has nothing to tell: a codec reads objects of one kind only.
func (*item) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject shares the parts, which nobody changes.
func (i *item) DeepCopyObject() runtime.Object {
	same := *i
	return &same
}

// GetObjectKind is like that of item.
func (*page) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject is like that of item.
func (p *page) DeepCopyObject() runtime.Object {
	same := *p
	return &same
}

// codecs read what the API server says about one kind. They are the seam at which client-go lets an object of the model
// be made while the next is still on its way, so that no list of whole objects is ever in memory.
type codecs []runtime.SerializerInfo

func codecsOf(kind decode.Kind, revisions []string) codecs {
	var list codecs
	for _, info := range serializer.NewCodecFactory(runtime.NewScheme()).SupportedMediaTypes() {
		switch info.MediaType {
		case runtime.ContentTypeJSON:
			info.Serializer = codec{Serializer: info.Serializer, kind: kind, revisions: revisions, encoding: inJSON}
		case runtime.ContentTypeProtobuf:
			info.Serializer = codec{Serializer: info.Serializer, kind: kind, revisions: revisions, encoding: inProtobuf}
		default:
			continue
		}
		list = append(list, info)
	}
	return list
}

// SupportedMediaTypes are JSON and protobuf.
func (c codecs) SupportedMediaTypes() []runtime.SerializerInfo { return c }

// EncoderForVersion returns the encoder.
func (c codecs) EncoderForVersion(e runtime.Encoder, _ runtime.GroupVersioner) runtime.Encoder {
	return e
}

// DecoderToVersion returns the decoder: package decode reads every version.
func (c codecs) DecoderToVersion(d runtime.Decoder, _ runtime.GroupVersioner) runtime.Decoder {
	return d
}

// codec reads one encoding of objects of one kind.
type codec struct {
	runtime.Serializer // encodes; its Decode isn't used
	kind               decode.Kind
	revisions          []string // the control plane's; what is for others need not be readable for it
	encoding           encoding
}

// Decode fills into if it is a page. Else it returns a Status or an item. An object that can't be used is an item that
// says why, so that it stops no other; only one without readable metadata is an error, as it has no version to go on from.
func (c codec) Decode(data []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	kind, message, err := c.encoding.open(data)
	if err != nil {
		return nil, nil, err
	}
	gvk := &schema.GroupVersionKind{Kind: kind}
	if kind == "Status" {
		status := new(metav1.Status)
		return status, gvk, c.encoding.fill(message, status)
	}
	if list, ok := into.(*page); ok {
		return list, gvk, c.list(message, list)
	}
	i := c.item(message)
	if i.ResourceVersion == "" {
		return nil, gvk, errors.Join(errors.New("an object without readable metadata"), i.err)
	}
	return i, gvk, nil
}

func (c codec) list(message []byte, list *page) error {
	meta, objects, err := c.encoding.list(message)
	if err != nil {
		return fmt.Errorf("read list: %w", err)
	}
	list.ListMeta = meta
	list.Items = make([]*item, 0, len(objects))
	for _, object := range objects {
		list.Items = append(list.Items, c.item(object))
	}
	return nil
}

func (c codec) item(data []byte) *item {
	fill := func(into any) error { return c.encoding.fill(data, into) }
	var meta metav1.PartialObjectMetadata
	if err := fill(&meta); err != nil {
		return &item{err: fmt.Errorf("an object without readable metadata: %w", err)}
	}
	i := &item{ObjectMeta: metav1.ObjectMeta{
		Namespace: meta.Namespace, Name: meta.Name, UID: meta.UID, Generation: meta.Generation, ResourceVersion: meta.ResourceVersion,
	}}
	if meta.Name == "" { // a bookmark
		i.Annotations, i.err = meta.Annotations, errors.New("an object without a name")
		return i
	}
	if c.kind.Theirs(meta.Labels, c.revisions) {
		return i // as if it weren't there; and were it ours before it can't be read, it would have no good state from before
	}
	i.object, i.err = c.kind.Read(fill)
	if i.err != nil {
		i.closed = c.kind.Closed(fill)
	}
	return i
}

// encoding is how objects come over the wire.
type encoding bool

const (
	inJSON     encoding = false
	inProtobuf encoding = true
)

// fill writes an encoded object into a struct of its type.
func (e encoding) fill(data []byte, into any) error {
	if e == inJSON {
		return kjson.UnmarshalCaseSensitivePreserveInts(data, into)
	}
	message, ok := into.(interface{ Unmarshal([]byte) error })
	if !ok {
		return fmt.Errorf("%T isn't known in protobuf", into)
	}
	return message.Unmarshal(data)
}

// magic begins every object in protobuf that stands for itself.
var magic = []byte("k8s\x00")

// open returns the kind of an object that stands for itself, and the object as fill takes it.
func (e encoding) open(data []byte) (kind string, message []byte, err error) {
	if e == inJSON {
		var object metav1.TypeMeta
		if err := json.Unmarshal(data, &object); err != nil {
			return "", nil, err
		}
		return object.Kind, data, nil
	}
	inner, ok := bytes.CutPrefix(data, magic)
	if !ok {
		return "", nil, errors.New("not protobuf of Kubernetes")
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(inner); err != nil {
		return "", nil, err
	}
	if envelope.ContentEncoding != "" {
		return "", nil, fmt.Errorf("encoded as %q", envelope.ContentEncoding)
	}
	return envelope.Kind, envelope.Raw, nil
}

// list splits a list into its objects, which are parts of message.
func (e encoding) list(message []byte) (meta metav1.ListMeta, objects [][]byte, err error) {
	if e == inProtobuf {
		return listInProtobuf(message)
	}
	var list struct {
		Metadata metav1.ListMeta   `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(message, &list); err != nil {
		return meta, nil, err
	}
	for _, object := range list.Items {
		objects = append(objects, object)
	}
	return list.Metadata, objects, nil
}

// listInProtobuf relies on what every list of the API has in common: its metadata is field 1, and its items are field 2.
func listInProtobuf(message []byte) (meta metav1.ListMeta, objects [][]byte, err error) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeField(message)
		if n < 0 {
			return meta, nil, protowire.ParseError(n)
		}
		field := message[:n]
		message = message[n:]
		if kind != protowire.BytesType {
			continue
		}
		_, _, tag := protowire.ConsumeTag(field)
		value, _ := protowire.ConsumeBytes(field[tag:])
		switch number {
		case 1:
			if err := meta.Unmarshal(value); err != nil {
				return meta, nil, err
			}
		case 2:
			objects = append(objects, value)
		}
	}
	return meta, objects, nil
}
