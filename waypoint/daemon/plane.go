package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/file"
	"github.com/tulle-mesh/tulle/mesh/intake"
	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/xds"
	"github.com/tulle-mesh/tulle/waypoint/config"
	"github.com/tulle-mesh/tulle/waypoint/table"
)

// connect opens a channel to one server of the control plane.
func connect(cfg config.Config, plane settings.ControlPlane, log *slog.Logger) (*grpc.ClientConn, error) {
	return controlplane.Dial(controlplane.Config{
		Address: plane.Address, RootCA: plane.RootCA, ServerName: plane.ServerName,
		Token: cfg.Plane.Token, ClusterID: cfg.ClusterID, Headers: plane.Headers, PostQuantum: cfg.Security.PostQuantum,
	}, log)
}

// authority returns who signs, and a function that releases it.
func authority(cfg config.Config, log *slog.Logger) (certs.CA, func(), error) {
	if cfg.Plane.CA.Address == "" {
		return nil, nil, errors.New("CA_ADDRESS: is empty; a waypoint needs a certificate to take and open tunnels")
	}
	conn, err := connect(cfg, cfg.Plane.CA, log)
	if err != nil {
		return nil, nil, fmt.Errorf("CA_ADDRESS: %w", err)
	}
	return certs.NewIstioCA(conn, false), func() { conn.Close() }, nil
}

// describeNode tells the control plane who we are.
func describeNode(cfg config.Config) (*corev3.Node, error) {
	meta := map[string]any{"NAME": cfg.Self.Name, "NAMESPACE": cfg.Self.Namespace, "INSTANCE_IPS": cfg.Self.IP, "NODE_NAME": cfg.Self.Node}
	maps.Copy(meta, cfg.Metadata)
	fields, err := structpb.NewStruct(meta)
	if err != nil {
		return nil, fmt.Errorf("node metadata: %w", err)
	}
	ip := cfg.Self.IP
	if ip == "" {
		ip = "1.1.1.1" // says nothing; the control plane wants an address there
	}
	self := cfg.Self
	return &corev3.Node{Id: fmt.Sprintf("waypoint~%s~%s.%s~%s.svc.cluster.local", ip, self.Name, self.Namespace, self.Namespace), Metadata: fields}, nil
}

// followState keeps the tables filled, and returns a channel that is closed when they are for the first time.
func (w *waypoint) followState(ctx context.Context, background *sync.WaitGroup) (<-chan struct{}, error) {
	if w.cfg.Plane.LocalXDS != (settings.Local{}) {
		return w.followLocal(ctx, background)
	}
	conn, err := connect(w.cfg, w.cfg.Plane.XDS, w.log)
	if err != nil {
		return nil, fmt.Errorf("XDS_ADDRESS: %w", err)
	}
	node, err := describeNode(w.cfg)
	if err != nil {
		conn.Close()
		return nil, err
	}
	counts := telemetry.NewXDS(w.reg)
	client := xds.NewClient(conn, xds.Config{
		// What decides comes first, so that nothing is served without.
		Node: node, Types: []string{state.AuthorizationType, resourceType, state.AddressType}, Handle: w.take,
		Event: func(event xds.Event) { intake.Count(counts, event) }, Log: w.log.With("scope", "xds"),
	})
	background.Go(func() {
		defer conn.Close()
		_ = client.Run(ctx) // it only ends with ctx
	})
	return client.Ready(), nil
}

// resourceType is what routes, policies and token issuers come as; see l7.proto.
const resourceType = "type.googleapis.com/tulle.l7.v1.Resource"

// take puts a push into the tables and returns what of it can't be used.
func (w *waypoint) take(push xds.Push) map[string]error {
	if push.TypeURL != resourceType {
		return intake.Apply(w.store, push)
	}
	rejected := map[string]error{}
	for resource := range push.Resources {
		read := &l7.Resource{}
		err := proto.Unmarshal(resource.Body, read)
		if err == nil {
			err = w.builder.Set(resource.Name, read, time.Now())
		} else {
			w.builder.Unreadable(resource.Name)
		}
		if err != nil {
			rejected[resource.Name] = err
		}
	}
	for _, name := range push.Removed {
		w.builder.Remove(name)
	}
	w.publish()
	return rejected
}

// publish puts into force what the builder was told.
func (w *waypoint) publish() {
	w.rules.Store(w.builder.Table())
	w.onWorkers(func(l *line, done func()) {
		l.handler.Recheck()
		done()
	})
}

// followLocal is followState from a file or a text.
func (w *waypoint) followLocal(ctx context.Context, background *sync.WaitGroup) (<-chan struct{}, error) {
	ready := make(chan struct{})
	close(ready)
	local := w.cfg.Plane.LocalXDS
	if local.Inline != "" {
		if err := w.load([]byte(local.Inline)); err != nil {
			return nil, fmt.Errorf("LOCAL_XDS: %w", err)
		}
		return ready, nil
	}
	seen := file.Look(local.Path)
	if err := w.loadFile(local.Path); err != nil {
		return nil, err
	}
	background.Go(func() {
		err := seen.Follow(ctx, func() {
			if err := w.loadFile(local.Path); err != nil {
				w.log.Error("file not taken; its last good state goes on", "err", err)
				return
			}
			w.log.Info("file read anew", "file", local.Path)
		})
		if err != nil {
			w.log.Error("changes of LOCAL_XDS_PATH go unnoticed", "err", err)
		}
	})
	return ready, nil
}

// loadFile is load of a file.
func (w *waypoint) loadFile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("LOCAL_XDS_PATH: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, state.MaxFile+1))
	if err == nil {
		err = w.load(data)
	}
	if err != nil {
		return fmt.Errorf("LOCAL_XDS_PATH: %s: %w", path, err)
	}
	return nil
}

// load makes the tables hold what a text says and nothing else. A broken one changes nothing.
func (w *waypoint) load(data []byte) error {
	update, err := state.Read(data)
	if err == nil {
		err = state.NewStore().Apply(update) // a store takes what is good of an update; here it is all or nothing
	}
	if err != nil {
		return err
	}
	resources, err := table.Read(data)
	if err != nil {
		return err
	}
	if err := w.builder.Replace(resources, time.Now()); err != nil {
		return err
	}
	w.publish() // first what decides, so that nothing is served without
	return w.store.Replace(update)
}
