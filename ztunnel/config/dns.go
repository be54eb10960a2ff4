package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/tulle-mesh/tulle/mesh/settings"
)

// DNS is what the pods' DNS proxy does.
type DNS struct {
	Capture   bool             // there is one
	Listen    []netip.AddrPort // in every pod
	Domain    string           // the end of services' names
	Preferred string           // namespace whose services come before those of others; "" for none

	ResolvConf string // path of the list of name servers that are asked for other names
}

func dnsProxy(e *settings.Env) DNS {
	cfg := DNS{
		// Not a boolean in Istio: whatever isn't true means false.
		Capture:   e.Text("ISTIO_META_DNS_CAPTURE", "false") == "true",
		Listen:    dnsListen(e),
		Domain:    e.Text("CLUSTER_DOMAIN", "cluster.local"),
		Preferred: e.Text("PREFERED_SERVICE_NAMESPACE", ""), // spelled as Istio does

		ResolvConf: "/etc/resolv.conf",
	}
	if cfg.Capture && e.Boolean("XDS_ON_DEMAND", false) {
		e.Fail("XDS_ON_DEMAND", "can't be combined with ISTIO_META_DNS_CAPTURE: names are only answered from a state that is complete; unset one of them")
	}
	return cfg
}

// dnsListen reads the proxy's address; localhost means the loopback of both families.
func dnsListen(e *settings.Env) []netip.AddrPort {
	text := e.Text("ISTIO_META_DNS_PROXY_ADDR", "localhost:15053")
	host, portText, err := net.SplitHostPort(text)
	port, portErr := strconv.ParseUint(portText, 10, 16)
	if err == nil && portErr == nil && port > 0 {
		ipv4, ipv6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
		if host == "localhost" {
			return []netip.AddrPort{netip.AddrPortFrom(ipv4, uint16(port)), netip.AddrPortFrom(ipv6, uint16(port))}
		}
		if addr, err := netip.ParseAddr(host); err == nil {
			return []netip.AddrPort{netip.AddrPortFrom(addr, uint16(port))}
		}
	}
	e.Fail("ISTIO_META_DNS_PROXY_ADDR", fmt.Sprintf("%q is no address such as localhost:15053 or 127.0.0.1:15053", text))
	return nil
}
