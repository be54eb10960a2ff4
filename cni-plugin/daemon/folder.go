package daemon

import (
	"context"
	"log/slog"

	"github.com/tulle-mesh/tulle/cni-plugin/agent"
	"github.com/tulle-mesh/tulle/cni-plugin/enroll"
	"github.com/tulle-mesh/tulle/cni-plugin/files"
	"github.com/tulle-mesh/tulle/cni-plugin/pods"
	"github.com/tulle-mesh/tulle/mesh/status"
)

// folder is the place of a node without Kubernetes: objects in a folder, enrolled states in a file.
type folder struct {
	*enroll.Statuses
	dir string
	log *slog.Logger
}

func (f folder) follow(ctx context.Context, apply func(pods.Set)) error {
	return files.Follow(ctx, f.dir, f.log, apply)
}

func (f folder) published([]agent.View) map[string]status.Pod { return f.All() }

func (f folder) adopted() error { return f.Open() }

func (f folder) fill(*agent.Config) {}

func (f folder) run(context.Context, <-chan struct{}) error { return nil }

func (f folder) leave(context.Context) (bool, error) { return false, nil }
