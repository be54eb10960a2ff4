package config

import (
	"fmt"
	"slices"
	"strings"
)

// security reads what tunnels ask of peers.
func security(e *env) Security {
	s := Security{CRL: e.text("CRL_PATH", "")}
	for domain := range strings.SplitSeq(e.text("TRUST_DOMAINS", ""), ",") {
		if domain = strings.TrimSpace(domain); domain == "" || slices.Contains(s.TrustDomains, domain) {
			continue
		}
		if !isTrustDomain(domain) {
			e.fail("TRUST_DOMAINS", fmt.Sprintf("%q is no trust domain; give names such as cluster.local, without spiffe://, separated by commas", domain))
		}
		s.TrustDomains = append(s.TrustDomains, domain)
	}
	switch policy := e.text("COMPLIANCE_POLICY", ""); policy {
	case "":
	case "pqc":
		s.PostQuantum = true
	default:
		e.fail("COMPLIANCE_POLICY", fmt.Sprintf("%q is no policy; set pqc (only post-quantum key exchange) or nothing", policy))
	}
	return s
}

// isTrustDomain is SPIFFE-ID section 2.1.
func isTrustDomain(name string) bool {
	return len(name) <= 255 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune(".-_", r)
	})
}

// refused lists what is asked for and not done, on purpose.
func refused(e *env) []Refusal {
	var list []Refusal
	for _, r := range []struct{ name, reason string }{
		{"TLS12_ENABLED", "tunnels speak TLS 1.3 only, as every peer of the mesh can"},
		{"FAKE_CA", "certificates that nobody vouches for would prove nothing; set CA_ADDRESS, or leave it empty for plain text"},
	} {
		if e.boolean(r.name, false) {
			list = append(list, Refusal{r.name, r.reason})
		}
	}
	if _, set := e.lookup("PROXY_WORKLOAD_INFO"); set && e.text("PROXY_MODE", "shared") == "shared" {
		list = append(list, Refusal{"PROXY_WORKLOAD_INFO", "pods come from the node agent unless PROXY_MODE is dedicated"})
	}
	return list
}
