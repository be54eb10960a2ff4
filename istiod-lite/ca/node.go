package ca

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

// Pods is what the authority has to know of the pods, as the control plane sees them: it may be a bit behind.
type Pods struct {
	// Find returns the pod of the name; known is false where there is none.
	Find func(namespace, name string) (pod Pod, known bool)
	// Runs tells whether a node has a pod of the account that hasn't ended.
	Runs func(node, namespace, serviceAccount string) bool
}

// Pod is what is known of one.
type Pod struct{ UID, Node, ServiceAccount string }

// refusal says why an impersonation was refused, for the operator only: a caller learns nothing of what runs where.
type refusal struct{ reason string }

func (r *refusal) Error() string { return r.reason }

func refuse(format string, values ...any) error { return &refusal{fmt.Sprintf(format, values...)} }

// unseen says that a caller's pod isn't known here yet, so it should ask again.
type unseen struct{ reason string }

func (u *unseen) Error() string { return u.reason }

// Unwrap makes it retryable.
func (u *unseen) Unwrap() error { return ErrUnavailable }

// ErrUnavailable is in errors of which the caller is not to blame, so that it should try again.
var ErrUnavailable = errors.New("try again")

// Node returns where the caller runs: its pod must be the one that its token is bound to. The token itself may name the
// node, too.
func (p Pods) Node(caller Caller) (string, error) {
	if caller.Pod == "" {
		if caller.Node == "" {
			return "", refuse("the token names neither a node nor a pod: it must be one that the kubelet projects into a pod")
		}
		return caller.Node, nil
	}
	pod, known := p.Find(caller.Namespace, caller.Pod)
	switch {
	case !known:
		return "", &unseen{fmt.Sprintf("the caller's pod %s/%s is not known here yet", caller.Namespace, caller.Pod)}
	case pod.UID != caller.PodUID:
		// A pod of the same name came after or before it.
		return "", &unseen{fmt.Sprintf("pod %s/%s has uid %q here, but the token is bound to uid %q", caller.Namespace, caller.Pod, pod.UID, caller.PodUID)}
	case pod.ServiceAccount != caller.ServiceAccount:
		return "", refuse("pod %s/%s has account %q, but the token is of %q", caller.Namespace, caller.Pod, pod.ServiceAccount, caller.ServiceAccount)
	case pod.Node == "":
		return "", &unseen{fmt.Sprintf("the caller's pod %s/%s has no node here yet", caller.Namespace, caller.Pod)}
	case caller.Node != "" && caller.Node != pod.Node:
		return "", refuse("pod %s/%s is on node %q, but the token names node %q", caller.Namespace, caller.Pod, pod.Node, caller.Node)
	}
	return pod.Node, nil
}

// identify decides for whom the certificate will be.
func (s *Server) identify(caller Caller, impersonated string) (identity.Workload, error) {
	domains := s.cfg.TrustDomains()
	if impersonated == "" {
		return identity.New(domains[0], caller.Namespace, caller.ServiceAccount)
	}
	if !slices.Contains(s.cfg.TrustedNodeAccounts, caller.Account()) {
		return identity.Workload{}, refuse("account %s may not impersonate: it is not among the trusted node accounts %v (CA_TRUSTED_NODE_ACCOUNTS)", caller.Account(), s.cfg.TrustedNodeAccounts)
	}
	id, err := identity.Parse(impersonated)
	if err != nil {
		return identity.Workload{}, &refusal{err.Error()}
	}
	if !slices.Contains(domains, id.TrustDomain()) {
		return identity.Workload{}, refuse("identity %s is of another trust domain than %s", id, join(domains))
	}
	node, err := s.cfg.Pods.Node(caller)
	if err != nil {
		return identity.Workload{}, err
	}
	if !s.cfg.Pods.Runs(node, id.Namespace(), id.ServiceAccount()) {
		return identity.Workload{}, refuse("node %s has no running pod of account %s/%s", node, id.Namespace(), id.ServiceAccount())
	}
	return id, nil
}
