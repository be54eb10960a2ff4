package config

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

// meshConfig is what ztunnel heeds of Istio's ProxyConfig.
type meshConfig struct {
	DiscoveryAddress string            `yaml:"discoveryAddress"`
	ProxyAdminPort   int               `yaml:"proxyAdminPort"`
	StatsPort        int               `yaml:"statsPort"`
	Concurrency      int               `yaml:"concurrency"`
	ProxyMetadata    map[string]string `yaml:"proxyMetadata"`
}

// proxyConfig reads PROXY_CONFIG over the defaultConfig of the mesh's own file, if there is one.
func proxyConfig(e *env) meshConfig {
	var mesh struct {
		DefaultConfig meshConfig `yaml:"defaultConfig"`
	}
	if err := readMeshFile(&mesh); err != nil {
		e.fail(meshFile, err.Error())
	}
	cfg := mesh.DefaultConfig
	if err := yaml.Unmarshal([]byte(e.text("PROXY_CONFIG", "{}")), &cfg); err != nil {
		e.fail("PROXY_CONFIG", fmt.Sprintf("is neither YAML nor JSON of a ProxyConfig: %v", err))
	}
	for _, port := range []int{cfg.ProxyAdminPort, cfg.StatsPort} {
		if port < 0 || port > 65535 {
			e.fail("PROXY_CONFIG", fmt.Sprintf("%d is no port", port))
		}
	}
	if cfg.Concurrency < 0 {
		e.fail("PROXY_CONFIG", "concurrency must not be negative")
	}
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

// apply overrides what variables don't say more exactly.
func (m meshConfig) apply(e *env, cfg *Config) {
	if m.ProxyAdminPort != 0 {
		cfg.Listen.Admin = fmt.Sprintf("localhost:%d", m.ProxyAdminPort)
	}
	if _, set := e.lookup("ZTUNNEL_WORKER_THREADS"); !set && m.Concurrency > 0 {
		cfg.Threads = m.Concurrency
	}
	if m.StatsPort != 0 {
		cfg.Listen.Metrics = fmt.Sprintf(":%d", m.StatsPort)
	}
}

// metadata makes variables of proxyMetadata, with or without ISTIO_META_ before their names; those of the environment win.
func (m meshConfig) metadata(e *env) {
	for name, value := range m.ProxyMetadata {
		name = "ISTIO_META_" + strings.TrimPrefix(name, "ISTIO_META_")
		if _, set := e.vars[name]; !set {
			e.vars[name] = value
		}
	}
}
