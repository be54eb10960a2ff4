package state

import (
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

type changes struct{}

func decode(Update) (changes, Rejected) { return changes{}, nil }

func addressName(a *workload.Address) string {
	if s := a.GetService(); s != nil {
		return Name{s.GetNamespace(), s.GetHostname()}.String()
	}
	return a.GetWorkload().GetUid()
}

func policyName(p *security.Authorization) Name { return Name{p.GetNamespace(), p.GetName()} }
