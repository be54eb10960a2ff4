package config

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

// controlPlanes fills in where configuration and certificates come from.
func controlPlanes(e *env, cfg *Config, mesh meshConfig) {
	address := "https://localhost:15012"
	if _, cluster := e.lookup("KUBERNETES_SERVICE_HOST"); cluster {
		address = "https://istiod.istio-system.svc:15012"
	}
	if mesh.DiscoveryAddress != "" {
		address = mesh.DiscoveryAddress
	}
	cfg.XDS = controlPlane(e, "XDS", address)
	cfg.CA = controlPlane(e, "CA", address)
	cfg.Token = e.text("AUTH_TOKEN", "")
	if cfg.Token == "" {
		if _, err := os.Stat(defaultToken); err == nil {
			cfg.Token = defaultToken
		}
	}
	localState(e, cfg)
}

// controlPlane reads the variables of one server; an address that is set but empty means none.
func controlPlane(e *env, name, address string) ControlPlane {
	if value, set := e.vars[name+"_ADDRESS"]; set {
		address = value
	}
	if address != "" && !strings.Contains(address, "://") {
		address = "https://" + address
	}
	if address != "" && !strings.HasPrefix(address, "https://") {
		e.fail(name+"_ADDRESS", fmt.Sprintf("%q must begin with https://", address))
	}
	_, headers := e.prefixed(name + "_HEADER_")
	return ControlPlane{
		Address:    address,
		RootCA:     e.text(name+"_ROOT_CA", defaultRoot),
		ServerName: e.text("ALT_"+name+"_HOSTNAME", ""),
		Headers:    headers,
	}
}

// localState replaces xDS by a file or a text; both sources at once would contradict each other.
func localState(e *env, cfg *Config) {
	cfg.LocalXDS = Local{Path: e.text("LOCAL_XDS_PATH", ""), Inline: e.text("LOCAL_XDS", "")}
	if cfg.LocalXDS == (Local{}) {
		if cfg.XDS.Address == "" {
			e.fail("XDS_ADDRESS", "is empty, and neither LOCAL_XDS_PATH nor LOCAL_XDS says what the mesh consists of")
		}
		return
	}
	if cfg.LocalXDS.Path != "" && cfg.LocalXDS.Inline != "" {
		e.fail("LOCAL_XDS", "and LOCAL_XDS_PATH exclude each other; unset one")
	}
	if _, set := e.lookup("XDS_ADDRESS"); set {
		e.fail("XDS_ADDRESS", "contradicts LOCAL_XDS_PATH and LOCAL_XDS; unset one")
	}
	cfg.XDS.Address = ""
}

// metadata collects what ztunnel tells the control plane about its node.
func metadata(e *env) map[string]any {
	meta := map[string]any{}
	names, values := e.prefixed("ISTIO_META_")
	for _, name := range names {
		meta[name] = values[name]
	}
	names, values = e.prefixed("ISTIO_METAJSON_")
	for _, name := range names {
		var value any
		if err := json.Unmarshal([]byte(values[name]), &value); err != nil {
			e.fail("ISTIO_METAJSON_"+name, fmt.Sprintf("is not JSON: %v", err))
			continue
		}
		meta[name] = value
	}
	return meta
}
