package state

// Replace applies an update that says everything: what it doesn't name is removed.
func (s *Store) Replace(update Update) error {
	named := map[string]bool{}
	for _, address := range update.Addresses {
		named[address.GetWorkload().GetUid()] = true
		named[address.GetService().GetNamespace()+"/"+address.GetService().GetHostname()] = true
	}
	policies := map[string]bool{}
	for _, p := range update.Policies {
		policies[p.GetNamespace()+"/"+p.GetName()] = true
	}
	t := s.Load()
	for _, w := range t.Workloads() {
		if !named[w.UID] {
			update.RemovedAddresses = append(update.RemovedAddresses, w.UID)
		}
	}
	for _, svc := range t.Services() {
		if name := svc.Key().String(); !named[name] {
			update.RemovedAddresses = append(update.RemovedAddresses, name)
		}
	}
	for _, p := range t.Policies() {
		if name := p.Key().String(); !policies[name] {
			update.RemovedPolicies = append(update.RemovedPolicies, name)
		}
	}
	return s.Apply(update)
}
