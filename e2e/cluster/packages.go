package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// wanted are the distribution's packages that a node needs beside Kubernetes' own programs. What they need comes with them.
var wanted = []string{"containerd", "runc", "containernetworking-plugins", "iptables", "nftables"}

// chosen are links that a package's scripts would make, which aren't run.
var chosen = map[string]string{
	"iptables": "xtables-nft-multi", "iptables-save": "xtables-nft-multi", "iptables-restore": "xtables-nft-multi",
	"ip6tables": "xtables-nft-multi", "ip6tables-save": "xtables-nft-multi", "ip6tables-restore": "xtables-nft-multi",
}

// merged are the folders that are links into /usr, as they are on every system with these packages.
var merged = []string{"bin", "sbin", "lib", "lib64"}

// packages returns a folder with usr, which holds the wanted packages and all that they need. They are fetched by name and unpacked
// there once; nothing of the system changes.
func packages(ctx context.Context, say func(string)) (string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("which distribution is this? %w", err)
	}
	hash := sha256.Sum256(fmt.Append(nil, string(release), runtime.GOARCH, wanted, chosen, merged))
	dir, err := once(ctx, "packages", hex.EncodeToString(hash[:8]), say, func(fresh string) error {
		say("fetching packages for the nodes, once: " + strings.Join(wanted, ", "))
		return fetch(ctx, fresh)
	})
	if err != nil {
		return "", fmt.Errorf("packages for the nodes: %w", err)
	}
	return dir, nil
}

func fetch(ctx context.Context, dir string) error {
	apt, err := os.MkdirTemp(dir, "apt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(apt)
	// To a system with nothing installed everything is new that a package needs.
	options := []string{
		"-qq", "-o", "Dir::State=" + apt, "-o", "Dir::State::status=" + filepath.Join(apt, "status"), "-o", "Dir::Cache=" + apt,
		"-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1", "-o", "Acquire::Retries=2",
	}
	for _, name := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(apt, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(apt, "status"), nil, 0o644); err != nil {
		return err
	}
	install := append(options, "install", "--yes", "--download-only", "--no-install-recommends")
	for _, args := range [][]string{append(options, "update"), append(install, wanted...)} {
		if err := run(exec.CommandContext(ctx, "apt-get", args...)); err != nil {
			return fmt.Errorf("%w; this needs Debian, or a distribution like it", err)
		}
	}
	files, err := filepath.Glob(filepath.Join(apt, "archives", "*.deb"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("apt-get has fetched nothing: %w", err)
	}
	return unpack(ctx, files, dir)
}

func unpack(ctx context.Context, files []string, dir string) error {
	for _, name := range merged {
		if err := os.MkdirAll(filepath.Join(dir, "usr", name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+name, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	var list strings.Builder
	for _, file := range files {
		fmt.Fprintln(&list, filepath.Base(file))
		if err := run(exec.CommandContext(ctx, "sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2" -f -`, "sh", file, dir)); err != nil {
			return err
		}
	}
	for name, target := range chosen {
		if err := os.Symlink(target, filepath.Join(dir, "usr/sbin", name)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "packages.txt"), []byte(list.String()), 0o644)
}

// run returns an error with what the command had to say.
func run(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out[max(0, len(out)-4000):])
	}
	return nil
}
