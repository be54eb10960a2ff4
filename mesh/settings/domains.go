package settings

import (
	"fmt"
	"slices"
	"strings"
)

// trustDomains reads which are accepted of clients, beside a proxy's own.
func trustDomains(e *Env) (domains []string) {
	for domain := range strings.SplitSeq(e.Text("TRUST_DOMAINS", ""), ",") {
		if domain = strings.TrimSpace(domain); domain == "" || slices.Contains(domains, domain) {
			continue
		}
		if !isTrustDomain(domain) {
			e.Fail("TRUST_DOMAINS", fmt.Sprintf("%q is no trust domain; give names such as cluster.local, without spiffe://, separated by commas", domain))
		}
		domains = append(domains, domain)
	}
	return domains
}

// isTrustDomain is SPIFFE-ID section 2.1.
func isTrustDomain(name string) bool {
	return len(name) <= 255 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune(".-_", r)
	})
}
