package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The one setting of the machine that nodes need another value of: how many watches of files a user may have.
const (
	watches = "/proc/sys/fs/inotify/max_user_instances"
	enough  = 4096
)

// roomForWatches raises the limit, and notes what it was. The caller holds no lock: two that raise it at once note the same value.
func roomForWatches() error {
	value, err := os.ReadFile(watches)
	if err != nil {
		return err
	}
	if number, err := strconv.Atoi(strings.TrimSpace(string(value))); err == nil && number >= enough {
		return nil
	}
	base, err := cache("clusters")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(base, "watches"), value, 0o644); err != nil {
		return err
	}
	return os.WriteFile(watches, fmt.Append(nil, enough), 0)
}

// leaveWatches gives the machine its value back when no cluster is left.
func leaveWatches() error {
	base, err := cache("clusters")
	if err != nil {
		return err
	}
	if left, err := filepath.Glob(filepath.Join(base, "*", specFile)); err != nil || len(left) > 0 {
		return err
	}
	note := filepath.Join(base, "watches")
	value, err := os.ReadFile(note)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(watches, value, 0), os.Remove(note))
}
