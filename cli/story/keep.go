package story

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// keep brings the application back into the mesh, leaves the cluster up, and says what can be done with it.
func keep(ctx context.Context, cluster *demo.Cluster, out io.Writer) error {
	for _, namespace := range []string{shopNamespace, guestNamespace} {
		if err := cluster.LabelNamespace(namespace, demo.Label, demo.Ambient); err != nil {
			return err
		}
	}
	if err := cluster.AwaitMeshed(ctx, true, frontend, "backend-v1", "backend-v2", visitor); err != nil {
		return err
	}
	if err := Status(out, cluster); err != nil {
		return err
	}
	return cluster.Keep()
}

// Status prints what is up and how to play with it.
func Status(out io.Writer, cluster *demo.Cluster) error {
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
	_, err := fmt.Fprintf(out, `
The mesh folder, whose YAML is followed live: %s
  a namespace joins or leaves the mesh by its label %s; policies are files beside it

  tulle demo exec frontend -- curl -s http://backend:8080/
  tulle demo exec visitor -- curl -s http://backend.shop:8080/
  tulle demo exec node1 -- curl -s http://localhost:15000/config_dump
  tulle demo exec node2 -- curl -s http://localhost:15020/metrics
  tulle demo exec fabric -- curl -s http://localhost:15014/ready
  tulle demo down
`, cluster.MeshDir(), demo.Label)
	return err
}
