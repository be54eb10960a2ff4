package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// otherFamily is how long addresses of one family wait for those of the other (RFC 8305, section 3).
const otherFamily = 50 * time.Millisecond

// asker returns what a name server says to a question for a name of the wire format.
type asker func(ctx context.Context, question *dns.Msg) (*dns.Msg, error)

// Resolve returns the addresses of an endpoint of which the mesh only knows the name, for a connection of source. It asks
// ztunnel's own name servers from ztunnel's own namespace.
func (n *Node) Resolve(ctx context.Context, source telemetry.Peer, host string) ([]netip.Addr, error) {
	n.cfg.Metrics.OnDemand(source, host)
	return both(ctx, host, n.cfg.IPv6, func(ctx context.Context, question *dns.Msg) (*dns.Msg, error) {
		return n.own.forward(ctx, n.servers.load().Servers, question, func(time.Duration, error) {})
	})
}

// Resolve returns the addresses of a name as the pod's applications would find them: in the mesh, else as others know it.
func (p *Pod) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if name, ok := bare(host); ok {
		if t, self := p.known(); self != nil {
			list, found := p.meshAddresses(t, self, name)
			switch {
			case len(list) > 0:
				return list, nil
			case found:
				return nil, fmt.Errorf("resolve %s: %w", host, errNoAddress)
			}
		}
	}
	return both(ctx, host, p.node.cfg.IPv6, func(ctx context.Context, question *dns.Msg) (*dns.Msg, error) {
		return p.ask(ctx, question, telemetry.DNSRequest{Type: dns.TypeToString[question.Question[0].Qtype], Protocol: "tcp"})
	})
}

func (p *Pod) meshAddresses(t *state.Table, self *state.Workload, name string) (list []netip.Addr, found bool) {
	v := p.view(t, self)
	for _, is4 := range []bool{true, false} {
		a, known := v.lookup(name, is4)
		found = found || known
		list = append(list, a.addrs...)
	}
	return list, found
}

// both asks for both families at once. One is enough: a server that doesn't answer for the other must not hold us up.
func both(ctx context.Context, host string, ipv6 bool, ask asker) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	if _, valid := dns.IsDomainName(host); !valid {
		return nil, fmt.Errorf("%q is no host name", host)
	}
	kinds := []uint16{dns.TypeA}
	if ipv6 {
		kinds = append(kinds, dns.TypeAAAA)
	}
	type result struct {
		addrs []netip.Addr
		err   error
	}
	results := make(chan result, len(kinds))
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	for _, kind := range kinds {
		go func() { // ends with ctx, at once
			addrs, err := one(ctx, host, kind, ask)
			results <- result{addrs, err}
		}()
	}
	var list []netip.Addr
	var errs []error
	for range kinds {
		r := <-results
		if r.err != nil {
			errs = append(errs, r.err)
		}
		if list = append(list, r.addrs...); len(list) > 0 {
			time.AfterFunc(otherFamily, cancel)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("resolve %s: %w", host, errors.Join(append(errs, errNoAddress)...))
	}
	return list, nil
}

var errNoAddress = errors.New("there is no address of that name")

// one returns the addresses of one family.
func one(ctx context.Context, host string, kind uint16, ask asker) ([]netip.Addr, error) {
	reply, err := ask(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(host), kind))
	switch {
	case err != nil:
		return nil, err
	case reply.Rcode != dns.RcodeSuccess && reply.Rcode != dns.RcodeNameError:
		return nil, fmt.Errorf("the name server says %s", dns.RcodeToString[reply.Rcode])
	}
	var list []netip.Addr
	for _, record := range reply.Answer {
		var addr netip.Addr
		var ok bool
		switch record := record.(type) {
		case *dns.A:
			addr, ok = netip.AddrFromSlice(record.A)
		case *dns.AAAA:
			addr, ok = netip.AddrFromSlice(record.AAAA)
		}
		if ok {
			list = append(list, addr.Unmap())
		}
	}
	return list, nil
}
