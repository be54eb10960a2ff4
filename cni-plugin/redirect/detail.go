package redirect

import (
	"crypto/sha256"
	"fmt"
)

// Detail is what there is to know of a pod's redirection beside its state.
type Detail struct {
	Generation string   `json:"generation,omitempty"` // of the rules or programs: pods with the same one have the same
	Links      []string `json:"links,omitempty"`      // where programs are attached, or which tables there are
	Counts     Counts   `json:"connections,omitempty"`
}

// Counts are connections by what became of them; for DNS by UDP, questions. An engine names what it counts, since its rules were written
// or its programs first attached.
type Counts map[string]uint64

// Names of Counts. A rule that counts has such a name for its comment.
const (
	Outbound = "outbound" // to the proxy
	Inbound  = "inbound"  // to the proxy, without a tunnel
	Tunnels  = "tunnels"  // to the proxy
	DNS      = "dns"      // to the proxy
	Bypassed = "bypassed" // to the app although the pod is in the mesh: the node's probes, and all if the pod bypasses inbound capture
	Dropped  = "dropped"  // without a proxy: by rules they are refused, and counted as above besides
)

// none has nothing counted yet.
func none() Counts {
	return Counts{Outbound: 0, Inbound: 0, Tunnels: 0, DNS: 0, Bypassed: 0, Dropped: 0}
}

// rule counts those of a rule by its comment, which anyone in the pod may have written.
func (c Counts) rule(comment string, packets uint64) {
	if _, ok := c[comment]; ok {
		c[comment] += packets
	}
}

// Detail reads it. What several engines have counted is added up.
func (s *Sight) Detail() (Detail, error) {
	sum := Detail{}
	for _, f := range s.all {
		if f.state() == Removed {
			continue
		}
		d, err := f.detail()
		if err != nil {
			return sum, fmt.Errorf("read what %s has counted: %w", f.name(), err)
		}
		if sum.Generation == "" {
			sum.Generation = d.Generation
		}
		sum.Links = append(sum.Links, d.Links...)
		for name, n := range d.Counts {
			if sum.Counts == nil {
				sum.Counts = Counts{}
			}
			sum.Counts[name] += n
		}
	}
	return sum, nil
}

// generation is that of rules in the form of a listing.
func generation(listing string) string { return fmt.Sprintf("%.4x", sha256.Sum256([]byte(listing))) }
