package settings

import "fmt"

// Security is what a proxy's tunnels ask of peers.
type Security struct {
	TrustDomains []string // accepted of clients, beside the proxy's own
	PostQuantum  bool     // only key exchanges that quantum computers aren't known to break
	CRL          string   // path of revocation lists; "" is none
}

// ReadSecurity reads what tunnels ask of peers.
func ReadSecurity(e *Env) Security {
	s := Security{TrustDomains: trustDomains(e), CRL: e.Text("CRL_PATH", "")}
	switch policy := e.Text("COMPLIANCE_POLICY", ""); policy {
	case "":
	case "pqc":
		s.PostQuantum = true
	default:
		e.Fail("COMPLIANCE_POLICY", fmt.Sprintf("%q is no policy; set pqc (only post-quantum key exchange) or nothing", policy))
	}
	return s
}
