package decode

import (
	"encoding/json"
	"regexp"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// resource is an object of Istio's. Its own Go type isn't used since that skips unknown fields, and a misspelt one in a
// policy must not go unnoticed.
type resource[T any, P interface {
	*T
	proto.Message
}] struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              strict[T, P]    `json:"spec"`
	Status            json.RawMessage `json:"status"`
}

// strict reads a message and refuses fields that it doesn't have.
type strict[T any, P interface {
	*T
	proto.Message
}] struct{ message P }

// UnmarshalJSON reads the message. Its errors know their line.
func (s *strict[T, P]) UnmarshalJSON(data []byte) error {
	s.message = P(new(T))
	if err := protojson.Unmarshal(data, s.message); err != nil {
		return located(err)
	}
	return nil
}

// get returns the message, an empty one if the document has none.
func (s *strict[T, P]) get() P {
	if s.message == nil {
		return P(new(T))
	}
	return s.message
}

// lineError is an error of the protobuf library with its line as a number.
type lineError struct {
	reason string
	line   int
}

func (e *lineError) Error() string { return e.reason }

// JSONLine tells the line within the JSON text.
func (e *lineError) JSONLine() int { return e.line }

var protoLine = regexp.MustCompile(`\(line (\d+):\d+\): (.*)$`)

func located(err error) error {
	at := protoLine.FindStringSubmatch(err.Error())
	if at == nil {
		return err
	}
	line, _ := strconv.Atoi(at[1])
	return &lineError{reason: at[2], line: line}
}
