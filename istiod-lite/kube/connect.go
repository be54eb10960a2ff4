package kube

import (
	"errors"
	"fmt"

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
		if cfg, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
			if clientcmd.IsEmptyConfig(err) {
				err = errors.New("no cluster is in it") // client-go's own text names variables that aren't read here
			}
			err = fmt.Errorf("--kubeconfig %s: %w; want a file with a current context, such as kubectl config view --raw --minify writes", kubeconfig, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	cfg.UserAgent = userAgent
	return cfg, nil
}
