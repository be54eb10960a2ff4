// Package plugin is what the container runtime executes for every pod, and both ends of the socket to the node agent.
//
// The plugin changes nothing by itself: it passes the result of the plugins before it through, and asks the agent, which
// enrols pods that belong in the mesh. A pod whose agent can't say so isn't started.
package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	defaultRunDir = "/var/run/istio-cni"
	socketName    = "pluginevent.sock"
	oldestVersion = "0.3.1" // chained plugins came with 0.3
)

// Main runs the verb which the runtime asks for in the environment; without one it says what it is, and its version.
func Main(build string) {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add: recovered("ADD", add), Check: recovered("CHECK", check), Del: recovered("DEL", del),
		Status: recovered("STATUS", status), GC: recovered("GC", gc),
	}, version.VersionsStartingFrom(oldestVersion), "tulle-cni "+build+": takes pods into the mesh")
}

// recovered makes a panic the plugin's own error; the runtime would take it for one of its own.
func recovered(verb string, f func(*skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%s: panic: %v", verb, p)
			}
		}()
		return f(args)
	}
}

// netConf is the plugin's part of the network configuration, with the names of Istio's plugin.
type netConf struct {
	types.PluginConf
	// RunDir has the agent's socket; empty means /var/run/istio-cni.
	RunDir string `json:"cni_agent_run_dir"`
	// ExcludeNamespaces start without asking the agent; none means kube-system.
	ExcludeNamespaces []string `json:"exclude_namespaces"`
	// OwnNamespace is the agent's. Pods of the agent and of ztunnel start there without asking, for they would wait for
	// themselves; empty means that there are none.
	OwnNamespace string `json:"pod_namespace"`
}

// ownPods are the beginnings of the names of our DaemonSets' pods, which are those of Istio's.
var ownPods = []string{"istio-cni-node-", "ztunnel-"}

// passes tells that a pod may start whatever the agent thinks of it.
func (c netConf) passes(r Request) bool {
	if slices.Contains(c.ExcludeNamespaces, r.PodNamespace) {
		return true
	}
	return r.PodNamespace == c.OwnNamespace && slices.ContainsFunc(ownPods, func(prefix string) bool { return strings.HasPrefix(r.PodName, prefix) })
}

func (c netConf) socket() string { return filepath.Join(c.RunDir, socketName) }

func parse(stdin []byte) (netConf, error) {
	conf := netConf{RunDir: defaultRunDir, ExcludeNamespaces: []string{"kube-system"}}
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return conf, types.NewError(types.ErrDecodingFailure, "network configuration: "+err.Error(), "")
	}
	if err := version.ParsePrevResult(&conf.PluginConf); err != nil {
		return conf, types.NewError(types.ErrDecodingFailure, "result of the previous plugin: "+err.Error(), "")
	}
	return conf, nil
}

// kubernetes is what the runtime says about the pod in CNI_ARGS.
type kubernetes struct {
	types.CommonArgs
	K8S_POD_NAME      types.UnmarshallableString //nolint:revive // the runtime's spelling
	K8S_POD_NAMESPACE types.UnmarshallableString //nolint:revive // the runtime's spelling
	K8S_POD_UID       types.UnmarshallableString //nolint:revive // the runtime's spelling
}

// pod returns what to tell the agent; ok is false for containers that aren't pods, and for pods that pass.
func (c netConf) pod(args *skel.CmdArgs) (request Request, ok bool, err error) {
	k := kubernetes{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args.Args, &k); err != nil {
		return Request{}, false, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: "+err.Error(), "")
	}
	request = Request{
		Netns: args.Netns, PodName: string(k.K8S_POD_NAME), PodNamespace: string(k.K8S_POD_NAMESPACE), PodUID: string(k.K8S_POD_UID),
	}
	if request.PodName == "" || request.PodNamespace == "" || c.passes(request) {
		return Request{}, false, nil
	}
	return request, true, nil
}

func add(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	result := conf.PrevResult
	if result == nil {
		result = &current.Result{CNIVersion: current.ImplementedSpecVersion}
	}
	request, ok, err := conf.pod(args)
	if err != nil {
		return err
	}
	if ok {
		if request.IPs, err = addresses(result); err != nil {
			return err
		}
		if _, err := newClient(conf.socket()).add(context.Background(), request); err != nil {
			return fmt.Errorf("take pod %s/%s into the mesh: %w", request.PodNamespace, request.PodName, err)
		}
	}
	return types.PrintResult(result, conf.CNIVersion)
}

func addresses(result types.Result) ([]IP, error) {
	latest, err := current.NewResultFromResult(result)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "result of the previous plugin: "+err.Error(), "")
	}
	var ips []IP
	for _, ip := range latest.IPs {
		ips = append(ips, IP{Interface: ip.Interface, Address: Address(ip.Address), Gateway: ip.Gateway})
	}
	return ips, nil
}

func check(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	request, ok, err := conf.pod(args)
	if err != nil || !ok {
		return err
	}
	if err := newClient(conf.socket()).check(context.Background(), request); err != nil {
		return fmt.Errorf("check pod %s/%s: %w", request.PodNamespace, request.PodName, err)
	}
	return nil
}

// del never fails: what the pod had ends with its namespace, and the agent notices by itself, only later.
func del(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return nil
	}
	if request, ok, err := conf.pod(args); err == nil && ok {
		_ = newClient(conf.socket()).del(context.Background(), request)
	}
	return nil
}

// gc has nothing to collect: what a pod has is in its network namespace, and the agent goes by pods, not by attachments.
func gc(args *skel.CmdArgs) error {
	_, err := parse(args.StdinData)
	return err
}

func status(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if err := newClient(conf.socket()).status(context.Background()); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "no pod of the mesh can start: "+err.Error(), "")
	}
	return nil
}

// Request tells the agent of a pod, in the words of Istio's plugin.
type Request struct {
	Netns        string // path
	PodName      string
	PodNamespace string
	PodUID       string `json:",omitempty"`
	IPs          []IP
}

// mostIPs bounds the addresses of a pod that count: Kubernetes gives it two.
const mostIPs = 16

// Addrs are the pod's addresses.
func (r Request) Addrs() (addrs []netip.Addr) {
	for _, ip := range r.IPs[:min(len(r.IPs), mostIPs)] {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// IP is one of the pod's addresses.
type IP struct {
	Interface *int // index in the result's list
	Address   Address
	Gateway   net.IP
}

// Address is written as its two fields, not as text.
type Address net.IPNet

// Reply is the agent's answer.
type Reply struct {
	Enrolled bool `json:"enrolled"` // false: the pod isn't part of the mesh and may start
}
