package socket_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

func TestAUnixSocketIsItsOwnersAtEveryMoment(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	path := filepath.Join(dir, "a.sock")
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if info, err := os.Stat(path); err == nil && info.Mode().Perm() != 0o600 {
				t.Errorf("seen with mode %v", info.Mode())
				return
			}
		}
	})
	for range 50 {
		listener, err := socket.ListenUnix("unixpacket", path)
		if err != nil {
			t.Fatal(err)
		}
		listener.Close() // the next takes the dead one's place
	}
	close(done)
	watcher.Wait()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestAUnixSocketThatAnswersIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	listener, err := socket.ListenUnix("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if _, err := socket.ListenUnix("unix", path); err == nil || !strings.Contains(err.Error(), "another process answers there") {
		t.Errorf("error is %v", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
