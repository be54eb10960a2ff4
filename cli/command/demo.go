package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/cli/story"
)

func newDemo() *cobra.Command {
	var dir string
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the mesh at work on two simulated nodes with real programs and real traffic",
		Long: `Build two simulated nodes and four pods out of network namespaces, run the mesh's real programs on them, and show in
six steps, with the evidence, what the mesh does. Nothing outside of those namespaces is touched. Needs root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd, dir, keep) },
	}
	cmd.PersistentFlags().StringVar(&dir, "dir", story.DefaultDir, "the demo's folder; it must not exist yet")
	cmd.Flags().BoolVar(&keep, "keep", false, "leave everything up at the end, to play with")
	cmd.AddCommand(newDemoExec(&dir), newDemoDown(&dir), newDemoStatus(&dir), newDemoEnter())
	return cmd
}

func runDemo(cmd *cobra.Command, dir string, keep bool) error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the programs: %w", err)
	}
	err = story.Tell(cmd.Context(), story.Config{
		Out: cmd.OutOrStdout(), Dir: dir, Programs: demo.Beside(executable), Keep: keep,
	})
	if errors.Is(err, demo.ErrUp) {
		return fmt.Errorf("a demo is up already in %s; see it with: tulle demo status, remove it with: tulle demo down", dir)
	}
	return err
}

// find returns the demo that is up, or says how to start one.
func find(dir string) (*demo.Cluster, error) {
	cluster, err := demo.Find(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no demo is up in %s; start one with: tulle demo --keep", dir)
	}
	return cluster, err
}

func newDemoExec(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "exec POD -- COMMAND",
		Short: "Run a command in a pod of the demo, or on one of its nodes",
		Example: `  tulle demo exec frontend -- curl -s http://backend:8080/
  tulle demo exec node1 -- curl -s http://localhost:15000/config_dump`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			cluster, err := find(*dir)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("needs root to enter network namespaces: sudo tulle demo exec")
			}
			run, err := cluster.Command(args[0], args[1:])
			if err != nil {
				return err
			}
			run.Stdin, run.Stdout, run.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return run.Run()
		},
	}
}

func newDemoDown(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove a demo that was kept, or what a crashed one left behind",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("needs root to remove network namespaces: sudo tulle demo down")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			found, err := demo.CleanUp(ctx, *dir)
			switch {
			case errors.Is(err, demo.ErrUp):
				return fmt.Errorf("a demo is running in %s; end it with Ctrl-C where it runs", *dir)
			case err != nil:
				return err
			case !found:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "nothing to remove")
			default:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "removed the demo")
			}
			return err
		},
	}
}

func newDemoStatus(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the demo that is up: its nodes, pods, programs and folders",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := find(*dir)
			if err != nil {
				return err
			}
			return story.Status(cmd.OutOrStdout(), cluster)
		},
	}
}

// newDemoEnter is how the programs of simulated pods start; see demo.Enter.
func newDemoEnter() *cobra.Command {
	return &cobra.Command{
		Use:    "enter HOSTS -- COMMAND",
		Short:  "Become a command that sees another hosts file",
		Hidden: true,
		Args:   cobra.MinimumNArgs(2),
		RunE:   func(_ *cobra.Command, args []string) error { return demo.Enter(args[0], args[1:]) },
	}
}
