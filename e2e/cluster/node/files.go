package node

import (
	"bytes"
	"embed"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

//go:embed files
var files embed.FS

// places are where the files go.
var places = map[string]string{
	"hosts":           "/etc/hosts",
	"resolv.conf":     "/etc/resolv.conf",
	"containerd.toml": "/etc/containerd/config.toml",
	"registry.toml":   "/etc/containerd/certs.d/" + cluster.Registry + "/hosts.toml",
	network:           "/etc/cni/net.d/10-pods.conflist",
	"kubelet.yaml":    "/etc/kubernetes/kubelet.yaml",
	"kube-proxy.yaml": "/etc/kubernetes/kube-proxy.yaml",
}

var templates = template.Must(template.ParseFS(files, "files/*"))

// data is what the files are made of.
type data struct {
	cluster.Spec
	Node    string
	Address netip.Addr
	Pods    netip.Prefix
	Pause   string
}

// network is the one that others add their plugins to, which stay over a boot.
const network = "pods.conflist"

// writeFiles writes the configuration of the node's programs, and puts network plugins where others can put theirs.
func (n *node) writeFiles() error {
	own := data{n.Spec, n.name(), n.Address(n.number), n.Pods(n.number), cluster.Image("app")}
	for name, place := range places {
		var text bytes.Buffer
		if err := templates.ExecuteTemplate(&text, name, own); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			return err
		}
		if _, err := os.Stat(place); err == nil && name == network {
			continue
		}
		if err := os.WriteFile(place, text.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return n.linkPlugins()
}

const pluginDir = "/opt/cni/bin"

func (n *node) linkPlugins() error {
	found, err := filepath.Glob("/usr/lib/cni/*")
	if err != nil || len(found) == 0 {
		return fmt.Errorf("no network plugins in /usr/lib/cni: %w", err)
	}
	if err := os.MkdirAll(pluginDir, 0o755); err != nil {
		return err
	}
	for _, plugin := range found {
		link := filepath.Join(pluginDir, filepath.Base(plugin))
		if err := os.Symlink(plugin, link); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}
