package relay

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Bytes pass both ways through a pair of tunnels, and the end of one direction leaves the other open. What is redirected
// and dialled is tested with the benchmark.
func TestTunnelsPassBytesAndEnds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "relay.pem")
	if err := WriteCredential(file); err != nil {
		t.Fatal(err)
	}
	s, err := loadSecret(file)
	if err != nil {
		t.Fatal(err)
	}
	client, clientEnd := pair(t)
	server, serverEnd := pair(t)
	near, far := pair(t)
	joined := make(chan error, 2)
	go func() { joined <- joinBy(s.client, near, clientEnd) }()
	go func() { joined <- joinBy(s.server, far, serverEnd) }()

	request := []byte(strings.Repeat("request ", 1<<17))
	go func() {
		client.Write(request)
		client.CloseWrite()
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, request) {
		t.Fatalf("%d bytes arrived of %d: %v", len(got), len(request), err)
	}
	if _, err := server.Write([]byte("response")); err != nil {
		t.Fatal(err)
	}
	server.CloseWrite()
	if got, err := io.ReadAll(client); err != nil || string(got) != "response" {
		t.Errorf("%q came back: %v", got, err)
	}
	for range 2 {
		if err := <-joined; err != nil {
			t.Error(err)
		}
	}
}

func joinBy(secure func(*net.TCPConn) (*tunnel, error), wire, app *net.TCPConn) error {
	tunnel, err := secure(wire)
	if err != nil {
		return err
	}
	return tunnel.join(app)
}

// A relay without the key is nobody's.
func TestOnlyTheOtherRelayIsTrusted(t *testing.T) {
	dir := t.TempDir()
	var secrets []*secret
	for _, name := range []string{"ours", "theirs"} {
		if err := WriteCredential(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		s, err := loadSecret(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, s)
	}
	near, far := pair(t)
	done := make(chan error, 1)
	go func() {
		_, err := secrets[0].server(far)
		done <- err
	}()
	if _, err := secrets[1].client(near); err == nil {
		t.Error("a stranger was trusted")
	}
	near.Close()
	if err := <-done; err == nil {
		t.Error("a stranger was let in")
	}
}

// pair is the two ends of a connection on loopback.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{dialled, accepted} {
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}
