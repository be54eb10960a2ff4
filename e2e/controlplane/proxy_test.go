package controlplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/e2e/delta"
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// proxy is a client that keeps what it is told, and comes back by itself with what it knows, as ztunnel does.
type proxy struct {
	w        *world
	identity delta.Identity
	conn     *grpc.ClientConn

	lock      sync.Mutex // guards what follows
	known     map[string]map[string]known
	answers   map[string]int // responses by type
	streams   int            // that ended
	resources int            // received in all
	removed   []string       // names, in the order of their removal
	last      error          // why the last stream ended
	changed   chan struct{}
}

type known struct {
	version string
	body    []byte
}

// join connects a ztunnel of a node to a control plane, until the test ends.
func (w *world) join(r *replica, node string) *proxy {
	w.t.Helper()
	return w.joinAs(r, w.identity(node), delta.Authorization, delta.Address)
}

// joinAs connects any proxy.
func (w *world) joinAs(r *replica, identity delta.Identity, types ...string) *proxy {
	w.t.Helper()
	return w.joinOver(w.dial(r), identity, types...)
}

// joinOver connects any proxy over a connection to any control plane.
func (w *world) joinOver(conn *grpc.ClientConn, identity delta.Identity, types ...string) *proxy {
	p := &proxy{w: w, identity: identity, conn: conn, known: map[string]map[string]known{}, answers: map[string]int{}, changed: make(chan struct{})}
	for _, typeURL := range types {
		p.known[typeURL] = map[string]known{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.run(ctx, types) })
	w.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return p
}

// dial connects to a control plane once it has told what its roots are.
func (w *world) dial(r *replica, options ...grpc.DialOption) *grpc.ClientConn {
	w.t.Helper()
	var conn *grpc.ClientConn
	w.eventually("the roots of the control plane", func(ctx context.Context) error {
		roots, err := w.roots(ctx)
		if err == nil {
			conn, err = delta.Dial(r.tls, "istiod."+system+".svc", roots, options...)
		}
		return err
	})
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

// pause between a stream and the next.
const pause = 50 * time.Millisecond

func (p *proxy) run(ctx context.Context, types []string) {
	for ctx.Err() == nil {
		have, err := encodeVersions(p.versions())
		var stream *delta.Stream
		if err == nil {
			stream, err = delta.Open(ctx, p.conn, p.identity)
		}
		if err == nil {
			err = stream.Run(have, types, p.take)
		}
		p.note(err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (p *proxy) note(err error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.streams++
	p.last = err
	p.signalLocked()
}

func (p *proxy) signalLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// versions is what the proxy knows, for the next stream.
func (p *proxy) versions() map[string]map[string]string {
	p.lock.Lock()
	defer p.lock.Unlock()
	versions := map[string]map[string]string{}
	for typeURL, resources := range p.known {
		versions[typeURL] = map[string]string{}
		for name, resource := range resources {
			versions[typeURL][name] = resource.version
		}
	}
	return versions
}

func encodeVersions(byType map[string]map[string]string) (map[string]delta.Versions, error) {
	encoded := map[string]delta.Versions{}
	for typeURL, versions := range byType {
		var err error
		if encoded[typeURL], err = delta.EncodeVersions(versions); err != nil {
			return nil, err
		}
	}
	return encoded, nil
}

func (p *proxy) take(r *delta.Response) {
	p.lock.Lock()
	defer p.lock.Unlock()
	for _, resource := range r.Resources {
		p.known[r.TypeURL][resource.Name] = known{resource.Version, slices.Clone(resource.Body)}
	}
	for _, name := range r.Removed {
		delete(p.known[r.TypeURL], name)
		p.removed = append(p.removed, name)
	}
	p.resources += len(r.Resources)
	p.answers[r.TypeURL]++
	p.signalLocked()
}

// until waits for a state of what the proxy knows. The check runs with the lock held.
func (p *proxy) until(what string, check func() error) {
	p.w.t.Helper()
	deadline := time.After(slow)
	for {
		p.lock.Lock()
		err, changed, last := check(), p.changed, p.last
		p.lock.Unlock()
		if err == nil {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			p.w.t.Fatalf("waiting for %s: %v (the last stream: %v)", what, err, last)
		}
	}
}

// settled waits for an answer about each type.
func (p *proxy) settled() *proxy {
	p.w.t.Helper()
	p.until("answers about all types", func() error {
		for typeURL := range p.known {
			if p.answers[typeURL] == 0 {
				return fmt.Errorf("none about %s", typeURL)
			}
		}
		return nil
	})
	return p
}

// Resource names.
func podName(namespace, name string) string { return "Kubernetes//Pod/" + namespace + "/" + name }
func serviceName(namespace, name string) string {
	return namespace + "/" + name + "." + namespace + ".svc.cluster.local"
}

// workload waits for one that passes the check, which may be nil.
func (p *proxy) workload(name string, check func(*workload.Workload) error) *workload.Workload {
	p.w.t.Helper()
	var found *workload.Workload
	p.until("workload "+name, func() error {
		address, err := p.addressLocked(name)
		if err != nil {
			return err
		}
		if found = address.GetWorkload(); found == nil {
			return fmt.Errorf("it is no workload: %v", address)
		}
		if check == nil {
			return nil
		}
		return check(found)
	})
	return found
}

// service waits for one that passes the check, which may be nil.
func (p *proxy) service(name string, check func(*workload.Service) error) *workload.Service {
	p.w.t.Helper()
	var found *workload.Service
	p.until("service "+name, func() error {
		address, err := p.addressLocked(name)
		if err != nil {
			return err
		}
		if found = address.GetService(); found == nil {
			return fmt.Errorf("it is no service: %v", address)
		}
		if check == nil {
			return nil
		}
		return check(found)
	})
	return found
}

func (p *proxy) addressLocked(name string) (*workload.Address, error) {
	resource, there := p.known[delta.Address][name]
	if !there {
		return nil, fmt.Errorf("not there; there are %q", slices.Sorted(maps.Keys(p.known[delta.Address])))
	}
	address := &workload.Address{}
	return address, proto.Unmarshal(resource.body, address)
}

// policy waits for one that passes the check, which may be nil.
func (p *proxy) policy(name string, check func(*security.Authorization) error) *security.Authorization {
	p.w.t.Helper()
	found := &security.Authorization{}
	p.until("policy "+name, func() error {
		resource, there := p.known[delta.Authorization][name]
		if !there {
			return fmt.Errorf("not there; there are %q", slices.Sorted(maps.Keys(p.known[delta.Authorization])))
		}
		found = &security.Authorization{}
		if err := proto.Unmarshal(resource.body, found); err != nil || check == nil {
			return err
		}
		return check(found)
	})
	return found
}

// gone waits until a resource isn't there.
func (p *proxy) gone(typeURL, name string) {
	p.w.t.Helper()
	p.until(name+" to go", func() error {
		if _, there := p.known[typeURL][name]; there {
			return errors.New("it's still there")
		}
		return nil
	})
}

// refused opens a stream and waits until it is refused with a code.
func (w *world) refused(r *replica, identity delta.Identity, code codes.Code) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), slow)
	defer cancel()
	stream, err := delta.Open(ctx, w.dial(r), identity)
	if err == nil {
		err = stream.Run(nil, []string{delta.Authorization, delta.Address}, func(*delta.Response) {})
	}
	if status.Code(err) != code {
		w.t.Errorf("%+v: got %v, want it refused with %s", identity, err, code)
	}
}
