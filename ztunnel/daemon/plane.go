package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/intake"
	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/xds"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

// connect opens a channel to one server of the control plane.
func connect(cfg config.Config, plane settings.ControlPlane, log *slog.Logger) (*grpc.ClientConn, error) {
	return controlplane.Dial(controlplane.Config{
		Address: plane.Address, RootCA: plane.RootCA, ServerName: plane.ServerName,
		Token: cfg.Token, ClusterID: cfg.ClusterID, Headers: plane.Headers, PostQuantum: cfg.Security.PostQuantum,
	}, log)
}

// noCA answers where no certificate authority is configured: then nothing can be tunnelled.
type noCA struct{}

// Sign implements certs.CA.
func (noCA) Sign(context.Context, identity.Workload, string, time.Duration) ([]string, error) {
	return nil, errors.New("no certificate authority: set CA_ADDRESS")
}

// authority returns who signs, and a function that releases it.
func authority(cfg config.Config, log *slog.Logger) (certs.CA, func(), error) {
	if cfg.CA.Address == "" {
		return noCA{}, func() {}, nil
	}
	conn, err := connect(cfg, cfg.CA, log)
	if err != nil {
		return nil, nil, fmt.Errorf("CA_ADDRESS: %w", err)
	}
	return certs.NewIstioCA(conn, cfg.Workload == config.Workload{}), func() { conn.Close() }, nil
}

// describeNode tells the control plane who we are.
func describeNode(cfg config.Config) (*corev3.Node, error) {
	meta := map[string]any{"NAME": cfg.Self.Name, "NAMESPACE": cfg.Self.Namespace, "INSTANCE_IPS": cfg.Self.IP, "NODE_NAME": cfg.Node}
	maps.Copy(meta, cfg.Metadata)
	fields, err := structpb.NewStruct(meta)
	if err != nil {
		return nil, fmt.Errorf("node metadata: %w", err)
	}
	ip := cfg.Self.IP
	if ip == "" {
		ip = "1.1.1.1" // says nothing; the control plane wants an address there
	}
	namespace := cfg.Self.Namespace
	return &corev3.Node{Id: fmt.Sprintf("ztunnel~%s~%s.%s~%s.svc.cluster.local", ip, cfg.Self.Name, namespace, namespace), Metadata: fields}, nil
}

// subscribe keeps the store as the control plane has it. Policies come first, so that no workload is served without.
func subscribe(conn grpc.ClientConnInterface, node *corev3.Node, s shared, counts *telemetry.XDS) *xds.Client {
	var memory heap
	var byName []string
	if s.demand != nil {
		byName = []string{state.AddressType}
	}
	return xds.NewClient(conn, xds.Config{
		Node: node, Types: []string{state.AuthorizationType, state.AddressType}, ByName: byName,
		Handle: func(push xds.Push) map[string]error {
			memory.before(push.Size)
			defer memory.after()
			return s.take(push)
		},
		Event: func(event xds.Event) { intake.Count(counts, event) },
		Log:   s.log.With("scope", "xds"),
	})
}

// take puts a push into the store, tells who waits for it, and returns what of it can't be used.
func (s shared) take(push xds.Push) map[string]error {
	if s.demand == nil || push.TypeURL != state.AddressType {
		return intake.Apply(s.store, push)
	}
	aliases := map[string][]string{}
	resources := push.Resources
	push.Resources = func(yield func(xds.Resource) bool) {
		for resource := range resources {
			aliases[resource.Name] = resource.Aliases
			if !yield(resource) {
				return
			}
		}
	}
	rejected := intake.Apply(s.store, push)
	for name := range aliases {
		if rejected[name] == nil { // else nobody knows what it is
			s.demand.Found(name, aliases[name])
		}
	}
	s.demand.Absent(push.Removed)
	s.demand.Settle()
	return rejected
}
