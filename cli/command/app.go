package command

import (
	"fmt"
	"log/slog"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/cli/shop"
)

// newApp holds the parts of the sample application, so that the demo needs no other program.
func newApp() *cobra.Command {
	cmd := &cobra.Command{Use: "app", Short: "Run a part of the sample web application", Hidden: true, Args: cobra.NoArgs}
	cmd.AddCommand(newFrontend(), newBackend())
	return cmd
}

func newFrontend() *cobra.Command {
	var listen, backend string
	cmd := &cobra.Command{
		Use:   "frontend --backend URL",
		Short: "Show what the backend says as a web page",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, err := url.Parse(backend)
			if err != nil || to.Host == "" {
				return fmt.Errorf("backend %q: want a URL such as http://backend:8080", backend)
			}
			return shop.Serve(cmd.Context(), listen, shop.Frontend(to), appLog(cmd))
		},
	}
	cmd.Flags().StringVar(&listen, "listen", ":8080", "address to serve on")
	cmd.Flags().StringVar(&backend, "backend", "", "the backend's URL")
	cmd.MarkFlagRequired("backend")
	return cmd
}

func newBackend() *cobra.Command {
	var listen, version string
	cmd := &cobra.Command{
		Use:   "backend --version VERSION",
		Short: "Answer with what is seen of the caller",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			host := os.Getenv("HOSTNAME")
			return shop.Serve(cmd.Context(), listen, shop.Backend(version, host), appLog(cmd))
		},
	}
	cmd.Flags().StringVar(&listen, "listen", ":8080", "address to serve on")
	cmd.Flags().StringVar(&version, "version", "v1", "the version that it says it is")
	return cmd
}

func appLog(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
}
