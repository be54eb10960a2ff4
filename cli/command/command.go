// Package command is the tulle command line: one file per verb.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs the command line and returns its exit code: 0 when it did what was asked, 1 when it didn't, and for a
// program that it ran (tulle demo exec) that program's own. version is what was built, or empty; argv begins with the
// program's name as it was typed, which hints repeat.
func Main(version string, argv []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	root := newRoot(version, argv)
	root.SetArgs(argv[1:])
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var ran *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ran):
		return max(ran.ExitCode(), 1) // It said itself what was wrong; -1 is a signal.
	default:
		fmt.Fprintln(stderr, "error:", err)
		return 1
	}
}

func newRoot(version string, argv []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "tulle",
		Short:         "Tulle is an ambient service mesh; this is its tool for the terminal",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newVersion(version), newToken(), newApp(), newDemo(argv))
	return root
}
