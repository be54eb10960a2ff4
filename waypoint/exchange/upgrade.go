package exchange

import "strings"

// Upgrade returns which of the protocols in an Upgrade field a connection may become. Those that are HTTP, or TLS for it, are left out: policies
// and routes would be asked about the first request only, and not about those within.
func Upgrade(protocols string) string {
	var kept []string
	for protocol := range strings.SplitSeq(protocols, ",") {
		protocol = strings.Trim(protocol, " \t")
		switch name, _, _ := strings.Cut(protocol, "/"); strings.ToLower(name) {
		case "", "http", "https", "h2", "h2c", "h3", "tls":
		default:
			kept = append(kept, protocol)
		}
	}
	return strings.Join(kept, ", ")
}
