package dns

import (
	"iter"
	"strings"
)

// Names in this package are in lower case and without the dot at the end.

// Search is how a pod's applications complete short names.
type Search struct {
	Domains []string
	// Ndots is the number of dots from which on a name is taken as it is. It only matters if Own.
	Ndots int
	// Own tells that this is what the pod's own resolv.conf says, not what Kubernetes gives to most pods.
	Own bool
}

// clusterSearch is what Kubernetes gives to pods that ask for nothing else.
func clusterSearch(namespace, domain string) Search {
	return Search{Domains: []string{namespace + ".svc." + domain, "svc." + domain, domain}}
}

// alias is a name that a question may mean.
type alias struct {
	name string
	// stripped is the question without the search domain that the client's resolver had put behind it; "" where
	// nothing was taken away.
	stripped string
}

// names is what the meaning of a short name depends on.
type names struct {
	search            Search
	namespace, domain string // of the client, of the cluster
}

// aliases yields what a question may mean, the likeliest first: itself, what Kubernetes completes it to, and both again
// for what is left of it without a search domain.
func (n names) aliases(question string) iter.Seq[alias] {
	return func(yield func(alias) bool) {
		if !yield(alias{name: question}) || !n.expand(question, "", yield) {
			return
		}
		for _, domain := range n.search.Domains {
			left, found := strings.CutSuffix(question, domain)
			left, dotted := strings.CutSuffix(left, ".")
			if !found || !dotted || left == "" {
				continue
			}
			if !yield(alias{left, left}) || !n.expand(left, left, yield) {
				return
			}
		}
	}
}

// expand yields the longer names that a short one stands for. Where the pod's own configuration isn't known these are
// the short forms of Kubernetes' service names, else what the pod's resolver itself would try before the bare name.
func (n names) expand(name, stripped string, yield func(alias) bool) bool {
	for _, suffix := range n.suffixes(name) {
		if !yield(alias{name + "." + suffix, stripped}) {
			return false
		}
	}
	return true
}

func (n names) suffixes(name string) []string {
	dots := strings.Count(name, ".")
	if n.search.Own {
		if dots >= n.search.Ndots {
			return nil
		}
		return n.search.Domains
	}
	svc := "svc." + n.domain
	switch isService := strings.HasSuffix(name, ".svc"); {
	case dots == 0:
		return []string{n.namespace + "." + svc}
	case dots == 1:
		return []string{svc, n.namespace + "." + svc}
	case dots == 2 && isService:
		return []string{n.domain, svc}
	case dots == 3 && isService:
		return []string{n.domain}
	}
	return nil
}

// wildcards yields the wildcard names that cover a name, the narrowest first.
func wildcards(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			_, rest, found := strings.Cut(name, ".")
			if !found || !yield("*."+rest) {
				return
			}
			name = rest
		}
	}
}

// bare returns a name of the wire format as this package has names. Names with escaped characters are no host names.
func bare(name string) (string, bool) {
	if strings.IndexByte(name, '\\') >= 0 {
		return "", false
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name, name != ""
}
