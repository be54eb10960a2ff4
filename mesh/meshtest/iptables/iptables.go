// Package iptables gets the programs of iptables, and nft, for tests.
package iptables

import (
	"os"
	"os/exec"
	"testing"
)

// install does nothing where they are; tests of several packages may ask at once.
const install = `command -v nft && command -v iptables-nft-restore && command -v iptables-legacy-restore || { apt-get update && apt-get install -y --no-install-recommends iptables nftables; }`

// Need installs them, as root, on a machine with apt.
func Need(t testing.TB) {
	t.Helper()
	if out, err := exec.Command("flock", "--timeout", "300", os.TempDir(), "sh", "-c", install).CombinedOutput(); err != nil {
		t.Fatalf("this needs nft, and iptables in both variants: apt-get install -y iptables nftables: %v\n%s", err, out)
	}
}
