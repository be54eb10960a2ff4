package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Connect reads where the API server is and how to prove who we are: from a kubeconfig file or, if its path is empty,
// from what Kubernetes gives a pod. Nothing is dialled yet.
func Connect(kubeconfig, userAgent string) (*rest.Config, error) {
	var cfg *rest.Config
	var err error
	if kubeconfig == "" {
		cfg, err = rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			err = errors.New("this is no pod: use --kubeconfig FILE for a cluster, or --source files DIR for a folder")
		}
	} else {
		cfg, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	cfg.UserAgent = userAgent
	return cfg, nil
}

// api is an API server. It reads with plain HTTP, so that an object is taken out of an answer before the next is decoded:
// a client with types holds a whole list at once.
type api struct {
	client *http.Client
	base   *url.URL
}

func newAPI(cfg *rest.Config) (*api, error) {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	return &api{client: client, base: base}, nil
}

// refusal is an answer that isn't what was asked for.
type refusal struct {
	code    int // of HTTP
	reason  metav1.StatusReason
	message string
	causes  []metav1.StatusCause
	// after is how long the server wants to be left alone; 0 says nothing.
	after time.Duration
}

func (r *refusal) Error() string {
	return fmt.Sprintf("API server answers %d %s: %s", r.code, r.reason, r.message)
}

// absent tells that the API doesn't have the kind.
func absent(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.code == http.StatusNotFound
}

// outdated tells that changes since a version aren't known any more, or that the server doesn't know the version at all,
// as after a restored backup: everything has to be listed again.
func outdated(err error) bool {
	var r *refusal
	if !errors.As(err, &r) {
		return false
	}
	return r.code == http.StatusGone || slices.ContainsFunc(r.causes, func(cause metav1.StatusCause) bool {
		return cause.Type == metav1.CauseTypeResourceVersionTooLarge
	})
}

// get asks for a path. The caller closes the answer.
func (a *api) get(ctx context.Context, path string, query url.Values) (io.ReadCloser, encoding, error) {
	at := a.base.JoinPath(path)
	at.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, inJSON, err
	}
	request.Header.Set("Accept", accepted)
	response, err := a.client.Do(request)
	if err != nil {
		return nil, inJSON, err
	}
	encoded, err := encodingOf(response.Header.Get("Content-Type"))
	if response.StatusCode == http.StatusOK && err == nil {
		return response.Body, encoded, nil
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil, inJSON, err
	}
	return nil, inJSON, refused(response, encoded)
}

// refused reads what the server says about its refusal.
func refused(response *http.Response, encoded encoding) error {
	r := &refusal{code: response.StatusCode, reason: metav1.StatusReason(http.StatusText(response.StatusCode))}
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err == nil && encoded == inProtobuf {
		body, err = unwrap(body)
	}
	if err != nil || r.read(encoded, body) != nil {
		r.message = fmt.Sprintf("%.200q", body)
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		r.after = time.Duration(seconds) * time.Second
	}
	return r
}

// read takes in a Status.
func (r *refusal) read(encoded encoding, object []byte) error {
	var status metav1.Status
	if err := encoded.fill(object, &status); err != nil {
		return fmt.Errorf("an error that can't be read: %w", err)
	}
	r.reason, r.message = status.Reason, status.Message
	if status.Code != 0 {
		r.code = int(status.Code)
	}
	if status.Details != nil {
		r.causes = status.Details.Causes
		r.after = time.Duration(status.Details.RetryAfterSeconds) * time.Second
	}
	return nil
}
