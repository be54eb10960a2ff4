// Package review proves callers by asking the Kubernetes API server whose their service account tokens are (TokenReview),
// and remembers its answers for a moment.
package review

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	authv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

const (
	// maxToken bounds a token, in bytes. The API server's own are a tenth of it.
	maxToken = 12 << 10
	// timeout is that of every Reviewer but those of tests.
	timeout = 5 * time.Second
	// maxReviews is how many are asked for at a time; the others wait.
	maxReviews = 32
	// An address whose tokens are bad may try others so often per second in the long run, and so many at once: each costs
	// the API server a review.
	failures, failuresAtOnce = 10, 50
)

// Config is what a Reviewer needs.
type Config struct {
	API *rest.Config
	// Audiences are those of which a token must have one.
	Audiences []string
	// ClusterID is that of the API server's cluster. Callers that name another one are refused.
	ClusterID string
}

// Reviewer proves callers by their service account tokens.
type Reviewer struct {
	cfg    Config
	api    rest.Interface // authentication.k8s.io/v1
	cache  *cache
	slots  chan struct{} // has an element for each review that goes on
	failed *ca.Limit     // by address
	// timeout bounds one review, and so how long a call waits for it.
	timeout time.Duration
}

// New makes one.
func New(cfg Config) (*Reviewer, error) {
	api, err := connect(cfg.API)
	if err != nil {
		return nil, err
	}
	r := &Reviewer{cfg: cfg, api: api, slots: make(chan struct{}, maxReviews), failed: ca.NewLimit(failures, failuresAtOnce), timeout: timeout}
	r.cache = newCache(r.review)
	return r, nil
}

func connect(api *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := authv1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("know token reviews: %w", err)
	}
	cfg := rest.CopyConfig(api)
	cfg.GroupVersion, cfg.APIPath = &authv1.SchemeGroupVersion, "/apis"
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.ContentType = runtime.ContentTypeProtobuf
	// Callers wait for the answer; how many ask at a time is bounded by slots.
	cfg.QPS = -1
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes for token reviews: %w", err)
	}
	return client, nil
}

// Authenticate implements ca.Authenticator. Of a token that the API server revokes, callers are proven for 10 seconds more:
// that is how long an answer is remembered.
func (r *Reviewer) Authenticate(ctx context.Context) (ca.Caller, error) {
	token, err := ca.Bearer(ctx)
	switch {
	case err != nil:
		return ca.Caller{}, err
	case len(token) > maxToken:
		return ca.Caller{}, fmt.Errorf("token exceeds %d bytes", maxToken)
	}
	if err := r.checkCluster(ctx); err != nil {
		return ca.Caller{}, err
	}
	return r.cache.get(ctx, token)
}

func (r *Reviewer) checkCluster(ctx context.Context) error {
	for _, named := range metadata.ValueFromIncomingContext(ctx, "clusterid") {
		if named != "" && named != r.cfg.ClusterID {
			return fmt.Errorf("the caller is of cluster %.64q, but this is %q (CLUSTER_ID)", named, r.cfg.ClusterID)
		}
	}
	return nil
}

// review asks the API server. It takes its time even if whoever asked has gone, since others may wait for the same answer.
func (r *Reviewer) review(ctx context.Context, token string) (ca.Caller, error) {
	address := ca.AddressOf(ctx)
	// Who was proven before is asked for again whatever others send from there: a revoked token mustn't last longer by that.
	if _, proven := ca.CallerOf(ctx); !proven && r.failed.Spent(address) {
		return ca.Caller{}, fmt.Errorf("%s has sent too many bad tokens, so this one isn't reviewed: %w", address, ca.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.timeout)
	defer cancel()
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return ca.Caller{}, fmt.Errorf("%d tokens are being reviewed already: %w", cap(r.slots), ca.ErrUnavailable)
	}
	ask := &authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: r.cfg.Audiences}}
	answer := new(authv1.TokenReview)
	if err := r.api.Post().Resource("tokenreviews").Body(ask).Do(ctx).Into(answer); err != nil {
		return ca.Caller{}, fmt.Errorf("review token: %w: %w", err, ca.ErrUnavailable)
	}
	caller, err := callerOf(answer.Status, r.cfg.Audiences)
	if err != nil {
		r.failed.Allow(address)
	}
	return caller, err
}

// Where the API server says of a pod's token which pod and node it is bound to.
const (
	podName  = "authentication.kubernetes.io/pod-name"
	podUID   = "authentication.kubernetes.io/pod-uid"
	nodeName = "authentication.kubernetes.io/node-name"
)

// callerOf reads the API server's answer.
func callerOf(status authv1.TokenReviewStatus, audiences []string) (ca.Caller, error) {
	if !status.Authenticated {
		return ca.Caller{}, fmt.Errorf("the API server refuses the token: %.512s", orElse(status.Error, "it gives no reason"))
	}
	// A server that knows nothing of audiences leaves them out; its tokens are for itself.
	if !slices.ContainsFunc(audiences, func(wanted string) bool { return slices.Contains(status.Audiences, wanted) }) {
		return ca.Caller{}, fmt.Errorf("the token is for audiences %q, none of %q", status.Audiences, audiences)
	}
	if !slices.Contains(status.User.Groups, "system:serviceaccounts") {
		return ca.Caller{}, fmt.Errorf("the token is of %q, which is no service account", status.User.Username)
	}
	parts := strings.Split(status.User.Username, ":")
	if len(parts) != 4 || parts[0] != "system" || parts[1] != "serviceaccount" || parts[2] == "" || parts[3] == "" {
		return ca.Caller{}, fmt.Errorf("user name %q: want system:serviceaccount:NAMESPACE:NAME", status.User.Username)
	}
	caller := ca.Caller{Namespace: parts[2], ServiceAccount: parts[3]}
	for _, field := range []struct {
		key string
		to  *string
	}{{podName, &caller.Pod}, {podUID, &caller.PodUID}, {nodeName, &caller.Node}} {
		switch values := status.User.Extra[field.key]; len(values) {
		case 0:
		case 1:
			*field.to = values[0]
		default:
			return ca.Caller{}, fmt.Errorf("the token has %d values of %s", len(values), field.key)
		}
	}
	if (caller.Pod == "") != (caller.PodUID == "") {
		return ca.Caller{}, fmt.Errorf("the token names pod %q with uid %q: want both or neither", caller.Pod, caller.PodUID)
	}
	return caller, nil
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
