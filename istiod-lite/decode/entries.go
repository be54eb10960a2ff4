package decode

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	istio "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// Limits of a ServiceEntry, as the API server has them too.
const (
	maxHosts     = 256
	maxAddresses = 256
	maxEndpoints = 10_000
	// maxMappings bounds what the endpoints of one entry become: the ports of each for each host.
	maxMappings = 200_000
)

func networking() []Kind {
	versions := []string{"v1", "v1beta1", "v1alpha3"}
	return []Kind{
		kind(Kind{Group: "networking.istio.io", Kind: "ServiceEntry", Versions: versions, Resource: "serviceentries", Model: model.KindServiceEntry}, serviceEntry),
		kind(Kind{Group: "networking.istio.io", Kind: "WorkloadEntry", Versions: versions, Resource: "workloadentries", Model: model.KindWorkloadEntry}, workloadEntry),
	}
}

func serviceEntry(o *resource[istio.ServiceEntry, *istio.ServiceEntry]) (model.Object, error) {
	spec := o.Spec.get()
	e := &model.ServiceEntry{
		Namespace: within(o.ObjectMeta), Name: o.Name, Generation: o.Generation, Created: o.CreationTimestamp.Time,
		Revision: o.Labels[model.RevisionLabel], Binding: binding(within(o.ObjectMeta), o.ObjectMeta),
		Resolution: model.Resolution(spec.Resolution.String()), SANs: spec.SubjectAltNames,
		Selected: spec.WorkloadSelector != nil, Selector: model.LabelsOf(spec.WorkloadSelector.GetLabels()),
		TrafficDistribution: o.Annotations[distributionAnnotation],
		Exported:            len(spec.ExportTo) > 0 && !slices.Contains(spec.ExportTo, "*"),
	}
	if err := selector("spec.workloadSelector.labels", spec.WorkloadSelector.GetLabels()); err != nil {
		return nil, err
	}
	if e.Selected && len(spec.Endpoints) > 0 {
		return nil, at("spec.endpoints", errors.New("endpoints and workloadSelector exclude each other"))
	}
	for _, step := range []func(*istio.ServiceEntry, *model.ServiceEntry) error{hosts, entryVIPs, entryPorts, entryEndpoints, entrySelector} {
		if err := step(spec, e); err != nil {
			return nil, err
		}
	}
	if e.Unallocated = o.Labels["networking.istio.io/enable-autoallocate-ip"] == "false"; !e.Unallocated {
		e.Allocated = allocated(o.Status)
	}
	return e, nil
}

func hosts(spec *istio.ServiceEntry, e *model.ServiceEntry) error {
	if len(spec.Hosts) == 0 || len(spec.Hosts) > maxHosts {
		return at("spec.hosts", fmt.Errorf("want 1 to %d hosts, have %d", maxHosts, len(spec.Hosts)))
	}
	for i, text := range spec.Hosts {
		host, err := host(text, true)
		if err != nil {
			return at(fmt.Sprintf("spec.hosts[%d]", i), err)
		}
		if !slices.Contains(e.Hosts, host) {
			e.Hosts = append(e.Hosts, host)
		}
	}
	return nil
}

// host checks a name for DNS, which may stand for all names below another.
func host(text string, wildcard bool) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(text, "."))
	rest := name
	if wildcard {
		rest = strings.TrimPrefix(name, "*.")
	}
	last := rest[strings.LastIndexByte(rest, '.')+1:]
	// What ends in a number is an address that went wrong, such as 300.1.1.1.
	if problems := validation.IsDNS1123Subdomain(rest); len(problems) > 0 || strings.Trim(last, "0123456789") == "" {
		return "", fmt.Errorf("want a host name such as db.example.com, have %.100q", text)
	}
	return name, nil
}

func entryVIPs(spec *istio.ServiceEntry, e *model.ServiceEntry) error {
	if len(spec.Addresses) > maxAddresses {
		return at("spec.addresses", fmt.Errorf("%d addresses are more than %d", len(spec.Addresses), maxAddresses))
	}
	found, err := prefixes("spec.addresses", spec.Addresses)
	for _, each := range found {
		e.VIPs = append(e.VIPs, each.Masked())
	}
	return err
}

func entryPorts(spec *istio.ServiceEntry, e *model.ServiceEntry) error {
	taken := make(map[uint16]bool)
	for i, each := range spec.Ports {
		path := fmt.Sprintf("spec.ports[%d]", i)
		number, err := port(path+".number", int64(each.GetNumber()))
		if err != nil {
			return err
		}
		if taken[number] {
			return at(path+".number", fmt.Errorf("port %d comes twice", number))
		}
		taken[number] = true
		p := model.ServicePort{Name: each.GetName(), Port: number, Target: number, AppProtocol: each.GetProtocol()}
		if each.GetTargetPort() != 0 {
			if p.Target, err = port(path+".targetPort", int64(each.GetTargetPort())); err != nil {
				return err
			}
		}
		if !strings.EqualFold(p.AppProtocol, "UDP") {
			e.Ports = append(e.Ports, p)
		}
	}
	return nil
}

func entryEndpoints(spec *istio.ServiceEntry, e *model.ServiceEntry) error {
	if len(spec.Endpoints) > maxEndpoints {
		return at("spec.endpoints", fmt.Errorf("%d endpoints are more than %d: use WorkloadEntries", len(spec.Endpoints), maxEndpoints))
	}
	if mappings := len(spec.Endpoints) * len(e.Hosts) * len(e.Ports); mappings > maxMappings {
		return at("spec.endpoints", fmt.Errorf("%d endpoints with %d ports for %d hosts are too much for one object: split it", len(spec.Endpoints), len(e.Ports), len(e.Hosts)))
	}
	for i, each := range spec.Endpoints {
		read, err := entryEndpoint(fmt.Sprintf("spec.endpoints[%d]", i), each, each.GetLabels())
		if err != nil {
			return err
		}
		e.Endpoints = append(e.Endpoints, read)
	}
	return nil
}

// entrySelector bounds what the entry means for each workload that it chooses: however many these are, all proxies read it of
// each.
func entrySelector(_ *istio.ServiceEntry, e *model.ServiceEntry) error {
	if mappings := len(e.Hosts) * len(e.Ports); e.Selected && mappings > model.MaxMappings {
		return at("spec.workloadSelector", fmt.Errorf(
			"%d hosts with %d ports are %d ports of each workload, and one has at most %d: list fewer hosts or ports, or give them to workloads of their own",
			len(e.Hosts), len(e.Ports), mappings, model.MaxMappings))
	}
	return nil
}

// allocated reads the addresses that were found for an entry. They are somebody else's writing, so what can't be used of
// them is left out.
func allocated(status json.RawMessage) []model.AllocatedAddress {
	var o struct {
		Addresses []struct{ Value, Host string } `json:"addresses"`
	}
	if len(status) == 0 || json.Unmarshal(status, &o) != nil {
		return nil
	}
	var found []model.AllocatedAddress
	for _, each := range o.Addresses[:min(len(o.Addresses), 2*maxHosts)] {
		if ip, err := netip.ParseAddr(each.Value); err == nil && ip.Zone() == "" {
			found = append(found, model.AllocatedAddress{Host: strings.ToLower(each.Host), IP: ip.Unmap()})
		}
	}
	return found
}

func workloadEntry(o *resource[istio.WorkloadEntry, *istio.WorkloadEntry]) (model.Object, error) {
	spec := o.Spec.get()
	labels := maps.Clone(o.Labels)
	if labels == nil {
		labels = make(map[string]string)
	}
	maps.Copy(labels, spec.GetLabels())
	endpoint, err := entryEndpoint("spec", spec, labels)
	if err != nil {
		return nil, err
	}
	return &model.WorkloadEntry{
		Namespace: within(o.ObjectMeta), Name: o.Name, Generation: o.Generation,
		Revision: o.Labels[model.RevisionLabel], Binding: binding(within(o.ObjectMeta), o.ObjectMeta), EntryEndpoint: endpoint,
	}, nil
}

func entryEndpoint(path string, o *istio.WorkloadEntry, labels map[string]string) (model.EntryEndpoint, error) {
	e := model.EntryEndpoint{
		Network: o.GetNetwork(), Labels: model.LabelsOf(labels), ServiceAccount: o.GetServiceAccount(),
		Locality: locality(o.GetLocality()), Weight: o.GetWeight(),
	}
	if err := selector(path+".labels", o.GetLabels()); err != nil {
		return e, err
	}
	for _, name := range slices.Sorted(maps.Keys(o.GetPorts())) {
		number, err := port(path+".ports."+name, int64(o.GetPorts()[name]))
		if err != nil {
			return e, err
		}
		e.Ports = append(e.Ports, model.NamedPort{Name: name, Port: number})
	}
	text := o.GetAddress()
	ip, err := netip.ParseAddr(text)
	switch {
	case text == "" && e.Network == "":
		return e, at(path+".address", errors.New("want an address, or a network through whose gateway the endpoint is reached"))
	case text == "":
	case err == nil && ip.Zone() == "":
		e.IP = ip.Unmap()
	case strings.HasPrefix(text, "unix://"):
		e.Host = text
	default:
		if e.Host, err = host(text, false); err != nil {
			return e, at(path+".address", fmt.Errorf("want an IP address or a host name, have %.100q", text))
		}
	}
	return e, nil
}

// locality reads "region/zone/subzone", of which the end may be missing.
func locality(text string) model.Locality {
	parts := append(strings.Split(text, "/"), "", "")
	return model.Locality{Region: parts[0], Zone: parts[1], Subzone: parts[2]}
}
