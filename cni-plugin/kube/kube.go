// Package kube is the node agent's end of the Kubernetes API: it follows this node's pods and the labels of all namespaces,
// publishes which pods are enrolled in an annotation, writes events, and takes the node's taint away.
package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// requestDeadline bounds each write and each look at a single object.
const requestDeadline = 5 * time.Second

// Config says where the API is.
type Config struct {
	Kubeconfig string // file; empty means what Kubernetes gives a pod
	Node       string // whose pods are followed
	UserAgent  string
	Log        *slog.Logger
}

// Client is a connection to the API. It is safe for concurrent use.
type Client struct {
	node string
	log  *slog.Logger
	core *rest.RESTClient   // of core/v1, with types
	meta metadata.Interface // of anything, metadata only

	published *published
}

// New makes a Client. Nothing is dialled yet.
func New(cfg Config) (*Client, error) {
	access, err := access(cfg.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	access.UserAgent = cfg.UserAgent
	access.QPS, access.Burst = 200, 600 // the most pods of a node may each be pending and then enabled when the agent is installed
	core, err := coreClient(access)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	meta, err := metadata.NewForConfig(access)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	return &Client{node: cfg.Node, log: cfg.Log, core: core, meta: meta, published: newPublished()}, nil
}

func access(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		return clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	cfg, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("this is no pod: use --kubeconfig FILE for a cluster, or --source files DIR for a folder")
	}
	return cfg, err
}

// coreClient knows the types of core/v1 only: those of the whole API would be a third of the agent's memory.
func coreClient(access *rest.Config) (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	cfg := rest.CopyConfig(access)
	cfg.GroupVersion, cfg.APIPath = &corev1.SchemeGroupVersion, "/api"
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return rest.RESTClientFor(cfg)
}
