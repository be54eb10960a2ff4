package hbone

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

const maxForwarded = 1024 // bytes

// Forwarded is the forwarded header (RFC 7239) of a tunnelled connection: who dialled, and which service was meant. It
// isn't authenticated, so it decides nothing.
type Forwarded struct {
	For  netip.AddrPort // zero when absent or not an address
	Host string         // the destination service's hostname, "" when there is none
}

// parseForwarded reads the first element of the header; parameters other than for and host are passed over. Not ASCII, too
// long, or an unterminated quote is an error.
func parseForwarded(s string) (Forwarded, error) {
	if len(s) > maxForwarded {
		return Forwarded{}, fmt.Errorf("forwarded header of %d bytes, the limit is %d", len(s), maxForwarded)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return Forwarded{}, errors.New("forwarded header is not printable ASCII")
		}
	}
	var f Forwarded
	for {
		pair, rest, err := cutForwarded(s)
		if err != nil {
			return Forwarded{}, err
		}
		name, value, _ := strings.Cut(pair, "=")
		value = strings.Trim(value, `"`)
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "for":
			if addr, err := netip.ParseAddrPort(value); err == nil && addr.Addr().Zone() == "" {
				f.For = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
			}
		case "host":
			f.Host = value
		}
		if rest == "" || rest[0] == ',' {
			return f, nil
		}
		s = rest[1:]
	}
}

// cutForwarded splits s before the first ; or , that isn't within quotes.
func cutForwarded(s string) (pair, rest string, err error) {
	quoted := false
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ';' || c == ','):
			return s[:i], s[i:], nil
		}
	}
	if quoted {
		return "", "", errors.New("forwarded header has an unterminated quote")
	}
	return s, "", nil
}

// String returns the header as it is sent, or "" when nothing is known.
func (f Forwarded) String() string {
	var out string
	if f.For.IsValid() {
		out = `for="` + f.For.String() + `"`
	}
	if f.Host == "" {
		return out
	}
	if out != "" {
		out += ";"
	}
	return out + "host=" + f.Host
}
