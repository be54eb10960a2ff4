// Package table finds what is to be decided by about requests to a service's port: the routes, policies and issuers of tokens that are for it, among
// all that the control plane says to this waypoint.
package table

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/authz"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
	"github.com/tulle-mesh/tulle/waypoint/route"
	"github.com/tulle-mesh/tulle/waypoint/secure"
)

// schema is the newest that is read here, of l7.proto.
const schema = 1

// Rules are what holds for connections to a port of a service from a namespace. They don't change.
type Rules struct {
	// Routes are nil if there are none: then requests go to the service itself.
	Routes *route.Routes
	// Consumers says that the routes are the clients' namespace's, not the service's.
	Consumers bool
	// Policies are for authz.Evaluate.
	Policies []*authz.Set
	// Issuers are for jwt.Checker; nil if there are none: then tokens mean nothing.
	Issuers *jwt.Set
}

// Table is what the control plane says, at a time. It doesn't change.
type Table struct {
	routes map[scope]*route.Routes
	// By service, "" for all.
	refused  map[string]*route.Routes
	policies map[string]*authz.Set
	issuers  map[string][]*jwt.Authentication
	backends map[scope]*secure.Policy
}

// scope is what routes are for.
type scope struct {
	service  string // "namespace/hostname"; "" for all
	consumer string // the clients' namespace; "" for all
	port     uint16 // 0 for all
}

// Lookup finds the rules for connections to a service, "namespace/hostname", from a namespace, "" if that isn't known. For a pod that is dialled
// itself the service is ""; routes aren't for it. A connection looks again when there is another table.
func (t *Table) Lookup(service string, port uint16, namespace string) Rules {
	about := []string{service, ""}
	if service == "" {
		about = about[1:]
	}
	var rules Rules
	rules.Routes, rules.Consumers = t.routesFor(service, port, namespace)
	var issuers []*jwt.Authentication
	for _, s := range about {
		if set := t.policies[s]; set != nil {
			rules.Policies = append(rules.Policies, set)
		}
		issuers = append(issuers, t.issuers[s]...)
		if refused := t.refused[s]; refused != nil {
			rules.Routes = refused
		}
	}
	rules.Issuers = jwt.Assemble(issuers)
	return rules
}

// BackendTLS is how a service's port is spoken to by TLS; nil if it isn't.
func (t *Table) BackendTLS(service string, port uint16) *secure.Policy {
	if len(t.backends) == 0 {
		return nil
	}
	for _, s := range [...]scope{{service: service, port: port}, {service: service}, {}} {
		if p := t.backends[s]; p != nil {
			return p
		}
	}
	return nil
}

// routesFor are a consumer's, else the service's, else the gateway's.
func (t *Table) routesFor(service string, port uint16, namespace string) (found *route.Routes, consumers bool) {
	if service == "" {
		return nil, false
	}
	for _, s := range [...]string{service, ""} {
		for _, consumer := range [...]string{namespace, ""} {
			for _, p := range [...]uint16{port, 0} {
				if found := t.routes[scope{s, consumer, p}]; found != nil {
					return found, consumer != ""
				}
			}
		}
	}
	return nil, false
}

// Builder makes the next table when the control plane says something new. It is its caller's alone.
type Builder struct {
	gateway, class string
	keys           *jwt.Keys
	resources      map[string]*resource
	routes         map[scope]names
	others         map[string]names // policies and issuers, by service, "" for all
	staleRoutes    map[scope]bool
	staleOthers    map[string]bool
	staleBackends  bool
	table          *Table
}

type names map[string]bool

// resource is what was made of one of the control plane's.
type resource struct {
	scopes []scope
	// One of them is set.
	refused        string // why nothing may be let through to its services
	route          *route.Route
	policy         *authz.Policy
	authentication *jwt.Authentication
	backend        *secure.Policy
}

// NewBuilder begins with an empty table, for the waypoint of a Gateway, "namespace/name", of a class.
func NewBuilder(gateway, class string, keys *jwt.Keys) *Builder {
	return &Builder{
		gateway: gateway, class: class, keys: keys, table: &Table{}, resources: map[string]*resource{},
		routes: map[scope]names{}, others: map[string]names{}, staleRoutes: map[scope]bool{}, staleOthers: map[string]bool{},
	}
}

// Set takes a resource in, in place of one of the same name. The error says what of it can't be obeyed; it is in force nonetheless, and refuses.
func (b *Builder) Set(name string, r *l7.Resource, now time.Time) error {
	made := &resource{scopes: b.scopes(r.GetTargets())}
	err := b.compile(made, r, now)
	if old := b.resources[name]; old != nil && old.backend.Equal(made.backend) {
		made.backend = old.backend // by which connections are known
	}
	b.Remove(name) // afterwards, so that keys which both need are kept
	b.resources[name] = made
	b.staleBackends = b.staleBackends || made.secures()
	for _, s := range made.scopes {
		if made.backend != nil {
			continue
		}
		if made.route != nil {
			b.routes[s] = with(b.routes[s], name)
			b.touchRoutes(s)
			continue
		}
		b.others[s.service] = with(b.others[s.service], name)
		b.staleOthers[s.service] = true
	}
	return err
}

// Unreadable takes note of a resource whose bytes are none. The last good one of its name stays in force; if there was none, nothing is let through,
// since it may be about anything.
func (b *Builder) Unreadable(name string) {
	if b.resources[name] == nil {
		_ = b.Set(name, &l7.Resource{Origin: &l7.Origin{Kind: "resource", Name: name}, Targets: []*l7.Target{{}}}, time.Time{}) // which can't be obeyed
	}
}

func with(n names, name string) names {
	if n == nil {
		n = names{}
	}
	n[name] = true
	return n
}

func (b *Builder) compile(r *resource, from *l7.Resource, now time.Time) (err error) {
	about := fmt.Sprintf("%s %s/%s", from.GetOrigin().GetKind(), from.GetOrigin().GetNamespace(), from.GetOrigin().GetName())
	if from.GetSchema() > schema {
		r.refused = fmt.Sprintf("%s has schema %d, of which this waypoint knows %d", about, from.GetSchema(), schema)
		return fmt.Errorf("%s: update it", r.refused)
	}
	switch kind := from.GetKind().(type) {
	case *l7.Resource_Route:
		r.route, err = route.Compile(from.GetOrigin(), kind.Route)
	case *l7.Resource_Policy:
		r.policy, err = authz.Compile(from.GetOrigin(), kind.Policy)
	case *l7.Resource_Authentication:
		r.authentication, err = b.keys.Compile(from.GetOrigin(), kind.Authentication, now)
	case *l7.Resource_BackendTls:
		r.backend, err = secure.Compile(from.GetOrigin(), kind.BackendTls)
	default:
		r.refused = about + " is of a kind that this waypoint doesn't know"
		return fmt.Errorf("%s: update it", r.refused)
	}
	return err
}

// Remove forgets a resource, if there is one of the name.
func (b *Builder) Remove(name string) {
	old := b.resources[name]
	if old == nil {
		return
	}
	delete(b.resources, name)
	if old.authentication != nil {
		b.keys.Release(old.authentication)
	}
	b.staleBackends = b.staleBackends || old.secures()
	for _, s := range old.scopes {
		if old.backend != nil {
			continue
		}
		if old.route != nil {
			delete(b.routes[s], name)
			b.touchRoutes(s)
			continue
		}
		delete(b.others[s.service], name)
		b.staleOthers[s.service] = true
	}
}

// touchRoutes notes that the routes of a scope have changed. Those of all ports are among those of each.
func (b *Builder) touchRoutes(s scope) {
	b.staleRoutes[s] = true
	if s.port != 0 {
		return
	}
	for other := range b.routes {
		if other.service == s.service && other.consumer == s.consumer {
			b.staleRoutes[other] = true
		}
	}
}

// scopes are those that targets of this waypoint stand for. One of an unknown kind may be anything.
func (b *Builder) scopes(targets []*l7.Target) (out []scope) {
	for _, t := range targets {
		s := scope{consumer: t.GetConsumerNamespace()}
		switch of := t.GetOf().(type) {
		case *l7.Target_Service:
			s.service = of.Service
		case *l7.Target_Gateway:
			if of.Gateway != b.gateway {
				continue
			}
		case *l7.Target_GatewayClass:
			if of.GatewayClass != b.class {
				continue
			}
		}
		if len(t.GetPorts()) == 0 {
			out = append(out, s)
		}
		for _, port := range t.GetPorts() {
			s.port = uint16(port)
			out = append(out, s)
		}
	}
	return out
}

// Table makes the table of all that was taken in. What hasn't changed is the last table's.
func (b *Builder) Table() *Table {
	last := b.table
	b.table = &Table{
		routes: clone(last.routes), refused: clone(last.refused), policies: clone(last.policies), issuers: clone(last.issuers),
		backends: last.backends,
	}
	for s := range b.staleRoutes {
		b.assembleRoutes(s)
	}
	for service := range b.staleOthers {
		b.assembleOthers(service)
	}
	if b.staleBackends {
		b.assembleBackends()
	}
	clear(b.staleRoutes)
	clear(b.staleOthers)
	return b.table
}

// secures tells whether a resource has a say in how servers are spoken to. One that can't be understood might have.
func (r *resource) secures() bool { return r.backend != nil || r.refused != "" }

// assembleBackends makes all that is said of servers. Of several for a port the one whose name sorts first counts, and before all what can't be
// understood.
func (b *Builder) assembleBackends() {
	b.staleBackends = false
	b.table.backends = map[scope]*secure.Policy{}
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(b.resources))) {
		if r := b.resources[name]; r.backend != nil {
			for _, s := range r.scopes {
				b.table.backends[scope{service: s.service, port: s.port}] = r.backend
			}
		}
	}
	for _, r := range b.resources {
		if r.refused == "" {
			continue
		}
		for _, s := range r.scopes {
			for at := range b.table.backends { // which would go before it
				if at.service == s.service || s.service == "" {
					delete(b.table.backends, at)
				}
			}
			b.table.backends[scope{service: s.service}] = secure.Refused(r.refused)
		}
	}
}

func clone[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return map[K]V{}
	}
	return maps.Clone(m)
}

// assembleRoutes makes the routes of a scope, among which are those of all its ports; none if it has none of its own.
func (b *Builder) assembleRoutes(s scope) {
	if len(b.routes[s]) == 0 {
		delete(b.routes, s)
		delete(b.table.routes, s)
		return
	}
	var list []*route.Route
	for name := range b.routes[s] {
		list = append(list, b.resources[name].route)
	}
	if s.port != 0 {
		for name := range b.routes[scope{s.service, s.consumer, 0}] {
			list = append(list, b.resources[name].route)
		}
	}
	b.table.routes[s] = route.Assemble(list)
}

// assembleOthers makes what is for a service beside its routes.
func (b *Builder) assembleOthers(service string) {
	delete(b.table.refused, service)
	delete(b.table.policies, service)
	delete(b.table.issuers, service)
	if len(b.others[service]) == 0 {
		delete(b.others, service)
	}
	var policies []*authz.Policy
	for _, name := range slices.Sorted(maps.Keys(b.others[service])) {
		switch r := b.resources[name]; {
		case r.policy != nil:
			policies = append(policies, r.policy)
		case r.authentication != nil:
			b.table.issuers[service] = append(b.table.issuers[service], r.authentication)
		default:
			b.table.refused[service] = route.Refused(r.refused)
		}
	}
	if len(policies) > 0 {
		b.table.policies[service] = authz.Assemble(policies)
	}
}
