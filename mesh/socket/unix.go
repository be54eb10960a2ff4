package socket

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// ListenUnix listens on a socket at path that only the process's own user and root can connect to, never anybody else
// for a moment: it is made in a folder of the owner's and then moved to its place. It takes a dead process's place, but
// not one where somebody answers. Network is unix or unixpacket. The socket's file outlives the listener.
func ListenUnix(network, path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of a socket: %w", err)
	}
	if conn, err := net.DialUnix(network, nil, &net.UnixAddr{Name: path, Net: network}); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another process answers there: stop it first", path)
	}
	private, err := os.MkdirTemp(filepath.Dir(path), ".") // short: a socket's path has 107 bytes at most
	if err != nil {
		return nil, fmt.Errorf("make a private folder for a socket: %w", err)
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	listener, err := net.ListenUnix(network, &net.UnixAddr{Name: made, Net: network})
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false) // it would look in the old place
	if err := publish(made, path); err != nil {
		listener.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return listener, nil
}

func publish(made, path string) error {
	if err := os.Chmod(made, 0o600); err != nil {
		return err
	}
	return os.Rename(made, path)
}
