package hbone

import "strings"

// The baggage header's bounds: what is longer or beyond them is ignored, as the header informs telemetry only.
const (
	maxBaggage      = 4096 // bytes of the whole header
	maxBaggageItems = 64
	maxBaggageValue = 256 // bytes of one value
)

// Baggage describes a workload to its peer for metrics and logs. It isn't authenticated, so it decides nothing.
type Baggage struct {
	Cluster      string
	Namespace    string
	WorkloadType string // "deployment", "cronjob", "pod" or "job"; "" when unknown
	WorkloadName string
	Service      string // canonical name
	Revision     string // canonical revision
	Region       string
	Zone         string
}

// parseBaggage reads a baggage header. It takes what it knows and passes over the rest, so it never fails.
func parseBaggage(s string) Baggage {
	var b Baggage
	if len(s) > maxBaggage {
		s = s[:maxBaggage]
		s = s[:strings.LastIndexByte(s, ',')+1]
	}
	items := 0
	for item := range strings.SplitSeq(s, ",") {
		if items++; items > maxBaggageItems {
			break
		}
		key, value, ok := strings.Cut(item, "=")
		if !ok || !validBaggageValue(strings.TrimSpace(value)) {
			continue
		}
		b.set(strings.TrimSpace(key), strings.TrimSpace(value))
	}
	return b
}

func (b *Baggage) set(key, value string) {
	switch key {
	case "k8s.cluster.name":
		b.Cluster = value
	case "k8s.namespace.name":
		b.Namespace = value
	case "k8s.deployment.name", "k8s.cronjob.name", "k8s.pod.name", "k8s.job.name":
		b.WorkloadType = strings.TrimSuffix(strings.TrimPrefix(key, "k8s."), ".name")
		b.WorkloadName = value
	case "service.name":
		b.Service = value
	case "service.version":
		b.Revision = value
	case "cloud.region":
		b.Region = value
	case "cloud.availability_zone":
		b.Zone = value
	}
}

// String returns the header, or "" when nothing is known. Values that the header can't carry are left out.
func (b Baggage) String() string {
	var out strings.Builder
	add := func(key, value string) {
		if !validBaggageValue(value) {
			return
		}
		if out.Len() > 0 {
			out.WriteByte(',')
		}
		out.WriteString(key)
		out.WriteByte('=')
		out.WriteString(value)
	}
	add("k8s.cluster.name", b.Cluster)
	add("k8s.namespace.name", b.Namespace)
	switch b.WorkloadType {
	case "deployment", "cronjob", "pod", "job":
		add("k8s."+b.WorkloadType+".name", b.WorkloadName)
	}
	add("service.name", b.Service)
	add("service.version", b.Revision)
	add("cloud.region", b.Region)
	add("cloud.availability_zone", b.Zone)
	return out.String()
}

// validBaggageValue keeps out what would end the item or the header, and what could forge a log line.
func validBaggageValue(s string) bool {
	if s == "" || len(s) > maxBaggageValue {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == ',' || c == ';' || c == '"' {
			return false
		}
	}
	return true
}
