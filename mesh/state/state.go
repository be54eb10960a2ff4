// Package state keeps what the control plane told about workloads, services and policies in immutable tables, which
// readers load without locks and which one writer replaces.
package state

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// The types of resources that a Store holds, as xDS names them.
const (
	AddressType       = "type.googleapis.com/istio.workload.Address"
	AuthorizationType = "type.googleapis.com/istio.security.Authorization"
)

// Update is a set of changes that become visible together.
type Update struct {
	Addresses        []*workload.Address
	RemovedAddresses []string // uids of workloads and "namespace/hostname" of services
	Policies         []*security.Authorization
	RemovedPolicies  []string // "namespace/name"

	added changes // by Add
}

// Add decodes a resource as it came by xDS and adds it to the update, or returns why it can't be used. It keeps nothing of
// body, and of what is decoded only what the table will hold: a push may have a hundred thousand resources. The resource
// has to be called what its body says, since it can be removed only by the name under which it is kept.
func (u *Update) Add(typeURL, name string, body []byte) error {
	switch typeURL {
	case AddressType:
		return u.addAddress(name, body)
	case AuthorizationType:
		return u.addPolicy(name, body)
	default:
		return fmt.Errorf("resources of type %q are not known here", typeURL)
	}
}

func (u *Update) addAddress(name string, body []byte) error {
	address := new(workload.Address)
	if err := proto.Unmarshal(body, address); err != nil {
		return fmt.Errorf("decode address: %w", err)
	}
	if address.GetType() == nil {
		return errNeither
	}
	if called := addressName(address); called != name {
		return misnamed(name, called)
	}
	if w := address.GetWorkload(); w != nil {
		w.Uid = name // the same text, which the caller keeps too
	}
	return u.added.addAddress(address)
}

func (u *Update) addPolicy(name string, body []byte) error {
	policy := new(security.Authorization)
	if err := proto.Unmarshal(body, policy); err != nil {
		return fmt.Errorf("decode authorization: %w", err)
	}
	if called := policyName(policy).String(); called != name {
		return misnamed(name, called)
	}
	return u.added.addPolicy(policy)
}

func misnamed(name, called string) error {
	return fmt.Errorf("the resource's name is %q but its body says %q", name, called)
}

// Remove adds the removal of resources, by name, to the update.
func (u *Update) Remove(typeURL string, names ...string) error {
	switch typeURL {
	case AddressType:
		u.RemovedAddresses = append(u.RemovedAddresses, names...)
	case AuthorizationType:
		u.RemovedPolicies = append(u.RemovedPolicies, names...)
	default:
		return fmt.Errorf("resources of type %q are not known here", typeURL)
	}
	return nil
}

// Rejected is the error of resources that could not be applied, by resource name. All others of the update were.
type Rejected map[string]error

// Error lists all rejected resources.
func (r Rejected) Error() string {
	var lines []string
	for name, err := range r {
		lines = append(lines, name+": "+err.Error())
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

// Store holds the newest Table. Its methods may be called from any goroutine.
type Store struct {
	writing sync.Mutex // held from reading the old table to publishing the new one
	current atomic.Pointer[generation]
	prepare func([]*Policy) any // nil: left to readers
}

// generation is a table and the channel which is closed when the next one is there.
type generation struct {
	table *Table
	next  chan struct{}
}

// NewStore returns a store with an empty table.
func NewStore() *Store {
	s := new(Store)
	s.current.Store(&generation{newTable(), make(chan struct{})})
	return s
}

// Prefer has services of a namespace come before those of others when several have the same range of virtual addresses and
// none is the client's own. Call it before the first Apply.
func (s *Store) Prefer(namespace string) { s.current.Load().table.preferred = namespace }

// Prepare has the writer prepare sets of policies before they are published, so that no reader has to wait for it. Call it
// before the first Apply, with what readers give to PolicySet.Prepared.
func (s *Store) Prepare(policies func([]*Policy) any) { s.prepare = policies }

// Load returns the newest table, which never changes.
func (s *Store) Load() *Table { return s.current.Load().table }

// Changed returns a channel that is closed when the table is replaced. To miss nothing, take it before Load.
func (s *Store) Changed() <-chan struct{} { return s.current.Load().next }

// Wait returns the first table, from the present one on, for which done is true, or ctx's error.
func (s *Store) Wait(ctx context.Context, done func(*Table) bool) (*Table, error) {
	for {
		now := s.current.Load()
		if done(now.table) {
			return now.table, nil
		}
		select {
		case <-now.next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Apply publishes a new table with all changes of the update. Resources that can't be used are left out, so that an
// older one of that name stays, and are returned as Rejected. A policy which can't be understood is kept as Invalid and
// returned too: without it a connection could be allowed that it denies.
func (s *Store) Apply(u Update) error {
	decoded, rejected := decode(u)
	s.writing.Lock()
	defer s.writing.Unlock()
	old := s.current.Load()
	table := old.table.with(decoded)
	if s.prepare != nil {
		table.preparePolicies(decoded, s.prepare)
	}
	s.current.Store(&generation{table, make(chan struct{})})
	close(old.next)
	if len(rejected) > 0 {
		return rejected
	}
	return nil
}
