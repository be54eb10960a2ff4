package redirect

import (
	"log/slog"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// NewProbesBy makes rules for probes in one way only.
func NewProbesBy(way Engine, node *socket.Netns) (*Probes, error) {
	return newProbes(node, slog.New(slog.DiscardHandler), func(e Engine) bool { return e == way })
}

// WriteSysctl changes a setting of the calling thread's network namespace.
var WriteSysctl = writeSysctl
