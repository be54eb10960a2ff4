package state

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"unique"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// errSlash is of what could not be removed by its name.
var errSlash = errors.New("the namespace has a slash in it")

var errNeither = errors.New("the address is neither a workload nor a service")

// decode turns an update into our own values. What can't be used is in rejected.
func decode(u Update) (c changes, rejected Rejected) {
	c = u.added
	c.removedAddresses, c.removedPolicies = u.RemovedAddresses, u.RemovedPolicies
	rejected = Rejected{}
	for _, a := range u.Addresses {
		if err := c.addAddress(a); err != nil {
			rejected[addressName(a)] = err
		}
	}
	for _, p := range u.Policies {
		if err := c.addPolicy(p); err != nil {
			rejected[policyName(p).String()] = err
		}
	}
	return c, rejected
}

// addPolicy takes a policy even if it returns an error, unless that has no name.
func (c *changes) addPolicy(p *security.Authorization) error {
	if p.GetName() == "" {
		return errors.New("the policy has no name")
	}
	if strings.Contains(p.GetNamespace(), "/") {
		return errSlash
	}
	policy := decodePolicy(p)
	c.policies = append(c.policies, policy)
	if policy.Invalid != nil {
		return fmt.Errorf("taken as denying: %w", policy.Invalid)
	}
	return nil
}

func (c *changes) addAddress(a *workload.Address) error {
	switch {
	case a.GetWorkload() != nil:
		if c.identities == nil {
			c.identities = identities{}
		}
		w, err := decodeWorkload(a.GetWorkload(), c.identities)
		if err != nil {
			return err
		}
		c.workloads = append(c.workloads, w)
	case a.GetService() != nil:
		s, err := decodeService(a.GetService())
		if err != nil {
			return err
		}
		c.services = append(c.services, s)
	default:
		return errNeither
	}
	return nil
}

// addressName returns the name by which the control plane calls the resource.
func addressName(a *workload.Address) string {
	if s := a.GetService(); s != nil {
		return Name{s.GetNamespace(), s.GetHostname()}.String()
	}
	return a.GetWorkload().GetUid()
}

func policyName(p *security.Authorization) Name { return Name{p.GetNamespace(), p.GetName()} }

// parseName reads "namespace/name".
func parseName(s string) (Name, bool) {
	namespace, name, ok := strings.Cut(s, "/")
	return Name{namespace, name}, ok && name != ""
}

// intern returns a string equal to s that is kept once: most strings of a mesh occur in very many resources.
func intern(s string) string { return unique.Make(s).Value() }

func decodeAddr(raw []byte) (netip.Addr, error) {
	addr, ok := netip.AddrFromSlice(raw)
	if !ok {
		return addr, fmt.Errorf("an address has %d bytes, want 4 or 16", len(raw))
	}
	return addr.Unmap(), nil
}

// decodePrefix reads a range. A length that is too long, or that would span IPv4 and IPv6, is an error.
func decodePrefix(raw []byte, length uint32) (netip.Prefix, error) {
	addr, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("an address has %d bytes, want 4 or 16", len(raw))
	}
	bits := int(min(length, math.MaxInt16))
	if addr.Is4In6() {
		addr, bits = addr.Unmap(), bits-96
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("range %s/%d: the length is out of range", addr, bits)
	}
	return prefix, nil
}

func decodeGateway(g *workload.GatewayAddress) (*Gateway, error) {
	if g == nil {
		return nil, nil
	}
	port, err := decodePort(g.GetHboneMtlsPort())
	if err != nil {
		return nil, err
	}
	gateway := &Gateway{Port: port}
	switch {
	case g.GetHostname() != nil:
		host := g.GetHostname()
		gateway.Host = Name{intern(host.GetNamespace()), intern(host.GetHostname())}
		if gateway.Host.Name == "" {
			return nil, errors.New("its hostname is empty")
		}
	case g.GetAddress() != nil:
		addr, err := decodeAddr(g.GetAddress().GetAddress())
		if err != nil {
			return nil, err
		}
		gateway.Address = NetworkAddress{intern(g.GetAddress().GetNetwork()), addr}
	default:
		return nil, errors.New("it has neither an address nor a hostname")
	}
	return gateway, nil
}

func decodePort(port uint32) (uint16, error) {
	if port > math.MaxUint16 {
		return 0, fmt.Errorf("port %d is out of range", port)
	}
	return uint16(port), nil
}

func decodePorts(list []*workload.Port) ([]Port, error) {
	ports := make([]Port, 0, len(list))
	for _, p := range list {
		service, err := decodePort(p.GetServicePort())
		if err != nil {
			return nil, err
		}
		target, err := decodePort(p.GetTargetPort())
		if err != nil {
			return nil, err
		}
		ports = append(ports, Port{service, target, appProtocol(p.GetAppProtocol())})
	}
	return ports, nil
}

// appProtocol takes what it doesn't know for no word on the matter.
func appProtocol(p workload.AppProtocol) AppProtocol {
	if p < 0 || p > workload.AppProtocol_TLS {
		return UnknownProtocol
	}
	return AppProtocol(p)
}

func isKnown[E ~int32](value E, names map[int32]string) bool {
	_, ok := names[int32(value)]
	return ok
}

// fewValues are compared with one another; of more, those that have come are looked up.
const fewValues = 16

// distinct leaves out what a list has said before, in place. A list may be as long as a message.
func distinct[T comparable](list []T) []T {
	if len(list) > fewValues {
		seen := make(map[T]struct{}, len(list))
		return slices.DeleteFunc(list, func(value T) bool {
			_, twice := seen[value]
			seen[value] = struct{}{}
			return twice
		})
	}
	kept := list[:0]
	for _, value := range list {
		if !slices.Contains(kept, value) {
			kept = append(kept, value)
		}
	}
	return kept
}
