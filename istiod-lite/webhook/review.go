// Package webhook refuses objects that can't be meant before they are stored: whoever writes one hears at once which field
// is wrong. What was stored before, or past it, is still checked by whoever reads it. The leader tells the API server to ask, and to refuse
// what can't be checked once it has seen that it is asked (registration.go).
package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	admission "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
)

// The groups whose kinds are checked. Those of Kubernetes itself are checked by the API server.
var groups = []string{"security.istio.io", "networking.istio.io"}

// verdict is what is said of an object.
type verdict struct {
	err      error // nil allows it
	warnings []string
}

// review answers a question of the API server; an error says that it was none.
func review(body []byte) (answer []byte, asked *admission.AdmissionRequest, said verdict, err error) {
	var question admission.AdmissionReview
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &question); err != nil {
		return nil, nil, verdict{}, fmt.Errorf("not an AdmissionReview: %w", err)
	}
	if question.Request == nil || question.Kind != "AdmissionReview" {
		return nil, nil, verdict{}, errors.New("not an AdmissionReview with a request")
	}
	said = judge(question.Request)
	response := &admission.AdmissionResponse{UID: question.Request.UID, Allowed: said.err == nil, Warnings: said.warnings}
	if said.err != nil {
		response.Result = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusBadRequest, Reason: metav1.StatusReasonBadRequest, Message: said.err.Error()}
	}
	answer, err = json.Marshal(admission.AdmissionReview{TypeMeta: question.TypeMeta, Response: response})
	return answer, question.Request, said, err
}

// judge decides about an object.
func judge(request *admission.AdmissionRequest) verdict {
	if request.Operation != admission.Create && request.Operation != admission.Update || request.SubResource != "" {
		return verdict{}
	}
	kind, known := find(request.Kind)
	if !known {
		return verdict{warnings: []string{fmt.Sprintf("%s of %s has no effect: it is not read by istiod-lite", request.Kind.Kind, request.Kind.Group)}}
	}
	err := check(kind, request.Object.Raw)
	if err == nil {
		return verdict{}
	}
	// Who takes a finalizer or a label off an object that is wrong already must not be kept from it.
	if request.Operation == admission.Update && sameSpec(request.Object.Raw, request.OldObject.Raw) {
		return verdict{warnings: []string{"this object was wrong before: " + err.Error()}}
	}
	return verdict{err: err}
}

func find(asked metav1.GroupVersionKind) (decode.Kind, bool) {
	if !slices.Contains(groups, asked.Group) {
		return decode.Kind{}, false
	}
	kinds := decode.Kinds()
	i := slices.IndexFunc(kinds, func(k decode.Kind) bool { return k.Group == asked.Group && k.Kind == asked.Kind })
	if i < 0 {
		return decode.Kind{}, false
	}
	return kinds[i], true
}

// fields are those at the top of an object.
var fields = []string{"apiVersion", "kind", "metadata", "spec", "status"}

func check(kind decode.Kind, raw []byte) error {
	var top map[string]json.RawMessage
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &top); err != nil {
		return fmt.Errorf("not an object: %w", err)
	}
	for field := range top {
		if !slices.Contains(fields, field) {
			return fmt.Errorf("%s: unknown field, those of an object are %s", field, strings.Join(fields, ", "))
		}
	}
	_, err := kind.Read(func(into any) error { return kjson.UnmarshalCaseSensitivePreserveInts(raw, into) })
	return err
}

func sameSpec(a, b []byte) bool {
	type object struct {
		Spec any `json:"spec"`
	}
	var now, before object
	return kjson.UnmarshalCaseSensitivePreserveInts(a, &now) == nil && kjson.UnmarshalCaseSensitivePreserveInts(b, &before) == nil &&
		reflect.DeepEqual(now, before)
}
