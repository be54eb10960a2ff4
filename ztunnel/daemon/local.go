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
	return l.store.Replace(update)
}

// reload reads the file anew after a change.
func (l *local) reload() {
	if err := l.load(); err != nil {
		l.log.Error("file not taken; its last good state goes on", "err", err)
		return
	}
	l.log.Info("file read anew", "file", l.path)
}
