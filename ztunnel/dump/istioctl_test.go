package dump_test

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"
)

// istioctlPage mirrors the types that `istioctl ztunnel-config` reads a dump into, with its names. Importing them would bring
// all of Istio.
type istioctlPage struct {
	Workloads []struct {
		WorkloadIPs           []string                `json:"workloadIps"`
		Waypoint              *istioctlAddress        `json:"waypoint"`
		NetworkGateway        *istioctlAddress        `json:"networkGateway"`
		Protocol              string                  `json:"protocol"`
		Name                  string                  `json:"name"`
		Namespace             string                  `json:"namespace"`
		ServiceAccount        string                  `json:"serviceAccount"`
		WorkloadName          string                  `json:"workloadName"`
		WorkloadType          string                  `json:"workloadType"`
		CanonicalName         string                  `json:"canonicalName"`
		CanonicalRevision     string                  `json:"canonicalRevision"`
		ClusterID             string                  `json:"clusterId"`
		TrustDomain           string                  `json:"trustDomain"`
		Locality              istioctlLocality        `json:"locality"`
		Node                  string                  `json:"node"`
		Network               string                  `json:"network"`
		Status                string                  `json:"status"`
		Hostname              string                  `json:"hostname"`
		Capacity              uint32                  `json:"capacity"`
		ApplicationTunnel     istioctlApplicationPort `json:"applicationTunnel"`
		AuthorizationPolicies []string                `json:"authorizationPolicies"`
		UID                   string                  `json:"uid"`
	} `json:"workloads"`
	Services []struct {
		Name         string         `json:"name"`
		Namespace    string         `json:"namespace"`
		Hostname     string         `json:"hostname"`
		VIPs         []string       `json:"vips"`
		CIDRVIPs     []string       `json:"cidrVips"`
		Ports        map[string]int `json:"ports"`
		LoadBalancer *struct {
			Mode               string   `json:"mode"`
			RoutingPreferences []string `json:"routingPreferences"`
			HealthPolicy       string   `json:"healthPolicy"`
		} `json:"loadBalancer"`
		Waypoint  *istioctlAddress `json:"waypoint"`
		Endpoints map[string]struct {
			WorkloadUID string         `json:"workloadUid"`
			Port        map[string]int `json:"port"`
			Status      string         `json:"status"`
		} `json:"endpoints"`
		SubjectAltNames []string `json:"subjectAltNames"`
		IPFamilies      string   `json:"ipFamilies"`
		Canonical       bool     `json:"canonical"`
		Visibility      string   `json:"visibility"`
	} `json:"services"`
	Policies []struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		Scope     string `json:"scope"`
		Action    string `json:"action"`
		Rules     [][][]struct {
			Namespaces          []istioctlMatch `json:"namespaces"`
			NotNamespaces       []istioctlMatch `json:"notNamespaces"`
			Principals          []istioctlMatch `json:"principals"`
			NotPrincipals       []istioctlMatch `json:"notPrincipals"`
			SourceIPs           []string        `json:"sourceIps"`
			NotSourceIPs        []string        `json:"notSourceIps"`
			DestinationIPs      []string        `json:"destinationIps"`
			NotDestinationIPs   []string        `json:"notDestinationIps"`
			DestinationPorts    []uint16        `json:"destinationPorts"`
			NotDestinationPorts []uint16        `json:"notDestinationPorts"`
		} `json:"rules"`
	} `json:"policies"`
	Certificates []struct {
		Identity  string                `json:"identity"`
		State     string                `json:"state"`
		CertChain []istioctlCertificate `json:"certChain"`
		RootCerts []istioctlCertificate `json:"rootCerts"`
	} `json:"certificates"`
	WorkloadState map[string]struct {
		State       string `json:"state"`
		Connections struct {
			Inbound  []istioctlConnection `json:"inbound"`
			Outbound []istioctlConnection `json:"outbound"`
		} `json:"connections"`
		Info struct {
			Name           string `json:"name"`
			Namespace      string `json:"namespace"`
			ServiceAccount string `json:"serviceAccount"`
		} `json:"info"`
	} `json:"workloadState"`
}

type (
	istioctlAddress struct {
		Destination string `json:"destination"`
	}
	istioctlLocality struct {
		Region  string `json:"region"`
		Zone    string `json:"zone"`
		Subzone string `json:"subzone"`
	}
	istioctlApplicationPort struct {
		Protocol string `json:"protocol"`
		Port     uint16 `json:"port"`
	}
	istioctlCertificate struct {
		PEM            []byte `json:"pem"` // encoding/json undoes base64
		SerialNumber   string `json:"serialNumber"`
		ValidFrom      string `json:"validFrom"`
		ExpirationTime string `json:"expirationTime"`
	}
	istioctlConnection struct {
		Src         string  `json:"src"`
		OriginalDst *string `json:"originalDst"`
		ActualDst   string  `json:"actualDst"`
		Protocol    string  `json:"protocol"`
	}
	istioctlMatch struct {
		Exact    string    `json:"Exact"`
		Prefix   string    `json:"Prefix"`
		Suffix   string    `json:"Suffix"`
		Presence *[]string `json:"Presence"`
	}
)

// The golden page, which a full mesh has made, must leave none of istioctl's fields empty everywhere.
func TestIstioctlFindsAllItsFields(t *testing.T) {
	text, err := os.ReadFile("testdata/full.json")
	if err != nil {
		t.Fatal(err)
	}
	var page istioctlPage
	if err := json.Unmarshal(text, &page); err != nil {
		t.Fatal(err)
	}
	filled := map[string]bool{}
	look(reflect.ValueOf(page), "", filled)
	for path, full := range filled {
		if !full {
			t.Errorf("istioctl finds nothing in %s", path)
		}
	}
	if len(filled) < 60 {
		t.Errorf("only %d fields looked at", len(filled))
	}
}

// look notes which fields have a value in any of the lists' elements.
func look(v reflect.Value, path string, filled map[string]bool) {
	switch v.Kind() {
	case reflect.Struct:
		if name := v.Type().Name(); name != "" {
			path = name // wherever it stands
		}
		for i := range v.NumField() {
			look(v.Field(i), path+"."+v.Type().Field(i).Name, filled)
		}
	case reflect.Slice, reflect.Array:
		filled[path] = filled[path] || v.Len() > 0
		for i := range v.Len() {
			look(v.Index(i), path, filled)
		}
	case reflect.Map:
		filled[path] = filled[path] || v.Len() > 0
		for _, key := range v.MapKeys() {
			look(v.MapIndex(key), path, filled)
		}
	case reflect.Pointer:
		filled[path] = filled[path] || !v.IsNil()
		if !v.IsNil() {
			look(v.Elem(), path, filled)
		}
	default:
		filled[path] = filled[path] || !v.IsZero()
	}
}
