package probe

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount makes sure that a folder is on a bpffs, by mounting one there if it isn't. In a container whose mounts are copies of the
// host's it refuses to: what is pinned there would end with the container, and with it the capture of every pod.
func Mount(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("folder for pinned objects: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if stat.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	copied, err := isCopy(dir)
	if err != nil {
		return fmt.Errorf("mounts at %s: %w", dir, err)
	}
	if copied {
		return fmt.Errorf("the node has no bpffs on %[1]s, and one mounted in this container would end with it: mount one on the node (mount -t bpf bpf %[1]s, or a line in its /etc/fstab) and start the agent again", dir)
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount a bpffs on %s (needs CAP_SYS_ADMIN): %w", dir, err)
	}
	return nil
}

// isCopy tells that what is mounted where dir is doesn't reach the mounts that it was copied from: it follows a master, and has no
// peers that would get it too (mount_namespaces(7), "Shared subtrees").
func isCopy(dir string) (bool, error) {
	var at unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &at); err != nil {
		return false, err
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(mounts)) {
		// ID, parent, device, root, mount point, options, then optional fields until "-" (proc_pid_mountinfo(5)).
		fields := strings.Fields(line)
		if len(fields) < 7 || fields[0] != strconv.FormatUint(at.Mnt_id, 10) {
			continue
		}
		optional := fields[6:]
		if end := slices.Index(optional, "-"); end >= 0 {
			optional = optional[:end]
		}
		begins := func(prefix string) bool {
			return slices.ContainsFunc(optional, func(f string) bool { return strings.HasPrefix(f, prefix) })
		}
		return begins("master:") && !begins("shared:"), nil
	}
	return false, fmt.Errorf("mount %d isn't listed", at.Mnt_id)
}
