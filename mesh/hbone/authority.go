package hbone

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const maxHostname = 253 // RFC 1035 section 2.3.4

// Authority is the destination a CONNECT asks for: an address, or a service's hostname, with a port. It comes only out of
// ParseAuthority and AuthorityFromAddr, so one that isn't zero is valid. It is comparable.
type Authority struct {
	addr netip.AddrPort // the port is always here; the address is invalid for a hostname
	host string         // lower case, set for hostnames only
}

// ParseAuthority reads ip:port, [ipv6]:port or hostname:port. The port must be 1–65535; an IPv6 zone is refused, and an
// IPv4 address mapped into IPv6 is taken as IPv4.
func ParseAuthority(s string) (Authority, error) {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 {
		return Authority{}, fmt.Errorf("authority %.80q has no port", s)
	}
	port, err := parsePort(s[colon+1:])
	if err != nil {
		return Authority{}, fmt.Errorf("authority %.80q: %w", s, err)
	}
	host := s[:colon]
	if strings.HasPrefix(host, "[") || strings.ContainsRune(host, ':') {
		addr, err := netip.ParseAddrPort(s)
		if err != nil || addr.Addr().Zone() != "" {
			return Authority{}, fmt.Errorf("authority %.80q: not an IPv6 address in brackets with a port", s)
		}
		return AuthorityFromAddr(addr), nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return AuthorityFromAddr(netip.AddrPortFrom(addr, port)), nil
	}
	if err := checkHostname(host); err != nil {
		return Authority{}, fmt.Errorf("authority %.80q: %w", s, err)
	}
	return Authority{host: strings.ToLower(host), addr: netip.AddrPortFrom(netip.Addr{}, port)}, nil
}

// AuthorityFromAddr makes the authority of an address; an invalid address or port 0 gives the zero Authority.
func AuthorityFromAddr(addr netip.AddrPort) Authority {
	if !addr.Addr().IsValid() || addr.Port() == 0 {
		return Authority{}
	}
	return Authority{addr: netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())}
}

// Addr returns the address and port, and false when the authority is a hostname.
func (a Authority) Addr() (netip.AddrPort, bool) {
	if a.host != "" || !a.addr.Addr().IsValid() {
		return netip.AddrPort{}, false
	}
	return a.addr, true
}

// Host returns the hostname, or the address without brackets.
func (a Authority) Host() string {
	if a.host != "" || !a.addr.Addr().IsValid() {
		return a.host
	}
	return a.addr.Addr().String()
}

// Port returns the port, 0 only for the zero Authority.
func (a Authority) Port() uint16 { return a.addr.Port() }

// isZero tells that there is no destination.
func (a Authority) isZero() bool { return a == Authority{} }

// String returns the form that ParseAuthority reads, or "" for the zero Authority.
func (a Authority) String() string {
	switch {
	case a.isZero():
		return ""
	case a.host != "":
		return a.host + ":" + strconv.Itoa(int(a.addr.Port()))
	}
	return a.addr.String()
}

func parsePort(s string) (uint16, error) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, errors.New("port is not a number")
	}
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 {
		return 0, errors.New("port is not within 1–65535")
	}
	return uint16(port), nil
}

// checkHostname takes DNS names with the underscores that SRV-like names have; a name of digits and dots only would be a
// mistyped address.
func checkHostname(host string) error {
	if host == "" || len(host) > maxHostname {
		return errors.New("hostname is empty or too long")
	}
	letters := false
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 {
			return errors.New("hostname has an empty or too long label")
		}
		for i := range len(label) {
			switch c := label[i]; {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_':
				letters = true
			case '0' <= c && c <= '9', c == '-':
			default:
				return errors.New("hostname has an illegal character")
			}
		}
	}
	if !letters {
		return errors.New("neither an address nor a hostname")
	}
	return nil
}
