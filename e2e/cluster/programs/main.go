// Command programs is every program of a Kubernetes cluster in one binary: etcd, the API server, the controller manager, the
// scheduler, kubelet, kube-proxy, kubectl and CoreDNS. The name that it is called by says which one it is.
//
// One binary of nine programs takes as long to compile as any of the larger ones alone, and its processes share their text
// in memory. The module stands outside of the workspace, so that none of this enters the product's dependencies.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// programs by name. Each returns its exit code.
var programs = map[string]func() int{
	"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
	"kube-apiserver":          func() int { return component(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return component(controllers.NewControllerManagerCommand()) },
	"kube-scheduler":          func() int { return component(scheduler.NewSchedulerCommand()) },
	"kube-proxy":              func() int { return component(proxy.NewProxyCommand()) },
	"kubelet":                 func() int { return component(kubelet.NewKubeletCommand(context.Background())) },
	"kubectl":                 command,
	"coredns":                 names,
}

func main() {
	name := filepath.Base(os.Args[0])
	program, known := programs[name]
	if !known {
		fmt.Fprintf(os.Stderr, "%q is none of the programs in this binary: call it by the name of one of them, such as through a link (%q)\n",
			name, slices.Sorted(maps.Keys(programs)))
		os.Exit(2)
	}
	os.Exit(program())
}

func component(c *cobra.Command) int { return cli.Run(c) }

func command() int {
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// names is CoreDNS with the plugins that are compiled in, in the order in which they are asked.
func names() int {
	dnsserver.Directives = []string{"reload", "log", "errors", "health", "ready", "prometheus", "cache", "loop", "hosts", "kubernetes", "forward"}
	coremain.Run()
	return 0
}
