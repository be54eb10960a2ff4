package settings

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

const (
	defaultRoot  = "./var/run/secrets/istio/root-cert.pem"
	defaultToken = "./var/run/secrets/tokens/istio-token"
)

// ControlPlane is one server of the control plane.
type ControlPlane struct {
	Address    string // https://host:port
	RootCA     string // path, PEM text or SYSTEM
	ServerName string // "" means the host of Address
	Headers    map[string]string
}

// Local is configuration without a control plane: at most one field is set.
type Local struct{ Path, Inline string }

// Plane is where configuration and certificates come from.
type Plane struct {
	XDS      ControlPlane // Address is "" with LocalXDS
	CA       ControlPlane // Address is "" where there are no certificates
	Token    string       // path of a service-account token, or the token itself; "" sends none
	LocalXDS Local        // instead of XDS
}

// ReadPlane reads the variables of both servers; discovery is where they are if nothing else is said, or "".
func ReadPlane(e *Env, discovery string) Plane {
	address := "https://localhost:15012"
	if _, cluster := e.Lookup("KUBERNETES_SERVICE_HOST"); cluster {
		address = "https://istiod.istio-system.svc:15012"
	}
	if discovery != "" {
		address = discovery
	}
	p := Plane{XDS: controlPlane(e, "XDS", address), CA: controlPlane(e, "CA", address), Token: e.Text("AUTH_TOKEN", "")}
	if p.Token == "" {
		if _, err := os.Stat(defaultToken); err == nil {
			p.Token = defaultToken
		}
	}
	p.readLocal(e)
	return p
}

// controlPlane reads the variables of one server; an address that is set but empty means none.
func controlPlane(e *Env, name, address string) ControlPlane {
	if value, set := e.vars[name+"_ADDRESS"]; set {
		address = value
	}
	if address != "" && !strings.Contains(address, "://") {
		address = "https://" + address
	}
	if address != "" && !strings.HasPrefix(address, "https://") {
		e.Fail(name+"_ADDRESS", fmt.Sprintf("%q must begin with https://", address))
	}
	_, headers := e.Prefixed(name + "_HEADER_")
	return ControlPlane{
		Address:    address,
		RootCA:     e.Text(name+"_ROOT_CA", defaultRoot),
		ServerName: e.Text("ALT_"+name+"_HOSTNAME", ""),
		Headers:    headers,
	}
}

// readLocal replaces xDS by a file or a text; both sources at once would contradict each other.
func (p *Plane) readLocal(e *Env) {
	p.LocalXDS = Local{Path: e.Text("LOCAL_XDS_PATH", ""), Inline: e.Text("LOCAL_XDS", "")}
	if p.LocalXDS == (Local{}) {
		if p.XDS.Address == "" {
			e.Fail("XDS_ADDRESS", "is empty, and neither LOCAL_XDS_PATH nor LOCAL_XDS says what the mesh consists of")
		}
		return
	}
	if p.LocalXDS.Path != "" && p.LocalXDS.Inline != "" {
		e.Fail("LOCAL_XDS", "and LOCAL_XDS_PATH exclude each other; unset one")
	}
	if _, set := e.Lookup("XDS_ADDRESS"); set {
		e.Fail("XDS_ADDRESS", "contradicts LOCAL_XDS_PATH and LOCAL_XDS; unset one")
	}
	p.XDS.Address = ""
}

// Metadata collects what a proxy tells the control plane about its node.
func Metadata(e *Env) map[string]any {
	meta := map[string]any{}
	names, values := e.Prefixed("ISTIO_META_")
	for _, name := range names {
		meta[name] = values[name]
	}
	names, values = e.Prefixed("ISTIO_METAJSON_")
	for _, name := range names {
		var value any
		if err := json.Unmarshal([]byte(values[name]), &value); err != nil {
			e.Fail("ISTIO_METAJSON_"+name, fmt.Sprintf("is not JSON: %v", err))
			continue
		}
		meta[name] = value
	}
	return meta
}
