package nodeagent

import (
	"log/slog"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
)

// flush does to a pod's network what an app with too many rights may do.
func flush(p *pod) error {
	engines, err := redirect.New(redirect.Config{Engine: string(redirect.NFT), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return engines.Set(p.Netns, redirect.Desired{})
}
