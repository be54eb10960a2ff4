package xds

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// message is a DeltaDiscoveryResponse that was read but for its resources. These stay encoded, in the buffers in which they
// came, until each is asked: decoded all at once, a whole mesh would take several times the memory that it takes for good.
type message struct {
	typeURL, nonce string
	removed        []string
	resources      int             // how many there are
	size           int             // in bytes
	body           mem.BufferSlice // the whole message; nil once it was read or closed
}

// The fields of the messages envoy.service.discovery.v3.DeltaDiscoveryResponse, its Resource, and google.protobuf.Any.
const (
	responseResources, responseType, responseNonce, responseRemoved = 2, 4, 5, 6

	resourceVersion, resourceBody, resourceName, resourceAliases = 1, 2, 3, 4

	anyType, anyValue = 1, 2
)

var errMalformed = errors.New("the message is no protobuf")

// codec reads messages and writes whatever protobuf there is.
type codec struct{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return proto.Name }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	return encoding.GetCodecV2(proto.Name).Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m := v.(*message)
	m.size = data.Len()
	reader := data.Reader()
	defer reader.Close()
	for reader.Remaining() > 0 {
		if err := m.readField(reader); err != nil {
			return err
		}
	}
	data.Ref() // the caller frees its own
	m.body = data
	return nil
}

// readField reads a field that is no resource, and passes by one that is.
func (m *message) readField(reader *mem.Reader) error {
	number, size, err := fieldHead(reader)
	if err != nil {
		return err
	}
	text := ""
	switch number {
	case responseType, responseNonce, responseRemoved:
		raw := make([]byte, size)
		if _, err := io.ReadFull(reader, raw); err != nil || !utf8.Valid(raw) {
			return errMalformed
		}
		text = string(raw)
	default:
		if _, err := reader.Discard(size); err != nil {
			return errMalformed
		}
	}
	switch number {
	case responseResources:
		m.resources++
	case responseType:
		m.typeURL = text
	case responseNonce:
		m.nonce = text
	case responseRemoved:
		m.removed = append(m.removed, text)
	}
	return nil
}

// fieldHead reads the beginning of a field and returns how many bytes of it follow. The number of one which has no length
// by nature is 0: of those there are none that we know.
func fieldHead(reader *mem.Reader) (number protowire.Number, size int, err error) {
	tag, err := binary.ReadUvarint(reader)
	if err != nil {
		return 0, 0, errMalformed
	}
	number, kind := protowire.DecodeTag(tag)
	if !number.IsValid() {
		return 0, 0, errMalformed
	}
	switch kind {
	case protowire.BytesType:
		length, err := binary.ReadUvarint(reader)
		if err != nil || length > uint64(reader.Remaining()) {
			return 0, 0, errMalformed
		}
		return number, int(length), nil
	case protowire.VarintType:
		if _, err := binary.ReadUvarint(reader); err != nil {
			return 0, 0, errMalformed
		}
		return 0, 0, nil
	case protowire.Fixed32Type:
		return 0, 4, nil
	case protowire.Fixed64Type:
		return 0, 8, nil
	}
	return 0, 0, errMalformed
}

// each reads the resources, which it does only once, and frees what it has read. The error says what is wrong with one; its
// name is there if it could be read.
func (m *message) each(yield func(Resource, error) bool) {
	if m.body == nil {
		return
	}
	reader := m.body.Reader()
	defer reader.Close()
	m.close() // the reader has its own reference
	var scratch []byte
	for reader.Remaining() > 0 {
		number, size, err := fieldHead(reader)
		if err != nil {
			return // was read before
		}
		if number != responseResources {
			_, _ = reader.Discard(size)
			continue
		}
		if size > cap(scratch) {
			scratch = make([]byte, size, 2*size)
		}
		if _, err := io.ReadFull(reader, scratch[:size]); err != nil {
			return
		}
		if !yield(readResource(scratch[:size], m.typeURL)) {
			return
		}
	}
}

// close frees the message, and may be called again.
func (m *message) close() {
	m.body.Free()
	m.body = nil
}

// readResource reads a Resource that should hold a message of a type. The body points into raw.
func readResource(raw []byte, typeURL string) (r Resource, err error) {
	var body anyMessage
	err = fields(raw, func(number protowire.Number, value []byte) error {
		switch number {
		case resourceName:
			r.Name = string(value)
		case resourceVersion:
			r.Version = string(value)
		case resourceAliases:
			r.Aliases = append(r.Aliases, string(value))
		case resourceBody:
			return body.merge(value)
		}
		return nil
	})
	r.Body = body.value
	switch {
	case err != nil:
	case !r.valid():
		err = errors.New("a name or version is no UTF-8")
		r.Name = ""
	case !body.there:
		err = errors.New("the resource has no body")
	case string(body.typeURL) != typeURL:
		err = fmt.Errorf("the resource is of type %q in a push of %q", body.typeURL, typeURL)
	}
	return r, err
}

func (r *Resource) valid() bool {
	for _, alias := range r.Aliases {
		if !utf8.ValidString(alias) {
			return false
		}
	}
	return utf8.ValidString(r.Name) && utf8.ValidString(r.Version)
}

// anyMessage is a google.protobuf.Any.
type anyMessage struct {
	there          bool
	typeURL, value []byte
}

// merge reads an encoding of it; a field which is there twice counts as given last.
func (a *anyMessage) merge(raw []byte) error {
	a.there = true
	return fields(raw, func(number protowire.Number, value []byte) error {
		switch number {
		case anyType:
			a.typeURL = value
		case anyValue:
			a.value = value
		}
		return nil
	})
}

// fields calls f with each field that has a length.
func fields(raw []byte, f func(number protowire.Number, value []byte) error) error {
	for len(raw) > 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return errMalformed
		}
		raw = raw[n:]
		if n = protowire.ConsumeFieldValue(number, kind, raw); n < 0 {
			return errMalformed
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(raw)
			if err := f(number, value); err != nil {
				return err
			}
		}
		raw = raw[n:]
	}
	return nil
}
