package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/mesh/state"
)

const localPoll = time.Second

// local keeps the store as a file has it.
type local struct {
	path  string
	store *state.Store
	log   *slog.Logger
	seen  string // size and time of what was read last
}

// load reads the file, and makes the store hold what it says and nothing else. A broken file changes nothing.
func (l *local) load() error {
	info, err := os.Stat(l.path)
	if err != nil {
		return fmt.Errorf("LOCAL_XDS_PATH: %w", err)
	}
	l.seen = fmt.Sprint(info.Size(), info.ModTime())
	update, err := state.ReadFile(l.path)
	if err == nil {
		err = state.NewStore().Apply(update) // a store takes what is good of an update; here it is all or nothing
	}
	if err != nil {
		return fmt.Errorf("LOCAL_XDS_PATH: %w", err)
	}
	return replace(l.store, update)
}

// follow reads the file anew when it changes, until ctx ends.
func (l *local) follow(ctx context.Context) {
	ticker := time.NewTicker(localPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		info, err := os.Stat(l.path)
		if err != nil || fmt.Sprint(info.Size(), info.ModTime()) == l.seen {
			continue // an editor replaces the file in two steps
		}
		if err := l.load(); err != nil {
			l.log.Error("file not taken; its last good state goes on", "err", err)
			continue
		}
		l.log.Info("file read anew", "file", l.path)
	}
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
