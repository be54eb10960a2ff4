package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster/cgroup"
)

// Command prepares a program to run in the fabric, with the machine's files and the cluster's kubeconfig. It is to be started by Do.
func (c *Cluster) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if !c.given {
		cmd.Env = append(os.Environ(), "KUBECONFIG="+c.spec.Key("admin.conf"), "PATH="+c.spec.Programs+":"+os.Getenv("PATH"))
	}
	cmd.WaitDelay = time.Second
	return cmd
}

// Do runs f, which may start programs or open sockets, in the fabric.
func (c *Cluster) Do(f func() error) error {
	if c.given {
		return f()
	}
	return c.fabric.Do(f)
}

// Kubectl runs kubectl with the input, and returns what it prints.
func (c *Cluster) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	kubectl := "kubectl"
	if !c.given {
		kubectl = filepath.Join(c.spec.Programs, kubectl)
	}
	cmd := c.Command(ctx, append([]string{kubectl}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := c.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s%s", strings.Join(args, " "), err, out.String(), complaint.String())
	}
	return out.String(), nil
}

// ProgramsGroup is the control group of a node's own programs, below the node's.
const ProgramsGroup = "programs"

// OnNode prepares a program to run as one of a node's own does.
func (c *Cluster) OnNode(ctx context.Context, node int, argv ...string) (*exec.Cmd, error) {
	pids, err := cgroup.Processes(c.spec.NodeGroup(node) + "/" + ProgramsGroup)
	if err != nil {
		return nil, err
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("node %s doesn't run", c.spec.NodeName(node))
	}
	enter := []string{"--target", fmt.Sprint(pids[0]), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, argv...)...)
	cmd.Env = append(os.Environ(), "PATH="+c.spec.Programs+":/usr/sbin:/usr/bin:/sbin:/bin")
	return cmd, nil
}
