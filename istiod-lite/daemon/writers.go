package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/istiod-lite/addresses"
	"github.com/tulle-mesh/tulle/istiod-lite/deploy"
	"github.com/tulle-mesh/tulle/istiod-lite/lead"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/roots"
	"github.com/tulle-mesh/tulle/istiod-lite/routes"
	"github.com/tulle-mesh/tulle/istiod-lite/status"
	"github.com/tulle-mesh/tulle/istiod-lite/webhook"
)

// writers write into a cluster. Every replica keeps up with what there is to write, and of each sort of work one does it.
type writers struct {
	client     dynamic.Interface
	conditions *status.Writer
	events     *status.Events
	addresses  *addresses.Writer
	lacks      *status.Events // entries that get no address
	roots      *roots.Writer
	waypoints  *deploy.Writer
	gateways   *status.Writer // their statuses, and those of their classes
	// hook answers the API server, on every replica; nil where it isn't served.
	hook     *webhook.Server
	register *webhook.Registration
}

const (
	// writesPerSecond and burst bound what is asked of the API server in the long run and at once, by all writers together.
	writesPerSecond, burst = 100, 200
)

// openWriters makes the writers; there are none without a cluster.
func (d *Daemon) openWriters(certificate *tls.Config) error {
	if d.source.api == nil {
		return nil
	}
	client, err := d.client()
	if err != nil {
		return err
	}
	revision := settings(d.cfg).Revisions
	live := d.authority.live
	events, lacks := status.NewEvents(client, d.cfg.Instance, d.log.With("scope", "status")), status.NewEvents(client, d.cfg.Instance, d.log.With("scope", "addresses"))
	d.writers = &writers{
		client: client,
		conditions: status.New(status.Config{
			Client: client, Manager: "istiod-lite-status", Revisions: revision, Log: d.log.With("scope", "status"),
			Types:       model.ConditionTypes(),
			Controllers: []string{model.WaypointController},
			Kinds: append([]model.Kind{
				model.KindService, model.KindServiceEntry, model.KindWorkloadEntry, model.KindAuthorizationPolicy, model.KindRequestAuthentication,
				model.KindBackendTLSPolicy,
			}, model.RouteKinds[:]...),
		}),
		events: events, lacks: lacks,
		addresses: addresses.New(client, func(name model.Name, uid, message string) {
			reason := "NoAddress"
			if message == "" {
				reason = ""
			}
			lacks.Set(model.Key{Kind: model.KindServiceEntry, Name: name}, status.Trouble{UID: uid, Reason: reason, Message: message})
		}, d.log.With("scope", "addresses")),
		roots: roots.New(roots.Config{
			Client: client, Meshed: d.cfg.RootsInMeshOnly, Roots: live.RootsPEM, Revoked: live.RevokedPEM, Changed: live.Changed, Namespace: d.cfg.RootNamespace,
			Log: d.log.With("scope", "roots"),
		}),
	}
	d.writers.waypoints, d.writers.gateways = d.openGateways(client)
	d.verdicts.set, d.verdicts.trouble = d.writers.conditions.Set, func(key model.Key, uid, reason, message string) {
		events.Set(key, status.Trouble{UID: uid, Reason: reason, Message: message})
	}
	d.verdicts.setParents = func(key model.Key, generation int64, parents []routes.Parent) {
		d.writers.conditions.SetParents(key, generation, parentStatuses(parents))
	}
	if d.cfg.WebhookAddress == "" {
		return nil
	}
	listener, err := net.Listen("tcp", d.cfg.WebhookAddress)
	if err != nil {
		return fmt.Errorf("listen for the API server's questions: %w", err)
	}
	d.writers.hook = webhook.NewServer(webhook.Config{Listener: listener, TLS: certificate, Registry: d.registry, Log: d.log.With("scope", "webhook")})
	d.writers.register = webhook.NewRegistration(webhook.RegistrationConfig{
		Client: client, Names: webhook.Names(d.cfg.RootNamespace), Namespace: d.cfg.RootNamespace,
		Roots: live.RootsPEM, Changed: live.Changed, Log: d.log.With("scope", "webhook"),
	})
	return nil
}

// parentStatuses are what a route's status says of its parents.
func parentStatuses(parents []routes.Parent) []status.Parent {
	var list []status.Parent
	for _, parent := range parents {
		ref := status.ParentRef{
			Group: parent.Ref.Group, Kind: parent.Ref.Kind, Name: parent.Ref.Name.Name, SectionName: parent.Ref.Section, Port: int32(parent.Ref.Port),
		}
		if parent.Ref.Written {
			ref.Namespace = parent.Ref.Namespace
		}
		list = append(list, status.Parent{Controller: model.WaypointController, Ref: ref, Conditions: parent.Conditions})
	}
	return list
}

// client is the one that all writers share.
func (d *Daemon) client() (dynamic.Interface, error) {
	api := rest.CopyConfig(d.source.api)
	api.QPS, api.Burst = writesPerSecond, burst
	client, err := dynamic.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	return client, nil
}

// serveHook answers the API server until the context ends.
func (w *writers) serveHook(ctx context.Context) error {
	if w == nil || w.hook == nil {
		<-ctx.Done()
		return nil
	}
	return w.hook.Run(ctx)
}

// trustWithin is for how long this control plane isn't ready because the API server wouldn't trust its webhook. Then objects that can't be
// stored are the lesser evil: proxies need certificates.
const trustWithin = 30 * time.Second

// awaitTrust waits until the API server can ask the webhook, so that objects can be stored as soon as somebody is ready.
func (d *Daemon) awaitTrust(ctx context.Context) {
	select {
	case <-d.synced:
	case <-ctx.Done():
		return
	}
	if d.writers != nil && d.writers.register != nil {
		bounded, cancel := context.WithTimeout(ctx, trustWithin)
		defer cancel()
		err := d.writers.register.AwaitTrust(bounded, func(err error) { d.stale.Store(&err) })
		if err != nil && ctx.Err() == nil {
			d.log.Warn("ready, but objects may be refused: the API server doesn't trust the webhook", "scope", "webhook", "err", err)
		}
	}
	d.stale.Store(nil)
}

// forget forgets what the statuses of objects say that are gone, before anything is said of others of their names.
func (w *writers) forget(changes []model.Change) {
	if w == nil {
		return
	}
	for _, change := range changes {
		if change.Object == nil {
			w.conditions.Forget(change.Key)
			w.gateways.Forget(change.Key)
		}
	}
}

// take keeps the writers up with objects that they look at themselves.
func (w *writers) take(changes []model.Change) {
	if w == nil {
		return
	}
	for _, change := range changes {
		switch o := change.Object.(type) {
		case *model.Namespace:
			w.roots.Put(o)
		case *model.ServiceEntry:
			w.addresses.Put(o)
		case nil:
			w.drop(change.Key)
		}
	}
}

func (w *writers) drop(key model.Key) {
	switch key.Kind {
	case model.KindNamespace:
		w.roots.Drop(key.Name.Name)
	case model.KindServiceEntry:
		w.addresses.Drop(key.Name)
	}
}

// runWriters takes part in the elections once everything was read: who leads has to know all.
func (d *Daemon) runWriters(ctx context.Context) error {
	if d.writers == nil {
		<-ctx.Done()
		return nil
	}
	select {
	case <-d.synced:
	case <-ctx.Done():
		return nil
	}
	authority := d.authority.lead
	if d.cfg.CAServer {
		authority = append([]func(context.Context) error{d.writers.roots.Run}, authority...)
	}
	elections := d.writers.elections(authority)
	parts := make([]func(context.Context) error, 0, len(elections))
	for election, work := range elections {
		if len(work) == 0 {
			continue
		}
		parts = append(parts, func(ctx context.Context) error {
			return lead.Run(ctx, lead.Config{
				Election: election.Of(d.cfg.Revision), Namespace: d.cfg.RootNamespace, Identity: d.cfg.Instance, Client: d.writers.client,
				Work: together(work...), Log: d.log.With("scope", "lead"),
			})
		})
	}
	return together(parts...)(ctx)
}

// elections lists what the leader of each does. The authority's part is its own, with its roots.
func (w *writers) elections(authority []func(context.Context) error) map[lead.Election][]func(context.Context) error {
	all := map[lead.Election][]func(context.Context) error{
		lead.Status:        {w.conditions.Run, w.events.Run},
		lead.Addresses:     {w.addresses.Run, w.lacks.Run},
		lead.GatewayDeploy: {w.waypoints.Run, w.gateways.Run},
		lead.Roots:         authority,
	}
	if w.register != nil {
		all[lead.Webhook] = []func(context.Context) error{w.register.Run}
	}
	return all
}

// together runs all parts until the context ends, or one of them does.
func together(parts ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		failures := make([]error, len(parts))
		var group sync.WaitGroup
		for i, part := range parts {
			group.Go(func() {
				defer cancel()
				failures[i] = part(ctx)
			})
		}
		group.Wait()
		return errors.Join(failures...)
	}
}
