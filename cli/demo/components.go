package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Names and places of the control plane, which the fabric's namespace stands for.
const (
	Istiod           = "istiod-lite"
	ControlPlaneName = "istiod.istio-system.svc"
	xdsPort          = 15012
	debugPort        = 15014
	// ZtunnelAccount is the account of every node's token, which may ask for its pods' certificates.
	ZtunnelAccount = "istio-system/ztunnel"
)

// Agent is the process name of a node's agent.
func Agent(node string) string { return "agent-" + node }

// Ztunnel is the process name of a node's ztunnel.
func Ztunnel(node string) string { return "ztunnel-" + node }

// LogFile is where a process writes.
func (c *Cluster) LogFile(process string) string { return filepath.Join(c.logDir(), process+".log") }

// RootFile holds the certificate that signs every identity of the cluster; ControlPlane is where it's signed.
func (c *Cluster) RootFile() string { return c.path("ca/root-cert.pem") }

// ControlPlane is istiod-lite's address for xDS and certificates.
func (c *Cluster) ControlPlane() netip.AddrPort { return netip.AddrPortFrom(FabricAddrs()[0], xdsPort) }

// TokenFile holds the token of a node.
func (c *Cluster) TokenFile(node string) string { return c.path("tokens/" + node) }

// startAll starts the control plane, then the nodes, then the pods, and waits for all of them.
func (c *Cluster) startAll(ctx context.Context) error {
	if !c.spec.Bare {
		c.spec.Say("starting istiod-lite, and an agent and a ztunnel on each node")
		if err := c.StartIstiod(ctx); err != nil {
			return err
		}
		for _, node := range c.spec.Nodes {
			if err := errors.Join(c.LaunchZtunnel(node), c.startAgent(node)); err != nil {
				return err
			}
		}
	}
	for _, node := range c.spec.Nodes {
		if err := c.StartPods(node); err != nil {
			return err
		}
	}
	if c.spec.Bare {
		return nil
	}
	for _, node := range c.spec.Nodes {
		if err := c.awaitAgent(ctx, node); err != nil {
			return err
		}
		if err := c.AwaitZtunnel(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// StartIstiod starts the control plane and waits until it has read the mesh folder.
func (c *Cluster) StartIstiod(ctx context.Context) error {
	addr := FabricAddrs()[0].String()
	_, err := c.run(launch{name: Istiod, netns: c.nets[fabric], args: []string{
		c.spec.Programs.Istiod, "--source", "files", c.MeshDir(),
		"--state", c.path("ca"), "--status", c.path("status"), "--token-key", c.path("token-key.pub"),
		"--tls-address", fmt.Sprintf(":%d", xdsPort), "--debug-address", fmt.Sprintf(":%d", debugPort),
	}})
	if err != nil {
		return err
	}
	return c.awaitURL(ctx, Istiod, fabric, fmt.Sprintf("http://%s:%d/ready", addr, debugPort))
}

// LaunchZtunnel starts a node's ztunnel and waits for nothing.
func (c *Cluster) LaunchZtunnel(node string) error {
	_, err := c.launchZtunnel(node, node)
	return err
}

func (c *Cluster) launchZtunnel(node, place string) (*Process, error) {
	control := c.ControlPlane().String()
	return c.run(launch{name: Ztunnel(node), netns: c.nets[place], args: []string{c.spec.Programs.Ztunnel, "proxy"}, env: append([]string{
		"XDS_ADDRESS=https://" + control, "CA_ADDRESS=https://" + control,
		"XDS_ROOT_CA=" + c.RootFile(), "CA_ROOT_CA=" + c.RootFile(),
		"ALT_XDS_HOSTNAME=" + ControlPlaneName, "ALT_CA_HOSTNAME=" + ControlPlaneName,
		"AUTH_TOKEN=" + c.TokenFile(node), "NODE_NAME=" + node, "CLUSTER_ID=Kubernetes",
		"INPOD_UDS=" + c.zdsSocket(node), "LOG_FORMAT=plain", "GORACE=halt_on_error=0",
		fmt.Sprintf("ISTIO_META_DNS_CAPTURE=%t", c.spec.DNS),
	}, c.spec.Env...)})
}

// StartZtunnel starts a node's ztunnel and waits until it serves all enrolled pods of its node.
func (c *Cluster) StartZtunnel(ctx context.Context, node string) error {
	if err := c.LaunchZtunnel(node); err != nil {
		return err
	}
	return c.AwaitZtunnel(ctx, node)
}

// AwaitZtunnel waits until a node's ztunnel says that it is ready.
func (c *Cluster) AwaitZtunnel(ctx context.Context, node string) error {
	return c.awaitURL(ctx, Ztunnel(node), node, "http://127.0.0.1:15021/healthz/ready")
}

func (c *Cluster) startAgent(node string) error {
	_, err := c.run(launch{name: Agent(node), netns: c.nets[node], args: []string{
		c.spec.Programs.Agent, "--source", "files", c.MeshDir(), "--node", node, "--status", c.path("status"),
		"--zds-socket", c.zdsSocket(node), "--plugin-socket", c.path("run/" + node + "-plugin.sock"), fmt.Sprintf("--dns-capture=%t", c.spec.DNS),
		"--engine", cmp.Or(c.spec.Engine, "auto"), "--bpf-dir", c.spec.pins(node),
	}})
	return err
}

// StartAgent starts a node's agent and waits until it is ready.
func (c *Cluster) StartAgent(ctx context.Context, node string) error {
	if err := c.startAgent(node); err != nil {
		return err
	}
	return c.awaitAgent(ctx, node)
}

func (c *Cluster) awaitAgent(ctx context.Context, node string) error {
	return c.awaitURL(ctx, Agent(node), node, "http://127.0.0.1:8000/readyz")
}

func (c *Cluster) zdsSocket(node string) string { return c.path("run/" + node + ".sock") }

// startPod runs a pod's program, with the cluster's names in its hosts file.
func (c *Cluster) startPod(pod Pod) error {
	hosts := c.path("hosts/" + pod.Namespace)
	_, err := c.run(launch{
		name: pod.Name, netns: c.nets[pod.Name], fresh: true, env: []string{"HOSTNAME=" + pod.Name},
		args: slices.Concat([]string{c.spec.Programs.Tulle, "demo", "enter", hosts, "--"}, pod.Command),
	})
	return err
}

// awaitURL waits until a process answers 200, and gives up at once when it has died.
func (c *Cluster) awaitURL(ctx context.Context, process, place, url string) error {
	err := AwaitWithin(ctx, 30*time.Second, process+" to be ready", func(ctx context.Context) error {
		if _, err := c.Process(process); err != nil {
			return hopeless{err}
		}
		_, err := c.Get(ctx, place, url)
		return err
	})
	if err != nil {
		return fmt.Errorf("%w; the end of its log %s:\n%s", err, c.LogFile(process), c.tail(process, 10))
	}
	return nil
}

// tail is the end of a process's log.
func (c *Cluster) tail(process string, lines int) string {
	data, err := os.ReadFile(c.LogFile(process))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// LogLines returns the lines of a process's log that contain all of the given words.
func (c *Cluster) LogLines(process string, words ...string) ([]string, error) {
	data, err := os.ReadFile(c.LogFile(process))
	if err != nil {
		return nil, fmt.Errorf("read the log of %s: %w", process, err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			out = append(out, strings.TrimRight(line, "\n"))
		}
	}
	return out, nil
}

// client makes HTTP requests from inside a namespace. Each request has a connection of its own.
func (c *Cluster) client(place string) (*http.Client, error) {
	netns, err := c.Netns(place)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				to, err := netip.ParseAddrPort(addr)
				if err != nil {
					return nil, fmt.Errorf("address %s: %w", addr, err)
				}
				return netns.Dial(ctx, to, socket.DialConfig{})
			},
		},
		Timeout: 10 * time.Second,
	}, nil
}
