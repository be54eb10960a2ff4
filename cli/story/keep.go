package story

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// keep brings the application back into the mesh, leaves the cluster up, and says what can be done with it. It is left up
// also when something of it doesn't work: then most of all somebody wants to look.
func keep(ctx context.Context, cluster *demo.Cluster, cfg Config) error {
	joined := rejoin(ctx, cluster)
	return errors.Join(joined, Status(cfg.Out, cluster, cfg.Invocation), cluster.Keep())
}

func rejoin(ctx context.Context, cluster *demo.Cluster) error {
	for _, namespace := range []string{shopNamespace, guestNamespace} {
		if err := cluster.LabelNamespace(namespace, demo.Label, demo.Ambient); err != nil {
			return err
		}
	}
	return cluster.AwaitMeshed(ctx, true, frontend, "backend-v1", "backend-v2", visitor)
}

// Status prints what is up and how to play with it.
func Status(out io.Writer, cluster *demo.Cluster, this Invocation) error {
	spec := cluster.Spec()
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nPOD\tNAMESPACE\tACCOUNT\tNODE\tADDRESSES\n")
	for _, pod := range spec.Pods {
		addrs := cluster.PodAddrs(pod.Name)
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s, %s\n", pod.Name, pod.Namespace, pod.Account, pod.Node, addrs[0], addrs[1])
	}
	fmt.Fprintf(table, "\nPROGRAM\tPROCESS\tSTATE\tLOG\n")
	for _, p := range cluster.Processes() {
		state := "ended"
		if p.Alive() {
			state = "runs"
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", p.Name, p.Pid, state, cluster.LogFile(p.Name))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, `
The mesh folder, whose YAML is followed live: %s
  a namespace joins or leaves the mesh by its label %s; policies are files beside it

`, cluster.MeshDir(), demo.Label)
	for _, command := range []string{
		"frontend -- curl -s http://backend:8080/", "visitor -- curl -s http://backend.shop:8080/",
		"node1 -- curl -s http://localhost:15000/config_dump", "node2 -- curl -s http://localhost:15020/metrics",
		"fabric -- curl -s http://localhost:15014/ready",
	} {
		fmt.Fprintln(out, " ", this.Line("exec", command))
	}
	_, err := fmt.Fprintln(out, " ", this.Line("down"))
	return err
}

// Invocation is how the demo was started, for hints that can be typed as they stand.
type Invocation struct {
	Program string // as typed
	Dir     string
}

// Line is the command line of a verb of this demo; the empty verb is the demo itself.
func (i Invocation) Line(verb string, rest ...string) string {
	words := []string{i.Program, "demo"}
	if verb != "" {
		words = append(words, verb)
	}
	if i.Dir != DefaultDir {
		words = append(words, "--dir", i.Dir)
	}
	return strings.Join(append(words, rest...), " ")
}
