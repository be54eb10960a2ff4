package command

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion(version string) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print what was built, from which commit, with which Go",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version == "" {
				info, _ := debug.ReadBuildInfo()
				version = revision(info)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "tulle %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// revision is the commit that the program was built from, or else its module's version.
func revision(info *debug.BuildInfo) string {
	if info == nil {
		return "unknown"
	}
	commit, dirty := "", ""
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			commit = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			dirty = "+changes"
		}
	}
	switch {
	case commit != "":
		return commit[:min(12, len(commit))] + dirty
	case info.Main.Version != "":
		return info.Main.Version
	}
	return "unknown"
}
