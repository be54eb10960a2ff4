package daemon

import (
	"strings"

	"github.com/tulle-mesh/tulle/ztunnel/capture"
	"github.com/tulle-mesh/tulle/ztunnel/config"
	"github.com/tulle-mesh/tulle/ztunnel/dump"
)

// dump collects everything at one moment, as far as one moment exists across parts.
func (z *ztunnel) dump() dump.Parts {
	parts := dump.Parts{Version: z.version, Config: redacted(z.cfg), Table: z.store.Load(), Certificates: z.certs.Dump()}
	for _, pod := range z.pods.list() {
		if pod.own {
			continue // nobody enrolled it
		}
		parts.Pods = append(parts.Pods, dump.Pod{
			UID: pod.info.UID, Name: pod.info.Name, Namespace: pod.info.Namespace, ServiceAccount: pod.info.ServiceAccount,
			Inbound: pod.registry.List(capture.Inbound), Outbound: pod.registry.List(capture.Outbound),
		})
	}
	if pending := z.pending.Load(); pending != nil {
		for _, pod := range *pending {
			parts.Pods = append(parts.Pods, dump.Pod{UID: pod.UID, Name: pod.Name, Namespace: pod.Namespace, ServiceAccount: pod.ServiceAccount, Pending: true})
		}
	}
	return parts
}

// redacted is the configuration without what proves who we are.
func redacted(cfg config.Config) config.Config {
	if !strings.HasPrefix(cfg.Token, "/") && !strings.HasPrefix(cfg.Token, "./") && cfg.Token != "" {
		cfg.Token = "(a token)"
	}
	cfg.XDS.Headers, cfg.CA.Headers, cfg.Tracing.Headers = nil, nil, nil
	return cfg
}
