package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	meshFile     = "./etc/istio/config/mesh"
	meshFileSize = 1 << 20
)

// ProxyConfig is what proxies heed of Istio's ProxyConfig.
type ProxyConfig struct {
	DiscoveryAddress string            `yaml:"discoveryAddress"`
	ProxyAdminPort   int               `yaml:"proxyAdminPort"`
	StatsPort        int               `yaml:"statsPort"`
	Concurrency      int               `yaml:"concurrency"`
	ProxyMetadata    map[string]string `yaml:"proxyMetadata"`
	GatewayTopology  struct {
		NumTrustedProxies int `yaml:"numTrustedProxies"`
	} `yaml:"gatewayTopology"`
}

// ReadProxyConfig reads PROXY_CONFIG over the defaultConfig of the mesh's own file, if there is one.
func ReadProxyConfig(e *Env) ProxyConfig {
	var mesh struct {
		DefaultConfig ProxyConfig `yaml:"defaultConfig"`
	}
	if err := readMeshFile(&mesh); err != nil {
		e.Fail(meshFile, err.Error())
	}
	cfg := mesh.DefaultConfig
	if err := yaml.Unmarshal([]byte(e.Text("PROXY_CONFIG", "{}")), &cfg); err != nil {
		e.Fail("PROXY_CONFIG", fmt.Sprintf("is neither YAML nor JSON of a ProxyConfig: %v", err))
	}
	for _, port := range []int{cfg.ProxyAdminPort, cfg.StatsPort} {
		if port < 0 || port > 65535 {
			e.Fail("PROXY_CONFIG", fmt.Sprintf("%d is no port", port))
		}
	}
	if cfg.Concurrency < 0 {
		e.Fail("PROXY_CONFIG", "concurrency must not be negative")
	}
	if cfg.GatewayTopology.NumTrustedProxies < 0 {
		e.Fail("PROXY_CONFIG", "numTrustedProxies must not be negative")
	}
	cfg.setMetadata(e)
	return cfg
}

func readMeshFile(into any) error {
	info, err := os.Stat(meshFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() > meshFileSize {
		return fmt.Errorf("is larger than %d bytes", meshFileSize)
	}
	text, err := os.ReadFile(meshFile)
	if err != nil {
		return err
	}
	return yaml.Unmarshal(text, into)
}

// setMetadata makes variables of proxyMetadata, with or without ISTIO_META_ before their names; those of the environment win.
func (m ProxyConfig) setMetadata(e *Env) {
	for name, value := range m.ProxyMetadata {
		name = "ISTIO_META_" + strings.TrimPrefix(name, "ISTIO_META_")
		e.Set(name, value)
	}
}
