package command

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/mesh/token"
)

func newToken() *cobra.Command {
	var key string
	claims := token.Claims{}
	cmd := &cobra.Command{
		Use:   "token --key FILE --node NODE",
		Short: "Make the token by which a node proves itself to istiod-lite where there is no Kubernetes",
		Long: `Print a signed token for a node. istiod-lite accepts it if it was started with --token-key and the public half of
the same key; ztunnel reads it from the file that AUTH_TOKEN names. Make a key first with: tulle token key FILE`,
		Example: `  tulle token key node-key.pem
  tulle token --key node-key.pem --node node1 > node1.token`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			private, err := token.ReadKey(key)
			if err != nil {
				return err
			}
			text, err := token.Sign(private, claims)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&key, "key", "", "file with the private key")
	flags.StringVar(&claims.Node, "node", "", "the node that the token is for")
	flags.StringVar(&claims.Account, "account", "istio-system/ztunnel", "whom the token stands for, as NAMESPACE/NAME")
	flags.DurationVar(&claims.TTL, "ttl", 24*time.Hour, "how long the token is valid")
	cmd.MarkFlagRequired("key")
	cmd.MarkFlagRequired("node")
	cmd.AddCommand(newTokenKey())
	return cmd
}

func newTokenKey() *cobra.Command {
	return &cobra.Command{
		Use:   "key FILE",
		Short: "Make a key pair for tokens: FILE is the secret half, FILE.pub the one for istiod-lite",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			private, public, err := token.NewKey()
			if err != nil {
				return err
			}
			if err := create(args[0], private, 0o600); err != nil {
				return err
			}
			if err := create(args[0]+".pub", public, 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s (keep it secret) and %s.pub (for istiod-lite --token-key)\n", args[0], args[0])
			return err
		},
	}
}

// create writes a file that must not exist: a key that is overwritten locks every node out.
func create(name string, data []byte, mode os.FileMode) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	if _, err := file.Write(data); err != nil {
		file.Close()
		return fmt.Errorf("write the key: %w", err)
	}
	return file.Close()
}
