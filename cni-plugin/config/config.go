// Package config reads the node agent's flags.
package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
)

// Config is everything that can be set.
type Config struct {
	Source     string // where objects come from: Files or Kubernetes
	Dir        string // folder of YAML objects; Files only
	Kubeconfig string // file that says where the cluster is; "" is the one that the agent runs in; Kubernetes only
	Node       string // this node's name, as in spec.nodeName

	Namespace string // of the agent and of ztunnel
	DaemonSet string // that runs the agent
	Excluded  string // namespaces that never are in the mesh, with commas between them
	Proc      string // folder of the node's processes
	NodeNetns string // file of the network namespace that the kubelet probes pods from; "" is the agent's own

	ConfDir string // the runtime's folder of network configurations; "" leaves it alone
	BinDir  string // the runtime's folder of CNI plugins
	Plugin  string // file of the plugin that goes there

	Status       string // folder of the status file; Files only
	ZDSSocket    string // where tunnel proxies connect
	PluginSocket string // where the CNI plugin connects
	HealthAddr   string // host:port of health, metrics and debug pages
	MetricsAddr  string // host:port of metrics alone, where Prometheus looks for Istio's agent; "" is nowhere

	WithdrawGrace time.Duration // how long peers have to notice that a pod leaves the mesh
	DrainTimeout  time.Duration // how long captured connections may live on in a pod that leaves

	Engine string // how pods are captured: auto, or an engine of package redirect
	Pins   string // folder for pinned BPF objects, where a bpffs is or will be mounted

	DNSCapture bool // pods' DNS questions go to ztunnel, too

	LogLevel  string
	LogFormat string // plain or json

	Version bool // only say which version this is; nothing else is set then
}

// Values of Source.
const (
	Files      = "files"
	Kubernetes = "kubernetes"
)

// ExcludedNamespaces are those of Excluded.
func (c Config) ExcludedNamespaces() []string {
	return strings.FieldsFunc(c.Excluded, func(r rune) bool { return r == ',' || r == ' ' })
}

// Default is the configuration without flags.
func Default() Config {
	return Config{
		Source:    Files,
		Namespace: "istio-system", DaemonSet: "istio-cni-node", Excluded: "kube-system", Proc: "/proc",
		BinDir: "/opt/cni/bin", Plugin: "/usr/local/bin/tulle-cni",
		ZDSSocket: "/var/run/ztunnel/ztunnel.sock", PluginSocket: "/var/run/istio-cni/pluginevent.sock", HealthAddr: ":8000",
		Engine: "auto", Pins: "/sys/fs/bpf",
		WithdrawGrace: 2 * time.Second, DrainTimeout: 10 * time.Minute,
		LogLevel: "info", LogFormat: "plain",
	}
}

// Parse reads the arguments after the program's name: flags, and the folder anywhere between them. Help and what is
// wrong with flags goes to out. The error is flag.ErrHelp where help was asked for.
func Parse(args []string, out io.Writer) (Config, error) {
	c := Default()
	flags := flag.NewFlagSet("tulle-cni-agent", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprintf(out, `usage: tulle-cni-agent --source kubernetes --node NAME [flags]    pods of a Kubernetes cluster
       tulle-cni-agent --source files DIR --node NAME [flags]     pods of a folder of YAML
       tulle-cni-agent status [--health-addr ADDR]                what the agent on this machine does
       tulle-cni-agent verify [--health-addr ADDR] NAMESPACE/POD  prove by a connection that a pod is captured

`)
		flags.PrintDefaults()
	}
	flags.StringVar(&c.Source, "source", c.Source, "where objects come from: files or kubernetes")
	flags.StringVar(&c.Kubeconfig, "kubeconfig", c.Kubeconfig, "file that says where the cluster is and who we are (default: the cluster that the agent runs in)")
	flags.StringVar(&c.Node, "node", c.Node, "name of this node, as in spec.nodeName")
	flags.StringVar(&c.Namespace, "namespace", c.Namespace, "namespace of the agent and of ztunnel")
	flags.StringVar(&c.DaemonSet, "daemonset", c.DaemonSet, "name of the DaemonSet that runs the agent: when it's deleted, the agent takes away what it has installed")
	flags.StringVar(&c.Excluded, "exclude-namespaces", c.Excluded, "namespaces that never are in the mesh, with commas between them")
	flags.StringVar(&c.Proc, "proc", c.Proc, "folder where the node's processes are")
	flags.StringVar(&c.NodeNetns, "node-netns", c.NodeNetns, "network namespace of the node, which the kubelet probes pods from (default: that of process 1 in --proc with --source kubernetes, the agent's own with files)")
	flags.StringVar(&c.ConfDir, "cni-conf-dir", c.ConfDir, "the container runtime's folder of network configurations, where the CNI plugin is added; nothing is installed without it")
	flags.StringVar(&c.BinDir, "cni-bin-dir", c.BinDir, "the container runtime's folder of CNI plugins")
	flags.StringVar(&c.Plugin, "cni-plugin", c.Plugin, "the CNI plugin, which is copied to that folder")
	flags.StringVar(&c.Status, "status", c.Status, "folder of the status file (default: status beside DIR)")
	flags.StringVar(&c.ZDSSocket, "zds-socket", c.ZDSSocket, "socket for ztunnel")
	flags.StringVar(&c.PluginSocket, "plugin-socket", c.PluginSocket, "socket for the CNI plugin")
	flags.StringVar(&c.HealthAddr, "health-addr", c.HealthAddr, "address of health, metrics and debug pages")
	flags.StringVar(&c.MetricsAddr, "metrics-addr", c.MetricsAddr, "address of metrics alone (default :15014 with --source kubernetes, nowhere with files)")
	flags.DurationVar(&c.WithdrawGrace, "withdraw-grace", c.WithdrawGrace, "how long peers have to notice that a pod leaves the mesh")
	flags.DurationVar(&c.DrainTimeout, "drain-timeout", c.DrainTimeout, "how long captured connections may live on in a pod that leaves the mesh")
	flags.StringVar(&c.Engine, "engine", c.Engine, "how pods are captured: ebpf, nft, iptables-nft, iptables-legacy, or auto for the best that works")
	flags.StringVar(&c.Pins, "bpf-dir", c.Pins, "folder for what the ebpf engine has in pods; a bpffs is mounted there unless it is one. Agents must not share it")
	flags.BoolVar(&c.DNSCapture, "dns-capture", c.DNSCapture, "send pods' DNS questions to ztunnel, which needs ISTIO_META_DNS_CAPTURE=true")
	flags.StringVar(&c.LogLevel, "log-level", c.LogLevel, "log levels, such as info,zds=debug")
	flags.StringVar(&c.LogFormat, "log-format", c.LogFormat, "plain or json")
	flags.BoolVar(&c.Version, "version", false, "say which version this is, and end")
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return Config{}, err
		}
		if c.Version {
			return Config{Version: true}, nil
		}
		if flags.NArg() == 0 {
			break
		}
		if c.Dir != "" {
			return Config{}, fmt.Errorf("two folders, %s and %s: want one", c.Dir, flags.Arg(0))
		}
		c.Dir, args = flags.Arg(0), flags.Args()[1:]
	}
	return c.complete()
}

// complete fills in what depends on other settings and refuses what can't work.
func (c Config) complete() (Config, error) {
	switch {
	case c.Source != Files && c.Source != Kubernetes:
		return Config{}, fmt.Errorf("unknown source %q: want files or kubernetes", c.Source)
	case c.Source == Files && c.Dir == "":
		return Config{}, errors.New("which folder? want: --source files DIR")
	case c.Source == Kubernetes && c.Dir != "":
		return Config{}, fmt.Errorf("a folder, %s, is for --source files only", c.Dir)
	case c.Source == Files && c.Kubeconfig != "":
		return Config{}, errors.New("--kubeconfig is for --source kubernetes only")
	case c.Node == "" || strings.ContainsAny(c.Node, "/\x00") || c.Node == "." || c.Node == "..":
		return Config{}, fmt.Errorf("node name %q: want --node NAME, as in spec.nodeName", c.Node)
	case c.WithdrawGrace < 0 || c.DrainTimeout < 0:
		return Config{}, errors.New("durations can't be negative")
	case c.LogFormat != "plain" && c.LogFormat != "json":
		return Config{}, fmt.Errorf("unknown log format %q: want plain or json", c.LogFormat)
	}
	if c.Source == Kubernetes && c.NodeNetns == "" {
		c.NodeNetns = filepath.Join(c.Proc, "1/ns/net")
	}
	if c.Source == Kubernetes && c.MetricsAddr == "" {
		c.MetricsAddr = ":15014"
	}
	if c.Source == Files && c.Status == "" {
		c.Status = filepath.Join(filepath.Dir(filepath.Clean(c.Dir)), "status")
	}
	return c, nil
}
