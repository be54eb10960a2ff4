package config

import "github.com/tulle-mesh/tulle/mesh/settings"

// refused lists what is asked for and not done, on purpose.
func refused(e *settings.Env) []Refusal {
	var list []Refusal
	for _, r := range []struct{ name, reason string }{
		{"TLS12_ENABLED", "tunnels speak TLS 1.3 only, as every peer of the mesh can"},
		{"FAKE_CA", "certificates that nobody vouches for would prove nothing; set CA_ADDRESS, or leave it empty for plain text"},
	} {
		if e.Boolean(r.name, false) {
			list = append(list, Refusal{r.name, r.reason})
		}
	}
	if _, set := e.Lookup("PROXY_WORKLOAD_INFO"); set && e.Text("PROXY_MODE", "shared") == "shared" {
		list = append(list, Refusal{"PROXY_WORKLOAD_INFO", "pods come from the node agent unless PROXY_MODE is dedicated"})
	}
	return list
}
