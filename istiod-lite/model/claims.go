package model

// claims notes whose the hosts are that an object has a say in, before it comes or goes. A namespace says who sees its entries.
func (d *dirty) claims(key Key, object Object) {
	switch o := object.(type) {
	case *Service:
		d.claim(o.Namespace, d.model.Hostname(o))
	case *ServiceEntry:
		d.claim(o.Namespace, o.Hosts...)
	case *Namespace:
		for e := range d.model.serviceEntries.byNamespace.of(key.Name.Name) {
			d.claim(e.Namespace, e.Hosts...)
		}
	}
}

func (d *dirty) claim(namespace string, hosts ...string) {
	for _, hostname := range hosts {
		host := Name{namespace, hostname}
		if _, noted := d.owners[host]; !noted {
			d.owners[host] = d.owner(host)
		}
		if _, noted := d.canonical[hostname]; !noted {
			d.canonical[hostname] = nameOf(d.model.canonical(hostname))
		}
	}
}

func (d *dirty) owner(host Name) Name {
	_, e := d.model.Owner(host)
	return nameOf(e)
}

func nameOf(e *ServiceEntry) Name {
	if e == nil {
		return Name{}
	}
	return e.Key().Name
}

// inherit marks who has lost a host that was noted, and who has got it, and nobody else who claims it: of many there are two. The
// host itself is marked already, but for other namespaces.
func (d *dirty) inherit() {
	moved := make(map[Name]struct{}) // each entry once, however many of its hosts moved
	for host, before := range d.owners {
		if now := d.owner(host); now != before {
			moved[before], moved[now] = struct{}{}, struct{}{}
		}
	}
	for name := range moved {
		if e := d.model.serviceEntries.all[name]; e != nil {
			d.choosing(e)
		}
	}
	for hostname, before := range d.canonical {
		if now := nameOf(d.model.canonical(hostname)); now != before {
			for _, e := range []Name{before, now} {
				if e != (Name{}) {
					d.mark(Key{KindHost, Name{e.Namespace, hostname}})
				}
			}
		}
	}
}
