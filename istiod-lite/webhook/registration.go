package webhook

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/queue"
	"github.com/tulle-mesh/tulle/istiod-lite/reflector"
)

var (
	configurations = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"}
	policies       = schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"}
)

const (
	// selfTest names the object of the test, and is what is wrong with it.
	selfTest = "istiod-lite-self-test"
	// lookEvery is how often configurations are looked at while somebody waits.
	lookEvery = 200 * time.Millisecond
)

// Names returns those of the configurations that Istio's charts install for a control plane.
func Names(namespace string) []string {
	return []string{"istio-validator-" + namespace, "istiod-default-validator"}
}

// RegistrationConfig says what is registered.
type RegistrationConfig struct {
	Client dynamic.Interface
	// Names are those of configurations that may be installed; without any, objects aren't checked before they are stored.
	Names []string
	// Namespace is the control plane's, in which the self-test is asked for; nothing is stored.
	Namespace string
	// Roots returns what the API server should trust, in PEM, and Changed a channel that is closed when it changes.
	Roots   func() []byte
	Changed func() <-chan struct{}
	Log     *slog.Logger
}

// Registration keeps the installed configurations going: with the roots of the control plane, and closed, once it was seen
// that the API server asks us and heeds what we say. Before that a configuration has to be open, or nobody could write
// anything while no control plane serves.
type Registration struct {
	cfg   RegistrationConfig
	queue *queue.Queue[string]
}

// NewRegistration makes a Registration.
func NewRegistration(c RegistrationConfig) *Registration {
	r := &Registration{cfg: c}
	r.queue = queue.New(r.keep, c.Log)
	return r
}

// Run keeps them until the context ends, which isn't an error. It is for the leader.
func (r *Registration) Run(ctx context.Context) error {
	r.queue.Run(ctx, func(ctx context.Context) {
		var group sync.WaitGroup
		for _, name := range r.cfg.Names {
			group.Go(func() {
				reflector.Objects[struct{}]{
					Kind: "ValidatingWebhookConfiguration", Client: r.cfg.Client.Resource(configurations), Fields: "metadata.name=" + name, Log: r.cfg.Log,
					Read: func(*unstructured.Unstructured) (nothing struct{}) { return nothing },
					Put:  func(reflector.Name, struct{}) { r.queue.Add(name) },
					Gone: func(reflector.Name) {}, Listed: func() {},
				}.Follow(ctx)
			})
		}
		for ctx.Err() == nil {
			changed := r.cfg.Changed()
			for _, name := range r.cfg.Names {
				r.queue.Add(name)
			}
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
		group.Wait()
	})
	return nil
}

// AwaitTrust waits until the API server would trust us by every configuration that is installed: until then it refuses all objects that a
// closed one is about. Any replica may wait, and tells what for; the error is what for when the context ended.
func (r *Registration) AwaitTrust(ctx context.Context, tell func(error)) error {
	for {
		err := r.stale(ctx)
		if err == nil {
			return nil
		}
		tell(err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(lookEvery):
		}
	}
}

// stale tells which installed configuration doesn't make the API server trust us.
func (r *Registration) stale(ctx context.Context) error {
	for _, name := range r.cfg.Names {
		found, err := r.cfg.Client.Resource(configurations).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		stale := false
		if err == nil {
			stale, err = trust(found, r.cfg.Roots())
		}
		if err == nil && stale {
			err = errors.New("its caBundle isn't our roots yet, which the leading replica writes")
		}
		if err != nil {
			return fmt.Errorf("ValidatingWebhookConfiguration %s: %w", name, err)
		}
	}
	return nil
}

// keep puts one configuration right.
func (r *Registration) keep(ctx context.Context, name string) error {
	client := r.cfg.Client.Resource(configurations)
	found, err := client.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	trusting, err := trust(found, r.cfg.Roots())
	if err != nil {
		return fmt.Errorf("configuration %s: %w", name, err)
	}
	if trusting {
		// The change comes back as an event, and then it is tested.
		_, err := client.Update(ctx, found, metav1.UpdateOptions{})
		return err
	}
	if !closeAll(found) {
		return nil
	}
	if err := r.test(ctx, found); err != nil {
		return fmt.Errorf("configuration %s stays open: %w", name, err)
	}
	if _, err := client.Update(ctx, found, metav1.UpdateOptions{}); err != nil {
		return err
	}
	r.cfg.Log.Info("objects that can't be meant are refused from now on", "configuration", name)
	return nil
}

// webhooks calls change for each webhook of a configuration and tells whether one was changed.
func webhooks(o *unstructured.Unstructured, change func(map[string]any) bool) bool {
	list, _ := o.Object["webhooks"].([]any)
	changed := false
	for _, item := range list {
		if webhook, ok := item.(map[string]any); ok && change(webhook) {
			changed = true
		}
	}
	return changed
}

// trust writes the roots into a configuration, and tells whether others were there.
func trust(o *unstructured.Unstructured, roots []byte) (changed bool, err error) {
	if len(roots) == 0 {
		return false, errors.New("there are no roots yet")
	}
	bundle := base64.StdEncoding.EncodeToString(roots)
	return webhooks(o, func(webhook map[string]any) bool {
		client, _ := webhook["clientConfig"].(map[string]any)
		if client == nil || client["caBundle"] == bundle {
			return false
		}
		client["caBundle"] = bundle
		return true
	}), nil
}

// closeAll makes a configuration refuse what can't be checked, and tells whether it let that pass before.
func closeAll(o *unstructured.Unstructured) bool {
	return webhooks(o, func(webhook map[string]any) bool {
		if webhook["failurePolicy"] == "Fail" {
			return false
		}
		webhook["failurePolicy"] = "Fail"
		return true
	})
}

// test asks the API server to store, but not really, an object that only the webhook refuses.
func (r *Registration) test(ctx context.Context, configuration *unstructured.Unstructured) error {
	_, err := r.cfg.Client.Resource(policies).Namespace(r.cfg.Namespace).
		Create(ctx, bad(revisionOf(configuration)), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	switch {
	case err == nil:
		return errors.New("the API server took an object that is known to be wrong: it may not have heard of the configuration yet")
	case refusedBy(configuration, err):
		return nil
	}
	return fmt.Errorf("self-test: %w", err)
}

// bad makes an object that the API server's own checks let pass.
func bad(revised string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
		"metadata": map[string]any{"name": selfTest},
		"spec": map[string]any{"rules": []any{map[string]any{"from": []any{map[string]any{
			"source": map[string]any{"ipBlocks": []any{selfTest}},
		}}}}},
	}}
	if revised != "" {
		o.SetLabels(map[string]string{model.RevisionLabel: revised})
	}
	return o
}

// refusedBy tells whether an error is a refusal of one of the configuration's webhooks, about what is wrong.
func refusedBy(configuration *unstructured.Unstructured, err error) bool {
	text := err.Error()
	if !strings.Contains(text, "ipBlocks[0]") || !strings.Contains(text, selfTest) {
		return false
	}
	return webhooks(configuration, func(webhook map[string]any) bool {
		name, _ := webhook["name"].(string)
		return strings.Contains(text, fmt.Sprintf("admission webhook %q denied the request", name))
	})
}

// revisionOf returns the revision whose objects a configuration is about; none if about those without.
func revisionOf(o *unstructured.Unstructured) (revised string) {
	webhooks(o, func(webhook map[string]any) bool {
		if labels, _, _ := unstructured.NestedStringMap(webhook, "objectSelector", "matchLabels"); labels[model.RevisionLabel] != "" {
			revised = labels[model.RevisionLabel]
		}
		list, _, _ := unstructured.NestedSlice(webhook, "objectSelector", "matchExpressions")
		for _, item := range list {
			expression, _ := item.(map[string]any)
			values, _ := expression["values"].([]any)
			if expression["key"] == model.RevisionLabel && expression["operator"] == "In" && len(values) > 0 {
				revised, _ = values[0].(string)
			}
		}
		return false
	})
	return revised
}
