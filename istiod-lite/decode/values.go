package decode

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// within is the object's namespace; kubectl applies to default where none is written.
func within(o metav1.ObjectMeta) string {
	if o.Namespace == "" {
		return metav1.NamespaceDefault
	}
	return o.Namespace
}

// address parses an IP address. IPv4 written as IPv6 becomes IPv4.
func address(path, text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err == nil && addr.Zone() != "" {
		err = errors.New("an address with a zone")
	}
	if err != nil {
		return netip.Addr{}, at(path, fmt.Errorf("want an IP address, have %q: %w", text, err))
	}
	return addr.Unmap(), nil
}

// port checks the range of a port.
func port(path string, number int64) (uint16, error) {
	if number < 1 || number > 65535 {
		return 0, at(path, fmt.Errorf("port %d is not within 1 to 65535", number))
	}
	return uint16(number), nil
}

// selector checks that labels can match at all.
func selector(path string, labels map[string]string) error {
	for key, value := range labels {
		problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		if len(problems) > 0 {
			return at(path, fmt.Errorf("label %s=%s can't be: %s", key, value, problems[0]))
		}
	}
	return nil
}

// prefixes parses addresses and ranges of addresses.
func prefixes(path string, texts []string) ([]netip.Prefix, error) {
	var found []netip.Prefix
	for i, text := range texts {
		prefix, err := prefix(text)
		if err != nil {
			return nil, at(fmt.Sprintf("%s[%d]", path, i), fmt.Errorf("want an address or a range such as 10.0.0.0/8, have %q", text))
		}
		found = append(found, prefix)
	}
	return found, nil
}

func prefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	if addr.Zone() != "" {
		return netip.Prefix{}, errors.New("an address with a zone")
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// portNumbers parses ports.
func portNumbers(path string, texts []string) ([]uint16, error) {
	var found []uint16
	for i, text := range texts {
		number, err := strconv.ParseUint(text, 10, 16)
		if err != nil || number == 0 {
			return nil, at(fmt.Sprintf("%s[%d]", path, i), fmt.Errorf("want a port within 1 to 65535, have %q", text))
		}
		found = append(found, uint16(number))
	}
	return found, nil
}

// What objects are marked with.
const (
	distributionAnnotation = "networking.istio.io/traffic-distribution"
	redirectionAnnotation  = "ambient.istio.io/redirection"
)

// binding is the waypoint that the labels of an object of the namespace want, or nil.
func binding(namespace string, o metav1.ObjectMeta) *model.Binding {
	label := func(key string) string { return o.Labels[key] }
	return model.BindingOf(namespace, label, o.Annotations[model.CanaryWeight])
}

// readable is a text that the API server takes as it comes: where it speaks protobuf that may be no text at all, which couldn't be said to proxies.
func readable(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
