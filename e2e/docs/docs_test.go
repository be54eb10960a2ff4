// Package docs does what the user's pages say, command by command, on a real Kubernetes of two nodes: see e2e/cluster.
package docs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

const root = "../.."

// pages are read in this order, as somebody does who tries the quick start, takes it away, and then installs a mesh to live with.
var pages = []string{
	"README.md", "docs/uninstall.md",
	"docs/install.md", "docs/enrol.md", "docs/policies.md", "docs/observability.md", "docs/upgrade.md", "docs/troubleshooting.md", "docs/uninstall.md",
}

// patience is for all commands of a page: images have to be made.
const patience = 10 * time.Minute

func TestEveryCommandOfThePagesDoesWhatItSays(t *testing.T) {
	if testing.Short() {
		t.Skip("a cluster takes root, and minutes for the first time")
	}
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("what the pages install and remove is for a cluster of the test's own")
	}
	r := newReader(t)
	for _, page := range pages {
		ok := t.Run(page, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(root, page))
			if err != nil {
				t.Fatal(err)
			}
			for _, commands := range blocks(string(text)) {
				r.run(t, commands)
			}
			if page == "docs/uninstall.md" {
				r.nothingIsLeft(t)
			}
		})
		if !ok {
			t.FailNow() // the next page begins where this one should have ended
		}
	}
}

// reader is somebody with a cluster, kubectl and Helm.
type reader struct {
	*cluster.Cluster
	path   string // with Helm
	before [2]string
}

func newReader(t *testing.T) *reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute) // when Kubernetes has to be built
	defer cancel()
	say := func(line string) { fmt.Println("  " + line) }
	helm, err := cluster.Tool(ctx, "helm", say)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Up(ctx, cluster.Config{Number: 2, Nodes: 2, Logs: logs, Say: say})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			if err := c.Collect(logs); err != nil {
				t.Error(err)
			}
			t.Log("what is known of the cluster is in", logs)
		}
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	})
	r := &reader{Cluster: c, path: helm}
	for node := range r.before {
		r.before[node] = r.found(t, node+1)
	}
	return r
}

const logs = root + "/bin/logs/docs"

// run does what a block of commands says, one after the other, where the reader is: in the project's folder.
func (r *reader) run(t *testing.T, commands string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := r.Command(ctx, "bash", "-euxo", "pipefail", "-c", commands)
	cmd.Dir = root
	cmd.Env = append(cmd.Env, "PATH="+r.path+":"+value(cmd.Env, "PATH"), "ARCHITECTURES="+runtime.GOARCH)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := r.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	t.Logf("%s\n%s", time.Since(began).Round(time.Second/10), out.String()[max(0, out.Len()-4000):])
	if err != nil {
		t.Fatalf("%v:\n%s", err, commands)
	}
	if strings.Contains(commands, "make images") { // by the means of one's own cluster, which pages list
		archives, err := filepath.Glob(filepath.Join(root, "bin/images/*.tar"))
		if err != nil || len(archives) == 0 {
			t.Fatalf("%q %v", archives, err)
		}
		if err := r.Load(ctx, archives...); err != nil {
			t.Fatal(err)
		}
	}
}

// value is that of a variable.
func value(env []string, name string) (found string) {
	for _, variable := range env {
		if text, ok := strings.CutPrefix(variable, name+"="); ok {
			found = text // the last one counts
		}
	}
	return found
}

var fence = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// blocks are the commands of a page, as they are fenced.
func blocks(page string) (all []string) {
	for _, found := range fence.FindAllStringSubmatch(page, -1) {
		all = append(all, found[1])
	}
	return all
}

// traces are all that a mesh could leave on a node, and what of the pods' sysctls it changes.
const traces = `
nft list tables | grep -v kube-proxy || true
ls -A /sys/fs/bpf
ls -A /etc/cni/net.d /opt/cni/bin
tr -d '[:space:]' </etc/cni/net.d/10-pods.conflist | sed 's/"cniVersion":"1.0.0",\?//; s/"name":"pods",\?//'; echo
find /run/istio-cni /run/ztunnel ! -type d 2>/dev/null || true
ip rule | grep -v 'lookup \(local\|main\|default\)' || true
sysctl net.ipv4.conf.all.route_localnet net.ipv4.conf.all.rp_filter
`

func (r *reader) found(t *testing.T, node int) string {
	t.Helper()
	cmd, err := r.OnNode(t.Context(), node, "sh", "-c", traces)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// nothingIsLeft compares the nodes, and the networks of their pods, with what they were. The pods of the quick start talk on.
func (r *reader) nothingIsLeft(t *testing.T) {
	t.Helper()
	page, err := r.Kubectl(t.Context(), "", "get", "--raw", "/api/v1/namespaces/bookinfo/services/productpage:9080/proxy/productpage")
	if err != nil || !strings.Contains(page, "Reviewer1") {
		t.Errorf("without a mesh the page is %s (%v)", page, err)
	}
	for node, before := range r.before {
		if after := r.found(t, node+1); after != before {
			t.Errorf("node %d had\n%s\nbefore, and afterwards\n%s", node+1, before, after)
		}
		cmd, err := r.OnNode(t.Context(), node+1, "sh", "-c", inPods)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("in pods of node %d is left (%v):\n%s", node+1, err, out)
		}
	}
}

// inPods prints the rules and sockets of a mesh in each pod's network.
const inPods = `
for netns in /run/netns/*; do
	nsenter --net=$netns sh -c 'nft list ruleset; ip rule | grep -v "lookup \(local\|main\|default\)"; ss -tlnH | grep -E ":(15001|15006|15008|15053) "; sysctl -n net.ipv4.conf.lo.route_localnet net.ipv4.conf.all.route_localnet | grep -v ^0' | sed "s|^|$netns: |"
done
exit 0
`

// The quick start is to be tried before one's coffee is cold.
func TestTheQuickStartIsShort(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, block := range blocks(string(text)) {
		commands = append(commands, strings.Split(strings.TrimSpace(block), "\n")...)
	}
	if len(commands) < 3 || len(commands) > 8 {
		t.Errorf("%d commands, want 3 to 8: %q", len(commands), commands)
	}
}
