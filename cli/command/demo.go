package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/cli/story"
)

// newDemo builds the verb; argv is the whole command line as typed.
func newDemo(argv []string) *cobra.Command {
	this := &story.Invocation{Program: argv[0]}
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the mesh at work on two simulated nodes with real programs and real traffic",
		Long: `Build two simulated nodes and four pods out of network namespaces, run the mesh's real programs on them, and show in
six steps, with the evidence, what the mesh does. Nothing outside of those namespaces is touched. Needs root.`,
		Args: cobra.NoArgs,
		PersistentPreRunE: func(*cobra.Command, []string) (err error) {
			this.Dir, err = filepath.Abs(this.Dir)
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd, *this, keep) },
	}
	cmd.PersistentFlags().StringVar(&this.Dir, "dir", story.DefaultDir, "the demo's folder; it must not exist yet")
	cmd.Flags().BoolVar(&keep, "keep", false, "leave everything up at the end, to play with")
	cmd.AddCommand(newDemoExec(this, slices.Contains(argv, "--")), newDemoDown(this), newDemoStatus(this), newDemoEnter())
	return cmd
}

func runDemo(cmd *cobra.Command, this story.Invocation, keep bool) error {
	if err := needRoot("make network namespaces", this.Line("")); err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the programs: %w", err)
	}
	err = story.Tell(cmd.Context(), story.Config{
		Out: cmd.OutOrStdout(), Invocation: this, Programs: demo.Beside(executable), Keep: keep,
	})
	if errors.Is(err, demo.ErrUp) {
		return fmt.Errorf("a demo is up already in %s; see it with: %s, remove it with: %s", this.Dir, this.Line("status"), this.Line("down"))
	}
	return err
}

// needRoot says what to type where root is missing.
func needRoot(what, line string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fmt.Errorf("needs root to %s: sudo %s", what, line)
}

// find returns the demo that is up, or says how to start one.
func find(this *story.Invocation) (*demo.Cluster, error) {
	cluster, err := demo.Find(this.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no demo is up in %s; start one with: %s", this.Dir, this.Line("--keep"))
	}
	return cluster, err
}

// newDemoExec takes flags behind the pod's name only where -- ends them: else they are the command's own.
func newDemoExec(this *story.Invocation, dashes bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec POD [--] COMMAND",
		Short: "Run a command in a pod of the demo, or on one of its nodes",
		Example: `  tulle demo exec frontend -- curl -s http://backend:8080/
  tulle demo exec node1 -- curl -s http://localhost:15000/config_dump`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			cluster, err := find(this)
			if err != nil {
				return err
			}
			if err := needRoot("enter network namespaces", this.Line("exec", args...)); err != nil {
				return err
			}
			run, err := cluster.Command(args[0], args[1:])
			if err != nil {
				return err
			}
			run.Stdin, run.Stdout, run.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return run.Run()
		},
	}
	cmd.Flags().SetInterspersed(dashes)
	return cmd
}

func newDemoDown(this *story.Invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove a demo that was kept, or what a crashed one left behind",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("remove network namespaces", this.Line("down")); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			found, err := demo.CleanUp(ctx, this.Dir)
			switch {
			case errors.Is(err, demo.ErrUp):
				return fmt.Errorf("a demo is running in %s; end it with Ctrl-C where it runs", this.Dir)
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

func newDemoStatus(this *story.Invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the demo that is up: its nodes, pods, programs and folders",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := find(this)
			if err != nil {
				return err
			}
			return story.Status(cmd.OutOrStdout(), cluster, *this)
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
