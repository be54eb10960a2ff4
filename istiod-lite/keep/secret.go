package keep

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

const (
	// SecretName and secretType are those that Istio's own authority uses, so that either takes over from the other.
	SecretName = "istio-ca-secret"
	secretType = "istio.io/ca-root"
	// look is how often every replica looks whether the Secret has changed. A step of the rotation lasts hours.
	look = 10 * time.Second
	// requestTimeout bounds one request to the API server.
	requestTimeout = 5 * time.Second
	// retryFirst and retryMost are how long it waits after the first failure, and after many.
	retryFirst, retryMost = time.Second, 30 * time.Second
)

// SecretConfig is what a Secret needs.
type SecretConfig struct {
	API       *rest.Config
	Namespace string
	Rotation  Rotation
	// Interval is how often the leader looks whether a step of the rotation is due.
	Interval time.Duration
	Log      *slog.Logger
}

// Secret is a self-signed authority that all replicas share by a Secret.
type Secret struct {
	cfg  SecretConfig
	api  rest.Interface // core/v1
	live *ca.Live

	lock    sync.Mutex // held from when the Secret is read until live is set, so that no older state overwrites a newer one
	held    state      // what the Secret held when live was set
	version string     // of the Secret
}

// OpenSecret reads the authority, and makes it if there is none: of several that try at once one wins. Should it have
// expired, there is nothing to lose by a new one at once. It tries until the context ends; waits is told what is in the way.
func OpenSecret(ctx context.Context, cfg SecretConfig, waits func(error)) (*Secret, error) {
	api, err := connect(cfg.API)
	if err != nil {
		return nil, err
	}
	s := &Secret{cfg: cfg, api: api}
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		held, err := s.open(ctx)
		if err == nil {
			var a *ca.Authority
			if a, err = held.authority(); err == nil {
				s.live, s.held = ca.NewLive(a), held
				return s, nil
			}
		}
		err = fmt.Errorf("authority in Secret %s: %w", s.name(), err)
		if apierrors.IsForbidden(err) {
			err = fmt.Errorf("%w; apply deploy/rbac/istiod-lite.yaml", err)
		}
		waits(err)
		cfg.Log.Error("no authority yet, nothing can be served without", "retry", wait, "err", err)
		if pause(ctx, wait) != nil {
			return nil, err
		}
	}
}

func connect(api *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("know secrets: %w", err)
	}
	cfg := rest.CopyConfig(api)
	cfg.GroupVersion, cfg.APIPath = &corev1.SchemeGroupVersion, "/api"
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes for secrets: %w", err)
	}
	return client, nil
}

func (s *Secret) name() string { return s.cfg.Namespace + "/" + SecretName }

// Live is the authority.
func (s *Secret) Live() *ca.Live { return s.live }

func (s *Secret) open(ctx context.Context) (state, error) {
	secret, err := s.get(ctx)
	if apierrors.IsNotFound(err) {
		first, err := s.cfg.Rotation.begin(time.Now())
		if err != nil {
			return state{}, err
		}
		if err := s.create(ctx, first); err != nil && !apierrors.IsAlreadyExists(err) {
			return state{}, err
		}
		secret, err = s.get(ctx) // made here, or by another at the same time
		if err != nil {
			return state{}, err
		}
	} else if err != nil {
		return state{}, err
	}
	held, err := decode(secret.Data)
	if err != nil || time.Now().Before(held.signer.certificate.NotAfter) {
		return held, err
	}
	return s.advance(ctx, secret)
}

// Run follows the Secret until the context ends. What can't be used is said, and the authority before stays in use.
func (s *Secret) Run(ctx context.Context) error {
	trouble := ""
	every := min(look, s.cfg.Interval)
	for pause(ctx, every+rand.N(every/10+1)) == nil {
		text := ""
		if err := s.follow(ctx); err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		if text != "" && text != trouble {
			s.cfg.Log.Error("authority not read, the one before stays in use", "secret", s.name(), "err", text)
		}
		trouble = text
	}
	return nil
}

func (s *Secret) follow(ctx context.Context) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	secret, err := s.get(ctx)
	if err != nil || secret.ResourceVersion == s.version {
		return err
	}
	held, err := decode(secret.Data)
	if err != nil {
		return err
	}
	if err := s.useLocked(held); err != nil {
		return err
	}
	s.version = secret.ResourceVersion
	return nil
}

func (s *Secret) useLocked(held state) error {
	a, err := held.authority()
	if err != nil {
		return err
	}
	if err := a.Follows(s.live.Authority()); err != nil {
		// The Secret is the truth: to stay behind would split the mesh.
		s.cfg.Log.Warn("the authority was replaced by one that clients don't know: connections fail until all have new certificates", "secret", s.name(), "err", err)
	}
	s.held = held
	if s.live.Set(a) {
		s.cfg.Log.Info("authority replaced", "secret", s.name(), "signer", describe(a.Chain[0]), "roots", len(a.Roots))
	}
	return nil
}

// Rotate replaces the root in time until the context ends. Only one replica should do it; should several, each step is
// still taken once. It also puts the Secret back if somebody deletes it: replicas that start would make another authority.
func (s *Secret) Rotate(ctx context.Context) error {
	for wait := retryFirst; ; {
		err := s.rotate(ctx)
		sleep := s.cfg.Interval + rand.N(s.cfg.Interval/10+1)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			wait = retryFirst
		case apierrors.IsConflict(err):
			sleep = retryFirst // somebody else has taken the step
		default:
			s.cfg.Log.Error("rotation of the root failed", "secret", s.name(), "retry", wait, "err", err)
			sleep, wait = wait, min(2*wait, retryMost)
		}
		if pause(ctx, sleep) != nil {
			return nil
		}
	}
}

func (s *Secret) rotate(ctx context.Context) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	secret, err := s.get(ctx)
	if apierrors.IsNotFound(err) {
		return s.putBackLocked(ctx)
	}
	if err != nil {
		return err
	}
	held, err := s.advance(ctx, secret)
	if err != nil {
		return err
	}
	return s.useLocked(held)
}

// advance takes what is due and writes it, unless somebody else has changed the Secret meanwhile.
func (s *Secret) advance(ctx context.Context, secret *corev1.Secret) (state, error) {
	held, err := decode(secret.Data)
	if err != nil {
		return state{}, err
	}
	next, steps, err := s.cfg.Rotation.advance(held, time.Now())
	if err != nil || len(steps) == 0 {
		return held, err
	}
	changed := secret.DeepCopy()
	if changed.Data, err = next.encode(secret.Data); err != nil {
		return held, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err = s.api.Put().Namespace(s.cfg.Namespace).Resource("secrets").Name(SecretName).Body(changed).Do(ctx).Error()
	if err != nil {
		return held, fmt.Errorf("write step of the rotation: %w", err)
	}
	for _, step := range steps {
		s.cfg.Log.Info(step, "secret", s.name())
	}
	return next, nil
}

func (s *Secret) putBackLocked(ctx context.Context) error {
	s.cfg.Log.Warn("the authority's secret is gone: it is put back", "secret", s.name())
	if err := s.create(ctx, s.held); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("put back: %w", err)
	}
	return nil
}

func (s *Secret) create(ctx context.Context, held state) error {
	data, err := held.encode(nil)
	if err != nil {
		return err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.cfg.Namespace, Name: SecretName}, Type: secretType, Data: data,
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return s.api.Post().Namespace(s.cfg.Namespace).Resource("secrets").Body(secret).Do(ctx).Error()
}

func (s *Secret) get(ctx context.Context) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	secret := new(corev1.Secret)
	err := s.api.Get().Namespace(s.cfg.Namespace).Resource("secrets").Name(SecretName).Do(ctx).Into(secret)
	return secret, err
}

// pause waits, or returns why it shouldn't.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
