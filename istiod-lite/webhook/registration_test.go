package webhook

import (
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const installed = `
metadata: {name: istio-validator-istio-system}
webhooks:
- name: rev.validation.istio.io
  failurePolicy: Ignore
  clientConfig: {caBundle: b2xk, service: {name: istiod, namespace: istio-system, path: /validate}}
  objectSelector:
    matchExpressions:
    - {key: istio.io/rev, operator: In, values: [default]}
`

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := new(unstructured.Unstructured)
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestConfigurationGetsTheRootsAndStaysOpen(t *testing.T) {
	o := parse(t, installed)
	changed, err := trust(o, []byte("roots"))
	if err != nil || !changed {
		t.Fatalf("changed: %v, error %v", changed, err)
	}
	webhook := o.Object["webhooks"].([]any)[0].(map[string]any)
	if webhook["clientConfig"].(map[string]any)["caBundle"] != "cm9vdHM=" || webhook["failurePolicy"] != "Ignore" {
		t.Errorf("%v", webhook)
	}
	if changed, err := trust(o, []byte("roots")); err != nil || changed {
		t.Errorf("again: changed: %v, error %v", changed, err)
	}
	if _, err := trust(o, nil); err == nil {
		t.Error("an empty bundle is taken")
	}
}

func TestClosedConfigurationIsLeftAlone(t *testing.T) {
	o := parse(t, installed)
	if !closeAll(o) || closeAll(o) {
		t.Error("it isn't closed exactly once")
	}
}

func TestSelfTestCarriesTheConfigurationsRevision(t *testing.T) {
	if got := revisionOf(parse(t, installed)); got != "default" {
		t.Errorf("revision %q", got)
	}
	without := parse(t, `webhooks: [{objectSelector: {matchExpressions: [{key: istio.io/rev, operator: DoesNotExist}]}}]`)
	if got := revisionOf(without); got != "" {
		t.Errorf("revision %q of those without", got)
	}
	if labels := bad("").GetLabels(); labels != nil {
		t.Errorf("labels %v", labels)
	}
}

// Only a refusal by the very webhook counts: any other may go on when the webhook doesn't work.
func TestSelfTestCountsOnlyTheWebhooksRefusal(t *testing.T) {
	o := parse(t, installed)
	for name, test := range map[string]struct {
		text string
		want bool
	}{
		"the webhook's":              {`admission webhook "rev.validation.istio.io" denied the request: spec.rules[0].from[0].source.ipBlocks[0]: want an address, have "istiod-lite-self-test"`, true},
		"another webhook's":          {`admission webhook "policy.example" denied the request: spec.rules[0].from[0].source.ipBlocks[0]: have "istiod-lite-self-test"`, false},
		"for another reason":         {`admission webhook "rev.validation.istio.io" denied the request: metadata.name: istiod-lite-self-test`, false},
		"the schema's":               {`AuthorizationPolicy.security.istio.io "istiod-lite-self-test" is invalid: spec.rules[0].from[0].source.ipBlocks[0]`, false},
		"the webhook can't be asked": {`Internal error occurred: failed calling webhook "rev.validation.istio.io": dial tcp: connection refused`, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := refusedBy(o, errors.New(test.text)); got != test.want {
				t.Errorf("counts: %v", got)
			}
		})
	}
}

// What the self-test sends has to be refused by what the webhook goes by.
func TestSelfTestIsRefused(t *testing.T) {
	text, err := bad("").MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	_, _, said, err := review(question("CREATE", "AuthorizationPolicy", string(text), ""))
	if err != nil || said.err == nil {
		t.Fatalf("error %v, verdict %v", err, said.err)
	}
	answer := errors.New(`admission webhook "rev.validation.istio.io" denied the request: ` + said.err.Error())
	if !refusedBy(parse(t, installed), answer) {
		t.Errorf("%v doesn't count", answer)
	}
}
