package daemon

import (
	"fmt"
	"log/slog"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// local keeps the store as a file has it.
type local struct {
	path  string
	store *state.Store
	log   *slog.Logger
}

// load reads the file, and makes the store hold what it says and nothing else. A broken file changes nothing.
func (l *local) load() error {
	update, err := state.ReadFile(l.path)
	if err == nil {
		err = state.NewStore().Apply(update) // a store takes what is good of an update; here it is all or nothing
	}
	if err != nil {
		return fmt.Errorf("LOCAL_XDS_PATH: %w", err)
	}
	return replace(l.store, update)
}

// reload reads the file anew after a change.
func (l *local) reload() {
	if err := l.load(); err != nil {
		l.log.Error("file not taken; its last good state goes on", "err", err)
		return
	}
	l.log.Info("file read anew", "file", l.path)
}

// replace applies an update that says everything: what it doesn't name is removed.
func replace(store *state.Store, update state.Update) error {
	named := map[string]bool{}
	for _, address := range update.Addresses {
		named[address.GetWorkload().GetUid()] = true
		named[address.GetService().GetNamespace()+"/"+address.GetService().GetHostname()] = true
	}
	policies := map[string]bool{}
	for _, p := range update.Policies {
		policies[p.GetNamespace()+"/"+p.GetName()] = true
	}
	t := store.Load()
	for _, w := range t.Workloads() {
		if !named[w.UID] {
			update.RemovedAddresses = append(update.RemovedAddresses, w.UID)
		}
	}
	for _, svc := range t.Services() {
		if name := svc.Key().String(); !named[name] {
			update.RemovedAddresses = append(update.RemovedAddresses, name)
		}
	}
	for _, p := range t.Policies() {
		if name := p.Key().String(); !policies[name] {
			update.RemovedPolicies = append(update.RemovedPolicies, name)
		}
	}
	return store.Apply(update)
}
