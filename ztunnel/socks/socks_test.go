package socks_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/socks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open starts a server on a free port; connections that it hands on say where they want to, and are closed.
func open(t *testing.T, resolve func(context.Context, string) ([]netip.Addr, error)) netip.AddrPort {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	s, err := socks.Open(socks.Config{
		Listener: socket.ListenConfig{Addr: addr}, Resolve: resolve, Log: slog.New(slog.DiscardHandler),
		Handle: func(conn *net.TCPConn, to netip.AddrPort) {
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Error(err)
			}
			first := make([]byte, 5)
			_, err := io.ReadFull(conn, first)
			if err == nil {
				_, err = conn.Write([]byte(to.String() + " " + string(first)))
			}
			if err != nil {
				t.Error(err)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); s.Wait() })
	return addr
}

func dial(t *testing.T, addr netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func names(_ context.Context, host string) ([]netip.Addr, error) {
	switch host {
	case "web.demo":
		return []netip.Addr{netip.MustParseAddr("10.96.0.1")}, nil
	case "empty.demo":
		return nil, nil
	}
	return nil, errors.New("no such host")
}

func TestConversations(t *testing.T) {
	addr := open(t, names)
	const granted = "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
	for name, test := range map[string]struct{ sent, want string }{
		"address":                        {"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50hello", granted + "10.0.0.1:80 hello"},
		"name":                           {"\x05\x01\x00\x05\x01\x00\x03\x08web.demo\x00\x50hello", granted + "10.96.0.1:80 hello"},
		"name that nobody knows":         {"\x05\x01\x00\x05\x01\x00\x03\x04none\x00\x50", "\x05\x00\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"},
		"name without address":           {"\x05\x01\x00\x05\x01\x00\x03\x0aempty.demo\x00\x50", "\x05\x00\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"},
		"BIND":                           {"\x05\x01\x00\x05\x02\x00\x01\x0a\x00\x00\x01\x00\x50", "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"},
		"client that wants authenticate": {"\x05\x01\x02", "\x05\xff"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, addr)
			if _, err := conn.Write([]byte(test.sent)); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil || string(got) != test.want {
				t.Errorf("answer %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

func TestClientThatSaysNothingIsLetGo(t *testing.T) {
	t.Parallel() // it waits for seconds
	conn := dial(t, open(t, names))
	if _, err := conn.Write([]byte{5}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := io.ReadAll(conn); errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 15*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

func TestCloseEndsNegotiations(t *testing.T) {
	asked := make(chan struct{})
	resolve := func(ctx context.Context, _ string) ([]netip.Addr, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	// The server is closed by the test's end, which waits.
	conn := dial(t, open(t, resolve))
	if _, err := conn.Write([]byte("\x05\x01\x00\x05\x01\x00\x03\x08web.demo\x00\x50")); err != nil {
		t.Fatal(err)
	}
	<-asked
}

func TestManySilentClientsLeaveRoomAfterwards(t *testing.T) {
	addr := open(t, names)
	var silent []net.Conn
	for range 300 {
		silent = append(silent, dial(t, addr))
	}
	for _, conn := range silent {
		conn.Close()
	}
	conn := dial(t, addr)
	if _, err := conn.Write([]byte("\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50hello")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || len(got) != 12+len("10.0.0.1:80 hello") {
		t.Errorf("answer %q, %v", got, err)
	}
}
