package exchange

import (
	"net/netip"
	"strings"
)

// What the parts of a message may be made of. These rules hold in both versions of HTTP: what one codec lets in, another has to be able to say.

// lower is the lower case of the characters of a token (RFC 9110 section 5.6.2), 0 for all others.
var lower = func() (table [256]byte) {
	for c := byte('a'); c <= 'z'; c++ {
		table[c], table[c-'a'+'A'] = c, c
	}
	for c := byte('0'); c <= '9'; c++ {
		table[c] = c
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		table[c] = c
	}
	return table
}()

// hosts is what a host's name may be made of (RFC 3986 section 3.2.2), but for escapes, which no name needs.
var hosts = func() (table [256]bool) {
	for c := range table {
		table[c] = '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	for _, c := range []byte("!$&'()*+,-.;=_~") {
		table[c] = true
	}
	return table
}()

// LowerToken puts the token that p begins with into lower case, and returns its length.
func LowerToken(p []byte) int {
	for i, c := range p {
		l := lower[c]
		if l == 0 {
			return i
		}
		p[i] = l
	}
	return len(p)
}

// ValidToken tells whether s is a token, as methods and names of fields are.
func ValidToken(s string) bool {
	for i := range len(s) {
		if lower[s[i]] == 0 {
			return false
		}
	}
	return s != ""
}

// ValidValue tells whether s may be a field's value: no control characters but tabs.
func ValidValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
}

// ValidPath tells whether s may be a request's path with query: it starts with a slash, and has no white space, control characters, or
// fragment, and before the query no percent sign but of an escape. Bytes beyond ASCII are let through, as clients send them.
func ValidPath(s string) bool {
	query := false
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c == 0x7f || c == '#':
			return false
		case c == '?':
			query = true
		case c == '%' && !query && (i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2])):
			return false
		}
	}
	return s != "" && s[0] == '/'
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

// ValidAuthority tells whether s may be a host, perhaps with a port, or is nothing.
func ValidAuthority(s string) bool {
	host, port, _ := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") {
		inner, rest, closed := strings.Cut(s[1:], "]")
		addr, err := netip.ParseAddr(inner)
		if err != nil || !closed || !addr.Is6() || addr.Zone() != "" || (rest != "" && rest[0] != ':') {
			return false
		}
		host, port = "", strings.TrimPrefix(rest, ":")
	}
	for i := range len(host) {
		if !hosts[host[i]] {
			return false
		}
	}
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
	}
	return len(port) <= len("65535")
}

// ParseLength reads a content-length: digits only (RFC 9110 section 8.6).
func ParseLength(s string) (n int64, ok bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}
