package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/config"
	"github.com/tulle-mesh/tulle/ztunnel/dns"
)

// nameDrain is how long a pod that drains waits for the DNS questions on their way.
const nameDrain = time.Second

func newNames(cfg config.Config, store *state.Store, metrics *telemetry.DNS, log *slog.Logger) *dns.Node {
	return dns.NewNode(dns.Config{
		Store: store, Metrics: metrics, Log: log.With("scope", "dns"), Domain: cfg.DNS.Domain, Preferred: cfg.DNS.Preferred,
		ResolvConf: cfg.DNS.ResolvConf, IPv6: cfg.Sockets.IPv6, Mark: cfg.Sockets.Mark, ReusePort: cfg.Sockets.ReusePort,
	})
}

// openNames makes the pod's DNS proxy, which listens only if it is asked to. It is closed after an error.
func (p *pod) openNames() error {
	cfg := dns.PodConfig{
		Name: p.info.Name, Namespace: p.info.Namespace, Identity: p.guess.Identity.String(), Netns: p.info.Netns, Known: p.known,
	}
	if r := p.info.Resolver; r != nil {
		own := dns.NewResolvConf(r.Nameservers, r.Searches, r.Ndots)
		cfg.Own = &own
	}
	p.names = p.node.Pod(cfg)
	if !p.cfg.DNS.Capture || p.own {
		return nil
	}
	var addrs []netip.AddrPort
	for _, addr := range p.cfg.DNS.Listen {
		if addr.Addr().Is4() || p.cfg.Sockets.IPv6 {
			addrs = append(addrs, addr)
		}
	}
	if err := p.names.Listen(addrs, p.info.Given); err != nil {
		p.names.Close()
		return fmt.Errorf("ISTIO_META_DNS_PROXY_ADDR: %w", err)
	}
	return nil
}

// drainNames comes last: as long as connections live, and no other ztunnel is there, applications have questions.
func (p *pod) drainNames(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, nameDrain)
	defer cancel()
	p.names.Drain(ctx)
}

// resolve returns the addresses of an endpoint of which the control plane only knows the name.
func (p *pod) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return p.node.Resolve(ctx, describe.Peer(p.known(p.store.Load())), host)
}
