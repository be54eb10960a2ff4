package webhook

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	admission "k8s.io/api/admission/v1"
)

// question asks about an object of security.istio.io.
func question(operation, kind, object, old string) []byte {
	if old == "" {
		old = "null"
	}
	return fmt.Appendf(nil, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","kind":{"group":"security.istio.io","version":"v1","kind":%q},`+
		`"namespace":"apps","name":"p","operation":%q,"object":%s,"oldObject":%s}}`, kind, operation, object, old)
}

func policy(spec string) string {
	return `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"p","namespace":"apps","futureField":{}},"spec":` + spec + `,"status":{"conditions":[]}}`
}

const (
	good  = `{"rules":[{"from":[{"source":{"namespaces":["a"]}}]}]}`
	wrong = `{"rules":[{"from":[{"source":{"ipBlocks":["localhost"]}}]}]}`
)

func TestObjectsAreRefusedForWhatCannotBeMeant(t *testing.T) {
	for name, test := range map[string]struct {
		question        []byte
		refused, warned string
	}{
		"a policy":             {question: question("CREATE", "AuthorizationPolicy", policy(good), "")},
		"a wrong address":      {question: question("CREATE", "AuthorizationPolicy", policy(wrong), ""), refused: `spec.rules[0].from[0].source.ipBlocks[0]: want an address or a range such as 10.0.0.0/8, have "localhost"`},
		"a wrong change":       {question: question("UPDATE", "AuthorizationPolicy", policy(wrong), policy(good)), refused: `ipBlocks[0]`},
		"a change to the good": {question: question("UPDATE", "AuthorizationPolicy", policy(good), policy(wrong))},
		"a label of a wrong one": {
			question: question("UPDATE", "AuthorizationPolicy", strings.Replace(policy(wrong), `"name":"p"`, `"name":"p","labels":{"a":"b"}`, 1), policy(wrong)),
			warned:   "this object was wrong before: spec.rules[0]",
		},
		"an unknown field":         {question: question("CREATE", "AuthorizationPolicy", policy(`{"rulez":[]}`), ""), refused: `unknown field "rulez"`},
		"a field twice":            {question: question("CREATE", "AuthorizationPolicy", policy(`{"action":"DENY","action":"ALLOW"}`), ""), refused: "duplicate field"},
		"a field beside the spec":  {question: question("CREATE", "AuthorizationPolicy", `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"p"},"action":"DENY"}`, ""), refused: "action: unknown field, those of an object are apiVersion, kind, metadata, spec, status"},
		"an unknown action":        {question: question("CREATE", "AuthorizationPolicy", policy(`{"action":"MAYBE"}`), ""), refused: "MAYBE"},
		"ports without a selector": {question: question("CREATE", "PeerAuthentication", policy(`{"portLevelMtls":{"80":{"mode":"STRICT"}}}`), ""), refused: "spec.portLevelMtls: exceptions for ports need a selector"},
		"no object":                {question: question("CREATE", "AuthorizationPolicy", "null", ""), refused: "not an object"},
		"an object that is text":   {question: question("CREATE", "AuthorizationPolicy", `"x"`, ""), refused: "not an object"},
		"a deletion":               {question: question("DELETE", "AuthorizationPolicy", "null", policy(wrong))},
		"a connection":             {question: question("CONNECT", "AuthorizationPolicy", policy(wrong), "")},
		"a kind that isn't read":   {question: question("CREATE", "WasmThing", policy(wrong), ""), warned: "WasmThing of security.istio.io has no effect: it is not read by istiod-lite"},
	} {
		t.Run(name, func(t *testing.T) {
			answer, _, _, err := review(test.question)
			if err != nil {
				t.Fatal(err)
			}
			var got admission.AdmissionReview
			if err := json.Unmarshal(answer, &got); err != nil {
				t.Fatal(err)
			}
			r := got.Response
			if got.APIVersion != "admission.k8s.io/v1" || got.Kind != "AdmissionReview" || r.UID != "u1" {
				t.Errorf("answer %s", answer)
			}
			if r.Allowed != (test.refused == "") || r.Result != nil && !strings.Contains(r.Result.Message, test.refused) {
				t.Errorf("allowed: %v, result %v, want refusal %q", r.Allowed, r.Result, test.refused)
			}
			if warnings := strings.Join(r.Warnings, "; "); !strings.Contains(warnings, test.warned) || test.warned == "" && warnings != "" {
				t.Errorf("warnings %q, want %q", warnings, test.warned)
			}
		})
	}
}

func TestAnswerIsOfTheQuestionsVersion(t *testing.T) {
	asked := strings.Replace(string(question("CREATE", "AuthorizationPolicy", policy(good), "")), "admission.k8s.io/v1", "admission.k8s.io/v1beta1", 1)
	answer, _, _, err := review([]byte(asked))
	if err != nil || !strings.Contains(string(answer), `"apiVersion":"admission.k8s.io/v1beta1"`) {
		t.Errorf("%s, error %v", answer, err)
	}
}

func TestWhatIsNoQuestionIsAnError(t *testing.T) {
	for _, body := range []string{"", "{", "[]", "{}", `{"kind":"AdmissionReview"}`, `{"kind":"AdmissionReview","request":null}`, `{"kind":"Pod","request":{}}`, `{"kind":"AdmissionReview","request":{"object":1,"kind":7}}`} {
		if answer, _, _, err := review([]byte(body)); err == nil {
			t.Errorf("%q is answered %s", body, answer)
		}
	}
}

// Whatever is asked, the answer says what was decided.
func FuzzReview(f *testing.F) {
	f.Add(question("CREATE", "AuthorizationPolicy", policy(good), ""))
	f.Add(question("UPDATE", "AuthorizationPolicy", policy(wrong), policy(good)))
	f.Add(question("CREATE", "PeerAuthentication", policy(`{"portLevelMtls":{"80":{"mode":"STRICT"}}}`), ""))
	f.Add(question("CREATE", "ServiceEntry", policy(`{"hosts":["a"]}`), ""))
	f.Add([]byte(`{"kind":"AdmissionReview","request":{"object":`))
	f.Fuzz(func(t *testing.T, body []byte) {
		answer, asked, said, err := review(body)
		if err != nil {
			return
		}
		var got admission.AdmissionReview
		if err := json.Unmarshal(answer, &got); err != nil || got.Response == nil {
			t.Fatalf("answer %s: %v", answer, err)
		}
		if got.Response.Allowed != (said.err == nil) || string(got.Response.UID) != strings.ToValidUTF8(string(asked.UID), "\ufffd") {
			t.Errorf("answer %s", answer)
		}
	})
}
