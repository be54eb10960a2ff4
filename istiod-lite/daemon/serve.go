package daemon

import (
	"context"
	"log/slog"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/push"
)

// openPusher makes what tells proxies.
func (d *Daemon) openPusher() {
	d.pusher = push.NewServer(push.Config{
		Log: d.resource, Authenticate: d.caller, TrustedNodeAccounts: d.cfg.TrustedNodeAccounts, Waypoint: d.waypoint,
		Registry: d.registry, Logger: d.log.With("scope", "push"),
		Complain: func(ctx context.Context, log *slog.Logger, message string, err error) {
			d.door.complaints.Say(log, slog.LevelWarn, ca.AddressOf(ctx), message, err)
		},
	})
}

// openDoor opens what proves callers.
func (d *Daemon) openDoor() error {
	callers, err := authenticator(d.cfg, d.source.api)
	if err != nil {
		return err
	}
	d.door = newDoor(usual, d.cfg.TrustedNodeAccounts, callers, ca.Pods{Find: d.find, Runs: d.runs}, d.log.With("scope", "push"))
	return nil
}

// serve makes the server of proxies.
func (d *Daemon) serve(serving *ca.Serving) {
	d.door.signer = ca.NewServer(ca.Config{
		Authority: d.authority.live, TrustDomains: d.trustDomains,
		TrustedNodeAccounts: d.cfg.TrustedNodeAccounts, Pods: d.door.pods,
		DefaultTTL: d.cfg.DefaultCertTTL, MaxTTL: d.cfg.MaxCertTTL,
		Registry: d.registry, Logger: d.log.With("scope", "ca"),
	})
	d.rpc = grpc.NewServer(append(d.door.options(),
		grpc.Creds(credentials.NewTLS(serving.Config())), grpc.InTapHandle(d.early), grpc.ChainStreamInterceptor(d.drain.stream), push.Codec())...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(d.rpc, d.pusher)
	if d.cfg.CAServer {
		d.door.signer.Register(d.rpc)
	}
}

// Before everything was read once, no proxy may be told anything: the rest would look deleted.
var errNotReady = status.Error(codes.Unavailable, "the control plane has not read its objects yet")

// early turns calls away until everything was read. It must not block: it stops a whole connection.
func (d *Daemon) early(ctx context.Context, _ *tap.Info) (context.Context, error) {
	if !d.pipeline.ready.Load() {
		return ctx, errNotReady
	}
	return ctx, nil
}

// caller is whom the door has let in, with the node that it runs on.
func (d *Daemon) caller(ctx context.Context) (push.Caller, error) {
	caller, known := ca.CallerOf(ctx)
	if !known {
		return push.Caller{}, status.Error(codes.Unauthenticated, unauthenticated)
	}
	node, err := d.door.pods.Node(caller)
	if err != nil {
		d.door.complaints.Say(d.door.log.With("account", caller.Account()), slog.LevelWarn, ca.AddressOf(ctx), "stream refused", err)
		return push.Caller{}, ca.Opaque(err, unauthenticated)
	}
	return push.Caller{
		Namespace: caller.Namespace, ServiceAccount: caller.ServiceAccount, Node: node, Pod: caller.Pod, Address: unboundAddress(ctx, caller),
	}, nil
}

// find tells what is known of a pod that hasn't ended.
func (d *Daemon) find(namespace, name string) (pod ca.Pod, known bool) {
	d.model.View(func() {
		if found := d.model.Pod(model.Name{Namespace: namespace, Name: name}); found != nil && !found.Ended {
			pod, known = ca.Pod{UID: found.UID, Node: found.Node, ServiceAccount: found.ServiceAccount}, true
		}
	})
	return pod, known
}

// trustDomains are that of the mesh and then its aliases.
func (d *Daemon) trustDomains() (domains []string) {
	d.model.View(func() {
		domains = append(domains, d.model.TrustDomain())
		if mesh := d.model.MeshConfig(); mesh != nil {
			domains = append(domains, mesh.TrustDomainAliases...)
		}
	})
	return domains
}

func (d *Daemon) runs(node, namespace, serviceAccount string) (runs bool) {
	d.model.View(func() { runs = d.model.Runs(node, model.Name{Namespace: namespace, Name: serviceAccount}) })
	return runs
}
