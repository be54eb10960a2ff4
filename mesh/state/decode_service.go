package state

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/identity"
)

func decodeService(in *workload.Service) (*Service, error) {
	if in.GetHostname() == "" {
		return nil, errors.New("the service has no hostname")
	}
	if strings.Contains(in.GetNamespace(), "/") {
		return nil, errSlash
	}
	s := &Service{
		Name:       in.GetName(),
		Namespace:  intern(in.GetNamespace()),
		Hostname:   intern(in.GetHostname()),
		Canonical:  in.GetCanonical(),
		Visibility: NamespaceOnly,
	}
	if in.GetVisibility() == workload.ServiceVisibility_PUBLIC {
		s.Visibility = Public
	}
	for _, san := range in.GetSubjectAltNames() {
		if id, err := identity.Parse(san); err == nil {
			s.SANs = append(s.SANs, id)
		}
	}
	if !isKnown(in.GetIpFamilies(), workload.IPFamilies_name) {
		return nil, fmt.Errorf("IP families %d are unknown", in.GetIpFamilies())
	}
	s.IPFamilies = IPFamilies(in.GetIpFamilies())
	return s, s.decodeRest(in)
}

// decodeRest reads the fields that can be wrong.
func (s *Service) decodeRest(in *workload.Service) (err error) {
	for _, address := range in.GetAddresses() {
		if err := s.addVIP(address); err != nil {
			return err
		}
	}
	s.VIPs, s.CIDRs = distinct(s.VIPs), distinct(s.CIDRs)
	if s.Ports, err = decodePorts(in.GetPorts()); err != nil {
		return err
	}
	if s.Waypoint, err = decodeGateway(in.GetWaypoint()); err != nil {
		return fmt.Errorf("waypoint: %w", err)
	}
	for _, weighted := range in.GetWeightedWaypoints() {
		gateway, err := decodeGateway(weighted.GetDestination())
		if err != nil {
			return fmt.Errorf("weighted waypoint: %w", err)
		}
		if gateway == nil {
			return errors.New("weighted waypoint: it has no destination")
		}
		s.WeightedWaypoints = append(s.WeightedWaypoints, WeightedWaypoint{*gateway, weighted.GetWeight()})
	}
	s.LoadBalancing, err = decodeLoadBalancing(in.GetLoadBalancing())
	return err
}

func (s *Service) addVIP(in *workload.NetworkAddress) error {
	network := intern(in.GetNetwork())
	if in.Length != nil {
		prefix, err := decodePrefix(in.GetAddress(), in.GetLength())
		if err != nil {
			return err
		}
		s.CIDRs = append(s.CIDRs, NetworkPrefix{network, prefix})
		return nil
	}
	addr, err := decodeAddr(in.GetAddress())
	if err != nil {
		return err
	}
	s.VIPs = append(s.VIPs, NetworkAddress{network, addr})
	return nil
}

func decodeLoadBalancing(in *workload.LoadBalancing) (LoadBalancing, error) {
	if in == nil {
		return LoadBalancing{}, nil
	}
	if !isKnown(in.GetMode(), workload.LoadBalancing_Mode_name) {
		return LoadBalancing{}, fmt.Errorf("load balancing mode %d is unknown", in.GetMode())
	}
	lb := LoadBalancing{
		Mode:      Mode(in.GetMode()),
		AnyHealth: in.GetHealthPolicy() == workload.LoadBalancing_ALLOW_ALL,
	}
	for _, scope := range in.GetRoutingPreference() {
		if !isKnown(scope, workload.LoadBalancing_Scope_name) || scope == workload.LoadBalancing_UNSPECIFIED_SCOPE {
			return LoadBalancing{}, fmt.Errorf("routing preference %d is unknown", scope)
		}
		lb.Preferences = append(lb.Preferences, Preference(scope))
	}
	return lb, nil
}
