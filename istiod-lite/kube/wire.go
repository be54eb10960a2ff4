package kube

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
)

// accepted are the encodings that are asked for: protobuf where the API has it, which is for its own kinds only.
const accepted = "application/vnd.kubernetes.protobuf, application/json"

const (
	// maxList bounds a page of a list, in bytes, and maxEvent one event of a watch. An object has 1.5 MiB at most.
	maxList  = 1 << 30
	maxEvent = 16 << 20
)

// encoding is how objects come over the wire.
type encoding bool

const (
	inJSON     encoding = false
	inProtobuf encoding = true
)

func encodingOf(contentType string) (encoding, error) {
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case err == nil && media == "application/json":
		return inJSON, nil
	case err == nil && media == "application/vnd.kubernetes.protobuf":
		return inProtobuf, nil
	}
	return inJSON, fmt.Errorf("answer of content type %q: is this a Kubernetes API?", contentType)
}

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

// list splits a page of a list into its objects, which are parts of body.
func (e encoding) list(body []byte) (meta metav1.ListMeta, items [][]byte, err error) {
	if e == inJSON {
		var page struct {
			Metadata metav1.ListMeta   `json:"metadata"`
			Items    []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return meta, nil, fmt.Errorf("read list: %w", err)
		}
		for _, item := range page.Items {
			items = append(items, item)
		}
		return page.Metadata, items, nil
	}
	message, err := unwrap(body)
	if err != nil {
		return meta, nil, fmt.Errorf("read list: %w", err)
	}
	// Every list of the API has its metadata as field 1 and its items as field 2.
	err = fields(message, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			return meta.Unmarshal(value)
		case 2:
			items = append(items, value)
		}
		return nil
	})
	if err != nil {
		return meta, nil, fmt.Errorf("read list: %w", err)
	}
	return meta, items, nil
}

// magic begins every object in protobuf that stands for itself.
var magic = []byte("k8s\x00")

// unwrap returns the message within an envelope that says its type.
func unwrap(data []byte) ([]byte, error) {
	inner, ok := bytes.CutPrefix(data, magic)
	if !ok {
		return nil, errors.New("not protobuf of Kubernetes")
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(inner); err != nil {
		return nil, err
	}
	if envelope.ContentEncoding != "" {
		return nil, fmt.Errorf("encoded as %q", envelope.ContentEncoding)
	}
	return envelope.Raw, nil
}

// fields calls visit with the fields of a message that have a length.
func fields(message []byte, visit func(protowire.Number, []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return protowire.ParseError(n)
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := visit(number, value); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

// event is one message of a watch. The object is encoded; for an ERROR it is a Status.
type event struct {
	kind   string
	object []byte
}

// events reads a watch's stream. The object of one event is good until the next is read.
type events struct {
	encoding encoding
	stream   *limited
	lines    *json.Decoder // for JSON
	frame    []byte        // for protobuf
}

// limited is a stream of which only so much more is read.
type limited struct {
	stream io.Reader
	left   int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("an event of more than %d bytes", maxEvent)
	}
	n, err := l.stream.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

func newEvents(encoding encoding, stream io.Reader) *events {
	e := &events{encoding: encoding, stream: &limited{stream: bufio.NewReaderSize(stream, 32<<10)}}
	if encoding == inJSON {
		e.lines = json.NewDecoder(e.stream)
	}
	return e
}

// next waits for an event. The error is io.EOF where the stream ended well.
func (e *events) next() (event, error) {
	e.stream.left = maxEvent
	if e.encoding == inJSON {
		var line struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := e.lines.Decode(&line); err != nil {
			return event{}, err
		}
		return event{line.Type, line.Object}, nil
	}
	return e.nextFrame()
}

// nextFrame reads a message that its length precedes.
func (e *events) nextFrame() (event, error) {
	var length [4]byte
	if _, err := io.ReadFull(e.stream, length[:]); err != nil {
		return event{}, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxEvent {
		return event{}, fmt.Errorf("an event of %d bytes, more than %d", size, maxEvent)
	}
	e.frame = slices.Grow(e.frame[:0], int(size))[:size]
	if _, err := io.ReadFull(e.stream, e.frame); err != nil {
		return event{}, fmt.Errorf("an event that is cut off: %w", err)
	}
	var message metav1.WatchEvent
	if err := message.Unmarshal(e.frame); err != nil {
		return event{}, err
	}
	object, err := unwrap(message.Object.Raw)
	return event{message.Type, object}, err
}
