package serve

import (
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// remote is whom policies take for the first client: the one that dialled, or, if that is a trusted proxy, whom it tells of.
func (r *request) remote() netip.Addr {
	dialled := r.session.client.Addr()
	proxies := r.session.handler.cfg.Proxies
	if proxies == 0 {
		return dialled
	}
	list, _ := exchange.Joined(r.head.Fields, "x-forwarded-for")
	return clientOf(list, proxies, dialled)
}

// clientOf takes the address that the first of so many proxies has appended to X-Forwarded-For. What is before it anybody may have written. If there are
// not so many, or it is no address, it isn't a trusted proxy that has dialled.
func clientOf(list string, proxies int, dialled netip.Addr) netip.Addr {
	last := ""
	for range proxies {
		i := strings.LastIndexByte(list, ',')
		if last = strings.TrimSpace(list[i+1:]); last == "" {
			return dialled
		}
		list = list[:max(i, 0)]
	}
	addr, err := netip.ParseAddr(last)
	if err != nil || addr.Zone() != "" {
		return dialled
	}
	return addr.Unmap()
}
